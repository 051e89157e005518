"""Which address to hand out, where a server listens on all that its machine has."""

from __future__ import annotations

import socket

import msgspec

from twinfold.config import ServerAddress

_LOOPBACKS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
# Addresses for documentation: to ask for the way there sends nothing.
_FAR_AWAY = {
    "0.0.0.0": (socket.AF_INET, "192.0.2.1"),
    "::": (socket.AF_INET6, "2001:db8::1"),
}


def for_this_machine(address: ServerAddress) -> ServerAddress:
    """Return the address by which a client on the server's own machine connects."""
    return msgspec.structs.replace(address, host=_LOOPBACKS.get(address.host, address.host))


def for_other_machines(address: ServerAddress) -> ServerAddress:
    """Return the address by which others are most likely to reach the server."""
    if address.host not in _FAR_AWAY:
        return address
    family, far_away = _FAR_AWAY[address.host]
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far_away, 9))
            host = str(probe.getsockname()[0])
    except OSError:
        host = socket.gethostname()
    return msgspec.structs.replace(address, host=host)
