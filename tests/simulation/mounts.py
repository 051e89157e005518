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
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import msgspec

from tests.simulation.disk import ROOT, Disk
from tests.simulation.fuse import DISKS, FileSystem, Request, Signals
from tests.worlds.folding_fs import mount

_REQUEST_BYTES = (1 << 20) + 65_536
_CLOCK_TICK_NS = 4_000_000
_DETACH = 2
_SYNC_ALL = 50


class Order(msgspec.Struct):
    """What a disk is to do; ``number`` is a count, an error, or a seed."""

    verb: str
    disk: str = ""
    folder: str = ""
    number: int = 0
    after: int = 0
    lasts: int = 0
    group: str = "any"


class Told(msgspec.Struct):
    """How it went: an error number; at the end, what was counted and the digest of all calls."""

    error: int = 0
    counts: dict[str, int] = {}
    digest: str = ""


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
            self._disks[name] = FileSystem(name, disk, signals)

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
        found.dies_after, found.is_full = -1, False
        found.fail("any", errno.EIO, 0, 0)

    def _lose_power(self, found: FileSystem, order: Order) -> None:
        found.disk.lose_power(random.Random(order.number))

    def _syncfs(self, found: FileSystem, _order: Order) -> None:
        found.answer(_SYNC_ALL, Request(ROOT, (0, 0), b""))

    def _fail(self, found: FileSystem, order: Order) -> None:
        found.fail(order.group, order.number, order.after, order.lasts)

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
        answer = file_system.exchange(data)
        if answer:
            # Whoever asked may have been killed meanwhile.
            with contextlib.suppress(FileNotFoundError):
                os.write(device, answer)


class Control:
    """The other end: gives orders, one after the other."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def order(self, verb: str, disk: str = "", folder: str = "", **more: Any) -> Told:
        """Have something done; return how it went when it is done."""
        self._control.send(msgspec.msgpack.encode(Order(verb, disk, folder, **more)))
        return msgspec.msgpack.decode(self._control.recv(65_536), type=Told)


def start(signals: Signals, seed: int, *, keeps_order: bool) -> Control:
    """Fork the process; return its control. It ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork():
        theirs.close()
        return Control(ours)
    code: Any = 1
    try:
        ours.close()
        Mounts(theirs, signals, seed, keeps_order=keeps_order).serve()
        code = 0
    finally:
        os._exit(code)
