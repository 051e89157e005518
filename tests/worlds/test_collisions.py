"""Names that a destination does not tell apart: one is held, none is lost."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.forest_model import CONTENTS, PIECE, entry_of
from tests.server.rig import Rig, chunks_of, put, staged_names
from tests.server.test_commit import stage_small
from tests.worlds.fixtures import mounted
from twinfold.core.manifest import content_id
from twinfold.errors import LostPlaceError
from twinfold.model import (
    Change,
    Delete,
    MakeDirectory,
    MakeSymlink,
    Move,
    PutFile,
    SetAttributes,
)
from twinfold.storage.destination import open_destination

NFC, NFD = "caf\u00e9".encode(), "cafe\u0301".encode()


def file(path: bytes, data: bytes = b"small") -> Change:
    return put(path, data, size=PIECE)


def apply(rig: Rig, *changes: Change) -> list[tuple[int, bytes]]:
    """Commit a batch; return (index, the other name) of what was refused."""
    refused = rig.commit(stage_small(rig, list(changes), 0))
    return [(refusal.index, refusal.other) for group in refused.values() for refusal in group]


def check(rig: Rig, *paths: bytes) -> None:
    """Disk and index agree on what is there, and nothing is left over."""
    tree = rig.tree()
    assert set(tree) == set(paths)
    expected = [entry_of(path, entry) for path, entry in sorted(tree.items())]
    assert sorted(rig.entries(), key=lambda entry: entry.path) == expected
    assert staged_names(rig.path) == []


KINDS: dict[str, Callable[[bytes], Change]] = {
    "file": file,
    "directory": lambda path: MakeDirectory(path, 0o755, 1),
    "symlink": lambda path: MakeSymlink(path, b"target of " + path),
}


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("together", [True, False])
def test_the_name_that_comes_second_is_refused(
    folding: Path, first: str, second: str, together: bool
) -> None:
    """Whatever the two are, in one batch or in two, after a restart as well."""
    changes = [KINDS[first](b"Makefile"), KINDS[second](b"makefile")]
    changes += [KINDS[first](NFC), KINDS[second](NFD)]
    with Rig(folding / "dest") as rig:
        if together:
            assert apply(rig, *changes) == [(1, b"Makefile"), (3, NFC)]
        else:
            assert [apply(rig, change) for change in changes] == [
                [],
                [(0, b"Makefile")],
                [],
                [(0, NFC)],
            ]
        check(rig, b"Makefile", NFC)
        before = rig.tree()
        kept = sorted(os.listdir(folding / "dest" / ".twinfold" / "attic"))
        assert all(name.startswith("refused-") for name in kept)
        assert len(kept) == (2 if second == "directory" else 0)
    with Rig(folding / "dest") as rig:
        check(rig, b"Makefile", NFC)
        assert rig.tree() == before


def test_the_reason_names_the_other_entry(folding: Path) -> None:
    """So that a person can find both."""
    with Rig(folding / "dest") as rig:
        rig.apply([MakeDirectory(b"d", 0o755, 1), MakeSymlink(b"d/a", b"1")])
        [[refusal]] = rig.apply([MakeSymlink(b"d/A", b"2")]).values()
        assert "'a'" in refusal.reason
        assert refusal.other == b"a"


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_case_of_a_name_changes(folding: Path, kind: str) -> None:
    """The entry, with what is in it, has the new name; nothing goes to the attic."""
    with Rig(folding / "dest") as rig:
        apply(rig, KINDS[kind](b"a.txt"))
        below = [b"/in", b"/in/f"] if kind == "directory" else []
        if below:
            apply(rig, MakeDirectory(b"a.txt/in", 0o755, 1), file(b"a.txt/in/f"))
        inode = os.lstat(folding / "dest" / "a.txt").st_ino
        for name in (b"A.txt", b"A.TXT", b"a.txt"):
            before = next(iter(rig.tree()))
            assert apply(rig, Move(before, name)) == []
            check(rig, name, *(name + path for path in below))
            assert os.lstat(folding / "dest" / "a.txt").st_ino == inode
        assert os.listdir(folding / "dest" / ".twinfold" / "attic") == []


def test_a_rename_of_case_with_other_changes_in_one_batch(folding: Path) -> None:
    """Edits, moves into it and back belong to the name that the index has by then."""
    with Rig(folding / "dest") as rig:
        apply(rig, MakeDirectory(b"d", 0o755, 1), file(b"d/f"), file(b"x"))
        changes: list[Change] = [Move(b"d", b"D"), file(b"D/f", b""), Move(b"x", b"D/X")]
        assert apply(rig, *changes, Move(b"D", b"e"), Move(b"e", b"D"), Move(b"D/f", b"D/F")) == []
        check(rig, b"D", b"D/F", b"D/X")
        assert rig.tree()[b"D/F"][1] == b""


def test_the_name_is_free_when_the_other_goes_in_the_same_commit(folding: Path) -> None:
    """Deletions come last in a scan: what counts is how it is in the end."""
    with Rig(folding / "dest") as rig:
        apply(rig, file(b"makefile", b""))
        assert apply(rig, file(b"Makefile"), Delete(b"makefile")) == []
        check(rig, b"Makefile")
        one = stage_small(rig, [MakeDirectory(b"MAKEFILE", 0o755, 1)], 0)
        two = stage_small(rig, [Move(b"Makefile", b"other")], 1)
        assert rig.commit(one, two) == {}
        check(rig, b"MAKEFILE", b"other")


def test_an_entry_that_is_replaced_stays_itself(folding: Path) -> None:
    """A newcomer does not take the place of an entry while that is being replaced."""
    with Rig(folding / "dest") as rig:
        apply(rig, file(b"a", b""))
        assert apply(rig, MakeSymlink(b"A", b"newcomer"), file(b"a")) == [(0, b"a")]
        check(rig, b"a")
        assert rig.tree()[b"a"][1] == b"small"


def test_what_comes_below_a_refused_directory_is_refused(folding: Path) -> None:
    """Also in later batches, and until the directory can be made."""
    with Rig(folding / "dest") as rig:
        apply(rig, file(b"d"), file(b"acknowledged", b""))
        assert apply(rig, MakeDirectory(b"D", 0o755, 1), file(b"D/f")) == [(0, b"d")]
        changes = [MakeDirectory(b"D/in", 0o755, 1), file(b"D/in/f"), MakeSymlink(b"D/l", b"l")]
        refused = apply(rig, *changes, Move(b"acknowledged", b"D/m"), file(b"other"))
        assert refused == [(0, b""), (1, b""), (2, b""), (3, b"")]
        check(rig, b"d", b"other")
        assert b"" in rig.attic()
        assert apply(rig, Delete(b"d"), MakeDirectory(b"D", 0o755, 1), file(b"D/f")) == []
        check(rig, b"D", b"D/f", b"other")


def test_attributes_meant_for_a_refused_name_do_not_reach_the_other(folding: Path) -> None:
    """The two names lead to one object there."""
    with Rig(folding / "dest") as rig:
        apply(rig, file(b"a"))
        assert apply(rig, file(b"A"), SetAttributes(b"A", 0o400, 77)) == [(0, b"a")]
        assert rig.tree()[b"a"] == ("file", b"small", 0o644, 5)


def test_a_file_moved_to_a_name_that_is_taken_is_kept(folding: Path) -> None:
    """Its content, acknowledged before, is in the attic, and the other entry stays."""
    with Rig(folding / "dest") as rig:
        apply(rig, file(b"a"), file(b"b", b"more than one chunk"))
        assert apply(rig, Move(b"b", b"A")) == [(0, b"a")]
        check(rig, b"a")
        assert rig.attic() == {b"more than one chunk": 1}


@pytest.mark.parametrize("name", [b".TWINFOLD", b".Twinfold"])
def test_the_servers_own_folder_answers_to_no_other_name(folding: Path, name: bytes) -> None:
    """Nothing is put into it, and nothing is done to it."""
    with Rig(folding / "dest") as rig:
        for kind in ("file", "symlink", "directory"):
            assert apply(rig, KINDS[kind](name)) == [(0, b".twinfold")]
        assert apply(rig, file(name + b"/attic"), file(b"f")) == [(0, b"")]
        check(rig, b"f")


def test_a_stranger_in_the_way_goes_to_the_attic(folding: Path) -> None:
    """What nobody sent is not an entry, whatever its name."""
    with Rig(folding / "dest") as rig:
        (folding / "dest" / "MAKEFILE").write_bytes(b"made there")
        assert apply(rig, file(b"makefile")) == []
        check(rig, b"makefile")
        assert rig.attic() == {b"made there": 1}


def test_a_filled_folder_is_adopted_under_the_names_it_has(folding: Path) -> None:
    """An entry that answers to a name of the source is not overwritten by it."""
    (folding / "dest").mkdir()
    (folding / "dest" / "makefile").write_bytes(b"small")
    with Rig(folding / "dest", adopt=True) as rig:
        assert apply(rig, file(b"Makefile", b"")) == [(0, b"makefile")]
        check(rig, b"makefile")
        assert apply(rig, file(b"Makefile", b""), Delete(b"makefile")) == []
        check(rig, b"Makefile")
        assert rig.attic() == {b"small": 1}


def test_the_servers_own_folder_may_have_been_made_by_another_name(folding: Path) -> None:
    """It is no entry, however it is written."""
    (folding / "dest" / ".Twinfold").mkdir(parents=True)
    with Rig(folding / "dest", adopt=True) as rig:
        assert rig.entries() == []
        assert apply(rig, file(b"f")) == []
        assert set(rig.tree()) >= {b"f"}
        assert [entry.path for entry in rig.entries()] == [b"f"]


def test_forms_are_one_name_where_the_disk_keeps_its_own(decomposing: Path) -> None:
    """A name goes by what the source calls it, however the disk writes it."""
    dest = decomposing / "dest"
    with Rig(dest) as rig:
        assert apply(rig, file(NFC), file(b"A"), file(b"a")) == []
        assert apply(rig, file(NFC, b"")) == []
        assert (dest / os.fsdecode(NFC)).read_bytes() == b""
        assert apply(rig, MakeDirectory(NFD, 0o755, 1)) == [(0, NFC)]
        assert apply(rig, Move(NFC, NFD)) == []
        assert set(os.listdir(dest)) == {".twinfold", "A", "a", os.fsdecode(NFD)}
        assert apply(rig, Move(NFD, NFC), file(NFC)) == []
    with Rig(dest) as rig:
        assert {entry.path for entry in rig.entries()} == {NFC, b"A", b"a"}
        assert apply(rig, Delete(NFC)) == []
        check(rig, b"A", b"a")


def test_the_server_knows_what_its_destination_does_not_tell_apart(
    folding: Path, decomposing: Path, tmp_path: Path
) -> None:
    """It is tried out, for each destination."""
    case, form = "upper and lower case", "composed and decomposed Unicode"
    for folder, expected in [(folding, [case, form]), (decomposing, [form]), (tmp_path, [])]:
        destination = open_destination(os.fsencode(folder / "dest"), adopt=False)
        assert destination.untold == expected
        destination.close()


def test_a_name_that_only_windows_forbids_is_explained(tmp_path: Path) -> None:
    """On a file system from there, such as exFAT or a share, the reason is said in words."""
    with mounted(tmp_path / "forbidding", "--forbid", ":?") as folder, Rig(folder / "dest") as rig:
        [[refusal]] = rig.apply([MakeSymlink(b"a:b", b"1"), MakeSymlink(b"f", b"1")]).values()
        assert refusal.index == 0
        assert "destination's file system: it contains :" in refusal.reason
        check(rig, b"f")


def test_a_hard_link_made_at_the_destination_is_no_collision(tmp_path: Path) -> None:
    """Two names that are both listed are two names."""
    with Rig(tmp_path) as rig:
        apply(rig, file(b"a"))
        os.link(tmp_path / "a", tmp_path / "b")
        assert apply(rig, file(b"b", b"")) == []
        check(rig, b"a", b"b")


NAMES = [b"a", b"A", b"b", NFC, NFD]
STEP = st.tuples(
    st.sampled_from(["put", "put", "directory", "link", "move", "move", "delete", "attributes"]),
    st.integers(0, 5),
    st.sampled_from(NAMES),
    st.integers(0, 31),
)


def change_of(rig: Rig, step: tuple[str, int, bytes, int], number: int) -> Change | None:
    """Return the change that numbers stand for, given what the index has."""
    action, where, name, which = step
    entries = sorted(rig.entries(), key=lambda entry: entry.path)
    directories = [b"", *(entry.path for entry in entries if entry.kind == 2)]
    parent = directories[where % len(directories)]
    path = parent + b"/" + name if parent else name
    if action == "put":
        return put(path, CONTENTS[which % 5], 0o644, number, PIECE)
    if action == "directory":
        return MakeDirectory(path, 0o755, number)
    if action == "link":
        return MakeSymlink(path, b"to %d" % number)
    if not entries:
        return None
    source = entries[which % len(entries)]
    if action == "delete":
        return Delete(source.path)
    if action == "move":
        within = path == source.path or path.startswith(source.path + b"/")
        return None if within else Move(source.path, path)
    return SetAttributes(source.path, 0o600 if source.kind == 1 else 0o700, number)


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(groups=st.lists(st.lists(STEP, min_size=1, max_size=4), min_size=1, max_size=10))
def test_disk_and_index_agree_after_anything(
    shared_folding: Path, groups: list[list[tuple[str, int, bytes, int]]]
) -> None:
    """Whatever is asked for: one entry a name, and every content is shown or in the attic."""
    shared_folding.mkdir(exist_ok=True)
    dest = shared_folding / f"dest-{len(os.listdir(shared_folding))}"
    taken: set[bytes] = set()
    with Rig(dest) as rig:
        for number, group in enumerate(groups):
            taken |= apply_drawn(rig, group, number)
            check(rig, *rig.tree())
    with Rig(dest) as rig:
        check(rig, *rig.tree())
        shown = {entry[1] for entry in rig.tree().values() if entry[0] == "file"}
        kept = {bytes(data) for data in shown if isinstance(data, bytes)} | set(rig.attic())
        assert taken <= {content_id(chunks_of(data, PIECE)) for data in kept}


def apply_drawn(rig: Rig, group: list[tuple[str, int, bytes, int]], number: int) -> set[bytes]:
    """Commit a batch that may not fit what is there; return the content ids that were taken."""
    changes = [change_of(rig, step, number) for step in group]
    known = [change for change in changes if change is not None]
    if not known:
        return set()
    batch = stage_small(rig, known, 0)
    try:
        refused = {refusal.index for group in rig.commit(batch).values() for refusal in group}
    except LostPlaceError:
        rig.stager.drop([batch])
        return set()
    return {
        change.content
        for index, change in enumerate(known)
        if isinstance(change, PutFile) and index not in refused
    }


@pytest.fixture(scope="module")
def shared_folding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mounted(tmp_path_factory.mktemp("shared") / "folding", "--fold-case", "--fold-form") as at:
        yield at / "dests"
