"""Simulated disks as file systems of the kernel: FUSE, answered by a process of our own.

SQLite, the product's compiled modules and inotify work on them as on any other. The process is
told over a socket to mount, to sync, to fail, and to lose power; it ends with its other end.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import contextlib
import ctypes
import errno
import os
import random
import select
import socket
import stat
import struct
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from mmap import mmap
from typing import Any, NamedTuple

import msgspec

from tests.simulation.disk import Attributes, Disk, Node, failure
from tests.worlds.folding_fs import mount

_REQUEST_BYTES = (1 << 20) + 65_536
_MAX_WRITE_BYTES = 1 << 20
_CLOCK_TICK_NS = 4_000_000
_KNOWN_FOR_S = 100_000
_TOTAL_BLOCKS, _FREE_BLOCKS = 1 << 14, 3 << 12
_DETACH = 2

_IN_HEADER = struct.Struct("<IIQQIIII")
_OUT_HEADER = struct.Struct("<IiQ")
_INIT_OUT = struct.Struct("<IIIIHHIIHHI28x")
_ATTRIBUTES = struct.Struct("<QQQqqqIIIIIIIIII")
_ENTRY_HEAD = struct.Struct("<QQQQII")
_SET_ATTRIBUTES = struct.Struct("<IIQQQqqqIIIIIIII")
_OPEN_OUT = struct.Struct("<QII")
_TRANSFER = struct.Struct("<QQIIQII")
_STATFS_OUT = struct.Struct("<QQQQQIIII24x")
_DIRECTORY_ENTRY = struct.Struct("<QQII")

_SET_MODE, _SET_UID, _SET_GID, _SET_SIZE = 1, 2, 4, 8
_SET_ATIME, _SET_MTIME, _ATIME_NOW, _MTIME_NOW = 16, 32, 128, 256
_KEEP_SIZE = 1
_NOREPLACE, _EXCHANGE = 1, 2
_MAX_PAGES = 1 << 22
_NO_ANSWER = {2, 36, 42}

CALLS = {4: "setattr", 6: "symlink", 8: "mknod", 9: "mkdir", 10: "unlink", 11: "rmdir"}
CALLS |= {12: "rename", 13: "link", 16: "write", 20: "fsync", 30: "fsyncdir", 35: "create"}
CALLS |= {43: "fallocate", 45: "rename", 50: "syncfs"}
"""What changes a disk or makes it durable."""

_GROWING = {6, 8, 9, 13, 16, 35, 43}

DISKS = ("source", "server", "client")
SHARED_BYTES = 4096
_DOOM_AT, _COUNT_AT = 64, 128


class Order(msgspec.Struct):
    """What a disk is to do; ``number`` is a count, an error, or a seed."""

    verb: str
    disk: str = ""
    folder: str = ""
    number: int = 0
    after: int = 0
    lasts: int = 0


class Told(msgspec.Struct):
    """How it went: an error number; at the end, what was counted and the digest of all calls."""

    error: int = 0
    counts: dict[str, int] = {}
    digest: str = ""


class Request(NamedTuple):
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

    def changes(self, disk: str) -> int:
        at = _COUNT_AT + 8 * DISKS.index(disk)
        return int.from_bytes(self.memory[at : at + 8], "little")

    def count_change(self, disk: str) -> None:
        at = _COUNT_AT + 8 * DISKS.index(disk)
        self.memory[at : at + 8] = (self.changes(disk) + 1).to_bytes(8, "little")


class FileSystem:
    """Answers what the kernel asks of one disk, and fails where it was told to."""

    def __init__(self, name: str, disk: Disk, signals: Signals, rng: random.Random) -> None:
        self.name = name
        self.disk = disk
        self.counts: Counter[str] = Counter()
        self.digest = blake2b(digest_size=16)
        self.is_full = False
        self.error = self.fails_after = self.fails_for = 0
        self.dies_after = -1
        self._signals = signals
        self._rng = rng
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
            26: lambda _: _INIT_OUT.pack(
                7, 31, 1 << 20, _MAX_PAGES, 16, 12, _MAX_WRITE_BYTES, 1, 256, 0, 0
            ),
            28: self._list,
            30: self._sync,
            35: self._create,
            43: self._allocate,
            45: lambda r: self._rename(r, 16, struct.unpack_from("<I", r.body, 8)[0]),
            50: self._sync_all,
        }

    def answer(self, operation: int, request: Request) -> bytes:
        """Do what was asked; return the answer's body."""
        work = self._operations.get(operation)
        if work is None:
            raise failure(errno.ENOSYS)
        call = CALLS.get(operation)
        if self._signals.is_doomed(self.name):
            raise failure(errno.EIO)
        if call is not None and not self._is_of_shared(operation, request):
            self._meet_fate(operation, call, request)
        return work(request)

    def _is_of_shared(self, operation: int, request: Request) -> bool:
        """Memory that SQLite shares is written back by the kernel when it likes."""
        node = self.disk.nodes.get(request.node)
        return operation in (4, 16) and node is not None and node.is_shared

    def _meet_fate(self, operation: int, call: str, request: Request) -> None:
        self.counts[f"disk calls/{call}"] += 1
        size = len(request.body)
        self.digest.update(f"{self.name} {call} {request.node} {size} ".encode())
        if call not in ("fsync", "fsyncdir", "syncfs"):
            self._signals.count_change(self.name)
        if self.dies_after >= 0:
            self.dies_after -= 1
            if self.dies_after < 0:
                self._signals.doom(self.name, True)
                raise failure(errno.EIO)
        if self.is_full and operation in _GROWING and self._grows(operation, request):
            self.counts[f"disk errors/ENOSPC {call}"] += 1
            raise failure(errno.ENOSPC)
        if self.fails_for:
            self.fails_after -= 1
            if self.fails_after < 0:
                self.fails_for -= 1
                self._fail(call, request)

    def _grows(self, operation: int, request: Request) -> bool:
        if operation != 16:
            return True
        _, offset, size, *_ = _TRANSFER.unpack_from(request.body)
        return bool(offset + size > len(self.disk.node(request.node).data))

    def _fail(self, call: str, request: Request) -> None:
        if call == "syncfs":
            self.disk.lose_writes(list(self.disk.nodes.values()))
        elif call == "fsync":
            self.disk.lose_writes([self.disk.node(request.node)])
        self.counts[f"disk errors/{errno.errorcode[self.error]} {call}"] += 1
        raise failure(self.error)

    def _entry(self, node: Node) -> bytes:
        head = _ENTRY_HEAD.pack(node.number, 0, _KNOWN_FOR_S, _KNOWN_FOR_S, 0, 0)
        return head + self._packed(node)

    def _attributes(self, node: Node) -> bytes:
        return struct.pack("<QII", _KNOWN_FOR_S, 0, 0) + self._packed(node)

    def _packed(self, node: Node) -> bytes:
        now: Attributes = node.now
        times = [divmod(t, 10**9) for t in (now.atime_ns, now.mtime_ns, now.ctime_ns)]
        seconds, parts = [t[0] for t in times], [t[1] for t in times]
        owner = now.mode, max(node.links, 0), now.uid, now.gid
        size = len(node.data)
        return _ATTRIBUTES.pack(
            node.number, size, -(-size // 512), *seconds, *parts, *owner, 0, 4096, 0
        )

    def _set_attributes(self, request: Request) -> bytes:
        node = self.disk.node(request.node)
        values = _SET_ATTRIBUTES.unpack_from(request.body)
        valid, size, (atime, mtime) = values[0], values[3], values[5:7]
        changed: dict[str, int] = {}
        now_ns = self._signals.now_ns()
        if valid & _SET_SIZE:
            self.disk.resize(node, size)
        if valid & _SET_MODE:
            changed["mode"] = stat.S_IFMT(node.now.mode) | stat.S_IMODE(values[11])
        if valid & _SET_UID:
            changed["uid"] = values[13]
        if valid & _SET_GID:
            changed["gid"] = values[14]
        if valid & _SET_ATIME:
            changed["atime_ns"] = now_ns if valid & _ATIME_NOW else atime * 10**9 + values[8]
        if valid & _SET_MTIME:
            changed["mtime_ns"] = now_ns if valid & _MTIME_NOW else mtime * 10**9 + values[9]
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
        return self._make(request, mode, umask, at=16) + _OPEN_OUT.pack(0, 2, 0)

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
        if flags & ~_NOREPLACE:
            raise failure(errno.EINVAL)
        (target,) = struct.unpack_from("<Q", request.body)
        old, new = request.names(at, 2)
        self.disk.rename((request.node, old), (target, new), replaces=not flags & _NOREPLACE)
        return b""

    def _link(self, request: Request) -> bytes:
        (number,) = struct.unpack_from("<Q", request.body)
        node = self.disk.node(number)
        self.disk.link(node, request.node, request.names(8)[0])
        return self._entry(node)

    def _read(self, request: Request) -> bytes:
        _, offset, size, *_ = _TRANSFER.unpack_from(request.body)
        return bytes(self.disk.node(request.node).data[offset : offset + size])

    def _write(self, request: Request) -> bytes:
        _, offset, size, *_ = _TRANSFER.unpack_from(request.body)
        data = request.body[_TRANSFER.size : _TRANSFER.size + size]
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
        return _STATFS_OUT.pack(_TOTAL_BLOCKS, free, free, 1 << 20, 1 << 19, 4096, 255, 4096, 0)

    def _list(self, request: Request) -> bytes:
        _, offset, size, *_ = _TRANSFER.unpack_from(request.body)
        listed = [(b".", request.node, 1), (b"..", request.node, 2)]
        names = self.disk.node(request.node).names
        listed += [(name, number, cookie) for name, (number, cookie) in names.items()]
        answer = b""
        for name, number, cookie in listed:
            if cookie <= offset:
                continue
            kind = stat.S_IFMT(self.disk.node(number).now.mode) >> 12
            entry = _DIRECTORY_ENTRY.pack(number, cookie, len(name), kind) + name
            entry += bytes(-len(entry) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return answer


class Mounts:
    """The process that has the disks: takes orders, answers the kernel."""

    def __init__(
        self, control: socket.socket, signals: Signals, seed: int, *, keeps_order: bool
    ) -> None:
        self._control = control
        self._signals = signals
        self._devices: dict[int, FileSystem] = {}
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._libc = ctypes.CDLL(None, use_errno=True)

        def tick_ns() -> int:
            return signals.now_ns() // _CLOCK_TICK_NS * _CLOCK_TICK_NS

        self._disks: dict[str, FileSystem] = {}
        for name in DISKS:
            rng = random.Random(f"disk {name} {seed}")
            disk = Disk(rng, tick_ns, keeps_order=keeps_order)
            self._disks[name] = FileSystem(name, disk, signals, rng)

    def serve(self) -> None:
        """Work until the other end of the control socket is closed."""
        while True:
            for fd, _ in self._poll.poll():
                if fd == self._control.fileno():
                    data = self._control.recv(65_536)
                    if not data:
                        return
                    told = self._obey(msgspec.msgpack.decode(data, type=Order))
                    self._control.send(msgspec.msgpack.encode(told))
                elif fd in self._devices:
                    self._answer(fd, self._devices[fd])

    def _obey(self, order: Order) -> Told:
        try:
            if order.verb == "report":
                return self._report()
            found = self._disks[order.disk]
            work: Callable[[FileSystem, Order], None] = getattr(self, f"_{order.verb}")
            work(found, order)
        except OSError as error:
            return Told(error.errno or errno.EIO)
        return Told()

    def _report(self) -> Told:
        counts: Counter[str] = Counter()
        digest = blake2b(digest_size=16)
        for disk in self._disks.values():
            counts.update(disk.counts)
            digest.update(disk.digest.digest())
        return Told(0, dict(counts), digest.hexdigest())

    def _mount(self, found: FileSystem, order: Order) -> None:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        mount(device, order.folder)
        self._devices[device] = found
        self._poll.register(device, select.POLLIN)
        self._signals.doom(found.name, False)

    def _unmount(self, found: FileSystem, order: Order) -> None:
        """Leave all that is open behind: it fails from now on."""
        self._libc.umount2(os.fsencode(order.folder), _DETACH)
        for device in [fd for fd, disk in self._devices.items() if disk is found]:
            self._poll.unregister(device)
            del self._devices[device]
            os.close(device)
        found.dies_after, found.fails_for, found.is_full = -1, 0, False

    def _lose_power(self, found: FileSystem, order: Order) -> None:
        found.disk.lose_power(random.Random(order.number))

    def _syncfs(self, found: FileSystem, _order: Order) -> None:
        found.answer(50, Request(1, (0, 0), b""))

    def _fail(self, found: FileSystem, order: Order) -> None:
        found.error, found.fails_after, found.fails_for = order.number, order.after, order.lasts

    def _fill(self, found: FileSystem, order: Order) -> None:
        found.is_full = bool(order.number)

    def _die(self, found: FileSystem, order: Order) -> None:
        found.dies_after = order.after

    def _answer(self, device: int, file_system: FileSystem) -> None:
        try:
            data = os.read(device, _REQUEST_BYTES)
        except OSError as error:
            if error.errno == errno.ENODEV:
                self._poll.unregister(device)
                del self._devices[device]
                return
            if error.errno in (errno.ENOENT, errno.EINTR):
                return
            raise
        _, operation, unique, node, uid, gid, _, _ = _IN_HEADER.unpack_from(data)
        if operation in _NO_ANSWER:
            return
        code, answer = 0, b""
        try:
            request = Request(node, (uid, gid), data[_IN_HEADER.size :])
            answer = file_system.answer(operation, request)
        except OSError as error:
            code = -(error.errno or errno.EIO)
        head = _OUT_HEADER.pack(_OUT_HEADER.size + len(answer), code, unique)
        with contextlib.suppress(FileNotFoundError):
            os.write(device, head + answer)


class Control:
    """The other end: gives orders, one after the other."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def order(self, verb: str, disk: str = "", folder: str = "", **more: int) -> Told:
        self._control.send(msgspec.msgpack.encode(Order(verb, disk, folder, **more)))
        return msgspec.msgpack.decode(self._control.recv(65_536), type=Told)


def start(signals: Signals, seed: int, *, keeps_order: bool) -> tuple[Control, int]:
    """Fork the process; return its control, and its id."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = os.fork()
    if process:
        theirs.close()
        return Control(ours), process
    code: Any = 1
    try:
        ours.close()
        Mounts(theirs, signals, seed, keeps_order=keeps_order).serve()
        code = 0
    finally:
        os._exit(code)
