"""Where a side is broken: at the n-th system call of a kind in a stage, by a kill or an error."""

from __future__ import annotations

from typing import NamedTuple

KILL = "KILL"
SIDES = ("server", "client")

READING = "openat-read"
"""An open that cannot make, empty or change anything. To be killed there is the same as to be
killed at the thread's next call that changes something; but it may fail."""

NO_ROOM = ("ENOSPC", "EDQUOT")
_FAILED = ("EIO", *NO_ROOM)
_ERRORS = (*_FAILED, "EACCES", "ENOMEM")
_OPEN = ("EIO", "EACCES", "EMFILE", "ENFILE", "ENOMEM", "EINTR")
_ERRORS_OF = {
    "fdatasync": _FAILED,
    "flock": ("ENOLCK", "EINTR"),
    "fsync": _FAILED,
    "ftruncate": (*_FAILED, "EINTR"),
    "openat": (*_OPEN, "ENOSPC", "EDQUOT"),
    "pwrite64": (*_FAILED, "EINTR"),
    "syncfs": _FAILED,
    "write": (*_FAILED, "EINTR"),
    READING: _OPEN,
}


class Site(NamedTuple):
    """A place in a side's work.

    Attributes:
        stage: of the session; its calls are counted from 1, those of all threads together.
        side: "server" or "client".
        call: the system call.
        when: 1 is the first one.
        fault: "KILL" ends the process before the call, otherwise the call fails with this error.
        lasting: all later calls of the kind fail as well, until the side is started again.
    """

    stage: str
    side: str
    call: str
    when: int
    fault: str = KILL
    lasting: bool = False

    @property
    def text(self) -> str:
        """The site as an argument of ``python -m tests.crash``."""
        when = f"{self.when}{'+' if self.lasting else ''}"
        return f"{self.stage}/{self.side}/{self.call}/{when}/{self.fault}"


def parse(text: str) -> Site:
    """Return the site that a text stands for.

    Raises:
        ValueError: it stands for none.
    """
    stage, side, call, when, fault = text.split("/")
    if side not in SIDES:
        raise ValueError(f"{side} is neither of {SIDES}")
    return Site(stage, side, call, int(when.rstrip("+")), fault, when.endswith("+"))


def errors_of(call: str) -> tuple[str, ...]:
    """Return the errors that a call may well give."""
    return _ERRORS_OF.get(call, _ERRORS)
