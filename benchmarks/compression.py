"""Compares ``--compress auto`` with every fixed setting, over fast and slow links.

    python -m benchmarks.compression --tree DIR [--repeat N] [--only LINK ...]

First syncs of the first files of a tree (source code compresses well) and of random bytes
(which do not), by ``client --once`` from start to exit, through a link of limited rate in a
process of its own. The settings alternate; each figure is the median of its runs. After every
run the destination is compared with the source.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks.contenders import Twinfold
from benchmarks.measure import Sample, compile_program
from benchmarks.throttle import Link
from benchmarks.workloads import flush, warm
from tests.e2e.trees import differences, snapshot, write_random

RESULTS = Path(__file__).parent / "results"
SETTINGS = ("auto", "off", "1", "3", "6", "9")
TARGET = 1.1
"""The ratio of auto to the best fixed setting that is to be kept."""


class LinkKind(msgspec.Struct, frozen=True):
    """A link, and how much is sent over it."""

    name: str
    bytes_per_s: float | None
    code_mib: int
    random_mib: int


LINKS = (
    LinkKind("loopback", None, 160, 256),
    LinkKind("100 Mbit/s", 12.5e6, 64, 32),
    LinkKind("10 Mbit/s", 1.25e6, 16, 6),
)


class Figures(msgspec.Struct):
    """What one setting did with one kind of data over one link."""

    link: str
    data: str
    setting: str
    samples: list[Sample] = []
    ratio_to_best: float | None = None

    @property
    def median_s(self) -> float:
        """The median of the runs."""
        return statistics.median(sample.seconds for sample in self.samples)


class Setting(Twinfold):
    """twinfold with a setting of ``--compress``."""

    def __init__(self, base: Path, setting: str) -> None:
        self.name = f"compress-{setting}"
        self.setting = setting
        super().__init__(base)

    def words(self, source: Path, port: int | None) -> list[str]:
        return [*super().words(source, port), "--compress", self.setting]


def main() -> None:
    """Run all, print a table, write the figures as JSON."""
    options = parse_arguments()
    compile_program()
    base = Path(tempfile.mkdtemp(prefix="twinfold-bench-", dir=options.work))
    results: list[Figures] = []
    try:
        for kind in LINKS:
            if not options.only or kind.name.split()[0] in options.only:
                sources = make_sources(base, kind, options.tree)
                for data, source in sources.items():
                    results += compare(base, kind, data, source, options.repeat)
                    shutil.rmtree(source)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    print_table(results)
    print(f"written to {write_results(results, options)}")


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tree", type=Path, required=True, help="a tree of source code")
    parser.add_argument("--repeat", type=int, default=3, help="timed runs of each setting")
    parser.add_argument("--work", type=Path, help="where to work (default: a temporary folder)")
    names = [kind.name.split()[0] for kind in LINKS]
    parser.add_argument("--only", nargs="+", choices=names, help="these links only")
    return parser.parse_args()


def make_sources(base: Path, kind: LinkKind, tree: Path) -> dict[str, Path]:
    """Make the folders that are sent over a link."""
    code, noise = base / "code", base / "random"
    copy_some(tree, code, kind.code_mib << 20)
    noise.mkdir()
    for number in range(2):
        write_random(noise / f"file-{number}", kind.random_mib << 19, number)
    return {"code": code, "random": noise}


def copy_some(tree: Path, target: Path, most_bytes: int) -> None:
    """Copy files of a tree, in order of their names, until there are so many bytes."""
    copied = 0
    for directory, names, files in os.walk(tree):
        names.sort()
        for name in sorted(files):
            path = Path(directory, name)
            if copied >= most_bytes:
                return
            if not path.is_symlink():
                copy = target / path.relative_to(tree)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, copy)
                copied += copy.stat().st_size


def compare(base: Path, kind: LinkKind, data: str, source: Path, repeat: int) -> list[Figures]:
    """Time every setting in turn, again and again."""
    figures = [Figures(kind.name, data, setting) for setting in SETTINGS]
    for number in range(repeat):
        # Another one begins each time, so that none has the quiet moments to itself.
        for place in range(len(SETTINGS)):
            one = figures[(place + number) % len(SETTINGS)]
            sample = time_sync(base, kind, source, one.setting)
            one.samples.append(sample)
            line = f"{kind.name}, {data}, {one.setting}: {sample.seconds:.2f} s"
            print(line, file=sys.stderr, flush=True)
    best_s = min(one.median_s for one in figures if one.setting != "auto")
    for one in figures:
        one.ratio_to_best = one.median_s / best_s
    return figures


def time_sync(base: Path, kind: LinkKind, source: Path, setting: str) -> Sample:
    """Time one first sync, and check what it made."""
    contender = Setting(base, setting)
    contender.open()
    try:
        warm(source)
        flush()
        if kind.bytes_per_s is None:
            sample = contender.sync(source)
        else:
            with Link(contender.port, kind.bytes_per_s) as link:
                sample = contender.sync(source, link.port)
        found = differences(snapshot(source), snapshot(contender.dest))
        if found:
            raise RuntimeError(f"{contender.name} is not equal: {found}")
    finally:
        contender.close()
    return sample


def print_table(results: list[Figures]) -> None:
    """Print a line for each link, kind of data and setting."""
    head = ("link", "data", "setting", "median s", "to best", "target", "CPU s")
    rows = [head]
    for one in results:
        cpu_s = statistics.median(s.client.total_s + s.server.total_s for s in one.samples)
        target = f"{TARGET}" if one.setting == "auto" else ""
        ratio = f"{one.ratio_to_best:.2f}"
        rows.append(
            (one.link, one.data, one.setting, f"{one.median_s:.2f}", ratio, target, f"{cpu_s:.1f}")
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def write_results(results: list[Figures], options: argparse.Namespace) -> Path:
    """Write all figures and what they were taken with."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"compression-{time.strftime('%Y%m%d-%H%M%S')}.json"
    figures = {
        "cpus": os.cpu_count(),
        "system": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "repeat": options.repeat,
        "results": results,
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(figures)))
    return path


if __name__ == "__main__":
    main()
