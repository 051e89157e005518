"""syncthing: two of them, of which one only sends and the other one only receives."""

from __future__ import annotations

import http.client
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.followers.base import Follower, Roles
from tests.e2e.trees import Tree

FOLDER = "mirror"
LIMIT_S = 1_800.0
ANSWER_LIMIT_S = 60.0
DELAY_S = 1
"""How long its watcher gathers changes, 10 s by default; the least that it takes."""


class Instance:
    """One syncthing with a home of its own, steered by its REST interface."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.key = secrets.token_hex(8)
        self.gui_port, self.port = _free_ports(2)
        words = ["syncthing", "generate", f"--home={home}", "--no-default-folder"]
        subprocess.run([*words, "--skip-port-probing"], check=True, capture_output=True)
        asking = ["syncthing", "serve", f"--home={home}", "--device-id"]
        told = subprocess.run(asking, check=True, capture_output=True, text=True)
        self.id = told.stdout.strip()

    @property
    def words(self) -> list[str]:
        """The command that runs it."""
        where = [f"--gui-address=127.0.0.1:{self.gui_port}", f"--gui-apikey={self.key}"]
        return ["syncthing", "serve", f"--home={self.home}", "--no-browser", "--no-restart", *where]

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Send a request; return the answer.

        Raises:
            OSError: it does not listen.
            RuntimeError: it refuses.
        """
        link = http.client.HTTPConnection("127.0.0.1", self.gui_port, timeout=ANSWER_LIMIT_S)
        try:
            content = None if body is None else msgspec.json.encode(body)
            link.request(method, f"/rest/{path}", content, {"X-API-Key": self.key})
            answer = link.getresponse()
            told = answer.read()
        finally:
            link.close()
        if answer.status >= 300:
            raise RuntimeError(f"syncthing refuses {path}: {told!r}")
        return msgspec.json.decode(told) if told else None

    def wait_up(self) -> None:
        """Return once it answers."""
        end = time.monotonic() + ANSWER_LIMIT_S
        while True:
            try:
                self.ask("GET", "system/ping")
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def set_up(self, folder: Path, kind: str, other: Instance) -> None:
        """Share a folder with another one, and talk to nobody else."""
        quiet = dict.fromkeys(
            ("globalAnnounceEnabled", "localAnnounceEnabled", "relaysEnabled", "natEnabled"), False
        )
        listening = {"listenAddresses": [f"tcp://127.0.0.1:{self.port}"]}
        self.ask("PATCH", "config/options", quiet | listening | {"urAccepted": -1})
        where = [f"tcp://127.0.0.1:{other.port}"]
        self.ask("PUT", f"config/devices/{other.id}", {"deviceID": other.id, "addresses": where})
        shared = {
            "id": FOLDER,
            "path": str(folder),
            "type": kind,
            "devices": [{"deviceID": self.id}, {"deviceID": other.id}],
            "fsWatcherEnabled": True,
            "fsWatcherDelayS": DELAY_S,
        }
        self.ask("PUT", f"config/folders/{FOLDER}", shared)

    def status(self) -> dict[str, Any]:
        """Return what it says of the folder."""
        found: dict[str, Any] = self.ask("GET", f"db/status?folder={FOLDER}")
        return found


class Syncthing(Follower):
    """syncthing with the shortest delay of its watcher; it syncs each file to the disk."""

    name = "syncthing"
    program = "syncthing"
    own_names = (b".stfolder", b".stignore")

    @contextmanager
    def following(self, source: Path) -> Iterator[Roles]:
        self.dest.mkdir(parents=True)
        sender, receiver = Instance(self.base / "sender"), Instance(self.base / "receiver")
        with ExitStack() as stack:
            pids = {
                "client": stack.enter_context(self.started(sender.words)),
                "server": stack.enter_context(self.started(receiver.words)),
            }
            for instance in (sender, receiver):
                instance.wait_up()
            sender.set_up(source, "sendonly", receiver)
            receiver.set_up(self.dest, "receiveonly", sender)
            _wait_equal(sender, receiver)
            yield Roles(pids)
        for name in self.own_names:
            path = source / name.decode()
            if path.is_dir():
                path.rmdir()

    def comparable(self, tree: Tree) -> Tree:
        """Leave out its own names, and the times of directories, which it does not keep."""
        return {
            path: node._replace(mtime_ns=0) if node.kind != "file" else node
            for path, node in tree.items()
            if path not in self.own_names
        }


def _wait_equal(sender: Instance, receiver: Instance) -> None:
    end = time.monotonic() + LIMIT_S
    while True:
        ours, theirs = sender.status(), receiver.status()
        is_idle = ours["state"] == theirs["state"] == "idle"
        is_known = ours["localFiles"] and ours["localFiles"] == theirs["globalFiles"]
        if is_idle and is_known and not theirs["needTotalItems"]:
            return
        if time.monotonic() > end:
            raise TimeoutError(f"syncthing does not come to its end: {ours}, {theirs}")
        time.sleep(0.5)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [listener.getsockname()[1] for listener in listeners]
