"""A destination without room, inodes or descriptors: nothing is lost, work goes on by itself."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import pytest

from tests.e2e.harness import LIMIT_S, Pair, run
from tests.e2e.small import ext4, fill, free_bytes, tmpfs

pytestmark = pytest.mark.process

if sys.platform != "linux":
    pytest.skip("small file systems are made on Linux only", allow_module_level=True)

MIB = 1 << 20
RELIEF_LIMIT_S = 30.0
"""Work goes on within this time once there is room; the machine's slowness comes on top."""


def until(reached: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    """Return as soon as something is so."""
    end = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def problem_at(pair: Pair, path: str) -> str:
    """Return the reason that ``status`` gives for a path, empty if there is none."""
    result = run("status", pair.source, "--json", state=pair.client_state)
    assert result.code == 0, result
    listed = {entry["path"]: entry["reason"] for entry in result.objects[0]["problem_list"]}
    return str(listed.get(path, ""))


def test_what_does_not_fit_keeps_nothing_else(pair: Pair) -> None:
    """It is a problem of its own; edits, deletions and small files go on; it arrives at last."""
    with tmpfs(pair.dest, "size=40m"):
        (pair.source / "old").write_bytes(os.urandom(3 * MIB))
        (pair.source / "gone").write_bytes(b"gone")
        pair.start("--compress", "off")
        filler = fill(pair.dest.parent / "dest" / ".twinfold" / "filler", 8 * MIB)
        (pair.source / "big").write_bytes(os.urandom(12 * MIB))
        told = pair.client.expect("problem", where=lambda e: e["path"] == "big")
        assert "no room" in told["reason"]
        (pair.source / "gone").unlink()
        (pair.source / "small").write_bytes(b"small")
        (pair.source / "old").rename(pair.source / "renamed")
        until(lambda: (pair.dest / "small").exists(), "a small file waits for a big one")
        until(lambda: not (pair.dest / "gone").exists(), "a deletion waits for a big file")
        until(lambda: (pair.dest / "renamed").exists(), "a move waits for a big file")
        assert "free some" in problem_at(pair, "big")
        pair.server.expect("message", where=lambda e: "no room" in e["text"])
        mark = pair.client.mark()
        filler.unlink()
        pair.client.expect(
            "in_sync",
            since=mark,
            where=lambda e: e["problems"] == 0,
            timeout_s=RELIEF_LIMIT_S,
        )
        pair.assert_equal()
        pair.close()


def test_an_old_version_stays_until_the_new_one_fits(pair: Pair) -> None:
    """A big file that was edited keeps its old content at the destination, whole."""
    with tmpfs(pair.dest, "size=40m"):
        old = os.urandom(10 * MIB)
        (pair.source / "file").write_bytes(old)
        pair.start("--compress", "off")
        filler = fill(pair.dest / ".twinfold" / "filler", 4 * MIB)
        (pair.source / "file").write_bytes(os.urandom(11 * MIB))
        pair.client.expect("problem", where=lambda e: e["path"] == "file")
        assert (pair.dest / "file").read_bytes() == old
        filler.unlink()
        pair.converge()
        pair.close()


def test_deletions_pass_a_disk_that_is_full_to_the_last_byte(pair: Pair) -> None:
    """The attic gives way, which is said; what was deleted makes room for what is new."""
    with tmpfs(pair.dest, "size=48m"):
        for number in range(6):
            (pair.source / f"old-{number}").write_bytes(os.urandom(4 * MIB))
        pair.start("--compress", "off")
        fill(pair.dest / ".twinfold" / "filler")
        for number in range(5):
            (pair.source / f"old-{number}").unlink()
        until(lambda: not (pair.dest / "old-0").exists(), "deletions wait for room")
        for number in range(3):
            (pair.source / f"new-{number}").write_bytes(os.urandom(4 * MIB))
        told = pair.server.expect("attic_gave_way")
        assert told["entries"] >= 1
        assert told["bytes"] >= 4 * MIB
        pair.converge()
        pair.close()


def test_a_first_sync_of_too_much(pair: Pair) -> None:
    """What fits arrives, the rest is listed; nothing is read and sent again and again."""
    with tmpfs(pair.dest, "size=32m"):
        for number in range(48):
            (pair.source / f"file-{number:02}").write_bytes(os.urandom(MIB))
        pair.start_server()
        pair.start_client("--compress", "off").expect("in_sync", where=lambda e: e["problems"] > 10)
        arrived = {path.name for path in pair.dest.glob("file-*")}
        assert 10 < len(arrived) < 32
        for name in list(arrived):
            (pair.source / name).unlink()
        pair.client.expect("in_sync", where=lambda e: e["files"] == 48 - len(arrived))
        pair.converge()
        pair.close()


def test_no_inodes_left(pair: Pair) -> None:
    """New names wait, edits of what is there and deletions go on; it ends by itself."""
    with ext4(pair.dest, 64, "-N", "400"):
        for number in range(120):
            (pair.source / f"file-{number}").write_bytes(b"%d" % number)
        pair.start_server("--adopt")
        pair.start_client().expect("in_sync")
        for number in range(400):
            (pair.source / f"more-{number}").mkdir()
            (pair.source / f"more-{number}" / "file").write_bytes(b"more")
        pair.client.expect("problem")
        (pair.source / "file-0").unlink()
        until(lambda: not (pair.dest / "file-0").exists(), "a deletion waits for inodes")
        pair.client.expect("in_sync", where=lambda e: e["problems"] > 0)
        for number in range(100, 400):
            (pair.source / f"more-{number}" / "file").unlink()
            (pair.source / f"more-{number}").rmdir()
        pair.converge()
        pair.close()


def test_it_starts_and_goes_on_where_nothing_is_free(pair: Pair) -> None:
    """A server that is started on a full disk serves; deletions pass."""
    with tmpfs(pair.dest, "size=32m"):
        (pair.source / "a").write_bytes(os.urandom(4 * MIB))
        (pair.source / "b").write_bytes(b"b")
        pair.start("--compress", "off")
        pair.client.terminate()
        pair.server.terminate()
        filler = fill(pair.dest / ".twinfold" / "filler")
        assert free_bytes(pair.dest) == 0
        pair.restart_server()
        (pair.source / "a").unlink()
        (pair.source / "new").write_bytes(os.urandom(MIB))
        pair.start_client("--compress", "off").expect("in_sync")
        until(lambda: not (pair.dest / "a").exists(), "a deletion waits for room")
        filler.unlink()
        pair.converge()
        pair.close()


def test_too_few_descriptors_at_the_server(pair: Pair) -> None:
    """While it cannot open files nothing is lost; with a higher limit it goes on."""
    import resource

    pair.start()
    held = len(os.listdir(f"/proc/{pair.server.process.pid}/fd"))
    most = resource.prlimit(pair.server.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pair.server.process.pid, resource.RLIMIT_NOFILE, (held, most[1]))
    mark = pair.client.mark()
    for number in range(50):
        (pair.source / f"deep-{number}" / "er").mkdir(parents=True)
        (pair.source / f"deep-{number}" / "er" / "file").write_bytes(os.urandom(200_000))
    until(
        lambda: "too many open files" in _detail(pair) or bool(pair.server.events("message")),
        "the lack of descriptors is not told",
    )
    resource.prlimit(pair.server.process.pid, resource.RLIMIT_NOFILE, most)
    pair.client.expect("in_sync", since=mark)
    pair.converge()


def _detail(pair: Pair) -> str:
    result = run("status", pair.source, "--json", state=pair.client_state)
    return str(result.objects[0]["detail"]) if result.code == 0 else ""


def test_too_few_descriptors_at_the_client(pair: Pair) -> None:
    """A scan that cannot open files deletes nothing and says why; it is made up for later."""
    import resource

    for number in range(20):
        (pair.source / f"{number}" / "a" / "b" / "c").mkdir(parents=True)
        (pair.source / f"{number}" / "a" / "b" / "c" / "file").write_bytes(b"%d" % number)
    pair.start()
    pid = pair.client.process.pid
    most = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    held = max(int(fd) for fd in os.listdir(f"/proc/{pid}/fd")) + 2
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (held, most[1]))
    for number in range(20):
        (pair.source / f"{number}" / "a" / "b" / "c" / "new").write_bytes(b"new")
        (pair.source / f"{number}" / "a" / "b" / "c" / "deep" / "er").mkdir(parents=True)
    until(lambda: "more files" in _detail(pair), "the lack of descriptors is not told")
    assert all((pair.dest / f"{n}" / "a" / "b" / "c" / "file").exists() for n in range(20))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, most)
    pair.converge()
    pair.settle()


def test_a_full_state_folder(pair: Pair) -> None:
    """The client says so in a line, loses nothing, and goes on when there is room."""
    with tmpfs(pair.client_state, "size=2m"):
        (pair.source / "first").write_bytes(b"first")
        pair.start()
        filler = fill(pair.client_state / "filler")
        for number in range(3_000):
            (pair.source / f"file-{number}").write_bytes(b"%d" % number)
        until(lambda: "state" in _detail(pair), "a full state folder is not told")
        assert "free some room" in _detail(pair)
        assert pair.client.alive
        filler.unlink()
        pair.converge()
        pair.settle()
        pair.client.terminate()


def test_a_first_start_with_a_full_state_folder(pair: Pair) -> None:
    """One line, exit code 1, nothing left half done."""
    pair.start_server()
    (pair.source / "file").write_bytes(b"file")
    with tmpfs(pair.client_state, "size=64k"):
        filler = fill(pair.client_state / "filler")
        result = pair.once()
        assert result.code == 1
        assert len(result.err.splitlines()) == 1, result
        assert "unexpected" not in result.err
        filler.unlink()
    assert not (pair.dest / "file").exists()
