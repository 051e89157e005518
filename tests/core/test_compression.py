"""How hard to compress, from what was measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinfold.core.compression import (
    LEVELS,
    CompressionChooser,
    Level,
    SendingTime,
    is_incompressible,
)

MIB = 1 << 20


def test_fixed_choices() -> None:
    """Off is off and a level is that level, for any size."""
    assert CompressionChooser(0).level(MIB) is None
    assert CompressionChooser(7).level(10) == 7


def test_small_bodies_are_compressed_well() -> None:
    """A small edit costs few bytes, however fast the network is."""
    assert CompressionChooser(None).level(1_000) == 3


@pytest.mark.parametrize(
    ("fixed", "size", "expected"),
    [(None, 1_000, 3), (None, MIB, 1), (0, MIB, 1), (1, MIB, 6), (3, MIB, 6), (9, MIB, 9)],
)
def test_recipes_are_always_compressed(fixed: int | None, size: int, expected: int) -> None:
    """Well where content is, too; fast where the network is fast."""
    chooser = CompressionChooser(fixed)
    for _ in range(40):
        chooser.observe_sending(MIB, MIB / 1e9)
    assert chooser.recipes_level(size) == expected


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ([MIB] * 8, "a slow network, as long as nothing else is known"),
        ([MIB, 1_000], "a small frame"),
        ([MIB] * 64, "one that is to be a probe"),
    ],
)
def test_frames_that_may_be_compressed_are_not_left_plain(sizes: list[int], why: str) -> None:
    """What is sent with its length told before is what no frame would be compressed of."""
    chooser = CompressionChooser(None)
    if "slow" not in why:
        for _ in range(100):
            chooser.observe_sending(MIB, 1e-4)
        assert chooser.leaves_plain([MIB]), "this network is fast"
    assert not chooser.leaves_plain(sizes), why
    assert any(chooser.level(size) for size in sizes), why


def test_frames_left_plain_count_towards_the_next_probe() -> None:
    """Among so many frames one is compressed, so that the choice can change."""
    chooser = CompressionChooser(None)
    for _ in range(100):
        chooser.observe_sending(MIB, 1e-4)
    plain = 0
    while chooser.leaves_plain([MIB] * 8):
        plain += 8
    assert plain == 56
    assert [chooser.level(MIB) for _ in range(8)] == [None] * 7 + [1]


@pytest.mark.parametrize("fixed", [0, 7])
def test_a_fixed_choice_decides_for_all_frames(fixed: int) -> None:
    """Off leaves all plain, a level none, of any size."""
    assert CompressionChooser(fixed).leaves_plain([10, MIB]) is (fixed == 0)


def settle(network: float, speed: float, ratio: float) -> int:
    """Return the level, 0 for none, that a network and a processor lead to."""
    chooser = CompressionChooser(None)
    by_level = {level.level: level for level in LEVELS}
    for _ in range(300):
        level = chooser.level(MIB) or 0
        sent = MIB
        if level:
            usual: Level = by_level[level]
            sent = int(min(1.0, usual.ratio * ratio) * MIB)
            chooser.observe_packing(level, MIB, sent, MIB / (usual.bytes_per_s * speed))
        chooser.observe_sending(sent, sent / network)
    chosen = [chooser.level(MIB) or 0 for _ in range(10)]
    return max(set(chosen), key=chosen.count)


@pytest.mark.parametrize(
    ("network", "speed", "ratio", "expected"),
    [
        pytest.param(2e9, 1.0, 1.0, {0}, id="memory"),
        pytest.param(300e6, 1.0, 1.0, {0}, id="as fast as the processor"),
        pytest.param(12.5e6, 1.0, 1.0, {3}, id="100 Mbit/s"),
        pytest.param(12.5e6, 0.1, 1.0, {0, 1}, id="100 Mbit/s and a slow processor"),
        pytest.param(1.25e6, 1.0, 1.0, {6, 9}, id="10 Mbit/s"),
        pytest.param(0.1e6, 1.0, 1.0, {9}, id="1 Mbit/s"),
        pytest.param(12.5e6, 1.0, 5.0, {0}, id="what does not compress"),
    ],
)
def test_it_finds_its_level(network: float, speed: float, ratio: float, expected: set[int]) -> None:
    """What was measured decides, not the first guess."""
    assert settle(network, speed, ratio) in expected


def test_a_network_that_becomes_slow_is_noticed() -> None:
    """And one that becomes fast again, too."""
    chooser = CompressionChooser(None)
    assert chooser.level(MIB) is not None
    for _ in range(20):
        chooser.observe_sending(MIB, 0.001)
    assert chooser.level(MIB) is None
    for _ in range(20):
        chooser.observe_sending(MIB, 1.0)
    assert chooser.level(MIB) is not None
    for _ in range(100):
        chooser.observe_sending(MIB, 0.0005)
    assert chooser.level(MIB) is None


@given(
    buffered_bytes=st.integers(0, 4 * MIB),
    network=st.floats(0.1e6, 20e6),
    frames=st.integers(1, 100),
)
def test_buffers_that_fill_first_make_no_network_look_fast(
    buffered_bytes: int, network: float, frames: int
) -> None:
    """What they take at once has not been sent yet, and is as much as several frames."""
    chooser = CompressionChooser(None)
    usual = {level.level: level for level in LEVELS}
    for _ in range(frames):
        level = chooser.level(MIB)
        assert level is not None
        sent_bytes = int(usual[level].ratio * MIB)
        chooser.observe_packing(level, MIB, sent_bytes, MIB / usual[level].bytes_per_s)
        at_once = min(sent_bytes, buffered_bytes)
        buffered_bytes -= at_once
        chooser.observe_sending(sent_bytes, (sent_bytes - at_once) / network)


def test_the_time_of_streams_at_once_is_counted_once() -> None:
    """Two streams that wait side by side do not make the network half as fast."""
    sending = SendingTime()
    sending.begin(10.0)
    sending.begin(10.5)
    assert sending.end(11.0) + sending.end(12.0) == 2.0
    sending.begin(20.0)
    assert sending.end(21.0) == 1.0


def test_a_sample_shows_what_does_not_compress() -> None:
    """A frame of it is sent as it is."""
    assert is_incompressible(1_000, 990)
    assert not is_incompressible(1_000, 500)
