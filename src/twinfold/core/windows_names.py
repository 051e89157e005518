"""Names that Windows and its file systems cannot hold, and why.

The rules are those of "Naming Files, Paths, and Namespaces" in the Win32 documentation. They
apply to a component of a path, not to a path.
"""

from __future__ import annotations

_FORBIDDEN = '<>:"/\\|?*'
_DIGITS = "123456789\u00b9\u00b2\u00b3"
_DEVICES = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} | {
    port + digit for port in ("COM", "LPT") for digit in _DIGITS
}
_MAX_UNITS = 255


def why_not_on_windows(name: bytes) -> str | None:
    """Return why Windows cannot hold this name of an entry, None if it can."""
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        return "it is not UTF-8"
    for character in text:
        if character in _FORBIDDEN:
            return f"it contains {character}"
        if character < " ":
            return "it contains a control character"
    if _device_of(text) in _DEVICES:
        return f"{_device_of(text)} is the name of a device"
    if text.endswith((".", " ")):
        return "it ends in a dot or a space"
    if len(text.encode("utf-16-le")) // 2 > _MAX_UNITS:
        return f"it is longer than {_MAX_UNITS} characters"
    return None


def _device_of(text: str) -> str:
    """Return the part of a name that is compared with the names of devices."""
    return text.split(".", 1)[0].rstrip(" ").upper()
