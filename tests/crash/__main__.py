"""Replays one case of broken processes.

    python -m tests.crash --side server --call renameat2 --when 17 --fault KILL --seed 3

``--when 17+`` lets the call fail from its 17th on; ``--again pwrite64:5`` kills the same side
once more while it starts again.
"""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import argparse
import tempfile
from pathlib import Path

from tests.crash.case import Case, run_case
from tests.crash.site import KILL, SIDES, Site, why_not


def main() -> int:
    """Run the case that the command line names; say whether its site was reached."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--side", choices=SIDES, required=True)
    parser.add_argument("--call", required=True)
    parser.add_argument("--when", required=True)
    parser.add_argument("--fault", default=KILL)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", help="CALL:N")
    asked = parser.parse_args()
    if reason := why_not():
        print(reason)
        return 1
    lasting = asked.when.endswith("+")
    site = Site(asked.side, asked.call, int(asked.when.rstrip("+")), asked.fault, lasting)
    again = None
    if asked.again:
        call, _, when = asked.again.partition(":")
        again = Site(asked.side, call, int(when))
    with tempfile.TemporaryDirectory(prefix="crash-") as folder:
        struck = run_case(Path(folder) / "case", Case(site, asked.seed, again))
    print(f"all held; reached: {', '.join(one.words for one in struck) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
