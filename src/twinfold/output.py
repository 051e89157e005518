"""Lines on standard output, which somebody else may close."""

from __future__ import annotations

import os
import sys

from twinfold.errors import TwinfoldError


def write_line(text: str) -> None:
    """Write one line and let it be read at once.

    Raises:
        TwinfoldError: nobody reads standard output any more.
    """
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError as error:
        discard_output()
        raise TwinfoldError(
            "standard output was closed before all was written; keep reading it, "
            "or send it to a file"
        ) from error


def discard_output() -> None:
    """Send what is still to be written nowhere, so that the interpreter can exit in peace."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
