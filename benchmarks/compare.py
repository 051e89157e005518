"""Compares twinfold with its peers on this machine's loopback.

    python -m benchmarks.compare --tree DIR [--tree2 DIR] [--repeat N] [--only WORD ...]
        [--against NAME ... | all]

All work on the same source, in turn, beginning with nothing waiting to be written. twinfold's
time is that of ``client --once`` from start to exit with its server running: all is durable by
then. rsync's is that of ``rsync -a`` to a daemon, which leaves the data to the page cache.
After every run the destination is compared with the source. Bytes on the wire (both ways) and
memory are taken in a further run that is not timed. Programs that follow a source are measured
one after the other, each from the change of a file to its being at the destination.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from benchmarks import workloads
from benchmarks.contenders import PEERS, Contender
from benchmarks.followers import FOLLOWERS, Follower
from benchmarks.followers.twinfold import TwinfoldLive
from benchmarks.live import follow
from benchmarks.measure import compile_program
from benchmarks.workloads import Bench, Result
from tests.e2e.trees import write_random

Peer = TypeVar("Peer", Contender, Follower)

RESULTS = Path(__file__).parent / "results"
TREE_WORKLOADS = ("tree", "nothing", "moved", "subtree", "update", "slow")
LIVE_WORKLOADS = ("live", "burst", "rename", "idle")
BIG_WORKLOADS = ("big", "insert", "overwrites", "append", "copy")
MANY_WORKLOADS = ("many",)

SLOW_BYTES_PER_S = 100e6 / 8
SLOW_ROUND_TRIP_S = 0.04


def main() -> None:
    """Run the chosen workloads, print a table, write the figures as JSON."""
    options = parse_arguments()
    compile_program()
    base = Path(tempfile.mkdtemp(prefix="twinfold-bench-", dir=options.work))
    bench = Bench(
        base,
        chosen(PEERS, options),
        options.repeat,
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    try:
        if options.tree:
            run_tree(bench, options)
            run_live(bench, options)
        run_big(bench, options)
        run_many(bench, options)
    finally:
        for contender in bench.contenders:
            if contender.base.exists():
                contender.close()
        shutil.rmtree(base, ignore_errors=True)
        print_table(bench.results)
        print(f"written to {write_results(bench, options)}")


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tree", type=Path, help="a tree of many files; it is copied first")
    parser.add_argument("--tree2", type=Path, help="a later version of it, for 'update'")
    parser.add_argument(
        "--subdirectory", default="drivers", help="what 'rename' and 'moved' rename"
    )
    parser.add_argument("--big-mib", type=int, default=1024, help="size of the big file")
    parser.add_argument("--repeat", type=int, default=3, help="timed runs of each")
    parser.add_argument("--repeat-update", type=int, default=1, help="timed runs of 'update'")
    parser.add_argument("--work", type=Path, help="where to work (default: a temporary folder)")
    names = [peer.name for peer in PEERS] + [peer.name for peer in FOLLOWERS[1:]]
    parser.add_argument("--against", nargs="+", choices=[*names, "all"], default=["rsync"])
    parser.add_argument("--subtree", default="fs", help="what 'subtree' copies")
    parser.add_argument("--files", type=int, nargs="+", default=[10_000, 100_000], help="of 'many'")
    parser.add_argument("--slow", default="drivers/net", help="what 'slow' sends of the tree")
    every = TREE_WORKLOADS + LIVE_WORKLOADS + BIG_WORKLOADS + MANY_WORKLOADS
    parser.add_argument("--only", nargs="+", choices=every)
    return parser.parse_args()


def chosen(peers: Sequence[type[Peer]], options: argparse.Namespace) -> list[type[Peer]]:
    """Return those that were asked for, or with "all" those that are installed.

    Raises:
        SystemExit: one that was named is not installed.
    """
    names = options.against
    found = [peer for peer in peers if peer.name in names or "all" in names]
    missing = [peer.name for peer in found if shutil.which(peer.program) is None]
    if missing and "all" not in names:
        sys.exit(f"not installed: {', '.join(missing)}")
    for name in missing:
        print(f"not installed, left out: {name}", file=sys.stderr)
    return [peer for peer in found if peer.name not in missing]


def wanted(options: argparse.Namespace, *words: str) -> bool:
    """Tell whether one of these workloads was asked for."""
    return not options.only or any(word in options.only for word in words)


def run_tree(bench: Bench, options: argparse.Namespace) -> None:
    """Run the workloads on a tree of many files."""
    if not wanted(options, *TREE_WORKLOADS):
        return
    source = bench.base / "tree"
    subprocess.run(["cp", "-a", options.tree, source], check=True)
    if wanted(options, "tree"):
        workloads.first_sync(bench, "first sync of the tree", source)
    elif wanted(options, "nothing", "moved", "subtree"):
        open_and_sync(bench, source)
    if wanted(options, "nothing"):
        workloads.nothing_changed(bench, "nothing changed", source)
    if wanted(options, "subtree"):
        workloads.copied_subtree(bench, "subtree copied", source, options.subtree)
    if wanted(options, "moved"):
        workloads.rename(bench, "directory renamed", source, options.subdirectory)
    close_all(bench)
    if options.tree2 and wanted(options, "update"):
        trees = (options.tree, options.tree2)
        workloads.update(bench, "tree to tree2", source, trees, options.repeat_update)
    if wanted(options, "slow"):
        name = f"first sync over {SLOW_BYTES_PER_S * 8 / 1e6:.0f} Mbit/s and 40 ms"
        slow = (SLOW_BYTES_PER_S, SLOW_ROUND_TRIP_S)
        workloads.first_sync_over_link(bench, name, source / options.slow, *slow)
    shutil.rmtree(source)


def run_live(bench: Bench, options: argparse.Namespace) -> None:
    """Run the workloads of programs that follow a source."""
    kinds = [word for word in LIVE_WORKLOADS if wanted(options, word)]
    if not kinds:
        return
    source = bench.base / "tree"
    subprocess.run(["cp", "-a", options.tree, source], check=True)
    followers: list[type[Follower]] = [TwinfoldLive, *chosen(FOLLOWERS[1:], options)]
    for live in [follower(bench.base) for follower in followers]:
        bench.versions[live.name] = live.version()
        follow(bench, live, source, kinds, options.subdirectory)
    shutil.rmtree(source)


def run_big(bench: Bench, options: argparse.Namespace) -> None:
    """Run the workloads on one big file."""
    if not wanted(options, *BIG_WORKLOADS):
        return
    source = bench.base / "big"
    source.mkdir()
    write_random(source / "file", options.big_mib << 20)
    if wanted(options, "big"):
        workloads.first_sync(bench, "first sync of a big file", source)
    else:
        open_and_sync(bench, source)
    if wanted(options, "insert"):
        workloads.insertion(bench, "10 bytes inserted in it", source, "file")
    if wanted(options, "overwrites"):
        workloads.overwrites(bench, "200 scattered overwrites in it", source, "file")
    if wanted(options, "append"):
        workloads.append(bench, "a MiB appended to it", source, "file")
    if wanted(options, "copy"):
        workloads.copy(bench, "copy of it", source, "file")
    close_all(bench)


def run_many(bench: Bench, options: argparse.Namespace) -> None:
    """Run a first sync of more and more small files."""
    if not wanted(options, *MANY_WORKLOADS):
        return
    for files in options.files:
        source = bench.base / f"many-{files}"
        workloads.make_many(source, files)
        workloads.first_sync(bench, f"first sync of {files:,} files of 100 bytes", source)
        close_all(bench)
        shutil.rmtree(source)


def open_and_sync(bench: Bench, source: Path) -> None:
    """Bring both to the state that a first sync leaves."""
    for contender in bench.contenders:
        contender.open()
        contender.sync(source)


def close_all(bench: Bench) -> None:
    """End both servers and put their destinations out of the way."""
    for contender in bench.contenders:
        if contender.base.exists():
            contender.close()


def print_table(results: list[Result]) -> None:
    """Print a line for each workload and contender."""
    head = (
        "workload",
        "program",
        "median s",
        "twinfold to it",
        "wire",
        "CPU s, own+system",
        "peak MB",
        "",
    )
    rows = [head, *(row_of(result, results) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def row_of(result: Result, results: list[Result]) -> tuple[str, ...]:
    """Return a result as the cells of a table."""
    own = [r for r in results if r.workload == result.workload and r.contender == "twinfold"]
    own_s = own[0].median_s if own else None
    median_s = result.median_s
    is_compared = result.contender != "twinfold" and own_s and median_s
    return (
        result.workload,
        result.contender,
        f"{median_s:.3f}" if median_s is not None else "",
        f"{own_s / median_s:.2f}" if is_compared and own_s and median_s else "",
        f"{result.wire_bytes:,}" if result.wire_bytes is not None else "",
        cpu_cell(result),
        "/".join(f"{n / 1e6:.0f}" for n in peaks_of(result)),
        ", ".join(f"{name} {figure:.3g}" for name, figure in result.notes.items()),
    )


def cpu_cell(result: Result) -> str:
    """Return what client and server used in the run nearest to the median: own + system."""
    runs = [run for run in result.samples if run.client.total_s or run.server.total_s]
    if not runs:
        return ""
    middle = sorted(runs, key=lambda sample: sample.seconds)[len(runs) // 2]
    used = (middle.client, middle.server)
    return "/".join(f"{cpu.user_s:.1f}+{cpu.system_s:.1f}" for cpu in used)


def peaks_of(result: Result) -> list[int]:
    """Return the peaks of client and server that are known."""
    peaks = (result.client_peak_bytes, result.server_peak_bytes)
    return [peak for peak in peaks if peak is not None]


def write_results(bench: Bench, options: argparse.Namespace) -> Path:
    """Write all figures and what they were taken with."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"compare-{time.strftime('%Y%m%d-%H%M%S')}.json"
    figures = {
        "cpus": os.cpu_count(),
        "system": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "peers": bench.versions,
        "repeat": options.repeat,
        "big_mib": options.big_mib,
        "results": bench.results,
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(figures)))
    return path


if __name__ == "__main__":
    main()
