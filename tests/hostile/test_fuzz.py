"""Whatever bytes come, a decoder gives a valid value or the one error that it names."""

from __future__ import annotations

import sys

import pytest

if sys.platform == "win32":
    pytest.skip("acted out with POSIX files and sockets", allow_module_level=True)

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.hostile import decoders, fuzz
from twinfold.client.ignore import IgnoreRules
from twinfold.client.tree import open_root
from twinfold.errors import UsageError

SEED = 7
SECONDS = 6.0


def test_decoders_survive_spoilt_messages(tmp_path: Path) -> None:
    """Each decoder gets the same time; the seed of a run that fails is printed with the input."""
    outcome = fuzz.run(SEED, SECONDS, tmp_path)
    print(f"seed {SEED}:", outcome.figures)
    assert not outcome.failures, "\n".join(f"{f.replay}\n{f.told}" for f in outcome.failures)


def test_a_pattern_that_is_no_regular_expression(tmp_path: Path) -> None:
    """Its line is named like any other that is no pattern; the others are kept."""
    (tmp_path / ".twinfoldignore").write_bytes(b"*.o\n[z-a]\n")
    rules = IgnoreRules([])
    with open_root(bytes(tmp_path)) as root:
        assert rules.reload(root) == ["[z-a]"]
    assert not rules.keeps(b"a.o", False)
    assert rules.keeps(b"a.c", False)
    with pytest.raises(UsageError):
        IgnoreRules(["[z-a]"])


def test_a_question_that_is_nested_without_end(tmp_path: Path) -> None:
    """Whoever may reach the control socket cannot make the client show a traceback."""
    with decoders.Decoders(tmp_path) as known:
        socket = next(one for one in known if one.name == "control socket")
        socket.read(b'{"a":' * 5_000 + b"\n")


if sys.platform == "linux":
    from tests.hostile.decoders import inotify_records
    from twinfold.client.inotify_calls import parse_events

    _NUMBER = st.integers(0, (1 << 32) - 1)
    _NAME = st.binary(max_size=255).map(lambda name: name.replace(b"\0", b"n"))
    _EVENTS = st.lists(st.tuples(st.integers(-1, (1 << 31) - 1), _NUMBER, _NUMBER, _NAME))

    @given(_EVENTS)
    def test_inotify_records(events: list[tuple[int, int, int, bytes]]) -> None:
        """Records are read as the kernel wrote them, whatever the names are."""
        assert list(parse_events(inotify_records(events))) == events
