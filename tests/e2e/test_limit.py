"""``--limit``: what leaves the client in a second, seen from the wire."""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.harness import LIMIT_S, Pair
from tests.e2e.proxy import Proxy

pytestmark = [pytest.mark.process, pytest.mark.slow]

if sys.platform == "win32":
    pytest.skip("the server does not run on Windows", allow_module_level=True)

MIB = 1 << 20
RATE = MIB
SAMPLE_S = 0.05
WINDOW_S = 0.5
SOCKET_BYTES = 320 * 1024
"""What may stand in buffers between the client and the proxy, and comes at once."""


def write_text(path: Path, size_bytes: int) -> None:
    """Write what compresses to about half: hexadecimal digits."""
    path.write_bytes(os.urandom(size_bytes // 2).hex().encode())


def watch(proxy: Proxy, from_bytes: int, to_bytes: int) -> list[tuple[float, int]]:
    """Return (time, bytes sent) again and again between two marks."""
    proxy.wait_sent(from_bytes, LIMIT_S)
    seen: list[tuple[float, int]] = []
    while not seen or seen[-1][1] < to_bytes:
        seen.append((time.monotonic(), proxy.sent_bytes))
        assert seen[-1][0] - seen[0][0] < LIMIT_S, "it is far slower than the limit"
        time.sleep(SAMPLE_S)
    return seen


@pytest.mark.parametrize("compress", ["off", "auto"])
@pytest.mark.parametrize("shape", ["one big file", "many files"])
def test_a_limit_is_kept_to_within_a_tenth(pair: Pair, shape: str, compress: str) -> None:
    """Over seconds it is met from both sides; over half a second it is hardly exceeded."""
    factor = 2 if compress == "auto" else 1
    if shape == "one big file":
        write_text(pair.source / "file", factor * 7 * MIB)
    else:
        for number in range(factor * 112):
            write_text(pair.source / f"file-{number}", MIB // 16)
    pair.start_server()
    proxy = pair.proxy()
    pair.start_client("--limit", "1M", "--compress", compress, proxy=proxy)
    seen = watch(proxy, MIB // 2, 6 * MIB)
    rate = (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])
    assert 0.9 * RATE <= rate <= 1.1 * RATE
    for at_s, sent in seen:
        later = [bytes_then - sent for then_s, bytes_then in seen if 0 < then_s - at_s <= WINDOW_S]
        assert max(later, default=0) <= 1.1 * RATE * (WINDOW_S + 0.1) + SOCKET_BYTES
    pair.client.expect("in_sync")
    pair.assert_equal()


def test_a_low_limit_keeps_the_connection(pair: Pair) -> None:
    """Bytes trickle, a few at a time, so that the server does not believe it to be stuck."""
    (pair.source / "file").write_bytes(os.urandom(24_000))
    pair.start_server()
    proxy = pair.proxy()
    pair.start_client("--limit", "4000", "--compress", "off", proxy=proxy)
    seen = watch(proxy, 2_000, 20_000)
    steps = [after[1] - before[1] for before, after in itertools.pairwise(seen)]
    assert max(steps) < 4_000
    pair.client.expect("in_sync")
    pair.assert_equal()
