"""Runs a twinfold command, and writes how often it had SQLite do each statement.

    python counted.py COUNTS_JSON COMMAND...

The program is as it is: SQLite itself tells of each statement that it runs, those of an
``executemany`` one by one.
"""

from __future__ import annotations

import atexit
import json
import re
import sqlite3
import sqlite3.dbapi2
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

_connect = sqlite3.connect
_VALUE = re.compile(r"""x?'(?:[^']|'')*'|-?\b\d+(?:\.\d+)?\b""", re.IGNORECASE)
_LONGEST_KIND = 100


class StatementCount:
    """Counts statements by what they say, whatever their values."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def connect(self, *arguments: Any, **options: Any) -> sqlite3.Connection:
        """Connect as `sqlite3.connect` does, and hear of each statement from then on."""
        connection: sqlite3.Connection = _connect(*arguments, **options)
        connection.set_trace_callback(self._note)
        return connection

    def _note(self, statement: str) -> None:
        kind = " ".join(_VALUE.sub("?", statement).split())[:_LONGEST_KIND]
        with self._lock:
            self._counts[kind] += 1

    def write(self) -> None:
        """Write what was counted."""
        self._path.write_text(json.dumps(self._counts), "utf-8")


def main() -> None:
    """Run the command."""
    count = StatementCount(Path(sys.argv.pop(1)))
    sqlite3.connect = sqlite3.dbapi2.connect = count.connect  # type: ignore[assignment]
    atexit.register(count.write)
    from twinfold.cli import run

    sys.exit(run())


if __name__ == "__main__":
    main()
