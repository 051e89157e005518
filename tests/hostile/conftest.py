"""Hostile peers are acted out with POSIX files and Unix sockets."""

from __future__ import annotations

import sys

if sys.platform == "win32":
    collect_ignore_glob = ["test_*.py"]
elif sys.platform != "linux":
    collect_ignore = ["test_floods.py", "test_stored.py"]
