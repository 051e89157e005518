"""Heavy change in a source, and a reader of the destination that recognises a mixed file.

    python -m tests.e2e.churn write FOLDER SEED
    python -m tests.e2e.churn read FOLDER

Both work until SIGTERM; the reader then prints what it saw as a JSON object.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import struct
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

HEADER = struct.Struct("<8sIII")
MAGIC = b"versions"
RECORD_BYTES = 1024
FILES = 48
BIG_FILES = 2
BIG_BYTES = 6 << 20
STEADY = "steady"
PAUSE_S = 0.002


class Version(NamedTuple):
    """One content that the writer gave to one of its files."""

    file: int
    number: int


def content(version: Version) -> bytes:
    """Return all bytes of a version: most of it common to all versions of its file."""
    source = random.Random(f"{version.file}:{version.number}")
    common = _common(version.file)
    at = source.randrange(len(common))
    own = source.randbytes(source.randrange(1, 5_000))
    body = b"".join((common[:at], own, common[at + source.randrange(9_000) :]))
    return HEADER.pack(MAGIC, version.file, version.number, len(body)) + body


@lru_cache(maxsize=FILES)
def _common(file: int) -> bytes:
    source = random.Random(f"common {file}")
    size = BIG_BYTES if file < BIG_FILES else source.choice((500, 9_000, 60_000, 400_000))
    return source.randbytes(size)


def find_fault(name: str, data: bytes) -> str | None:
    """Return what is wrong with a file that was read, None if it is one whole version."""
    if name.startswith("log-"):
        return _find_log_fault(name, data)
    if len(data) < HEADER.size:
        return f"only {len(data)} bytes"
    magic, file, number, _ = HEADER.unpack_from(data)
    if magic != MAGIC or name != f"f-{file}":
        return "another file's content"
    return None if data == content(Version(file, number)) else f"not version {number}"


def record(name: str, number: int) -> bytes:
    """Return one record of a log that only ever grows by whole records."""
    return f"{name} {number} ".encode().ljust(RECORD_BYTES, b".")


def _find_log_fault(name: str, data: bytes) -> str | None:
    whole = (record(name, number) for number in range(len(data) // RECORD_BYTES + 1))
    return None if len(data) % RECORD_BYTES == 0 and b"".join(whole).startswith(data) else "torn"


class Writer:
    """Changes a folder in every way, a few hundred times a second."""

    def __init__(self, folder: Path, seed: str) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self._number = time.time_ns() // 1_000_000 % 1_000_000_000
        self._logs = {f"log-{number}": 0 for number in range(4)}
        for number in range(6):
            (folder / f"folder-{number}").mkdir(exist_ok=True)
        (folder / STEADY).mkdir(exist_ok=True)

    def step(self) -> None:
        """Make one change; most of them give a file its next version."""
        ways: dict[Callable[[], None], int] = {
            self._replace: 50,
            self._append: 15,
            self._delete: 6,
            self._move: 8,
            self._rename_folder: 4,
            self._touch: 8,
            self._link: 4,
            self._swap_type: 5,
        }
        self._random.choices(list(ways), list(ways.values()))[0]()

    def _folders(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("folder-*") if path.is_dir())

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("folder-*/f-*"))

    def _replace(self) -> None:
        file = self._random.randrange(FILES)
        steady = file % 4 == 3
        folder = self._folder / STEADY if steady else self._random.choice(self._folders())
        self._number += 1
        new = folder / f".new-{file}"
        new.write_bytes(content(Version(file, self._number)))
        new.replace(folder / f"f-{file}")

    def _append(self) -> None:
        name = self._random.choice(list(self._logs))
        with (self._folder / STEADY / name).open("ab") as log:
            log.write(record(name, self._logs[name]))
        self._logs[name] += 1

    def _delete(self) -> None:
        if files := self._files():
            self._random.choice(files).unlink()

    def _move(self) -> None:
        if files := self._files():
            file = self._random.choice(files)
            file.replace(self._random.choice(self._folders()) / file.name)

    def _rename_folder(self) -> None:
        folder = self._random.choice(self._folders())
        new = self._folder / f"folder-{self._random.randrange(100)}"
        if not new.exists():
            folder.rename(new)

    def _touch(self) -> None:
        if files := self._files():
            file = self._random.choice(files)
            file.chmod(self._random.choice((0o644, 0o600, 0o444)))
            time_ns = self._random.randrange(1 << 61)
            os.utime(file, ns=(time_ns, time_ns))

    def _link(self) -> None:
        link = self._folder / f"link-{self._random.randrange(5)}"
        link.unlink(missing_ok=True)
        link.symlink_to(f"folder-{self._random.randrange(100)}")

    def _swap_type(self) -> None:
        path = self._folder / "swap"
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
        way = self._random.randrange(3)
        if way == 0:
            path.symlink_to(STEADY)
        elif way == 1:
            path.write_bytes(b"a file")
        else:
            (path / "inner").mkdir(parents=True)
            (path / "inner" / "file").write_bytes(b"inside")


class Reader:
    """Reads every file of a folder again and again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: set[str] = set()
        self.read = 0
        self.faults: list[str] = []

    def round(self) -> None:
        """Read every file once."""
        for directory, inner, names in os.walk(self._folder):
            if ".twinfold" in inner:
                inner.remove(".twinfold")
            for name in sorted({*names, *self._expected(directory)}):
                if name.startswith(("f-", "log-")):
                    self._look(directory, name)

    def _expected(self, directory: str) -> set[str]:
        return self._seen if os.path.basename(directory) == STEADY else set()

    def _look(self, directory: str, name: str) -> None:
        try:
            data = Path(directory, name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            # Files elsewhere are moved and deleted; these are only ever replaced.
            if name in self._expected(directory):
                self.faults.append(f"{directory}/{name}: absent for an instant")
            return
        self.read += 1
        if os.path.basename(directory) == STEADY:
            self._seen.add(name)
        if fault := find_fault(name, data):
            self.faults.append(f"{directory}/{name}: {fault}, {len(data)} bytes")


def main(way: str, folder: str, seed: str = "") -> None:
    """Work until SIGTERM."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    if way == "write":
        writer = Writer(Path(folder), seed)
        while not stopped:
            writer.step()
            time.sleep(PAUSE_S)
        return
    reader = Reader(Path(folder))
    while not stopped:
        reader.round()
        time.sleep(PAUSE_S)
    reader.round()
    print(json.dumps({"read": reader.read, "faults": reader.faults[:20]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
