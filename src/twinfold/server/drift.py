"""Drift: finding what something else changed in the destination, and having it set right.

The tree is compared with the index at the start, every hour, when reused content turns out to
be other than recorded, and for ``verify``. The comparison runs in a thread of its own and locks
nothing, so it may see steps half done; what seems to differ is only a *suspect*. Suspects are
looked at again in the committing thread, where nothing is in flight, and only then acted upon.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TypeVar

import msgspec

from twinfold.core.chunking import chunk_id
from twinfold.core.paths import display
from twinfold.core.session import drift_text
from twinfold.errors import DestinationError, DriftError
from twinfold.model import Kind
from twinfold.protocol import Difference, Progress
from twinfold.server.differences import Case, Suspect, describe, differs, suspects_in
from twinfold.server.events import Listener, Message
from twinfold.server.heal import Healer
from twinfold.server.pending import PendingBatches
from twinfold.server.takein import Record, read_object, record
from twinfold.storage.interface import TREE, Forest, Index, Looked, Node

CHECK_EVERY_S = 3_600.0
LOOK_EVERY_S = 1.0
"""How often it is made sure that the destination is still where it was."""

_GROUP = 256
_SLICE_S = 0.004
_TRIES = 5
_RETRY_S = 0.5
_TAKE_IN_FIRST_S = 10.0
"""So long the client waits to be told, so that content found is known and not sent again."""
_TOLD_PATHS = 20
_MANIFEST_PAGE = 1_024

_Result = TypeVar("_Result")


Reporter = Callable[[Progress | Difference], None]
"""Is told how a check goes on, in the checker's thread or in the event loop's."""


class StoppedError(Exception):
    """The server stops, or nobody waits for the check any more."""


class DriftChecker:
    """Finds drift, and has it healed.

    Args:
        index, forest, forest_lock, pending: the folder.
        healer: acts on what is found.
        suspected: gets the nodes whose bytes were other than the index says; from any thread.
        check_place: raises DestinationError if the destination is not where it was.
        listener: is told of what was found.
    """

    def __init__(
        self,
        index: Index,
        forest: Forest,
        forest_lock: AbstractContextManager[object],
        pending: PendingBatches,
        healer: Healer,
        suspected: set[int],
        check_place: Callable[[], None],
        listener: Listener,
    ) -> None:
        self._index = index
        self._forest = forest
        self._forest_lock = forest_lock
        self._pending = pending
        self._healer = healer
        self._check_place = check_place
        self._listener = listener
        self._thread = ThreadPoolExecutor(1, "drift")
        self._checking = asyncio.Lock()
        self._stopping = threading.Event()
        self._suspected = suspected
        self._slice_began_s = 0.0
        self.first_check = asyncio.Event()

    async def run_forever(self) -> None:
        """Check now, every hour, and what is suspected soon.

        Raises:
            DestinationError: the destination is not where it was.
        """
        due_s = 0.0
        while True:
            self._check_place()
            try:
                if time.monotonic() >= due_s:
                    await self.check()
                    due_s = time.monotonic() + CHECK_EVERY_S
                await self._check_suspected()
            except (OSError, DestinationError) as error:
                self._listener(Message(f"the destination could not be checked: {error}"))
                due_s = time.monotonic() + CHECK_EVERY_S
            self.first_check.set()
            await asyncio.sleep(LOOK_EVERY_S)

    async def check(self, *, deep: bool = False, report: Reporter | None = None) -> None:
        """Compare the whole tree; with ``deep`` every file is read as well.

        A ``report`` that raises `StoppedError` ends the check.

        Raises:
            OSError: the disk does not let us.
        """
        async with self._checking:
            walk = self._walk(deep, report)
            try:
                while (group := await self._in_thread(lambda: next(walk, None))) is not None:
                    await self._handle(group, report)
            except StoppedError:
                return

    async def _check_suspected(self) -> None:
        suspected = list(self._suspected)
        self._suspected.difference_update(suspected)
        nodes = [node for node in map(self._index.node, suspected) if node is not None]
        if nodes:
            async with self._checking:
                await self._handle([Suspect(n.parent, n.name, deep=True) for n in nodes], None)

    async def stop(self) -> None:
        """End what is under way, and let go of the thread."""
        self._stopping.set()
        await asyncio.to_thread(self._thread.shutdown)

    async def _in_thread(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _breathe(self) -> None:
        """Leave time to what is more urgent."""
        if self._stopping.is_set():
            raise StoppedError
        if time.monotonic() - self._slice_began_s >= _SLICE_S:
            time.sleep(_SLICE_S if self._pending.is_busy else _SLICE_S / 10)
            self._slice_began_s = time.monotonic()

    def _walk(self, deep: bool, report: Reporter | None) -> Iterator[list[Suspect]]:
        """Yield suspects in groups; runs in the thread of its own."""
        group = [Suspect(0, b"%d" % TREE)]
        files = size_bytes = 0
        due: list[tuple[int, list[bytes]]] = [(TREE, [])]
        while due:
            node_id, names = due.pop()
            self._breathe()
            try:
                listing = self._forest.look(TREE, names)
            except OSError as error:
                if deep and report is not None and isinstance(error, PermissionError):
                    report(Difference(b"/".join(names), ["unreadable"]))
                continue
            suspects, alike = suspects_in(node_id, self._index.children(node_id), listing)
            there = {looked.name: looked for looked in listing.children}
            for node in alike:
                if node.kind is Kind.FILE and deep:
                    files, size_bytes = files + 1, size_bytes + node.size
                    if not self._is_readable_and_right(node, there[node.name], names, report):
                        suspects.append(Suspect(node_id, node.name, deep=True))
                    if report is not None:
                        report(Progress(files, size_bytes))
            due += self._below(node_id, names, listing.children)
            group += suspects
            while len(group) >= _GROUP:
                yield group[:_GROUP]
                del group[:_GROUP]
        yield group

    def _is_readable_and_right(
        self, node: Node, looked: Looked, names: list[bytes], report: Reporter | None
    ) -> bool:
        try:
            return bool(self._holds(node, looked))
        except PermissionError:
            if report is not None:
                report(Difference(b"/".join([*names, node.name]), ["unreadable"]))
            return True

    def _below(
        self, node_id: int, names: list[bytes], children: Sequence[Looked]
    ) -> list[tuple[int, list[bytes]]]:
        below = []
        for looked in children:
            if looked.kind is Kind.DIRECTORY:
                node = self._index.child(node_id, looked.name)
                if node is not None and node.kind is Kind.DIRECTORY:
                    below.append((node.id, [*names, looked.name]))
        return below

    def _holds(self, node: Node, looked: Looked) -> bool | None:
        """Tell whether a file's bytes are what the index says; None if it does not hold still.

        Raises:
            PermissionError: the file's bits keep us out.
        """
        try:
            with self._forest_lock:
                located = self._index.locate(node.id)
                if located is None:
                    return None
                source = self._forest.open_source(*located)
        except FileNotFoundError:
            return None
        except PermissionError:
            raise
        except OSError:
            return False
        before = msgspec.structs.replace(looked, name=b"")
        try:
            if source.looked() != before:
                return None
            right = self._reads_right(node, source.read)
            return right if source.looked() == before else None
        finally:
            source.close()

    def _reads_right(self, node: Node, read: Callable[[int, int], bytes]) -> bool:
        position = offset = 0
        while page := self._index.manifest(node.id, position, _MANIFEST_PAGE):
            for chunk in page:
                self._breathe()
                try:
                    data = read(offset, chunk.size)
                except OSError:
                    return False
                if len(data) != chunk.size or chunk_id(data) != chunk.id:
                    return False
                offset += chunk.size
            position += len(page)
        return offset == node.size

    async def _handle(self, group: Sequence[Suspect], report: Reporter | None) -> None:
        """Look at suspects again, and have what is drift set right."""
        kept: list[Node] = []
        lost: list[Case] = []
        unproven: list[Case] = []
        found: list[Case] = []
        for attempt in range(_TRIES):
            if not group:
                break
            if attempt:
                await asyncio.sleep(_RETRY_S)
            confirm = functools.partial(self._healer.confirm, group)
            cases = await self._pending.in_commit_thread(confirm)
            read = functools.partial(self._read_cases, cases)
            set_right = functools.partial(self._healer.set_right, await self._in_thread(read))
            outcome = await self._pending.in_commit_thread(set_right)
            kept += outcome.kept
            lost += outcome.lost
            unproven += outcome.unproven
            found += outcome.found
            group = outcome.again
        self._tell(found)
        if report is not None:
            for case in found:
                report(Difference(case.path, describe(case)))
        kept = await self._take_in(kept, time.monotonic() + _TAKE_IN_FIRST_S)
        if lost or unproven:
            await self._forget(lost, unproven)
        await self._take_in(kept, float("inf"))

    def _read_cases(self, cases: Sequence[Case]) -> list[Case]:
        return [self._read_case(case) for case in cases]

    def _read_case(self, case: Case) -> Case:
        node, looked = case.node, case.looked
        if node is None or looked is None or {node.kind, looked.kind} != {Kind.FILE}:
            return case
        if node.size != looked.size:
            return case
        try:
            return case._replace(content=self._holds(node, looked))
        except PermissionError:
            return case._replace(content=not differs(node, looked))

    async def _take_in(self, kept: list[Node], until_s: float) -> list[Node]:
        """Index what came to the attic; return what there was no time for."""
        kept = list(kept)
        while kept and time.monotonic() < until_s:
            records = read_object(self._forest, kept.pop(), self._breathe)
            ids: dict[int, int] = {}
            following = functools.partial(next, records, None)
            while (group := await self._in_thread(following)) is not None:
                save = functools.partial(self._save, group, ids)
                await self._pending.in_commit_thread(save)
        return kept

    def _save(self, group: list[Record], ids: dict[int, int]) -> None:
        with self._index.transaction() as work:
            record(work, group, ids)

    async def _forget(self, lost: Sequence[Case], unproven: Sequence[Case]) -> None:
        pending = self._pending
        async with pending.committing, pending.beginning:
            forget = functools.partial(self._healer.forget, lost, unproven)
            paths = await pending.in_commit_thread(forget)
            if paths:
                await pending.drop(DriftError(drift_text(len(paths))))
                pending.begin_epoch()

    def _tell(self, found: Sequence[Case]) -> None:
        for case in found[:_TOLD_PATHS]:
            what = ", ".join(describe(case))
            aside = "" if case.looked is None else "; what was found there is in the attic"
            if describe(case) and set(describe(case)) <= {"mode", "mtime"}:
                aside = "; set right"
            path = display(case.path) or "."
            self._listener(Message(f"{path} was changed by something else ({what}){aside}"))
        if len(found) > _TOLD_PATHS:
            self._listener(Message(f"{len(found) - _TOLD_PATHS} more were changed"))
