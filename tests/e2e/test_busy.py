"""Files that never hold still, and waiting while others change."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from tests.e2e.harness import Pair, run

pytestmark = pytest.mark.process

MIB = 1 << 20


def _write_until(stop: threading.Event, path: Path) -> None:
    with path.open("r+b") as file:
        number = 0
        while not stop.wait(0.002):
            number += 1
            file.seek(number * 4_099 % (8 * MIB))
            file.write(b"%d" % number)
            file.flush()


def test_a_busy_big_file_does_not_fill_the_destination(pair: Pair) -> None:
    """One attempt is staged however often it is tried; others go on; it arrives at last."""
    path = pair.source / "busy"
    path.write_bytes(bytes(range(256)) * (8 * MIB // 256))
    pair.start()
    stop = threading.Event()
    writing = threading.Thread(target=_write_until, args=(stop, path))
    writing.start()
    try:
        pair.client.expect("problem", since=pair.client.mark())
        (pair.source / "other").write_bytes(b"other")
        assert run("wait", pair.source, state=pair.client_state).code == 3
        assert (pair.dest / "other").read_bytes() == b"other"
        staging = pair.dest / ".twinfold" / "staging"
        assert sum(file.stat().st_size for file in staging.iterdir()) <= 3 * 8 * MIB
    finally:
        stop.set()
        writing.join()
    pair.converge()


def test_wait_with_no_time_says_nothing_false(pair: Pair) -> None:
    """`wait --timeout 0` cannot know, and does not say that all is well."""
    (pair.source / "file").write_bytes(b"file")
    pair.start()
    result = run("wait", pair.source, "--timeout", "0", state=pair.client_state)
    assert result.code == 3


def test_wait_is_answered_while_other_files_change(pair: Pair) -> None:
    """What was changed before the call is durable, so `wait` returns 0 though more is coming."""
    pair.start()
    stop = threading.Event()

    def make_files() -> None:
        number = 0
        while not stop.wait(0.02):
            number += 1
            (pair.source / f"file-{number}").write_bytes(b"%d" % number)

    making = threading.Thread(target=make_files)
    making.start()
    try:
        (pair.source / "before").write_bytes(b"before")
        result = run("wait", pair.source, "--timeout", "60", state=pair.client_state)
        assert result.code == 0, result
        assert (pair.dest / "before").read_bytes() == b"before"
    finally:
        stop.set()
        making.join()


def test_being_in_sync_is_said_after_a_retry_that_found_nothing(pair: Pair) -> None:
    """However a removal falls apart into events and retries, `in_sync` follows it."""
    pair.start()
    client = pair.client
    for attempt in range(15):
        folder = pair.source / f"folder-{attempt}"
        mark = client.mark()
        folder.mkdir()
        for number in range(40):
            (folder / f"{number}").write_bytes(b"%d" % number)
        client.expect("in_sync", since=mark)
        pair.converge()
        mark = client.mark()
        shutil.rmtree(folder)
        client.expect("in_sync", since=mark)
