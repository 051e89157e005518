"""Feeding every decoder with spoilt messages; those that reach new lines are spoilt further."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import base64
import json
import random
import resource
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import twinfold
from tests.hostile.decoders import Decoder, Decoders
from tests.hostile.mutations import mutate_bytes, mutate_packed
from tests.torture.outcome import Failure, Outcome

SHARE: float | None = 10.0

MOST_SECONDS = 5.0
"""For one input; a slow machine included."""

MOST_GROWTH_BYTES = 300 << 20
LARGEST_BYTES = 1 << 20
"""More than the longest list of chunks that a frame may have."""
_PACKAGE = str(Path(twinfold.__file__).parent)
_KEPT = 300
_MINIMISE = 400


class Lines:
    """Collects the lines of the package that are reached while it is entered."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, int]] = set()
        self._before: Any = None

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        if self._before is None:
            sys.settrace(self._on_call)

    def __exit__(self, *_error: object) -> None:
        sys.settrace(self._before)

    def _on_call(self, frame: FrameType, _event: str, _value: Any) -> Any:
        return self._on_line if frame.f_code.co_filename.startswith(_PACKAGE) else None

    def _on_line(self, frame: FrameType, _event: str, _value: Any) -> Any:
        self.seen.add((frame.f_code.co_filename, frame.f_lineno))
        return self._on_line


class Fuzzer:
    """One decoder's inputs: what is known to be of interest, and what went wrong."""

    def __init__(self, decoder: Decoder, seed: int) -> None:
        self.decoder = decoder
        self.corpus = list(decoder.seeds)
        self.lines = Lines()
        self.runs = self.decoded = 0
        self.failure: Failure | None = None
        self._seed = seed
        self._random = random.Random(f"{seed} {decoder.name}")
        for data in decoder.seeds:
            self._try(data)
        if self.decoded != len(decoder.seeds):
            raise AssertionError(f"{decoder.name} does not take its own examples")

    def step(self) -> None:
        """Try one more input."""
        chosen = self._random.choice(self.corpus)
        is_typed = self.decoder.is_packed and self._random.random() < 0.6
        spoil = mutate_packed if is_typed else mutate_bytes
        data = spoil(self._random, chosen, self.corpus)
        if len(data) > LARGEST_BYTES:
            # A list repeated so often does not come through to any decoder.
            data = mutate_bytes(self._random, chosen, self.corpus)
        before = len(self.lines.seen)
        self._try(data)
        if len(self.lines.seen) > before and len(self.corpus) < _KEPT:
            self.corpus.append(data)

    def _try(self, data: bytes) -> None:
        self.runs += 1
        with self.lines:
            told = broken(self.decoder, data)
        self.decoded += told is None
        if told and self.failure is None:
            data = minimised(self.decoder, data)
            self.failure = Failure(
                f"fuzz {self.decoder.name}, seed {self._seed}, {len(data)} bytes",
                f"python -m tests.hostile.fuzz {json.dumps(self.decoder.name)}"
                f" {base64.b64encode(data).decode()}",
                told,
            )


def broken(decoder: Decoder, data: bytes) -> str | None:
    """Return what an input did that it must not do; None if it was decoded, empty if refused."""
    began_s = time.perf_counter()
    told: str | None = None
    try:
        decoder.read(data)
    except decoder.error as error:
        told = "" if str(error).strip() and "\n" not in str(error) else f"no one line: {error!r}"
    except Exception:  # noqa: BLE001 - a failure is reported with its seed
        return traceback.format_exc()
    took_s = time.perf_counter() - began_s
    return f"it took {took_s:.1f} s" if took_s > MOST_SECONDS else told


def minimised(decoder: Decoder, data: bytes) -> bytes:
    """Return a shorter input that fails as well, if there is one that is easy to find."""
    size, tries = len(data) // 2, 0
    while size and tries < _MINIMISE:
        at = 0
        while at < len(data) and tries < _MINIMISE:
            shorter, tries = data[:at] + data[at + size :], tries + 1
            if broken(decoder, shorter):
                data = shorter
            else:
                at += size
        size //= 2
    return data


def fuzzed(seed: int, seconds: float, work: Path) -> Iterator[Fuzzer]:
    """Yield a fuzzer for each decoder, when all have had the same share of the time."""
    with Decoders(work) as decoders:
        fuzzers = [Fuzzer(decoder, seed) for decoder in decoders]
        share_s = seconds / len(fuzzers)
        for fuzzer in fuzzers:
            until_s = time.monotonic() + share_s
            while time.monotonic() < until_s and fuzzer.failure is None:
                fuzzer.step()
            yield fuzzer


def run(seed: int, seconds: float, work: Path) -> Outcome:
    """Be the part ``fuzz`` of a torture run."""
    outcome = Outcome({}, [])
    before_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for fuzzer in fuzzed(seed, seconds, work):
        name = fuzzer.decoder.name
        outcome.figures |= {
            f"inputs for {name}": fuzzer.runs,
            f"inputs for {name} that were valid": fuzzer.decoded,
            f"lines reached by {name}": len(fuzzer.lines.seen),
            f"inputs kept for {name}": len(fuzzer.corpus),
        }
        if fuzzer.failure:
            outcome.failures.append(fuzzer.failure)
    grown_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before_bytes
    outcome.figures["memory that decoding took at most (MiB)"] = grown_bytes >> 20
    if grown_bytes > MOST_GROWTH_BYTES:
        replay = f"python -m tests.torture --only fuzz --seed {seed}"
        outcome.failures.append(Failure("fuzz", replay, f"memory grew by {grown_bytes} bytes"))
    return outcome


def main(name: str, text: str, work: Path) -> int:
    """Try one input again; return the exit code."""
    with Decoders(work) as decoders:
        decoder = next(decoder for decoder in decoders if decoder.name == name)
        told = broken(decoder, base64.b64decode(text))
    print(told or "nothing is wrong with it")
    return 1 if told else 0


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        sys.exit(main(sys.argv[1], sys.argv[2], Path(folder)))
