"""A simulated disk as the kernel asks for it, by the FUSE protocol (version 7.31)."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import errno
import stat
import struct
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from mmap import mmap
from typing import NamedTuple

from tests.simulation.disk import Attributes, Disk, Node, failure
from tests.worlds.fuse_messages import (
    ATIME_NOW,
    ATTRIBUTES,
    DIRECTORY_ENTRY,
    ENTRY_HEAD,
    IN_HEADER,
    INIT_OUT,
    MTIME_NOW,
    NOREPLACE,
    OPEN_OUT,
    OUT_HEADER,
    SET_ATIME,
    SET_ATTRIBUTES,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_SIZE,
    SET_UID,
    STATFS_OUT,
    TRANSFER,
)

_MAX_WRITE_BYTES = 1 << 20
_KNOWN_FOR_S = 100_000
_TOTAL_BLOCKS, _FREE_BLOCKS = 1 << 14, 3 << 12


_KEEP_SIZE = 1
_MAX_PAGES = 1 << 22
_NO_ANSWER = {2, 36, 42}

CALLS = {4: "setattr", 6: "symlink", 8: "mknod", 9: "mkdir", 10: "unlink", 11: "rmdir"}
CALLS |= {12: "rename", 13: "link", 16: "write", 20: "fsync", 30: "fsyncdir", 35: "create"}
CALLS |= {43: "fallocate", 45: "rename", 50: "syncfs"}
"""What changes a disk or makes it durable."""

_READ = 15
_SYNCS = {"fsync", "fsyncdir", "syncfs"}
GROUPS = {
    "any": set(CALLS.values()),
    "syncs": _SYNCS,
    "names": {"create", "mkdir", "symlink", "link", "rename", "unlink", "rmdir"},
    "content": {"write", "setattr", "fallocate"},
    "reads": {"read"},
}
"""Which calls may be told to fail together."""

_GROWING = {6, 8, 9, 13, 16, 35, 43}

DISKS = ("source", "server", "client")
SHARED_BYTES = 4096
_DOOM_AT, _LOOK_AT, _COUNT_AT = 64, 96, 128


class Request(NamedTuple):
    """What is asked of a node, by whom, and the operation's own bytes."""

    node: int
    owner: tuple[int, int]
    body: bytes

    def names(self, offset: int, count: int = 1) -> list[bytes]:
        return self.body[offset:].split(b"\0")[:count]


class Signals:
    """Memory that both processes see: the time, who is doomed, how much was changed."""

    def __init__(self) -> None:
        self.memory = mmap(-1, SHARED_BYTES)

    def now_ns(self) -> int:
        return int.from_bytes(self.memory[:8], "little")

    def is_doomed(self, disk: str) -> bool:
        return bool(self.memory[_DOOM_AT + DISKS.index(disk)])

    def doom(self, disk: str, value: bool) -> None:
        self.memory[_DOOM_AT + DISKS.index(disk)] = value

    def look(self, value: bool) -> None:
        """Somebody looks at the disks from outside of the world: for that nothing fails."""
        self.memory[_LOOK_AT] = value

    def is_looked_at(self) -> bool:
        return bool(self.memory[_LOOK_AT])

    def changes(self, disk: str) -> int:
        at = _COUNT_AT + 8 * DISKS.index(disk)
        return int.from_bytes(self.memory[at : at + 8], "little")

    def count_change(self, disk: str) -> None:
        at = _COUNT_AT + 8 * DISKS.index(disk)
        self.memory[at : at + 8] = (self.changes(disk) + 1).to_bytes(8, "little")


class FileSystem:
    """Answers what the kernel asks of one disk, and fails where it was told to.

    Attributes:
        counts: calls, and errors that were given, by call.
        digest: of all calls.
        is_full: nothing grows any more.
        dies_after: after so many calls the process that uses it is doomed; none if negative.
    """

    def __init__(self, name: str, disk: Disk, signals: Signals) -> None:
        self.name = name
        self.disk = disk
        self.counts: Counter[str] = Counter()
        self.digest = blake2b(digest_size=16)
        self.is_full = False
        self._error = self._fails_after = self._fails_for = 0
        self._failing = GROUPS["any"]
        self.dies_after = -1
        self._signals = signals
        self._operations: dict[int, Callable[[Request], bytes]] = {
            1: lambda r: self._entry(disk.child(r.node, r.names(0)[0])),
            3: lambda r: self._attributes(disk.node(r.node)),
            4: self._set_attributes,
            5: lambda r: bytes(disk.node(r.node).data),
            6: self._symlink,
            8: lambda r: self._make(r, *struct.unpack_from("<I4xI", r.body), at=16),
            9: self._make_directory,
            10: lambda r: self._remove(r, is_directory=False),
            11: lambda r: self._remove(r, is_directory=True),
            12: lambda r: self._rename(r, 8, 0),
            13: self._link,
            15: self._read,
            16: self._write,
            17: self._room,
            20: self._sync,
            26: lambda _: INIT_OUT.pack(
                7, 31, 1 << 20, _MAX_PAGES, 16, 12, _MAX_WRITE_BYTES, 1, 256, 0, 0
            ),
            28: self._list,
            30: self._sync,
            35: self._create,
            43: self._allocate,
            45: lambda r: self._rename(r, 16, struct.unpack_from("<I", r.body, 8)[0]),
            50: self._sync_all,
        }

    def fail(self, group: str, error: int, after: int, lasts: int) -> None:
        """Have so many calls of a group fail, after so many that do not."""
        self._failing = GROUPS[group]
        self._error, self._fails_after, self._fails_for = error, after, lasts

    def exchange(self, data: bytes) -> bytes:
        """Return the answer to what the kernel sent; empty if it expects none."""
        _, operation, unique, node, uid, gid, _, _ = IN_HEADER.unpack_from(data)
        if operation in _NO_ANSWER:
            return b""
        code, answer = 0, b""
        try:
            answer = self.answer(operation, Request(node, (uid, gid), data[IN_HEADER.size :]))
        except OSError as error:
            code = -(error.errno or errno.EIO)
        return OUT_HEADER.pack(OUT_HEADER.size + len(answer), code, unique) + answer

    def answer(self, operation: int, request: Request) -> bytes:
        """Do what was asked; return the answer's body.

        Raises:
            OSError: it cannot be done, or was told to fail.
        """
        work = self._operations.get(operation)
        if work is None:
            raise failure(errno.ENOSYS)
        if self._signals.is_doomed(self.name):
            raise failure(errno.EIO)
        if not self._is_of_shared(operation, request):
            if operation == _READ:
                self._fail_by_order("read", request)
            elif operation in CALLS:
                self._meet_fate(operation, CALLS[operation], request)
        return work(request)

    def _is_of_shared(self, operation: int, request: Request) -> bool:
        """Memory that SQLite shares is written back by the kernel when it likes."""
        node = self.disk.nodes.get(request.node)
        return operation in (4, _READ, 16) and node is not None and node.is_shared

    def _meet_fate(self, operation: int, call: str, request: Request) -> None:
        self.counts[f"disk calls/{call}"] += 1
        size = len(request.body)
        self.digest.update(f"{self.name} {call} {request.node} {size} ".encode())
        if call not in _SYNCS:
            self._signals.count_change(self.name)
        if self.dies_after >= 0:
            self.dies_after -= 1
            if self.dies_after < 0:
                self._signals.doom(self.name, True)
                raise failure(errno.EIO)
        if self.is_full and operation in _GROWING and self._grows(operation, request):
            self.counts[f"disk errors/ENOSPC {call}"] += 1
            raise failure(errno.ENOSPC)
        self._fail_by_order(call, request)

    def _fail_by_order(self, call: str, request: Request) -> None:
        if not self._fails_for or call not in self._failing or self._signals.is_looked_at():
            return
        self._fails_after -= 1
        if self._fails_after >= 0:
            return
        self._fails_for -= 1
        if call == "syncfs":
            self.disk.lose_writes(list(self.disk.nodes.values()))
        elif call == "fsync":
            self.disk.lose_writes([self.disk.node(request.node)])
        self.counts[f"disk errors/{errno.errorcode[self._error]} {call}"] += 1
        raise failure(self._error)

    def _grows(self, operation: int, request: Request) -> bool:
        if operation != 16:
            return True
        _, offset, size, *_ = TRANSFER.unpack_from(request.body)
        return bool(offset + size > len(self.disk.node(request.node).data))

    def _entry(self, node: Node) -> bytes:
        head = ENTRY_HEAD.pack(node.number, 0, _KNOWN_FOR_S, _KNOWN_FOR_S, 0, 0)
        return head + self._packed(node)

    def _attributes(self, node: Node) -> bytes:
        return struct.pack("<QII", _KNOWN_FOR_S, 0, 0) + self._packed(node)

    def _packed(self, node: Node) -> bytes:
        now: Attributes = node.now
        times = [divmod(t, 10**9) for t in (now.atime_ns, now.mtime_ns, now.ctime_ns)]
        seconds, parts = [t[0] for t in times], [t[1] for t in times]
        owner = now.mode, max(node.links, 0), now.uid, now.gid
        size = len(node.data)
        return ATTRIBUTES.pack(
            node.number, size, -(-size // 512), *seconds, *parts, *owner, 0, 4096, 0
        )

    def _set_attributes(self, request: Request) -> bytes:
        node = self.disk.node(request.node)
        values = SET_ATTRIBUTES.unpack_from(request.body)
        valid, size, (atime, mtime) = values[0], values[3], values[5:7]
        changed: dict[str, int] = {}
        now_ns = self._signals.now_ns()
        if valid & SET_SIZE:
            self.disk.resize(node, size)
        if valid & SET_MODE:
            changed["mode"] = stat.S_IFMT(node.now.mode) | stat.S_IMODE(values[11])
        if valid & SET_UID:
            changed["uid"] = values[13]
        if valid & SET_GID:
            changed["gid"] = values[14]
        if valid & SET_ATIME:
            changed["atime_ns"] = now_ns if valid & ATIME_NOW else atime * 10**9 + values[8]
        if valid & SET_MTIME:
            changed["mtime_ns"] = now_ns if valid & MTIME_NOW else mtime * 10**9 + values[9]
        self.disk.touch(node, changed)
        return self._attributes(node)

    def _make(self, request: Request, mode: int, umask: int, *, at: int) -> bytes:
        name = request.names(at)[0]
        return self._entry(self.disk.make(request.node, name, mode & ~umask, request.owner))

    def _make_directory(self, request: Request) -> bytes:
        mode, umask = struct.unpack_from("<II", request.body)
        return self._make(request, stat.S_IFDIR | mode, umask, at=8)

    def _create(self, request: Request) -> bytes:
        _, mode, umask, _ = struct.unpack_from("<IIII", request.body)
        return self._make(request, mode, umask, at=16) + OPEN_OUT.pack(0, 2, 0)

    def _symlink(self, request: Request) -> bytes:
        name, target = request.names(0, 2)
        node = self.disk.make(request.node, name, stat.S_IFLNK | 0o777, request.owner)
        # A target is written together with its inode.
        node.data[:] = node.kept_data[:] = target
        return self._entry(node)

    def _remove(self, request: Request, *, is_directory: bool) -> bytes:
        self.disk.remove(request.node, request.names(0)[0], is_directory=is_directory)
        return b""

    def _rename(self, request: Request, at: int, flags: int) -> bytes:
        if flags & ~NOREPLACE:
            raise failure(errno.EINVAL)
        (target,) = struct.unpack_from("<Q", request.body)
        old, new = request.names(at, 2)
        self.disk.rename((request.node, old), (target, new), replaces=not flags & NOREPLACE)
        return b""

    def _link(self, request: Request) -> bytes:
        (number,) = struct.unpack_from("<Q", request.body)
        node = self.disk.node(number)
        self.disk.link(node, request.node, request.names(8)[0])
        return self._entry(node)

    def _read(self, request: Request) -> bytes:
        _, offset, size, *_ = TRANSFER.unpack_from(request.body)
        return bytes(self.disk.node(request.node).data[offset : offset + size])

    def _write(self, request: Request) -> bytes:
        _, offset, size, *_ = TRANSFER.unpack_from(request.body)
        data = request.body[TRANSFER.size : TRANSFER.size + size]
        self.disk.write(self.disk.node(request.node), offset, data)
        return struct.pack("<II", size, 0)

    def _allocate(self, request: Request) -> bytes:
        _, offset, length, mode, _ = struct.unpack_from("<QQQII", request.body)
        node = self.disk.node(request.node)
        if mode & ~_KEEP_SIZE:
            raise failure(errno.EOPNOTSUPP)
        if not mode and len(node.data) < offset + length:
            self.disk.resize(node, offset + length)
        return b""

    def _sync(self, request: Request) -> bytes:
        is_for_data = bool(struct.unpack_from("<I", request.body, 8)[0] & 1)
        self.disk.sync(self.disk.node(request.node), attributes=not is_for_data)
        return b""

    def _sync_all(self, _request: Request) -> bytes:
        self.disk.sync_all()
        return b""

    def _room(self, _request: Request) -> bytes:
        free = 0 if self.is_full else _FREE_BLOCKS
        return STATFS_OUT.pack(_TOTAL_BLOCKS, free, free, 1 << 20, 1 << 19, 4096, 255, 4096, 0)

    def _list(self, request: Request) -> bytes:
        _, offset, size, *_ = TRANSFER.unpack_from(request.body)
        listed = [(b".", request.node, 1), (b"..", request.node, 2)]
        names = self.disk.node(request.node).names
        listed += [(name, number, cookie) for name, (number, cookie) in names.items()]
        answer = b""
        for name, number, cookie in listed:
            if cookie <= offset:
                continue
            kind = stat.S_IFMT(self.disk.node(number).now.mode) >> 12
            entry = DIRECTORY_ENTRY.pack(number, cookie, len(name), kind) + name
            entry += bytes(-len(entry) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return answer
