"""What a small edit costs on the wire, both ways and HTTP included; and what is behind it."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.harness import Pair
from tests.e2e.proxy import Proxy
from tests.e2e.trees import random_bytes
from tests.e2e.wire import Wire, batch_frame, put, recipes_frame
from twinfold.model import Chunk, Copy, Recipe
from twinfold.protocol import MAX_CHUNK_BYTES, MAX_FRAME_RECIPES

assert sys.platform != "win32"

pytestmark = pytest.mark.process

EDIT_BYTES = 1_500
BIG_EDIT_BYTES = 8_000
CHUNK_BYTES = 16_000


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    pair.close()


def source_text(size_bytes: int) -> bytes:
    """Return lines as of a program, with few words and much that is repeated."""
    dice = random.Random(7)
    words = [f"name_{number}" for number in range(200)]
    lines: list[str] = []
    while sum(map(len, lines)) < size_bytes:
        indent = "    " * dice.randrange(1, 4)
        left, right, last = dice.choices(words, k=3)
        lines.append(f"{indent}{left} = self.{right}({last}, {dice.randrange(100)})\n")
    return "".join(lines).encode()[:size_bytes]


def cost_bytes(pair: Pair, proxy: Proxy, change: Callable[[], object]) -> int:
    """Return what passes, both ways, until a change is in the destination and acknowledged."""
    mark = pair.client.mark()
    before = proxy.sent_bytes + proxy.received_bytes
    change()
    pair.client.expect("in_sync", since=mark)
    after = proxy.sent_bytes + proxy.received_bytes
    pair.assert_equal()
    return after - before


def start(pair: Pair, name: str, data: bytes) -> tuple[Path, Proxy]:
    """Begin with one file, in sync through a counting proxy."""
    path = pair.source / name
    path.write_bytes(data)
    pair.start_server()
    proxy = pair.proxy()
    pair.start_client(proxy=proxy).expect("in_sync")
    return path, proxy


def insert(path: Path, offset: int, data: bytes) -> None:
    """Save the file with more in it at once, so that no part of it is a version of its own."""
    content = path.read_bytes()
    saved = path.parent.parent / "saved"
    saved.write_bytes(content[:offset] + data + content[offset:])
    saved.replace(path)


def test_a_line_more_in_a_source_file(pair: Pair) -> None:
    """The first edit after the first sync, and one after another."""
    path, proxy = start(pair, "code.py", source_text(16_384))
    line = b"    other = self.name_3(17)  # one more\n"
    for offset in (5_000, 9_000, 100, 16_000):
        cost = cost_bytes(pair, proxy, partial(insert, path, offset, line))
        assert cost < EDIT_BYTES, (offset, cost)


def test_an_insertion_in_a_file_of_some_chunks(pair: Pair) -> None:
    path, proxy = start(pair, "some.bin", random_bytes(1_000_000))
    assert cost_bytes(pair, proxy, lambda: insert(path, 500_000, b"0123456789")) < BIG_EDIT_BYTES
    path.rename(pair.source / "other.bin")
    pair.converge()
    path = pair.source / "other.bin"
    assert cost_bytes(pair, proxy, lambda: insert(path, 200_000, b"0123456789")) < BIG_EDIT_BYTES


def test_an_insertion_in_a_big_file(pair: Pair) -> None:
    path, proxy = start(pair, "big.bin", random_bytes(64 << 20))
    assert cost_bytes(pair, proxy, lambda: insert(path, 30 << 20, b"0123456789")) < BIG_EDIT_BYTES
    assert cost_bytes(pair, proxy, lambda: insert(path, 100, b"0123456789")) < BIG_EDIT_BYTES


def test_edits_all_over_a_big_file(pair: Pair) -> None:
    """An edit in each chunk: nothing of the base is kept, and all of it is used."""
    path, proxy = start(pair, "big.bin", random_bytes(8 << 20))

    def overwrite() -> None:
        with path.open("r+b") as file:
            for offset in range(0, 8 << 20, 30_000):
                file.seek(offset)
                file.write(b"12345678")

    assert cost_bytes(pair, proxy, overwrite) < (8 << 20) // 5


def test_what_was_known_outlives_the_client(pair: Pair) -> None:
    path, proxy = start(pair, "some.bin", random_bytes(30_000))
    pair.client.terminate()
    pair.start_client(proxy=proxy).expect("in_sync")
    assert cost_bytes(pair, proxy, lambda: insert(path, 15_000, b"0123456789")) < BIG_EDIT_BYTES


@pytest.mark.parametrize("size_bytes", [30_000, 6 << 20])
def test_damaged_old_content_is_not_used(pair: Pair, size_bytes: int) -> None:
    """What was edited in the destination, unseen, costs the whole chunk; both sides are equal."""
    data = random_bytes(size_bytes)
    path, proxy = start(pair, "file", data)
    with (pair.dest / "file").open("r+b") as file:
        file.seek(15_100)
        file.write(b"behind our back")
    before = proxy.sent_bytes
    insert(path, 15_000, b"0123456789")
    pair.settle()
    assert proxy.sent_bytes - before > CHUNK_BYTES


def test_old_content_that_is_gone_is_not_missed(pair: Pair) -> None:
    path, proxy = start(pair, "file", random_bytes(30_000))
    (pair.dest / "file").unlink()
    before = proxy.sent_bytes
    insert(path, 15_000, b"0123456789")
    pair.settle()
    assert proxy.sent_bytes - before > CHUNK_BYTES


def test_recipes_ask_for_no_more_than_a_request_may_bring(pair: Pair) -> None:
    """A few bytes of recipes that would read and build without end are over the limit."""
    pair.start_server()
    wire = Wire(pair.port, pair.token)
    wire.open_session()
    base = Chunk(bytes(32), MAX_CHUNK_BYTES)
    recipe = Recipe(bytes(32), MAX_CHUNK_BYTES, [base] * 8, [Copy(0, 0, MAX_CHUNK_BYTES)], b"")
    frame = recipes_frame([recipe] * MAX_FRAME_RECIPES)
    batch = batch_frame([put(b"f", b"data")])
    assert wire.post(1, batch + frame).status == 200
    assert wire.post(1, batch + frame * 2).status == 413
    assert wire.post(1, batch + recipes_frame([recipe] * (MAX_FRAME_RECIPES + 1))).status == 413
