"""The server's addresses: what they take, what errors answer."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections import deque
from collections.abc import Awaitable, Callable, Iterator

import msgspec
from aiohttp import web

from twinfold import protocol
from twinfold.errors import (
    ContentMismatchError,
    DestinationError,
    DestinationFullError,
    DriftError,
    LostPlaceError,
    ProtocolError,
    RefusedError,
)
from twinfold.model import Entry
from twinfold.protocol import (
    Difference,
    ErrorAnswer,
    Events,
    FrameKind,
    Hello,
    OpenSession,
    Progress,
)
from twinfold.server.admission import (
    IDLE_TIMEOUT_S,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    Admission,
    quiet_logger,
)
from twinfold.server.body import frames, read_message
from twinfold.server.drift import DriftChecker, StoppedError
from twinfold.server.lack import advice, is_full
from twinfold.server.pending import OutOfOrderError
from twinfold.server.receive import Receiver, check_number
from twinfold.storage.interface import Index

_ENTRIES_LEVEL = 1
_PROGRESS_EVERY_S = 0.5
_DIFFERENCES_A_FRAME = 100
_READ_BUFFER_BYTES = 1 << 20

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Routes:
    """Handlers over one folder."""

    def __init__(
        self, receiver: Receiver, drift: DriftChecker, index: Index, server_id: bytes, token: str
    ) -> None:
        self._receiver = receiver
        self._drift = drift
        self._index = index
        self._server_id = server_id
        self.admission = Admission(token)

    def application(self) -> web.Application:
        """Return the web application."""
        application = web.Application(
            middlewares=[self._answer_errors],
            client_max_size=protocol.MAX_MESSAGE_BYTES,
            handler_args={
                "read_bufsize": _READ_BUFFER_BYTES,
                "access_log": None,
                "auto_decompress": False,
                "logger": quiet_logger(),
                "keepalive_timeout": IDLE_TIMEOUT_S,
                "max_headers": MAX_HEADERS,
                "max_line_size": MAX_HEADER_BYTES,
                "max_field_size": MAX_HEADER_BYTES,
            },
        )
        application.on_response_prepare.append(_without_needless_headers)
        folder = f"/v1/folders/{protocol.FOLDER}"
        application.router.add_get("/v1/hello", self._hello)
        application.router.add_post(f"{folder}/session", self._open_session)
        application.router.add_post(f"{folder}/batches/{{number}}", self._batch)
        application.router.add_get(f"{folder}/entries", self._entries)
        application.router.add_get(f"{folder}/events", self._events)
        application.router.add_post(f"{folder}/verify", self._verify)
        return application

    @web.middleware
    async def _answer_errors(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            refusal = await self.admission.refusal(request)
            return _error(*refusal) if refusal else await handler(request)
        except web.RequestPayloadError:
            return _error(400, "malformed", "the body is not well formed")
        except RefusedError as error:
            return _error(409, error.code, str(error))
        except ProtocolError as error:
            return _error(error.status, _code(error), str(error))
        except DestinationFullError as error:
            return _error(507, "full", str(error))
        except OSError as error:
            if is_full(error):
                return _error(507, "full", advice(error))
            return _error(500, "failing", advice(error))
        except DestinationError as error:
            return _error(503, "failing", str(error))

    async def _hello(self, _request: web.Request) -> web.Response:
        return _answer(
            Hello(
                f"twinfold {importlib.metadata.version('twinfold')}",
                list(protocol.PROTOCOL_VERSIONS),
                self._server_id,
            )
        )

    async def _open_session(self, request: web.Request) -> web.Response:
        message = protocol.decode(await read_message(request), OpenSession)
        if message.protocol not in protocol.PROTOCOL_VERSIONS:
            ours = max(protocol.PROTOCOL_VERSIONS)
            older = "client" if message.protocol < ours else "server"
            return _error(426, "version", f"no protocol version in common; update the {older}")
        return _answer(await self._receiver.open_session(message, request.remote or ""))

    async def _batch(self, request: web.Request) -> web.Response:
        number = check_number(request.match_info["number"])
        answer = await self._receiver.receive(_epoch(request), number, frames(request.content))
        return _answer(answer)

    async def _events(self, request: web.Request) -> web.Response:
        wait_s = 0.0 if request.query.get("wait") == "0" else protocol.EVENTS_WAIT_S
        return _answer(Events(await self._receiver.watch(_epoch(request), wait_s)))

    async def _verify(self, request: web.Request) -> web.StreamResponse:
        await self._receiver.watch(_epoch(request), 0)
        response = web.StreamResponse(headers={"Content-Type": protocol.FRAMES_TYPE})
        await response.prepare(request)
        reading = Reading()
        checking = asyncio.create_task(self._drift.check(deep=True, report=reading.note))
        try:
            while not checking.done():
                await asyncio.wait([checking], timeout=_PROGRESS_EVERY_S)
                await _write(request, response, reading.frames())
        finally:
            reading.is_wanted = False
            await checking
        end = protocol.encode(self._index.session().revision)
        await _write(request, response, protocol.pack_frame(FrameKind.END, b"", [end], None))
        return response

    async def _entries(self, request: web.Request) -> web.StreamResponse:
        await self._receiver.settle()
        response = web.StreamResponse(headers={"Content-Type": protocol.FRAMES_TYPE})
        await response.prepare(request)
        revision = self._index.session().revision
        groups = self._index.entries()
        while (group := await asyncio.to_thread(_next, groups)) is not None:
            payload = protocol.encode(group)
            frame = protocol.pack_frame(FrameKind.ENTRIES, b"", [payload], _ENTRIES_LEVEL)
            await _write(request, response, frame)
        end = protocol.pack_frame(FrameKind.END, b"", [protocol.encode(revision)], None)
        await _write(request, response, end)
        return response


async def _without_needless_headers(_request: web.Request, response: web.StreamResponse) -> None:
    """Leave out what is half of a short answer."""
    for name in ("Date", "Server"):
        response.headers.pop(name, None)


async def _write(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Send a part of an answer; a client that does not take it is cut off."""
    try:
        async with asyncio.timeout(protocol.PROGRESS_TIMEOUT_S):
            await response.write(data)
    except TimeoutError as error:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client takes nothing") from error


class Reading:
    """What a check has told and the client has not been told yet; any thread may `note`."""

    def __init__(self) -> None:
        self.is_wanted = True
        self._progress = Progress(0, 0)
        self._differences: deque[Difference] = deque()

    def note(self, told: Progress | Difference) -> None:
        """Be a check's report.

        Raises:
            StoppedError: the client has gone.
        """
        if not self.is_wanted:
            raise StoppedError
        if isinstance(told, Progress):
            self._progress = told
        else:
            self._differences.append(told)

    def frames(self) -> bytes:
        """Return the frames for what was told since."""
        frames = [_frame(FrameKind.PROGRESS, self._progress)]
        while self._differences:
            count = min(len(self._differences), _DIFFERENCES_A_FRAME)
            group = [self._differences.popleft() for _ in range(count)]
            frames.append(_frame(FrameKind.DIFFERENCES, group))
        return b"".join(frames)


def _frame(kind: FrameKind, message: msgspec.Struct | list[Difference]) -> bytes:
    return protocol.pack_frame(kind, b"", [protocol.encode(message)], _ENTRIES_LEVEL)


def _epoch(request: web.Request) -> int:
    epoch = request.headers.get(protocol.EPOCH_HEADER, "")
    if not epoch.isdecimal() or len(epoch) > 18:
        raise ProtocolError("the request needs the epoch of its session")
    return int(epoch)


def _next(groups: Iterator[list[Entry]]) -> list[Entry] | None:
    return next(groups, None)


def _code(error: ProtocolError) -> str:
    if isinstance(error, DriftError):
        return "drift"
    if isinstance(error, LostPlaceError):
        return "lost_place"
    if isinstance(error, OutOfOrderError):
        return "unknown_batch"
    if isinstance(error, ContentMismatchError):
        return "damaged"
    return "malformed"


def _answer(message: msgspec.Struct) -> web.Response:
    return web.Response(body=protocol.encode(message), content_type=protocol.MESSAGE_TYPE)


def _error(status: int, code: str, reason: str) -> web.Response:
    return web.Response(
        status=status,
        body=protocol.encode(ErrorAnswer(code, reason)),
        content_type=protocol.MESSAGE_TYPE,
    )
