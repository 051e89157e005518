"""What SQLite's errors mean."""

from __future__ import annotations

import sqlite3

from twinfold.errors import DestinationError

DISK_ERRORS = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
"""They tell nothing about what the index holds."""


def unreadable(error: BaseException) -> DestinationError:
    """Return the error that says that reading failed."""
    return DestinationError(
        f"the server's index cannot be read ({error}); start the server again: it is made anew"
        " from the files if it is damaged"
    )


def code_of(error: Exception) -> int:
    """Return SQLite's extended code for an error, 0 if it has none."""
    return int(getattr(getattr(error, "orig", error), "sqlite_errorcode", 0))
