"""A process that has the program imported already, and forks off a new one whenever asked.

Starting the interpreter and importing takes most of a short session. What is forked runs the
same command line function as ``python -m twinfold``.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import array
import contextlib
import faulthandler
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import traceback
from collections.abc import Sequence
from typing import IO, Any, NoReturn

import twinfold
from tests.crash.filter import ROOT, install

_MOST_BYTES = 1 << 16
_NO_PROGRAM = ("__main__", "watch_portable")


class Newborn:
    """A process that was forked off; what is used of `subprocess.Popen`.

    Attributes:
        pid: of the process.
        stdout: what it writes.
    """

    def __init__(self, pid: int, stdout: IO[bytes], report: int) -> None:
        self.pid = pid
        self.stdout: IO[bytes] | None = stdout
        self.returncode: int | None = None
        self._report = report

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal; None while it runs."""
        if self.returncode is None and select.select([self._report], [], [], 0)[0]:
            self._read()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code once it has ended."""
        if self.returncode is None:
            if not select.select([self._report], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(["twinfold"], timeout or 0.0)
            self._read()
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, sig: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def _read(self) -> None:
        told = os.read(self._report, 100)
        assert told, "the nursery has ended"
        self.returncode = int(told)
        os.close(self._report)


class Nursery:
    """Starts processes of the program fast."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.crash.nursery", str(theirs.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def close(self) -> None:
        """End it; what it has forked off goes on."""
        self._socket.close()
        self._process.wait()

    def start(
        self, arguments: Sequence[str], env: dict[str, str], stderr: IO[bytes], *, trapped: bool
    ) -> tuple[Newborn, int]:
        """Fork a process off.

        Args:
            arguments: of the program.
            env: its whole environment.
            stderr: where its standard error goes.
            trapped: each of its calls that may change a disk waits for an answer.

        Returns:
            The process, and the descriptor that these calls are read from (-1 without).
        """
        out_read, out_write = os.pipe()
        report_read, report_write = os.pipe()
        channel, theirs = socket.socketpair()
        with channel:
            with theirs:
                message = json.dumps({"arguments": arguments, "env": env, "trapped": trapped})
                given = [out_write, stderr.fileno(), report_write, theirs.fileno()]
                socket.send_fds(self._socket, [message.encode()], given)
                os.close(out_write)
                os.close(report_write)
            told, listeners, _, _ = socket.recv_fds(channel, 20, 1)
        assert told, "the nursery has ended"
        listener = listeners[0] if listeners else -1
        return Newborn(int(told), os.fdopen(out_read, "rb"), report_read), listener


def _serve(asked: socket.socket) -> None:
    """Fork off what is asked for; tell how each process ended."""
    _import_all()
    gc.collect()
    gc.freeze()
    reports: dict[int, int] = {}
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([asked.fileno(), wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 1_000)
            _report(reports)
        if asked.fileno() in ready:
            message, fds, _, _ = socket.recv_fds(asked, _MOST_BYTES, 4)
            if not message:
                return
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for fd in (asked.fileno(), wake_read, wake_write, *reports.values()):
                    os.close(fd)
                _be_born(json.loads(message), fds)
            reports[pid] = fds[2]
            for fd in (fds[0], fds[1], fds[3]):
                os.close(fd)


def _report(reports: dict[int, int]) -> None:
    for pid, fd in list(reports.items()):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            del reports[pid]
            with contextlib.suppress(BrokenPipeError):
                os.write(fd, str(os.waitstatus_to_exitcode(status)).encode())
            os.close(fd)


def _be_born(wanted: dict[str, Any], fds: list[int]) -> NoReturn:
    """Be the new process to its end."""
    code = 1
    try:
        out, err, report, channel = fds
        os.close(report)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.close(out)
        os.close(err)
        # Those of the nursery are made for what it was started with itself.
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", closefd=False)
        faulthandler.enable()
        os.environ.clear()
        os.environ.update(wanted["env"])
        with socket.socket(fileno=channel) as told:
            pid = str(os.getpid()).encode()
            if wanted["trapped"]:
                listener = install()
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener]))
                told.sendmsg([pid], [rights])
                os.close(listener)
            else:
                told.send(pid)
        from twinfold.cli import run

        sys.argv = ["twinfold", *wanted["arguments"]]
        code = run(wanted["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - the outermost place of the new process
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _import_all() -> None:
    for module in pkgutil.walk_packages(twinfold.__path__, "twinfold."):
        if not module.name.endswith(_NO_PROGRAM):
            importlib.import_module(module.name)
    importlib.import_module("sqlalchemy.dialects.sqlite")


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as given:
        _serve(given)
