"""A pair that works for long costs no more at the end than before.

The long run is a part of `make torture`; here its machinery and its judge are tried.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("memory and descriptors are read from Linux's /proc", allow_module_level=True)

assert sys.platform != "win32"

from tests.soak.flatness import BOUNDS, IDLE_BOUNDS, can_be_judged, growth
from tests.soak.gauge import Sample
from tests.soak.soak import Soak

SECONDS = 3600.0
EVERY_S = 10.0
MIB = 1 << 20


def series(name: str, begins: float, grows_a_minute: float, noise: float) -> list[Sample]:
    """Return the samples of an hour: one value with noise and growth, all others flat."""
    chances = random.Random(name)
    flat = dict.fromkeys(BOUNDS | IDLE_BOUNDS, 100.0)
    return [
        {
            **flat,
            "seconds": at * EVERY_S,
            name: begins + grows_a_minute * at * EVERY_S / 60 + chances.uniform(-noise, noise),
        }
        for at in range(int(SECONDS / EVERY_S))
    ]


@pytest.mark.parametrize("name", ["server own bytes", "client resident bytes"])
def test_memory_that_leaks_is_found(name: str) -> None:
    """A leak of 15 MiB an hour shows behind the noise."""
    samples = series(name, 60 * MIB, 0.5 * MIB, 4 * MIB)
    assert can_be_judged(samples, SECONDS)
    told = growth(samples, BOUNDS, SECONDS)
    assert [line.partition(":")[0] for line in told] == [name]


@pytest.mark.parametrize("name", ["server descriptors", "client descriptors"])
def test_a_descriptor_that_leaks_is_found(name: str) -> None:
    """One that is not given back within a third of the run is enough."""
    samples = series(name, 20, 0, 0)
    for sample in samples[-len(samples) // 3 :]:
        sample[name] += 1
    told = growth(samples, IDLE_BOUNDS, SECONDS)
    assert len(told) == 1


def test_a_connection_that_was_closed_once_is_no_leak() -> None:
    """A pair that has one descriptor less for a moment does not have one more from then on."""
    samples = series("server descriptors", 21, 0, 0)
    samples[len(samples) // 2]["server descriptors"] = 20
    assert growth(samples, IDLE_BOUNDS, SECONDS) == []


@pytest.mark.parametrize("name", ["attic bytes", "index bytes", "state bytes"])
def test_a_disk_that_fills_is_found(name: str) -> None:
    """What is never thrown away shows in the attic, the index or the client's state."""
    told = growth(series(name, 20 * MIB, 10 * MIB, MIB), BOUNDS, SECONDS)
    assert len(told) == 1


def test_what_only_varies_is_flat() -> None:
    """Noise, and what the first third needs to warm up, are no leak."""
    samples = series("server own bytes", 60 * MIB, 0, 4 * MIB)
    for sample in samples[: len(samples) // 4]:
        sample["server own bytes"] = 20 * MIB
    assert growth(samples, BOUNDS, SECONDS) == []
    assert growth(samples, IDLE_BOUNDS, SECONDS) == []


def test_too_short_a_run_is_not_judged() -> None:
    """A few samples are not taken for an answer."""
    assert not can_be_judged(series("server threads", 9, 0, 0)[:8], 80.0)


@pytest.mark.process
@pytest.mark.slow
def test_a_short_soak(tmp_path: Path) -> None:
    """Load, disturbances, comparisons and the gauge work together."""
    soak = Soak(random.SystemRandom().randrange(1 << 32), 8.0, tmp_path)
    soak.run()
    assert soak.faults == []
    assert soak.figures["comparisons"] >= 2
    assert soak.samples
    assert soak.idle_samples
    assert soak.outcome(0).failures == []
