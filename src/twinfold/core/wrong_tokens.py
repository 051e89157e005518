"""How long the answer to a wrong token waits: longer with each one from the same address.

The first few are free, for people make mistakes. A right token is never asked to wait, from
wherever it comes. Memory is bounded: the addresses that erred longest ago are forgotten.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict

FREE_TRIES = 5
FIRST_DELAY_S = 0.5
LAST_DELAY_S = 10.0
FORGOTTEN_AFTER_S = 600.0
MOST_ADDRESSES = 4_096


class WrongTokens:
    """Counts the wrong tokens of each address; of IPv6 addresses the first 64 bits count."""

    def __init__(self) -> None:
        self._tries: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tries)

    def note(self, address: str, now_s: float) -> float:
        """Count one more wrong token; return for how many seconds its answer waits."""
        key = _network_of(address)
        tries, last_s = self._tries.pop(key, (0, now_s))
        if now_s - last_s > FORGOTTEN_AFTER_S:
            tries = 0
        self._tries[key] = (tries + 1, now_s)
        if len(self._tries) > MOST_ADDRESSES:
            self._tries.popitem(last=False)
        if tries < FREE_TRIES:
            return 0.0
        doublings = min(tries - FREE_TRIES, 10)
        return min(LAST_DELAY_S, FIRST_DELAY_S * float(2**doublings))


def _network_of(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))
