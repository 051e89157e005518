"""The server's addresses: what they take, what errors answer."""

from __future__ import annotations

import asyncio
import importlib.metadata
from collections.abc import Awaitable, Callable, Iterator

import msgspec
from aiohttp import web

from twinfold import protocol
from twinfold.errors import (
    DestinationError,
    DestinationFullError,
    LostPlaceError,
    ProtocolError,
    RefusedError,
)
from twinfold.model import Entry
from twinfold.protocol import ErrorAnswer, FrameKind, Hello, OpenSession
from twinfold.server.admission import (
    IDLE_TIMEOUT_S,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    Admission,
    quiet_logger,
)
from twinfold.server.body import frames, read_message
from twinfold.server.lack import advice, is_full
from twinfold.server.pending import OutOfOrderError
from twinfold.server.receive import Receiver, check_number
from twinfold.storage.interface import Index

_ENTRIES_LEVEL = 1
_READ_BUFFER_BYTES = 1 << 20

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Routes:
    """Handlers over one folder."""

    def __init__(self, receiver: Receiver, index: Index, server_id: bytes, token: str) -> None:
        self._receiver = receiver
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
                "logger": quiet_logger(),
                "keepalive_timeout": IDLE_TIMEOUT_S,
                "max_headers": MAX_HEADERS,
                "max_line_size": MAX_HEADER_BYTES,
                "max_field_size": MAX_HEADER_BYTES,
            },
        )
        folder = f"/v1/folders/{protocol.FOLDER}"
        application.router.add_get("/v1/hello", self._hello)
        application.router.add_post(f"{folder}/session", self._open_session)
        application.router.add_post(f"{folder}/batches/{{number}}", self._batch)
        application.router.add_get(f"{folder}/entries", self._entries)
        return application

    @web.middleware
    async def _answer_errors(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        try:
            refusal = await self.admission.refusal(request)
            return _error(*refusal) if refusal else await handler(request)
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
        epoch = request.headers.get(protocol.EPOCH_HEADER, "")
        if not epoch.isdecimal() or len(epoch) > 18:
            raise ProtocolError("a batch needs the epoch of its session")
        number = check_number(request.match_info["number"])
        answer = await self._receiver.receive(int(epoch), number, frames(request.content))
        return _answer(answer)

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


async def _write(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Send a part of an answer; a client that does not take it is cut off."""
    try:
        async with asyncio.timeout(protocol.PROGRESS_TIMEOUT_S):
            await response.write(data)
    except TimeoutError as error:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client takes nothing") from error


def _next(groups: Iterator[list[Entry]]) -> list[Entry] | None:
    return next(groups, None)


def _code(error: ProtocolError) -> str:
    if isinstance(error, LostPlaceError):
        return "lost_place"
    if isinstance(error, OutOfOrderError):
        return "unknown_batch"
    return "malformed"


def _answer(message: msgspec.Struct) -> web.Response:
    return web.Response(body=protocol.encode(message), content_type=protocol.MESSAGE_TYPE)


def _error(status: int, code: str, reason: str) -> web.Response:
    return web.Response(
        status=status,
        body=protocol.encode(ErrorAnswer(code, reason)),
        content_type=protocol.MESSAGE_TYPE,
    )
