"""The server's index is lost, damaged or put back from an older copy: nothing is sent again."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.harness import NO_CONTENT_BYTES, Pair
from tests.e2e.trees import make_small_files, random_bytes, write_random

assert sys.platform != "win32"

pytestmark = pytest.mark.process

MIB = 1 << 20


def index_files(pair: Pair) -> list[Path]:
    return sorted((pair.dest / ".twinfold").glob("index*"))


def index_file(pair: Pair) -> Path:
    return pair.dest / ".twinfold" / "index.sqlite"


def delete(pair: Pair) -> None:
    for path in index_files(pair):
        path.unlink()


def empty(pair: Pair) -> None:
    delete(pair)
    index_file(pair).touch()


def truncate(pair: Pair) -> None:
    os.truncate(index_file(pair), index_file(pair).stat().st_size // 2)


def scribble(pair: Pair) -> None:
    size_bytes = index_file(pair).stat().st_size
    with index_file(pair).open("r+b") as file:
        for place in range(3, 8):
            file.seek(size_bytes * place // 10)
            file.write(os.urandom(8_192))


def fill(pair: Pair) -> tuple[bytes, bytes]:
    """Bring a tree and an attic about; return contents that only the attic has."""
    gone, replaced = random_bytes(3 * MIB, "gone"), random_bytes(2 * MIB, "replaced")
    write_random(pair.source / "big", 12 * MIB)
    make_small_files(pair.source / "many", 400, size_bytes=3_000)
    (pair.source / "gone").write_bytes(gone)
    (pair.source / "replaced").write_bytes(replaced)
    pair.start_server()
    pair.sync()
    (pair.source / "gone").unlink()
    (pair.source / "replaced").write_bytes(b"new")
    pair.sync()
    return gone, replaced


@pytest.mark.parametrize("harm", [delete, empty, truncate, scribble])
@pytest.mark.parametrize("live", [True, False])
def test_an_index_that_is_lost_or_damaged_is_made_anew(
    pair: Pair, harm: Callable[[Pair], None], live: bool
) -> None:
    """Neither the tree's content nor the attic's has to be sent, and the attic is kept."""
    gone, replaced = fill(pair)
    proxy = pair.proxy()
    if live:
        pair.start_client(proxy=proxy).expect("in_sync")
    pair.server.terminate()
    harm(pair)
    (pair.source / "back").write_bytes(gone)
    (pair.source / "new").write_bytes(b"new")
    before = proxy.sent_bytes
    pair.restart_server()
    if live:
        pair.settle()
    else:
        pair.sync(proxy=proxy)
    assert proxy.sent_bytes - before < 2 * NO_CONTENT_BYTES
    assert pair.has_in_attic(gone)
    assert pair.has_in_attic(replaced)


@pytest.mark.parametrize("live", [True, False])
def test_an_older_index_that_was_put_back_does_no_harm(pair: Pair, live: bool) -> None:
    """Nothing that the destination has is sent again, and nothing is lost from the attic."""
    gone, replaced = fill(pair)
    pair.server.terminate()
    copy = pair.base / "last week"
    copy.mkdir()
    for path in index_files(pair):
        shutil.copy2(path, copy)
    pair.restart_server()
    proxy = pair.proxy()
    late = random_bytes(4 * MIB, "late")
    old_big = (pair.source / "big").read_bytes()
    if live:
        pair.start_client(proxy=proxy).expect("in_sync")
    (pair.source / "late").write_bytes(late)
    (pair.source / "folder").mkdir()
    write_random(pair.source / "folder" / "inside", 3 * MIB)
    (pair.source / "big").write_bytes(old_big[: 6 * MIB] + b"edited" + old_big[6 * MIB :])
    (pair.source / "many").rename(pair.source / "moved")
    if live:
        pair.settle()
    else:
        pair.sync(proxy=proxy)
    (pair.source / "late").unlink()
    if live:
        pair.settle()
    else:
        pair.sync(proxy=proxy)
    assert pair.has_in_attic(old_big)
    pair.server.terminate()
    delete(pair)
    for path in copy.iterdir():
        shutil.copy2(path, pair.dest / ".twinfold")
    (pair.source / "late again").write_bytes(late)
    before = proxy.sent_bytes
    pair.restart_server()
    if live:
        pair.settle()
    else:
        pair.sync(proxy=proxy)
    assert proxy.sent_bytes - before < 4 * NO_CONTENT_BYTES
    for data in (gone, replaced, late, old_big):
        assert pair.has_in_attic(data)
    pair.server.terminate()
    pair.restart_server()
    for data in (gone, replaced, late, old_big):
        assert pair.has_in_attic(data)
