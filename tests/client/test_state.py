"""The client's state: what it keeps, and what becomes of it when it is damaged."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twinfold.client.comparison import compare_entries
from twinfold.client.effects import Effect, Insert, Node, Relocate, Remove, SaveSegment, Update
from twinfold.client.state import ROOT_NODE, SEGMENT_CHUNKS, State
from twinfold.client.state_file import copy_state, kept_texts, open_state
from twinfold.core.planning import DIRECTORY, FILE, SYMLINK
from twinfold.core.times import FIRST_TIME_NS, LAST_TIME_NS
from twinfold.errors import FormatError, StateError
from twinfold.model import Entry, Kind

ROWS = b"hash of 8\0\1" * 50


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = open_state(tmp_path / "state.sqlite", b"/source")
    yield state
    state.close()


def file(node: int, parent: int, name: bytes, size: int = 10, manifest: int = 0) -> Node:
    content = name.ljust(32, b"-")[:32]
    return Node(node, parent, name, FILE, 0o644, size, 1, 2, 3, node, content, b"", manifest)


def directory(node: int, parent: int, name: bytes) -> Node:
    return Node(node, parent, name, DIRECTORY, 0o755, 0, 1, 0, 3, node)


def fill(state: State) -> None:
    assert [state.allocate_node() for _ in range(4)] == [2, 3, 4, 5]
    effects: list[Effect] = [
        Insert(directory(2, ROOT_NODE, b"d")),
        Insert(file(3, 2, b"f")),
        Insert(directory(4, 2, b"e")),
        Insert(file(5, 4, b"g", manifest=1)),
        SaveSegment(1, 0, b"x" * 32),
    ]
    state.acknowledge(effects, [b"x" * 32], 7, [(b"x" * 32, ROWS)])


TIMES_NS = [FIRST_TIME_NS, FIRST_TIME_NS + 1, 0, LAST_TIME_NS - 1, LAST_TIME_NS]
KINDS_AND_TIMES = st.tuples(st.sampled_from([FILE, DIRECTORY, SYMLINK]), st.sampled_from(TIMES_NS))


@settings(deadline=None)
@given(
    there=st.dictionaries(st.binary(min_size=1, max_size=2), KINDS_AND_TIMES, max_size=6),
    spoilt=st.none() | st.tuples(st.integers(0, 5), st.integers(0, 7)),
    missing=st.integers(0, 12),
)
def test_a_directory_is_as_known_or_is_compared(
    there: dict[bytes, tuple[int, int]], spoilt: tuple[int, int] | None, missing: int
) -> None:
    """Only if names, facts and times are all as listed are its directories the whole answer."""
    nodes = [
        Node(number, ROOT_NODE, name, kind, 0o7, number, time_ns, 2, 3, -number)
        for number, (name, (kind, time_ns)) in enumerate(sorted(there.items()), 2)
    ]
    listed: list[Any] = [
        (n.name, n.kind, n.mode, n.size, n.mtime_ns, n.ctime_ns, n.dev, n.inode) for n in nodes
    ]
    equal = all(FIRST_TIME_NS < node.mtime_ns < LAST_TIME_NS for node in nodes)
    if spoilt and spoilt[0] < len(listed):
        entry, at = list(listed[spoilt[0]]), spoilt[1]
        entry[at] = entry[at] + b"x" if at == 0 else entry[at] ^ 1
        listed[spoilt[0]], equal = tuple(entry), False
    if missing < len(listed):
        del listed[missing]
        equal = False
    with TemporaryDirectory() as folder:
        state = open_state(Path(folder) / "state.sqlite", b"/source")
        state.acknowledge([*map(Insert, reversed(nodes)), Insert(file(99, 2, b"below"))], [], 1)
        found = state.directories_if_only(ROOT_NODE, listed)
        known = state.children(ROOT_NODE)
        state.close()
    directories = {name: entry for name, entry in known.items() if entry.kind == DIRECTORY}
    assert found == (directories if equal else None)


def test_an_acknowledgement_brings_rows_chunks_and_revision(state: State) -> None:
    """All of them are there at once, and the totals with them."""
    fill(state)
    assert (state.revision, state.files, state.size_bytes, state.entries) == (7, 2, 20, 4)
    assert state.knows_chunk(b"x" * 32)
    assert not state.knows_chunk(b"y" * 32)
    assert state.find(b"d/e/g") == state.node(5)
    assert state.manifest_beginning_with(b"x" * 32) == (1, file(5, 4, b"g").content)


def test_a_failing_acknowledgement_changes_nothing(state: State) -> None:
    """A batch that contradicts the state is not taken in half."""
    fill(state)
    with pytest.raises(StateError):
        state.acknowledge([Insert(file(6, 2, b"new")), Insert(file(7, 2, b"f"))], [], 8)
    assert (state.revision, state.files, state.entries) == (7, 2, 4)
    assert state.find(b"d/new") is None


def test_removing_and_relocating(state: State) -> None:
    """A directory takes along what is below it, and leaves nothing behind."""
    fill(state)
    state.acknowledge([Relocate(4, ROOT_NODE, b"moved")], [], 8)
    assert state.find(b"moved/g") is not None
    assert state.count_below(2) == 2
    state.acknowledge([Remove(4)], [], 9)
    assert (state.files, state.size_bytes, state.entries) == (1, 10, 2)
    assert state.manifest_ids(1, 0, 10) == []


def test_a_new_content_drops_its_old_manifest(state: State) -> None:
    """Segments that no entry uses do not stay."""
    fill(state)
    state.acknowledge([SaveSegment(2, 0, b"y" * 32), Update(file(5, 4, b"g", 15, 2))], [], 8)
    assert state.manifest_ids(1, 0, 1) == []
    assert state.manifest_ids(2, 0, 1) == [b"y" * 32]
    assert state.size_bytes == 25


def test_an_entry_that_changes_twice_in_one_acknowledgement(state: State) -> None:
    """The last content counts once, and no manifest of an earlier one stays."""
    fill(state)
    effects: list[Effect] = [
        SaveSegment(2, 0, b"y" * 32),
        Update(file(5, 4, b"g", size=30, manifest=2)),
        Update(file(3, 2, b"f", size=12)),
        Update(file(5, 4, b"g", size=7)),
    ]
    state.acknowledge(effects, [], 8)
    assert state.node(5) == state.find(b"d/e/g")
    assert (state.files, state.size_bytes) == (2, 12 + 7)
    assert state.manifest_ids(1, 0, 1) == state.manifest_ids(2, 0, 1) == []


def test_a_stretch_of_a_manifest(state: State) -> None:
    """Stretches cross segments, and end where the manifest does."""
    ids = [number.to_bytes(32, "big") for number in range(SEGMENT_CHUNKS + 5)]
    for index in range(2):
        part = ids[index * SEGMENT_CHUNKS : (index + 1) * SEGMENT_CHUNKS]
        state.acknowledge([SaveSegment(1, index, b"".join(part))], [], index)
    for start, count in ((0, 1), (SEGMENT_CHUNKS - 2, 4), (SEGMENT_CHUNKS, 100), (9_999, 5)):
        assert state.manifest_ids(1, start, count) == ids[start : start + count]


def test_what_was_committed_is_read_while_more_is_written(state: State) -> None:
    """Of chunks and their rows, which a scan asks for; it does not wait for an acknowledgement."""
    fill(state)
    with ThreadPoolExecutor(1) as scan, state.transaction() as work:
        for table in ("known_chunks", "sub_blocks", "segments"):
            work.execute(f"DELETE FROM {table}")
        x = b"x" * 32
        assert scan.submit(state.knows_chunk, x).result(timeout=5)
        assert scan.submit(state.sub_blocks, [x, b"y" * 32]).result(timeout=5) == [(x, ROWS)]
        assert scan.submit(state.manifest_ids, 1, 0, 9).result(timeout=5) == [x]
    assert not state.knows_chunk(x)
    assert state.sub_blocks([x]) == []
    assert state.manifest_ids(1, 0, 9) == []


def test_it_is_there_after_it_was_opened_again(tmp_path: Path) -> None:
    """Rows, counters of ids, and the client's own id last."""
    path = tmp_path / "state.sqlite"
    state = open_state(path, b"/source")
    client_id = state.blob("client_id")
    fill(state)
    state.close()
    state = open_state(path, b"/source")
    assert state.blob("client_id") == client_id
    assert len(client_id) == 16
    assert state.allocate_node() == 6
    assert state.allocate_manifest() == 2
    assert (state.files, state.entries) == (2, 4)
    state.close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """It is left as it is."""
    path = tmp_path / "state.sqlite"
    open_state(path, b"/source").close()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(FormatError, match="newer"):
        open_state(path, b"/source")


def test_a_state_of_the_first_format_is_brought_up(tmp_path: Path) -> None:
    """It had no sub-blocks; all else stays."""
    path = tmp_path / "state.sqlite"
    state = open_state(path, b"/source")
    fill(state)
    state.close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE sub_blocks")
        database.execute("DELETE FROM meta WHERE key = 'sub_block_bytes'")
        database.execute("PRAGMA user_version = 1")
    for _ in range(2):
        state = open_state(path, b"/source")
        assert (state.revision, state.entries) == (7, 4)
        assert state.sub_blocks([b"x" * 32]) == []
        state.close()
    assert list(tmp_path.glob("*.damaged-*")) == []


def test_sub_blocks_are_kept_by_chunk(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    state = open_state(path, b"/source")
    fill(state)
    other = b"y" * 32
    state.acknowledge([], [], None, [(other, ROWS[:10]), (b"x" * 32, ROWS[:20])])
    state.close()
    state = open_state(path, b"/source")
    assert state.sub_blocks([b"x" * 32, b"z" * 32, other]) == [
        (b"x" * 32, ROWS[:20]),
        (other, ROWS[:10]),
    ]
    state.close()


def test_the_oldest_sub_blocks_go_beyond_the_budget(tmp_path: Path) -> None:
    """Those of what changed last stay; what is kept again counts as new."""
    path = tmp_path / "state.sqlite"
    state = open_state(path, b"/source")
    state.sub_block_budget_bytes = 100_000
    names = [number.to_bytes(8, "big") + bytes(24) for number in range(1_000)]
    for name in names:
        state.acknowledge([], [], None, [(name, ROWS), (names[0], ROWS)])
        kept = sum(len(rows) for _, rows in state.sub_blocks(names))
        assert kept <= 100_000
    kept_names = [name for name, _ in state.sub_blocks(names)]
    assert kept_names == [names[0], *names[-(len(kept_names) - 1) :]]
    assert len(kept_names) > 100
    state.close()
    state = open_state(path, b"/source")
    state.sub_block_budget_bytes = 1_000
    state.acknowledge([], [], None, [(b"y" * 32, ROWS)])
    assert [name for name, _ in state.sub_blocks([*names, b"y" * 32])] == [b"y" * 32]
    state.close()


@pytest.mark.parametrize("damage", [b"", b"garbage" * 1_000])
def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: bytes) -> None:
    """A new state begins; a truncated one is as good as none."""
    path = tmp_path / "state.sqlite"
    path.write_bytes(damage)
    state = open_state(path, b"/source")
    assert (state.revision, state.entries) == (-1, 0)
    state.close()
    assert bool(list(tmp_path.glob("*.damaged-*"))) is bool(damage)


@pytest.mark.parametrize(
    "spoil",
    [
        "UPDATE segments SET manifest = x''",
        "UPDATE segments SET chunk_ids = x'00'",
        "UPDATE segments SET manifest = 9223372036854775807",
        "UPDATE segments SET segment = 1",
        "UPDATE nodes SET mode = 'text' WHERE id = 2",
        "UPDATE nodes SET kind = 9 WHERE id = 2",
        "UPDATE nodes SET size = -1 WHERE id = 3",
        "UPDATE nodes SET size = 9223372036854775807 WHERE id > 2",
        "UPDATE nodes SET name = x'2e2e' WHERE id = 2",
        "UPDATE nodes SET name = CAST('.twinfold' AS BLOB) WHERE id = 2",
        "UPDATE nodes SET content = x'00' WHERE id = 3",
        "UPDATE nodes SET parent = 2 WHERE id = 2",
        "UPDATE nodes SET parent = 1000 WHERE id = 3",
        "UPDATE nodes SET parent = 0 WHERE id = 3",
        "UPDATE nodes SET parent = 4 WHERE id = 2",
        "UPDATE nodes SET kind = 1 WHERE id = 2",
        "UPDATE nodes SET id = 9223372036854775807 WHERE id = 5",
        "DELETE FROM nodes WHERE id = 1",
        "DELETE FROM nodes",
        "DELETE FROM meta",
        "UPDATE meta SET value = x'00' WHERE key = 'client_id'",
        "UPDATE meta SET value = 'text' WHERE key = 'revision'",
        "UPDATE meta SET value = 9223372036854775807 WHERE key = 'entries'",
        "INSERT INTO meta VALUES ('instances', x'00')",
        "INSERT INTO meta VALUES ('server', CAST(x'ff' AS TEXT))",
        "UPDATE sub_blocks SET rows = 'text'",
        "UPDATE sub_blocks SET rows = x''",
        "UPDATE sub_blocks SET rows = zeroblob(11)",
        "UPDATE sub_blocks SET rows = zeroblob(20000)",
        "UPDATE sub_blocks SET id8 = x''",
        "UPDATE sub_blocks SET id = 9223372036854775807",
        "UPDATE meta SET value = -10 WHERE key = 'sub_block_bytes'",
        "DROP TABLE sub_blocks",
        "DROP TABLE segments",
        "PRAGMA user_version = 0",
    ],
)
def test_a_state_that_says_what_cannot_be_is_set_aside(tmp_path: Path, spoil: str) -> None:
    """Its pages are whole, so it opens; a new state begins."""
    path = tmp_path / "state.sqlite"
    state = open_state(path, b"/source")
    fill(state)
    state.close()
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(spoil)
    state = open_state(path, b"/source")
    assert (state.revision, state.entries) == (-1, 0)
    state.close()
    assert list(tmp_path.glob("*.damaged-*"))


def test_a_later_versions_key_is_no_damage(tmp_path: Path) -> None:
    """What is not known here is left alone."""
    path = tmp_path / "state.sqlite"
    state = open_state(path, b"/source")
    fill(state)
    state.keep(later=1)
    state.close()
    state = open_state(path, b"/source")
    assert (state.revision, state.number("later")) == (7, 1)
    state.close()


def test_kept_texts_of_the_wrong_type_are_told(tmp_path: Path, state: State) -> None:
    """Whoever only reads says what to do."""
    state.keep(server=b"bytes")
    with pytest.raises(StateError, match="is damaged"):
        kept_texts(tmp_path / "state.sqlite", ["server"])


def test_a_copy_leaves_the_original_alone(tmp_path: Path, state: State) -> None:
    """What is done to the copy does not show."""
    fill(state)
    copy_state(tmp_path / "state.sqlite", tmp_path / "copy.sqlite")
    copy = open_state(tmp_path / "copy.sqlite", b"/source")
    copy.acknowledge([Remove(2)], [], 9)
    copy.close()
    assert (state.revision, state.entries) == (7, 4)


def entry(path: bytes, kind: Kind, **values: object) -> Entry:
    fields = {"mode": 0o755, "mtime_ns": 1, "size": 0, "content": b"", "target": b"", **values}
    return Entry(path=path, kind=kind, **fields)  # type: ignore[arg-type]


def test_a_comparison_keeps_what_is_equal(state: State) -> None:
    """Equal rows keep their inode, others are to be read, and what is not there is dropped."""
    fill(state)
    same = file(5, 4, b"g")
    entries = [
        entry(b"", Kind.DIRECTORY, mode=0o700, mtime_ns=5),
        entry(b"d", Kind.DIRECTORY),
        entry(b"d/e", Kind.DIRECTORY),
        entry(b"d/e/g", Kind.FILE, mode=0o644, size=10, content=same.content),
        entry(b"d/new", Kind.FILE, mode=0o600, size=4, content=b"n" * 32),
        entry(b"link", Kind.SYMLINK, mode=0o777, target=b"t"),
    ]
    compare_entries(state, [entries[:3], entries[3:], 12], b"server")
    assert (state.revision, state.blob("server_id")) == (12, b"server")
    assert (state.files, state.size_bytes, state.entries) == (2, 14, 5)
    kept, new = state.find(b"d/e/g"), state.find(b"d/new")
    assert kept is not None
    assert new is not None
    assert (kept.node, kept.identity, kept.manifest) == (5, (3, 5), 1)
    assert (new.identity, new.facts[4]) == ((0, 0), -1)
    link = state.find(b"link")
    assert link is not None
    assert (link.kind, link.target) == (SYMLINK, b"t")
    assert state.find(b"d/f") is None
    root = state.node(ROOT_NODE)
    assert root is not None
    assert (root.mode, root.mtime_ns) == (0o700, 5)


def test_a_comparison_that_is_cut_changes_nothing(state: State) -> None:
    """Without the end of the stream nothing of it counts."""
    fill(state)

    def cut() -> Iterator[list[Entry] | int]:
        yield [entry(b"other", Kind.DIRECTORY)]
        raise OSError("cut")

    with pytest.raises(OSError, match="cut"):
        compare_entries(state, cut(), b"server")
    assert (state.revision, state.entries) == (7, 4)
    assert state.find(b"d/f") is not None


def test_a_deep_comparison(state: State) -> None:
    """Depth costs no recursion."""
    path = b""
    entries: list[Entry] = []
    for _ in range(2_000):
        path = path + b"/d" if path else b"d"
        entries.append(entry(path, Kind.DIRECTORY))
    compare_entries(state, [entries, 1], b"server")
    assert state.entries == 2_000
    assert os.fsencode("d") in state.children(ROOT_NODE)
