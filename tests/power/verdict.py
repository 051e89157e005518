"""What must be so after the power was cut and has come back."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import TimeoutExpired
from typing import NamedTuple

from tests.e2e.harness import Pair
from tests.e2e.trees import Tree, differences, snapshot
from tests.power.disks import Disk, DiskError, Disks
from tests.power.history import History, faults_after_recovery, faults_before_recovery
from tests.power.session import SOCKETS, Cut

_MOST_TOLD = 15


class Verdict:
    """What was found in one cut.

    Attributes:
        faults: every broken promise, a line each, and what the programs said.
        figures: counts of what was looked at.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.figures: Counter[str] = Counter()


class Aftermath(NamedTuple):
    """What is left of a session that has ended.

    Attributes:
        disks: where its cuts lie.
        kind: their file system.
        history: what the source was until now; it is at rest.
        live: both sides, as they were in the session.
    """

    disks: Disks
    kind: str
    history: History
    live: Pair

    @contextmanager
    def mounted(self, cut: Cut, pair: Pair) -> Iterator[Disk]:
        """Mount a cut for a pair that is to go on with it."""
        with self.disks.mounted(self.kind, cut.image) as folder:
            pair.source = self.live.source
            pair.dest = folder / "dest"
            state = cut.state or folder / "state"
            if state.exists():
                shutil.copytree(state, pair.client_state, ignore=SOCKETS)
            yield Disk(self.kind, cut.image, folder)


def judge(after: Aftermath, cut: Cut, work: Path) -> Verdict:
    """Mount a cut, look at it, let both sides recover, and look again.

    Args:
        after: the session that the cut is of.
        cut: the disk at that instant.
        work: a folder that is not there yet.
    """
    verdict = Verdict()
    pair = Pair(work)
    try:
        with after.mounted(cut, pair):
            try:
                _judge(pair, cut, after.history, verdict)
            except (AssertionError, OSError, TimeoutExpired) as error:
                verdict.faults.append(f"it did not recover: {error!r}")
                if isinstance(error, TimeoutExpired):
                    verdict.faults.append(f"it said {(error.stdout or b'')[-3000:]!r}")
            finally:
                verdict.faults += _ended(pair)
    except DiskError as error:
        verdict.faults.append(f"the disk cannot be mounted: {error}")
    if verdict.faults:
        verdict.faults += [*_logs(after.live, "live"), *_logs(pair, "after the cut")]
    return verdict


def cut_again(after: Aftermath, cut: Cut, work: Path, after_s: float) -> Cut:
    """Return the disk as it is when the power goes once more, while both sides recover.

    Args:
        after: the session that the cut is of.
        cut: the disk when the power went for the first time.
        work: a folder that is not there yet.
        after_s: how long after the start of the server the power goes.
    """
    pair = Pair(work)
    with after.mounted(cut, pair) as disk:
        going = threading.Timer(
            after_s, lambda: images.append(disk.copy(f"{cut.image.stem}-again"))
        )
        images: list[Path] = []
        going.start()
        try:
            pair.start_server()
            result = pair.once()
            assert result.code == 0, result
        finally:
            going.join()
            pair.close()
    return Cut(images[0], cut.acks, after.history.changes, pair.client_state)


def _judge(pair: Pair, cut: Cut, history: History, verdict: Verdict) -> None:
    found = snapshot(pair.dest) if pair.dest.exists() else {}
    verdict.faults += _told(faults_before_recovery(history, cut.last, _without_root(found)))
    pair.start_server()
    found = snapshot(pair.dest)
    verdict.faults += _told(faults_after_recovery(history, cut.ack, cut.last, found))
    acknowledged = history.alive_paths(cut.ack.asked)
    verdict.figures["acknowledged entries checked"] += len(acknowledged)
    result = pair.once()
    if result.code or result.err:
        verdict.faults.append(f"the client did not come into sync: {result}")
    if drift := [event for event in result.objects if event["event"] == "drift"]:
        verdict.faults.append(f"the server took the power cut for drift: {drift}")
    source = snapshot(pair.source)
    verdict.faults += _told(differences(source, snapshot(pair.dest)))
    verdict.faults += _told(_lost(pair, cut, history, source, verdict))
    verdict.figures["recoveries"] += 1


def _without_root(found: Tree) -> Tree:
    return {path: node for path, node in found.items() if path}


def _lost(pair: Pair, cut: Cut, history: History, source: Tree, verdict: Verdict) -> Iterator[str]:
    """Yield what was acknowledged once and is in neither the tree nor the attic."""
    there = {node.content for node in source.values() if node.kind == "file"}
    gone = history.stored(cut.acks) - there
    attic = pair.dest / ".twinfold" / "attic"
    kept = {node.content for node in snapshot(attic).values() if node.kind == "file"}
    verdict.figures["attic entries checked"] += len(gone)
    for digest in sorted(gone - kept):
        yield f"content {digest.hex()} of {history.owners(digest)} is not in the attic"


def _ended(pair: Pair) -> list[str]:
    told = [event for event in pair.server.events() if event["event"] != "listening"]
    faults = [] if pair.server.alive else [f"the server ended: {pair.server.describe()}"]
    faults += [f"the server said {event}" for event in told]
    try:
        pair.close()
    except AssertionError as error:
        faults.append(f"a traceback: {error}")
    return faults


def _logs(pair: Pair, when: str) -> list[str]:
    logs = sorted(pair.base.glob("*.log"))
    return [f"{when}, {log.name}: {text}" for log in logs if (text := log.read_text()[-3000:])]


def _told(faults: Iterator[str] | list[str]) -> list[str]:
    lines = list(faults)
    more = len(lines) - _MOST_TOLD
    return lines[:_MOST_TOLD] + ([f"... and {more} more"] if more > 0 else [])
