"""What is measured: each workload prepares, times the contenders in turn, checks, and cleans up."""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from benchmarks.contenders import Contender, Twinfold
from benchmarks.measure import PeakMemory, Sample
from benchmarks.throttle import Link
from tests.e2e.proxy import Proxy
from tests.e2e.trees import READ_BYTES, Tree, differences, insert_bytes, random_bytes, snapshot

INSERT_AT_BYTES = 200 << 20
OVERWRITES = 200
OVERWRITE_BYTES = 100
MANY_FILE_BYTES = 100
FILES_A_DIRECTORY = 1_000


class Named(Protocol):
    """What has figures of its own."""

    name: str


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

    def __init__(
        self,
        base: Path,
        peers: Iterable[type[Contender]],
        repeat: int,
        report: Callable[[str], None],
    ) -> None:
        self.base = base
        self.repeat = repeat
        self.report = report
        self.twinfold = Twinfold(base)
        self.contenders: list[Contender] = [self.twinfold, *(peer(base) for peer in peers)]
        self.versions = {contender.name: contender.version() for contender in self.contenders}
        self.results: list[Result] = []

    @property
    def repeatable(self) -> list[Contender]:
        """Those that can bring changes over."""
        return [contender for contender in self.contenders if contender.is_repeatable]

    def result(self, workload: str, contender: Named) -> Result:
        """Return the place for a contender's figures."""
        for result in self.results:
            if (result.workload, result.contender) == (workload, contender.name):
                return result
        self.results.append(Result(workload, contender.name))
        return self.results[-1]

    def time_sync(
        self,
        workload: str,
        contender: Contender,
        source: Path,
        tree: Tree,
        port: int | None = None,
    ) -> None:
        """Time one sync with nothing waiting to be written, and check what it made.

        Through ``port``, if that is given.
        """
        warm(source)
        flush()
        sample = contender.sync(source, port)
        self.report(f"{workload}: {contender.name} {sample.seconds:.2f} s")
        check(contender, tree)
        self.result(workload, contender).samples.append(sample)

    def watch_sync(self, workload: str, contender: Contender, source: Path, tree: Tree) -> None:
        """Count bytes and memory of one sync, untimed."""
        result = self.result(workload, contender)
        if contender.port is None:
            with PeakMemory(None) as peak:
                contender.sync(source)
        else:
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
    with contender.made() as folder:
        found = differences(contender.comparable(tree), contender.comparable(snapshot(folder)))
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


def first_sync_over_link(
    bench: Bench, workload: str, source: Path, bytes_per_s: float, round_trip_s: float
) -> None:
    """Sync into empty destinations over a slow link, where there is a server to reach over it."""
    tree = snapshot(source)
    for _ in range(bench.repeat):
        for contender in bench.contenders:
            contender.open()
            if contender.port is not None:
                with Link(contender.port, bytes_per_s, round_trip_s) as link:
                    bench.time_sync(workload, contender, source, tree, link.port)
            contender.close()


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
        for contender in bench.repeatable:
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


def overwrites(bench: Bench, workload: str, source: Path, name: str) -> None:
    """Overwrite 100 bytes at each of 200 places of a big file."""

    def change(number: int) -> None:
        chosen = random.Random(number)
        with (source / name).open("r+b") as file:
            size_bytes = file.seek(0, os.SEEK_END)
            for _ in range(OVERWRITES):
                file.seek(chosen.randrange(size_bytes - OVERWRITE_BYTES))
                file.write(chosen.randbytes(OVERWRITE_BYTES))

    repeated_change(bench, workload, source, change)


def append(bench: Bench, workload: str, source: Path, name: str) -> None:
    """Append a mebibyte to a big file."""

    def change(number: int) -> None:
        with (source / name).open("ab") as file:
            file.write(random_bytes(1 << 20, number))

    repeated_change(bench, workload, source, change)


def copied_subtree(bench: Bench, workload: str, source: Path, name: str) -> None:
    """Copy a directory with all below it within the source."""

    def change(number: int) -> None:
        for path in source.glob("copied-*"):
            shutil.rmtree(path)
        copied = source / f"copied-{number}"
        subprocess.run(["cp", "-a", "--reflink=never", source / name, copied], check=True)

    repeated_change(bench, workload, source, change)
    for path in source.glob("copied-*"):
        shutil.rmtree(path)
    _follow(bench, source)


def make_many(folder: Path, files: int, seed: int = 0) -> None:
    """Make so many files of 100 bytes, at most 1,000 in a directory."""
    content = random.Random(seed)
    folder.mkdir()
    directory = folder
    for number in range(files):
        if files > FILES_A_DIRECTORY and number % FILES_A_DIRECTORY == 0:
            directory = folder / f"{number // FILES_A_DIRECTORY}"
            directory.mkdir()
        (directory / f"{number}").write_bytes(content.randbytes(MANY_FILE_BYTES))


def _follow(bench: Bench, source: Path) -> None:
    """Bring all that have a destination to what the source is now."""
    for contender in bench.repeatable:
        contender.sync(source)


def rename(bench: Bench, workload: str, source: Path, name: str) -> None:
    """Rename a big directory there and back."""
    names = [name, f"{name}.renamed"]

    def change(number: int) -> None:
        (source / names[number % 2]).rename(source / names[1 - number % 2])

    repeated_change(bench, workload, source, change)
    if not (source / name).exists():
        change(1)
        _follow(bench, source)


def update(bench: Bench, workload: str, source: Path, trees: Sequence[Path], repeat: int) -> None:
    """Turn the source from one version of a tree into another; the destinations begin empty."""
    for number in range(repeat + 1):
        become(source, trees[0])
        for contender in bench.repeatable:
            contender.open()
            contender.sync(source)
        become(source, trees[1])
        tree = snapshot(source)
        for contender in bench.repeatable:
            if number < repeat:
                bench.time_sync(workload, contender, source, tree)
            else:
                bench.watch_sync(workload, contender, source, tree)
            contender.close()


def become(source: Path, tree: Path) -> None:
    """Make a folder equal to a tree, as a user's own copying program would."""
    subprocess.run(["rsync", "-a", "--delete", f"{tree}/", f"{source}/"], check=True)
