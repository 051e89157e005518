"""Runs the program as a user does: real processes, real sockets, real folders."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from tests.e2e.proxy import Proxy
from tests.e2e.trees import Tree, differences, snapshot

LIMIT_S = float(os.environ.get("TEST_LIMIT_S", "90"))
"""How long anything may take on a slow and busy machine before it counts as stuck."""

STOP_LIMIT_S = 5.0
"""SIGTERM ends either side within this time."""

NO_CONTENT_BYTES = 64 * 1024
"""What a sync that has no content to send stays below."""

Event = dict[str, Any]


class Result(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[Event]:
        """The JSON objects on its standard output."""
        return [json.loads(line) for line in self.out.splitlines()]


def command(arguments: list[str | Path]) -> list[str]:
    """Return the whole command line of a twinfold command."""
    return [sys.executable, "-m", "twinfold", *map(str, arguments)]


def environment(state: Path, more: dict[str, str] | None = None) -> dict[str, str]:
    """Return an environment with its own state and no other setting of twinfold."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("TWINFOLD_")}
    # What nobody expected shows where it came from, and fails the test that sees it.
    return kept | {"TWINFOLD_STATE_DIR": str(state), "TWINFOLD_DEBUG": "1"} | (more or {})


def run(
    *arguments: str | Path,
    state: Path,
    env: dict[str, str] | None = None,
    timeout_s: float = LIMIT_S,
    prefix: Sequence[str] = (),
) -> Result:
    """Run a command to its end."""
    ended = subprocess.run(
        [*prefix, *command(list(arguments))],
        env=environment(state, env),
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="backslashreplace",
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return Result(ended.returncode, ended.stdout, ended.stderr)


def assert_one_line(result: Result, code: int | tuple[int, ...] = 1) -> str:
    """Check that a command failed as the contract says; return its one line."""
    codes = (code,) if isinstance(code, int) else code
    assert result.code in codes, result
    lines = result.err.splitlines()
    assert len(lines) == 1, result
    assert lines[0].strip(), result
    return lines[0]


class Process(Protocol):
    """What is used of `subprocess.Popen`."""

    pid: int
    stdout: IO[bytes] | None

    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None) -> int: ...
    def kill(self) -> None: ...
    def send_signal(self, sig: int) -> None: ...


Launch = Callable[[list[str | Path], dict[str, str], IO[bytes]], Process]
"""Starts a command: its arguments, its whole environment, where its standard error goes."""


class Running:
    """A twinfold process whose JSON lines are read as they come.

    It is started by ``launch``, if that is given, and ``prefix`` counts for nothing then.
    """

    def __init__(
        self,
        *arguments: str | Path,
        state: Path,
        log: Path,
        env: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
        launch: Launch | None = None,
    ) -> None:
        self.log = log
        self.process: Process
        with log.open("ab") as errors:
            if launch is not None:
                self.process = launch(list(arguments), environment(state, env), errors)
            else:
                self.process = subprocess.Popen(
                    [*prefix, *command(list(arguments))],
                    env=environment(state, env),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                )
        self._condition = threading.Condition()
        self._events: list[Event] = []
        self._ended = False
        assert self.process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,))
        self._reader.start()

    def _read(self, lines: IO[bytes]) -> None:
        with lines:
            for line in lines:
                self._take(line)
        with self._condition:
            self._ended = True
            self._condition.notify_all()

    def _take(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            event = {"event": "not JSON", "line": repr(line)}
        with self._condition:
            self._events.append(event)
            self._condition.notify_all()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.poll() is None

    @property
    def errors(self) -> str:
        """What it wrote to standard error so far."""
        return self.log.read_text("utf-8", "backslashreplace")

    def mark(self) -> int:
        """Return the place in the stream of events reached by now."""
        with self._condition:
            return len(self._events)

    def events(self, kind: str | None = None, since: int = 0) -> list[Event]:
        """Return the events of a kind that came since a mark."""
        with self._condition:
            later = self._events[since:]
        return [event for event in later if kind in (None, event["event"])]

    def expect(
        self,
        kind: str,
        since: int = 0,
        where: Callable[[Event], bool] = lambda event: True,
        timeout_s: float = LIMIT_S,
    ) -> Event:
        """Return the first such event since a mark; wait for it if need be."""

        def found() -> Event | None:
            matching = (e for e in self._events[since:] if e["event"] == kind and where(e))
            return next(matching, None)

        with self._condition:
            self._condition.wait_for(lambda: found() or self._ended, timeout_s)
            event = found()
        if event is None:
            raise AssertionError(f"no {kind!r} in {timeout_s:.0f} s: {self.describe(since)}")
        return event

    def describe(self, since: int = 0) -> str:
        """Say what is known of the process, for a failed test."""
        code = self.process.poll()
        return f"exit code {code}, events {self.events(None, since)[-10:]}, {self.errors[-3000:]}"

    def wait_exit(self, timeout_s: float = LIMIT_S) -> int:
        """Return the exit code once it has ended and all of its output was read."""
        code = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        return code

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.wait_exit()

    def terminate(self) -> tuple[int, float]:
        """End it with SIGTERM; return the exit code and the seconds that it took."""
        return self._end_by(signal.SIGTERM)

    def interrupt(self) -> tuple[int, float]:
        """End it as Ctrl-C does; return the exit code and the seconds that it took."""
        return self._end_by(signal.SIGINT)

    def _end_by(self, number: int) -> tuple[int, float]:
        begin = time.monotonic()
        self.process.send_signal(number)
        code = self.wait_exit()
        return code, time.monotonic() - begin

    def peak_memory_bytes(self) -> int:
        """Return the most memory that it ever had resident (Linux only)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text("utf-8")
        match = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        assert match, status
        return int(match[1]) * 1024


class Pair:
    """A source and a destination in one folder, with a server and a client between them.

    The two have a state folder each, as on two machines: the client is told the invite.
    ``server_prefix`` and ``client_prefix`` are words to put before the command of each,
    ``env`` is added to the environment of both, ``launches`` start a side in another way.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.source = base / "source"
        self.dest = base / "dest"
        self.server_state = base / "server-state"
        self.client_state = base / "client-state"
        self.server_prefix: list[str] = []
        self.client_prefix: list[str] = []
        self.env: dict[str, str] = {}
        self.launches: dict[str, Launch] = {}
        self.source.mkdir(parents=True)
        self._server: Running | None = None
        self._client: Running | None = None
        self._started: list[Running] = []
        self._proxies: list[Proxy] = []
        self.invite = ""

    @property
    def server(self) -> Running:
        """The server that was started last."""
        assert self._server is not None
        return self._server

    @property
    def client(self) -> Running:
        """The client that was started last."""
        assert self._client is not None
        return self._client

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        match = re.search(r":(\d+)(#|$)", self.invite)
        assert match, self.invite
        return int(match[1])

    @property
    def token(self) -> str:
        """The token in the server's invite."""
        match = re.fullmatch(r"twinfold://([^@]+)@.*", self.invite)
        assert match, self.invite
        return match[1]

    def start_server(self, *options: str | Path, listen: str = "127.0.0.1:0") -> Running:
        """Start the server; return once it listens."""
        words = ["server", self.dest, "--json", "--listen", listen, *options]
        self._server = self._start("server", words, self.server_state)
        self.invite = str(self._server.expect("listening")["invite"])
        return self._server

    def restart_server(self, *options: str | Path) -> Running:
        """Start the server again on the port that it had."""
        return self.start_server(*options, listen=f"127.0.0.1:{self.port}")

    def start_client(self, *options: str | Path, proxy: Proxy | None = None) -> Running:
        """Start a live client; it may not be in sync yet."""
        words = self.client_words(*options, proxy=proxy)
        self._client = self._start("client", words, self.client_state)
        return self._client

    def start(self, *options: str | Path) -> None:
        """Start both sides; return when they are in sync."""
        self.start_server()
        self.start_client(*options).expect("in_sync")

    def client_words(self, *options: str | Path, proxy: Proxy | None = None) -> list[str | Path]:
        """Return the words of a client's command line for this server."""
        invite = self.invite
        if proxy is not None:
            invite = re.sub(r":\d+(?=#|$)", f":{proxy.port}", invite)
        return ["client", self.source, "--json", "--server", invite, *options]

    def proxy(self) -> Proxy:
        """Open a counting proxy to the server's port."""
        proxy = Proxy(("127.0.0.1", self.port))
        self._proxies.append(proxy)
        return proxy

    def once(self, *options: str | Path, proxy: Proxy | None = None) -> Result:
        """Run ``client --once`` to its end."""
        words = self.client_words("--once", *options, proxy=proxy)
        prefix = self.client_prefix
        return run(*words, state=self.client_state, timeout_s=4 * LIMIT_S, prefix=prefix)

    def sync(self, *options: str | Path, proxy: Proxy | None = None) -> Event:
        """Run ``client --once``, check that all is equal, return its in_sync event."""
        result = self.once(*options, proxy=proxy)
        assert result.code == 0, result
        self.assert_equal()
        return [event for event in result.objects if event["event"] == "in_sync"][-1]

    def wait(self, timeout_s: float = LIMIT_S) -> Result:
        """Run ``twinfold wait`` on the source."""
        words: list[str | Path] = ["wait", self.source, "--json", "--timeout", str(int(timeout_s))]
        return run(*words, state=self.client_state, timeout_s=timeout_s + 30)

    def differences(self, below: str = "") -> list[str]:
        """List what differs between source and destination, or a folder in them."""
        return differences(self._tree(self.source / below), self._tree(self.dest / below))

    @staticmethod
    def _tree(folder: Path) -> Tree:
        # A name may go while it is looked at: that is a difference, too.
        try:
            return snapshot(folder)
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def has_in_attic(self, data: bytes) -> bool:
        """Tell whether a file of the attic has just this content."""
        return any(
            path.is_file() and not path.is_symlink() and path.read_bytes() == data
            for path in (self.dest / ".twinfold" / "attic").rglob("*")
        )

    def assert_equal(self, below: str = "") -> None:
        """Check that source and destination are equal now."""
        found = self.differences(below)
        assert found == [], found

    def converge(self, below: str = "", timeout_s: float = LIMIT_S) -> None:
        """Return when the live client has made both sides equal by itself."""
        deadline = time.monotonic() + timeout_s
        while True:
            mark = self.client.mark()
            found = self.differences(below)
            left_s = deadline - time.monotonic()
            if not found:
                return
            assert left_s > 0, found
            try:
                self.client.expect("in_sync", since=mark, timeout_s=left_s)
            except AssertionError:
                assert self.differences(below) == [], self.client.describe()

    def expect_answering(self) -> None:
        """Return when the live client answers questions: just started, it does not yet."""
        deadline = time.monotonic() + LIMIT_S
        while run("status", self.source, "--json", state=self.client_state).code != 0:
            assert self.client.alive, self.client.describe()
            assert time.monotonic() < deadline, self.client.describe()

    def settle(self) -> None:
        """Return when ``wait`` says that all is durable; check that it is true."""
        self.expect_answering()
        result = self.wait(2 * LIMIT_S)
        assert result.code == 0, (result, self.client.describe())
        self.assert_equal()

    def close(self) -> None:
        """End whatever still runs; no side may have shown a traceback."""
        for proxy in self._proxies:
            proxy.close()
        for running in self._started:
            if running.alive:
                running.process.kill()
            running.wait_exit()
        told = [running.errors for running in self._started if "Traceback" in running.errors]
        assert not told, told[0][-6000:]

    def _start(self, role: str, words: list[str | Path], state: Path) -> Running:
        log = self.base / f"{role}-{len(self._started)}.log"
        prefix = self.server_prefix if role == "server" else self.client_prefix
        launch = self.launches.get(role)
        running = Running(*words, state=state, log=log, env=self.env, prefix=prefix, launch=launch)
        self._started.append(running)
        return running
