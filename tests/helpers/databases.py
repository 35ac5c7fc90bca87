"""A PostgreSQL server of the tests' own, where its programs and a driver are installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PASSWORD = "s3cret-word"


def missing() -> str:
    """What a server lacks here; empty when nothing does."""
    if importlib.util.find_spec("psycopg") is None:
        return "psycopg is not installed"
    if _program("initdb") is None:
        return "PostgreSQL is not installed"
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        return "PostgreSQL does not run as root, and there is no runuser"
    return ""


def _program(name: str) -> Path | None:
    found = shutil.which(name)
    places = [Path(found)] if found else sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return places[-1] if places else None


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Runs a server and gives its address, with a password, without the name of a database."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data, word, log = folder / "data", folder / "word", folder / "log"
    word.write_text(PASSWORD)
    as_user: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        as_user = ["runuser", "-u", "postgres", "--"]
        for parent in (folder, *folder.parents[:-2]):
            parent.chmod(parent.stat().st_mode | 0o711)
        for path in (folder, word):
            shutil.chown(path, "postgres")

    def run(name: str, *arguments: object) -> None:
        command = [*as_user, str(_program(name)), *map(str, arguments)]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, timeout=60)

    auth = ("-A", "scram-sha-256", "-U", "spear", f"--pwfile={word}")
    run("initdb", "-D", data, *auth, "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {folder}"
    run("pg_ctl", "-D", data, "-l", log, "-w", "-o", options, "start")
    try:
        yield f"postgresql://spear:{PASSWORD}@127.0.0.1:{port}/"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")
