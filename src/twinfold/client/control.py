"""Asking a running client: what it does, to say when everything is durable, to let go on.

One line of JSON each way, over a Unix socket in the client's own folder. Where there is none
(Windows, or a path too long for a socket's address) a port on loopback takes its place, whose
number and secret stand in a file that only this user can read.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec

from twinfold.client.events import Status, Verified, VerifyFailed, VerifyLine
from twinfold.client.place import ClientPlace, place_of, places
from twinfold.client.waiters import Waiters
from twinfold.errors import TwinfoldError

if TYPE_CHECKING:
    from twinfold.client.verify import Told

_MAX_LINE_BYTES = 64 * 1024 * 1024
_MAX_SOCKET_PATH_BYTES = 100
_STATUS_TIMEOUT_S = 10.0
_GRACE_S = 5.0
_LOOK_EVERY_S = 0.5


class Question(msgspec.Struct, frozen=True):
    """What is asked; ``secret`` only where a port is used."""

    op: Literal["status", "wait", "release", "verify"]
    timeout_s: float | None = None
    deletions: int = 0
    secret: str = ""


class _Port(msgspec.Struct, frozen=True):
    port: int
    secret: str


class NotRunningError(TwinfoldError):
    """No client is running for this source."""


class Asked(Protocol):
    """What answers the questions."""

    def status(self) -> Status:
        """Return what it does now."""

    async def release(self, deletions: int) -> bool:
        """Wait for all, but let so many held deletions, and what looks unmounted, pass before."""

    async def verify(self, told: Told) -> Verified:
        """Have both ends read everything again."""


class Control:
    """Answers questions for as long as its block lasts.

    Args:
        place: where the client is found.

    Attributes:
        waiters: those who wait until all that was changed before is durable.
    """

    def __init__(self, place: ClientPlace) -> None:
        self.waiters = Waiters()
        self._place = place
        self._asked: Asked | None = None
        self._is_ready = asyncio.Event()
        self._verifying: set[asyncio.Future[Verified]] = set()
        self._secret = ""
        self._server: asyncio.Server | None = None

    @contextmanager
    def answered_by(self, asked: Asked) -> Iterator[None]:
        """Let this one answer for as long as the block lasts; then what it verifies breaks off.

        Until the next one answers, the status stays what it was, and all others wait.
        """
        self._asked = asked
        self._is_ready.set()
        try:
            yield
        finally:
            self._is_ready.clear()
            for verifying in self._verifying:
                verifying.cancel()

    async def __aenter__(self) -> Control:
        try:
            await self._listen()
        except BaseException:
            self._close()
            raise
        return self

    async def _listen(self) -> None:
        self._remove()
        if sys.platform != "win32" and _has_socket(self._place):
            self._server = await asyncio.start_unix_server(
                self._converse, self._place.control_socket
            )
            self._place.control_socket.chmod(0o600)
        else:
            self._secret = secrets.token_urlsafe(32)
            self._server = await asyncio.start_server(self._converse, "127.0.0.1", 0)
            port = self._server.sockets[0].getsockname()[1]
            _write_private(self._place.control_port, _Port(port, self._secret))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._remove()

    def _remove(self) -> None:
        self._place.control_socket.unlink(missing_ok=True)
        self._place.control_port.unlink(missing_ok=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            question = msgspec.json.decode(await reader.readline(), type=Question)
            if not hmac.compare_digest(question.secret.encode(), self._secret.encode()):
                return
            if question.op == "verify":
                await self._serve_verify(writer)
                return
            writer.write(_encode(await self._answer(question)) + b"\n")
            await writer.drain()
        except (OSError, ValueError, RecursionError):
            return
        except asyncio.CancelledError:
            # The client ends before there is an answer. Passed on, asyncio would tell of it (3.11).
            return
        finally:
            writer.close()

    async def _answer(self, question: Question) -> Status:
        if question.op == "status":
            return await self._status()
        if question.op == "wait":
            arrived = await self._wait(question.timeout_s)
        else:
            arrived = await (await self._ready()).release(question.deletions)
        return msgspec.structs.replace(await self._status(), in_sync=arrived)

    async def _ready(self) -> Asked:
        """Return who answers now; at the start, and when the client begins anew, nobody does."""
        while self._asked is None or not self._is_ready.is_set():
            await self._is_ready.wait()
        return self._asked

    async def _status(self) -> Status:
        return (self._asked or await self._ready()).status()

    async def _serve_verify(self, writer: asyncio.StreamWriter) -> None:
        """Write a line for each progress, and one for how it ended."""

        def tell(line: VerifyLine) -> None:
            writer.write(msgspec.json.encode(line) + b"\n")

        verifying = asyncio.ensure_future((await self._ready()).verify(tell))
        self._verifying.add(verifying)
        try:
            while not verifying.done():
                await asyncio.wait([verifying], timeout=_LOOK_EVERY_S)
                await writer.drain()
            if verifying.cancelled():
                tell(VerifyFailed("the client ended or began anew meanwhile; verify again"))
            else:
                tell(verifying.result())
        except TwinfoldError as error:
            tell(VerifyFailed(str(error)))
        finally:
            self._verifying.discard(verifying)
            verifying.cancel()
        await writer.drain()

    async def _wait(self, timeout_s: float | None) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                return await self.waiters.wait()
        except TimeoutError:
            return False


async def ask_status(place: ClientPlace) -> Status:
    """Return what the client of a source does now.

    Raises:
        NotRunningError: there is none.
    """
    return await _ask(place, Question("status"), _STATUS_TIMEOUT_S)


async def ask_wait(state_dir: Path, source: bytes, timeout_s: float | None) -> Status:
    """Return the client's status once all that was changed before is durable.

    ``in_sync`` is False in it if that took longer than ``timeout_s``.

    Raises:
        NotRunningError: no client is running for the source.
    """
    patience_s = None if timeout_s is None else timeout_s + _GRACE_S
    return await _ask(place_of(state_dir, source), Question("wait", timeout_s), patience_s)


async def ask_release(state_dir: Path, source: bytes, deletions: int) -> Status:
    """Let pass, once, what the client of a source holds: at most so many deletions.

    Returns its status when that is durable; ``in_sync`` is False in it if it holds again.

    Raises:
        NotRunningError: no client is running for the source.
    """
    return await _ask(place_of(state_dir, source), Question("release", None, deletions), None)


async def ask_verify(state_dir: Path, source: bytes, told: Told) -> Verified:
    """Have a running client verify; ``told`` learns how far it is.

    Raises:
        NotRunningError: no client is running for the source.
        TwinfoldError: it cannot be done.
    """
    try:
        reader, writer, secret = await _connect(place_of(state_dir, source))
    except (OSError, ValueError, RecursionError) as error:
        raise _not_running() from error
    try:
        writer.write(msgspec.json.encode(Question("verify", secret=secret)) + b"\n")
        await writer.drain()
        while data := await reader.readline():
            line = msgspec.json.decode(data, type=VerifyLine)
            if isinstance(line, Verified):
                return line
            if isinstance(line, VerifyFailed):
                raise TwinfoldError(line.reason)
            told(line)
    except (OSError, ValueError, RecursionError) as error:
        raise _gone() from error
    finally:
        writer.close()
    raise _gone()


def _not_running() -> NotRunningError:
    return NotRunningError(
        "no client is running for this source; start it with: twinfold client SOURCE"
    )


def _gone() -> TwinfoldError:
    return TwinfoldError("the client ended before it had verified everything; start it again")


async def list_clients(state_dir: Path) -> list[Status]:
    """Return the status of every client of this user that is running."""
    found: list[Status] = []
    for place in places(state_dir):
        try:
            found.append(await ask_status(place))
        except NotRunningError:
            continue
    return found


async def _ask(place: ClientPlace, question: Question, timeout_s: float | None) -> Status:
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer, secret = await _connect(place)
            try:
                message = msgspec.structs.replace(question, secret=secret)
                writer.write(msgspec.json.encode(message) + b"\n")
                await writer.drain()
                answer = await reader.readline()
            finally:
                writer.close()
        return _decode(answer)
    except (OSError, ValueError, RecursionError, TimeoutError) as error:
        raise _not_running() from error


async def _connect(
    place: ClientPlace,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
    if place.control_port.exists():
        port = msgspec.json.decode(place.control_port.read_bytes(), type=_Port)
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port.port, limit=_MAX_LINE_BYTES
        )
        return reader, writer, port.secret
    if sys.platform != "win32" and _has_socket(place):
        path = place.control_socket
        reader, writer = await asyncio.open_unix_connection(path, limit=_MAX_LINE_BYTES)
        return reader, writer, ""
    raise FileNotFoundError(place.control_port)


def _has_socket(place: ClientPlace) -> bool:
    return len(os.fsencode(place.control_socket)) <= _MAX_SOCKET_PATH_BYTES


def _write_private(path: Path, message: msgspec.Struct) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(message))


def _encode(status: Status) -> bytes:
    return msgspec.json.encode(status)


def _decode(answer: bytes) -> Status:
    return msgspec.json.decode(answer, type=Status)
