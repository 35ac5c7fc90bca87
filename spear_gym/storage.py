"""Where ledgers are kept: a journal file, or a database for many machines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.storages import BaseStorage, JournalStorage

LOCK_SECONDS = 5
"""A journal's lock of this age was left behind; writing a row takes milliseconds."""

CONNECT_SECONDS = 10
"""A database server that does not answer within this time is unreachable."""


class LedgerError(ValueError):
    """A ledger cannot be read or written, or belongs to something else."""


def open_storage(where: Path | str) -> BaseStorage:
    """Opens a storage of Optuna's, and makes it when it is missing.

    Args:
        where: the path of a journal file; or an address such as ``sqlite:///FILE`` or
            ``postgresql://USER:PASSWORD@HOST/NAME`` (the extra ``postgres``).

    Raises:
        LedgerError: when it cannot be opened, or is something else.
    """
    with refused("open", where):
        return _database(str(where)) if is_address(where) else _journal(Path(where))


def check_storage(where: str | None) -> None:
    """Refuses a storage that cannot be opened, before any work.

    Raises:
        LedgerError: see :func:`open_storage`.
    """
    if where is not None:
        open_storage(where)


def is_address(where: Path | str) -> bool:
    """Whether this names a database and no file."""
    return "://" in str(where) and not isinstance(where, Path)


def shown(where: Path | str) -> str:
    """A storage's name without a password."""
    if not is_address(where):
        return str(where)
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(str(where)).render_as_string(hide_password=True)
    except ArgumentError:
        return str(where).partition("://")[0] + "://..."


@contextmanager
def refused(verb: str, where: Path | str) -> Iterator[None]:
    """Turns whatever a storage raises into one clear error."""
    try:
        yield
    except LedgerError:
        raise
    except Exception as error:
        root: BaseException = error
        while root.__cause__ is not None:  # Optuna's and SQLAlchemy's wrappings hide the cause
            root = root.__cause__
        cause = (str(root) or type(root).__name__).splitlines()[0]
        raise LedgerError(f"cannot {verb} the ledger '{shown(where)}': {cause}") from error


def _journal(path: Path) -> JournalStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    path.parent.mkdir(parents=True, exist_ok=True)
    # The lock is a link to the file. With a relative path it would dangle, and one left behind by
    # a killed process would never be seen to be old.
    absolute = path.resolve()
    backend = JournalFileBackend(
        str(absolute),
        lock_obj=JournalFileSymlinkLock(str(absolute), grace_period=LOCK_SECONDS),
    )
    _drop_unfinished_line(absolute, backend)
    return JournalStorage(backend)


def _drop_unfinished_line(path: Path, backend: Any) -> None:
    """Cuts off a row that a killed process did not finish; the next one would run into it."""
    from optuna.storages.journal._file import get_lock_file

    if path.read_bytes()[-1:] in (b"", b"\n"):
        return
    # Another process may be writing the line just now.
    with get_lock_file(backend._lock):
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with path.open("r+b") as file:
                file.truncate(whole)


def _database(address: str) -> BaseStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        url = make_url(address)
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        backend = url.get_backend_name()
        url.get_dialect()
    except (ArgumentError, NoSuchModuleError) as error:
        raise LedgerError(
            f"'{shown(address)}' is no address of a database; give sqlite:///FILE, "
            "postgresql://USER:PASSWORD@HOST/NAME or the path of a journal file"
        ) from error
    options: dict[str, Any] = {}
    if backend == "postgresql":
        options = {"connect_args": {"connect_timeout": CONNECT_SECONDS}}
    try:
        return RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=options)
    except ImportError as error:
        raise LedgerError(
            f"{backend} needs a driver that is not installed ({error}); for PostgreSQL: "
            "pip install 'spear-gym[postgres]'"
        ) from error
