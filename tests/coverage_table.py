"""Prints how much of each part of the program the tests reached, from `coverage json -o -`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePath

PARTS = ("core", "storage", "client", "server")


def main() -> None:
    """Read coverage's report from standard input, print the table."""
    sums = {part: Counter[str]() for part in (*PARTS, "all")}
    for file, told in json.load(sys.stdin)["files"].items():
        part = PurePath(file).parent.relative_to("src/twinfold").parts[:1]
        for name in {*part, "all"}.intersection(sums):
            sums[name].update(told["summary"])
    print("| package | lines | reached | branches | reached |")
    print("|---|---|---|---|---|")
    for name, counts in sums.items():
        lines = _share(counts, "covered_lines", "num_statements")
        branches = _share(counts, "covered_branches", "num_branches")
        print(f"| {name} | {lines} | {branches} |")


def _share(counts: Mapping[str, int], reached: str, all_of_it: str) -> str:
    return f"{counts[all_of_it]:,} | {100 * counts[reached] / max(counts[all_of_it], 1):.1f} %"


if __name__ == "__main__":
    main()
