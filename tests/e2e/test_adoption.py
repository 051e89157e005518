"""A destination that holds files already: what it has is not sent, what is too much is kept."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.e2e.harness import NO_CONTENT_BYTES, Pair, Running, assert_one_line, run
from tests.e2e.trees import make_small_files, random_bytes, write_random

pytestmark = pytest.mark.process

MIB = 1 << 20


def attic_contents(pair: Pair) -> list[bytes]:
    attic = pair.dest / ".twinfold" / "attic"
    return [path.read_bytes() for path in attic.rglob("*") if path.is_file()]


def test_content_is_found_under_any_name(pair: Pair) -> None:
    """Moved, copied, edited, replaced by another kind: only what DEST never had is sent."""
    (pair.dest / "old").mkdir(parents=True)
    for name in ("moved", "copied", "edited", "kind", "attributes", "extra"):
        write_random(pair.dest / "old" / name, 4 * MIB)
    make_small_files(pair.dest / "many", 300, size_bytes=3_000)
    shutil.copytree(pair.dest / "many", pair.source / "elsewhere" / "many")
    old, new = pair.dest / "old", pair.source / "old"
    new.mkdir()
    shutil.copyfile(old / "moved", pair.source / "at the top")
    shutil.copyfile(old / "copied", new / "copied")
    shutil.copyfile(old / "copied", new / "a copy")
    (new / "edited").write_bytes(b"new" + (old / "edited").read_bytes())
    (new / "kind").mkdir()
    (new / "kind" / "inside").write_bytes((old / "kind").read_bytes())
    shutil.copyfile(old / "attributes", new / "attributes")
    os.chmod(new / "attributes", 0o640)
    extra = (old / "extra").read_bytes()
    pair.start_server("--adopt")
    proxy = pair.proxy()
    pair.sync(proxy=proxy)
    assert proxy.sent_bytes < NO_CONTENT_BYTES + 100_000
    assert extra in attic_contents(pair)


def test_what_is_adopted_is_told_on_the_servers_screen(pair: Pair) -> None:
    """At once that it is read, and in the end how much there was; then the invite."""
    pair.dest.mkdir()
    make_small_files(pair.dest / "many", 200, size_bytes=1_024)
    (pair.dest / "odd \x1b[31m").write_bytes(random_bytes(1_024))
    words = ("--listen", "127.0.0.1:0", "--adopt")
    log = pair.base / "log"
    server = Running("server", pair.dest, *words, state=pair.server_state, log=log)
    try:
        server.expect("not JSON", where=lambda event: "twinfold://" in event["line"])
        lines = [event["line"] for event in server.events()]
        first, last = (
            index_of(lines, word) for word in ("indexing what", "indexed 201 files, 201")
        )
        assert first < last < index_of(lines, "twinfold://")
    finally:
        server.terminate()


def index_of(lines: list[str], text: str) -> int:
    return next(number for number, line in enumerate(lines) if text in line)


def test_a_wrong_folder_adopted_is_not_swept_away(pair: Pair) -> None:
    """What the source lacks goes to the attic, but not thousands of entries without a word."""
    pair.dest.mkdir()
    make_small_files(pair.dest / "many", 1_500)
    (pair.source / "file").write_bytes(b"file")
    result = run("server", pair.dest, "--listen", "127.0.0.1:0", state=pair.server_state)
    assert "--adopt" in assert_one_line(result)
    pair.start_server("--adopt")
    pair.start_client().expect("held")
    pair.expect_answering()
    assert pair.wait().code == 3
    assert count_files(pair.dest / "many") == 1_500
    assert (pair.dest / "file").exists()
    assert run("release", pair.source, state=pair.client_state).code == 0
    pair.assert_equal()
    assert count_files(pair.dest / ".twinfold" / "attic") >= 1_500


def count_files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))
