"""Twinfold's own commands as processes, read by their JSON lines."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from twinfold.errors import TwinfoldError

STOP_TIMEOUT_S = 5.0
STDERR_TAIL_BYTES = 500


def environment(state_dir: Path) -> dict[str, str]:
    """Return the environment for commands with a state of their own and no options set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TWINFOLD_")}
    return {**kept, "TWINFOLD_STATE_DIR": str(state_dir)}


class Program:
    """A running command; use it as a context manager, which ends it."""

    def __init__(self, arguments: Sequence[str], settings: Mapping[str, str]) -> None:
        self._name = f"twinfold {arguments[0]}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "twinfold", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=settings,
        )
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._errors = b""
        self._readers = [
            threading.Thread(target=reader, daemon=True)
            for reader in (self._read_lines, self._read_errors)
        ]
        for thread in self._readers:
            thread.start()

    def event(self, name: str, timeout_s: float) -> dict[str, object]:
        """Return the next event of that name; others are passed over.

        Raises:
            TwinfoldError: the command ended, or said nothing for so long.
        """
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                raise TwinfoldError(
                    f"{self._name} did not say {name!r} within {timeout_s:.0f} s; try it again "
                    "when the machine is less busy"
                ) from None
            if line is None:
                raise TwinfoldError(f"{self._name} ended early: {self._last_words()}")
            fields = msgspec.json.decode(line, type=dict[str, object])
            if fields.get("event") == name:
                return fields

    def _read_lines(self) -> None:
        if self._process.stdout is not None:
            for line in self._process.stdout:
                self._lines.put(line)
        self._lines.put(None)

    def _read_errors(self) -> None:
        if self._process.stderr is not None:
            for line in self._process.stderr:
                self._errors = (self._errors + line)[-STDERR_TAIL_BYTES:]

    def _last_words(self) -> str:
        self._readers[1].join(timeout=1)
        text = self._errors.decode("utf-8", "backslashreplace").strip()
        return text.rpartition("\n")[2] or "it gave no reason"

    def __enter__(self) -> Program:
        """Let it run."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it, at first kindly."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._readers:
            thread.join()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
