"""Speaks the protocol by hand, also where a real client never would."""

from __future__ import annotations

import http.client
from collections.abc import Sequence
from typing import NamedTuple

from blake3 import blake3

from twinfold.core.manifest import content_id
from twinfold.model import Change, Chunk, PutFile, Recipe
from twinfold.protocol import (
    EPOCH_HEADER,
    FOLDER,
    PROTOCOL_VERSIONS,
    Batch,
    BatchAnswer,
    ErrorAnswer,
    FrameKind,
    OpenSession,
    Session,
    decode,
    encode,
    pack_frame,
)


class Answer(NamedTuple):
    """What the server said."""

    status: int
    body: bytes

    @property
    def error(self) -> ErrorAnswer:
        """The reason of a refusal."""
        return decode(self.body, ErrorAnswer)


class Wire:
    """One connection after the other to a server, with a token, from an address."""

    def __init__(self, port: int, token: str | None, source: str = "127.0.0.1") -> None:
        self._port = port
        self._token = token
        self._source = source
        self.epoch = 0

    def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Answer:
        """Make one request on a new connection."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self._port, timeout=60, source_address=(self._source, 0)
        )
        try:
            connection.request(method, path, body, self._headers() | (headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, answer.read())
        finally:
            connection.close()

    def _headers(self) -> dict[str, str]:
        headers = {EPOCH_HEADER: str(self.epoch)}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        return headers

    def open_session(self, client: bytes = b"c" * 16, instance: bytes = b"i" * 16) -> Answer:
        """Become the folder's writer."""
        message = OpenSession(PROTOCOL_VERSIONS[-1], client, instance, "a test", take_over=True)
        answer = self.request("POST", f"/v1/folders/{FOLDER}/session", encode(message))
        if answer.status == 200:
            self.epoch = decode(answer.body, Session).epoch
        return answer

    def post(self, number: int, body: bytes) -> Answer:
        """Post frames under a batch number."""
        return self.request("POST", f"/v1/folders/{FOLDER}/batches/{number}", body)

    def post_batch(
        self, number: int, changes: Sequence[Change], contents: Sequence[bytes] = ()
    ) -> Answer:
        """Post a batch with the content of its chunks."""
        body = batch_frame(changes) + (chunks_frame(contents) if contents else b"")
        return self.post(number, body)

    def commit(
        self, number: int, changes: Sequence[Change], contents: Sequence[bytes] = ()
    ) -> BatchAnswer:
        """Post a batch that must be committed."""
        answer = self.post_batch(number, changes, contents)
        assert answer.status == 200, (answer.status, answer.body)
        decoded = decode(answer.body, BatchAnswer)
        assert decoded.revision is not None, decoded
        return decoded


def chunk(data: bytes) -> Chunk:
    """Return the chunk that these bytes are."""
    return Chunk(blake3(data).digest(), len(data))


def put(path: bytes, data: bytes, mode: int = 0o644) -> PutFile:
    """Return the change that makes a file of one chunk."""
    chunks = [chunk(data)]
    return PutFile(path, mode, 1_000_000_000, len(data), content_id(chunks), chunks)


def batch_frame(changes: Sequence[Change], level: int | None = None) -> bytes:
    """Return the frame that opens a batch."""
    return pack_frame(FrameKind.BATCH, b"", [encode(Batch(list(changes)))], level)


def chunks_frame(contents: Sequence[bytes], announced: Sequence[Chunk] | None = None) -> bytes:
    """Return a frame of chunks; ``announced`` may lie about them."""
    head = encode(announced or [chunk(data) for data in contents])
    return pack_frame(FrameKind.CHUNKS, head, contents, None)


def recipes_frame(recipes: Sequence[Recipe]) -> bytes:
    """Return a frame of recipes."""
    return pack_frame(FrameKind.RECIPES, b"", [encode(recipes)], None)
