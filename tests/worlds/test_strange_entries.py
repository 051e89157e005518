"""Entries that programs get wrong, and programs that write in ways of their own."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import contextlib
import os
import shutil
import socket
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.fixtures import Live
from tests.e2e.harness import Pair, run
from tests.e2e.trees import make_deep, random_bytes, write_at

pytestmark = pytest.mark.process

ODD = b"line\nbreak \x1b[31m \xe2\x80\xae bidi \xff"
"""A name that must never reach a terminal as it is."""


@contextmanager
def deepest(folder: Path, levels: int, name: str) -> Iterator[int]:
    """Open the innermost of nested directories by descriptors."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(levels):
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        yield fd
    finally:
        os.close(fd)


def test_what_lies_beyond_path_max_changes_while_live(live: Live) -> None:
    """Files and directories there are edited, moved, replaced and deleted like all others."""
    name = "n" * 255
    make_deep(live.folder, 20, name, lambda last: write_at(last, "f", b"1"))
    live.converge()
    with deepest(live.folder, 20, name) as last:
        write_at(last, "f", b"22")
        write_at(last, os.fsdecode(ODD), b"odd")
        os.mkdir("d", dir_fd=last)
        live.converge()
        os.rename("f", "d/g", src_dir_fd=last, dst_dir_fd=last)
        os.rename("d", "e", src_dir_fd=last, dst_dir_fd=last)
        os.symlink(b"x" * 1000, "d", dir_fd=last)
        live.converge()
        os.rename("e/g", "d", src_dir_fd=last, dst_dir_fd=last)
        os.rmdir("e", dir_fd=last)
        live.converge()
        write_at(last, "tmp", b"333")
        os.rename("tmp", "d", src_dir_fd=last, dst_dir_fd=last)
        live.converge()
    inner = live.folder / name / name
    inner.rename(live.folder / "up")
    live.converge()
    (live.folder / "up").rename(inner)
    live.converge()
    shutil.rmtree(live.folder / name)
    live.converge()


def test_a_pass_reaches_beyond_path_max(pair: Pair) -> None:
    """``--once`` finds what was changed there, and deletes it again."""
    name = "n" * 255
    make_deep(pair.source, 20, name, lambda last: write_at(last, "f", b"1"))
    pair.start_server()
    pair.sync()
    with deepest(pair.source, 20, name) as last:
        os.rename("f", "g", src_dir_fd=last, dst_dir_fd=last)
        write_at(last, "h", b"2")
    pair.sync()
    shutil.rmtree(pair.source / name)
    pair.sync()


def test_no_name_acts_on_a_terminal(pair: Pair) -> None:
    """A path is one printable line wherever people read it, and escaped for programs."""
    folder = os.path.join(os.fsencode(pair.source), ODD)
    os.mkdir(folder)
    os.mkfifo(os.path.join(folder, ODD))
    with open(os.path.join(folder, b"f"), "wb") as file:
        file.write(b"1")
    pair.start_server()
    result = pair.once()
    [problem] = [event["path"] for event in result.objects if event["event"] == "problem"]
    assert (
        problem.encode("utf-8", "backslashreplace").replace(b"\\xff", b"\xff") == ODD + b"/" + ODD
    )
    assert all(character >= " " for line in result.out.splitlines() for character in line)
    words: list[str | Path] = ["client", pair.source, "--server", pair.invite, "--once"]
    shown = run(*words, state=pair.client_state)
    assert shown.code == 3
    for text in (shown.out, shown.err, run("status", state=pair.client_state).out):
        assert all(line.isprintable() for line in text.split("\n")), text
    assert "\\n" in shown.out + shown.err
    os.unlink(os.path.join(folder, ODD))
    pair.sync()


def test_special_files_of_every_kind_block_nothing(live: Live) -> None:
    """FIFO, socket and device are problems; what stood under their names is deleted."""
    for name in ("fifo", "socket", "device"):
        (live.folder / name).write_bytes(b"a file before")
    live.converge()
    mark = live.pair.client.mark()
    for name in ("fifo", "socket", "device"):
        (live.folder / name).unlink()
    os.mkfifo(live.folder / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.open(live.folder, os.O_RDONLY)
        listening.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    made = ["fifo", "socket"]
    if os.geteuid() == 0:
        os.mknod(live.folder / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        made.append("device")
    (live.folder / "file").write_bytes(b"file")
    for name in made:
        expect_problem(live, name, mark)
    assert live.pair.wait().code == 3
    assert os.listdir(live.mirror) == ["file"]
    for name in made:
        (live.folder / name).unlink()
    live.converge()


def expect_problem(live: Live, name: str, mark: int) -> None:
    path = f"{live.name}/{name}"
    live.pair.client.expect("problem", since=mark, where=lambda event: event["path"] == path)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to mount")
def test_a_mount_point_in_the_source(pair: Pair) -> None:
    """What is mounted there is synchronised; when it is gone, nothing is deleted."""
    mount = pair.source / "folder" / "mount"
    mount.mkdir(parents=True)
    (mount / "below").write_bytes(b"below the mount point")
    pair.start_server()
    pair.sync()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "none", mount], check=False)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount")
    try:
        (mount / "file").write_bytes(b"mounted")
        result = pair.once()
        assert result.code == 3, result
        [problem] = [event for event in result.objects if event["event"] == "problem"]
        assert (problem["path"], "file system" in problem["reason"]) == ("folder/mount", True)
        assert (pair.dest / "folder" / "mount" / "below").exists()
    finally:
        subprocess.run(["umount", mount], check=True)
    pair.sync()


def toggle(stop: threading.Event, name: Path, aside: Path, target: Path) -> None:
    """Let a directory be a symlink and a directory again, as fast as it goes."""
    while not stop.wait(0.001):
        # The other side may be at work on the same names.
        for step in (
            lambda: name.rename(aside),
            lambda: name.symlink_to(target),
            name.unlink,
            lambda: aside.rename(name),
        ):
            with contextlib.suppress(OSError):
                step()


@contextmanager
def toggling(name: Path, target: Path) -> Iterator[None]:
    """Swap a directory for a symlink to ``target`` all the time, and back at the end."""
    stop = threading.Event()
    aside = name.with_name(name.name + "-aside")
    swapping = threading.Thread(target=toggle, args=(stop, name, aside, target))
    swapping.start()
    try:
        yield
    finally:
        stop.set()
        swapping.join()


def test_a_directory_of_the_source_that_is_a_symlink_at_times(pair: Pair, tmp_path: Path) -> None:
    """Nothing is ever read through it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    secret = random_bytes(3_000, "secret")
    for number in range(30):
        (outside / f"f{number}").write_bytes(secret)
    swapped = pair.source / "d"
    swapped.mkdir()
    pair.start()
    with toggling(swapped, outside):
        for number in range(60):
            (pair.source / f"other-{number}").write_bytes(b"%d" % number)
            if number % 10 == 0:
                pair.wait(5)
    pair.converge()
    copies = [path for path in pair.dest.rglob("*") if path.is_file() and not path.is_symlink()]
    assert not [path for path in copies if path.read_bytes() == secret]


def test_a_directory_of_the_destination_that_is_a_symlink_at_times(
    pair: Pair, tmp_path: Path
) -> None:
    """Nothing is ever written, changed or deleted through it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for number in range(30):
        (outside / f"f{number}").write_bytes(b"outside")
        (outside / f"f{number}").chmod(0o600)
    folder = pair.source / "d"
    folder.mkdir()
    pair.start()
    before = outside.stat().st_mtime_ns
    with toggling(pair.dest / "d", outside):
        for number in range(60):
            (folder / f"f{number % 30}").write_bytes(b"%d" % number)
            (folder / f"f{number % 30}").chmod(0o640)
            if number % 7 == 0:
                (folder / f"f{number % 30}").unlink()
            if number % 10 == 0:
                pair.wait(5)
    assert sorted(os.listdir(outside)) == sorted(f"f{number}" for number in range(30))
    for path in outside.iterdir():
        assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"outside", 0o600)
    assert outside.stat().st_mtime_ns == before
    assert pair.server.alive


def save_as_vim(path: Path, data: bytes) -> None:
    """Keep the old file as a backup, write a new one, drop the backup."""
    swap, backup = path.with_name(f".{path.name}.swp"), path.with_name(path.name + "~")
    swap.write_bytes(b"b0VIM")
    (path.parent / "4913").write_bytes(b"")
    (path.parent / "4913").unlink()
    path.rename(backup)
    path.write_bytes(data)
    path.chmod(0o644)
    backup.unlink()
    swap.unlink()


def save_as_emacs(path: Path, data: bytes) -> None:
    """Hold a lock that is a dangling symlink, keep a copy, write in place."""
    lock = path.with_name(".#" + path.name)
    lock.symlink_to("user@host.4711:1700000000")
    path.with_name(f"#{path.name}#").write_bytes(data[:10])
    shutil.copy2(path, path.with_name(path.name + "~"))
    path.write_bytes(data)
    path.with_name(f"#{path.name}#").unlink()
    lock.unlink()


def save_as_an_office(path: Path, data: bytes) -> None:
    """Hold a lock file, write beside, put it in place by way of a third name."""
    lock = path.with_name(f".~lock.{path.name}#")
    lock.write_bytes(b",user,host,01.01.2026;")
    fresh, old = path.with_name("lu1.tmp"), path.with_name("lu2.tmp")
    fresh.write_bytes(data)
    path.rename(old)
    fresh.rename(path)
    old.unlink()
    lock.unlink()


@pytest.mark.parametrize("save", [save_as_vim, save_as_emacs, save_as_an_office])
def test_a_file_saved_again_and_again(live: Live, save: Callable[[Path, bytes], None]) -> None:
    """The last version arrives, and nothing of the dance stays."""
    path = live.folder / "text"
    path.write_bytes(b"first")
    live.converge()
    for number in range(25):
        save(path, random_bytes(20_000, number))
        if number % 8 == 0:
            live.converge()
    live.converge()


@pytest.mark.parametrize("mode", ["WAL", "DELETE", "TRUNCATE"])
def test_a_database_that_is_being_written(live: Live, mode: str) -> None:
    """Its files arrive once they hold still; a copy of them is the database."""
    database = sqlite3.connect(live.folder / "db")
    database.execute(f"PRAGMA journal_mode={mode}")
    database.execute("CREATE TABLE t (n INTEGER, data BLOB)")
    for number in range(60):
        with database:
            database.execute("INSERT INTO t VALUES (?, ?)", (number, os.urandom(9_000)))
    assert live.pair.wait(5).code in (0, 3)
    database.close()
    live.converge()
    with sqlite3.connect(f"file:{live.mirror / 'db'}?mode=ro&immutable=1", uri=True) as copy:
        assert copy.execute("SELECT count(*), sum(n) FROM t").fetchone() == (60, 1770)
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    copy.close()


def test_pages_and_logs_that_are_used_again(live: Live) -> None:
    """Pages written in place, log segments renamed to be written anew, files cut and dropped."""
    page = 8_192
    (live.folder / "log").mkdir()
    with (live.folder / "relation").open("w+b", buffering=0) as relation:
        for number in range(80):
            relation.seek(number * 7 % 20 * page)
            relation.write(random_bytes(page, number))
            os.fsync(relation.fileno())
            segment = live.folder / "log" / f"{number:08d}"
            if number >= 3:
                (live.folder / "log" / f"{number - 3:08d}").rename(segment)
            with segment.open("r+b" if number >= 3 else "w+b", buffering=0) as log:
                log.write(random_bytes(4 * page, -number))
        relation.truncate(5 * page)
        live.converge()
    (live.folder / "relation").unlink()
    live.converge()


def test_edits_within_one_tick_of_the_clock(live: Live) -> None:
    """Same size, same mtime, one after the other: the last one arrives."""
    paths = [live.folder / f"f{number}" for number in range(20)]
    for path in paths:
        path.write_bytes(b"00000000")
        os.utime(path, ns=(5, 5))
    live.converge()
    for turn in range(1, 40):
        for path in paths:
            with path.open("r+b") as file:
                file.write(b"%08d" % turn)
            os.utime(path, ns=(5, 5))
    live.converge()
    assert {path.read_bytes() for path in live.mirror.iterdir()} == {b"%08d" % 39}


@pytest.mark.parametrize("time_s", [-(2**31), 2**31 - 1, 2**31, 2**32, 2**33, 9_223_372_035])
def test_times_at_the_ends_of_what_systems_count(live: Live, time_s: int) -> None:
    """Before 1901 and after 2038 and 2106, with all nanoseconds, of files and directories."""
    time_ns = time_s * 1_000_000_000 + 999_999_999
    (live.folder / "d").mkdir()
    (live.folder / "f").write_bytes(b"f")
    for path in (live.folder / "d", live.folder / "f", live.folder):
        os.utime(path, ns=(time_ns, time_ns))
    live.converge()
    (live.folder / "f").write_bytes(b"g")
    os.utime(live.folder / "f", ns=(time_ns, time_ns))
    live.converge()


@pytest.mark.parametrize("time_s", [9_223_372_037, 15_000_000_000])
def test_a_time_that_cannot_be_kept(pair: Pair, time_s: int) -> None:
    """It is a problem of that entry alone; its content arrives, edits of it as well."""
    for name in ("f", "d/g", "before"):
        (pair.source / name).parent.mkdir(exist_ok=True)
        (pair.source / name).write_bytes(name.encode())
    for name in ("f", "d"):
        os.utime(pair.source / name, ns=(time_s * 10**9, time_s * 10**9))
    if (pair.source / "f").stat().st_mtime_ns != time_s * 10**9:
        pytest.skip("needs a file system with times after 2262")
    pair.start_server()
    for data in (b"f", b"edited"):
        (pair.source / "f").write_bytes(data)
        os.utime(pair.source / "f", ns=(time_s * 10**9, time_s * 10**9))
        result = pair.once()
        assert result.code == 3, result
        problems = [event for event in result.objects if event["event"] == "problem"]
        assert {event["path"] for event in problems} == {"f", "d"}
        assert (pair.dest / "f").read_bytes() == data
        assert (pair.dest / "d" / "g").read_bytes() == b"d/g"
    pair.server.terminate()
    for path in (pair.dest / ".twinfold").glob("index*"):
        path.unlink()
    os.utime(pair.dest / "f", ns=(time_s * 10**9, time_s * 10**9))
    pair.restart_server()
    assert pair.once().code == 3
    for name in ("f", "d"):
        os.utime(pair.source / name)
    pair.sync()
