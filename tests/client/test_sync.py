"""The whole client against a real server."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from tests.client.mirror import Snapshot, snapshot
from tests.client.running import WITHIN_S, RunningClient, client_settings, running_server
from twinfold.client.control import NotRunningError, ask_status, ask_wait, list_clients
from twinfold.client.dry_run import dry_run
from twinfold.client.events import Applied, Comparing, Held, InSync, Problem, Waiting
from twinfold.client.place import place_of
from twinfold.config import ServerAddress
from twinfold.errors import (
    ConnectionLostError,
    LockedError,
    RefusedError,
    SourceVanishedError,
)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerAddress]:
    async with running_server(tmp_path) as address:
        yield address


def make_tree(source: Path) -> None:
    (source / "a" / "b").mkdir(parents=True)
    (source / "a" / "one").write_bytes(b"one" * 20_000)
    (source / "a" / "b" / "two").write_bytes(os.urandom(200_000))
    (source / "big").write_bytes(os.urandom(6_000_000))
    (source / "link").symlink_to("a/one")


def destination(folder: Path) -> Snapshot:
    return {
        path: entry
        for path, entry in snapshot(folder / "destination").items()
        if path.split(b"/")[0] != b".twinfold"
    }


def check(folder: Path) -> None:
    assert destination(folder) == snapshot(folder / "source")


async def test_once_brings_the_destination_up_to_date(
    tmp_path: Path, server: ServerAddress
) -> None:
    """It ends with 0 and both trees equal; the next one sends next to nothing."""
    settings = client_settings(tmp_path, server, once=True)
    make_tree(tmp_path / "source")
    client = RunningClient(settings)
    assert await client.result() == 0
    check(tmp_path)
    again = RunningClient(settings)
    assert await again.result() == 0
    told = await again.told(InSync)
    assert (told.files, told.problems) == (3, 0)
    assert told.sent_bytes < 1_000


async def test_live_changes_follow(tmp_path: Path, server: ServerAddress) -> None:
    """Edits, renames, deletions arrive without being asked for."""
    client = RunningClient(client_settings(tmp_path, server))
    source = tmp_path / "source"
    make_tree(source)
    await client.told(InSync)
    for change in (
        lambda: (source / "a" / "one").write_text("edited"),
        lambda: (source / "a").rename(source / "moved"),
        lambda: (source / "moved" / "b" / "two").unlink(),
        lambda: (source / "new" / "deep").mkdir(parents=True),
        lambda: (source / "new" / "deep" / "f").write_text("x"),
    ):
        change()
        status = await ask_wait(tmp_path / "client", client.settings.source, 60)
        assert status.in_sync
        check(tmp_path)
    assert await client.stop() == 0


async def test_without_a_server_once_fails_at_once(tmp_path: Path) -> None:
    """A server that is not there is one clear error."""
    address = ServerAddress("127.0.0.1", 1, tls=False, token="t")
    client = RunningClient(client_settings(tmp_path, address, once=True))
    with pytest.raises(ConnectionLostError, match="is it running"):
        await client.result()


async def test_a_wrong_token_ends_the_client(tmp_path: Path, server: ServerAddress) -> None:
    """Also a live client does not go on knocking."""
    address = msgspec.structs.replace(server, token="wrong")
    client = RunningClient(client_settings(tmp_path, address))
    with pytest.raises(RefusedError) as raised:
        await client.result()
    assert raised.value.code == "token"


async def test_it_goes_on_when_the_server_is_back(tmp_path: Path) -> None:
    """While the server is away changes are kept in mind; nothing is compared again."""
    async with running_server(tmp_path) as address:
        client = RunningClient(client_settings(tmp_path, address))
        await client.told(InSync)
    (tmp_path / "source" / "meanwhile").write_text("x")
    await client.told(Waiting)
    async with running_server(tmp_path, port=address.port):
        await client.in_sync_again()
        check(tmp_path)
        assert await client.stop() == 0
    assert not any(isinstance(event, Comparing) for event in client.events)


async def test_a_lost_state_costs_no_content(tmp_path: Path, server: ServerAddress) -> None:
    """The new state is filled by a comparison; what is equal is read, not sent."""
    settings = client_settings(tmp_path, server, once=True)
    make_tree(tmp_path / "source")
    await RunningClient(settings).result()
    place_of(settings.state_dir, settings.source).state.unlink()
    (tmp_path / "source" / "a" / "one").unlink()
    client = RunningClient(settings)
    assert await client.result() == 0
    check(tmp_path)
    assert (await client.told(InSync)).sent_bytes < 2_000


async def test_a_damaged_state_is_set_aside(tmp_path: Path, server: ServerAddress) -> None:
    """It is kept under another name, and a comparison follows."""
    settings = client_settings(tmp_path, server, once=True)
    make_tree(tmp_path / "source")
    await RunningClient(settings).result()
    state = place_of(settings.state_dir, settings.source).state
    state.write_bytes(b"not a database" * 1_000)
    client = RunningClient(settings)
    assert await client.result() == 0
    check(tmp_path)
    assert list(state.parent.glob("*.damaged-*"))


async def test_a_state_that_is_behind_is_compared(tmp_path: Path, server: ServerAddress) -> None:
    """A state that was restored from a backup does not lead to wrong moves or deletions."""
    settings = client_settings(tmp_path, server, once=True)
    make_tree(tmp_path / "source")
    await RunningClient(settings).result()
    state = place_of(settings.state_dir, settings.source).state
    with sqlite3.connect(state) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    old = state.read_bytes()
    (tmp_path / "source" / "a").rename(tmp_path / "source" / "c")
    (tmp_path / "source" / "big").unlink()
    await RunningClient(settings).result()
    state.write_bytes(old)
    (tmp_path / "source" / "c" / "three").write_text("three")
    client = RunningClient(settings)
    assert await client.result() == 0
    await client.told(Comparing)
    check(tmp_path)


async def test_a_killed_client_goes_on(tmp_path: Path, server: ServerAddress) -> None:
    """Ended at any moment of a first sync, the next start completes it."""
    settings = client_settings(tmp_path, server)
    make_tree(tmp_path / "source")
    for number in range(3_000):
        (tmp_path / "source" / f"n{number}").write_bytes(b"%d" % number)
    for delay_s in (0.05, 0.1, 0.2, 0.4):
        client = RunningClient(settings)
        await asyncio.sleep(delay_s)
        await client.kill()
    client = RunningClient(settings)
    await client.told(InSync)
    check(tmp_path)
    await client.stop()


async def test_a_second_client_for_a_source_is_refused(
    tmp_path: Path, server: ServerAddress
) -> None:
    """The message names the process that is at work."""
    client = RunningClient(client_settings(tmp_path, server))
    await client.told(InSync)
    with pytest.raises(LockedError, match=str(os.getpid())):
        await RunningClient(client_settings(tmp_path, server)).result()
    await client.stop()


async def test_problems_are_told_and_counted(tmp_path: Path, server: ServerAddress) -> None:
    """What cannot be synchronised does not keep the rest, and the exit code says it."""
    if sys.platform == "win32":
        pytest.skip("there is no such thing on Windows")
    settings = client_settings(tmp_path, server, once=True)
    os.mkfifo(tmp_path / "source" / "fifo")
    (tmp_path / "source" / "file").write_text("x")
    client = RunningClient(settings)
    assert await client.result() == 3
    assert (await client.told(Problem)).path == b"fifo"
    assert (await client.told(InSync)).problems == 1
    assert b"file" in destination(tmp_path)


async def test_the_source_goes_away_and_comes_back(tmp_path: Path, server: ServerAddress) -> None:
    """Meanwhile nothing is deleted, and afterwards changes are seen again."""
    client = RunningClient(client_settings(tmp_path, server))
    source = tmp_path / "source"
    make_tree(source)
    await client.told(InSync)
    await ask_wait(tmp_path / "client", client.settings.source, 60)
    before = destination(tmp_path)
    source.rename(tmp_path / "away")
    await client.told(Waiting)
    assert destination(tmp_path) == before
    (tmp_path / "away").rename(source)
    (source / "after").write_text("x")
    status = await ask_wait(tmp_path / "client", client.settings.source, 60)
    assert status.in_sync
    check(tmp_path)
    await client.stop()


async def test_once_without_its_source_fails(tmp_path: Path, server: ServerAddress) -> None:
    """Another folder in the place of the source deletes nothing."""
    settings = client_settings(tmp_path, server, once=True)
    make_tree(tmp_path / "source")
    await RunningClient(settings).result()
    before = destination(tmp_path)
    (tmp_path / "source").rename(tmp_path / "away")
    (tmp_path / "source").mkdir()
    with pytest.raises(SourceVanishedError, match="unmounted"):
        await RunningClient(settings).result()
    assert destination(tmp_path) == before


async def test_held_deletions_keep_it_from_being_in_sync(
    tmp_path: Path, server: ServerAddress
) -> None:
    """The guard is told of, the exit code is 3, and the destination keeps the files."""
    settings = client_settings(tmp_path, server, once=True)
    folder = tmp_path / "source" / "many"
    folder.mkdir()
    for number in range(1_100):
        (folder / str(number)).touch()
    await RunningClient(settings).result()
    for path in folder.iterdir():
        path.unlink()
    client = RunningClient(settings)
    assert await client.result() == 3
    assert (await client.told(Held)).deletions == 1_100
    assert not any(isinstance(event, InSync) for event in client.events)
    assert b"many/7" in destination(tmp_path)


async def test_a_dry_run_changes_nothing(tmp_path: Path, server: ServerAddress) -> None:
    """It tells what would be done, before a first sync as well as later."""
    settings = client_settings(tmp_path, server, once=True)
    make_tree(tmp_path / "source")
    told: list[object] = []
    assert await dry_run(settings, told.append) == 0
    assert Applied("put", b"a/one") in told
    assert destination(tmp_path).keys() == {b""}
    assert not settings.state_dir.exists()
    await RunningClient(settings).result()
    before = destination(tmp_path)
    (tmp_path / "source" / "a").rename(tmp_path / "source" / "z")
    told.clear()
    assert await dry_run(settings, told.append) == 0
    assert Applied("move", b"z", b"a") in told
    assert destination(tmp_path) == before
    await RunningClient(settings).result()
    check(tmp_path)


async def test_a_changed_ignore_file_is_followed(tmp_path: Path, server: ServerAddress) -> None:
    """New patterns take effect while the client runs."""
    client = RunningClient(client_settings(tmp_path, server, ignore=("*.tmp",)))
    source = tmp_path / "source"
    for name in ("a.log", "b.tmp", "c"):
        (source / name).write_text(name)
    await ask_wait_until_running(tmp_path, client)
    assert {b"a.log", b"c"} <= destination(tmp_path).keys()
    assert b"b.tmp" not in destination(tmp_path)
    (source / ".twinfoldignore").write_text("*.log\n")
    await ask_wait(tmp_path / "client", client.settings.source, 60)
    assert destination(tmp_path).keys() == {b"", b".twinfoldignore", b"c"}
    await client.stop()


async def test_status_of_running_clients(tmp_path: Path, server: ServerAddress) -> None:
    """A running client is listed with what it does; one that ended is not."""
    client = RunningClient(client_settings(tmp_path, server))
    make_tree(tmp_path / "source")
    await ask_wait_until_running(tmp_path, client)
    (status,) = await list_clients(tmp_path / "client")
    assert (status.activity, status.files, status.pid) == ("live", 3, os.getpid())
    await client.stop()
    assert await list_clients(tmp_path / "client") == []
    with pytest.raises(NotRunningError):
        await ask_status(place_of(tmp_path / "client", client.settings.source))


async def test_who_asks_is_answered_although_the_state_is_made_anew(
    tmp_path: Path, server: ServerAddress
) -> None:
    """Damage that shows while the client runs ends no `wait`, and the client can be asked on."""
    client = RunningClient(client_settings(tmp_path, server))
    await client.told(InSync)
    place = place_of(tmp_path / "client", client.settings.source)
    with sqlite3.connect(place.state) as database:
        columns = "parent, name, kind, mode, size, mtime_ns, ctime_ns, dev, inode"
        database.executemany(
            f"INSERT INTO nodes (id, {columns}, content, target, manifest)"
            " VALUES (?, 99, 'x' || ?1, 1, 0, 0, 0, 0, 0, 0, x'', x'', 0)",
            [(node,) for node in range(2, 50)],
        )
    database.close()
    (tmp_path / "source" / "new").write_text("new")
    asking = []
    for _ in range(20):
        waiting = ask_wait(tmp_path / "client", client.settings.source, None)
        asking.append(asyncio.create_task(waiting))
        await ask_status(place)
        await asyncio.sleep(0.005)
    await client.told(Waiting)
    (tmp_path / "source" / "newer").write_text("newer")
    async with asyncio.timeout(WITHIN_S):
        answers = await asyncio.gather(*asking)
    assert all(answer.in_sync for answer in answers)
    assert list(place.folder.glob("*.damaged-*"))
    with pytest.raises(LockedError):
        await RunningClient(client.settings).result()
    await ask_wait(tmp_path / "client", client.settings.source, None)
    check(tmp_path)
    await client.stop()


async def test_a_busy_file_is_reported_and_the_others_go_on(
    tmp_path: Path, server: ServerAddress
) -> None:
    """A file that never holds still is a problem until it does."""
    client = RunningClient(client_settings(tmp_path, server))
    await client.told(InSync)
    busy = tmp_path / "source" / "busy"
    writing = asyncio.create_task(keep_writing(busy))
    await client.told(Problem)
    (tmp_path / "source" / "other").write_text("x")
    await client.told_exactly(Applied("put", b"other"))
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    status = await ask_wait(tmp_path / "client", client.settings.source, 60)
    assert status.problems == []
    check(tmp_path)
    await client.stop()


async def test_a_limit_is_kept(tmp_path: Path, server: ServerAddress) -> None:
    """The body bytes take as long as the limit says."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "f").write_bytes(os.urandom(400_000))
    settings = client_settings(tmp_path, server, once=True, limit_bytes_per_s=400_000)
    began_s = time.monotonic()
    assert await RunningClient(settings).result() == 0
    assert time.monotonic() - began_s > 0.8
    check(tmp_path)


async def ask_wait_until_running(folder: Path, client: RunningClient) -> None:
    """Wait for everything, as soon as the client can be asked."""
    await client.told(InSync)
    status = await ask_wait(folder / "client", client.settings.source, 60)
    assert status.in_sync


async def keep_writing(path: Path) -> None:
    """Change a file so often that it cannot be read in between."""

    def write() -> None:
        end_s = time.monotonic() + 20
        with path.open("wb", buffering=0) as file:
            file.truncate(3_000_000)
            while time.monotonic() < end_s and not stopped:
                file.seek(0)
                file.write(b"%f" % time.monotonic())

    stopped: list[bool] = []
    writing = asyncio.create_task(asyncio.to_thread(write))
    try:
        await asyncio.shield(writing)
    finally:
        # The thread may be in the middle of a write: the file holds still when it has ended.
        stopped.append(True)
        await writing
