"""Where the servers of this user announce themselves, so that a client finds them by itself.

One file a destination, ``STATE_DIR/servers/<hash of the destination>.json``, readable by its
owner only, since it holds the token. A file whose server is gone counts as absent.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
from blake3 import blake3

from twinfold.addresses import for_this_machine
from twinfold.config import ServerAddress
from twinfold.core.paths import display
from twinfold.errors import TwinfoldError, UsageError
from twinfold.server.events import Listening


class Announcement(msgspec.Struct, frozen=True):
    """What a running server says of itself; ``process`` tells it from a later one's pid."""

    url: str
    token: str
    fingerprint: str | None
    invite: str
    pid: int
    process: str
    server_id: bytes
    destination: bytes

    @property
    def address(self) -> ServerAddress:
        """Where the server listens, and its token."""
        tls = self.url.startswith("https://")
        host, _, port = self.url.partition("://")[2].rpartition(":")
        return ServerAddress(host.strip("[]"), int(port), tls, self.token, self.fingerprint)


@contextlib.contextmanager
def announced(state_dir: Path, listening: Listening) -> Iterator[None]:
    """Let clients of this user find the server of this process while the block runs."""
    address = for_this_machine(listening.address)
    path = _announcement_path(state_dir, listening.destination)
    pid = os.getpid()
    announcement = Announcement(
        url=address.url,
        token=address.token,
        fingerprint=address.fingerprint,
        invite=address.invite,
        pid=pid,
        process=_process_mark(pid),
        server_id=listening.server_id,
        destination=listening.destination,
    )
    _write_private(path, msgspec.json.encode(announcement))
    try:
        yield
    finally:
        found = _read(path)
        if found is not None and found.pid == pid:
            path.unlink(missing_ok=True)


def running_servers(state_dir: Path) -> list[Announcement]:
    """Return the servers of this user that run on this machine, ordered by destination."""
    found = [_read(path) for path in (state_dir / "servers").glob("*.json")]
    running = [one for one in found if one is not None and _is_running(one)]
    return sorted(running, key=lambda one: one.destination)


def find_server(state_dir: Path) -> Announcement:
    """Return the one server of this user that runs on this machine.

    Raises:
        TwinfoldError: none is running.
        UsageError: several are; the text lists them.
    """
    running = running_servers(state_dir)
    if not running:
        raise TwinfoldError(
            "no server of this user runs on this machine; start one with `twinfold server DEST`, "
            "or name one with --server INVITE"
        )
    if len(running) > 1:
        listing = ", ".join(f"{one.url} ({display(one.destination)})" for one in running)
        raise UsageError(
            f"{len(running)} servers run on this machine: {listing}; choose one with --server "
            "and the invite that it printed"
        )
    return running[0]


def destination_of(state_dir: Path, address: ServerAddress) -> bytes | None:
    """Return the destination of the server at ``address`` if it runs here for this user."""
    for one in running_servers(state_dir):
        if one.token == address.token and one.address.port == address.port:
            return one.destination
    return None


def _announcement_path(state_dir: Path, destination: bytes) -> Path:
    digest = blake3(os.path.realpath(destination)).hexdigest(length=8)
    return state_dir / "servers" / f"{digest}.json"


def _write_private(path: Path, data: bytes) -> None:
    _make_private_folder(path.parent)
    new = path.with_suffix(f".{os.getpid()}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    new.replace(path)


def _make_private_folder(folder: Path) -> None:
    # Not by `parents=True`: that leaves the modes of the folders above to the umask.
    if not folder.is_dir():
        _make_private_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def _read(path: Path) -> Announcement | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Announcement)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _is_running(one: Announcement) -> bool:
    return _exists(one.pid) and _process_mark(one.pid) == one.process


def _exists(pid: int) -> bool:
    if sys.platform == "win32":
        return _exists_on_windows(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _exists_on_windows(pid: int) -> bool:
    # os.kill(pid, 0) would end the process there.
    if sys.platform != "win32":
        raise NotImplementedError
    import ctypes

    synchronize, still_there = 0x0010_0000, 0x102
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    handle = kernel.OpenProcess(synchronize, False, pid)
    if not handle:
        return False
    try:
        return bool(kernel.WaitForSingleObject(handle, 0) == still_there)
    finally:
        kernel.CloseHandle(handle)


def _process_mark(pid: int) -> str:
    """Return what tells a process from a later one with its pid, where the system says it."""
    if sys.platform != "linux":
        return ""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        started = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19]
    except (OSError, IndexError):
        return ""
    return f"{boot}:{started.decode('ascii')}"
