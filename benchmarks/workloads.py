"""What is measured: each workload prepares, times the contenders in turn, checks, and cleans up."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from benchmarks.contenders import Contender, Rsync, Twinfold
from benchmarks.measure import PeakMemory, Sample
from tests.e2e.harness import Running
from tests.e2e.proxy import Proxy
from tests.e2e.trees import READ_BYTES, Tree, differences, insert_bytes, random_bytes, snapshot

INSERT_AT_BYTES = 200 << 20
SMALL_CHANGES = 50
SMALL_FILE_BYTES = 64 * 1024
POLL_S = 0.0005
LIMIT_S = 600.0


class Result(msgspec.Struct):
    """What one contender did in one workload."""

    workload: str
    contender: str
    samples: list[Sample] = []
    wire_bytes: int | None = None
    client_peak_bytes: int | None = None
    server_peak_bytes: int | None = None
    notes: dict[str, float] = {}

    @property
    def median_s(self) -> float | None:
        """The median of the timed runs."""
        return statistics.median(s.seconds for s in self.samples) if self.samples else None


class Bench:
    """The contenders, where they work, and what was measured so far."""

    def __init__(self, base: Path, repeat: int, report: Callable[[str], None]) -> None:
        self.base = base
        self.repeat = repeat
        self.report = report
        self.twinfold = Twinfold(base)
        self.rsync = Rsync(base)
        self.contenders: list[Contender] = [self.twinfold, self.rsync]
        self.results: list[Result] = []

    def result(self, workload: str, contender: Contender) -> Result:
        """Return the place for a contender's figures."""
        for result in self.results:
            if (result.workload, result.contender) == (workload, contender.name):
                return result
        self.results.append(Result(workload, contender.name))
        return self.results[-1]

    def time_sync(self, workload: str, contender: Contender, source: Path, tree: Tree) -> None:
        """Time one sync with nothing waiting to be written, and check what it made."""
        warm(source)
        flush()
        sample = contender.sync(source)
        self.report(f"{workload}: {contender.name} {sample.seconds:.2f} s")
        check(contender, tree)
        self.result(workload, contender).samples.append(sample)

    def watch_sync(self, workload: str, contender: Contender, source: Path, tree: Tree) -> None:
        """Count bytes and memory of one sync, untimed."""
        result = self.result(workload, contender)
        with Proxy(("127.0.0.1", contender.port)) as proxy:
            with PeakMemory(contender.server_pid) as peak:
                contender.sync(source, proxy.port)
            result.wire_bytes = proxy.sent_bytes + proxy.received_bytes
        check(contender, tree)
        result.client_peak_bytes = peak.bytes_of("client")
        result.server_peak_bytes = peak.bytes_of("server")


def flush() -> None:
    """Have everything written that waits to be."""
    if sys.platform != "win32":
        os.sync()


def warm(source: Path) -> None:
    """Read the source, so that each contender finds it in the page cache.

    Some systems reclaim pages soon after their last use, even with memory to spare.
    """
    for directory, _, names in os.walk(source):
        for name in names:
            path = Path(directory, name)
            if path.is_symlink():
                continue
            with path.open("rb", buffering=0) as file:
                while file.read(READ_BYTES):
                    pass


def check(contender: Contender, tree: Tree) -> None:
    """Check that a destination is equal to the source."""
    found = differences(contender.comparable(tree), contender.comparable(snapshot(contender.dest)))
    if found:
        raise RuntimeError(f"{contender.name} is not equal: {found}")


def first_sync(bench: Bench, workload: str, source: Path) -> None:
    """Sync into empty destinations; leaves both of them open and equal."""
    tree = snapshot(source)
    for _ in range(bench.repeat):
        for contender in bench.contenders:
            contender.open()
            bench.time_sync(workload, contender, source, tree)
            contender.close()
    for contender in bench.contenders:
        contender.open()
        bench.watch_sync(workload, contender, source, tree)


def nothing_changed(bench: Bench, workload: str, source: Path) -> None:
    """Sync again what is equal."""
    repeated_change(bench, workload, source, lambda number: None)


def repeated_change(
    bench: Bench, workload: str, source: Path, change: Callable[[int], None], repeat: int = 0
) -> None:
    """Change the source and let each contender follow, again and again."""
    runs = repeat or bench.repeat
    for number in range(runs + 1):
        change(number)
        tree = snapshot(source)
        for contender in bench.contenders:
            if number < runs:
                bench.time_sync(workload, contender, source, tree)
            else:
                bench.watch_sync(workload, contender, source, tree)


def insertion(bench: Bench, workload: str, source: Path, name: str) -> None:
    """Insert ten bytes into a big file."""
    repeated_change(
        bench,
        workload,
        source,
        lambda number: insert_bytes(source / name, INSERT_AT_BYTES, random_bytes(10, number)),
    )


def copy(bench: Bench, workload: str, source: Path, name: str) -> None:
    """Copy a big file within the source."""

    def change(number: int) -> None:
        for path in source.glob("copy-*"):
            path.unlink()
        copied = source / f"copy-{number}"
        subprocess.run(["cp", "--reflink=never", source / name, copied], check=True)

    repeated_change(bench, workload, source, change)


def small_changes(bench: Bench, workload: str, source: Path) -> None:
    """Edit files one by one while a client is live: time until the edit is at the destination."""
    chosen = random.Random(1).sample(_small_files(source), SMALL_CHANGES)
    client = bench.twinfold.start_live(source)
    try:
        client.expect("in_sync", timeout_s=LIMIT_S)
        times = [_time_edit(bench, client, source, path) for path in chosen]
        peaks = client.peak_memory_bytes()
    finally:
        client.terminate()
    result = bench.result(workload, bench.twinfold)
    result.samples = [Sample(seconds, 0, 0) for seconds in times]
    result.client_peak_bytes = peaks
    result.notes = {"p95_s": sorted(times)[int(len(times) * 0.95)], "max_s": max(times)}
    check(bench.twinfold, snapshot(source))
    bench.report(f"{workload}: {statistics.median(times) * 1000:.1f} ms, {result.notes}")
    bench.rsync.sync(source)


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


def _time_edit(bench: Bench, client: Running, source: Path, path: Path) -> float:
    mirror = bench.twinfold.dest / path
    mark = client.mark()
    begin = time.perf_counter()
    with (source / path).open("ab", buffering=0) as file:
        file.write(b"a line more\n")
    size_bytes = (source / path).stat().st_size
    wait_until(lambda: mirror.stat().st_size == size_bytes)
    seconds = time.perf_counter() - begin
    client.expect("in_sync", since=mark, timeout_s=LIMIT_S)
    return seconds


def wait_until(reached: Callable[[], bool]) -> None:
    """Look often until something is so."""
    end = time.monotonic() + LIMIT_S
    while not reached():
        if time.monotonic() > end:
            raise TimeoutError("this does not arrive")
        time.sleep(POLL_S)


def rename(bench: Bench, workload: str, source: Path, name: str) -> None:
    """Rename a big directory: live to visible, against a run of rsync."""
    names = [name, f"{name}.renamed"]
    for number in range(bench.repeat):
        old, new = names[number % 2], names[1 - number % 2]
        client = bench.twinfold.start_live(source)
        try:
            client.expect("in_sync", timeout_s=LIMIT_S)
            seconds = _time_rename(bench, workload, source, (old, new), client)
        finally:
            client.terminate()
        tree = snapshot(source)
        check(bench.twinfold, tree)
        bench.result(workload, bench.twinfold).samples.append(Sample(seconds, 0, 0))
        bench.report(f"{workload}: twinfold {seconds:.3f} s")
        bench.time_sync(workload, bench.rsync, source, tree)
    _watch_rename(bench, workload, source, names)


def _time_rename(
    bench: Bench, workload: str, source: Path, names: tuple[str, str], client: Running
) -> float:
    old, new = names
    mark = client.mark()
    dest = bench.twinfold.dest
    flush()
    begin = time.perf_counter()
    (source / old).rename(source / new)
    wait_until(lambda: (dest / new).exists() and not (dest / old).exists())
    seconds = time.perf_counter() - begin
    event = client.expect("in_sync", since=mark, timeout_s=LIMIT_S)
    acknowledged_s = time.perf_counter() - begin
    notes = {"in_sync_s": acknowledged_s, "sent_bytes": float(event["sent_bytes"])}
    bench.result(workload, bench.twinfold).notes = notes
    return seconds


def _watch_rename(bench: Bench, workload: str, source: Path, names: Sequence[str]) -> None:
    old, new = sorted(names, key=lambda name: not (source / name).exists())
    with Proxy(("127.0.0.1", bench.twinfold.port)) as proxy:
        client = bench.twinfold.start_live(source, proxy.port)
        try:
            client.expect("in_sync", timeout_s=LIMIT_S)
            before = proxy.sent_bytes + proxy.received_bytes
            _time_rename(bench, workload, source, (old, new), client)
            passed = proxy.sent_bytes + proxy.received_bytes - before
        finally:
            client.terminate()
    bench.result(workload, bench.twinfold).wire_bytes = passed
    bench.watch_sync(workload, bench.rsync, source, snapshot(source))


def update(bench: Bench, workload: str, source: Path, trees: Sequence[Path], repeat: int) -> None:
    """Turn the source from one version of a tree into another; the destinations begin empty."""
    for number in range(repeat + 1):
        become(source, trees[0])
        for contender in bench.contenders:
            contender.open()
            contender.sync(source)
        become(source, trees[1])
        tree = snapshot(source)
        for contender in bench.contenders:
            if number < repeat:
                bench.time_sync(workload, contender, source, tree)
            else:
                bench.watch_sync(workload, contender, source, tree)
            contender.close()


def become(source: Path, tree: Path) -> None:
    """Make a folder equal to a tree, as a user's own copying program would."""
    subprocess.run(["rsync", "-a", "--delete", f"{tree}/", f"{source}/"], check=True)
