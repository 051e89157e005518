"""Spoils what both sides keep on the disk between two runs, again and again.

python -m tests.hostile.stored SEED CASES

Whatever the files hold, a side ends with one clear line, or goes on and becomes equal; nothing
that the destination or its attic had is lost. After a line the file is put back as it was. A
client whose state names another source folder than there is may wait for somebody to say that
this is meant.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import asyncio
import os
import random
import shutil
import sqlite3
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from tests.crash.asking import says_in_sync
from tests.crash.launching import Launcher
from tests.crash.site import SIDES
from tests.e2e.fixtures import remove
from tests.e2e.harness import LIMIT_S, STOP_LIMIT_S, Pair, Running, run
from tests.e2e.trees import make_small_files, snapshot
from tests.hostile.mutations import EXTREMES, NAMES, mutate_bytes
from tests.torture.outcome import Failure

_OTHERS: list[object] = [None, 1.5, "", "text", b"", b"\0", bytes(16), bytes(32)]
_PAUSE_S = 0.01


class Stored:
    """A pair that is stopped, spoilt and started; ``acts`` says what was done."""

    def __init__(self, seed: int, base: Path) -> None:
        self.counts: Counter[str] = Counter()
        self.acts: list[str] = []
        self.pair = Pair(base / "pair")
        self.pair.env = {"TWINFOLD_DEBUG": ""}
        launcher = Launcher(trapped=False)
        self.pair.launches = {side: launcher.launch(side) for side in SIDES}
        self._good = base / "good"
        self._spoilt = base / "nothing yet"
        self._random = random.Random(seed)
        self._fill()

    def step(self) -> None:
        """Spoil one thing, start, compare, stop.

        Raises:
            AssertionError: a promise was broken.
        """
        self._keep()
        before = self._contents()
        what = self._spoil()
        self.acts.append(what)
        self._edit()
        if self._begin():
            self.counts["healed or harmless"] += 1
        else:
            self.counts["ended with a line"] += 1
            self._stop(self.pair.server)
            self._put_back()
            assert self._begin(), "it ended with the right files as well"
        self.pair.assert_equal()
        lost = before - self._contents()
        assert not lost, f"{len(lost)} contents were lost"
        for running in (self.pair.client, self.pair.server):
            self._stop(running)

    def _fill(self) -> None:
        """Bring a tree, an attic and a state about."""
        source = self.pair.source
        make_small_files(source / "many", 60)
        (source / "big").write_bytes(self._random.randbytes(8_000_000))
        (source / "link").symlink_to("big")
        self.pair.start_server()
        self.pair.start_client().expect("in_sync")
        for _ in range(2):
            self._edit()
            self.pair.settle()
        for running in (self.pair.client, self.pair.server):
            self._stop(running)

    def _edit(self) -> None:
        source = self.pair.source
        (source / "edited").write_bytes(self._random.randbytes(2_000))
        with (source / "big").open("r+b") as file:
            file.seek(self._random.randrange(7_000_000))
            file.write(self._random.randbytes(1_000))
        (source / "many" / f"new-{self._random.randrange(5)}").write_bytes(os.urandom(50))
        with suppress(FileNotFoundError):
            (source / "many" / f"new-{self._random.randrange(5)}").unlink()

    def _contents(self) -> set[bytes]:
        attic = snapshot(self.pair.dest / ".twinfold" / "attic")
        nodes = [*snapshot(self.pair.dest).values(), *attic.values()]
        return {node.content for node in nodes if node.kind == "file"}

    def _own_folders(self) -> list[Path]:
        pair = self.pair
        return [pair.dest / ".twinfold", pair.server_state, pair.client_state]

    def _files(self) -> list[Path]:
        own, *states = self._own_folders()
        files = [path for path in own.iterdir() if path.is_file()]
        files += [path for folder in states for path in folder.rglob("*") if not path.is_dir()]
        return sorted(files)

    def _keep(self) -> None:
        remove(self._good)
        for path in self._files():
            kept = self._good / path.relative_to(self.pair.base)
            kept.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file():
                shutil.copy2(path, kept)

    def _put_back(self) -> None:
        if self._spoilt.is_symlink():
            self._spoilt.unlink()
        elif self._spoilt.is_dir():
            self._spoilt.rmdir()
        for path in self._files():
            path.unlink()
        for kept in self._good.rglob("*"):
            path = self.pair.base / kept.relative_to(self._good)
            if kept.is_file():
                if path.is_dir():
                    path.rmdir()
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(kept, path)

    def _spoil(self) -> str:
        """Spoil a file; return what was done, in words."""
        random_ = self._random
        files = [path for path in self._files() if "damaged" not in path.name]
        databases = [path for path in files if path.suffix == ".sqlite"]
        path = random_.choice([*files, *databases, *databases])
        self._spoilt = path
        if path.suffix == ".sqlite" and random_.random() < 0.6:
            act: Callable[[Path], str] = random_.choice([self._swap_value] * 4 + [self._version])
        else:
            act = random_.choice([self._mutate] * 4 + [self._flip] * 3 + [self._replace])
        return f"{path.relative_to(self.pair.base)}: {act(path)}"

    def _mutate(self, path: Path) -> str:
        if not path.is_file():
            return self._replace(path)
        data = path.read_bytes()
        path.write_bytes(mutate_bytes(self._random, data, [data, os.urandom(100)]))
        return "accidents"

    def _flip(self, path: Path) -> str:
        if not path.is_file() or not path.stat().st_size:
            return self._replace(path)
        data = bytearray(path.read_bytes())
        for _ in range(self._random.choice([1, 8, 60])):
            data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
        path.write_bytes(data)
        return "flipped bits"

    def _replace(self, path: Path) -> str:
        how = self._random.choice(["gone", "empty", "random", "zeros", "a folder", "a dead link"])
        size_bytes = path.lstat().st_size
        path.unlink()
        if how == "a folder":
            path.mkdir()
        elif how == "a dead link":
            path.symlink_to("nowhere")
        elif how != "gone":
            data = {"empty": b"", "zeros": bytes(size_bytes)}.get(how, os.urandom(size_bytes))
            path.write_bytes(data)
        return how

    def _swap_value(self, path: Path) -> str:
        random_ = self._random
        with closing(sqlite3.connect(path)) as database, database:
            names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            table = random_.choice(sorted(name for (name,) in names))
            found = database.execute(f"SELECT * FROM {table} ORDER BY RANDOM() LIMIT 1")
            columns = [column[0] for column in found.description]
            row = found.fetchone()
            if row is None:
                return f"nothing in {table}"
            if random_.random() < 0.1:
                database.execute(f"DELETE FROM {table}")
                return f"emptied {table}"
            number = random_.randrange(len(columns))
            numbers = [one for one in EXTREMES if -(1 << 63) <= one < 1 << 63]
            old = row[number]
            near: list[object] = [old + 1] if isinstance(old, int) and old < 1 << 62 else []
            new = random_.choice([*numbers, *NAMES, *_OTHERS, *near * 10])
            where = " AND ".join(f"{column} IS ?" for column in columns)
            statement = f"UPDATE OR IGNORE {table} SET {columns[number]} = ? WHERE {where}"
            with suppress(sqlite3.IntegrityError):
                database.execute(statement, (new, *row))
        return f"{table}.{columns[number]} of {row!r:.200} = {new!r:.100}"

    def _version(self, path: Path) -> str:
        version = self._random.choice([0, 2, 99])
        with closing(sqlite3.connect(path)) as database, database:
            if path.name.startswith("index"):
                names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
                if ("alembic_version",) in names.fetchall():
                    database.execute(
                        "UPDATE alembic_version SET version_num = ?", (f"{version:04}",)
                    )
            else:
                database.execute(f"PRAGMA user_version = {version}")
        return f"version {version}"

    def _begin(self) -> bool:
        """Start both sides; tell whether they came into sync, and not to an end with a line."""
        pair = self.pair
        try:
            pair.restart_server()
        except AssertionError:
            pair.server.wait_exit(STOP_LIMIT_S)
            self._judge(pair.server)
            return False
        pair.start_client()
        is_released = False
        deadline_s = time.monotonic() + LIMIT_S
        while True:
            assert time.monotonic() < deadline_s, pair.client.describe() + pair.server.describe()
            for running in (pair.server, pair.client):
                if not running.alive:
                    self._judge(running)
                    return False
            if asyncio.run(says_in_sync(self.pair)):
                return True
            if not is_released and self._waits_for_somebody():
                is_released = True
                self.counts["released"] += 1
                released = run("release", pair.source, state=pair.client_state)
                assert released.code == 0, released
            time.sleep(_PAUSE_S)

    def _waits_for_somebody(self) -> bool:
        """Tell whether the client waits to be told that the source's folder is the right one."""
        reasons = [str(event["reason"]) for event in self.pair.client.events("waiting")]
        is_waiting = any(reason.startswith("another folder than before") for reason in reasons)
        return is_waiting and self._spoilt.name.startswith("state.sqlite")

    @staticmethod
    def _judge(running: Running) -> None:
        code, told = running.wait_exit(), running.errors
        assert code == 1, running.describe()
        assert len(told.splitlines()) == 1, told
        assert "please report it" not in told, told

    def _stop(self, running: Running) -> None:
        if running.alive:
            if self._random.random() < 0.5:
                running.kill()
            else:
                running.terminate()
        assert "Traceback" not in running.errors, running.errors


def spoil(
    seed: int, seconds: float, base: Path, cases: int = 1 << 31
) -> tuple[Counter[str], list[Failure]]:
    """Spoil one pair's files until the time is up; return what was counted and what was broken."""
    until_s = time.monotonic() + seconds
    stored = Stored(seed, base)
    done = 0
    try:
        while done < cases and (not done or time.monotonic() < until_s):
            done += 1
            stored.step()
    except Exception:  # noqa: BLE001 - a failure is reported with its seed
        told = f"{stored.acts[-3:]}\n{traceback.format_exc()}"
        with suppress(AssertionError):
            told += stored.pair.server.errors[-4_000:] + stored.pair.client.errors[-4_000:]
            stored.pair.close()
        replay = f"python -m tests.hostile.stored {seed} {done}"
        return stored.counts, [Failure(f"spoilt files, seed {seed}, case {done}", replay, told)]
    stored.pair.close()
    return stored.counts, []


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        counted, failures = spoil(int(sys.argv[1]), 3600, Path(folder) / "pair", int(sys.argv[2]))
    print(dict(counted))
    for failure in failures:
        print(failure.told)
    sys.exit(bool(failures))
