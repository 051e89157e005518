"""What is looked at before a command begins: that the folders can be what they are to be."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from twinfold.core.paths import display
from twinfold.errors import DestinationError, SourceError, UsageError
from twinfold.model import RESERVED_ROOT_NAME


def check_source(given: str) -> bytes:
    """Return the real path of SOURCE.

    Raises:
        UsageError: it is missing or not a folder.
        SourceError: it cannot be read.
    """
    path = os.fsencode(given)
    status = _stat(path)
    if status is None:
        raise UsageError(f"SOURCE {display(path)} does not exist; name a folder that does")
    if not stat.S_ISDIR(status.st_mode):
        raise UsageError(f"SOURCE {display(path)} is not a folder; name the folder to synchronise")
    try:
        with os.scandir(path):
            return os.path.realpath(path)
    except OSError as error:
        raise SourceError(
            f"SOURCE {display(path)} cannot be read ({error.strerror}); check its permissions"
        ) from error


def check_destination(given: str) -> bytes:
    """Return the real path of DEST, which is made if only it is missing.

    Raises:
        UsageError: it is no folder, or the folder that it would be in does not exist.
        DestinationError: it cannot be made or written to.
    """
    path = os.fsencode(given)
    try:
        os.mkdir(path)
    except FileExistsError:
        pass
    except FileNotFoundError as error:
        raise UsageError(
            f"DEST {display(path)}: the folder that it is to be in does not exist; make that first"
        ) from error
    except NotADirectoryError as error:
        raise UsageError(f"DEST {display(path)} lies below a file; name a folder") from error
    except OSError as error:
        raise DestinationError(
            f"DEST {display(path)} cannot be made ({error.strerror}); check the folder above it"
        ) from error
    if not os.path.isdir(path):
        raise UsageError(f"DEST {display(path)} is not a folder; name a folder")
    # A server gives DEST the mode of a SOURCE that is read-only, and can lift it again.
    is_ours = os.access(os.path.join(path, RESERVED_ROOT_NAME), os.W_OK | os.X_OK)
    if not os.access(path, os.R_OK | os.X_OK | (0 if is_ours else os.W_OK)):
        raise DestinationError(f"DEST {display(path)} cannot be written to; check its permissions")
    return os.path.realpath(path)


def check_apart(source: bytes, destination: bytes) -> None:
    """Refuse two folders of which one is the other or lies in it, by whatever name.

    Raises:
        UsageError: they do.
    """
    if _lies_in(destination, source):
        raise UsageError(
            f"DEST {display(destination)} lies in SOURCE {display(source)}; "
            "it would be sent into itself: choose a DEST outside of it"
        )
    if _lies_in(source, destination):
        raise UsageError(
            f"SOURCE {display(source)} lies in DEST {display(destination)}; "
            "it would be overwritten by itself: choose a DEST outside of it"
        )


def check_tls_files(
    certificate: str | None, key: str | None
) -> tuple[Path, Path] | tuple[None, None]:
    """Return the two files, or None for both.

    Raises:
        UsageError: one without the other, or one that cannot be read.
    """
    if certificate is None and key is None:
        return None, None
    if certificate is None or key is None:
        raise UsageError("--tls-cert and --tls-key go together; give both or neither")
    for option, file in (("--tls-cert", certificate), ("--tls-key", key)):
        if not (os.path.isfile(file) and os.access(file, os.R_OK)):
            raise UsageError(f"{option} {display(os.fsencode(file))} is not a file to be read")
    return Path(certificate).absolute(), Path(key).absolute()


def _lies_in(inner: bytes, outer: bytes) -> bool:
    outer_path = os.path.realpath(outer)
    status = _stat(outer_path)
    identity = (status.st_dev, status.st_ino) if status else None
    for path in _with_parents(os.path.realpath(inner)):
        if path == outer_path:
            return True
        found = _stat(path)
        if identity and found and (found.st_dev, found.st_ino) == identity:
            return True
    return False


def _with_parents(path: bytes) -> Iterator[bytes]:
    yield path
    while (parent := os.path.dirname(path)) != path:
        yield parent
        path = parent


def _stat(path: bytes) -> os.stat_result | None:
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
