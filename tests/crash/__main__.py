"""Replays one case of broken processes.

    python -m tests.crash --seed 3 edit/server/renameat2/17/KILL remove/client/pwrite64/5+/EIO

Each site is a stage, a side, a system call, the how-manieth of the stage (``5+``: it fails from
its 5th on) and what befalls it. A second site in the same stage and side strikes after the
side was started again. Without sites, an unbroken session is run and its calls are counted.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import argparse
import tempfile
import time
from pathlib import Path

from tests.crash.case import Case, run_case
from tests.crash.filter import why_not
from tests.crash.site import parse


def main() -> int:
    """Run the case that the command line names; say which of its sites were reached."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path)
    parser.add_argument("sites", nargs="*", type=parse)
    asked = parser.parse_args()
    if reason := why_not():
        print(reason)
        return 1
    with tempfile.TemporaryDirectory(prefix="crash-", dir=asked.work) as folder:
        began_s = time.monotonic()
        ended = run_case(Path(folder) / "case", Case(asked.seed, tuple(asked.sites)))
        took_s = time.monotonic() - began_s
    if not asked.sites:
        for (stage, side), counts in ended.counts.items():
            print(f"{stage}, {side}: {dict(sorted(counts.items()))}")
    reached = ", ".join(site.text for site in ended.struck)
    print(f"all held in {took_s:.1f} s; reached: {reached or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
