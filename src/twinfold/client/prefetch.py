"""Having the system fetch what a scan will read next, while it reads what it has.

A first sync of a source that is not in memory otherwise waits for the disk once a directory.
One that is in memory has nothing to fetch: it is begun only when the scan had to wait.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

from twinfold.client.levels import Child
from twinfold.client.tree import Directory

if sys.platform == "win32":

    def fetch_files(_directory_fd: int, _name: bytes, _limit_bytes: int) -> None:
        """Leave it to the system what it reads ahead."""

else:
    from twinfold.system.bulk import fetch_files

_DIRECTORIES_AHEAD = 8
_DIRECTORY_BYTES = 8 * 1024 * 1024
_AWAKE_LOOKS = 200
"""So often it looks ahead until the scan has to have waited again."""


class Prefetcher:
    """A thread that goes ahead of a scan; what it does is a hint, and may fail."""

    def __init__(self) -> None:
        self._worker: ThreadPoolExecutor | None = None
        self._held: set[int] = set()
        self._looks_left = 0

    def wake(self) -> None:
        """The scan had to wait for the disk: look ahead for a while."""
        self._looks_left = _AWAKE_LOOKS

    def look_ahead(self, directory: Directory, children: list[Child]) -> None:
        """Fetch the files of the last of these, which are visited next, where all is new.

        Only while awake.
        """
        if not self._looks_left:
            return
        self._looks_left -= 1
        names = []
        for child in reversed(children[-_DIRECTORIES_AHEAD:]):
            if child.known is None and not child.fetched:
                child.fetched = True
                names.append(child.name)
        if not names or directory.fd is None:
            return
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, "prefetch")
        fd = os.dup(directory.fd)
        self._held.add(fd)
        self._worker.submit(self._fetch, fd, names)

    def _fetch(self, fd: int, names: list[bytes]) -> None:
        for name in names:
            fetch_files(fd, name, _DIRECTORY_BYTES)
        self._held.discard(fd)
        os.close(fd)

    def close(self) -> None:
        """Forget what was not begun yet, and let go of everything."""
        if self._worker is not None:
            self._worker.shutdown(cancel_futures=True)
            self._worker = None
        while self._held:
            os.close(self._held.pop())
