"""After a power cut everything that was acknowledged is there, and nothing is mixed.

The long run is a part of `make torture`; here a few cuts on each file system.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("disks are made from images on Linux only", allow_module_level=True)

assert sys.platform != "win32"

from tests.e2e.faulty import lying
from tests.e2e.trees import Node
from tests.power.cuts import session_of_cuts
from tests.power.disks import Disks, UnavailableError, open_disks
from tests.power.history import (
    Ack,
    History,
    Version,
    faults_after_recovery,
    faults_before_recovery,
)

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disks]:
    """Room for disks; there are none where mounting is not allowed."""
    try:
        with open_disks(tmp_path_factory.mktemp("disks")) as opened:
            yield opened
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("kind", "cuts"), [("ext4", 2), ("xfs", 1), ("btrfs", 1)])
def test_nothing_acknowledged_is_lost_in_a_power_cut(
    disks: Disks, tmp_path: Path, kind: str, cuts: int
) -> None:
    """A cut at any instant leaves whole versions; both sides recover and come into sync."""
    case = os.environ.get("TWINFOLD_SEED") or str(random.randrange(1 << 32))
    print(f"TWINFOLD_SEED={case}")
    figures: Counter[str] = Counter()
    folder = tmp_path / "session"
    for verdict in session_of_cuts(disks, kind, cuts, case, folder, may_have_cache=False):
        assert verdict.faults == [], "\n".join(verdict.faults)
        figures.update(verdict.figures)
    assert figures["recoveries"] == cuts


def test_a_server_that_syncs_nothing_is_caught(disks: Disks, tmp_path: Path) -> None:
    """The same cuts find what was never made durable."""
    [verdict] = session_of_cuts(
        disks,
        "ext4",
        1,
        "lying",
        tmp_path / "session",
        meddle=lambda server: lying(
            server.process.pid, tmp_path / "strace", "fsync,fdatasync,syncfs"
        ),
    )
    assert verdict.faults


@pytest.mark.parametrize("cached", [False, True])
def test_what_a_copy_of_a_disk_holds(disks: Disks, cached: bool) -> None:
    """What was synced; with a cache in the disk not what was synced without a flush."""
    with disks.new("ext4", cached=cached) as disk:
        (disk.folder / "in memory").touch()
        never_synced = disk.copy("never-synced")
        sync(disk.folder / "flushed")
        subprocess.run(["mount", "-o", "remount,barrier=0", disk.folder], check=True)
        sync(disk.folder / "not flushed")
        synced = disk.copy("synced")
    with disks.mounted("ext4", never_synced) as folder:
        assert not (folder / "in memory").exists()
    with disks.mounted("ext4", synced) as folder:
        assert (folder / "flushed").read_bytes() == b"content"
        assert (folder / "not flushed").exists() != cached
    never_synced.unlink()
    synced.unlink()


def sync(path: Path) -> None:
    """Write a file and have the file system say that it is durable."""
    with path.open("wb") as file:
        file.write(b"content")
        file.flush()
        os.fsync(file.fileno())


FILE = Node("file", 0o644, 1, b"first")
NEWER = Node("file", 0o644, 2, b"second")
FOLDER = Node("directory", 0o755, 1, b"")

CASES: dict[str, tuple[list[Version], Version, bool]] = {
    "as acknowledged": ([FILE], FILE, True),
    "gone": ([FILE], None, False),
    "another time": ([FILE], FILE._replace(mtime_ns=9), False),
    "other bytes": ([FILE], FILE._replace(content=b"zeros"), False),
    "replaced since": ([FILE, NEWER], NEWER, True),
    "not yet replaced": ([FILE, NEWER], FILE, True),
    "gone while it was replaced": ([FILE, NEWER], None, False),
    "bytes of one version, time of another": ([FILE, NEWER], FILE._replace(mtime_ns=2), False),
    "deleted since": ([FILE, None], None, True),
    "not yet deleted": ([FILE, None], FILE, True),
    "there although deleted before": ([None], FILE, False),
    "new since": ([None, FILE], FILE, True),
    "a folder's time is not set yet": ([None, FOLDER], FOLDER._replace(mtime_ns=9), True),
}
"""What a path was from the last answer on, what is found there, and whether that is right."""


@pytest.mark.parametrize("case", CASES)
def test_what_is_found_is_judged(case: str) -> None:
    """The judge of all cuts tells what may be there from what may not."""
    versions, found, right = CASES[case]
    history = History()
    history.note([(b"path", versions[0])])
    acknowledged = history.changes
    for version in versions[1:]:
        history.note([(b"path", version)])
    tree = {} if found is None else {b"path": found}
    ack = Ack(acknowledged, acknowledged)
    assert (faults_after_recovery(history, ack, history.changes, tree) == []) == right


def test_zeros_are_seen_before_anything_recovers() -> None:
    """A file whose bytes the source never had is a fault, whatever its path."""
    history = History()
    history.note([(b"path", FILE)])
    assert faults_before_recovery(history, 1, {b"moved": FILE}) == []
    assert len(faults_before_recovery(history, 1, {b"path": NEWER})) == 1
