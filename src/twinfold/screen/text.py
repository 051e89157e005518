"""Numbers, times and names as people read them, and how wide they are on a terminal."""

from __future__ import annotations

import time

from rich.cells import cell_len

ELLIPSIS = "…"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return ``1 file``, ``1,234 files``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def size(size_bytes: float) -> str:
    """Return ``512 B``, ``1.2 GiB``: three digits at most, and the unit."""
    value = float(size_bytes)
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1024
    digits = 0 if unit == "B" or value >= 99.95 else 1
    return f"{value:.{digits}f} {unit}"


def countdown(seconds: float) -> str:
    """Return ``0:09``, ``12:34``, ``1:02:03``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def elapsed(seconds: float) -> str:
    """Return ``0.03 s``, ``9.1 s``, ``12:34``."""
    if seconds >= 100:
        return countdown(seconds)
    return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"


def clock(at_s: float) -> str:
    """Return the local time of day, ``14:02:07``."""
    return time.strftime("%H:%M:%S", time.localtime(at_s))


def moment(at_s: float, now_s: float) -> str:
    """Return the time of day, with the date in front if it is not today's."""
    then, now = time.localtime(at_s), time.localtime(now_s)
    return time.strftime("%H:%M:%S" if then[:3] == now[:3] else "%Y-%m-%d %H:%M:%S", then)


def width(text: str) -> int:
    """Return how many cells of a terminal ``text`` takes."""
    return cell_len(text)


def cut_middle(text: str, cells: int) -> str:
    """Return ``text`` in at most ``cells`` cells, more of its end than of its start."""
    if width(text) <= cells:
        return text
    room = max(0, cells - 1)
    head = _fitting(text, room // 3)
    tail = _fitting(text[::-1], room - width(head))[::-1]
    return f"{head}{ELLIPSIS}{tail}" if cells > 0 else ""


def cut_end(text: str, cells: int) -> str:
    """Return ``text`` in at most ``cells`` cells, its start kept."""
    if width(text) <= cells:
        return text
    return _fitting(text, cells - 1) + ELLIPSIS if cells > 0 else ""


def _fitting(text: str, cells: int) -> str:
    used = 0
    for index, character in enumerate(text):
        used += width(character)
        if used > cells:
            return text[:index]
    return text


def join_fitting(parts: list[str], cells: int, separator: str = " · ") -> str:
    """Return the parts that fit, the first one in any case; later ones matter less."""
    line = cut_end(parts[0], cells)
    for part in parts[1:]:
        longer = f"{line}{separator}{part}"
        if width(longer) > cells:
            break
        line = longer
    return line
