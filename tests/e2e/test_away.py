"""Sides that end, come back, break off: work goes on where it stopped."""

from __future__ import annotations

import http.server
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import (
    NO_CONTENT_BYTES,
    STOP_LIMIT_S,
    Pair,
    assert_one_line,
    run,
)
from tests.e2e.trees import make_museum, make_small_files, random_bytes, write_random

assert sys.platform != "win32"

pytestmark = pytest.mark.process

MIB = 1 << 20


def test_a_live_client_outlasts_an_absence_of_the_server(pair: Pair) -> None:
    """While the server is away the client keeps trying, then sends what has changed."""
    make_museum(pair.source)
    pair.start()
    pair.server.kill()
    (pair.source / "made meanwhile").write_bytes(b"meanwhile")
    (pair.source / "contents").rename(pair.source / "moved meanwhile")
    (pair.source / "links" / "to-file").unlink()
    pair.restart_server()
    pair.converge()
    (pair.source / "made after").write_bytes(b"after")
    pair.converge()
    assert pair.client.alive


def test_a_live_client_may_start_before_the_server(pair: Pair) -> None:
    """A client that finds no server yet waits for it."""
    (pair.source / "file").write_bytes(b"file")
    pair.start_server("--token", "a-token-of-the-test")
    pair.server.terminate()
    client = pair.start_client()
    pair.restart_server("--token", "a-token-of-the-test")
    client.expect("in_sync")
    pair.assert_equal()


def test_an_invite_outlasts_a_restart_of_the_server(pair: Pair) -> None:
    """The token is kept with the destination: an invite goes on being valid."""
    pair.start_server()
    invite = pair.invite
    pair.server.terminate()
    pair.restart_server()
    assert pair.invite == invite


def test_cut_connections_do_no_harm(pair: Pair) -> None:
    """A sync whose connections break again and again ends equal and sends little twice."""
    write_random(pair.source / "big", 40 * MIB)
    make_small_files(pair.source / "many", 400, size_bytes=4_000)
    pair.start_server()
    proxy = pair.proxy()
    client = pair.start_client(proxy=proxy)
    for size_bytes in (200, 5_000, 100_000, 3 * MIB, 5 * MIB + 13):
        proxy.cut_after(size_bytes)
        proxy.wait_sent(proxy.sent_bytes + size_bytes, 60)
    client.expect("in_sync")
    pair.assert_equal()
    assert proxy.sent_bytes < 1.75 * 42 * MIB


def test_a_stalled_connection_goes_on(pair: Pair) -> None:
    """A network that passes nothing for a while delays a sync and breaks nothing."""
    write_random(pair.source / "big", 20 * MIB)
    pair.start_server()
    proxy = pair.proxy()
    client = pair.start_client(proxy=proxy)
    proxy.wait_sent(2 * MIB, 60)
    proxy.stall()
    (pair.source / "made while stalled").write_bytes(b"stalled")
    with pytest.raises(AssertionError):
        client.expect("in_sync", timeout_s=2)
    proxy.resume()
    pair.converge()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_upload_goes_on_where_it_stopped(pair: Pair, number: int) -> None:
    """A client stopped inside a big file does not send again what had arrived."""
    write_random(pair.source / "big", 64 * MIB)
    pair.start_server()
    proxy = pair.proxy()
    client = pair.start_client(proxy=proxy)
    proxy.wait_sent(40 * MIB, 60)
    client.process.send_signal(number)
    client.wait_exit()
    pair.sync(proxy=proxy)
    assert proxy.sent_bytes < (64 + 26) * MIB


def test_an_upload_goes_on_after_a_restart_of_the_server(pair: Pair) -> None:
    """A server killed inside a big file has kept what it had staged."""
    write_random(pair.source / "big", 64 * MIB)
    pair.start_server()
    proxy = pair.proxy()
    client = pair.start_client(proxy=proxy)
    proxy.wait_sent(40 * MIB, 60)
    pair.server.kill()
    pair.restart_server()
    client.expect("in_sync")
    pair.assert_equal()
    assert proxy.sent_bytes < (64 + 34) * MIB


def test_sigterm_ends_a_quiet_pair_in_time(pair: Pair) -> None:
    """SIGTERM ends either side cleanly within 5 s, the state is kept."""
    write_random(pair.source / "big", 5 * MIB)
    pair.start()
    for side in (pair.client, pair.server):
        code, seconds = side.terminate()
        assert code >= 0, side.describe()
        assert seconds < STOP_LIMIT_S
    pair.restart_server()
    assert pair.sync()["sent_bytes"] < 1_024


@pytest.mark.parametrize("side", ["client", "server"])
def test_sigterm_ends_a_busy_side_in_time(pair: Pair, side: str) -> None:
    """SIGTERM in the middle of a first sync ends a side in time; the rest follows later."""
    write_random(pair.source / "big", 30 * MIB)
    make_small_files(pair.source / "many", 2_000)
    pair.start_server()
    proxy = pair.proxy()
    client = pair.start_client(proxy=proxy)
    proxy.wait_sent(MIB, 60)
    ended = client if side == "client" else pair.server
    code, seconds = ended.terminate()
    assert code >= 0, ended.describe()
    assert seconds < STOP_LIMIT_S
    if side == "server":
        pair.restart_server()
        client.expect("in_sync")
        pair.assert_equal()
    else:
        pair.sync()


@pytest.mark.parametrize("side", ["client", "server"])
def test_ctrl_c_ends_a_side_with_130(pair: Pair, side: str) -> None:
    """Ctrl-C ends either side with exit code 130, the state is kept."""
    (pair.source / "file").write_bytes(random_bytes(300_000))
    pair.start()
    ended = pair.client if side == "client" else pair.server
    code, seconds = ended.interrupt()
    assert code == 130, ended.describe()
    assert seconds < STOP_LIMIT_S
    if side == "server":
        pair.client.terminate()
        pair.restart_server()
    assert pair.sync()["sent_bytes"] < 1_024


def test_once_does_not_wait_for_a_server(pair: Pair) -> None:
    """``--once`` with nobody listening ends with exit code 1 and one line."""
    pair.start_server()
    pair.server.terminate()
    line = assert_one_line(pair.once())
    assert str(pair.port) in line


class Page(http.server.BaseHTTPRequestHandler):
    """Answers everything with a web page, as the login page of a hotel does."""

    def _answer(self) -> None:
        page = b"<html><body>Welcome! Please log in.</body></html>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    do_GET = do_POST = _answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def page_port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_a_web_page_in_the_way_is_not_taken_for_a_server(tmp_path: Path, page_port: int) -> None:
    """A proxy that answers 200 with a page is an error of one line, never success."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"file")
    invite = f"twinfold://token@127.0.0.1:{page_port}"
    source = tmp_path / "source"
    result = run("client", source, "--once", "--server", invite, state=tmp_path / "state")
    assert_one_line(result)


def test_a_vanished_source_deletes_nothing(pair: Pair) -> None:
    """A source that is moved away or replaced by an empty folder is an error, not a deletion."""
    make_museum(pair.source)
    pair.start_server()
    pair.sync()
    pair.source.rename(pair.base / "away")
    assert_one_line(pair.once(), (1, 2))
    pair.source.mkdir()
    assert_one_line(pair.once())
    assert (pair.dest / "contents" / "text").exists()
    pair.source.rmdir()
    (pair.base / "away").rename(pair.source)
    assert pair.sync()["sent_bytes"] < NO_CONTENT_BYTES


def test_a_source_that_vanishes_while_live_deletes_nothing(pair: Pair) -> None:
    """The same, while the client is live; when the source is back, work goes on."""
    make_small_files(pair.source / "many", 100)
    pair.start()
    client = pair.client
    mark = client.mark()
    pair.source.rename(pair.base / "away")
    client.expect("problem", since=mark)
    assert sum(1 for _ in (pair.dest / "many").rglob("*.js")) == 100
    (pair.base / "away").rename(pair.source)
    (pair.source / "new").write_bytes(b"new")
    pair.converge()
    assert client.alive


def test_a_lost_lock_file_is_no_lock(pair: Pair) -> None:
    """After SIGKILL of both sides neither is kept out by what was left behind."""
    (pair.source / "file").write_bytes(b"file")
    pair.start()
    pair.client.kill()
    pair.server.kill()
    pair.restart_server()
    assert pair.sync()["sent_bytes"] < 1_024
    assert os.listdir(pair.dest / ".twinfold")
