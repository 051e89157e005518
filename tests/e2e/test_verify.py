"""``twinfold verify``: both ends read everything again."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import LIMIT_S, Pair, Result, assert_one_line, run
from tests.e2e.trees import make_museum, make_small_files, random_bytes, snapshot, write_random

assert sys.platform != "win32"

pytestmark = pytest.mark.process

MIB = 1 << 20


def verify(pair: Pair, *options: str | Path) -> Result:
    return run(
        "verify", pair.source, "--json", *options, state=pair.client_state, timeout_s=3 * LIMIT_S
    )


def found(result: Result) -> dict[str, tuple[str, list[str]]]:
    """Return where and in what each path differs."""
    [verified] = result.objects
    listed: list[dict[str, Any]] = verified["difference_list"]
    assert verified["differences"] == len(listed)
    assert all(differing["reason"] for differing in listed)
    return {entry["path"]: (entry["at"], entry["what"]) for entry in listed}


def rot_at_destination(pair: Pair, name: str) -> None:
    """Change a byte as a failing disk does: nothing of the file's attributes tells.

    No program can put a ctime back, so the index is made to expect the new one.
    """
    path = pair.dest / name
    flip(path)
    pair.server.terminate()
    with sqlite3.connect(pair.dest / ".twinfold" / "index.sqlite") as index:
        index.execute(
            "UPDATE nodes SET ctime_ns = ? WHERE name = ?",
            (path.stat().st_ctime_ns, os.fsencode(path.name)),
        )
    index.close()
    pair.restart_server()


def rot_at_source(pair: Pair, name: str) -> None:
    """The same at the source, whose state is made to expect the new ctime."""
    path = pair.source / name
    flip(path)
    [state] = (pair.client_state / "clients").glob("*/state.sqlite")
    with sqlite3.connect(state) as database:
        database.execute(
            "UPDATE nodes SET ctime_ns = ? WHERE name = ?",
            (path.stat().st_ctime_ns, os.fsencode(path.name)),
        )
    database.close()


def flip(path: Path) -> None:
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size // 2)
        byte = file.read(1)[0]
        file.seek(before.st_size // 2)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("live", [True, False])
def test_equal_ends_are_equal(pair: Pair, live: bool) -> None:
    """Nothing is found, with a running client and without; the exit code is 0."""
    make_museum(pair.source)
    write_random(pair.source / "big", 12 * MIB)
    pair.start_server()
    if live:
        pair.start_client().expect("in_sync")
        pair.expect_answering()
    else:
        pair.sync()
    result = verify(pair)
    assert (result.code, result.err) == (0, ""), result
    [verified] = result.objects
    assert verified["in_sync"] is True
    files = sum(node.kind == "file" for node in snapshot(pair.source).values())
    assert verified["files"] == files
    assert verified["differences"] == verified["problems"] == 0


@pytest.mark.parametrize("live", [True, False])
def test_everything_that_differs_is_listed_and_healed(pair: Pair, live: bool) -> None:
    """Exit 3 with all of it the first time, 0 the second time; what was found is kept."""
    make_small_files(pair.source / "many", 20)
    for name in ("edited", "gone", "mode", "touched", "retyped"):
        (pair.source / name).write_bytes(random_bytes(5_000, name))
    (pair.source / "link").symlink_to("edited")
    pair.start_server()
    if live:
        pair.start_client().expect("in_sync")
        pair.expect_answering()
    else:
        pair.sync()
    (pair.dest / "edited").write_bytes(b"edited")
    (pair.dest / "gone").unlink()
    (pair.dest / "mode").chmod(0o640 if (pair.dest / "mode").stat().st_mode & 0o777 != 0o640 else 0)
    os.utime(pair.dest / "touched", ns=(1, 1))
    (pair.dest / "retyped").unlink()
    (pair.dest / "retyped").mkdir()
    (pair.dest / "link").unlink()
    (pair.dest / "link").symlink_to("elsewhere")
    (pair.dest / "extra").write_bytes(b"extra")
    result = verify(pair)
    assert result.code == 3, result
    differing = found(result)
    differing.pop("", None)
    assert {path: what for path, (_, what) in differing.items()} == {
        "edited": ["content", "mtime"],
        "gone": ["missing"],
        "mode": ["mode"],
        "touched": ["mtime"],
        "retyped": ["type"],
        "link": ["target"],
        "extra": ["extra"],
    }
    assert {at for at, _ in differing.values()} == {"destination"}
    pair.assert_equal()
    assert pair.has_in_attic(b"edited")
    assert pair.has_in_attic(b"extra")
    again = verify(pair)
    assert again.code == 0, again


@pytest.mark.parametrize("live", [True, False])
def test_bit_rot_at_the_destination_is_healed(pair: Pair, live: bool) -> None:
    """Bytes that changed under the same size and times are found, kept and sent again."""
    data = random_bytes(300_000)
    (pair.source / "file").write_bytes(data)
    (pair.source / "other").write_bytes(b"other")
    pair.start_server()
    if live:
        pair.start_client().expect("in_sync")
        pair.expect_answering()
    else:
        pair.sync()
    rot_at_destination(pair, "file")
    rotten = (pair.dest / "file").read_bytes()
    assert rotten != data
    result = verify(pair)
    assert result.code == 3, result
    assert found(result) == {"file": ("destination", ["content"])}
    pair.assert_equal()
    assert pair.has_in_attic(rotten)
    assert verify(pair).code == 0


def test_bit_rot_at_the_source_does_not_reach_the_destination(pair: Pair) -> None:
    """The good copy stays until the file is touched; each verify says so."""
    data = random_bytes(300_000)
    (pair.source / "file").write_bytes(data)
    pair.start_server()
    pair.sync()
    rot_at_source(pair, "file")
    for _ in range(2):
        result = verify(pair)
        assert result.code == 3, result
        assert found(result) == {"file": ("source", ["content"])}
        assert (pair.dest / "file").read_bytes() == data
    shutil.copyfile(pair.dest / "file", pair.source / "file")
    assert verify(pair).code == 0
    assert (pair.source / "file").read_bytes() == data
    rot_at_source(pair, "file")
    os.utime(pair.source / "file")
    assert verify(pair).code == 0
    pair.assert_equal()
    assert pair.has_in_attic(data)


def test_what_changes_meanwhile_is_no_difference(pair: Pair) -> None:
    """Files that are written all the time are synchronised as ever, and are not listed."""
    make_small_files(pair.source / "many", 300, size_bytes=20_000)
    write_random(pair.source / "big", 40 * MIB)
    pair.start()
    pair.expect_answering()
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.wait(0.01):
            number += 1
            (pair.source / f"changing {number % 5}").write_bytes(b"%d" % number)
            os.replace(pair.source / f"changing {number % 5}", pair.source / f"moved {number % 3}")

    writing = threading.Thread(target=write)
    writing.start()
    try:
        result = verify(pair)
    finally:
        stop.set()
        writing.join()
    assert found(result) == {}, result
    assert result.code == 0, result
    pair.settle()


def test_verify_without_a_server_or_a_client_that_ever_ran(pair: Pair) -> None:
    """One line says what is missing; exit code 1."""
    (pair.source / "file").write_bytes(b"file")
    assert_one_line(verify(pair))
    pair.start_server()
    pair.sync()
    pair.server.terminate()
    line = assert_one_line(verify(pair))
    assert str(pair.port) in line


def test_people_are_told_in_words(pair: Pair) -> None:
    """Without --json each difference is a line, and the last one says what it comes to."""
    (pair.source / "file").write_bytes(b"file")
    pair.start_server()
    pair.sync()
    (pair.dest / "extra").write_bytes(b"extra")
    result = run("verify", pair.source, state=pair.client_state)
    assert result.code == 3, result
    lines = result.out.splitlines()
    assert "extra: extra: moved to the attic" in lines
    assert lines[-1].startswith("verified 1 file, 4 B in ")
