"""What ``twinfold server`` shows: how to reach it, and calmly what arrives."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from twinfold.addresses import for_other_machines
from twinfold.config import is_loopback
from twinfold.core.paths import display
from twinfold.output import tell_line, write_line
from twinfold.screen.story import one_line
from twinfold.screen.text import clock, count, size
from twinfold.server.events import (
    AtticGaveWay,
    Committed,
    Event,
    Indexing,
    Listening,
    Message,
    SessionOpened,
)

SUMMARY_EVERY_S = 2.0
LOG_EVERY_S = 30.0


def banner(listening: Listening) -> str:
    """Return the lines with which a server says where it is and how a client gets in."""
    address = listening.address
    lines = [
        f"twinfold server: keeps {display(listening.destination)}",
        f"address: {address.url}",
        "",
        "same machine, same user:",
        "  twinfold client SOURCE",
    ]
    if is_loopback(address.host):
        lines.append("same machine, any user:")
    else:
        lines.append("any machine:")
    lines.append(f"  twinfold client SOURCE --server '{for_other_machines(address).invite}'")
    if is_loopback(address.host):
        lines.append(f"other machines: start it with --listen 0.0.0.0:{address.port}")
    lines += ["", "The invite lets in whoever has it. Ctrl-C stops the server; nothing is lost."]
    return "\n".join(lines)


def _session_text(event: SessionOpened) -> str:
    at = f" ({event.address})" if event.address else ""
    over = f", in the place of {event.replaced}" if event.replaced else ""
    return one_line(f"client connected: {event.client}{at}{over}")


def _indexing_text(event: Indexing) -> str:
    if not event.files and not event.size_bytes:
        return "indexing what is there already; clients are let in when it is done"
    so_far = f"{count(event.files, 'file')}, {size(event.size_bytes)}"
    return f"indexed {so_far}" if event.is_done else f"indexing: {so_far} so far"


class Arrivals:
    """Adds up what was committed; says it at most every two seconds."""

    def __init__(self) -> None:
        self._changes = 0
        self._size_bytes = 0
        self._said_at_s = float("-inf")

    def note(self, event: Committed) -> None:
        """Take in a commit."""
        self._changes += event.changes
        self._size_bytes += event.size_bytes

    def due(self, now_s: float) -> str | None:
        """Return the line to print now, if there is one."""
        if not self._changes or now_s - self._said_at_s < SUMMARY_EVERY_S:
            return None
        line = f"received {count(self._changes, 'change')}, {size(self._size_bytes)}"
        self._said_at_s = now_s
        self._changes = self._size_bytes = 0
        return line


class ServerScreen:
    """A listener for the server; on a terminal it shows clients and arrivals too."""

    def __init__(self, terminal: bool) -> None:
        self._terminal = terminal
        self._arrivals = Arrivals()
        self._indexing_said_s = float("-inf")
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._teller = threading.Thread(target=self._tell, name="screen", daemon=True)

    def announce(self, listening: Listening) -> None:
        """Print the banner; on a terminal, what is to be typed stands out."""
        text = banner(listening)
        if not self._terminal:
            write_line(text)
            return
        from rich.text import Text

        from twinfold.screen.live import terminal_console

        bold = Text(text)
        bold.highlight_regex(r"(?m)^  twinfold client .*$", "bold green")
        terminal_console().print(bold, soft_wrap=True)

    def __enter__(self) -> ServerScreen:
        """Begin to tell what arrives."""
        if self._terminal:
            self._teller.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop telling."""
        self._stopping.set()
        if self._terminal:
            self._teller.join()

    def __call__(self, event: Event) -> None:
        """Take in an event; any thread may call."""
        match event:
            case Message():
                self._write(one_line(event.text))
            case AtticGaveWay():
                self._write(
                    "room ran low: the attic's oldest gave way,"
                    f" {count(event.entries, 'entry', 'entries')}, {size(event.size_bytes)}"
                )
            case Indexing() if self._terminal or self._is_due(event, time.monotonic()):
                self._write(_indexing_text(event))
            case SessionOpened() if self._terminal:
                self._write(_session_text(event))
            case Committed():
                with self._lock:
                    self._arrivals.note(event)

    def _is_due(self, event: Indexing, now_s: float) -> bool:
        if not event.is_done and now_s - self._indexing_said_s < LOG_EVERY_S:
            return False
        self._indexing_said_s = now_s
        return True

    def _tell(self) -> None:
        while not self._stopping.wait(0.25):
            with self._lock:
                line = self._arrivals.due(time.time())
            if line:
                self._write(line)

    def _write(self, line: str) -> None:
        tell_line(f"{clock(time.time())} {line}")
