"""The changes that a source goes through while the two sides are broken: one of every kind."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

MIB = 1 << 20
BIG_BYTES = 5 * MIB
"""Beyond 64 chunks: such a file is sent in parts, over several batches."""


class Script:
    """Changes a folder step by step; the same seed makes the same bytes."""

    def __init__(self, root: Path, seed: int) -> None:
        self._root = root
        self._random = random.Random(seed)

    @property
    def stages(self) -> dict[str, Callable[[], None]]:
        """What is to be done one after the other; both sides are equal in between."""
        return {
            "start": lambda: None,
            "fill": self._fill,
            "edit": self._edit,
            "rearrange": self._rearrange,
            "types": self._replace_by_other_types,
            "remove": self._remove,
        }

    def _fill(self) -> None:
        """The first sync: an entry of each kind, and a file of several batches."""
        root = self._root
        for folder in ("docs", "docs/inner", "code", "code/lib", "empty", "swap", "closed"):
            (root / folder).mkdir()
        for number in range(12):
            self._write(f"code/lib/{number}.py", 300 + 700 * number)
        for name in ("a", "b", "inner/c"):
            self._write(f"docs/{name}", 20_000)
        self._write("medium", 300_000)
        self._write("big", BIG_BYTES)
        self._write("closed/file", 4_000)
        self._write("empty file", 0)
        self._write("swap/file", 900)
        (root / "swap" / "link").symlink_to("file")
        (root / "swap" / "folder").mkdir()
        self._write("swap/folder/inside", 1_000)
        (root / "link").symlink_to("docs/a")
        (root / "dangling").symlink_to("no/such/file")
        (root / "docs" / "a").chmod(0o600)
        (root / "docs" / "b").chmod(0o444)
        self._date("docs/inner")
        self._date("docs/inner/c")
        (root / "closed").chmod(0o555)

    def _edit(self) -> None:
        """New bytes under old names, by every way; new attributes; copies."""
        root = self._root
        self._replace("docs/a", 21_000)
        self._replace("code/lib/3.py", 2_000)
        with (root / "code" / "lib" / "4.py").open("r+b") as file:
            file.write(self._random.randbytes(100))
        with (root / "big").open("ab") as file:
            file.write(self._random.randbytes(200_000))
        with (root / "medium").open("r+b") as file:
            file.seek(100_000)
            file.write(self._random.randbytes(500))
        os.truncate(root / "code" / "lib" / "11.py", 0)
        shutil.copyfile(root / "docs" / "inner" / "c", root / "copy")
        shutil.copytree(root / "swap", root / "copies", symlinks=True)
        (root / "code" / "lib" / "5.py").chmod(0o755)
        (root / "docs").chmod(0o700)
        self._date("code/lib/6.py")
        self._date("code")
        (root / "link").unlink()
        (root / "link").symlink_to("docs/b")

    def _rearrange(self) -> None:
        """Moves: of files and directories, over others, in circles, with edits beside them."""
        root = self._root
        (root / "docs" / "inner").rename(root / "code" / "inner")
        (root / "code" / "lib").rename(root / "library")
        (root / "library" / "0.py").rename(root / "0.py")
        (root / "library" / "1.py").replace(root / "library" / "2.py")
        self._swap("library/7.py", "library/8.py")
        self._swap("docs", "copies")
        self._replace("library/9.py", 9_000)
        self._write("library/new", 70_000)
        (root / "big").rename(root / "code" / "big")
        with (root / "code" / "big").open("r+b") as file:
            file.seek(2 * MIB)
            file.write(self._random.randbytes(3_000))
        (root / "medium").rename(root / "Medium")
        (root / "dangling").rename(root / "empty" / "dangling")

    def _replace_by_other_types(self) -> None:
        """A name becomes another kind of entry, and what is closed changes inside."""
        root = self._root
        (root / "swap" / "file").unlink()
        (root / "swap" / "file").mkdir()
        self._write("swap/file/inside", 2_000)
        (root / "swap" / "link").unlink()
        self._write("swap/link", 3_000)
        shutil.rmtree(root / "swap" / "folder")
        (root / "swap" / "folder").symlink_to("file")
        shutil.rmtree(root / "docs")
        self._write("docs", 5_000)
        (root / "Medium").unlink()
        (root / "Medium").symlink_to("0.py")
        (root / "closed").chmod(0o755)
        self._replace("closed/file", 4_100)
        (root / "closed").chmod(0o555)
        os.utime(root, ns=(8, 8))

    def _remove(self) -> None:
        """Deletions, a restored content, and a directory that was moved and emptied."""
        root = self._root
        shutil.copyfile(root / "copy", root / "restored")
        (root / "copy").unlink()
        shutil.rmtree(root / "library")
        (root / "code" / "big").unlink()
        (root / "empty").rename(root / "filled")
        (root / "filled" / "dangling").unlink()
        (root / "empty file").unlink()
        (root / "closed").chmod(0o755)
        shutil.rmtree(root / "closed")
        self._write("last", 1_000)

    def _write(self, name: str, size_bytes: int) -> None:
        (self._root / name).write_bytes(self._random.randbytes(size_bytes))

    def _replace(self, name: str, size_bytes: int) -> None:
        """Save as editors do: write beside it, then rename over it."""
        beside = self._root / f"{name}.part"
        beside.write_bytes(self._random.randbytes(size_bytes))
        beside.replace(self._root / name)

    def _swap(self, one: str, other: str) -> None:
        aside = self._root / "aside"
        (self._root / one).rename(aside)
        (self._root / other).rename(self._root / one)
        aside.rename(self._root / other)

    def _date(self, name: str) -> None:
        time_ns = self._random.randrange(1 << 60)
        os.utime(self._root / name, ns=(time_ns, time_ns))
