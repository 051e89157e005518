"""One simulated world: a client, a server, their disks, the network, and what befalls them."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import asyncio
import ctypes
import errno
import os
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from tests.e2e.trees import Tree, differences, snapshot
from tests.simulation import interpreter, mounts
from tests.simulation.fuse import DISKS, Signals
from tests.simulation.loop import Loop
from tests.simulation.mounts import Control
from tests.simulation.network import Network
from tests.simulation.schedule import Process, Scheduler
from tests.simulation.user import User
from twinfold.client.control import NotRunningError, ask_wait
from twinfold.client.run import run_client
from twinfold.config import ClientSettings, ServerAddress, ServerSettings
from twinfold.errors import TwinfoldError
from twinfold.server.events import AtticGaveWay, Committed, Listening
from twinfold.system import durability
from twinfold.wiring import serve_destination

_PORT = 8730
_TOKEN = "simulated"
_BEGAN_NS = 1_800_000_000_000_000_000
_NEW_NAMESPACE, _PRIVATE_BELOW = 0x20000, 0x44000
_RESTART_S = 1.0
_PLACE, _BIND = b"/mnt", 4096


class BrokenError(Exception):
    """A promise was broken."""


class World:
    """Everything that one seed decides.

    Args:
        seed: decides it.
        work: an empty folder; what is mounted below it is seen by this process only.
        keeps_trace: as `Scheduler`.
    """

    def __init__(self, seed: int, work: Path, keeps_trace: bool) -> None:
        self.seed = seed
        self.rng = random.Random(f"world {seed}")
        self.signals = Signals()
        self.signals.memory[:8] = _BEGAN_NS.to_bytes(8, "little")
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_NEW_NAMESPACE) or libc.mount(None, b"/", None, _PRIVATE_BELOW, None):
            raise OSError(ctypes.get_errno(), "cannot have mounts of its own")
        # What is at a fixed place has the same name each time.
        if libc.mount(os.fsencode(work), _PLACE, None, _BIND, None):
            raise OSError(ctypes.get_errno(), "cannot mount")
        work = Path(os.fsdecode(_PLACE))
        self.keeps_order = self.rng.random() < 0.5
        self.control = mounts.start(self.signals, seed, keeps_order=self.keeps_order)
        self.folders = {name: work / name for name in DISKS}
        self._libc = libc
        for name in DISKS:
            self.folders[name].mkdir(exist_ok=True)
            self._order("mount", name)
        self.scheduler = Scheduler(
            random.Random(f"schedule {seed}"), self.signals.memory, keeps_trace
        )
        self.network = Network(self.scheduler, random.Random(f"network {seed}"))
        interpreter.install(self.scheduler, seed, str(work))
        patched: Any = durability
        patched._libc = _Libc(libc, self.control, self._devices)
        self.counts: Counter[str] = Counter()
        self.processes: dict[str, Process] = {}
        self.commits = 0
        self.is_listening = False
        self._touches = 0
        self.user = User(self.folders["source"], self.rng, self.scheduler, self._touched)

    # Processes.

    def start(self, name: str) -> None:
        """Start the server or the client."""
        process = Process(name, lambda: self.signals.is_doomed(name))
        self.processes[name] = process
        work = self._serve if name == "server" else self._synchronise
        if name == "server":
            self.is_listening = False
        self.scheduler.note("start", name)
        self._run(process, work)

    def _run(self, process: Process, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        loop = Loop(self.scheduler, self.network, process)

        def run() -> None:
            try:
                result = loop.run(work())
                self.scheduler.note(process.name, "ended", result)
            finally:
                self.network.lose(process, says_so=True)
                self.scheduler.kill(process)

        self.scheduler.spawn(process.name, process, run)

    async def _serve(self) -> int:
        settings = ServerSettings(
            os.fsencode(self.folders["server"]),
            self.folders["client"],
            port=_PORT,
            token=_TOKEN,
            adopt=True,
        )

        def announce(_: Listening) -> None:
            self.is_listening = True

        def listen(event: object) -> None:
            self.scheduler.note("server", type(event).__name__, event)
            if isinstance(event, Committed):
                self.commits += 1
            if isinstance(event, AtticGaveWay):
                self.counts["attic gave way"] += 1

        return await serve_destination(settings, announce, listen, asyncio.Event())

    async def _synchronise(self) -> int:
        address = ServerAddress("127.0.0.1", _PORT, tls=False, token=_TOKEN)
        source = os.fsencode(self.folders["source"])
        settings = ClientSettings(source, address, self.folders["client"])

        def listen(event: object) -> None:
            self.scheduler.note("client", event)

        return await run_client(settings, listen, asyncio.Event())

    def crash(self, name: str, *, power: bool, after_calls: int | None) -> None:
        """End a process: now, or in the middle of a call of its disk's."""
        process = self.processes[name]
        if after_calls is not None and process.is_alive:
            self._order("die", name, after=after_calls)
            due_ns = self.scheduler.now_ns + 3_000_000_000
            while process.is_alive and self.scheduler.now_ns < due_ns:
                self.scheduler.block(due_ns, lambda: not process.is_alive)
        self.scheduler.note("crash", name, "power" if power else "kill")
        self.counts[f"crashes/{name} {'power' if power else 'kill'}"] += 1
        self._clear(process, power=power)
        if name == "server":
            self.observe()

    def _clear(self, process: Process, *, power: bool) -> None:
        """Take from a process what it had: what it has open fails from now on."""
        self.scheduler.kill(process)
        self.network.lose(process, says_so=not power)
        self._order("unmount", process.name)
        if power:
            self._order("lose_power", process.name, number=self.rng.randrange(1 << 30))
        self._order("mount", process.name)

    def keep_running(self) -> None:
        """Start again what has ended.

        Raises:
            BrokenError: it ended by an error that nobody foresaw, or showed a traceback.
        """
        for name, process in self.processes.items():
            if process.tracebacks:
                raise BrokenError(f"the {name} showed a traceback: {process.tracebacks[0]}")
            if process.is_alive:
                continue
            error = process.error
            if error is not None and not isinstance(error, TwinfoldError | OSError):
                raise BrokenError(f"the {name} ended with {type(error).__name__}: {error}")
            if error is not None:
                self.counts[f"ended by itself/{name}"] += 1
                self._clear(process, power=False)
            self.start(name)

    # Disks.

    def fail(self, disk: str, group: str, number: int, after: int, lasts: int) -> None:
        """Have calls of a disk fail."""
        self.scheduler.note("fail", disk, group, errno.errorcode[number], after, lasts)
        self._order("fail", disk, group=group, number=number, after=after, lasts=lasts)

    def fill(self, disk: str, is_full: bool) -> None:
        self.scheduler.note("fill", disk, is_full)
        self._order("fill", disk, number=int(is_full))

    def _order(self, verb: str, disk: str, **more: Any) -> None:
        told = self.control.order(verb, disk, str(self.folders[disk]), **more)
        if told.error:
            raise OSError(told.error, f"{verb} {disk}: {os.strerror(told.error)}")

    @property
    def _devices(self) -> dict[int, str]:
        return {os.stat(folder).st_dev: name for name, folder in self.folders.items()}

    # What is promised.

    def _touched(self) -> None:
        self._touches = self.signals.changes("source")

    def check_source(self) -> None:
        """The client writes nothing in the source.

        Raises:
            BrokenError: it did.
        """
        if self.signals.changes("source") != self._touches:
            raise BrokenError("something else than the user has written in the source")

    def tree(self, disk: str, below: str = ".") -> Tree:
        """Return what is in a folder of a disk now."""
        self.signals.look(True)
        try:
            return snapshot(self.folders[disk] / below)
        finally:
            self.signals.look(False)

    def trees(self) -> tuple[Tree, Tree]:
        return self.tree("source"), self.tree("server")

    def observe(self) -> None:
        """Each path is absent, or a whole version that the source had.

        Raises:
            BrokenError: something else is seen.
        """
        self.counts["observations"] += 1
        found = self.user.history.strangers(self.tree("server"))
        if found:
            raise BrokenError("neither whole nor old: " + "; ".join(found))

    def ask(self, timeout_s: float) -> bool | None:
        """Wait until all is durable; None if no client answers."""
        answers: list[bool | None] = []

        async def asking() -> None:
            try:
                source = os.fsencode(self.folders["source"])
                status = await ask_wait(self.folders["client"], source, timeout_s)
                answers.append(status.in_sync)
            except NotRunningError:
                answers.append(None)

        process = Process("wait")
        self._run(process, asking)
        due_ns = self.scheduler.now_ns + int((timeout_s + 10) * 1e9)
        while not answers and self.scheduler.now_ns < due_ns:
            self.scheduler.block(due_ns, lambda: bool(answers))
        self.scheduler.kill(process)
        return answers[0] if answers else None

    def converge(self, limit_s: float = 1_500.0) -> None:
        """With a quiet source both trees become equal, and that is said.

        Raises:
            BrokenError: they do not, or it is said too early.
        """
        began_s = self.scheduler.elapsed_s
        while True:
            self.keep_running()
            answer = self.ask(100.0)
            self.scheduler.note("wait", answer)
            if answer:
                break
            if self.scheduler.elapsed_s - began_s > limit_s:
                found = differences(*self.trees())
                raise BrokenError(f"it does not converge: {'; '.join(found)}")
            self.scheduler.sleep(_RESTART_S)
        self.counts["acknowledgements checked"] += 1
        self.expect_equal("after it said so")

    def expect_equal(self, when: str) -> None:
        self.check_source()
        found = differences(*self.trees())
        if found:
            raise BrokenError(f"not equal {when}: {'; '.join(found)}")

    def await_listening(self) -> None:
        """Return when the server alone has recovered.

        Raises:
            BrokenError: it does not.
        """
        process = self.processes["server"]
        due_ns = self.scheduler.now_ns + 200_000_000_000
        while not self.is_listening:
            if self.scheduler.now_ns >= due_ns or not process.is_alive:
                raise BrokenError(f"the server does not come back ({process.error!r})")
            self.scheduler.block(due_ns, lambda: self.is_listening or not process.is_alive)

    def contents_at_server(self) -> set[bytes]:
        """Return what files are in the tree and in the attic."""
        found = self.tree("server")
        kept = self.tree("server", ".twinfold/attic")
        return {node.content for node in [*found.values(), *kept.values()] if node.kind == "file"}

    def report(self) -> mounts.Told:
        """Return what the disks counted."""
        return self.control.order("report")


class _Libc:
    """The C library; `syncfs`, which the kernel does not pass on, goes to the disk itself."""

    def __init__(self, libc: Any, control: Control, devices: Any) -> None:
        self._libc = libc
        self._control = control
        self._by_device: dict[int, str] = devices
        self.renameat2 = libc.renameat2
        # A hint; the simulated disk chooses itself what it writes before a sync.
        self.sync_file_range = lambda *_: 0

    def syncfs(self, fd: int) -> int:
        try:
            device = os.fstat(fd).st_dev
        except OSError as error:
            ctypes.set_errno(error.errno or errno.EIO)
            return -1
        told = self._control.order("syncfs", self._by_device.get(device, "server"))
        ctypes.set_errno(told.error)
        return -1 if told.error else 0
