"""Draws what `benchmarks.compare` measured.

    python -m benchmarks.plot [--into DIR] RESULT.json ...

``ratios.svg`` has a bar for each workload and peer: twinfold's median over the peer's.
``files.svg`` has the time per file of a first sync over the number of files. Of a workload that
is in several results, the last one counts. It needs matplotlib (the extra ``bench``).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
import msgspec
from matplotlib.figure import Figure

from benchmarks.workloads import Result

OWN = "twinfold"
BAR_INCHES = 0.22
GAP_INCHES = 0.25
HEADER_INCHES = 0.9
WIDTH_INCHES = 9.0
MICROSECONDS = 1e6

Medians = dict[str, dict[str, float]]
"""By workload and program, the median in seconds."""


def main() -> None:
    """Read results, draw both pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--into", type=Path, default=Path("docs/plots"))
    options = parser.parse_args()
    # The same figures make the same files.
    mpl.rcParams["svg.hashsalt"] = OWN
    medians = read(options.results)
    options.into.mkdir(parents=True, exist_ok=True)
    for name, figure in (("ratios", ratios(medians)), ("files", cost_per_file(medians))):
        if figure is not None:
            path = options.into / f"{name}.svg"
            figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
            print(path)


def read(paths: Iterable[Path]) -> Medians:
    """Return the medians of all that was timed."""
    found: Medians = {}
    for path in paths:
        told = msgspec.json.decode(path.read_bytes())
        for result in msgspec.convert(told["results"], list[Result]):
            if result.median_s is not None:
                found.setdefault(result.workload, {})[result.contender] = result.median_s
    return found


def ratios(medians: Medians) -> Figure | None:
    """Draw a bar for each workload and peer; None if there is nothing to compare."""
    bars = [
        (workload, peer, by_program[OWN] / seconds)
        for workload, by_program in medians.items()
        for peer, seconds in by_program.items()
        if OWN in by_program and peer != OWN
    ]
    if not bars:
        return None
    peers = list(dict.fromkeys(peer for _, peer, _ in bars))
    groups = len({workload for workload, _, _ in bars})
    height = HEADER_INCHES + BAR_INCHES * len(bars) + GAP_INCHES * groups
    figure = Figure(figsize=(WIDTH_INCHES, height))
    axes = figure.add_subplot()
    at, before = 0.0, ""
    ticks: list[float] = []
    for workload, peer, ratio in bars:
        at += BAR_INCHES + (GAP_INCHES if workload != before else 0.0)
        if workload != before:
            axes.text(0, at - BAR_INCHES, workload, transform=axes.get_yaxis_transform())
        axes.barh(at, ratio, BAR_INCHES * 0.85, color=f"C{peers.index(peer)}")
        axes.text(ratio, at, f" {ratio:.2g}", va="center", fontsize="small")
        ticks.append(at)
        before = workload
    axes.set_yticks(ticks, [peer for _, peer, _ in bars])
    axes.set_xscale("log")
    axes.invert_yaxis()
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("median time of twinfold, over the peer's (left of the line: faster)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def cost_per_file(medians: Medians) -> Figure | None:
    """Draw the time per file over the number of files; None if there are less than two numbers."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for workload, by_program in medians.items():
        match = re.search(r"([\d,]+) files of 100 bytes", workload)
        if match:
            files = int(match[1].replace(",", ""))
            for program, seconds in by_program.items():
                lines.setdefault(program, []).append((files, seconds / files * MICROSECONDS))
    if not any(len(points) > 1 for points in lines.values()):
        return None
    figure = Figure(figsize=(WIDTH_INCHES, 4.5))
    axes = figure.add_subplot()
    for program, points in lines.items():
        axes.plot(*_columns(sorted(points)), marker="o", label=program)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("files of 100 bytes in a first sync")
    axes.set_ylabel("µs per file")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [files for files, _ in points], [cost for _, cost in points]


if __name__ == "__main__":
    main()
