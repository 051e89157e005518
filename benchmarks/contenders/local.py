"""Programs that work on a folder of this machine, without a server."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contenders.base import Contender
from tests.e2e.trees import Tree


class Copy(Contender):
    """``cp -a``, and a sync of the file system: what any copying takes at least."""

    name = "cp+sync"
    program = "cp"
    is_repeatable = False

    def words(self, source: Path, port: int | None) -> list[str]:
        copied = shlex.join(["cp", "-a", "--reflink=never", f"{source}/.", str(self.dest)])
        return ["sh", "-c", f"{copied} && sync -f {shlex.quote(str(self.dest))}"]


class Tar(Contender):
    """``tar`` to ``tar`` through a socket, and a sync of the file system."""

    name = "tar+sync"
    program = "tar"
    is_repeatable = False

    def words(self, source: Path, port: int | None) -> list[str]:
        module = [sys.executable, "-m", "benchmarks.contenders.tar_through_socket"]
        return [*module, str(source), str(self.dest)]


class Unison(Contender):
    """unison between two folders, forced one way."""

    name = "unison"
    program = "unison"
    version_word = "-version"

    def words(self, source: Path, port: int | None) -> list[str]:
        ways = ["-batch", "-force", str(source), "-times", "-perms", "-1", "-confirmbigdel=false"]
        return ["unison", str(source), str(self.dest), *ways, "-ui", "text", "-silent"]

    def comparable(self, tree: Tree) -> Tree:
        """Leave out the times of directories, and what is finer than 1 ms: it keeps neither."""
        return {
            path: node._replace(
                mtime_ns=0 if node.kind == "directory" else node.mtime_ns // 1_000_000
            )
            for path, node in tree.items()
        }

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"UNISON": str(self.base / "unison")}


class Archive(Contender):
    """A program that keeps a repository of snapshots in place of a mirror."""

    def open(self) -> None:
        super().open()
        self._run(*self.creation())

    @abstractmethod
    def creation(self) -> list[str]:
        """Return the command that makes an empty repository."""

    @abstractmethod
    def restoring(self, folder: Path) -> list[str]:
        """Return the command that brings the last snapshot into a folder, where it runs."""

    def comparable(self, tree: Tree) -> Tree:
        """Leave out the folder itself: what was in it is restored into another one."""
        return {path: node for path, node in tree.items() if path}

    @contextmanager
    def made(self) -> Iterator[Path]:
        """Restore the last snapshot."""
        with tempfile.TemporaryDirectory(dir=self.base, prefix="restored-") as folder:
            self._run(*self.restoring(Path(folder)), folder=Path(folder))
            yield Path(folder)

    def _run(self, *words: str, folder: Path | None = None) -> None:
        with self.log.open("ab") as log:
            subprocess.run(
                words, check=True, cwd=folder, env=self._environment(), stdout=log, stderr=log
            )


class Borg(Archive):
    """borg, without encryption."""

    name = "borg"
    program = "borg"

    def creation(self) -> list[str]:
        return ["borg", "init", "--encryption=none", str(self.dest)]

    def words(self, source: Path, port: int | None) -> list[str]:
        making = shlex.join(["borg", "create", f"{self.dest}::{{utcnow}}", "."])
        return ["sh", "-c", f"cd {shlex.quote(str(source))} && {making}"]

    def restoring(self, folder: Path) -> list[str]:
        newest = f"$(borg list --last 1 --short {shlex.quote(str(self.dest))})"
        return ["sh", "-c", f"borg extract {shlex.quote(str(self.dest))}::{newest}"]

    def _environment(self) -> dict[str, str]:
        own = {"BORG_BASE_DIR": str(self.base / "borg")}
        known = {"BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
        return super()._environment() | own | known


class Restic(Archive):
    """restic; it always encrypts."""

    name = "restic"
    program = "restic"
    version_word = "version"

    def creation(self) -> list[str]:
        return ["restic", "init", "--repo", str(self.dest)]

    def words(self, source: Path, port: int | None) -> list[str]:
        making = shlex.join(["restic", "backup", "--repo", str(self.dest), "."])
        return ["sh", "-c", f"cd {shlex.quote(str(source))} && {making}"]

    def restoring(self, folder: Path) -> list[str]:
        return ["restic", "restore", "latest", "--repo", str(self.dest), "--target", str(folder)]

    def _environment(self) -> dict[str, str]:
        own = {"RESTIC_PASSWORD": "benchmark", "RESTIC_CACHE_DIR": str(self.base / "cache")}
        return super()._environment() | own
