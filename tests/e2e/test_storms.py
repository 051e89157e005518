"""Heavy change: storms of files, databases, and kills in the middle of it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import LIMIT_S, Pair
from tests.e2e.trees import make_small_files

assert sys.platform != "win32"

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("TWINFOLD_KILLS", "3"))
"""How often each side is killed; every time in another state of work."""


@contextlib.contextmanager
def churn(way: str, folder: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run the writer or the reader as a process of its own until the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.churn", way, str(folder), *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def finish(process: subprocess.Popen[str]) -> str:
    """End a writer or reader; return what it has to say."""
    assert process.poll() is None, "it ended by itself"
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    return out


def test_killed_sides_under_heavy_change(pair: Pair) -> None:
    """Either side killed at random moments: no reader sees a mixed file, all is equal at last."""
    seed = os.environ.get("TWINFOLD_SEED") or str(random.randrange(1 << 32))
    print(f"TWINFOLD_SEED={seed}")
    moments = random.Random(seed)
    pair.start_server()
    pair.start_client()
    with churn("write", pair.source, seed) as writer, churn("read", pair.dest) as reader:
        for victim in moments.sample(["client", "server"] * KILLS, 2 * KILLS):
            time.sleep(moments.choice((0.05, 0.5, 2.0)) * moments.random() * 2)
            assert pair.client.alive, pair.client.describe()
            assert pair.server.alive, pair.server.describe()
            if victim == "client":
                pair.client.kill()
                pair.start_client()
            else:
                pair.server.kill()
                pair.restart_server()
        finish(writer)
        pair.settle()
        report = json.loads(finish(reader))
    assert report["faults"] == []
    assert report["read"] > 0


def test_a_storm_of_small_files(pair: Pair) -> None:
    """Thousands of files made, moved and removed within seconds arrive as they ended up."""
    pair.start()
    modules = pair.source / "node_modules"
    make_small_files(pair.source / ".staging", 3_000)
    (pair.source / ".staging").rename(modules)
    for package in range(0, 60, 4):
        shutil.rmtree(modules / f"package-{package}")
    for package in range(1, 60, 4):
        (modules / f"package-{package}").rename(modules / f"renamed-{package}")
    for number in range(200):
        path = modules / ".bin" / f"tool-{number}"
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(f"../package-{number}/lib/module.js")
    pair.converge()
    shutil.rmtree(modules)
    make_small_files(modules, 500, seed="again")
    pair.converge()
    pair.settle()


def write_transactions(path: Path, mode: str, duration_s: float) -> None:
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA journal_mode={mode}")
    database.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, data BLOB)")
    end = time.monotonic() + duration_s
    while time.monotonic() < end:
        with database:
            database.execute("INSERT INTO rows (data) VALUES (randomblob(900))")
            database.execute("UPDATE rows SET data = randomblob(500) WHERE random() % 50 = 0")
    database.close()


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_database_under_write(pair: Pair, mode: str) -> None:
    """The files of an SQLite database are equal, and a sound database, once it is quiet."""
    pair.start()
    write_transactions(pair.source / "data.sqlite", mode, duration_s=2)
    pair.converge()
    pair.settle()
    database = sqlite3.connect(pair.dest / "data.sqlite")
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert database.execute("SELECT count(*) FROM rows").fetchone()[0] > 0
    database.close()


@pytest.mark.slow
def test_a_tree_of_many_directories_changes_as_a_whole(pair: Pair) -> None:
    """A tree replaced by another version of it by a copying program converges."""
    make_small_files(pair.source / "tree", 6_000, size_bytes=800)
    pair.start()
    for path in sorted((pair.source / "tree").rglob("*.js"))[::3]:
        path.write_bytes(path.read_bytes()[::-1])
    for package in range(0, 120, 7):
        shutil.rmtree(pair.source / "tree" / f"package-{package}")
    make_small_files(pair.source / "tree" / "new", 1_000)
    (pair.source / "tree").rename(pair.source / "tree-2")
    pair.settle()
