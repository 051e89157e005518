"""``client --once``: one pass that makes the destination equal."""

from __future__ import annotations

import itertools
import os
import socket
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import NO_CONTENT_BYTES, Pair, run
from tests.e2e.trees import (
    insert_bytes,
    make_deep,
    make_museum,
    make_small_files,
    make_sparse,
    plain_user,
    random_bytes,
    snapshot,
    write_at,
    write_random,
)
from twinfold.protocol import MAX_CHUNK_BYTES

assert sys.platform != "win32"

pytestmark = pytest.mark.process

MIB = 1 << 20


def test_one_of_everything_becomes_equal_and_is_sent_once(pair: Pair) -> None:
    """Every type, name and attribute arrives as it is; a second pass has nothing to send."""
    make_museum(pair.source)
    pair.source.chmod(0o750)
    os.utime(pair.source, ns=(5, 987_654_321))
    pair.start_server()
    first = pair.sync()
    files = [node for node in snapshot(pair.source).values() if node.kind == "file"]
    assert first["files"] == len(files)
    assert first["problems"] == 0
    proxy = pair.proxy()
    again = pair.sync(proxy=proxy)
    assert (again["files"], again["bytes"]) == (first["files"], first["bytes"])
    assert again["sent_bytes"] < 1_024
    assert proxy.sent_bytes < 4_096


def test_an_empty_source_is_a_source(pair: Pair) -> None:
    """An empty folder syncs to an empty folder with its mode and time."""
    pair.source.chmod(0o711)
    pair.start_server()
    event = pair.sync()
    assert (event["files"], event["bytes"], event["problems"]) == (0, 0, 0)


def test_the_totals_are_true(pair: Pair) -> None:
    """``files`` counts regular files, ``bytes`` their sizes, ``sent_bytes`` request bodies."""
    (pair.source / "folder").mkdir()
    (pair.source / "folder" / "a").write_bytes(random_bytes(100_000))
    (pair.source / "b").write_bytes(random_bytes(50_000, "b"))
    (pair.source / "c").write_bytes(random_bytes(50_000, "b"))
    (pair.source / "link").symlink_to("b")
    pair.start_server()
    event = pair.sync(proxy=(proxy := pair.proxy()))
    assert (event["files"], event["bytes"]) == (3, 200_000)
    assert 150_000 <= event["sent_bytes"] <= proxy.sent_bytes < 165_000
    assert event["reused_bytes"] >= 50_000
    assert event["seconds"] > 0


def test_every_kind_of_change_since_the_last_pass_is_found(pair: Pair) -> None:
    """What happened while no client ran is found by the scan alone."""
    make_museum(pair.source)
    make_small_files(pair.source / "many", 300)
    pair.start_server()
    pair.sync()
    _change_everything(pair.source)
    pair.sync()


def _change_everything(source: Path) -> None:
    contents = source / "contents"
    keep = (contents / "random-100").stat()
    (contents / "random-100").write_bytes(random_bytes(100, "other"))
    os.utime(contents / "random-100", ns=(keep.st_atime_ns, keep.st_mtime_ns))
    with (contents / "random-300000").open("ab") as file:
        file.write(b"more")
    os.truncate(contents / "random-5000000", 4_500_000)
    (contents / "zeros").unlink()
    (contents / "text").rename(source / "text moved")
    (contents / "random-0").replace(contents / "random-1")
    (source / "many").rename(source / "renamed")
    (source / "renamed" / "package-0" / "lib" / "module-3.js").write_bytes(b"edited")
    (source / "links" / "to-file").unlink()
    (source / "links" / "to-file").symlink_to("hard")
    (source / "links" / "dangling").unlink()
    (source / "links" / "dangling").mkdir()
    (source / "directories" / "empty").rmdir()
    (source / "directories" / "empty").write_bytes(b"a file now")
    (source / "attributes" / "mode-444").chmod(0o600)
    os.utime(source / "attributes" / "time-zero", ns=(0, 1))
    os.utime(source / "attributes", ns=(0, 0))


def test_same_size_and_time_but_other_bytes_is_a_change(pair: Pair) -> None:
    """A change that hides behind an unchanged size and mtime is seen by its ctime."""
    path = pair.source / "file"
    path.write_bytes(b"before")
    status = path.stat()
    pair.start_server()
    pair.sync()
    path.write_bytes(b"after!")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    pair.sync()
    assert (pair.dest / "file").read_bytes() == b"after!"


def test_another_file_in_its_place_is_a_change(pair: Pair) -> None:
    """A file renamed over another of the same size and mtime is seen by its inode."""
    for name, data in (("file", b"before"), ("other", b"after!")):
        (pair.source / name).write_bytes(data)
        os.utime(pair.source / name, ns=(1, 1))
    pair.start_server()
    pair.sync()
    (pair.source / "other").replace(pair.source / "file")
    pair.sync()
    assert (pair.dest / "file").read_bytes() == b"after!"


def test_an_edit_through_another_name_outside_is_a_change(pair: Pair) -> None:
    """Bytes changed through a hard link outside of the source are found."""
    outside = pair.base / "outside"
    outside.write_bytes(b"before")
    os.link(outside, pair.source / "inside")
    pair.start_server()
    pair.sync()
    with outside.open("r+b") as file:
        file.write(b"after!")
    pair.sync()


def test_sparse_files_stay_sparse(pair: Pair) -> None:
    """A hole costs neither disk at the destination nor bytes on the wire."""
    make_sparse(pair.source / "sparse", 300 * MIB)
    pair.start_server()
    event = pair.sync()
    assert event["sent_bytes"] < 3 * MAX_CHUNK_BYTES + 64 * 1024
    assert (pair.dest / "sparse").stat().st_blocks * 512 < 4 * MIB


def test_ten_bytes_inserted_in_a_big_file_send_little(pair: Pair) -> None:
    """A small edit of a huge file costs a few chunks, wherever it is."""
    path = pair.source / "big"
    write_random(path, 64 * MIB)
    pair.start_server()
    first = pair.sync()
    assert 64 * MIB <= first["sent_bytes"] < 66 * MIB
    for offset in (20 * MIB + 123, 0, 64 * MIB - 7):
        insert_bytes(path, offset, random_bytes(10, offset))
        proxy = pair.proxy()
        pair.sync(proxy=proxy)
        assert proxy.sent_bytes < 256 * 1024, offset


def test_a_copy_of_a_big_file_sends_no_content(pair: Pair) -> None:
    """Content that the destination holds under another name is not sent."""
    write_random(pair.source / "big", 24 * MIB)
    pair.start_server()
    pair.sync()
    (pair.source / "copy").write_bytes((pair.source / "big").read_bytes())
    (pair.source / "extended").write_bytes((pair.source / "big").read_bytes() + b"tail")
    proxy = pair.proxy()
    event = pair.sync(proxy=proxy)
    assert proxy.sent_bytes < 2 * NO_CONTENT_BYTES
    assert event["reused_bytes"] >= 47 * MIB


def test_a_renamed_folder_sends_no_content(pair: Pair) -> None:
    """A folder renamed while no client ran is moved, not sent and not written again."""
    make_small_files(pair.source / "before", 500, size_bytes=2_000)
    write_random(pair.source / "before" / "big", 5 * MIB)
    pair.start_server()
    pair.sync()
    inode = (pair.dest / "before" / "big").stat().st_ino
    (pair.source / "before").rename(pair.source / "after")
    proxy = pair.proxy()
    pair.sync(proxy=proxy)
    assert proxy.sent_bytes < 4096
    assert (pair.dest / "after" / "big").stat().st_ino == inode


def test_renames_in_a_ring_and_nested_arrive(pair: Pair) -> None:
    """Names that changed places, and renames within renamed folders, end where they should."""
    for name in "abc":
        (pair.source / name).mkdir()
        (pair.source / name / f"file of {name}").write_bytes(random_bytes(3_000, name))
        (pair.source / f"file-{name}").write_bytes(random_bytes(3_000, name * 2))
    pair.start_server()
    pair.sync()
    _rotate(pair.source, ["a", "b", "c"])
    _rotate(pair.source, ["file-a", "file-b", "file-c"])
    (pair.source / "a").rename(pair.source / "b" / "a moved in")
    inner = next((pair.source / "b" / "a moved in").iterdir())
    inner.rename(inner.with_name("renamed"))
    pair.sync()
    (pair.source / "b" / "a moved in").rename(pair.source / "up")
    (pair.source / "b").rename(pair.source / "up" / "b")
    pair.sync()


def _rotate(folder: Path, names: list[str]) -> None:
    (folder / names[-1]).rename(folder / "aside")
    for old, new in reversed(list(itertools.pairwise(names))):
        (folder / old).rename(folder / new)
    (folder / "aside").rename(folder / names[0])


def test_special_files_are_reported_and_do_not_block(pair: Pair) -> None:
    """A FIFO and a socket are problems with a reason; all else is synchronised; exit 3."""
    os.mkfifo(pair.source / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        _bind_in(listener, pair.source, "socket")
    (pair.source / "file").write_bytes(b"file")
    pair.start_server()
    result = pair.once()
    assert result.code == 3, result
    problems = [event for event in result.objects if event["event"] == "problem"]
    assert {event["path"] for event in problems} == {"fifo", "socket"}
    assert all(event["reason"] for event in problems)
    assert result.objects[-1]["event"] == "in_sync"
    assert result.objects[-1]["problems"] == 2
    assert (pair.dest / "file").read_bytes() == b"file"
    for name in ("fifo", "socket"):
        assert not os.path.lexists(pair.dest / name)
        (pair.source / name).unlink()
    pair.sync()


def _bind_in(listener: socket.socket, folder: Path, name: str) -> None:
    # A socket's whole address is at most about 100 bytes, a test's folder is longer.
    before = Path.cwd()
    os.chdir(folder)
    try:
        listener.bind(name)
    finally:
        os.chdir(before)


def test_what_cannot_be_read_is_reported_and_not_deleted(pair: Pair) -> None:
    """An unreadable file or directory is a problem; what was synchronised of it stays."""
    (pair.source / "file").write_bytes(b"file")
    (pair.source / "folder").mkdir()
    (pair.source / "folder" / "inside").write_bytes(b"inside")
    (pair.source / "other").write_bytes(b"other")
    pair.client_prefix = plain_user()
    pair.start_server()
    pair.sync()
    (pair.source / "file").chmod(0)
    (pair.source / "folder").chmod(0)
    (pair.source / "other").write_bytes(b"changed")
    result = pair.once()
    assert result.code == 3, result
    problems = {event["path"] for event in result.objects if event["event"] == "problem"}
    assert problems == {"file", "folder"}
    assert (pair.dest / "folder" / "inside").exists()
    assert (pair.dest / "file").exists()
    assert (pair.dest / "other").read_bytes() == b"changed"
    (pair.source / "file").chmod(0o644)
    (pair.source / "folder").chmod(0o755)
    pair.sync()


def test_replaced_and_deleted_content_is_kept_in_the_attic(pair: Pair) -> None:
    """What is replaced or deleted at the destination can still be found there."""
    old, gone = random_bytes(20_000, "old"), random_bytes(20_000, "gone")
    (pair.source / "folder").mkdir()
    (pair.source / "file").write_bytes(old)
    (pair.source / "folder" / "file").write_bytes(gone)
    pair.start_server()
    pair.sync()
    (pair.source / "file").write_bytes(b"new")
    (pair.source / "folder" / "file").unlink()
    (pair.source / "folder").rmdir()
    pair.sync()
    attic = pair.dest / ".twinfold" / "attic"
    kept = [path.read_bytes() for path in attic.rglob("*") if path.is_file()]
    assert any(old in data for data in kept)
    assert any(gone in data for data in kept)


def test_deleted_content_that_comes_back_is_not_sent(pair: Pair) -> None:
    """The attic saves the upload of what was deleted and is restored, even by another name."""
    write_random(pair.source / "big", 12 * MIB)
    make_small_files(pair.source / "many", 50, size_bytes=20_000)
    data = (pair.source / "big").read_bytes()
    pair.start_server()
    pair.sync()
    (pair.source / "big").unlink()
    for path in (pair.source / "many").rglob("*.js"):
        path.unlink()
    pair.sync()
    (pair.source / "restored").write_bytes(data)
    make_small_files(pair.source / "again", 50, size_bytes=20_000)
    proxy = pair.proxy()
    pair.sync(proxy=proxy)
    assert proxy.sent_bytes < NO_CONTENT_BYTES


def test_thousands_of_files_deep_names_and_deletion(pair: Pair) -> None:
    """A tree of more than a batch of changes arrives, and goes again."""
    make_small_files(pair.source / "many", 2_500, size_bytes=40)
    make_deep(pair.source, 60, "d" * 100, lambda last: write_at(last, "file", b"deep"))
    pair.start_server()
    pair.sync()
    for package in range(0, 50, 2):
        for path in (pair.source / "many" / f"package-{package}" / "lib").iterdir():
            path.unlink()
    pair.sync()


def test_a_copied_destination_is_adopted(pair: Pair) -> None:
    """``--adopt``: what equals the source is not sent; what the source lacks goes to the attic."""
    extra = random_bytes(30_000, "extra")
    for root in (pair.source, pair.dest):
        root.mkdir(exist_ok=True)
        write_random(root / "big", 12 * MIB)
        make_small_files(root / "many", 200, size_bytes=3_000)
    (pair.dest / "extra").write_bytes(extra)
    (pair.dest / "many" / "package-0" / "lib" / "module-1.js").write_bytes(b"changed")
    pair.start_server("--adopt")
    proxy = pair.proxy()
    pair.sync(proxy=proxy)
    assert proxy.sent_bytes < NO_CONTENT_BYTES + 3_000
    attic = pair.dest / ".twinfold" / "attic"
    assert any(extra in path.read_bytes() for path in attic.rglob("*") if path.is_file())


@pytest.mark.parametrize("lost", ["client", "server"])
def test_a_lost_state_or_index_costs_no_content(pair: Pair, lost: str) -> None:
    """The client's state and the server's index are rebuilt without sending anything again."""
    write_random(pair.source / "big", 12 * MIB)
    make_small_files(pair.source / "many", 200, size_bytes=3_000)
    pair.start_server()
    pair.sync()
    if lost == "client":
        pair.client_state = pair.base / "new-state"
    else:
        pair.server.terminate()
        for path in (pair.dest / ".twinfold").glob("index*"):
            path.unlink()
        pair.restart_server()
    (pair.source / "new").write_bytes(b"new")
    proxy = pair.proxy()
    options = ["--take-over"] if lost == "client" else []
    pair.sync(*options, proxy=proxy)
    assert proxy.sent_bytes < NO_CONTENT_BYTES


def test_both_ends_stay_small(pair: Pair) -> None:
    """The memory of either side does not grow with the size of a file."""
    if sys.platform != "linux":
        pytest.skip("needs /proc")
    write_random(pair.source / "big", 200 * MIB)
    pair.start_server()
    pair.start_client().expect("in_sync")
    pair.assert_equal()
    assert pair.client.peak_memory_bytes() < 200_000_000
    assert pair.server.peak_memory_bytes() < 200_000_000


def test_compression_is_a_choice(pair: Pair) -> None:
    """``--compress`` changes what is sent, never what arrives; bad values are usage errors."""
    (pair.source / "text").write_bytes(b"".join(b"line %d of it\n" % n for n in range(100_000)))
    size_bytes = (pair.source / "text").stat().st_size
    pair.start_server()
    plain = pair.sync("--compress", "off")
    assert plain["sent_bytes"] >= size_bytes
    text = (pair.source / "text").read_bytes()
    (pair.source / "text").write_bytes(
        b"b" + b"".join(sorted(text.splitlines(keepends=True))[::-1])
    )
    packed = pair.sync("--compress", "9")
    assert packed["sent_bytes"] < size_bytes / 2
    words = pair.client_words("--once", "--compress", "best")
    assert run(*words, state=pair.client_state).code == 2
