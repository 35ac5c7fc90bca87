"""What is no ledger is left alone, and an address's password appears nowhere."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, quote_plus

import optuna
import pytest
from commands import Spear, assert_one_error
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import URL

from spear_gym.record.addresses import hidden, is_address, parse, shown
from spear_gym.record.journal_rows import recognise
from spear_gym.record.mending import examine, repair
from spear_gym.record.storage import LedgerError, check_storage, open_storage

ROW = b'{"op_code":0,"worker_id":"w-1","study_name":"s","directions":[2]}\n'


def state(folder: Path) -> dict[str, bytes | int]:
    """All below a folder: contents, and kinds of what is no file."""
    found: dict[str, bytes | int] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        found[str(path)] = path.read_bytes() if stat.S_ISREG(mode) else stat.S_IFMT(mode)
    return found


def sqlite(path: Path, *commands: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        for command in commands:
            database.execute(command)
        database.commit()


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(5 * 2**30)


def link_to(content: bytes | None) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        if content is not None:
            path.with_name("real").write_bytes(content)
        path.symlink_to("real")

    return make


def holding(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


FOREIGN: dict[str, tuple[Callable[[Path], None], str]] = {
    "JSON": (holding(b'{"my": 1}'), "is no ledger"),
    "JSON, indented": (holding(json.dumps({"a": [1, 2]}, indent=1).encode()), "is no ledger"),
    "JSON lines": (holding(b'{"loss": 1}\n{"loss": 2}\n'), "is no ledger"),
    "JSON lines without an end": (holding(b'{"loss": 1}\n{"loss": 2}'), "is no ledger"),
    "an empty list": (holding(b"[]\n"), "is no ledger"),
    "one brace": (holding(b"{"), "is no ledger"),
    "the first bytes of a row": (holding(b'{"op_co'), "is no ledger"),
    "notes": (holding(b"dear diary\n"), "is no ledger"),
    "notes without an end": (holding(b"dear diary"), "is no ledger"),
    "a blank line": (holding(b"\n"), "is no ledger"),
    "zero bytes": (holding(bytes(100)), "is no ledger"),
    "random bytes": (holding(os.urandom(4096)), "is no ledger"),
    "UTF-16": (holding("dear diary\n".encode("utf-16")), "is no ledger"),
    "deep JSON": (holding(b"[" * 100_000), "is no ledger"),
    "deep JSON in a row": (holding(b'{"op_code":' + b"[" * 100_000 + b"\n"), "is no ledger"),
    "a huge number": (holding(b'{"op_code":' + b"9" * 10_000 + b"}\n"), "is no ledger"),
    "an unknown operation": (holding(b'{"op_code":99,"worker_id":"w"}\n'), "is no ledger"),
    "a row without its keys": (holding(b'{"op_code":4,"worker_id":"w"}\n'), "is no ledger"),
    "a study without a name": (
        holding(b'{"op_code":0,"worker_id":"w","study_name":3,"directions":[2]}\n'),
        "is no ledger",
    ),
    "a long line": (holding(b"x" * 2**25), "is no ledger"),
    "a gzip file": (holding(b"\x1f\x8b\x08\x00" + bytes(50)), "is no ledger"),
    "a pickle": (holding(b"\x80\x04\x95\x00\x00\x00."), "is no ledger"),
    "an SQLite file": (lambda path: sqlite(path, "CREATE TABLE a (b)"), "give it as sqlite:///"),
    "an SQLite file's head": (holding(b"SQLite format 3\0" + bytes(84)), "give it as sqlite:///"),
    "a damaged journal": (holding(b"\n" + ROW), "line 1 of the ledger"),
    "a journal after notes": (holding(b"notes\n" + ROW), "line 1 of the ledger"),
    "a journal before notes": (holding(ROW + b"dear diary\n"), "line 2 of the ledger"),
    "5 GiB": (sparse, "has 5.0 GiB"),
    "a folder": (lambda path: path.mkdir(), "is no ordinary file"),
    "a pipe": (lambda path: os.mkfifo(path), "is no ordinary file"),
    "a link to a ledger": (link_to(ROW), "is a symbolic link"),
    "a link to notes": (link_to(b"dear diary"), "is a symbolic link"),
    "a link to nothing": (link_to(None), "is a symbolic link"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_file_is_left_alone(tmp_path: Path, name: str) -> None:
    make, said = FOREIGN[name]
    path = tmp_path / "mine"
    make(path)
    if name == "5 GiB":
        before: object = path.stat().st_mtime_ns
    else:
        before = state(tmp_path)
    for use in (
        (open_storage, check_storage, examine, repair)
        if "line" not in said
        else (
            open_storage,
            check_storage,
        )
    ):
        with pytest.raises(LedgerError) as caught:
            use(str(path))
        assert said in str(caught.value)
    assert (path.stat().st_mtime_ns if name == "5 GiB" else state(tmp_path)) == before


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero", "/dev/tty", "/proc/self/mem"])
def test_devices(path: str) -> None:
    with pytest.raises(LedgerError):
        open_storage(path)


@pytest.mark.parametrize("cut", [*range(1, 12), 20, 40, len(ROW) - 1])
def test_own_ledger_killed_in_its_first_row(tmp_path: Path, cut: int) -> None:
    """In a run folder it is known whose it is; elsewhere a few bytes could be anything."""
    path = tmp_path / "ledger.log"
    path.write_bytes(ROW[:cut])
    assert recognise(path, ours=True)
    study = optuna.create_study(storage=open_storage(path), study_name="t", direction="maximize")
    assert [s for s in ("s", "t") if s in optuna.get_all_study_names(study._storage)][-1] == "t"


def optuna_tables(path: Path) -> None:
    open_storage(f"sqlite:///{path}")


DATABASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "another program's": (
        lambda path: sqlite(path, "CREATE TABLE books (title)", "INSERT INTO books VALUES ('a')"),
        "is another program's database (it has a table 'books')",
    ),
    "a view only": (
        lambda path: sqlite(path, "CREATE VIEW one AS SELECT 1 AS number"),
        "is another program's database (it has a table 'one')",
    ),
    "tables of the same names": (
        lambda path: sqlite(path, "CREATE TABLE trials (patient)", "CREATE TABLE studies (year)"),
        "of another program",
    ),
    "with a log of its own": (
        lambda path: sqlite(path, "PRAGMA journal_mode=wal", "CREATE TABLE books (title)"),
        "is another program's database",
    ),
    "notes": (holding(b"dear diary\n" * 10), "is no SQLite database"),
    "a journal": (holding(ROW), "is no SQLite database"),
    "cut off": (holding(b"SQLite format 3\0" + bytes(3000)), "cannot open the ledger"),
    "a folder": (lambda path: path.mkdir(), "is no ordinary file"),
    "a pipe": (lambda path: os.mkfifo(path), "is no ordinary file"),
    "a link": (link_to(None), "is a symbolic link"),
}


@pytest.mark.parametrize("name", DATABASES)
def test_foreign_database_is_left_alone(tmp_path: Path, name: str) -> None:
    make, said = DATABASES[name]
    path = tmp_path / "mine.db"
    make(path)
    before = state(tmp_path)
    for use in (open_storage, examine, repair):
        with pytest.raises(LedgerError) as caught:
            use(f"sqlite:///{path}")
        assert said in str(caught.value)
    assert state(tmp_path) == before


def test_foreign_database_that_is_open(tmp_path: Path) -> None:
    """What it holds is in its log only, which is read and not written back."""
    path = tmp_path / "mine.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=wal")
        database.execute("CREATE TABLE books (title)")
        database.commit()
        before = path.read_bytes()
        with pytest.raises(LedgerError, match="another program's database"):
            open_storage(f"sqlite:///{path}")
        assert path.read_bytes() == before


def test_own_databases(tmp_path: Path) -> None:
    for name, make in {
        "new": lambda path: None,
        "empty": lambda path: path.touch(),
        "empty database": lambda path: sqlite(path, "VACUUM"),
        "Optuna's": optuna_tables,
        "half made": lambda path: (
            optuna_tables(path),
            sqlite(path, "DROP TABLE version_info", "DROP TABLE trial_heartbeats"),
        ),
        "shared": lambda path: (optuna_tables(path), sqlite(path, "CREATE TABLE notes (text)")),
    }.items():
        path = tmp_path / f"{name} ü {{0}}.db"
        make(path)
        storage = open_storage(f"sqlite:///{path}")
        assert storage.get_all_studies() == []
        assert path.exists(), name


@pytest.mark.parametrize("where", ["sqlite://", "sqlite:///", "sqlite:///:memory:"])
def test_ledger_that_is_kept_nowhere(where: str) -> None:
    with pytest.raises(LedgerError, match="is kept nowhere"):
        open_storage(where)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_umask_is_honoured(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        path = tmp_path / "ledger.log"
        open_storage(path)
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask
        path.write_bytes(ROW + b"\n")
        path.chmod(0o640)
        repair(path)
        assert path.stat().st_mode & 0o777 == 0o640
        assert path.read_bytes() == ROW
    finally:
        os.umask(before)


def test_only_looking_makes_nothing(tmp_path: Path, spear: Spear) -> None:
    for where in (tmp_path / "no" / "ledger.log", f"sqlite:///{tmp_path}/none.db"):
        for verb in ("check", "repair", "show"):
            assert_one_error(spear("ledger", verb, where), "there is no ledger")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- addresses

SECRET = "hunter2"
words = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=12).map(
    lambda text: f"{SECRET}{text}"
)
schemes = st.sampled_from(
    (
        *("postgresql", "postgres", "postgresql+psycopg", "POSTGRESQL", "postgresq", "sqlite"),
        *("mysql", "mysql+pymysql", "mariadb", "mssql+pyodbc", "oracle"),
        *("redis", "http", "x-y.z", "file"),
    )
)
written = st.sampled_from([lambda text: text, quote, quote_plus, lambda text: quote(text, safe="")])
joins = st.sampled_from(["://", ":/", ":///", ":", "//", ":// ", "::/"])
ports = st.sampled_from(["", ":5432", ":99999", ":abc", ":-1", ":", ":1" * 30])
hosts = st.sampled_from(["host", "127.0.0.1", "[::1]", "a.b-c.example", "", "ho st", "[::1"])
options = st.sampled_from(["", "?", "?sslmode=require", "?password={}", "?passwd={}&x=1"]).map(str)


@st.composite
def addresses(draw: st.DrawFn) -> str:
    """Addresses with a password in one place or several, right ones and wrong ones."""
    word = draw(written)(draw(words))
    user = draw(st.sampled_from([f"me:{word}@", f":{word}@", f"me:x@{word}@", f"me:{word}:y@"]))
    option = draw(options).format(word)
    if draw(st.booleans()) and "{}" not in option and word in option:
        user = draw(st.sampled_from(["", "me@"]))
    name = draw(st.sampled_from(["/name", "", "/", "/na@me", "/a/b", "/ä"]))
    front = draw(st.sampled_from(["", "", "", " ", '"', "<"]))
    return front + draw(schemes) + draw(joins) + user + draw(hosts) + draw(ports) + name + option


@settings(max_examples=200)
@given(addresses())
@example("postgresql:/user:hunter2@host/x")
@example("postgresql://host/x?password=hunter2")
@example("postgresql://me:x@hunter2@host/x")
@example("postgresql//host/x?password=hunter2")
@example("me:hunter2@host/x")
@example("//me:hunter2@host/x")
@example("host=host user=me password=hunter2")
@example("dbname=x PGPASSWORD = hunter2")
def test_password_is_never_shown(address: str) -> None:
    assert is_address(address)
    assert SECRET not in shown(address)
    assert shown(address).isprintable()
    url, said = parsed(address)
    if url is not None:
        said = f'connection to "{url.host}" failed: {url.password} {dict(url.query)} {address}'
        said = hidden(said, address)
    assert SECRET not in said


def parsed(address: str) -> tuple[URL | None, str]:
    """The address in its parts, or all that an error shows."""
    try:
        return parse(address), ""
    except LedgerError as error:
        return None, f"{error} {error!r} {error.__cause__!r} {error.__context__!r}"


@given(addresses().filter(lambda address: "postgres" not in address.lower()))
def test_password_is_in_no_error(address: str) -> None:
    """Those of servers are tried in the tests that have one."""
    if "sqlite" in address:
        address = address.replace("sqlite", "sqlight")
    with pytest.raises(LedgerError) as caught:
        open_storage(address)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__


@pytest.mark.parametrize(
    "address",
    [
        "postgresql:/me:hunter2@host/x",
        "postgresql://me:hunter2@host:99999/x",
        "postgresql://me:hunter2@host:port/x",
        "postgresql://me:hunter2@@host/x",
        "postgresql//me:hunter2@host/x",
        "postgresql:me:hunter2@host/x",
        "me:hunter2@host/x",
        "http://me:hunter2@host/x",
        "host=host password=hunter2 dbname=x",
        "dbname=x sslpassword='hunter2'",
        "PGPASSWORD=hunter2",
        "nosuch://me:hunter2@host/x?password=hunter2",
    ],
)
def test_malformed_address_on_the_command_line(
    spear: Spear, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ("search", "--workload", "toys:tiny", "--storage", address),
        ("ledger", "check", address),
    ):
        ran = spear(*arguments)
        assert_one_error(ran, "is no address of a database")
        assert "hunter2" not in ran.err + ran.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "ledger.log",
        "a b/ü.log",
        "/tmp/a:b@c.log",
        "./a:b@c",
        "C:\\ledger.log",
        "a@b.log",
        "x=1?.log",
    ],
)
def test_file_names_are_no_addresses(name: str) -> None:
    assert not is_address(name)
    assert shown(name) == name
    assert not is_address(Path("postgresql:/me:hunter2@host"))
