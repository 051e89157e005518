"""What people see is right, calm, and safe for their terminal, whatever the events carry."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from twinfold.client.events import (
    Applied,
    Comparing,
    Connecting,
    Counted,
    Event,
    Held,
    InSync,
    Problem,
    Progress,
    Scanning,
    Status,
    Waiting,
)
from twinfold.config import ClientSettings, ServerAddress
from twinfold.screen.banner import Arrivals, ServerScreen, banner
from twinfold.screen.live import LiveScreen, is_moving, now_lines, styled_line, title
from twinfold.screen.plain import DryRunScreen, PlainScreen, line_text
from twinfold.screen.story import Line, Story
from twinfold.screen.table import status_text
from twinfold.screen.text import (
    countdown,
    cut_end,
    cut_middle,
    elapsed,
    join_fitting,
    moment,
    size,
    width,
)
from twinfold.server.events import Committed, Indexing, Listening, Message, SessionOpened

DONE = InSync(78_579, 1_298_681_992, 229_007_562, 31 << 20, 9.1, 0)
LOOPBACK = ServerAddress("127.0.0.1", 8730, tls=False, token="secret")


def told(*events: Event, story: Story | None = None, step_s: float = 0.0) -> list[str]:
    """Feed events and return the lines that stay, as plain text."""
    story = story or Story()
    lines = []
    for number, event in enumerate(events):
        lines += story.note(event, 1_000.0 + number * step_s)
    return [" ".join(line_text(line).split()) for line in lines]


def drawn(story: Story, cells: int = 100, now_s: float = 1_000.0) -> list[str]:
    """Return the live lines at a width."""
    out = io.StringIO()
    console = Console(file=out, width=cells + 1, color_system=None, legacy_windows=False)
    console.print(now_lines(story, now_s, cells), soft_wrap=True)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def put(number: int) -> Applied:
    return Applied("put", b"file %d" % number)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1_000, "1.0 KiB"),
        (100 << 10, "100 KiB"),
        (1_298_681_992, "1.2 GiB"),
        (1 << 60, "1024 PiB"),
    ],
)
def test_sizes_have_three_digits_and_a_unit(size_bytes: int, text: str) -> None:
    assert size(size_bytes) == text


def test_times_are_short() -> None:
    assert [countdown(s) for s in (-1, 9.4, 754, 3_723)] == ["0:00", "0:09", "12:34", "1:02:03"]
    assert [elapsed(s) for s in (0.031, 9.14, 754)] == ["0.03 s", "9.1 s", "12:34"]


def test_moment_has_a_date_unless_it_is_today() -> None:
    now_s = 1_700_000_000.0
    assert len(moment(now_s, now_s)) == len("14:02:07")
    assert len(moment(now_s - 200_000, now_s)) == len("2023-11-12 14:02:07")


@given(st.text(), st.integers(0, 40))
def test_cut_text_fits(text: str, cells: int) -> None:
    assert width(cut_middle(text, cells)) <= cells
    assert width(cut_end(text, cells)) <= cells


@given(st.text(st.characters(codec="ascii", min_codepoint=32)), st.integers(0, 40))
def test_text_that_fits_is_not_cut(text: str, cells: int) -> None:
    if len(text) <= cells:
        assert cut_middle(text, cells) == cut_end(text, cells) == text


def test_long_names_keep_their_end() -> None:
    assert cut_middle("drivers/net/wireless/power.c", 16) == "drive…ss/power.c"
    assert cut_middle("日本語日本語.txt", 9) == "日…本語.txt"[-8:] or width("日") == 2


def test_parts_that_do_not_fit_are_left_out_from_the_right() -> None:
    assert join_fitting(["live", "10 files", "1 MiB"], 15) == "live · 10 files"


def test_first_cycle_of_many_changes_shows_only_its_sum() -> None:
    lines = told(*(put(n) for n in range(78_579)), DONE)
    assert lines == ["in sync 78,579 files, 1.2 GiB, 218 MiB sent, 31.0 MiB saved, 9.1 s"]


def test_first_cycle_of_few_changes_shows_them() -> None:
    lines = told(put(1), put(2), DONE)
    assert lines[:2] == ["put file 1", "put file 2"]


def test_live_changes_go_by_at_once() -> None:
    story = Story()
    told(DONE, story=story)
    assert told(put(1), story=story) == ["put file 1"]
    assert told(Applied("move", b"new", b"old"), story=story) == ["move old -> new"]


def test_many_changes_at_once_are_summed_up() -> None:
    story = Story()
    told(DONE, story=story)
    lines = told(*(put(n) for n in range(1_244)), DONE, story=story)
    assert (len(lines), lines[-1]) == (11, "1,234 more")


def test_changes_that_come_slowly_are_all_shown() -> None:
    story = Story()
    told(DONE, story=story)
    assert len(told(*(put(n) for n in range(50)), story=story, step_s=0.2)) == 50


def test_a_problem_is_told_once_with_its_reason() -> None:
    story = Story()
    problem = Problem(b"run/fifo", "a FIFO is not synchronised")
    lines = told(problem, problem, story=story)
    assert lines == ["problem run/fifo: a FIFO is not synchronised"]


def test_a_problem_that_went_away_is_told_again_when_it_returns() -> None:
    story = Story()
    problem = Problem(b"a", "busy")
    assert told(problem, DONE, problem, story=story).count("problem a: busy") == 2


@pytest.mark.parametrize("before", [[], [DONE]], ids=["from the start", "later"])
def test_held_deletions_are_told_and_stay_until_in_sync(before: list[Event]) -> None:
    """Whatever else goes on meanwhile."""
    story = Story()
    told(*before, story=story)
    held = Held("too many", 4_711)
    changes: list[Event] = [Scanning(), Applied("put", b"a"), Progress(1, 1, 1, 0), held]
    lines = told(held, *changes, story=story)
    assert lines[0] == "held 4,711 deletions: too many"
    assert not [line for line in lines[1:] if "held" in line]
    assert drawn(story)[0].startswith("held: 4,711 deletions")
    assert not is_moving(story)
    told(DONE, story=story)
    assert "held" not in drawn(story)[0]


@given(st.binary(max_size=40), st.binary(max_size=40), st.text(max_size=40))
def test_nothing_in_names_or_reasons_acts_on_a_terminal(
    path: bytes, source: bytes, reason: str
) -> None:
    events: list[Event] = [
        Applied("move", path, source),
        Problem(path, reason),
        Held(reason, 1),
        Waiting(reason, 1.0),
    ]
    story = Story()
    told(DONE, story=story)
    for event in events:
        texts = [styled_line(line, 0.0, 60).plain for line in story.note(event, 1_000.0)]
        texts += drawn(story)
        assert all(text.isprintable() for text in texts)


def test_first_sync_shows_a_bar_with_files_bytes_rate_savings_and_time_left() -> None:
    story = Story()
    told(Connecting("u"), Scanning(), Counted(100, 100 << 20), story=story)
    for second in range(4):
        done = 10 * (second + 1)
        story.note(Progress(done, done << 20, 0, 5 << 20), 1_000.0 + second)
    first, second_line = drawn(story)
    assert "━" in first
    assert first.endswith("40%    0:06 left")
    assert second_line == "40 of 100 files · 40.0 MiB of 100 MiB · 10.0 MiB/s · 5.0 MiB saved"


@pytest.mark.parametrize("cells", [100, 60, 40, 20])
@pytest.mark.parametrize(
    "events",
    [
        [Connecting("http://127.0.0.1:8730")],
        [Waiting("connection refused " * 10, 3.0)],
        [Comparing(1_234_567)],
        [Scanning(), Counted(5, 5)],
        [Scanning(), Progress(5, 5, 5, 5)],
        [Scanning(), Counted(78_579, 1 << 40), Progress(12_345, 1 << 39, 1 << 38, 1 << 37)],
        [DONE],
        [DONE, put(1)],
        [DONE, Scanning()],
        [DONE, Waiting("away", 3.0)],
        [Held("no", 5), InSync(5, 5, 5, 5, 0.1, 7)],
    ],
)
def test_live_lines_fit_any_width(events: list[Event], cells: int) -> None:
    story = Story()
    told(*events, story=story, step_s=0.3)
    lines = drawn(story, cells)
    assert lines
    assert max(width(line) for line in lines) <= cells
    assert len(lines) <= 2


def test_live_line_says_when_it_was_in_sync_and_with_what() -> None:
    story = Story()
    story.note(DONE, 1_000.0)
    line = drawn(story, 120)[0]
    assert line.startswith(f"live: in sync as of {moment(1_000.0, 1_000.0)} · 78,579 files")


def test_in_sync_is_not_said_while_changes_are_on_their_way() -> None:
    story = Story()
    told(DONE, put(1), story=story)
    assert "in sync as of" not in drawn(story)[0]


def test_a_rescan_that_finds_nothing_leaves_the_live_line_as_it_is() -> None:
    story = Story()
    told(DONE, Scanning(), story=story)
    assert drawn(story)[0].startswith("live: in sync as of")


def test_waiting_counts_down_and_then_says_that_it_tries() -> None:
    story = Story()
    story.note(Waiting("connection refused", 3.0), 1_000.0)
    assert drawn(story, now_s=1_000.0)[0] == "waiting: next try in 0:03 · connection refused"
    assert drawn(story, now_s=1_002.2)[0].startswith("waiting: next try in 0:01")
    story.note(Connecting("u"), 1_003.0)
    assert drawn(story, now_s=1_003.1)[0].startswith("waiting: trying now")


def test_changes_are_cut_and_reasons_are_not() -> None:
    long = "a/" * 100
    assert styled_line(Line("change", "put", long), 0.0, 60).cell_len == 60
    assert styled_line(Line("problem", "problem", long, "why"), 0.0, 60).plain.endswith("a/: why")


def test_live_screen_leaves_the_lines_and_takes_the_live_line_away() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system=None)
    settings = ClientSettings(source=b"/src", address=LOOPBACK, state_dir=Path("state"))
    with LiveScreen(console, title(settings)) as screen:
        events: list[Event] = [Connecting("u"), Scanning(), DONE, put(1), DONE]
        for event in events:
            screen(event)
    text = out.getvalue()
    assert "twinfold: /src -> http://127.0.0.1:8730" in text
    assert "file 1" in text
    assert text.endswith("\x1b[?25h") or "\x1b[2K" in text.rpartition("file 1")[2]


def test_plain_screen_has_no_colour_and_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    screen = PlainScreen()
    events: list[Event] = [
        Connecting("http://127.0.0.1:8730"),
        Waiting("connection refused", 1.0),
        Waiting("connection refused", 2.0),
        Scanning(),
        Counted(2, 5),
        Progress(1, 2, 2, 0),
        Problem(b"\x1b[31mred", "busy"),
        DONE,
        put(7),
        DONE,
    ]
    for event in events:
        screen(event)
    lines = [line[9:] for line in capsys.readouterr().out.splitlines()]
    done = "in sync    78,579 files, 1.2 GiB, 218 MiB sent, 31.0 MiB saved, 9.1 s"
    assert lines == [
        "connecting to http://127.0.0.1:8730",
        "waiting for the server: connection refused",
        "scanning",
        "found 2 files, 5 B",
        "problem    \\x1b[31mred: busy",
        done,
        "put        file 7",
        done.replace("in sync    ", "in sync: "),
    ]


def test_dry_run_lists_every_change(capsys: pytest.CaptureFixture[str]) -> None:
    screen = DryRunScreen()
    changes = [put(number) for number in range(100)]
    events: list[Event] = [Scanning(), *changes, Problem(b"p", "why"), DONE]
    for event in events:
        screen(event)
    screen.finish()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "put        file 0"
    assert lines[-2:] == [
        "problem    p: why",
        "100 changes would be made; nothing was sent or changed",
    ]
    assert len(lines) == 102


def test_banner_on_loopback_has_both_lines_to_paste() -> None:
    lines = banner(Listening(LOOPBACK, b"/dest", b"id")).splitlines()
    assert "  twinfold client SOURCE" in lines
    assert "  twinfold client SOURCE --server 'twinfold://secret@127.0.0.1:8730'" in lines


def test_banner_of_a_server_on_all_addresses_names_one_that_others_can_use() -> None:
    address = ServerAddress("0.0.0.0", 8730, tls=True, token="t", fingerprint="0" * 64)
    text = banner(Listening(address, b"/dest", b"id"))
    assert "@0.0.0.0" not in text
    assert f":8730#sha256-{'0' * 64}'" in text


def test_arrivals_are_summed_up_every_two_seconds() -> None:
    arrivals = Arrivals()
    arrivals.note(Committed(1, 2, 1_024))
    assert arrivals.due(10.0) == "received 2 changes, 1.0 KiB"
    for revision in range(2, 5):
        arrivals.note(Committed(revision, 1_000, 1 << 20))
    assert arrivals.due(11.0) is None
    assert arrivals.due(12.0) == "received 3,000 changes, 3.0 MiB"
    assert arrivals.due(20.0) is None


@pytest.mark.parametrize("terminal", [True, False])
def test_server_tells_of_clients_on_a_terminal_only(
    terminal: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with ServerScreen(terminal) as screen:
        screen(SessionOpened("lap\x1btop"))
        screen(Message("drift repaired"))
    out = capsys.readouterr().out
    assert ("client connected: lap\\x1btop" in out) == terminal
    assert "drift repaired" in out


@pytest.mark.parametrize(("terminal", "shown"), [(True, 5), (False, 2)])
def test_a_server_tells_how_far_its_indexing_is(
    terminal: bool, shown: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal each time, in a log now and then; the sum in any case."""
    with ServerScreen(terminal) as screen:
        for files in range(4):
            screen(Indexing(files, files * 2_048))
        screen(Indexing(4, 8_192, is_done=True))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == shown
    assert "clients are let in when it is done" in lines[0]
    assert lines[-1].endswith("indexed 4 files, 8.0 KiB")


def test_a_server_tells_who_took_over(capsys: pytest.CaptureFixture[str]) -> None:
    with ServerScreen(True) as screen:
        screen(SessionOpened("laptop:/b", "192.0.2.7", "desktop:/a"))
    out = capsys.readouterr().out
    assert "client connected: laptop:/b (192.0.2.7), in the place of desktop:/a" in out


def status(source: str, problems: int = 0, in_sync_at: float | None = 1_000.0) -> Status:
    return Status(
        source=source,
        server="http://127.0.0.1:8730",
        pid=1,
        activity="live",
        detail="",
        files=78_579,
        size_bytes=1_298_681_992,
        sent_bytes=1,
        reused_bytes=2,
        problems=[Problem(b"p%d" % n, "why") for n in range(problems)],
        in_sync_at=in_sync_at,
        in_sync=True,
    )


def test_status_is_a_table_of_clients() -> None:
    lines = status_text([status("/a"), status("/b", in_sync_at=None)], 1_000.0, None).splitlines()
    assert lines[0].split() == [
        "SOURCE",
        "SERVER",
        "ACTIVITY",
        "FILES",
        "SIZE",
        "IN",
        "SYNC",
        "AS",
        "OF",
        "PROBLEMS",
    ]
    assert lines[1].split()[:5] == ["/a", "http://127.0.0.1:8730", "live", "78,579", "1.2"]
    assert "never" in lines[2]


def test_status_lists_problems_but_not_without_end() -> None:
    lines = status_text([status("/a", problems=25)], 1_000.0, None).splitlines()
    assert lines[2] == "/a: p0: why"
    assert lines[-1] == "/a: 5 more problems"


def test_status_cuts_long_paths_to_the_terminal() -> None:
    lines = status_text([status("/a" * 200)], 1_000.0, 100).splitlines()
    assert max(width(line) for line in lines) <= 100
