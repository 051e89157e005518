"""The straight way of new files plans exactly what file by file would have been planned."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.client.mirror import ScannedSource
from twinfold.client import batch as batch_module
from twinfold.client.batch import Batch, BatchBuilder, Pending
from twinfold.client.files import FilePlanner
from twinfold.client.ignore import IgnoreRules
from twinfold.client.moves import MoveFinder
from twinfold.client.problems import Problems
from twinfold.client.read import Reader
from twinfold.client.scan import Scan
from twinfold.client.shortage import Shortage
from twinfold.client.source import Source
from twinfold.client.state_file import open_state
from twinfold.client.tools import Tools
from twinfold.client.uploads import Uploader
from twinfold.core.planning import ListedEntry
from twinfold.model import Move, PutFile
from twinfold.protocol import Refusal

SIZES = (0, 1, 2_048, 32_768, 32_769, 100_000, 700_000)


class Singly(FilePlanner):
    """Plans file by file."""

    def plan_straight(self, path: bytes, parent: int, files: object) -> int:
        """Put none."""
        return 0


class Counted(FilePlanner):
    """Counts which way the files go."""

    straight = 0

    def plan_straight(self, path: bytes, parent: int, files: list[ListedEntry]) -> int:  # type: ignore[override]
        """Count those that are put."""
        done = super().plan_straight(path, parent, files)
        Counted.straight += done
        return done


def batches_of(
    source: bytes, state: Path, kind: type[FilePlanner], *, is_first: bool, refused: bytes = b""
) -> list[Batch]:
    """Return the batches of a first scan, none of which is acknowledged before its end."""
    batches: list[Batch] = []
    opened = open_state(state, source)
    pending, problems, stop = Pending(opened), Problems(lambda _event: None), threading.Event()
    if refused:
        problems.refusals.note(refused, None, Refusal(0, "no"), opened)
    builder = BatchBuilder(opened, pending, batches.append, 0, is_first)
    reader, shortage = Reader(stop), Shortage(problems)
    folder = Source(source, opened)
    with folder.open() as root:
        moves = MoveFinder(root, opened, pending)
        uploader = Uploader(opened, builder, reader, shortage)
        files = kind(opened, builder, reader, uploader, moves, shortage)
        ignore = IgnoreRules(["ignored"])
        Scan(
            Tools(
                root,
                opened,
                pending,
                builder,
                files,
                moves,
                problems,
                ignore,
                lambda _path, _fd: None,
                folder.is_same,
                stop,
            )
        ).scan_all()
    opened.close()
    return batches


def told(batches: list[Batch]) -> list[object]:
    """Return all that is in batches."""
    return [
        (
            batch.serial,
            batch.changes,
            batch.effects,
            dict(batch.sub_blocks),
            [(chunk_id, piece) for chunk_id, piece in batch.pieces.items()],
            (batch.held_bytes, batch.content_bytes, batch.header_bytes, batch.chunks),
        )
        for batch in batches
    ]


def settle(source: Path) -> None:
    """Wait until the clock has left the tick of the last change."""
    (source / "ignored").touch()
    time.sleep(0.03)


@settings(max_examples=25, deadline=None)
@given(
    contents=st.lists(
        st.tuples(
            st.sampled_from([b"", b"d/", b"d/e/"]), st.sampled_from(SIZES), st.integers(0, 3)
        ),
        max_size=40,
    ),
    most_changes=st.integers(1, 20),
    most_bytes=st.sampled_from([50_000, 1_000_000, 8_000_000]),
    is_first=st.booleans(),
)
def test_the_straight_way_plans_what_each_would(
    tmp_path_factory: pytest.TempPathFactory,
    contents: list[tuple[bytes, int, int]],
    most_changes: int,
    most_bytes: int,
    is_first: bool,
) -> None:
    """Same changes, effects, chunks and limits, with contents that are there several times."""
    folder = tmp_path_factory.mktemp("straight")
    source = folder / "source"
    (source / "d" / "e").mkdir(parents=True)
    (source / "d" / "link").symlink_to("e")
    for number, (parent, size, seed) in enumerate(contents):
        path = os.fsencode(source) + b"/%s%d" % (parent, number)
        Path(os.fsdecode(path)).write_bytes((b"%d" % seed + b"abcdefg" * 150_000)[:size])
    settle(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_module, "MAX_CHANGES", most_changes)
        patch.setattr(batch_module, "MAX_CONTENT_BYTES", most_bytes)
        found = [
            told(batches_of(os.fsencode(source), folder / kind.__name__, kind, is_first=is_first))
            for kind in (FilePlanner, Singly)
        ]
    assert found[0] == found[1]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a folder with some new files."""
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(40):
        (folder / f"f{number:02}").write_bytes(os.urandom(1_000))
    settle(folder)
    return folder


@pytest.mark.parametrize("refused", [b"", b"f07"])
def test_most_new_files_go_straight_unless_something_is_refused(
    tmp_path: Path, source: Path, refused: bytes
) -> None:
    Counted.straight = 0
    path = os.fsencode(source)
    batches = batches_of(path, tmp_path / "state", Counted, is_first=True, refused=refused)
    put = [c for batch in batches for c in batch.changes if isinstance(c, PutFile)]
    assert len(put) == (39 if refused else 40)
    if refused:
        assert Counted.straight == 0
        assert refused not in {change.path for change in put}


def test_a_file_that_was_moved_a_while_ago_does_not_go_straight(tmp_path: Path) -> None:
    """It could be read ahead by then, and is a move all the same."""
    moved = ScannedSource(tmp_path)
    (moved.root / "f").write_bytes(os.urandom(1_000))
    moved.scan()
    moved.forget_changes()
    (moved.root / "f").rename(moved.root / "g")
    settle(moved.root)
    moved.scan()
    assert Move(b"f", b"g") in moved.mirror.changes
    assert moved.mirror.received_bytes == 0
    moved.state.close()
