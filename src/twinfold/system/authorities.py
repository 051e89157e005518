"""The certificates of the system's authorities, which aiohttp loads when it is imported."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

_PLACES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@contextlib.contextmanager
def without_authorities(*, unless: bool = False) -> Iterator[None]:
    """Have nothing that is imported in the block load the authorities' certificates.

    To load them all takes a fifth of a client's start. A context that was made without them
    trusts nobody.
    """
    if unless:
        yield
        return
    before = {name: os.environ.get(name) for name in _PLACES}
    os.environ.update(dict.fromkeys(_PLACES, os.devnull))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
