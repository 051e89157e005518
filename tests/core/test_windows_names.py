"""Which names Windows cannot hold, and why."""

from __future__ import annotations

import pytest

from twinfold.core.windows_names import why_not_on_windows

BAD: dict[str, tuple[str, ...]] = {
    "device": (
        *("CON", "con", "Prn", "AUX", "nul", "COM1", "com9", "LPT1", "lpt9"),
        *("COM\u00b9", "lpt\u00b2", "COM\u00b3", "CONIN$", "conout$"),
        *("con.txt", "NUL.tar.gz", "aux .c", "com1.", "Lpt3.a b"),
    ),
    "dot or a space": ("name.", "name ", "name. .", "...", " ", "a.txt "),
    "contains": (
        *("a:b", "file:stream", "C:", "c:file", "\\\\server\\share", "\\\\?\\C:\\x", "a\\b"),
        *("a<b", "a>b", 'a"b', "a|b", "what?", "*", "a/b"),
    ),
    "control character": ("a\nb", "tab\t", "\x01", "bell\x07", "\x1f"),
    "longer": ("x" * 256, "\U0001f600" * 128),
}


@pytest.mark.parametrize(
    ("name", "why"), [(name, why) for why, names in BAD.items() for name in names]
)
def test_names_that_windows_cannot_hold(name: str, why: str) -> None:
    """The reason says what is wrong with it."""
    reason = why_not_on_windows(name.encode())
    assert reason is not None
    assert why in reason
    assert reason.isprintable()


def test_bytes_that_are_no_text() -> None:
    """Windows keeps names as text."""
    assert why_not_on_windows(b"\xff") == "it is not UTF-8"


@pytest.mark.parametrize(
    "name",
    [
        *("a", ".hidden", "..a", "a b", " a", "con_", "console", "com", "com0", "com10"),
        *("COM\u2074", "conin", "a.con", "lpt", "nul1", "x" * 255, "caf\u00e9", "\u4e2d\u6587"),
        *("a'b", "a;b", "%2e", "#", "~", "\x7f", "\U0001f600" * 127),
    ],
)
def test_names_that_windows_can_hold(name: str) -> None:
    """Nothing is held that would work."""
    assert why_not_on_windows(name.encode()) is None
