"""A live pair of one's own: what a change costs, what readers see, and a git working copy."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.harness import LIMIT_S, NO_CONTENT_BYTES, Pair
from tests.e2e.trees import make_small_files, random_bytes, write_random

pytestmark = pytest.mark.process


def test_the_sources_own_attributes_follow(pair: Pair) -> None:
    """Mode and time of SOURCE itself are part of the mirror."""
    (pair.source / "file").write_bytes(b"file")
    pair.start()
    pair.source.chmod(0o700)
    pair.converge()
    os.utime(pair.source, ns=(3, 3))
    pair.converge()
    (pair.source / "file").unlink()
    os.utime(pair.source, ns=(4, 4))
    pair.converge()


def test_events_that_found_no_room_are_made_up_for(pair: Pair) -> None:
    """A client that was held up while more changed than its queue has room for misses nothing."""
    if sys.platform != "linux":
        pytest.skip("the queue is inotify's")
    one, two = pair.source / "one", pair.source / "two"
    one.write_bytes(b"one")
    pair.start()
    pair.converge()
    room = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    pair.client.process.send_signal(signal.SIGSTOP)
    for _ in range(room // 4 + 1):
        one.rename(two)
        two.rename(one)
    (pair.source / "later").write_bytes(b"later")
    pair.client.process.send_signal(signal.SIGCONT)
    pair.converge()


def test_an_edit_through_a_name_outside_is_found_by_wait(pair: Pair) -> None:
    """``wait`` covers what gives no event: a hard link outside, memory mapped elsewhere."""
    outside = pair.base / "outside"
    outside.write_bytes(b"before")
    os.link(outside, pair.source / "inside")
    pair.start()
    with outside.open("r+b") as file:
        file.write(b"after!")
    pair.settle()
    assert (pair.dest / "inside").read_bytes() == b"after!"


def test_a_copied_folder_sends_no_content(pair: Pair) -> None:
    """A copy of a folder costs its names, not its content."""
    make_small_files(pair.source / "folder", 200, size_bytes=20_000)
    write_random(pair.source / "folder" / "big", 9 << 20)
    pair.start_server()
    proxy = pair.proxy()
    pair.start_client(proxy=proxy).expect("in_sync")
    before = proxy.sent_bytes
    shutil.copytree(pair.source / "folder", pair.source / "copy")
    pair.settle()
    assert proxy.sent_bytes - before < NO_CONTENT_BYTES


def test_a_folder_of_two_thousand_files_moves_as_one(pair: Pair) -> None:
    """A renamed folder is one operation: every file at the destination stays the same file."""
    make_small_files(pair.source / "before", 2_000)
    pair.start_server()
    proxy = pair.proxy()
    pair.start_client(proxy=proxy).expect("in_sync")
    pair.assert_equal()
    files = {p.name: p.stat().st_ino for p in (pair.dest / "before").rglob("*.js")}
    sent_before = proxy.sent_bytes
    (pair.source / "before").rename(pair.source / "after")
    pair.converge()
    assert {p.name: p.stat().st_ino for p in (pair.dest / "after").rglob("*.js")} == files
    assert proxy.sent_bytes - sent_before < 8192


def test_a_small_edit_sends_little(pair: Pair) -> None:
    """A live edit of a small file costs about its chunk, in one request."""
    (pair.source / "file").write_bytes(b"before")
    pair.start_server()
    proxy = pair.proxy()
    pair.start_client(proxy=proxy).expect("in_sync")
    before = proxy.sent_bytes
    (pair.source / "file").write_bytes(b"after")
    pair.converge()
    assert proxy.sent_bytes - before < 2048


def test_a_replaced_file_is_never_absent_nor_mixed(pair: Pair) -> None:
    """While a file is replaced, a reader finds the old or the new one at every instant."""
    path = pair.source / "file"
    versions = {bytes([65 + n]) * (100_000 + n) for n in range(20)}
    path.write_bytes(min(versions))
    pair.start()
    mirror = pair.dest / "file"
    for data in sorted(versions)[1:]:
        (pair.source / "new").write_bytes(data)
        (pair.source / "new").replace(path)
        deadline = time.monotonic() + LIMIT_S
        while mirror.stat().st_size < len(data):
            assert mirror.read_bytes() in versions
            assert time.monotonic() < deadline, pair.client.describe()
    pair.converge()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_git_working_copy_follows_checkouts(pair: Pair) -> None:
    """Old and new commits checked out in turn leave an equal, sound working copy."""
    work = pair.source / "work"
    work.mkdir()
    git(work, "init", "-q", "-b", "main")
    for number in range(6):
        make_small_files(work / f"module-{number}", 120, seed=number)
        if number:
            shutil.rmtree(work / f"module-{number - 1}" / "package-0")
        (work / "changed").write_bytes(random_bytes(100_000, number))
        git(work, "add", "-A")
        git(work, "commit", "-q", "-m", f"commit {number}")
    pair.start()
    for commit in ("main~5", "main~1", "main~4", "main"):
        git(work, "checkout", "-q", commit)
    pair.converge()
    git(work, "gc", "-q")
    pair.settle()
    git(pair.dest / "work", "fsck", "--strict")
    assert git(pair.dest / "work", "--no-optional-locks", "status", "--porcelain") == ""


def git(folder: Path, *words: str) -> str:
    settings = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "gc.auto=0")
    ended = subprocess.run(
        ["git", *settings, "-c", "safe.directory=*", "-C", str(folder), *words],
        env=os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull},
        check=True,
        capture_output=True,
        text=True,
    )
    return ended.stdout
