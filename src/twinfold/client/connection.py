"""The server's addresses, one function each; answers and failures become values and errors."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TypeVar

import aiohttp
import msgspec

from twinfold import protocol
from twinfold.config import ServerAddress
from twinfold.errors import (
    ConnectionLostError,
    ProtocolError,
    RefusedError,
    ServerBusyError,
    StaleEpochError,
    TwinfoldError,
)
from twinfold.model import Entry
from twinfold.protocol import (
    BatchAnswer,
    Difference,
    ErrorAnswer,
    Events,
    FrameKind,
    Hello,
    OpenSession,
    Progress,
    Session,
)

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 300.0
"""A commit may wait for the server's disk for this long."""

EVENTS_GRACE_S = 15.0
"""A server that is so much late in saying that nothing happened is taken to be away."""

_UNSENT_BYTES = 256 * 1024
"""The system takes no more than so much ahead of the network: else a slow one looks fast."""
_MAX_ANSWER_BYTES = protocol.MAX_BATCH_CHUNKS * 40
_FOLDER = f"/v1/folders/{protocol.FOLDER}"

_Message = TypeVar("_Message", bound=msgspec.Struct)


class UnknownBatchError(TwinfoldError):
    """The server does not know this batch any more: its header has to be sent again."""


class LostPlaceError(TwinfoldError):
    """The folder is not where this client believes it to be: it has to compare again.

    Attributes:
        avoid_bases: differences to earlier contents cannot be relied on.
    """

    def __init__(self, reason: str, avoid_bases: bool = False) -> None:
        super().__init__(reason)
        self.avoid_bases = avoid_bases


class DriftedError(LostPlaceError):
    """Something else changed the destination: what it lost has to be found and sent again."""


_BURST_S = 0.1
_LEAST_PIECE_BYTES = 256
_MOST_PIECE_BYTES = 64 * 1024


class RateLimit:
    """Lets so many bytes a second pass, exact over any few seconds; None lets all pass.

    What was missed because this process was woken late is made up for, up to `_BURST_S`.
    """

    def __init__(self, bytes_per_s: int | None) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at_s = 0.0

    @property
    def is_set(self) -> bool:
        """Whether there is a limit."""
        return self._bytes_per_s is not None

    @property
    def piece_bytes(self) -> int | None:
        """What is sent at once: so much that the limit is smooth, None without a limit."""
        if self._bytes_per_s is None:
            return None
        return min(_MOST_PIECE_BYTES, max(_LEAST_PIECE_BYTES, self._bytes_per_s // 100))

    async def take(self, size_bytes: int) -> None:
        """Wait until so many bytes may be sent."""
        if self._bytes_per_s is None:
            return
        now_s = time.monotonic()
        start_s = max(now_s - _BURST_S, self._free_at_s)
        self._free_at_s = start_s + size_bytes / self._bytes_per_s
        if start_s > now_s:
            await asyncio.sleep(start_s - now_s)


class Connection:
    """HTTP to one server. Never follows a redirect; raises `ConnectionLostError` and its like.

    Attributes:
        sent_bytes: request bodies sent so far.
    """

    def __init__(self, address: ServerAddress, limit: RateLimit) -> None:
        self._url = address.url
        self._limit = limit
        self._ssl: ssl.SSLContext | aiohttp.Fingerprint | bool = True
        if address.fingerprint is not None:
            self._ssl = aiohttp.Fingerprint(bytes.fromhex(address.fingerprint))
        self._token = address.token
        self._http: aiohttp.ClientSession | None = None
        self.sent_bytes = 0

    @property
    def url(self) -> str:
        """The server's address."""
        return self._url

    async def __aenter__(self) -> Connection:
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=ANSWER_TIMEOUT_S
        )
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=16, ssl=self._ssl, force_close=False, socket_factory=_socket
            ),
            headers={"Authorization": f"Bearer {self._token}"},
            skip_auto_headers=["Accept", "Accept-Encoding", "User-Agent"],
            timeout=timeout,
            auto_decompress=False,
            read_bufsize=1 << 20,
            trust_env=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._http is not None:
            await self._http.close()

    async def hello(self) -> Hello:
        """Ask who the server is.

        Raises:
            ConnectionLostError: it cannot be reached.
            RefusedError: it does not let this client in.
        """
        return await self._request("GET", "/v1/hello", Hello)

    async def open_session(self, message: OpenSession) -> Session:
        """Become the folder's writer."""
        return await self._request(
            "POST", f"{_FOLDER}/session", Session, protocol.encode(message), protocol.MESSAGE_TYPE
        )

    async def post_batch(
        self,
        epoch: int,
        number: int,
        body: bytes | AsyncIterator[bytes],
        size_bytes: int | None = None,
    ) -> BatchAnswer:
        """Send frames of a batch; where ``size_bytes`` tells how much that is, in one piece.

        Raises:
            UnknownBatchError, LostPlaceError, StaleEpochError: see there.
        """
        headers = {protocol.EPOCH_HEADER: str(epoch)}
        if size_bytes is not None:
            headers["Content-Length"] = str(size_bytes)
        return await self._request(
            "POST",
            f"{_FOLDER}/batches/{number}",
            BatchAnswer,
            body,
            protocol.FRAMES_TYPE,
            headers,
        )

    async def events(self, epoch: int, *, wait: bool = True) -> Events:
        """Return when there is nothing to say; with ``wait`` the server takes its time.

        Raises:
            DriftedError: something else changed the destination.
            StaleEpochError: another client took the folder over.
            ConnectionLostError: the server is away, or stops.
        """
        query = "" if wait else "?wait=0"
        timeout_s = protocol.EVENTS_WAIT_S + EVENTS_GRACE_S
        with _Failures(self._url):
            async with asyncio.timeout(timeout_s):
                return await self._request(
                    "GET",
                    f"{_FOLDER}/events{query}",
                    Events,
                    headers={protocol.EPOCH_HEADER: str(epoch)},
                )

    async def entries(self) -> AsyncIterator[list[Entry] | int]:
        """Yield the server's entries in groups, parents first, and at the end the revision.

        Raises:
            ConnectionLostError: the stream was cut; what was yielded is not usable.
        """
        with _Failures(self._url):
            async with self._client().get(
                f"{self._url}{_FOLDER}/entries", allow_redirects=False
            ) as response:
                async for kind, payload in _answered_frames(response):
                    if kind is FrameKind.END:
                        yield protocol.decode_revision(payload)
                        return
                    yield protocol.decode_entries(payload)

    async def verify(self, epoch: int) -> AsyncIterator[Progress | list[Difference]]:
        """Have the server read all of the destination again; yield what it tells until it is done.

        Raises:
            DriftedError, StaleEpochError: the session is over.
            ConnectionLostError: the server cannot be reached, or the stream was cut.
        """
        with _Failures(self._url):
            async with self._client().post(
                f"{self._url}{_FOLDER}/verify",
                headers={protocol.EPOCH_HEADER: str(epoch)},
                allow_redirects=False,
            ) as response:
                async for kind, payload in _answered_frames(response):
                    if kind is FrameKind.END:
                        return
                    if kind is FrameKind.PROGRESS:
                        yield protocol.decode(payload, Progress)
                    else:
                        yield protocol.decode(payload, list[Difference])

    async def _request(
        self,
        method: str,
        path: str,
        kind: type[_Message],
        body: bytes | AsyncIterator[bytes] | None = None,
        content_type: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> _Message:
        sent = dict(headers or {})
        if content_type:
            sent["Content-Type"] = content_type
        with _Failures(self._url):
            async with asyncio.timeout(ANSWER_TIMEOUT_S) as deadline:
                data: bytes | AsyncIterator[memoryview] | None = None
                if body is not None:
                    data = self._counted(body, deadline)
                if isinstance(body, bytes) and not self._limit.is_set:
                    data, self.sent_bytes = body, self.sent_bytes + len(body)
                async with self._client().request(
                    method, f"{self._url}{path}", data=data, headers=sent, allow_redirects=False
                ) as response:
                    answer = await response.content.read(_MAX_ANSWER_BYTES)
                    while not response.content.at_eof():
                        answer += await response.content.read(_MAX_ANSWER_BYTES)
                        if len(answer) > _MAX_ANSWER_BYTES:
                            break
            if response.status != 200:
                _raise_error(response.status, answer)
            return protocol.decode(answer, kind)

    async def _counted(
        self, body: bytes | AsyncIterator[bytes], deadline: asyncio.Timeout
    ) -> AsyncIterator[memoryview]:
        """Yield a body in pieces, each of which has to leave within the progress timeout.

        The system takes each at once: of what it leaves a copy would be made.
        """
        loop = asyncio.get_running_loop()
        is_limited = self._limit.is_set
        step = self._limit.piece_bytes or _UNSENT_BYTES
        async for part in _single(body) if isinstance(body, bytes) else body:
            view = memoryview(part)
            for start in range(0, len(view), step):
                piece = view[start : start + step]
                if is_limited:
                    deadline.reschedule(None)
                    await self._limit.take(len(piece))
                deadline.reschedule(loop.time() + protocol.PROGRESS_TIMEOUT_S)
                self.sent_bytes += len(piece)
                yield piece
        deadline.reschedule(loop.time() + ANSWER_TIMEOUT_S)

    def _client(self) -> aiohttp.ClientSession:
        if self._http is None:
            raise AssertionError("the connection is used outside of its block")
        return self._http


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol_number, *_ = address
    made = socket.socket(family, kind, protocol_number)
    option: int | None = getattr(socket, "TCP_NOTSENT_LOWAT", None)
    if option is not None:
        made.setsockopt(socket.IPPROTO_TCP, option, _UNSENT_BYTES)
    return made


async def _answered_frames(
    response: aiohttp.ClientResponse,
) -> AsyncIterator[tuple[FrameKind, bytes | memoryview]]:
    """Yield (kind, payload) of each frame that an answer consists of."""
    if response.status != 200:
        _raise_error(response.status, await response.content.read(_MAX_ANSWER_BYTES))
    content = response.content
    while True:
        head = protocol.parse_frame_head(await content.readexactly(protocol.FRAME_HEAD_BYTES))
        digest = await content.readexactly(head.head_bytes)
        packed = await content.readexactly(head.packed_bytes)
        protocol.check_frame(head, digest, packed)
        yield head.kind, protocol.unpack_payload(head, packed)


class _Failures:
    """Turns what can go wrong on the way into this project's errors."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, aiohttp.ServerFingerprintMismatch):
            raise RefusedError(
                "certificate",
                f"the server at {self._url} has another certificate than the invite says; "
                "use the invite that the server prints now",
            ) from error
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            raise RefusedError(
                "certificate",
                f"the certificate of {self._url} is not trusted; use the server's invite",
            ) from error
        if isinstance(error, ProtocolError) and not isinstance(error, _AnsweredError):
            raise ConnectionLostError(
                f"something that is not a twinfold server answers at {self._url}; check the"
                " address, and whether a proxy or a login page is in the way"
            ) from error
        if isinstance(error, TimeoutError):
            raise ConnectionLostError(f"the server at {self._url} does not answer") from error
        if isinstance(error, (aiohttp.ClientError, OSError, EOFError)):
            raise ConnectionLostError(
                f"the server at {self._url} cannot be reached ({_in_short(error)}); is it running,"
                " and is this the invite that it prints?"
            ) from error


class _AnsweredError(ProtocolError):
    """The server answered that a request was wrong."""


def _raise_error(status: int, body: bytes) -> None:
    try:
        answer = protocol.decode(body, ErrorAnswer)
    except ProtocolError as error:
        if status < 500:
            raise
        raise ServerBusyError(
            f"the server, or a proxy in front of it, fails with status {status}; what it prints"
            " says why"
        ) from error
    code, reason = answer.code, answer.reason
    if status == 409 and code == "unknown_batch":
        raise UnknownBatchError(reason)
    if status == 409 and code == "stale_epoch":
        raise StaleEpochError(reason)
    if code == "drift":
        raise DriftedError(reason)
    if code == "lost_place":
        raise LostPlaceError(reason)
    if status in (401, 409, 426):
        raise RefusedError(code, reason)
    if status in (408, 429) or status >= 500 or code == "damaged":
        raise ServerBusyError(reason)
    raise _AnsweredError(reason, status)


async def _single(body: bytes) -> AsyncIterator[bytes]:
    yield body


def _in_short(error: BaseException) -> str:
    cause = getattr(error, "os_error", error)
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return text.splitlines()[0]
