"""What the server's tests share; a server runs on POSIX systems only."""

from __future__ import annotations

import sys

if sys.platform == "win32":
    collect_ignore_glob = ["test_*.py"]
else:
    from tests.server.fixtures import plain_umask, scratch

    __all__ = ["plain_umask", "scratch"]
