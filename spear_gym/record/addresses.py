"""Addresses of databases: told from file names, and shown without what they keep secret."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_plus

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

HIDDEN = "***"

# A scheme with its colon before any slash, of two letters at least: C:\ledger.log is a file.
_SCHEME = re.compile(r"""[\s"'<(\[]*([A-Za-z][A-Za-z0-9+.-]+):""")
_SIGNS = re.compile(
    r"://|//.*@|^[^/]*:[^@]*@"  # a scheme somewhere, a user, a user with a password
    r"|^(postgres|sqlite|mysql|mariadb|oracle|mssql)\w*(\+\w+)?//"
    r"|(?:^|[?&;\s])\w*(password|passwd|pwd)\s*="  # an option, or libpq's key=value form
    r"|^\s*(host|hostaddr|port|dbname|user|service)\s*=",
    re.IGNORECASE,
)
_FORMS = "sqlite:///FILE, postgresql://USER:PASSWORD@HOST/NAME or the path of a journal file"


class LedgerError(ValueError):
    """A ledger cannot be read or written, or belongs to something else."""


def is_address(where: Path | str) -> bool:
    """Whether this names a database, well or badly, and no file.

    What has a scheme, or a user and password, is never a file name; write ``./name:1.log`` for a
    file of such a name.
    """
    if isinstance(where, Path):
        return False
    return _SCHEME.match(where) is not None or _SIGNS.search(where) is not None


def parse(address: str) -> URL:
    """An address in its parts; ``postgresql`` means psycopg.

    Raises:
        LedgerError: when it is malformed; the message holds no part of it that may be secret.
    """
    url = _url(address)
    if url is None:
        raise LedgerError(
            f"'{shown(address)}' is no address of a database; give {_FORMS} (in a password, write "
            "@ as %40, : as %3A and / as %2F)"
        )
    return url.set(drivername="postgresql+psycopg") if url.drivername == "postgresql" else url


def shown(where: Path | str) -> str:
    """A storage's name without a password: user, host and name stay, values of options do not."""
    if not is_address(where):
        return _printable(str(where))
    url = _url(str(where))
    if url is None:
        found = _SCHEME.match(str(where))
        known = found is not None and re.fullmatch(
            r"(postgres(ql)?|sqlite|mysql|mariadb|oracle|mssql|file|https?)(\+\w+)?", found[1]
        )
        return f"{found[1]}:..." if known and found is not None else "..."
    options = dict.fromkeys(url.query, HIDDEN)
    text = url.set(query={}).render_as_string(hide_password=True)
    if options:
        text += "?" + "&".join(f"{name}={value}" for name, value in options.items())
    return _printable(text)


def hidden(text: str, where: Path | str) -> str:
    """A message, perhaps a driver's, without the secrets of an address."""
    if not is_address(where):
        return text
    for secret in sorted(_secrets(str(where)), key=len, reverse=True):
        # A short one may be a part of many words.
        pattern = re.escape(secret) if len(secret) > 3 else rf"(?<!\w){re.escape(secret)}(?!\w)"
        text = re.sub(pattern, HIDDEN, text)
    return text


def _url(address: str) -> URL | None:
    """SQLAlchemy's reading of an address, ``None`` when it is doubtful."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        return None
    # A password with an unquoted @ leaves its rest in the host, one with a ? also behind it.
    # SQLite's database is a file, which may hold any character, but hardly a user's name.
    is_file, name = url.drivername.startswith("sqlite"), url.database or ""
    rest = f"{url.host or ''}{'' if is_file and not _SIGNS.match(name) else name}"
    doubtful = "@" in rest or re.search(r"\?[^=]*@", address) or not address.isprintable()
    port = url.port is None or 0 < url.port < 2**16
    return None if doubtful or not port else url


def _secrets(address: str) -> set[str]:
    """Whatever in an address may be secret, as it stands there, decoded and printed."""
    found: set[str] = set()
    head, _, query = address.partition("?")
    for part in (address, head):
        before, at, _ = part.rpartition("@")
        if at:
            user = re.sub(r"^[^/]*?:/*|^/*", "", before, count=1)
            found.add(user.partition(":")[2] or user)
    found.update(pair.partition("=")[2] for pair in re.split("[&;]", query))
    url = _url(address)
    if url is not None:
        found.add(str(url.password or ""))
        for value in url.query.values():
            found.update([value] if isinstance(value, str) else value)
    found |= {decode(secret) for secret in found for decode in (unquote, unquote_plus)}
    return (found | {repr(secret)[1:-1] for secret in found}) - {""}


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
