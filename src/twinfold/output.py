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
        with telling(is_needed=True):
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
    except OSError as error:
        discard_output()
        raise TwinfoldError(
            f"standard output cannot be written ({(error.strerror or str(error)).lower()}); "
            "send it somewhere else"
        ) from error


def tell_line(text: str) -> None:
    """Write a line about what a running client or server does; see `telling`.

    Raises:
        TwinfoldError: nobody reads standard output any more.
    """
    with telling():
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


@contextlib.contextmanager
def telling(*, is_needed: bool = False) -> Iterator[None]:
    """Do the writing of the block; what the system does not take is left out, unless needed.

    A log on a full disk, or a terminal that is gone, is no reason to stop mirroring.

    Raises:
        TwinfoldError: nobody reads standard output any more.
        OSError: it is needed and cannot be written.
    """
    try:
        yield
    except BrokenPipeError as error:
        discard_output()
        raise TwinfoldError(
            "standard output was closed before all was written; keep reading it, "
            "or send it to a file"
        ) from error
    except OSError:
        if is_needed:
            raise


def finish_output() -> None:
    """Write out what is left, as far as that is possible: the interpreter exits in peace."""
    try:
        sys.stdout.flush()
    except OSError:
        discard_output()


def discard_output() -> None:
    """Send what is still to be written nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
