"""The client's live screen: one or two lines at the bottom, and above them what went by."""

from __future__ import annotations

import math
import threading
import time
from types import TracebackType

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from twinfold.client.events import Applied, Event, Held
from twinfold.config import ClientSettings
from twinfold.core.paths import display
from twinfold.output import telling
from twinfold.screen.story import Line, Story, one_line
from twinfold.screen.text import (
    clock,
    count,
    countdown,
    cut_end,
    cut_middle,
    join_fitting,
    moment,
    size,
)

FRAME_S = 0.1
IDLE_S = 1.0
LABEL_CELLS = 11

LONGEST_PATH_CELLS = 1_000

_TEXT_STYLES = {"problem": "yellow", "held": "red", "more": "dim"}
_LABEL_STYLES = {
    "put": "green",
    "mkdir": "green",
    "symlink": "green",
    "move": "cyan",
    "delete": "magenta",
    "attributes": "dim",
    "problem": "yellow",
    "held": "bold red",
    "in sync": "bold green",
}
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class LiveScreen:
    """A listener that draws; use it as a context manager, call it from any thread."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._story = Story()
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._live = Live(
            self,
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._painter = threading.Thread(target=self._paint, name="screen", daemon=True)

    def __enter__(self) -> LiveScreen:
        """Begin to draw."""
        cells = self._console.width - 1
        self._console.print(Text(cut_middle(self._title, cells), style="bold"), soft_wrap=True)
        self._live.start()
        self._painter.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Take the live lines away and leave the others."""
        self._stopping.set()
        self._changed.set()
        self._painter.join()
        with telling():
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Take in an event."""
        now_s = time.time()
        with self._lock:
            lines = self._story.note(event, now_s)
        if lines:
            texts = [styled_line(line, now_s, self._console.width - 1) for line in lines]
            with telling():
                self._console.print(Text("\n").join(texts), soft_wrap=True)
        if lines or not isinstance(event, Applied):
            self._changed.set()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw what goes on now."""
        with self._lock:
            yield now_lines(self._story, time.time(), options.max_width - 1)

    def _paint(self) -> None:
        drawn_width = 0
        while not self._stopping.is_set():
            changed = self._changed.is_set()
            self._changed.clear()
            if changed or is_moving(self._story) or drawn_width != self._console.width:
                drawn_width = self._console.width
                with telling():
                    self._live.refresh()
            self._stopping.wait(FRAME_S)
            if not is_moving(self._story):
                self._changed.wait(IDLE_S)


def terminal_console() -> Console:
    """Return standard output as rich draws on it: no markup, no guessing; NO_COLOR counts."""
    return Console(highlight=False, markup=False, emoji=False)


def title(settings: ClientSettings) -> str:
    """Return the line above everything: what goes where."""
    return f"twinfold: {display(settings.source)} -> {settings.address.url}"


def is_moving(story: Story) -> bool:
    """Tell whether the picture changes with time alone: a countdown or a spinner."""
    if story.waiting is not None:
        return True
    return story.held is None and story.activity != "live"


def styled_line(line: Line, now_s: float, cells: int) -> Text:
    """Return a line that stays: a change is cut to ``cells``, what needs reading is not."""
    text = Text()
    if cells >= 50:
        text.append(f"{clock(now_s)} ", style="dim")
    text.append(f"{line.label:<{LABEL_CELLS}}", style=_LABEL_STYLES.get(line.label, ""))
    room = max(8, cells - text.cell_len)
    shown = cut_middle(line.text, room if line.kind == "change" else LONGEST_PATH_CELLS)
    text.append(shown, style=_TEXT_STYLES.get(line.kind, ""))
    if line.detail:
        text.append(f": {line.detail}", style=_TEXT_STYLES.get(line.kind, ""))
    return text


def now_lines(story: Story, now_s: float, cells: int) -> Table | Text:
    """Return what goes on now: the bar of a first sync, or one calm line."""
    if story.waiting is not None:
        return _waiting_line(story, now_s, cells)
    if story.held is not None:
        return _held_line(story, story.held, now_s, cells)
    if story.last is not None:
        return _live_line(story, now_s, cells)
    if story.fraction is not None and story.progress.files:
        return _bar(story, story.fraction, cells)
    return _beginning_line(story, now_s, cells)


def _waiting_line(story: Story, now_s: float, cells: int) -> Text:
    reason = one_line(story.waiting.reason) if story.waiting else ""
    left_s = story.retry_at_s - now_s
    when = f"next try in {countdown(math.ceil(left_s))}" if left_s > 0 else "trying now"
    parts = [f"waiting: {when}", cut_end(reason, max(20, cells - 30))]
    if story.last is not None:
        parts.append(f"was in sync at {moment(story.last_at_s, now_s)}")
    return Text(join_fitting(parts, cells), style="yellow")


def _held_line(story: Story, held: Held, now_s: float, cells: int) -> Text:
    parts = [
        f"held: {count(held.deletions, 'deletion')}",
        "to let them go: twinfold release SOURCE",
    ]
    if story.last is not None:
        parts.append(f"was in sync at {moment(story.last_at_s, now_s)}")
    parts.append("other changes go on")
    text = Text(join_fitting(parts, cells))
    text.stylize("bold red", 0, 5)
    return text


def _live_line(story: Story, now_s: float, cells: int) -> Text:
    last = story.last
    if last is None:
        return Text()
    parts = [f"live: in sync as of {moment(story.last_at_s, now_s)}"]
    if story.activity != "live":
        parts = [f"live: {_busy_text(story)}", f"in sync at {moment(story.last_at_s, now_s)}"]
    if last.problems:
        parts.append(count(last.problems, "problem"))
    parts += [count(last.files, "file"), size(last.size_bytes)]
    parts.append(f"last: {size(last.sent_bytes)} sent")
    text = Text(join_fitting(parts, cells))
    text.stylize("bold green" if story.activity == "live" else "bold cyan", 0, 5)
    text.highlight_regex(r"[\d,]+ problems?", "yellow")
    return text


def _busy_text(story: Story) -> str:
    if story.activity != "syncing":
        return story.activity
    return f"sending, {count(story.changes, 'change')} done"


def _beginning_line(story: Story, now_s: float, cells: int) -> Text:
    spinner = _SPINNER[int(now_s * 10) % len(_SPINNER)]
    parts = [f"{spinner} {story.activity}"]
    if story.comparing and story.activity == "comparing":
        parts.append(f"{count(story.comparing, 'entry', 'entries')} at the server")
    if story.counted is not None:
        parts.append(f"{count(story.counted.files, 'file')} found")
        parts.append(size(story.counted.size_bytes))
    elif story.progress.files:
        parts.append(f"{count(story.progress.files, 'file')} done")
        parts.append(size(story.progress.size_bytes))
    return Text(join_fitting(parts, cells), style="cyan")


def _bar(story: Story, fraction: float, cells: int) -> Table:
    left_s = story.left_s
    left = f"{countdown(left_s)} left" if left_s is not None else ""
    end = f"{fraction:4.0%}" + (f" {left:>12}" if cells >= 40 else "")
    bar = ProgressBar(total=1.0, completed=fraction, width=max(4, min(70, cells - len(end) - 2)))
    first = Table.grid(padding=(0, 1))
    first.add_row(bar, Text(end))
    table = Table.grid()
    table.add_row(first)
    table.add_row(Text(join_fitting(_figures(story), cells), style="dim"))
    return table


def _figures(story: Story) -> list[str]:
    progress, counted = story.progress, story.counted
    if counted is None:
        return [count(progress.files, "file")]
    parts = [
        f"{progress.files:,} of {count(counted.files, 'file')}",
        f"{size(progress.size_bytes)} of {size(counted.size_bytes)}",
    ]
    speed = story.pace.per_second()
    if speed is not None:
        parts.append(f"{size(speed)}/s")
    parts.append(f"{size(progress.reused_bytes)} saved")
    return parts
