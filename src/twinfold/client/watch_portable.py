"""Watching on macOS and Windows, by what watchdog offers there.

The system watches the whole tree by itself and tells paths, not directories, so there is nothing
to keep: every move is a name that went and a tree that appeared. Events arrive by threads of
their own, so nobody can know whether all of them are in.

Where watchdog drops the system's word that events were lost, its reader is extended here.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedNoWriteEvent,
    FileOpenedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver

from twinfold.client.watch import Dirty, Gathering, directory_identity, joined
from twinfold.model import RESERVED_ROOT_NAME

if sys.platform == "darwin":
    from watchdog.observers.fsevents import FSEventsEmitter
elif sys.platform == "win32":
    from watchdog.observers.read_directory_changes import WindowsApiEmitter
    from watchdog.observers.winapi import DirectoryChangeReader
else:
    from watchdog.observers import Observer

SEPARATOR = os.sep.encode()

# Of FSEvents: must scan below, dropped in the user's or the kernel's part, identifiers wrapped,
# a file system mounted or unmounted below.
FSEVENTS_LOST = 0x01 | 0x02 | 0x04 | 0x08 | 0x40 | 0x80
FSEVENTS_ROOT_CHANGED = 0x20
FSEVENTS_APPEARED = 0x100 | 0x800
FSEVENTS_DIRECTORY = 0x20000

ENDED = "the system's reports of changes have ended"


class Notices:
    """What the threads of an observer have told, by path."""

    def __init__(self, root: bytes) -> None:
        self._root = os.path.realpath(root)
        self._prefix = self._root.rstrip(SEPARATOR) + SEPARATOR
        self._lock = threading.Lock()
        self._gathered: Gathering[bytes] = Gathering()
        self._listener: Callable[[], object] | None = None
        self.failure: str | None = None
        self.root_gone = False

    def note(self, path: bytes | str, *, new_directory: bool = False) -> None:
        """Something changed at this absolute path, or a directory appeared there."""
        relative = self._relative(os.fsencode(path))
        with self._lock:
            if relative is None:
                self._gathered.lose()
            elif not relative:
                self._gathered.note_directory(b"")
            elif relative.split(b"/", 1)[0] != RESERVED_ROOT_NAME:
                directory, _, name = relative.rpartition(b"/")
                self._gathered.note_name(directory, name)
                if new_directory:
                    self._gathered.note_tree(directory, name)
            else:
                return
            self._tell()

    def lose(self, failure: str | None = None) -> None:
        """Events were missed; with a failure, there will be no more of them at all."""
        with self._lock:
            self._gathered.lose()
            self.failure = self.failure or failure
            self._tell()

    def lose_root(self) -> None:
        """The root was moved or deleted."""
        self.root_gone = True
        self.lose()

    def take(self) -> Dirty:
        """Return and forget what is dirty."""
        with self._lock:
            gathered, self._gathered = self._gathered, Gathering()
        trees = {joined(directory, name) for directory, name in gathered.trees}
        return Dirty(names=gathered.names, trees=trees, lost=gathered.lost)

    def listen(self, listener: Callable[[], object] | None) -> bool:
        """Call the listener at every notice from now on; whether there already is one."""
        with self._lock:
            self._listener = listener
            return bool(self._gathered.names or self._gathered.trees or self._gathered.lost)

    def _tell(self) -> None:
        if self._listener is not None:
            self._listener()

    def _relative(self, path: bytes) -> bytes | None:
        if path == self._root:
            return b""
        if not path.startswith(self._prefix):
            return None
        relative = path[len(self._prefix) :]
        return relative.replace(SEPARATOR, b"/")


class PortableWatcher:
    """Watches the whole tree through watchdog; a `collect` may come before the latest events."""

    sees_everything_before_collect = False

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._identity = directory_identity(root)
        self._notices = Notices(root)
        self._closed = False
        self._stop_waiting: Callable[[], object] | None = None
        self._observer = _observer(self._notices)
        self._observer.schedule(
            _Handler(self._notices), os.fsdecode(os.path.realpath(root)), recursive=True
        )
        self._observer.start()

    @property
    def incomplete(self) -> str | None:
        """Say in one line why changes are not noticed, or None if they are."""
        self._look_for_end()
        return self._notices.failure

    @property
    def root_gone(self) -> bool:
        """Whether the root was moved, deleted, unmounted or replaced since the start."""
        return self._notices.root_gone or directory_identity(self._root) != self._identity

    def watch_directory(self, path: bytes, fd: int | None) -> None:
        """Do nothing: the system watches the whole tree."""

    def collect(self) -> Dirty:
        """Return and forget what is dirty, as far as it has been told."""
        self._look_for_end()
        return self._notices.take()

    async def changed(self) -> None:
        """Return as soon as there is something to collect; for one task at a time."""
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        self._stop_waiting = woken.set
        try:
            if not self._closed and not self._notices.listen(
                lambda: loop.call_soon_threadsafe(woken.set)
            ):
                await woken.wait()
        finally:
            self._stop_waiting = None
            self._notices.listen(None)

    def close(self) -> None:
        """End watching; called in the thread of the event loop. A waiting `changed` returns."""
        if self._closed:
            return
        self._closed = True
        if self._stop_waiting is not None:
            self._stop_waiting()
        self._observer.stop()
        self._observer.join()

    def _look_for_end(self) -> None:
        threads = [self._observer, *self._observer.emitters]
        if (
            not self._closed
            and self._notices.failure is None
            and not all(thread.is_alive() for thread in threads)
        ):
            self._notices.lose(ENDED)


class _Handler(FileSystemEventHandler):
    """Takes watchdog's own events, where no more direct way is taken below."""

    def __init__(self, notices: Notices) -> None:
        self._notices = notices

    def dispatch(self, event: FileSystemEvent) -> None:
        if isinstance(event, (FileOpenedEvent, FileClosedNoWriteEvent)):
            return
        created = isinstance(event, DirCreatedEvent)
        if event.src_path:
            self._notices.note(event.src_path, new_directory=created)
        if event.dest_path:
            moved = isinstance(event, DirMovedEvent)
            self._notices.note(event.dest_path, new_directory=moved)


def note_fsevents(notices: Notices, paths: list[Any], flags: list[int]) -> None:
    """Take a batch of FSEvents as the system tells them: absolute paths and their flags."""
    for path, flag in zip(paths, flags, strict=True):
        if flag & FSEVENTS_ROOT_CHANGED:
            notices.lose_root()
        elif flag & FSEVENTS_LOST:
            notices.lose()
        else:
            appeared = bool(flag & FSEVENTS_DIRECTORY and flag & FSEVENTS_APPEARED)
            notices.note(path, new_directory=appeared)


if sys.platform == "darwin":

    class _FSEventsEmitter(FSEventsEmitter):
        """Passes on what the system says: watchdog's reading drops lost events and hard links."""

        def __init__(self, *arguments: Any, notices: Notices, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._notices = notices

        def events_callback(
            self, paths: list[bytes], inodes: list[int], flags: list[int], ids: list[int]
        ) -> None:
            note_fsevents(self._notices, paths, flags)

    def _observer(notices: Notices) -> BaseObserver:
        return BaseObserver(_FSEventsEmitter, notices=notices)

elif sys.platform == "win32":

    class _Reader(DirectoryChangeReader):
        """Tells of an overflow, which is an answer without content, and of its own end."""

        def __init__(self, path: str, notices: Notices) -> None:
            super().__init__(path, recursive=True)
            self._notices = notices

        def _run_inner(self, handle: Any, event_buffer: Any, nbytes: Any) -> None:
            super()._run_inner(handle, event_buffer, nbytes)
            if nbytes.value == 0 and not self._should_stop:
                self._notices.lose()

        def _run(self) -> None:
            try:
                super()._run()
            finally:
                if not self._should_stop:
                    self._notices.lose(ENDED)

    class _WindowsEmitter(WindowsApiEmitter):
        """Passes on the names that the system says, without walking through moved trees."""

        def __init__(self, *arguments: Any, notices: Notices, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._notices = notices

        def on_thread_start(self) -> None:
            reader = _Reader(self.watch.path, self._notices)
            with self._lock:
                self._reader = reader
            reader.start()

        def queue_events(self, timeout: float) -> None:
            with self._lock:
                reader = self._reader
            for event in reader.get_events(timeout) if reader is not None else ():
                if event.is_removed_self:
                    self._notices.lose_root()
                    self.stop()
                    return
                path = os.path.join(self.watch.path, event.src_path)
                appeared = (event.is_added or event.is_renamed_new) and os.path.isdir(path)
                self._notices.note(path, new_directory=appeared)

    def _observer(notices: Notices) -> BaseObserver:
        return BaseObserver(_WindowsEmitter, notices=notices)

else:

    def _observer(notices: Notices) -> BaseObserver:
        return Observer()
