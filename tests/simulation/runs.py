"""Runs of worlds, each in a process forked for it from one that has imported everything."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import ctypes
import faulthandler
import gc
import os
import select
import shutil
import signal
import time
import traceback
from pathlib import Path
from typing import Any

import msgspec

from tests.simulation import interpreter
from tests.simulation.result import Result

LIMIT_S = 60.0
"""Real seconds after which a run counts as stuck."""

_NO_RANDOM_ADDRESSES = 0x0040000
_NOT_HERE = (".__main__", ".watch_portable")
"""Modules that run something, or are for other systems."""


def begin_again_without_chance() -> None:
    """Make sure that hashes and addresses are the same in each process: begin anew if need be."""
    personality = ctypes.CDLL(None).personality
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        personality(_NO_RANDOM_ADDRESSES)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def prepare() -> None:
    """Import all that a run takes, with the interpreter's pools replaced."""
    interpreter.prepare()
    import importlib
    import pkgutil

    import twinfold

    for module in pkgutil.walk_packages(twinfold.__path__, "twinfold."):
        if ".migrations" not in module.name and not module.name.endswith(_NOT_HERE):
            importlib.import_module(module.name)
    importlib.import_module("tests.simulation.story")
    importlib.import_module("alembic.command")
    importlib.import_module("sqlalchemy.dialects.sqlite")
    gc.collect()
    gc.freeze()


def run_seed(seed: int, work: Path, *, keeps_trace: bool = False) -> Result:
    """Run one world; return how it ended.

    Args:
        seed: decides everything.
        work: a folder for mount points.
        keeps_trace: return the trace as well.
    """
    folder = work / "world"
    folder.mkdir()
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        os.close(reader)
        _be_world(seed, folder, writer, keeps_trace)
    os.close(writer)
    try:
        data = _read_all(reader)
    finally:
        os.close(reader)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        shutil.rmtree(folder)
    if not data:
        return Result(seed, failure=f"it ended without a word, or took {LIMIT_S} s")
    return msgspec.msgpack.decode(data, type=Result)


def _read_all(reader: int) -> bytes:
    data = b""
    due_s = time.monotonic() + LIMIT_S
    while select.select([reader], [], [], max(0.0, due_s - time.monotonic()))[0]:
        part = os.read(reader, 1 << 20)
        if not part:
            return data
        data += part
    return b""


def _be_world(seed: int, folder: Path, writer: int, keeps_trace: bool) -> None:
    result = Result(seed)
    try:
        gc.disable()
        if keeps_trace:
            faulthandler.dump_traceback_later(LIMIT_S * 0.8)
        result = _run(seed, folder, keeps_trace)
    except BaseException:  # noqa: BLE001
        result.failure = "the simulation itself failed: " + traceback.format_exc()
    finally:
        data: Any = memoryview(msgspec.msgpack.encode(result))
        while data:
            data = data[os.write(writer, data) :]
        os._exit(0)


def _run(seed: int, folder: Path, keeps_trace: bool) -> Result:
    from tests.simulation.schedule import StuckError
    from tests.simulation.story import tell
    from tests.simulation.world import BrokenError, World

    world = World(seed, folder, keeps_trace)
    result = Result(seed)
    try:
        tell(world)
    except (BrokenError, StuckError) as error:
        result.failure = f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001
        result.failure = "the simulation itself failed: " + traceback.format_exc()
    told = world.report()
    world.scheduler.note("disks", told.digest)
    result.digest = world.scheduler.digest
    result.trace = world.scheduler.trace
    counts = world.counts + world.network.counts
    counts["user acts"] = world.user.acts
    counts["steps"] = world.scheduler.steps
    result.counts = {**counts, **told.counts}
    return result
