"""A destination that something else changes: found, kept, healed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.harness import NO_CONTENT_BYTES, STOP_LIMIT_S, Pair, run
from tests.e2e.trees import make_museum, random_bytes, write_random

assert sys.platform != "win32"

pytestmark = pytest.mark.process

MIB = 1 << 20


def fill(source: Path) -> None:
    (source / "folder" / "below").mkdir(parents=True)
    (source / "folder" / "one").write_bytes(random_bytes(50_000, "one"))
    (source / "folder" / "below" / "two").write_bytes(random_bytes(200_000, "two"))
    (source / "link").symlink_to("folder/one")
    (source / "file").write_bytes(b"the source's")


def edit(dest: Path) -> bytes:
    (dest / "file").write_bytes(b"edited at the destination")
    return b"edited at the destination"


def edit_same_size(dest: Path) -> bytes:
    (dest / "file").write_bytes(b"other bytes!")
    return b"other bytes!"


def edit_unseen(dest: Path) -> bytes:
    """The size and the mtime are as before; only the ctime tells."""
    before = (dest / "file").stat()
    (dest / "file").write_bytes(b"other bytes!")
    os.utime(dest / "file", ns=(before.st_atime_ns, before.st_mtime_ns))
    return b"other bytes!"


def extend(dest: Path) -> bytes:
    (dest / "folder" / "new").mkdir()
    (dest / "folder" / "new" / "extra").write_bytes(b"extra")
    return b"extra"


def replace(dest: Path) -> bytes:
    (dest / "aside").write_bytes(b"replaced!")
    (dest / "aside").replace(dest / "file")
    return b"replaced!"


def retype(dest: Path) -> bytes:
    shutil.rmtree(dest / "folder" / "below")
    (dest / "folder" / "below").write_bytes(b"a file now")
    (dest / "link").unlink()
    (dest / "link").mkdir()
    (dest / "file").unlink()
    (dest / "file").symlink_to("nowhere")
    return b"a file now"


def thin_out(dest: Path) -> None:
    shutil.rmtree(dest / "folder")
    (dest / "link").unlink()


def rename(dest: Path) -> None:
    (dest / "folder").rename(dest / "renamed")
    (dest / "file").rename(dest / "renamed" / "file")


def change_modes(dest: Path) -> None:
    (dest / "folder").chmod(0o700)
    (dest / "file").chmod(0o600)


def touch(dest: Path) -> None:
    os.utime(dest / "file", ns=(1, 1))
    os.utime(dest / "folder", ns=(1, 1))
    os.utime(dest, ns=(1, 1))


def retarget(dest: Path) -> None:
    (dest / "link").unlink()
    (dest / "link").symlink_to("elsewhere")


KINDS = [
    edit,
    edit_same_size,
    edit_unseen,
    extend,
    replace,
    retype,
    thin_out,
    rename,
    change_modes,
    touch,
    retarget,
]


@pytest.mark.parametrize("change", KINDS)
def test_what_changed_while_the_server_was_stopped_is_healed_at_once(
    pair: Pair, change: Callable[[Path], bytes | None]
) -> None:
    """The next ``--once`` ends with 0 only when both sides are equal; what was found is kept."""
    fill(pair.source)
    pair.start_server()
    pair.sync()
    pair.server.terminate()
    foreign = change(pair.dest)
    pair.restart_server()
    pair.sync()
    if foreign is not None:
        assert pair.has_in_attic(foreign)


@pytest.mark.parametrize("change", KINDS)
def test_a_live_client_heals_after_a_restart_of_the_server(
    pair: Pair, change: Callable[[Path], bytes | None]
) -> None:
    """A client that waits for its server heals what the server finds when it is back."""
    fill(pair.source)
    pair.start()
    pair.server.terminate()
    foreign = change(pair.dest)
    pair.restart_server()
    pair.settle()
    pair.converge()
    if foreign is not None:
        assert pair.has_in_attic(foreign)


def test_content_renamed_at_the_destination_is_not_sent_again(pair: Pair) -> None:
    """What is found elsewhere is taken to the attic, and from there back to its place."""
    (pair.source / "folder").mkdir()
    write_random(pair.source / "folder" / "big", 12 * MIB)
    pair.start_server()
    pair.sync()
    pair.server.terminate()
    (pair.dest / "folder").rename(pair.dest / "renamed")
    with (pair.dest / "renamed" / "big").open("r+b") as file:
        file.write(b"and edited")
    pair.restart_server()
    proxy = pair.proxy()
    pair.sync(proxy=proxy)
    assert proxy.sent_bytes < 2 * NO_CONTENT_BYTES + 96 * 1024


def test_reused_content_that_is_not_what_it_was_is_drift(pair: Pair) -> None:
    """Bytes that changed under the same size and times are found when they are to be reused."""
    data = random_bytes(300_000)
    (pair.source / "first").write_bytes(data)
    pair.start()
    rot(pair.dest / "first")
    mark = pair.client.mark()
    (pair.source / "second").write_bytes(data)
    pair.client.expect("drift", since=mark)
    pair.converge()
    assert (pair.dest / "first").read_bytes() == data


def rot(path: Path) -> None:
    """Change a byte, and put the times back that can be put back."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size // 2)
        byte = file.read(1)
        file.seek(before.st_size // 2)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_quiet_restart_changes_nothing(pair: Pair) -> None:
    """A tree that nobody touched is found to be as it should: nothing moves, nothing is sent."""
    make_museum(pair.source)
    pair.start_server()
    pair.sync()
    attic = sorted(os.listdir(pair.dest / ".twinfold" / "attic"))
    before = inodes(pair.dest)
    pair.server.kill()
    pair.restart_server()
    proxy = pair.proxy()
    pair.sync(proxy=proxy)
    assert proxy.sent_bytes < 4_096
    assert sorted(os.listdir(pair.dest / ".twinfold" / "attic")) == attic
    assert inodes(pair.dest) == before


def inodes(dest: Path) -> dict[Path, int]:
    folders = ("contents", "attributes", "links", "directories")
    return {path: path.lstat().st_ino for name in folders for path in (dest / name).rglob("*")}


def test_an_idle_client_says_that_its_server_is_away(pair: Pair) -> None:
    """It is told without anything to send, by status as well, and when the server is back."""
    (pair.source / "file").write_bytes(b"file")
    pair.start()
    mark = pair.client.mark()
    pair.server.kill()
    pair.client.expect("waiting", since=mark)
    status = run("status", pair.source, "--json", state=pair.client_state).objects[0]
    assert status["activity"] in ("waiting", "connecting")
    pair.restart_server()
    pair.client.expect("connected", since=mark)
    status = run("status", pair.source, "--json", state=pair.client_state).objects[0]
    assert status["activity"] == "live"


def test_an_idle_client_ends_when_another_takes_over(pair: Pair, tmp_path: Path) -> None:
    """A client that was fenced off says so and ends, although it has nothing to send."""
    (pair.source / "file").write_bytes(b"file")
    pair.start()
    client = pair.client
    other = Pair(tmp_path / "other")
    other.invite = pair.invite
    (other.source / "file").write_bytes(b"another's")
    result = other.once("--take-over")
    assert result.code == 0, result
    assert client.wait_exit() == 1
    assert "taken over" in client.errors
    assert len(client.errors.splitlines()) == 1


def test_a_server_with_an_idle_client_stops_in_time(pair: Pair) -> None:
    """Those who wait for events do not keep it."""
    (pair.source / "file").write_bytes(b"file")
    pair.start()
    _, seconds = pair.server.terminate()
    assert seconds < STOP_LIMIT_S


@pytest.mark.parametrize("what", [".", ".twinfold", ".twinfold/attic"])
@pytest.mark.parametrize("how", ["moved", "replaced"])
def test_a_destination_that_is_taken_away_ends_the_server(pair: Pair, what: str, how: str) -> None:
    """It says so in one line and ends; nothing is made anew, nothing is written elsewhere."""
    (pair.source / "file").write_bytes(b"file")
    pair.start()
    place = pair.dest / what
    place.rename(pair.base / "away")
    if how == "replaced":
        place.mkdir()
    (pair.source / "late").write_bytes(b"late")
    assert pair.server.wait_exit() == 1
    lines = pair.server.errors.splitlines()
    assert len(lines) == 1, lines
    assert "moved, removed or replaced" in lines[0]
    if how == "replaced":
        assert os.listdir(place) == []
        place.rmdir()
    assert not place.exists()
    (pair.base / "away").rename(place)
    pair.restart_server()
    pair.converge()
