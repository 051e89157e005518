"""Telling file systems apart beyond the numbers that they get at each mount."""

from __future__ import annotations

import os
import sys


def file_system_id(path: bytes) -> int:
    """Return the id that the file system at ``path`` gives itself, 0 where there is none.

    Most keep it for life; some get another one at every mount.

    Raises:
        OSError: the path cannot be looked at.
    """
    if sys.platform == "win32":
        return 0
    return os.statvfs(path).f_fsid
