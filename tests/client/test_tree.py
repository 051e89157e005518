"""Listing the source: every entry's facts, alike with and without the compiled module."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("directories are listed by path there", allow_module_level=True)

from twinfold.client.tree import by_name, open_root
from twinfold.system import bulk

TIMES_NS = [0, -1, -1_000_000_000, 1, (1 << 63) - 1, 1 << 63, 1 << 64, -(1 << 63), 1 - (1 << 63)]


@pytest.fixture(params=["compiled", "plain"])
def any_listing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """List by each of the two ways in turn."""
    if request.param == "plain":
        monkeypatch.setattr("twinfold.client.tree.list_entries", None)
    elif bulk.list_entries is None:
        pytest.skip("the compiled module is not there")


@pytest.mark.usefixtures("any_listing")
def test_a_listing_says_what_a_look_says(tmp_path: Path) -> None:
    source = os.fsencode(tmp_path)
    os.mkfifo(source + b"/fifo")
    os.symlink(b"nowhere", source + b"/link")
    os.mkdir(source + b"/directory", 0o751)
    names = [b"a", b"\xff\xfe", b"line\nbreak", b"...", b".hidden", b"n" * 255]
    for number, name in enumerate(names):
        Path(os.fsdecode(source + b"/" + name)).write_bytes(b"x" * number)
        os.chmod(source + b"/" + name, 0o600 + number)
    for number, time_ns in enumerate(TIMES_NS):
        path = source + b"/time-%d" % number
        Path(os.fsdecode(path)).touch()
        try:
            os.utime(path, ns=(time_ns, time_ns))
        except OverflowError:
            os.unlink(path)
    os.utime(source + b"/directory", ns=(5, 7))
    os.chmod(source + b"/a", 0o4755)
    with open_root(source) as directory:
        before, listed, after = directory.listing()
        assert before == after == directory.facts()
        assert [entry[0] for entry in listed] == sorted(os.listdir(source))
        assert directory.listing().entries == listed
        for name, facts in by_name(listed).items():
            looked = directory.look(name)
            assert looked is not None
            assert facts == looked[0]
            assert type(facts) is type(looked[0])


@pytest.mark.usefixtures("any_listing")
def test_a_directory_that_is_gone_lists_nothing(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    with open_root(os.fsencode(tmp_path)) as root, root.enter(b"d") as directory:
        (tmp_path / "d").rmdir()
        assert directory.listing().entries == []


@pytest.mark.usefixtures("any_listing")
def test_what_cannot_be_listed_is_an_error_and_leaves_nothing_open(tmp_path: Path) -> None:
    with open_root(os.fsencode(tmp_path)) as directory:
        before = os.listdir("/dev/fd")
        directory.listing()
        assert os.listdir("/dev/fd") == before
        fd = directory.fd
        assert fd is not None
        (tmp_path / "file").touch()
        file = os.open(tmp_path / "file", os.O_RDONLY)
        kept = os.dup(fd)
        os.dup2(file, fd)
        try:
            with pytest.raises(NotADirectoryError):
                directory.listing()
        finally:
            os.dup2(kept, fd)
            os.close(kept)
            os.close(file)
        assert os.listdir("/dev/fd") == before
