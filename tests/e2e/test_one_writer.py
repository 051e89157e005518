"""A folder has one writer: others are told who it is, and a copied state is recognised."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.harness import Pair, Result, assert_one_line, run
from tests.e2e.proxy import PIECE_BYTES, Proxy
from twinfold.client.place import place_of

pytestmark = pytest.mark.process


class Other:
    """Another source with a state folder of its own, as on another machine."""

    def __init__(self, pair: Pair, source: Path) -> None:
        self._pair = pair
        self.source = source
        self.state = pair.base / "other-state"

    def once(self, *options: str) -> Result:
        """Run its client to the end."""
        words = ("--server", self._pair.invite, "--once", *options)
        return run("client", self.source, *words, state=self.state)

    def copy_state(self) -> Path:
        """Give it a copy of the pair's client's state, as it is now; return the folder."""
        kept = place_of(self._pair.client_state, os.fsencode(self._pair.source))
        copy = place_of(self.state, os.fsencode(self.source))
        copy.create()
        with (
            closing(sqlite3.connect(kept.state)) as original,
            closing(sqlite3.connect(copy.state)) as written,
        ):
            original.backup(written)
            # On another machine the copied folder could well have the same number.
            inode = self.source.stat().st_ino
            written.execute("UPDATE meta SET value = ? WHERE key = 'root_inode'", (inode,))
            written.commit()
        return copy.folder


@pytest.fixture
def other(pair: Pair) -> Other:
    (pair.source / "file").write_bytes(b"file")
    pair.start()
    source = pair.base / "other"
    shutil.copytree(pair.source, source)
    (source / "mine").write_bytes(b"of the other")
    return Other(pair, source)


def test_what_was_taken_over_once_is_not_taken_back(pair: Pair, other: Other) -> None:
    """A client that was cut off while the next one took over ends, though it took over itself."""
    if sys.platform == "win32":
        pytest.skip("a process is held up by a signal")
    pair.settle()
    pair.client.terminate()
    pair.start_client("--take-over").expect("in_sync")
    mark = pair.client.mark()
    pair.server.kill()
    pair.client.expect("waiting", since=mark)
    pair.client.process.send_signal(signal.SIGSTOP)
    pair.restart_server()
    assert other.once("--take-over").code == 0
    pair.client.process.send_signal(signal.SIGCONT)
    assert_stopped(pair, str(other.source))
    assert (pair.dest / "mine").exists()


NUMBERS = {
    "epoch in an answer": re.compile(rb"\xa5epoch(?:\xce.{4}|\xcf.{8}|[\x00-\x7f])", re.DOTALL),
    "epoch in a request": re.compile(rb"Twinfold-Epoch: [0-9]+"),
    "protocol version": re.compile(rb"\xa9protocols\x91."),
}


class Spoiler(Proxy):
    """Turns the last bit of a number, once, on its way."""

    def __init__(self, port: int, number: str) -> None:
        self._number = NUMBERS[number]
        self.done = False
        super().__init__(("127.0.0.1", port))

    def _pass_on(self, source: socket.socket, target: socket.socket, outward: bool) -> None:
        with contextlib.suppress(OSError):
            while data := bytearray(source.recv(PIECE_BYTES)):
                if not self.done and (found := self._number.search(data)):
                    data[found.end() - 1] ^= 1
                    self.done = True
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_spoilt_number_ends_no_client(pair: Pair, number: str) -> None:
    """It asks again before it gives up, for its place or for good, and goes on."""
    (pair.source / "file").write_bytes(b"file")
    pair.start_server()
    with Spoiler(pair.port, number) as spoiler:
        pair.start_client(proxy=spoiler).expect("in_sync")
        change(pair)
        pair.settle()
        pair.assert_equal()
    assert spoiler.done


def change(pair: Pair) -> None:
    (pair.source / "new").write_bytes(b"new")


def assert_stopped(pair: Pair, *words: str) -> None:
    assert pair.client.wait_exit() == 1
    (line,) = pair.client.errors.splitlines()
    for word in words:
        assert word in line


def test_who_is_refused_learns_who_has_the_folder(pair: Pair, other: Other) -> None:
    """By name and by address; after a take-over the first one learns the same of the second."""
    line = assert_one_line(other.once())
    assert f"{pair.source} at 127.0.0.1" in line
    assert "--take-over" in line
    pair.settle()
    assert other.once("--take-over").code == 0
    assert (pair.dest / "mine").exists()
    change(pair)
    assert_stopped(pair, f"{other.source} at 127.0.0.1", "taken over")
    assert not (pair.dest / "new").exists()


def test_a_copied_state_is_refused(pair: Pair, other: Other) -> None:
    """A copy of a client's state beside another source is no right to its destination."""
    folder = other.copy_state()
    change(pair)
    pair.settle()
    pair.client.terminate()
    pair.start_client().expect("in_sync")
    line = assert_one_line(other.once())
    assert "copied" in line
    assert f"{pair.source} at 127.0.0.1" in line
    assert str(folder) in line
    pair.settle()
    shutil.rmtree(folder)
    assert "kept for" in assert_one_line(other.once())
    pair.settle()


def test_a_copy_that_takes_over_is_the_writer(pair: Pair, other: Other) -> None:
    """The first client stops and says why, also if it is started again; nothing is mixed."""
    other.copy_state()
    assert other.once("--take-over").code == 0
    assert (pair.dest / "mine").exists()
    change(pair)
    assert_stopped(pair, "a copy of its state", str(other.source))
    assert "copied" in assert_one_line(pair.once())
    assert not (pair.dest / "new").exists()
    assert (pair.dest / "mine").exists()
    assert pair.once("--take-over").code == 0
    pair.assert_equal()


def test_two_processes_with_one_state_are_told_apart(pair: Pair, other: Other) -> None:
    """The same source by a copied state: one goes on, the other stops and says why."""
    twin = Other(pair, pair.source)
    twin.copy_state()
    assert twin.once().code == 0
    pair.assert_equal()
    change(pair)
    assert_stopped(pair, "a copy of its state")
    pair.sync()


def test_a_killed_client_is_no_copy_of_itself(pair: Pair) -> None:
    """However often it is killed, at whatever moment, it may go on."""
    (pair.source / "file").write_bytes(b"file")
    pair.start()
    for _ in range(3):
        pair.client.kill()
        change(pair)
        pair.start_client()
    pair.client.kill()
    pair.sync()
