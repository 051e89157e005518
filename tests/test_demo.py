"""The demo compares both trees for real, and shows what it promises."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from twinfold import demo
from twinfold.errors import TwinfoldError
from twinfold.processes import Program, environment


def change_bytes(tree: Path) -> None:
    path = tree / "notes" / "note 00.txt"
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def change_target(tree: Path) -> None:
    (tree / "latest").unlink()
    (tree / "latest").symlink_to("elsewhere")
    os.utime(tree, ns=(0, 7))


def remove_folder(tree: Path) -> None:
    (tree / "empty").rmdir()
    os.utime(tree, ns=(0, 7))


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("notes/note 00.txt", change_bytes),
        ("notes/note 00.txt", lambda tree: (tree / "notes" / "note 00.txt").chmod(0o600)),
        ("empty", remove_folder),
        ("empty", lambda tree: os.utime(tree / "empty", ns=(0, 8))),
        ("latest", change_target),
        (".", lambda tree: os.utime(tree, ns=(0, 8))),
    ],
)
def test_every_difference_is_seen(
    path: str, change: Callable[[Path], object], tmp_path: Path
) -> None:
    trees = [tmp_path / "a", tmp_path / "b"]
    for tree in trees:
        demo.make_sample(tree)
        for entry in [*tree.rglob("*"), tree]:
            os.utime(entry, ns=(0, 7), follow_symlinks=False)
    (trees[1] / ".twinfold").mkdir()
    os.utime(trees[1], ns=(0, 7))
    assert demo.first_difference(*trees) is None
    change(trees[1])
    assert demo.first_difference(*trees) == path


def test_sample_is_described(tmp_path: Path) -> None:
    demo.make_sample(tmp_path / "sample")
    assert demo.describe(tmp_path / "sample").startswith("41 files, 2 folders, 1 link, 9.")


@pytest.mark.process
def test_program_that_ends_early_is_quoted(tmp_path: Path) -> None:
    with (
        Program(["client", "/nowhere", "--json"], environment(tmp_path)) as program,
        pytest.raises(TwinfoldError, match="SOURCE /nowhere does not exist"),
    ):
        program.event("in_sync", 30)


def test_options_in_the_environment_do_not_reach_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWINFOLD_ONCE", "1")
    names = {name for name in environment(tmp_path) if name.startswith("TWINFOLD_")}
    assert names == {"TWINFOLD_STATE_DIR"}


@pytest.mark.process
def test_demo_shows_each_step_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert demo.run_demo() == 0
    out = capfd.readouterr().out
    for step in ["first sync", *(text for text, _ in demo.STEPS), "Both trees are equal"]:
        assert step in out
    assert list(tmp_path.iterdir()) == []
