"""Collecting what is no longer needed: the attic's oldest, and uploads given up."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable

from twinfold.core.retention import UPLOAD_PATIENCE_S, expires_before_ns
from twinfold.errors import DestinationError
from twinfold.server.commit import Committer
from twinfold.server.events import Listener, Message
from twinfold.server.pending import PendingBatches
from twinfold.storage.interface import ATTIC, DOOMED_PREFIX, Forest, Index

_FIRST_AFTER_S = 5.0
_EVERY_S = 600.0
_GROUP = 64


class Collector:
    """Expires what the attic holds, in the committing thread, a little at a time."""

    def __init__(
        self,
        index: Index,
        forest: Forest,
        committer: Committer,
        pending: PendingBatches,
        keep_s: int,
        now_ns: Callable[[], int],
        listener: Listener,
    ) -> None:
        self._index = index
        self._forest = forest
        self._committer = committer
        self._pending = pending
        self._keep_s = keep_s
        self._now_ns = now_ns
        self._listener = listener

    async def run_forever(self) -> None:
        """Collect now and then."""
        wait_s = _FIRST_AFTER_S
        while True:
            await asyncio.sleep(min(wait_s, _FIRST_AFTER_S if self._keep_s == 0 else wait_s))
            wait_s = _EVERY_S
            try:
                await self.collect()
            except (OSError, DestinationError) as error:
                self._listener(Message(f"the attic could not be thinned out: {error}"))

    async def collect(self) -> int:
        """Delete for good what has been in the attic for long enough; return how many.

        Raises:
            OSError: something could not be deleted.
        """
        # An object that was refused tells so after a crash, until that has been recorded.
        await self._pending.in_commit_thread(self._committer.settle)
        await asyncio.to_thread(self._purge_doomed)
        before_ns = expires_before_ns(self._now_ns(), self._keep_s)
        expired = await asyncio.to_thread(self._index.attic, before_ns)
        for start in range(0, len(expired), _GROUP):
            purge = functools.partial(self._committer.begin_purge, expired[start : start + _GROUP])
            for doomed in await self._pending.in_commit_thread(purge):
                await asyncio.to_thread(self._forest.purge, doomed)
        stale_ns = expires_before_ns(self._now_ns(), UPLOAD_PATIENCE_S)
        for node, name in await asyncio.to_thread(self._index.staged, stale_ns):
            await self._pending.in_commit_thread(
                functools.partial(self._committer.forget_upload, node, name)
            )
        return len(expired)

    def _purge_doomed(self) -> None:
        """Delete what an earlier run had no time for."""
        for child in self._forest.look(ATTIC, []).children:
            if child.name.startswith(DOOMED_PREFIX):
                self._forest.purge(child.name)
