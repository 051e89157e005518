"""What is measured of programs that follow a source: how soon a change is at the destination."""

from __future__ import annotations

import os
import random
import shutil
import statistics
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from benchmarks.followers import Follower
from benchmarks.followers.base import Roles
from benchmarks.measure import Sample
from benchmarks.workloads import Bench, Result, flush, make_many
from tests.e2e.trees import differences, snapshot

SMALL_CHANGES = 50
SMALL_FILE_BYTES = 64 * 1024
BURST_FILES = 500
POLL_S = 0.0005
PAUSES_S = (0.05, 0.25)
SETTLED_S = 5.0
IDLE_S = 60.0
SETTLE_LIMIT_S = 60.0
LIMIT_S = 900.0


def follow(
    bench: Bench, follower: Follower, source: Path, kinds: Collection[str], subdirectory: str
) -> None:
    """Have a program follow a source, and measure it; the source is left as it was, or nearly."""
    follower.base.mkdir(exist_ok=True)
    with follower.following(source) as roles:
        watch = _Watch(bench, follower, source, roles)
        if "live" in kinds:
            watch.small_changes()
        if "burst" in kinds:
            watch.bursts()
        if "rename" in kinds:
            watch.renames(subdirectory)
        if "idle" in kinds:
            watch.idle()
        watch.check()
        for result in watch.results:
            result.client_peak_bytes = roles.peaks_bytes()["client"]
            result.server_peak_bytes = roles.peaks_bytes()["server"]


class _Watch:
    def __init__(self, bench: Bench, follower: Follower, source: Path, roles: Roles) -> None:
        self._bench = bench
        self._follower = follower
        self._source = source
        self._roles = roles
        self._random = random.Random(1)
        self.results: list[Result] = []

    def small_changes(self) -> None:
        """Edit files one by one: time until an edit is at the destination."""
        result = self._result("live: a small change until visible")
        for path in self._random.sample(_small_files(self._source), SMALL_CHANGES):
            mirror = self._follower.dest / path
            begin_s = time.perf_counter()
            with (self._source / path).open("ab", buffering=0) as file:
                file.write(b"a line more\n")
            size_bytes = (self._source / path).stat().st_size
            wait_until(partial(_has_size, mirror, size_bytes))
            self._note(result, begin_s)
        times_s = sorted(sample.seconds for sample in result.samples)
        result.notes = {"p95_s": times_s[int(len(times_s) * 0.95)], "max_s": times_s[-1]}

    def bursts(self) -> None:
        """Make 500 small files at once: time until all are there."""
        result = self._result(f"live: {BURST_FILES} new files until all are visible")
        for number in range(self._bench.repeat):
            folder = self._source / f"burst-{number}"
            begin_s = time.perf_counter()
            make_many(folder, BURST_FILES, number)
            wait_until(partial(_has_files, self._follower.dest / folder.name, BURST_FILES))
            self._note(result, begin_s)
        for number in range(self._bench.repeat):
            shutil.rmtree(self._source / f"burst-{number}")
            gone = self._follower.dest / f"burst-{number}"
            wait_until(partial(_is_gone, gone))

    def renames(self, name: str) -> None:
        """Rename a big directory there and back: time until all of it is visible."""
        result = self._result("live: a directory renamed until visible")
        names = [name, f"{name}.renamed"]
        files = sum(len(names) for _, _, names in os.walk(self._source / name))
        for number in range(2 * ((self._bench.repeat + 1) // 2)):
            old, new = names[number % 2], names[1 - number % 2]
            # What the one before has left to be done is not part of this one.
            time.sleep(SETTLED_S)
            flush()
            begin_s = time.perf_counter()
            (self._source / old).rename(self._source / new)
            dest = self._follower.dest
            wait_until(partial(_is_renamed, dest / old, dest / new))
            # Who moves it file by file is not through yet. Counting takes long: what is found
            # complete was so, or nearly, when it began.
            looked_s = time.perf_counter()
            while not _has_files_below(dest / new, files):
                wait_a_little(begin_s)
                looked_s = time.perf_counter()
            self._note(result, begin_s, looked_s)

    def idle(self) -> None:
        """Measure what the program uses while nothing changes."""
        result = self._result("live: idle")
        time.sleep(PAUSES_S[1])
        used = self._roles.idle(IDLE_S)
        result.notes = {f"{role}_cores": share for role, share in used.items()}
        self._bench.report(f"{result.workload}: {self._follower.name} {result.notes}")

    def check(self) -> None:
        """Check that the destination is equal to the source."""
        expected = self._follower.comparable(snapshot(self._source))
        end = time.monotonic() + SETTLE_LIMIT_S
        while found := differences(
            expected, self._follower.comparable(snapshot(self._follower.dest))
        ):
            if time.monotonic() > end:
                raise RuntimeError(f"{self._follower.name} is not equal: {found}")
            time.sleep(PAUSES_S[1])

    def _result(self, workload: str) -> Result:
        self.results.append(self._bench.result(workload, self._follower))
        return self.results[-1]

    def _note(self, result: Result, begin_s: float, end_s: float | None = None) -> None:
        duration_s = (end_s or time.perf_counter()) - begin_s
        result.samples.append(Sample(duration_s))
        median_s = statistics.median(sample.seconds for sample in result.samples)
        self._bench.report(f"{result.workload}: {self._follower.name}, median {median_s:.3f} s")
        time.sleep(self._random.uniform(*PAUSES_S))


def wait_until(reached: Callable[[], bool]) -> None:
    """Look often until something is so."""
    begin_s = time.perf_counter()
    while not reached():
        wait_a_little(begin_s)


def wait_a_little(begin_s: float) -> None:
    """Wait before the next look, unless it takes too long already."""
    if time.perf_counter() - begin_s > LIMIT_S:
        raise TimeoutError("this does not arrive")
    time.sleep(POLL_S)


def _has_size(path: Path, size_bytes: int) -> bool:
    return path.exists() and path.stat().st_size == size_bytes


def _has_files(folder: Path, files: int) -> bool:
    return folder.is_dir() and len(os.listdir(folder)) == files


def _is_renamed(old: Path, new: Path) -> bool:
    return new.exists() and not old.exists()


def _is_gone(path: Path) -> bool:
    return not path.exists()


def _has_files_below(folder: Path, files: int) -> bool:
    return sum(len(names) for _, _, names in os.walk(folder)) == files


def _small_files(source: Path) -> list[Path]:
    found: list[Path] = []
    for directory, _, names in os.walk(source):
        paths = (Path(directory, name) for name in names)
        found += [
            path.relative_to(source)
            for path in paths
            if not path.is_symlink() and 0 < path.stat().st_size <= SMALL_FILE_BYTES
        ]
    return sorted(found)
