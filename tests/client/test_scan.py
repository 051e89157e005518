"""The scan, against a destination in memory that refuses whatever does not fit."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.client.mirror import WAYS, ScannedSource, snapshot
from twinfold.client import batch as batches
from twinfold.client.dirty import Names
from twinfold.client.ignore import IgnoreRules
from twinfold.client.pieces import Stretch
from twinfold.client.read import Reader
from twinfold.client.tree import DescriptorDirectory, Listing
from twinfold.core import planning
from twinfold.errors import SourceError, SourceVanishedError
from twinfold.model import Delete, Move, PutFile, SetAttributes

BIG_BYTES = 9_000_000


@pytest.fixture(params=list(WAYS))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ScannedSource]:
    source = ScannedSource(tmp_path, *WAYS[request.param])
    yield source
    source.state.close()


def make_tree(root: Path) -> None:
    (root / "a").mkdir()
    (root / "a" / "deep").mkdir()
    (root / "a" / "one").write_bytes(b"one")
    (root / "a" / "deep" / "two").write_bytes(b"two" * 100)
    (root / "empty").mkdir()
    (root / "link").symlink_to("nowhere")
    (root / "middle").write_bytes(os.urandom(200_000))


def check(source: ScannedSource) -> None:
    assert source.mirror.entries == snapshot(source.root)
    files = [entry for entry in source.mirror.entries.values() if entry[0] == "file"]
    assert source.state.files == len(files)
    contents = [entry[3] for entry in files]
    assert source.state.size_bytes == sum(len(c) for c in contents if isinstance(c, bytes))
    assert source.state.entries == len(source.mirror.entries) - 1


def test_a_first_scan_brings_everything(source: ScannedSource) -> None:
    """Files, empty directories, symlinks, modes and times arrive as they are."""
    make_tree(source.root)
    source.scan()
    check(source)


def test_a_second_scan_says_nothing(source: ScannedSource) -> None:
    """What is unchanged is neither read nor sent."""
    make_tree(source.root)
    source.scan()
    source.forget_changes()
    source.scan()
    assert source.mirror.changes == []


def test_moving_a_directory_is_one_change(source: ScannedSource) -> None:
    """A renamed directory is moved with all that is in it; its parents' times follow."""
    make_tree(source.root)
    source.scan()
    source.forget_changes()
    (source.root / "a").rename(source.root / "empty" / "b")
    source.scan()
    check(source)
    moves = [c for c in source.mirror.changes if not isinstance(c, SetAttributes)]
    assert moves == [Move(b"a", b"empty/b")]


def test_moving_a_file_sends_no_content(source: ScannedSource) -> None:
    """A renamed file is moved after its content was verified."""
    make_tree(source.root)
    source.scan()
    source.forget_changes()
    (source.root / "middle").rename(source.root / "a" / "middle2")
    source.scan()
    check(source)
    assert Move(b"middle", b"a/middle2") in source.mirror.changes
    assert source.mirror.received_bytes == 0


def test_an_inode_that_was_used_again_is_not_a_move(source: ScannedSource) -> None:
    """A new file on a deleted file's inode gets its own content, not the old one's."""
    (source.root / "old").write_bytes(b"old content")
    source.scan()
    (source.root / "old").rename(source.root / "new")
    (source.root / "new").write_bytes(b"new content")
    source.scan()
    check(source)
    assert not any(isinstance(change, Move) for change in source.mirror.changes)


def test_a_new_hard_link_is_not_a_move(source: ScannedSource) -> None:
    """The old name stays where it is all the time."""
    (source.root / "a").write_bytes(b"content")
    source.scan()
    source.forget_changes()
    os.link(source.root / "a", source.root / "b")
    source.scan()
    check(source)
    assert not any(isinstance(change, Move) for change in source.mirror.changes)
    assert source.mirror.received_bytes == 0


@pytest.mark.parametrize("name", [b"a", b"z"])
@pytest.mark.parametrize("renamed", [b"a2", b"y"])
@pytest.mark.parametrize("is_named", [False, True])
def test_a_hard_link_to_a_file_whose_directory_is_renamed(
    source: ScannedSource, name: bytes, renamed: bytes, is_named: bool
) -> None:
    """One of the names is where the known file went; there is something at the other as well."""
    root = os.fsencode(source.root)
    (source.root / "d" / "e").mkdir(parents=True)
    (source.root / "d" / "e" / "file").write_bytes(b"content")
    source.scan()
    os.link(root + b"/d/e/file", root + b"/" + name)
    # The link has changed the file's times; that is known now.
    source.scan(Names({b"d/e": {b"file"}}, set()))
    os.rename(root + b"/d", root + b"/" + renamed)
    source.scan(Names({b"": {b"d", name, renamed}}, set()) if is_named else None)
    check(source)


def test_an_entry_that_is_being_replaced_is_not_moved(source: ScannedSource) -> None:
    """A file is renamed into a directory and another takes its name: neither gets lost."""
    (source.root / "sub").mkdir()
    (source.root / "b").write_bytes(b"the old b")
    source.scan()
    (source.root / "b").rename(source.root / "sub" / "c")
    (source.root / "b").write_bytes(b"the new b")
    source.scan()
    check(source)


def test_a_directory_takes_the_name_of_what_moved_into_another(source: ScannedSource) -> None:
    """The state knows the file at its new place: when it is deleted there, that is seen."""
    for number in range(8):
        (source.root / f"d{number}").mkdir()
        (source.root / f"f{number}").write_bytes(b"%d" % number)
    source.scan()
    for number in range(8):
        (source.root / f"f{number}").rename(source.root / f"d{number}" / "f")
        (source.root / f"f{number}").mkdir()
    source.scan()
    check(source)
    for number in range(8):
        (source.root / f"d{number}" / "f").unlink()
    source.scan()
    check(source)


def test_a_new_directory_has_the_name_of_one_found_elsewhere(source: ScannedSource) -> None:
    """Whichever of the directories is visited first."""
    for name in "agz":
        (source.root / name).mkdir()
    for name in "fh":
        (source.root / name).mkdir()
        (source.root / name / "old").write_text(name)
    source.scan()
    for name, place in ("fa", "hz"):
        (source.root / name).rename(source.root / place / "moved")
        (source.root / name).mkdir()
        (source.root / name / "new").write_text(name)
    source.scan()
    check(source)


def test_a_chain_of_renames(source: ScannedSource) -> None:
    """B becomes c while a becomes b: no content is mixed up."""
    for name in "ab":
        (source.root / name).write_text(name)
    source.scan()
    (source.root / "b").rename(source.root / "c")
    (source.root / "a").rename(source.root / "b")
    source.scan()
    check(source)


def test_two_directories_swap_their_names(source: ScannedSource) -> None:
    """Each keeps its content under the other's name."""
    for name in "ab":
        (source.root / name).mkdir()
        (source.root / name / "same").write_text(name)
        (source.root / name / f"only-{name}").write_text(name)
    source.scan()
    (source.root / "a").rename(source.root / "t")
    (source.root / "b").rename(source.root / "a")
    (source.root / "t").rename(source.root / "b")
    source.scan()
    check(source)


def test_something_moves_out_of_a_directory_that_becomes_a_file(source: ScannedSource) -> None:
    """Its content survives the replacement of the directory."""
    make_tree(source.root)
    source.scan()
    (source.root / "a" / "deep").rename(source.root / "zz")
    shutil.rmtree(source.root / "a")
    (source.root / "a").write_text("file now")
    source.scan()
    check(source)


@pytest.mark.parametrize("now", ["file", "directory", "symlink"])
def test_a_name_changes_its_type(source: ScannedSource, now: str) -> None:
    """A name becomes what it is now, whatever it was."""
    make_tree(source.root)
    source.scan()
    for name in ("a", "link", "middle"):
        path = source.root / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        if now == "file":
            path.write_text("now a file")
        elif now == "directory":
            path.mkdir()
            (path / "in it").write_text("x")
        else:
            path.symlink_to("target")
    source.scan()
    check(source)


def test_a_change_that_keeps_size_and_mtime_is_seen(source: ScannedSource) -> None:
    """The ctime gives it away."""
    path = source.root / "f"
    path.write_bytes(b"before")
    source.scan()
    status = path.stat()
    path.write_bytes(b"after!")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    source.scan()
    check(source)


def test_only_attributes_are_sent_when_only_they_changed(source: ScannedSource) -> None:
    """Chmod and touch bring no content; a touch back to the same time brings nothing."""
    make_tree(source.root)
    source.scan()
    source.forget_changes()
    (source.root / "middle").chmod(0o600)
    os.utime(source.root / "a" / "one", ns=(0, -1))
    source.scan()
    check(source)
    assert {type(change) for change in source.mirror.changes} == {SetAttributes}


def test_an_unreadable_directory_deletes_nothing(
    source: ScannedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be listed is a problem, not gone."""
    make_tree(source.root)
    source.scan()
    source.forget_changes()
    inode = (source.root / "a").stat().st_ino
    real = DescriptorDirectory.listing

    def failing(directory: DescriptorDirectory) -> Listing:
        if directory.facts().inode == inode:
            raise PermissionError(13, "Permission denied")
        return real(directory)

    monkeypatch.setattr(DescriptorDirectory, "listing", failing)
    source.scan()
    monkeypatch.undo()
    assert not any(isinstance(change, Delete) for change in source.mirror.changes)
    assert [problem.path for problem in source.problems.listed()] == [b"a"]
    source.scan()
    assert source.problems.listed() == []
    check(source)


def test_a_vanished_source_deletes_nothing(source: ScannedSource) -> None:
    """Neither a missing folder nor another one in its place is an emptied source."""
    make_tree(source.root)
    source.scan()
    source.root.rename(source.root.with_name("away"))
    with pytest.raises(SourceVanishedError):
        source.scan()
    source.root.mkdir()
    with pytest.raises(SourceVanishedError):
        source.scan()
    assert not any(isinstance(change, Delete) for change in source.mirror.changes)


def test_another_folder_in_the_place_of_the_source_is_not_sent(source: ScannedSource) -> None:
    """Not even what could be sent without deleting anything."""
    make_tree(source.root)
    source.scan()
    source.forget_changes()
    source.root.rename(source.root.with_name("away"))
    shutil.copytree(source.root.with_name("away"), source.root, symlinks=True)
    (source.root / "another").write_bytes(b"another")
    with pytest.raises(SourceVanishedError):
        source.scan()
    assert source.mirror.changes == []


def test_the_source_vanishes_during_the_scan(
    source: ScannedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deletions wait for the end, and are not sent if the root is another by then."""
    make_tree(source.root)
    source.scan()
    source.forget_changes()
    shutil.rmtree(source.root / "a")
    monkeypatch.setattr(source._source, "is_same", lambda: False)
    with pytest.raises(SourceVanishedError):
        source.scan()
    assert not any(isinstance(change, Delete) for change in source.mirror.changes)


def test_the_guard_holds_many_deletions(
    source: ScannedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When most of the source is gone at once, nothing is deleted, and the rest goes on."""
    monkeypatch.setattr(planning, "GUARDED_DELETIONS", 10)
    (source.root / "many").mkdir()
    for number in range(30):
        (source.root / "many" / str(number)).touch()
    source.scan()
    shutil.rmtree(source.root / "many")
    (source.root / "new").write_text("new")
    assert source.scan().held_deletions == 31
    assert b"many/7" in source.mirror.entries
    assert b"new" in source.mirror.entries


def test_what_is_not_synchronised_is_reported_and_not_opened(source: ScannedSource) -> None:
    """A FIFO does not block, a socket is listed; both are problems."""
    if sys.platform == "win32":
        pytest.skip("there is no such thing on Windows")
    os.mkfifo(source.root / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.open(source.root, os.O_RDONLY)
        try:
            listening.bind(f"/proc/self/fd/{here}/socket")
        finally:
            os.close(here)
    source.scan()
    assert [problem.path for problem in source.problems.listed()] == [b"fifo", b"socket"]
    (source.root / "fifo").unlink()
    (source.root / "socket").unlink()
    source.scan()
    assert source.problems.listed() == []


def test_the_servers_own_name_is_refused(source: ScannedSource) -> None:
    """A source with .twinfold at its root is refused; deeper it is a name like any other."""
    (source.root / "d").mkdir()
    (source.root / "d" / ".twinfold").mkdir()
    source.scan()
    check(source)
    (source.root / ".twinfold").mkdir()
    with pytest.raises(SourceError, match="rename it"):
        source.scan()


@pytest.mark.parametrize("name", [b"\xff\xfe", b"new\nline", b"x" * 255, "é".encode(), b" "])
def test_names_are_bytes(source: ScannedSource, name: bytes) -> None:
    """Every name that the file system holds comes across as it is."""
    path = os.path.join(os.fsencode(source.root), name)
    os.mkdir(path)
    with open(os.path.join(path, name), "wb") as file:
        file.write(b"x")
    source.scan()
    assert name + b"/" + name in source.mirror.entries
    check(source)


def test_paths_beyond_path_max(tmp_path: Path) -> None:
    """A nest far deeper than a path string can be long, and than descriptors are kept open."""
    source = ScannedSource(tmp_path)
    name = "n" * 200
    here = os.open(source.root, os.O_RDONLY)
    for _ in range(150):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        for other in "ab":
            os.mkdir(other, dir_fd=below)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)
    source.scan()
    assert source.state.entries == 150 * 3 + 1
    source.forget_changes()
    source.scan()
    assert source.mirror.changes == []
    deepest = b"/".join([name.encode()] * 150)
    source.scan(Names({deepest: {b"file"}}, set()))
    assert source.mirror.changes == []
    source.state.close()
    shutil.rmtree(source.root)


def test_a_big_file_is_sent_once(source: ScannedSource) -> None:
    """Edits, copies, renames and touches of a big file send about one chunk, or none."""
    data = bytearray(os.urandom(BIG_BYTES))
    path = source.root / "big"
    path.write_bytes(data)
    source.scan()
    check(source)
    for at, more in ((5_000_000, b"ten bytes!"), (0, b"x"), (len(data), b"end")):
        source.forget_changes()
        data[at:at] = more
        path.write_bytes(data)
        source.scan()
        check(source)
        assert source.mirror.received_bytes <= 3 * 96 * 1024
    source.forget_changes()
    shutil.copyfile(path, source.root / "copy")
    path.rename(source.root / "renamed")
    os.utime(source.root / "renamed")
    source.scan()
    check(source)
    assert source.mirror.received_bytes == 0
    assert Move(b"big", b"renamed") in source.mirror.changes
    source.forget_changes()
    os.utime(source.root / "copy")
    source.scan()
    check(source)
    assert {type(change) for change in source.mirror.changes} <= {SetAttributes}


def test_a_big_file_without_its_manifest_is_not_sent_again(source: ScannedSource) -> None:
    """After a comparison only the content id is known: it is enough to see that all is equal."""
    (source.root / "big").write_bytes(os.urandom(BIG_BYTES))
    source.scan()
    source.forget_changes()
    with source.state.transaction() as database:
        database.execute("UPDATE nodes SET manifest = 0, ctime_ns = -1")
        database.execute("DELETE FROM segments")
    source.scan()
    assert source.mirror.changes == []


def test_same_content_in_many_files_is_sent_once(source: ScannedSource) -> None:
    """Copies and hard links bring their content once."""
    data = os.urandom(30_000)
    for name in "abc":
        (source.root / name).write_bytes(data)
    os.link(source.root / "a", source.root / "hard")
    source.scan()
    check(source)
    assert source.mirror.received_bytes == len(data)


def test_a_file_that_changes_while_it_is_read_is_tried_again(
    source: ScannedSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read is not sent; the others go on."""
    for name in ("busy", "other"):
        (source.root / name).write_text("before")
    real = Reader.open

    def changing(
        reader: Reader, directory: object, name: bytes, facts: planning.Facts
    ) -> tuple[int, planning.Facts]:
        opened = real(reader, directory, name, facts)  # type: ignore[arg-type]
        if name == b"busy":
            (source.root / "busy").write_text("after!")
        return opened

    monkeypatch.setattr(Reader, "open", changing)
    monkeypatch.setattr(Reader, "read_ahead", lambda *_: False)
    scan = source.scan()
    monkeypatch.undo()
    assert scan.retry == {b"": {b"busy"}}
    assert b"busy" not in source.mirror.entries
    assert b"other" in source.mirror.entries
    source.scan(Names({b"": {b"busy"}}, set()))
    check(source)


def test_memory_of_batches_is_bounded(source: ScannedSource) -> None:
    """No batch keeps more than its limit and what lies around, whatever the sizes of the files."""
    sizes: list[int] = []
    kept: list[int] = []
    real = source.mirror.apply

    def apply(batch: batches.Batch) -> None:
        sizes.append(batch.held_bytes)
        kept.append(_kept_bytes(batch))
        real(batch)

    source.mirror.apply = apply  # type: ignore[method-assign]
    for number in range(8):
        (source.root / str(number)).write_bytes(os.urandom(3_900_000))
    big = bytearray(os.urandom(60_000_000))
    (source.root / "big").write_bytes(big)
    source.scan()
    for offset in range(0, len(big), 2_000_000):
        big[offset : offset + 100] = bytes(100)
    (source.root / "edited").write_bytes(big)
    source.scan()
    check(source)
    assert max(sizes) <= batches.MAX_CONTENT_BYTES
    assert max(kept) <= 2 * batches.MAX_CONTENT_BYTES


def _kept_bytes(batch: batches.Batch) -> int:
    """Return what a batch's pieces keep in memory: all that a view is of."""
    owners = [
        piece.obj if isinstance(piece, memoryview) else piece
        for piece in batch.pieces.values()
        if not isinstance(piece, Stretch)
    ]
    return sum({id(owner): memoryview(owner).nbytes for owner in owners}.values())


def test_ignored_names_are_invisible(source: ScannedSource) -> None:
    """An ignored entry is not sent; one that was sent before it was ignored is taken away."""
    make_tree(source.root)
    source.scan()
    (source.root / ".twinfoldignore").write_text("deep/\n*.log\n!keep.log\n")
    for name in ("x.log", "keep.log"):
        (source.root / name).write_text(name)
    source.scan()
    there = source.mirror.entries
    assert b"a/deep" not in there
    assert b"x.log" not in there
    assert {b"a/one", b"keep.log", b".twinfoldignore"} <= there.keys()


def test_rules_that_come_later_hold_where_nothing_changed(source: ScannedSource) -> None:
    """Also in a directory that is just as it was."""
    make_tree(source.root)
    source.scan()
    (source.root / ".twinfoldignore").write_text("one\n")
    source.scan()
    assert b"a/one" not in source.mirror.entries
    (source.root / ".twinfoldignore").write_text("")
    source.scan()
    check(source)


@pytest.mark.skipif(sys.platform == "win32", reason="no such names")
def test_a_line_break_in_a_name_is_a_character_like_others(source: ScannedSource) -> None:
    """Patterns match below such a directory, and not a name that only goes on after the match."""
    source.ignore = IgnoreRules(["*.tmp", "a*z"])
    folder = source.root / "line\nbreak"
    folder.mkdir()
    for name in ("f.tmp", "f.tmp\n", "a\nz", "a\nz\n", "kept"):
        (folder / name).write_text(name)
    source.scan()
    below = {path for path in source.mirror.entries if path.startswith(b"line\nbreak/")}
    assert below == {b"line\nbreak/" + name for name in (b"f.tmp\n", b"a\nz\n", b"kept")}


def test_dirty_names_only_are_looked_at(source: ScannedSource) -> None:
    """A named change is found; a deletion is confirmed by listing its directory."""
    make_tree(source.root)
    source.scan()
    (source.root / "a" / "one").write_text("changed")
    (source.root / "a" / "deep" / "two").unlink()
    source.scan(Names({b"a": {b"one"}, b"a/deep": {b"two"}}, set()))
    check(source)


def test_an_edit_through_another_hard_link_is_seen(source: ScannedSource) -> None:
    """All names of an inode are looked at when one of them is."""
    (source.root / "d").mkdir()
    (source.root / "a").write_text("before")
    os.link(source.root / "a", source.root / "d" / "b")
    source.scan()
    (source.root / "a").write_text("after!")
    source.scan(Names({b"": {b"a"}}, set()))
    check(source)


def test_a_tree_moved_in_and_out(source: ScannedSource, tmp_path: Path) -> None:
    """A named directory that appeared is scanned with all below it."""
    make_tree(source.root)
    source.scan()
    shutil.move(source.root / "a", tmp_path / "outside")
    source.scan(Names({b"": {b"a"}}, set()))
    check(source)
    shutil.move(tmp_path / "outside", source.root / "back")
    source.scan(Names({b"": {b"back"}, b"back": {b"one"}}, {b"back"}))
    check(source)


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: Path(*names))
ACTIONS = st.one_of(
    st.tuples(st.sampled_from(["write", "mkdir", "symlink", "delete", "touch", "chmod"]), PATHS),
    st.tuples(st.sampled_from(["move", "link", "exchange"]), PATHS, PATHS),
)


def act(root: Path, action: tuple[str, Path] | tuple[str, Path, Path], step: int) -> set[Path]:
    """Do something to the source as far as it can be done; return the names it touched."""
    verb, path = action[0], root / action[1]
    other = root / action[2] if len(action) == 3 else path
    try:
        if verb == "write":
            path.write_bytes(b"%d" % (step % 5) * (step % 7))
        elif verb == "mkdir":
            path.mkdir()
        elif verb == "symlink":
            path.symlink_to(f"nowhere/{step % 3}")
        elif verb == "delete":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        elif verb == "touch":
            os.utime(path, ns=(0, step), follow_symlinks=False)
        elif verb == "chmod":
            path.chmod(0o700 | step % 8)
        elif verb == "move":
            path.rename(other)
        elif verb == "link":
            os.link(path, other, follow_symlinks=False)
        else:
            between = root / "between"
            path.rename(between)
            other.rename(path)
            between.rename(other)
    except OSError:
        pass
    between = root / "between"
    if between.exists() or between.is_symlink():
        shutil.rmtree(between) if between.is_dir() else between.unlink()
    return {path, other, between}


@pytest.mark.parametrize("way", WAYS)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rounds=st.lists(st.lists(ACTIONS, max_size=8), max_size=5), data=st.data())
def test_any_history_converges(
    tmp_path_factory: pytest.TempPathFactory,
    way: str,
    rounds: list[list[tuple[str, Path] | tuple[str, Path, Path]]],
    data: st.DataObject,
) -> None:
    """Whatever happens between scans, full or of names, the mirror equals the source after."""
    source = ScannedSource(tmp_path_factory.mktemp("history"), *WAYS[way])
    for directory in data.draw(st.sets(PATHS, max_size=8), "directories"):
        (source.root / directory).mkdir(parents=True, exist_ok=True)
    source.scan()
    step = 0
    for actions in rounds:
        touched: set[Path] = set()
        for action in actions:
            step += 1
            touched |= act(source.root, action, step)
        if data.draw(st.booleans(), "some names first") and touched:
            # The watcher tells of the others later: what it has told may be half of a rename.
            some = data.draw(st.sets(st.sampled_from(sorted(touched))), "some names")
            source.scan(_names(source.root, some))
        if data.draw(st.booleans(), "only names"):
            source.scan(_names(source.root, touched))
        else:
            source.scan()
        check(source)
    source.state.close()


def _names(root: Path, touched: set[Path]) -> Names:
    """Return what a watcher would have said at least."""
    names: dict[bytes, set[bytes] | None] = {}
    trees: set[bytes] = set()
    for path in touched:
        above = os.fsencode(path.parent.relative_to(root))
        known = names.setdefault(b"" if above == b"." else above, set())
        assert known is not None
        known.add(os.fsencode(path.name))
        if path.is_dir() and not path.is_symlink():
            trees.add(os.fsencode(path.relative_to(root)))
    return Names(names, trees)


def test_puts_come_in_batches(source: ScannedSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that is full is handed on while the scan goes on."""
    monkeypatch.setattr(batches, "MAX_CHANGES", 10)
    for number in range(45):
        (source.root / str(number)).write_text(str(number))
    source.scan()
    check(source)
    assert sum(isinstance(change, PutFile) for change in source.mirror.changes) == 45
