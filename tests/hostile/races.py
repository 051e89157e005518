"""Symlinks that come and go while a server works in the destination; strace is the witness."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import os
import random
import shutil
import signal
import subprocess
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.e2e.harness import LIMIT_S, Pair, Running
from tests.e2e.wire import Wire, put
from tests.hostile import tracing
from tests.hostile.folder import Canary
from tests.torture.outcome import Failure
from twinfold.model import Change, Delete, MakeDirectory, MakeSymlink, Move, SetAttributes
from twinfold.protocol import BatchAnswer, decode

NAMES = ["a", "b", "file"]
_PATHS = [b"a/a", b"a/b", b"a/file", b"b/a", b"b/b", b"b/file", b"file", b"a/deep/a", b"a/deep"]


def is_possible() -> bool:
    """Tell whether calls can be traced here."""
    words = ["strace", "-o", os.devnull, "true"]
    return shutil.which("strace") is not None and subprocess.run(words, check=False).returncode == 0


def race(seed: int, seconds: float, base: Path) -> tuple[Counter[str], list[Failure]]:
    """Have a traced server apply batches while its folders are swapped for symlinks."""
    counts: Counter[str] = Counter()
    log = base.parent / f"{base.name}.strace"
    pair = Pair(base)
    canary = Canary(base / "outside")
    pair.server_prefix = tracing.command(log)
    try:
        pair.start_server()
        words = [sys.executable, "-m", "tests.hostile.swapping"]
        words += [str(pair.dest), str(canary.folder), *NAMES]
        swapper = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            _apply(random.Random(seed), seconds, pair, counts)
        finally:
            told, _ = swapper.communicate("stop\n", LIMIT_S)
        counts["symlinks swapped"] += int(told)
        stop_traced(pair.server)
        pair.close()
        canary.check()
        found = tracing.strayed(log, pair.dest, canary.folder, counts)
        assert not found, "calls that left the destination:\n" + "\n".join(found[:20])
    except Exception:  # noqa: BLE001 - a failure is reported with its seed
        replay = f"python -m tests.hostile.races server {seed} {seconds}"
        return counts, [Failure(f"symlink race, seed {seed}", replay, traceback.format_exc())]
    finally:
        stop_all(pair)
    return counts, []


def _apply(random_: random.Random, seconds: float, pair: Pair, counts: Counter[str]) -> None:
    wire = Wire(pair.port, pair.token)
    until_s = time.monotonic() + seconds
    number = 0
    data_before = b""
    while time.monotonic() < until_s:
        if number == 0:
            assert wire.open_session(instance=os.urandom(16)).status == 200
        changes: list[Change] = [MakeDirectory(b"a", 0o755, 1), MakeDirectory(b"b", 0o755, 1)]
        data = random_.randbytes(20)
        changes += [put(b"file", data), MakeDirectory(b"a/deep", 0o755, 1)]
        if number:
            # Without content: the server has to read what it holds, under a name that is swapped.
            changes.insert(2, put(b"again", data_before))
        changes += [_change(random_, data) for _ in range(random_.choice([1, 3]))]
        answer = wire.post_batch(number + 1, changes, [data])
        counts[f"batches in a race answered with {answer.status}"] += 1
        assert answer.status in (200, 409, 422), answer
        data_before = data
        done = answer.status == 200 and decode(answer.body, BatchAnswer).revision is not None
        number = number + 1 if done else 0


def _change(random_: random.Random, data: bytes) -> Change:
    path = random_.choice(_PATHS)
    changes: list[Change] = [
        put(path, data),
        put(path, data),
        MakeDirectory(path, 0o755, 1),
        MakeSymlink(path, b"../../outside"),
        Move(b"file", b"a/file"),
        Move(b"a/deep", b"b/deep"),
        Delete(b"a"),
        SetAttributes(b"a", 0o700, 5),
        SetAttributes(b"file", 0o600, 5),
    ]
    return random_.choice(changes)


def watch_client(seed: int, rounds: int, base: Path) -> tuple[Counter[str], list[Failure]]:
    """Have a traced client follow a source through changes of all kinds; it may only read it."""
    counts: Counter[str] = Counter()
    log = base.parent / f"{base.name}.strace"
    pair = Pair(base)
    random_ = random.Random(seed)
    try:
        for _ in range(20):
            _disturb(random_, pair.source, counts)
        pair.start_server()
        pair.client_prefix = tracing.command(log)
        pair.start_client().expect("in_sync")
        for _ in range(rounds):
            for _ in range(8):
                _disturb(random_, pair.source, counts)
            pair.settle()
        stop_traced(pair.client)
        pair.close()
        found = tracing.written(log, pair.source, counts)
        assert counts["calls judged: in the source"], "the client was not seen at work"
        assert not found, "calls that may change the source:\n" + "\n".join(found[:20])
    except Exception:  # noqa: BLE001 - a failure is reported with its seed
        replay = f"python -m tests.hostile.races client {seed} {rounds}"
        return counts, [Failure(f"reading client, seed {seed}", replay, traceback.format_exc())]
    finally:
        stop_all(pair)
    return counts, []


def _disturb(random_: random.Random, source: Path, counts: Counter[str]) -> None:
    """Change something in the source."""
    paths = [path for path in source.rglob("*") if path.exists() or path.is_symlink()]
    folders = [source, *(p for p in paths if p.is_dir() and not p.is_symlink())]
    there = random_.choice(paths) if paths else None
    new = random_.choice(folders) / f"name-{random_.randrange(1000)}"
    kind = random_.choice(
        ["file", "file", "big", "folder", "link", "move", "mode", "time", "delete"]
    )
    counts[f"changes of the source: {kind}"] += 1
    if kind in ("file", "big") and not new.exists():
        new.write_bytes(random_.randbytes(100 if kind == "file" else 700_000))
    elif kind == "folder" and not new.exists():
        new.mkdir()
    elif kind == "link" and not new.exists():
        new.symlink_to("..")
    elif there is None:
        return
    elif kind == "move" and not new.exists() and not new.is_relative_to(there):
        there.rename(new)
    elif kind == "mode" and not there.is_symlink():
        there.chmod(random_.choice([0o700, 0o755, 0o644 | (0o111 * there.is_dir())]))
    elif kind == "time" and not there.is_symlink():
        os.utime(there, ns=(1, random_.randrange(1 << 60)))
    elif kind == "delete" and not there.is_dir():
        there.unlink()


def stop_all(pair: Pair) -> None:
    """End what still runs of a pair, traced or not."""
    for running in pair._started:
        if running.alive:
            stop_traced(running)


def stop_traced(running: Running) -> None:
    """End a process that strace started: strace itself would leave it behind."""
    pid = running.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
    for child in children:
        os.kill(int(child), signal.SIGTERM)
    running.wait_exit()


if __name__ == "__main__":
    import tempfile

    side, first, second = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "pair"
        if side == "server":
            counted, failures = race(int(first), float(second), place)
        else:
            counted, failures = watch_client(int(first), int(second), place)
    print(dict(counted))
    for failure in failures:
        print(failure.told)
    sys.exit(bool(failures))
