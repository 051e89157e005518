"""What SQLite's errors mean (https://www.sqlite.org/rescode.html)."""

from __future__ import annotations

import sqlite3

DISK_ERRORS = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
"""They tell nothing about what the database holds."""

_DAMAGE = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
)


def driver_error(error: BaseException) -> BaseException:
    """Return the driver's own error, which SQLAlchemy wraps into one that tells the statement."""
    found: BaseException = getattr(error, "orig", None) or error
    return found


def code_of(error: BaseException) -> int:
    """Return SQLite's extended code for an error, 0 if it has none."""
    return int(getattr(driver_error(error), "sqlite_errorcode", 0))


def tells_of_damage(error: BaseException) -> bool:
    """Tell whether the database is not as it was written: trying again is in vain.

    What SQLite says of a damaged schema may be no text.
    """
    return isinstance(error, UnicodeDecodeError) or code_of(error) & 0xFF in _DAMAGE
