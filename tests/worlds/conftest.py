"""What the tests of unusual file systems share; they use POSIX files and signals."""

from __future__ import annotations

import sys

if sys.platform == "win32":
    collect_ignore_glob = ["test_*.py"]
else:
    from tests.e2e.fixtures import live, pair, stage
    from tests.server.fixtures import plain_umask, scratch
    from tests.worlds.fixtures import decomposing, folding

    __all__ = ["decomposing", "folding", "live", "pair", "plain_umask", "scratch", "stage"]
