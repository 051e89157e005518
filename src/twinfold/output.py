"""Lines on standard output, which somebody else may close, or which may have no room."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from twinfold.errors import TwinfoldError


def write_line(text: str) -> None:
    """Write one line and let it be read at once.

    Raises:
        TwinfoldError: it cannot be written.
    """
    try:
        _write(text)
    except OSError as error:
        raise _unwritable(error) from error


def tell_line(text: str) -> None:
    """Write a line about what a running client or server does; see `telling`.

    Raises:
        TwinfoldError: nobody reads standard output any more.
    """
    with telling():
        _write(text)


@contextlib.contextmanager
def telling() -> Iterator[None]:
    """Do the writing of the block; what the system does not take is left out.

    A log on a full disk, or a terminal that is gone, is no reason to stop mirroring.

    Raises:
        TwinfoldError: nobody reads standard output any more.
    """
    try:
        yield
    except BrokenPipeError as error:
        raise _unwritable(error) from error
    except OSError:
        return


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _unwritable(error: OSError) -> TwinfoldError:
    """Give standard output up; return what to say."""
    discard_output()
    if isinstance(error, BrokenPipeError):
        return TwinfoldError(
            "standard output was closed before all was written; keep reading it, "
            "or send it to a file"
        )
    return TwinfoldError(
        f"standard output cannot be written ({(error.strerror or str(error)).lower()}); "
        "send it somewhere else"
    )


def open_missing_streams() -> None:
    """Have the null device stand for those standard streams that who started us has closed.

    Otherwise a file that is opened later would: what is written to a stream would go into it.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            # The lowest number that is free is this one.
            os.open(os.devnull, os.O_RDWR)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def finish_output() -> None:
    """Write out what is left, as far as that is possible."""
    try:
        sys.stdout.flush()
    except OSError:
        discard_output()
    with contextlib.suppress(OSError):
        sys.stderr.flush()


def discard_output() -> None:
    """Send what is still to be written nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
