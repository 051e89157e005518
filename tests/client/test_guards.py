"""What keeps a scan from doing harm, and from going on: deletions, mounts, rules, the stop."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.mirror import WAYS, ScannedSource, snapshot
from tests.client.running import RunningClient, client_settings, running_server
from twinfold.client.dirty import Names
from twinfold.client.dry_run import dry_run
from twinfold.client.events import Held
from twinfold.client.files import FilePlanner
from twinfold.client.guard import Allowance, Taken
from twinfold.client.read import ScanStoppedError
from twinfold.client.scan import Scan
from twinfold.client.source import UNMOUNTED, Source
from twinfold.client.tree import DescriptorDirectory, Listing
from twinfold.config import ServerAddress
from twinfold.core import planning
from twinfold.core.planning import DeletionLimit, Facts
from twinfold.errors import SourceReplacedError
from twinfold.model import Delete

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs descriptors, or a server")


@pytest.fixture(params=list(WAYS))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ScannedSource]:
    source = ScannedSource(tmp_path, *WAYS[request.param])
    yield source
    source.state.close()


def reasons(source: ScannedSource) -> dict[bytes, str]:
    return {problem.path: problem.reason for problem in source.problems.listed()}


def fill(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{folder.name}{number}").write_text(f"{folder.name}{number}")


def test_what_moved_away_is_no_deletion(
    source: ScannedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the directory that was left empty is deleted, and counted."""
    monkeypatch.setattr(planning, "GUARDED_DELETIONS", 10)
    fill(source.root / "old", 20)
    fill(source.root / "old" / "deep" / "more", 20)
    source.scan()
    new = source.root / "new"
    new.mkdir()
    for path in list((source.root / "old").iterdir()):
        path.rename(new / path.name)
    (new / "deep" / "more" / "more3").rename(new / "up")
    (source.root / "old").rmdir()
    assert source.scan().held_deletions == 0
    assert source.mirror.entries == snapshot(source.root)


def test_what_is_deleted_next_to_a_move_counts(
    source: ScannedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A moved subtree is not counted, what vanished from it and around it is."""
    monkeypatch.setattr(planning, "GUARDED_DELETIONS", 10)
    fill(source.root / "old", 20)
    fill(source.root / "old" / "kept", 5)
    source.scan()
    (source.root / "old" / "kept").rename(source.root / "kept")
    (source.root / "kept" / "kept0").unlink()
    shutil.rmtree(source.root / "old")
    assert source.scan().held_deletions == 20 + 1 + 1


@pytest.mark.parametrize("kind", ["file", "symlink", "FIFO"])
@pytest.mark.parametrize("named", [False, True], ids=["full scan", "by its name"])
def test_a_directory_that_something_else_replaces_counts(
    source: ScannedSource, monkeypatch: pytest.MonkeyPatch, kind: str, named: bool
) -> None:
    """What was in it would be deleted: held until it is released, while all else goes on."""
    monkeypatch.setattr(planning, "GUARDED_DELETIONS", 10)
    fill(source.root / "top" / "d", 20)
    source.scan()
    before = {path: entry for path, entry in source.mirror.entries.items() if b"/d" in path}
    shutil.rmtree(source.root / "top" / "d")
    replace(source.root / "top" / "d", kind)
    (source.root / "top" / "new").write_text("new")
    names = Names({b"top": {b"d", b"new"}}, set()) if named else None
    assert source.scan(names).held_deletions == 20 + (kind == "FIFO")
    after = {path: entry for path, entry in source.mirror.entries.items() if b"/d" in path}
    assert after == before
    assert b"top/new" in source.mirror.entries
    assert source.scan(allowance=Allowance(DeletionLimit(count=21))).held_deletions == 0
    assert source.mirror.entries == snapshot(source.root)


def replace(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_text("in its place")
    elif kind == "symlink":
        path.symlink_to("elsewhere")
    elif sys.platform != "win32":
        os.mkfifo(path)


def test_what_moved_out_of_a_replaced_directory_is_no_deletion(
    source: ScannedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it went, and also if the directory itself has another name now."""
    monkeypatch.setattr(planning, "GUARDED_DELETIONS", 10)
    fill(source.root / "a", 20)
    fill(source.root / "b", 60)
    source.scan()
    source.forget_changes()
    (source.root / "z" / "deep").mkdir(parents=True)
    (source.root / "a").rename(source.root / "z" / "deep" / "a")
    (source.root / "a").write_text("a")
    for path in list((source.root / "b").iterdir()):
        path.rename(source.root / "z" / path.name)
    (source.root / "b").rmdir()
    (source.root / "b").write_text("b")
    assert source.scan().held_deletions == 0
    assert source.mirror.entries == snapshot(source.root)
    assert source.mirror.received_bytes == 2


def test_a_replaced_directory_whose_place_is_taken_again_is_looked_at_later(
    source: ScannedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the listing and the end of the scan the file may have gone, too."""
    fill(source.root / "d", 3)
    source.scan()
    shutil.rmtree(source.root / "d")
    (source.root / "d").write_text("d")
    real = Scan._take_place

    def vanish(scan: Scan, taken: Taken) -> None:
        (source.root / "d").unlink()
        real(scan, taken)

    with monkeypatch.context() as patched:
        patched.setattr(Scan, "_take_place", vanish)
        assert source.scan().retry == {b"": {b"d"}}
    source.scan()
    assert source.mirror.entries == snapshot(source.root)


@pytest.mark.parametrize("left", [0, 1])
def test_a_directory_on_another_device_loses_nothing(
    source: ScannedSource, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    """Where other things are seen than before, a file system is missing, or one is in the way."""
    fill(source.root / "d", 3)
    source.scan()
    source.forget_changes()
    shutil.rmtree(source.root / "d")
    fill(source.root / "d", left)
    (source.root / "d" / "other").write_text("below the mount point")
    with monkeypatch.context() as mounted:
        renumber(mounted, (source.root / "d").stat().st_ino)
        source.scan()
        assert reasons(source) == {b"d": UNMOUNTED}
        source.scan(Names({b"d": {b"d2"}}, set()))
        assert reasons(source) == {b"d": UNMOUNTED}
    assert not any(isinstance(change, Delete) for change in source.mirror.changes)
    source.scan(Names({b"": {b"d"}}, set()))
    assert source.mirror.entries == snapshot(source.root)


def test_a_name_below_a_mount_point_is_no_reason_to_forget_the_device(
    source: ScannedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look at some names judges the directory as a look at all of them does."""
    fill(source.root / "d", 3)
    source.scan()
    shutil.rmtree(source.root / "d")
    fill(source.root / "d", 0)
    (source.root / "d" / "new").touch()
    renumber(monkeypatch, (source.root / "d").stat().st_ino)
    source.scan(Names({b"d": {b"new"}}, set()))
    source.scan()
    assert reasons(source) == {b"d": UNMOUNTED}
    assert b"d/d0" in source.mirror.entries


def test_a_person_may_say_that_a_mount_is_meant(
    source: ScannedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then what is seen there is what counts, at once and from then on."""
    fill(source.root / "d", 3)
    source.scan()
    shutil.rmtree(source.root / "d")
    fill(source.root / "d", 0)
    renumber(monkeypatch, (source.root / "d").stat().st_ino)
    source.scan()
    assert reasons(source) == {b"d": UNMOUNTED}
    source.scan(allowance=Allowance(trusts_mounts=True))
    assert reasons(source) == {}
    assert source.mirror.entries == snapshot(source.root)
    (source.root / "d" / "later").touch()
    source.scan()
    assert source.mirror.entries == snapshot(source.root)


def test_another_file_system_with_the_same_inode_at_its_top_is_another_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The roots of two disks often share their number: what they hold tells them apart."""
    scanned = ScannedSource(tmp_path)
    fill(scanned.root / "d", 3)
    scanned.scan()
    monkeypatch.setattr("twinfold.client.source.file_system_id", lambda _path: 4711)
    with Source(scanned.root_path, scanned.state).open():
        pass
    (scanned.root / "d").rename(scanned.root / "e")
    monkeypatch.setattr("twinfold.client.source.file_system_id", lambda _path: 4712)
    later = Source(scanned.root_path, scanned.state)
    with pytest.raises(SourceReplacedError, match="unmounted"):
        later.open()
    later.accept_other()
    for _ in range(2):
        with later.open():
            pass
    with Source(scanned.root_path, scanned.state).open():
        pass
    scanned.state.close()


def test_a_device_that_is_only_numbered_anew_is_the_same(
    source: ScannedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that are left are what they were: what is gone was deleted."""
    fill(source.root / "d", 3)
    source.scan()
    (source.root / "d" / "d0").unlink()
    renumber(monkeypatch, (source.root / "d").stat().st_ino)
    source.scan()
    assert reasons(source) == {}
    assert source.mirror.entries == snapshot(source.root)


def test_a_source_that_is_numbered_anew_is_the_same(
    source: ScannedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it has another device then: a directory that was emptied meanwhile is empty."""
    fill(source.root / "d", 3)
    source.scan()
    for path in (source.root / "d").iterdir():
        path.unlink()
    with source.state.transaction() as database:
        database.execute("UPDATE nodes SET dev = 77")
    source.scan()
    assert reasons(source) == {}
    assert source.mirror.entries == snapshot(source.root)


def renumber(monkeypatch: pytest.MonkeyPatch, inode: int) -> None:
    real, listed = DescriptorDirectory.facts, DescriptorDirectory.listing

    def other(facts: Facts) -> Facts:
        return facts._replace(dev=4711) if facts.inode == inode else facts

    def renumbered(directory: DescriptorDirectory) -> Listing:
        before, entries, after = listed(directory)
        changed = [(entry[0], *other(Facts(*entry[1:]))) for entry in entries]
        return Listing(other(before), changed, other(after))

    monkeypatch.setattr(DescriptorDirectory, "facts", lambda directory: other(real(directory)))
    monkeypatch.setattr(DescriptorDirectory, "listing", renumbered)


def test_lines_that_are_no_patterns_stay_a_problem(source: ScannedSource) -> None:
    """Until they are mended; whatever is scanned meanwhile."""
    (source.root / ".twinfoldignore").write_text("!\n*.log\n!\n")
    expected = {b".twinfoldignore": "has a line that is no pattern: '!' (and 1 more)"}
    source.scan()
    assert reasons(source) == expected
    source.scan()
    assert len(source.told) == 1
    source.scan(Names({b"": {b".twinfoldignore"}}, set()))
    assert reasons(source) == expected
    (source.root / ".twinfoldignore").write_text("*.log\n")
    source.scan()
    assert reasons(source) == {}


def test_rules_that_cannot_be_read_stay_in_force(
    source: ScannedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was ignored is not sent because a file could not be opened."""
    (source.root / ".twinfoldignore").write_text("*.log\n")
    source.scan()
    (source.root / "secret.log").write_text("x")
    real = DescriptorDirectory.open_file

    def failing(directory: DescriptorDirectory, name: bytes) -> int:
        if name == b".twinfoldignore":
            raise PermissionError(13, "Permission denied")
        return real(directory, name)

    with monkeypatch.context() as unreadable:
        unreadable.setattr(DescriptorDirectory, "open_file", failing)
        source.scan()
    assert b"secret.log" not in source.mirror.entries
    assert "permission denied" in reasons(source)[b".twinfoldignore"]
    (source.root / ".twinfoldignore").write_text("*.log\n#" + "x" * (1 << 20))
    source.scan()
    assert "too large" in reasons(source)[b".twinfoldignore"]
    (source.root / ".twinfoldignore").unlink()
    source.scan()
    assert reasons(source) == {}
    assert b"secret.log" in source.mirror.entries


def test_a_scan_stops_between_two_files(
    source: ScannedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only between directories: one may hold many big files."""
    fill(source.root / "d", 5)
    looked_at: list[object] = []
    scans: list[Scan] = []
    begun = Scan.__init__

    def begin(scan: Scan, *args: object) -> None:
        begun(scan, *args)  # type: ignore[arg-type]
        scans.append(scan)

    def stopping(planner: FilePlanner, *args: object) -> None:
        looked_at.append(args)
        scans[-1].tools.stop.set()

    for method in ("plan_fresh", "plan_changed"):
        with monkeypatch.context() as patched:
            patched.setattr(Scan, "__init__", begin)
            patched.setattr(FilePlanner, method, stopping)
            patched.setattr(FilePlanner, "plan_straight", lambda *_: 0)
            with pytest.raises(ScanStoppedError):
                source.scan()
        assert len(looked_at) == 1
        looked_at.clear()
        source._pending.clear()
        source.scan()
        for path in (source.root / "d").iterdir():
            path.write_text("changed")


async def test_a_dry_run_tells_of_held_deletions(tmp_path: Path) -> None:
    """As the run that it foretells would."""
    async with running_server(tmp_path) as address:
        settings = client_settings(tmp_path, address, once=True)
        fill(tmp_path / "source" / "d", 1_100)
        await RunningClient(settings).result()
        shutil.rmtree(tmp_path / "source" / "d")
        told: list[object] = []
        assert await dry_run(settings, told.append) == 3
        assert [event.deletions for event in told if isinstance(event, Held)] == [1_101]


async def test_a_dry_run_can_be_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the middle of its scan."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    real = FilePlanner.read_ahead

    def stopping(planner: FilePlanner, *args: object) -> bool:
        loop.call_soon_threadsafe(stop.set)
        assert planner._reader._stop.wait(30)
        return real(planner, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(FilePlanner, "read_ahead", stopping)
    async with running_server(tmp_path) as address:
        settings = client_settings(tmp_path, address, once=True)
        fill(tmp_path / "source" / "d", 3)
        assert await dry_run(settings, lambda _event: None, stop) == 130


async def test_a_dry_run_is_interrupted_while_the_server_is_silent(tmp_path: Path) -> None:
    """A server that accepts and never answers does not keep it."""
    stop = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stop.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    address = ServerAddress("127.0.0.1", port, tls=False, token="t")
    settings = client_settings(tmp_path, address, once=True)
    async with asyncio.timeout(10):
        assert await dry_run(settings, lambda _event: None, stop) == 130
    server.close()
    assert not settings.state_dir.exists()
