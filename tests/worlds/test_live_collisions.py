"""A live pair whose destination does not tell some names apart."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.harness import Pair, Running
from tests.e2e.trees import random_bytes

pytestmark = pytest.mark.process

NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.fixture
def folding_pair(pair: Pair, folding: Path) -> Pair:
    pair.dest = folding / "dest"
    return pair


def held(client: Running, path: str, other: str) -> dict[str, object]:
    """Return the problem that says which entry holds which."""
    return client.expect(
        "problem", where=lambda event: event["path"] == path and other in event["reason"]
    )


def names(folder: Path) -> set[str]:
    return set(os.listdir(folder)) - {".twinfold"}


def test_one_of_two_is_held_until_the_other_goes(folding_pair: Pair) -> None:
    """Both paths are told, neither content is lost, and the held one arrives by itself."""
    pair = folding_pair
    pair.start()
    (pair.source / "Makefile").write_bytes(b"first")
    pair.converge()
    (pair.source / "makefile").write_bytes(b"second")
    (pair.source / "other").write_bytes(b"other")
    held(pair.client, "makefile", "Makefile")
    result = pair.wait()
    assert (result.code, result.objects[0]["in_sync"]) == (3, True), result
    assert names(pair.dest) == {"Makefile", "other"}
    assert (pair.dest / "Makefile").read_bytes() == b"first"
    mark = pair.client.mark()
    (pair.source / "Makefile").unlink()
    pair.converge()
    assert (pair.dest / "makefile").read_bytes() == b"second"
    pair.client.expect("in_sync", since=mark, where=lambda event: event["problems"] == 0)


def test_what_is_held_is_not_sent_again(folding_pair: Pair) -> None:
    """Looking at everything once more costs nothing, and the problem stays."""
    pair = folding_pair
    (pair.source / "BIG").write_bytes(b"small")
    pair.start()
    (pair.source / "big").write_bytes(random_bytes(3_000_000))
    held(pair.client, "big", "BIG")
    attic = pair.dest / ".twinfold" / "attic"
    assert pair.wait().code == 3
    mark = pair.client.mark()
    for _ in range(3):
        (pair.source / "other").write_bytes(os.urandom(10))
        assert pair.wait().code == 3
    sent = [event["sent_bytes"] for event in pair.client.events("in_sync", since=mark)]
    assert sum(sent) < 10_000
    assert sum(path.stat().st_size for path in attic.iterdir()) < 100
    (pair.source / "big").rename(pair.source / "large")
    pair.converge("")
    assert (pair.dest / "large").stat().st_size == 3_000_000


@pytest.mark.parametrize("gone", ["removed", "renamed", "held one renamed"])
def test_a_pass_tells_and_a_later_one_heals(folding_pair: Pair, gone: str) -> None:
    """``--once`` ends with 3 while names collide, with directories too, and with 0 after."""
    pair = folding_pair
    for name in ("Folder", "folder"):
        (pair.source / name / "in").mkdir(parents=True)
        (pair.source / name / "in" / name).write_bytes(name.encode())
    (pair.source / NFC).write_bytes(b"composed")
    (pair.source / NFD).write_bytes(b"decomposed")
    pair.start_server()
    result = pair.once()
    assert result.code == 3, result
    problems = [event["path"] for event in result.objects if event["event"] == "problem"]
    assert {path.split("/")[0].lower() for path in problems} >= {"folder"}
    [there] = names(pair.dest) & {"Folder", "folder"}
    [shown] = names(pair.dest) & {NFC, NFD}
    assert (pair.dest / there / "in" / there).read_bytes() == there.encode()
    assert (pair.dest / shown).read_bytes() == (pair.source / shown).read_bytes()
    waiting = "folder" if there == "Folder" else "Folder"
    if gone == "removed":
        shutil.rmtree(pair.source / there)
    else:
        (pair.source / (there if gone == "renamed" else waiting)).rename(pair.source / "z")
    (pair.source / shown).unlink()
    pair.sync()


RENAMES: dict[str, Callable[[Path], object]] = {
    "file": lambda folder: (folder / "file").rename(folder / "File"),
    "folder": lambda folder: (folder / "folder").rename(folder / "FOLDER"),
    "link": lambda folder: (folder / "link").rename(folder / "Link"),
}


def make_entries(folder: Path) -> None:
    (folder / "folder" / "in").mkdir(parents=True)
    (folder / "folder" / "in" / "deep").write_bytes(b"deep")
    (folder / "folder" / "below").write_bytes(b"below")
    (folder / "file").write_bytes(b"file")
    (folder / "link").symlink_to("file")


def test_only_the_case_is_renamed(folding_pair: Pair) -> None:
    """Nothing is sent again, nothing is lost, edits at the same time arrive."""
    pair = folding_pair
    make_entries(pair.source)
    pair.start()
    for rename in RENAMES.values():
        rename(pair.source)
        pair.converge()
    (pair.source / "FOLDER").rename(pair.source / "Folder")
    (pair.source / "Folder" / "in").rename(pair.source / "Folder" / "IN")
    (pair.source / "Folder" / "IN" / "deep").write_bytes(b"edited")
    (pair.source / "File").unlink()
    (pair.source / "FILE").write_bytes(b"another file")
    pair.converge()
    assert names(pair.dest) == {"Folder", "FILE", "Link"}


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("kill_at", [2, 3])
@pytest.mark.parametrize("kind", RENAMES)
def test_a_kill_during_a_rename_of_case(folding_pair: Pair, kind: str, kill_at: int) -> None:
    """Before the first of its two steps, or between them: the entry is there afterwards.

    Calls are counted by thread: the committing one finds the name taken first.
    """
    pair = folding_pair
    make_entries(pair.source)
    pair.start_server()
    pair.sync()
    pair.server.terminate()
    RENAMES[kind](pair.source)
    calls = "rename,renameat,renameat2"
    inject = ["-e", f"trace={calls}", "-e", f"inject={calls}:signal=KILL:when={kill_at}"]
    strace = ["strace", "-f", "-qq", "-o", str(pair.base / "strace.log"), *inject]
    pair.server_prefix = [*strace, "setpriv", "--pdeathsig", "KILL"]
    pair.restart_server()
    client = pair.start_client()
    pair.server.wait_exit()
    pair.server_prefix = []
    pair.restart_server()
    client.expect("in_sync")
    pair.settle()


def test_the_servers_own_folder_under_another_name(folding_pair: Pair) -> None:
    """A source may have ``.Twinfold``: it is held, and the server's folder stays as it is."""
    pair = folding_pair
    (pair.source / ".Twinfold").mkdir()
    (pair.source / ".Twinfold" / "server.json").write_bytes(b"{}")
    (pair.source / "file").write_bytes(b"file")
    pair.start_server()
    before = (pair.dest / ".twinfold" / "server.json").read_bytes()
    result = pair.once()
    assert result.code == 3, result
    problems = {event["path"] for event in result.objects if event["event"] == "problem"}
    assert problems == {".Twinfold"}
    assert (pair.dest / ".twinfold" / "server.json").read_bytes() == before
    assert (pair.dest / "file").read_bytes() == b"file"


def test_a_copied_destination_is_adopted(folding_pair: Pair) -> None:
    """What an earlier copy lost to a collision is held; the source's other half is kept."""
    pair = folding_pair
    (pair.source / "Makefile").write_bytes(b"first")
    (pair.source / "makefile").write_bytes(b"second")
    pair.dest.mkdir()
    (pair.dest / "makefile").write_bytes(b"second")
    pair.start_server("--adopt")
    result = pair.once()
    assert result.code == 3, result
    assert names(pair.dest) == {"makefile"}
    assert (pair.dest / "makefile").read_bytes() == b"second"
    (pair.source / "makefile").unlink()
    pair.sync()


def test_the_server_says_what_its_destination_does_not_tell_apart(folding_pair: Pair) -> None:
    """The person who starts it reads it at once."""
    words: list[str | Path] = ["server", folding_pair.dest, "--listen", "127.0.0.1:0"]
    server = Running(*words, state=folding_pair.server_state, log=folding_pair.base / "log")
    try:
        server.expect("not JSON", where=lambda event: "upper and lower case" in event["line"])
    finally:
        server.terminate()
