"""The order in which the server has the system write: what a power cut would leave."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.e2e.faulty import traced
from tests.e2e.harness import Pair

pytestmark = pytest.mark.process

if sys.platform != "linux":
    pytest.skip("strace is for Linux", allow_module_level=True)

CALL = re.compile(r"^\d+ +(?P<name>\w+)\((?P<words>.*)")


def calls_of(log: Path) -> list[tuple[str, str]]:
    """Return (name, words) of all calls, in the order in which they began."""
    found = (CALL.match(line) for line in log.read_text("utf-8", "replace").splitlines())
    return [(call["name"], call["words"]) for call in found if call]


@pytest.mark.parametrize("files", [1, 20])
def test_content_then_record_then_names(pair: Pair, files: int) -> None:
    """Content is synced first, then the index that names it; only then is it in its place."""
    pair.start()
    log = pair.base / "strace"
    with traced(pair.server.process.pid, log, "openat,fsync,fdatasync,syncfs,renameat2", "-y"):
        folder = pair.source.with_name("aside")
        folder.mkdir()
        for number in range(files):
            (folder / f"file-{number}").write_bytes(b"%d" % number)
        for path in sorted(folder.iterdir()):
            path.rename(pair.source / path.name)
        pair.converge()
    created: set[str] = set()
    synced: set[str] = set()
    recorded: set[str] = set()
    named = 0
    for name, words in calls_of(log):
        staged = _name_in_staging(words)
        if name == "openat" and "O_CREAT" in words:
            created.add(staged)
        elif name == "syncfs":
            synced |= created
        elif name in ("fsync", "fdatasync") and "index.sqlite-wal" in words:
            recorded |= synced
        elif name == "fsync" and (file := re.search(r"/staging/([^/>]+)>", words)):
            synced.add(file[1])
        elif name == "renameat2" and '"file-' in words:
            assert staged in recorded, f"{words} before it was durable"
            named += 1
    assert named == files


def _name_in_staging(words: str) -> str:
    found = re.match(r'\d+<[^>]*/staging>, "([^"]*)"', words)
    return found[1] if found else ""
