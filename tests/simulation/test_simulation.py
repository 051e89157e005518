"""Short runs of simulated worlds: no promise is broken, and a seed is a run."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from tests.simulation.part import outcome
from tests.simulation.result import Result

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 240
WORLDS = int(os.environ.get("TEST_WORLDS", "25"))


def simulate(seed: int, runs: int, results: Path) -> list[Result]:
    """Run seeds in a process of their own, to the first that fails."""
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs /dev/fuse and the right to mount")
    words = ["--seed", str(seed), "--runs", str(runs), "--first", "--json", str(results), "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "tests.simulation", *words], cwd=ROOT, timeout=LIMIT_S, check=False
    )
    found = msgspec.json.decode(results.read_bytes(), type=list[Result])
    if any("cannot have mounts" in (result.failure or "") for result in found):
        pytest.skip("needs the right to mount")
    return found


def test_no_promise_is_broken(tmp_path: Path) -> None:
    """Whatever the network, the disks and the power do: whole or old, durable, kept, equal."""
    results = tmp_path / "results.json"
    simulate(1, WORLDS, results)
    found = outcome(results, 1.0)
    assert found.failures == []
    figures = found.figures
    assert figures["crashes/server power"] > 0
    assert figures["crashes/server kill"] > 0
    assert figures["crashes/client power"] > 0
    assert figures["acknowledgements proved durable"] > 0
    assert any(name.startswith("network/") for name in figures)
    assert any(name.startswith("disk errors/") for name in figures)


def test_a_seed_is_a_run(tmp_path: Path) -> None:
    """The same seed gives the same choices and calls in another process, another seed others."""
    first = simulate(4_000, 8, tmp_path / "first.json")
    again = simulate(4_000, 8, tmp_path / "again.json")
    assert [result.digest for result in first] == [result.digest for result in again]
    assert len({result.digest for result in first}) == len(first)
