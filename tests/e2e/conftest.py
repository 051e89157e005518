"""What the end-to-end tests share; they use POSIX files and signals."""

from __future__ import annotations

import sys

if sys.platform == "win32":
    collect_ignore_glob = ["test_*.py"]
else:
    from tests.e2e.fixtures import live, pair, stage

    __all__ = ["live", "pair", "stage"]
