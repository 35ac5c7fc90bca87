"""Where ledgers are kept: a journal file, or a database for many machines.

Nothing is changed that is not recognised as a ledger, or as the empty place for one.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spear_gym.boundary.files import check_writable
from spear_gym.boundary.ownership import FileSlot, Lease, OwnedError
from spear_gym.record.addresses import LedgerError, hidden, is_address, parse, shown

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage, JournalStorage, RDBStorage
    from optuna.trial import FrozenTrial
    from sqlalchemy.engine import URL

    from spear_gym.record.journal import Journal

__all__ = [
    "LedgerError",
    "check_storage",
    "is_address",
    "mend_end",
    "open_storage",
    "open_study",
    "own_study",
    "place_of",
    "refused",
    "shown",
]

CONNECT_SECONDS = 10
"""A database server that does not answer within this time is unreachable."""


def open_storage(where: Path | str, *, make: bool = True) -> BaseStorage:
    """Opens a storage of Optuna's.

    Args:
        where: the path of a journal file; or an address such as ``sqlite:///FILE`` or
            ``postgresql://USER:PASSWORD@HOST/NAME`` (the extra ``postgres``).
        make: it is made when it is missing.

    Raises:
        LedgerError: when it cannot be opened, is damaged, or is something else, which is left as
            it is.
    """
    with refused("open", where):
        if is_address(where):
            return _database(str(where), make=make)
        return _journal(Path(where), ours=isinstance(where, Path), make=make)


def check_storage(where: str | None) -> None:
    """Refuses a storage that cannot be opened, before any work; a file is not made yet.

    Raises:
        LedgerError: see :func:`open_storage`.
    """
    if where is None:
        return
    if not is_address(where):
        from spear_gym.record.journal_rows import recognise

        with refused("open", where):
            if not recognise(Path(where)):
                check_writable(Path(where))
                return
    open_storage(where)


def open_study(storage: BaseStorage, name: str) -> Study:
    """A study, made when it is missing; one that is there is only read."""
    import optuna

    if name in optuna.get_all_study_names(storage):
        return optuna.load_study(storage=storage, study_name=name)
    return optuna.create_study(
        storage=storage, study_name=name, direction="maximize", load_if_exists=True
    )


def own_study(storage: BaseStorage, where: Path | str, study: str) -> Lease:
    """Makes this process the one that writes to a study.

    Args:
        storage: where the study is.
        where: its file or address.
        study: the study's name; it must exist in a database.

    Raises:
        OwnedError: when another process writes to it, and who.
    """
    from optuna.storages import RDBStorage

    what = f"the study '{study}' in '{shown(where)}'"
    if isinstance(storage, RDBStorage):
        from spear_gym.record.study_slot import StudySlot

        slot = StudySlot(storage, storage.get_study_id_from_name(study))
        return Lease(slot, f"{storage.url} {study}", what)
    path = Path(where).resolve()
    digest = hashlib.sha256(study.encode()).hexdigest()[:8]
    file = path.with_name(f"{path.name}.{digest}.owner")
    return Lease(FileSlot(file), str(file), what)


def mend_end(storage: BaseStorage) -> None:
    """Cuts off a journal's last row where a killed process did not finish it.

    To be called once the rest was found whole, so that nothing changes in what is refused.

    Raises:
        LedgerError: when the last line is no part of a row.
    """
    journal = _journal_of(storage)
    if journal is not None:
        journal.mend_end()


def _journal_of(storage: BaseStorage) -> Journal | None:
    from optuna.storages import JournalStorage

    from spear_gym.record.journal import Journal

    backend = storage._backend if isinstance(storage, JournalStorage) else None
    return backend if isinstance(backend, Journal) else None


def place_of(storage: BaseStorage, trial: FrozenTrial) -> str:
    """Where a row stands: the line of a journal, the number in a study of a database."""
    journal = _journal_of(storage)
    if journal is None:
        return f"row {trial.number}"
    return f"line {journal.follower.trials[trial._trial_id]}"


@contextmanager
def refused(verb: str, where: Path | str) -> Iterator[None]:
    """Turns whatever a storage raises into one clear error, without a password."""
    try:
        yield
    except (LedgerError, OwnedError):
        raise
    except Exception as error:
        root: BaseException = error
        while root.__cause__ is not None:  # Optuna's and SQLAlchemy's wrappings hide the cause
            root = root.__cause__
        cause = hidden((str(root) or type(root).__name__).splitlines()[0], where)
        raise LedgerError(f"cannot {verb} the ledger '{shown(where)}': {cause}") from error


def _journal(path: Path, *, ours: bool, make: bool) -> JournalStorage:
    from optuna.storages import JournalStorage

    from spear_gym.record.journal import Journal
    from spear_gym.record.journal_rows import damaged, recognise

    if not recognise(path, ours=ours) and not make:
        raise LedgerError(f"there is no ledger '{path}'")
    if make:
        path.parent.mkdir(parents=True, exist_ok=True)
    journal = Journal(path.resolve(), ours=ours, read_only=not make)
    try:
        return JournalStorage(journal)
    except (LedgerError, OSError):
        raise
    except Exception as error:  # Optuna's, about a row that it cannot apply
        problem = f"cannot be applied ({type(error).__name__}: {error})"
        raise damaged(path, journal.line, problem) from error


# ---------------------------------------------------------------- databases


def _database(address: str, *, make: bool) -> RDBStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import NoSuchModuleError

    url = parse(address)
    try:
        backend = url.get_backend_name()
        url.get_dialect()
    except NoSuchModuleError:
        raise LedgerError(
            f"'{shown(address)}' is no address of a database; give sqlite:///FILE, "
            "postgresql://USER:PASSWORD@HOST/NAME or the path of a journal file"
        ) from None
    options: dict[str, Any] = {}
    if backend == "postgresql":
        options = {"connect_args": {"connect_timeout": CONNECT_SECONDS}}
    try:
        tables = _sqlite_tables(url) if backend == "sqlite" else _server_tables(url, options)
        _check_tables(tables, shown(address), alone=backend == "sqlite")
        if not make and "studies" not in tables:
            raise LedgerError(f"there is no ledger in '{shown(address)}'")
        # Optuna fills in a template.
        text = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
        return _made_at_once(lambda: RDBStorage(text, engine_kwargs=options))
    except ImportError as error:
        raise LedgerError(
            f"{backend} needs a driver that is not installed ({error}); for PostgreSQL: "
            "pip install 'spear-gym[postgres]'"
        ) from error


def _made_at_once(make: Callable[[], RDBStorage]) -> RDBStorage:
    """Makes a database's tables, which Optuna does not do safely when two processes come first."""
    from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

    for pause in (0.1, 0.2, 0.4, 0.8):
        try:
            return make()
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            if not isinstance(error, IntegrityError) and "already exists" not in str(error):
                raise
            time.sleep(pause)
    return make()


def _sqlite_tables(url: URL) -> dict[str, set[str]]:
    """The columns of the tables and views of an SQLite file, of which not a byte changes.

    Raises:
        LedgerError: when it is another file, or none.
    """
    from spear_gym.record.journal_rows import check_kind

    if url.database in (None, "", ":memory:"):
        raise LedgerError(f"'{shown(str(url))}' is kept nowhere; give sqlite:///FILE")
    path = Path(str(url.database).removeprefix("file:"))
    try:
        found = path.lstat()
    except FileNotFoundError:
        return {}
    check_kind(path, found)
    if found.st_size == 0:
        return {}
    with path.open("rb") as file:
        head = file.read(20)
    if not head.startswith(b"SQLite format 3\0"):
        raise LedgerError(
            f"'{path}' is no SQLite database, so it is left alone; a journal is given by its path "
            "alone"
        )
    keeps_log = head[18:] == b"\2\2"
    if keeps_log and not path.with_name(path.name + "-wal").exists():
        return _columns(path, "ro&immutable=1")  # nobody has it open, and SQLite would make files
    try:
        return _columns(path, "ro")
    except sqlite3.OperationalError:  # its writer was killed, and reading does not mend it
        return _columns(path, "ro&immutable=1")


def _columns(path: Path, mode: str) -> dict[str, set[str]]:
    query = (
        "SELECT m.name, t.name FROM sqlite_master m, pragma_table_info(m.name) t "
        "WHERE m.type IN ('table', 'view') AND m.name NOT LIKE 'sqlite_%'"
    )
    tables: dict[str, set[str]] = {}
    address = f"{path.absolute().as_uri()}?mode={mode}"
    with closing(sqlite3.connect(address, uri=True)) as database:
        for table, column in database.execute(query):
            tables.setdefault(table, set()).add(column)
    return tables


def _server_tables(url: URL, options: dict[str, Any]) -> dict[str, set[str]]:
    """The columns of those tables on a server that have the names of Optuna's."""
    from sqlalchemy import create_engine, inspect

    engine = create_engine(url, **options)
    try:
        inspector = inspect(engine)
        return {
            table: {column["name"] for column in inspector.get_columns(table)}
            for table in set(inspector.get_table_names()) & set(_optuna_tables())
        }
    finally:
        engine.dispose()


def _check_tables(tables: dict[str, set[str]], name: str, *, alone: bool) -> None:
    """Refuses tables that are not Optuna's, where Optuna would write.

    Args:
        tables: columns by table.
        name: of the database.
        alone: whether other programs' tables beside them are refused, unless a ledger is there.

    Raises:
        LedgerError: see above.
    """
    wanted = _optuna_tables()
    for table in tables.keys() & wanted.keys():
        if not wanted[table] <= tables[table]:
            raise LedgerError(
                f"'{name}' holds a table '{table}' of another program, so it is left alone; choose "
                "another database"
            )
    others = sorted(tables.keys() - wanted.keys() - {"alembic_version"})
    if alone and others and not {"studies", "trials", "version_info"} <= tables.keys():
        raise LedgerError(
            f"'{name}' is another program's database (it has a table '{others[0]}'), so it is left "
            "alone; choose another file"
        )


def _optuna_tables() -> dict[str, set[str]]:
    """Optuna's tables, and of each the columns that it always had: its keys."""
    from optuna.storages._rdb.models import BaseModel

    return {
        name: {column.name for column in table.primary_key}
        for name, table in BaseModel.metadata.tables.items()
    }
