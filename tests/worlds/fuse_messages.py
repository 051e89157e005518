"""Messages of the kernel's FUSE protocol (7.31, `linux/fuse.h`), as far as the tests speak it."""

from __future__ import annotations

import struct

IN_HEADER = struct.Struct("<IIQQIIII")
OUT_HEADER = struct.Struct("<IiQ")
INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
ATTRIBUTES = struct.Struct("<QQQqqqIIIIIIIIII")
ENTRY_HEAD = struct.Struct("<QQQQII")
SET_ATTRIBUTES = struct.Struct("<IIQQQqqqIIIIIIII")
OPEN_OUT = struct.Struct("<QII")
TRANSFER = struct.Struct("<QQIIQII")
STATFS_OUT = struct.Struct("<QQQQQIIII24x")
DIRECTORY_ENTRY = struct.Struct("<QQII")

SET_MODE, SET_UID, SET_GID, SET_SIZE = 1, 2, 4, 8
SET_ATIME, SET_MTIME, ATIME_NOW, MTIME_NOW = 16, 32, 128, 256
NOREPLACE = 1
