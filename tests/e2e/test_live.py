"""A live client: every change arrives by watching alone, without a command."""

from __future__ import annotations

import mmap
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.fixtures import Live
from tests.e2e.trees import (
    MODES,
    ODD_NAMES,
    SYMLINKS,
    TIMES_NS,
    make_deep,
    make_museum,
    make_small_files,
    make_sparse,
    random_bytes,
    write_at,
)

assert sys.platform != "win32"

pytestmark = pytest.mark.process

Step = Callable[[Path], object]


class Case(NamedTuple):
    """What is there before, and what is changed while the client is live."""

    name: str
    before: Step
    change: Step


def nothing(folder: Path) -> None:
    """Begin with an empty folder."""


def one_file(folder: Path) -> None:
    (folder / "file").write_bytes(random_bytes(50_000))


def two_files(folder: Path) -> None:
    one_file(folder)
    (folder / "other").write_bytes(random_bytes(40_000, "other"))


def one_folder(folder: Path) -> None:
    (folder / "folder" / "inner").mkdir(parents=True)
    (folder / "folder" / "file").write_bytes(b"in the folder")
    (folder / "folder" / "inner" / "deep").write_bytes(b"deep in the folder")


def one_link(folder: Path) -> None:
    two_files(folder)
    (folder / "link").symlink_to("file")


def two_names(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "a").write_bytes(random_bytes(40_000))
    os.link(folder / "a", folder / "inner" / "b")


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def rewrite_hidden(folder: Path) -> None:
    status = (folder / "file").stat()
    overwrite(folder / "file", 100, b"same size and time")
    os.utime(folder / "file", ns=(status.st_atime_ns, status.st_mtime_ns))


def append(folder: Path) -> None:
    with (folder / "file").open("ab") as file:
        file.write(b"more")


def save_as_editors_do(folder: Path) -> None:
    for number in range(20):
        (folder / ".file.swp").write_bytes(random_bytes(50_000, number))
        (folder / ".file.swp").replace(folder / "file")


def exchange(folder: Path) -> None:
    (folder / "file").rename(folder / "aside")
    (folder / "other").rename(folder / "file")
    (folder / "aside").rename(folder / "other")


def become(path: Path, kind: str) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    if kind == "file":
        path.write_bytes(b"a file now")
    elif kind == "link":
        path.symlink_to("nowhere")
    else:
        (path / "inner").mkdir(parents=True)
        (path / "inner" / "file").write_bytes(b"a folder now")


def move_in(folder: Path) -> None:
    (folder / "in").mkdir()
    (folder / "file").rename(folder / "in" / "file")


def there_and_back(folder: Path) -> None:
    for kind in ("file", "folder", "link", "folder", "file", "link", "file"):
        become(folder / "file", kind)


def remove_all(folder: Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path)


def rename_and_edit(folder: Path) -> None:
    (folder / "folder").rename(folder / "new")
    (folder / "new" / "file").write_bytes(b"edited after the rename")
    (folder / "new" / "more").write_bytes(b"made after the rename")
    (folder / "new" / "inner").rename(folder / "out")
    (folder / "out" / "deep").unlink()


def replace_folder(folder: Path) -> None:
    (folder / "folder").rename(folder / "old")
    (folder / "folder").mkdir()
    (folder / "folder" / "file").write_bytes(b"of the new folder")
    shutil.rmtree(folder / "old")


def build_beside(folder: Path) -> None:
    make_small_files(folder / "folder.new", 100)
    shutil.rmtree(folder / "folder")
    (folder / "folder.new").rename(folder / "folder")


def make_and_change_at_once(folder: Path) -> None:
    for number in range(30):
        inner = folder / f"a{number}" / "b" / "c"
        inner.mkdir(parents=True)
        (inner / "file").write_bytes(b"x" * number)
        (folder / f"a{number}").rename(folder / f"z{number}")
        (folder / f"z{number}" / "b" / "late").write_bytes(b"late")


def change_modes(folder: Path) -> None:
    for mode in MODES:
        (folder / f"file-{mode:o}").write_bytes(b"mode")
        (folder / f"file-{mode:o}").chmod(mode)
    (folder / "file").chmod(0o444)


def edit_read_only(folder: Path) -> None:
    inner = folder / "folder"
    (inner / "file").chmod(0o444)
    inner.chmod(0o555)
    inner.chmod(0o755)
    (inner / "new").write_bytes(b"new")
    (inner / "new").replace(inner / "file")
    (inner / "file").chmod(0o444)
    inner.chmod(0o555)


def change_times(folder: Path) -> None:
    for number, (name, time_ns) in enumerate(TIMES_NS.items()):
        path = folder / name
        if number % 2:
            path.write_bytes(b"t")
        else:
            path.mkdir()
        os.utime(path, ns=(time_ns, time_ns))
    os.utime(folder / "file", ns=(0, 0))


def make_odd_names(folder: Path) -> None:
    for name in ODD_NAMES:
        (folder / os.fsdecode(name)).write_bytes(name)
        inner = folder / "in" / os.fsdecode(name)
        inner.mkdir(parents=True)
        (inner / "file").write_bytes(name)


def make_links(folder: Path) -> None:
    for name, target in SYMLINKS.items():
        os.symlink(target, folder / name)


def map_and_edit(folder: Path) -> None:
    with (folder / "file").open("r+b") as file, mmap.mmap(file.fileno(), 0) as area:
        area[100:110] = b"in memory!"
        area.flush()
    os.utime(folder / "file")


CASES = [
    Case("file made", nothing, one_file),
    Case("empty file made", nothing, lambda f: (f / "file").touch()),
    Case("folder made", nothing, one_folder),
    Case("empty folders made", nothing, lambda f: (f / "a" / "b" / "c").mkdir(parents=True)),
    Case("museum made", nothing, make_museum),
    Case("museum removed", make_museum, remove_all),
    Case("bytes overwritten", one_file, lambda f: overwrite(f / "file", 30_000, b"edited")),
    Case("same size and mtime", one_file, rewrite_hidden),
    Case("appended", one_file, append),
    Case("truncated", one_file, lambda f: os.truncate(f / "file", 20_000)),
    Case("truncated to nothing", one_file, lambda f: os.truncate(f / "file", 0)),
    Case("extended by a hole", one_file, lambda f: os.truncate(f / "file", 9_000_000)),
    Case("saved as editors do", one_file, save_as_editors_do),
    Case("mapped and edited", one_file, map_and_edit),
    Case("file deleted", one_file, lambda f: (f / "file").unlink()),
    Case("folder deleted", one_folder, lambda f: shutil.rmtree(f / "folder")),
    Case("folder emptied", one_folder, lambda f: shutil.rmtree(f / "folder" / "inner")),
    Case("file renamed", one_file, lambda f: (f / "file").rename(f / "new name")),
    Case("only case renamed", one_file, lambda f: (f / "file").rename(f / "FILE")),
    Case("file moved in", two_files, move_in),
    Case("folder renamed", one_folder, lambda f: (f / "folder").rename(f / "new name")),
    Case("renamed over a file", two_files, lambda f: (f / "other").replace(f / "file")),
    Case("files exchanged", two_files, exchange),
    Case("folder renamed and edited", one_folder, rename_and_edit),
    Case("folder replaced", one_folder, replace_folder),
    Case("folder built beside", one_folder, build_beside),
    Case("made and changed at once", nothing, make_and_change_at_once),
    Case("file to folder", one_file, lambda f: become(f / "file", "folder")),
    Case("file to link", one_file, lambda f: become(f / "file", "link")),
    Case("folder to file", one_folder, lambda f: become(f / "folder", "file")),
    Case("folder to link", one_folder, lambda f: become(f / "folder", "link")),
    Case("link to file", one_link, lambda f: become(f / "link", "file")),
    Case("link to folder", one_link, lambda f: become(f / "link", "folder")),
    Case("link to other target", one_link, lambda f: become(f / "link", "link")),
    Case("types there and back", one_file, there_and_back),
    Case("modes", one_file, change_modes),
    Case("mode of a folder", one_folder, lambda f: (f / "folder").chmod(0o700)),
    Case("edit in read-only folder", one_folder, edit_read_only),
    Case("times", one_file, change_times),
    Case("time of a folder", one_folder, lambda f: os.utime(f / "folder", ns=(1, 1))),
    Case("odd names", nothing, make_odd_names),
    Case("links", nothing, make_links),
    Case("hard link made", one_file, lambda f: os.link(f / "file", f / "hard")),
    Case("hard link edited", two_names, lambda f: overwrite(f / "inner" / "b", 9, b"edited")),
    Case("hard link broken", two_names, lambda f: become(f / "inner" / "b", "file")),
    Case("sparse file", nothing, lambda f: make_sparse(f / "sparse", 60 << 20)),
    Case(
        "beyond the longest path",
        nothing,
        lambda f: make_deep(f, 30, "p" * 220, lambda last: write_at(last, "file", b"deep")),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_arrives_while_live(live: Live, case: Case) -> None:
    """A change of this kind arrives by itself, and nothing else changes."""
    case.before(live.folder)
    live.converge()
    case.change(live.folder)
    live.converge()


def test_an_open_file_is_followed(live: Live) -> None:
    """Writes through a descriptor that stays open arrive before it is closed."""
    with (live.folder / "log").open("ab", buffering=0) as log:
        for number in range(5):
            log.write(b"line %d\n" % number)
            live.converge()
    assert (live.mirror / "log").read_bytes().count(b"\n") == 5


def test_a_deleted_file_that_is_still_open_is_gone(live: Live) -> None:
    """A name that was removed is removed, whoever still writes to the file."""
    with (live.folder / "file").open("wb", buffering=0) as file:
        file.write(b"x" * 1000)
        live.converge()
        (live.folder / "file").unlink()
        file.write(b"y" * 1000)
        live.converge()
    assert not (live.mirror / "file").exists()


def test_special_files_are_reported_while_live(live: Live) -> None:
    """A FIFO that appears is a problem with a reason and blocks nothing."""
    client = live.pair.client
    mark = client.mark()
    os.mkfifo(live.folder / "fifo")
    (live.folder / "file").write_bytes(b"file")
    path = f"{live.name}/fifo"
    problem = client.expect("problem", since=mark, where=lambda event: event["path"] == path)
    assert problem["reason"]
    (live.folder / "fifo").unlink()
    live.converge()
    client.expect("in_sync", since=mark, where=lambda event: event["problems"] == 0)
