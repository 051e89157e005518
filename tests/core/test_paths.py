"""Paths from outside: accepted as they are, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinfold.core.paths import (
    MAX_DEPTH,
    MAX_NAME_BYTES,
    MAX_PATH_BYTES,
    check_path,
    check_path_or_root,
    display,
    is_surely_sound,
    is_within,
    join,
    split,
)
from twinfold.errors import PathRefusedError

NAME = st.binary(min_size=1, max_size=20).filter(
    lambda name: name not in (b".", b"..", b".twinfold") and not set(name) & set(b"/\0")
)
NAMES = st.lists(NAME, min_size=1, max_size=6)


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/",
        b"/etc/passwd",
        b"a//b",
        b"a/",
        b"a/./b",
        b".",
        b"..",
        b"../a",
        b"a/../../b",
        b"a\0b",
        b".twinfold",
        b".twinfold/attic",
        b"a" * (MAX_NAME_BYTES + 1),
        b"a/" * (MAX_PATH_BYTES // 2) + b"aa",
        b"/".join([b"a"] * (MAX_DEPTH + 1)),
    ],
)
def test_bad_paths_are_refused(path: bytes) -> None:
    """Nothing is cleaned up and used after all."""
    with pytest.raises(PathRefusedError):
        check_path(path)


@pytest.mark.parametrize(
    "path",
    [b"a", b"a/.twinfold", b"...", b"..a", b"\xff\n", b" ", b"a" * MAX_NAME_BYTES, b".twinfold2"],
)
def test_odd_paths_are_accepted(path: bytes) -> None:
    """Any bytes but NUL and the separator make a name."""
    assert check_path(path) == path


@given(NAMES)
def test_joining_is_the_inverse_of_splitting(names: list[bytes]) -> None:
    """A path made of proper names is accepted unchanged, and comes apart into them."""
    path = b""
    for name in names:
        path = join(path, name)
    assert check_path(path) == path
    apart = []
    while path:
        path, name = split(path)
        apart.append(name)
    assert apart[::-1] == names


@given(NAMES, NAMES)
def test_what_is_within(one: list[bytes], two: list[bytes]) -> None:
    """Below means by whole names, not by the letters they begin with."""
    path, other = b"/".join(one), b"/".join(two)
    assert is_within(path, b"")
    assert is_within(path + b"/" + other, path)
    assert is_within(path, other) == (one[: len(two)] == two)
    assert not is_within(path + b"x", path)


@given(st.binary(max_size=60))
def test_what_is_displayed_is_one_line_that_does_nothing(path: bytes) -> None:
    """No control character reaches a terminal."""
    assert display(path).isprintable()


_ANY_NAME = st.sampled_from(
    [b"", b".", b"..", b"...", b".twinfold", b"a\0", b"a", b"b" * MAX_NAME_BYTES, b"b" * 256]
)


@given(st.lists(_ANY_NAME, max_size=3), st.lists(_ANY_NAME, min_size=1, max_size=4))
def test_what_is_sound_at_first_sight_is_accepted(one: list[bytes], two: list[bytes]) -> None:
    """Nothing gets in by way of a directory that was accepted, and what is in it does."""
    above, path = b"/".join(one), b"/".join(two)
    sound = {directory for directory in (above, split(path)[0]) if _is_accepted(directory)}
    is_sound = is_surely_sound(path, sound)
    assert is_sound == (split(path)[0] in sound and _is_accepted(path))


def _is_accepted(path: bytes) -> bool:
    try:
        return check_path(path) == path
    except PathRefusedError:
        return False


def test_at_first_sight_no_path_is_too_deep() -> None:
    """However deep a directory is that was accepted."""
    deep = b"/".join([b"a"] * MAX_DEPTH)
    assert check_path(deep) == deep
    assert not is_surely_sound(deep + b"/a", {deep})


def test_the_root() -> None:
    """Only where the folder itself may be meant."""
    assert check_path_or_root(b"") == b""
    with pytest.raises(PathRefusedError):
        check_path_or_root(b"/")
