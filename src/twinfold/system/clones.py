"""Two files sharing blocks: what each system offers."""

from __future__ import annotations

import errno
import os
import struct
import sys

if sys.platform == "linux":
    import fcntl

    _FICLONERANGE = 0x4020940D
    """From ioctl_ficlonerange(2) and linux/fs.h; where its number is another, nothing is shared."""

    def clone_range(
        source_fd: int, source_offset: int, fd: int, offset: int, size_bytes: int
    ) -> None:
        """Have a part of a file share the blocks of another one's, in place of its own bytes.

        All numbers are of bytes, and multiples of the file system's block size.

        Raises:
            OSError: these files cannot share blocks, or not these.
        """
        words = struct.pack("=qQQQ", source_fd, source_offset, size_bytes, offset)
        fcntl.ioctl(fd, _FICLONERANGE, words)

else:

    def clone_range(
        source_fd: int, source_offset: int, fd: int, offset: int, size_bytes: int
    ) -> None:
        """Tell that this system cannot do that for parts of files.

        Raises:
            OSError: always.
        """
        del source_fd, source_offset, fd, offset, size_bytes
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
