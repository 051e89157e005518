"""What is broken here are processes that Linux lets us break at any call."""

from __future__ import annotations

import sys

if sys.platform != "linux":
    collect_ignore_glob = ["test_*.py"]
