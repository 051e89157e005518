"""A server that lies, in front of one that does not, and a real client that is to survive it."""

from __future__ import annotations

import sys

assert sys.platform != "win32"

import asyncio
import contextlib
import io
import random
import re
import shutil
import threading
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from aiohttp import web
from blake3 import blake3

from tests.e2e.harness import LIMIT_S, Pair, Result
from tests.e2e.trees import snapshot
from tests.hostile.mutations import mutate_bytes, mutate_packed
from tests.torture.outcome import Failure
from twinfold import protocol
from twinfold.model import Chunk, Entry, ExtendUpload, Kind, PutFile
from twinfold.protocol import BatchAnswer, Codec, ErrorAnswer, FrameKind, decode, encode, pack_frame

MOST_ADDRESSES = "3000000"
"""KiB of addresses that a client may have: what is without bounds ends in an error."""

_MOST_LIES = 6
_ENDLESS_BYTES = 32 << 20


class Liar:
    """Passes requests on to a real server, and spoils the answers for as long as it may."""

    def __init__(self, seed: int, port: int) -> None:
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.lies_left = 0
        self.only = ""
        """The name of the one kind of lie that is told; any if it is empty."""
        self.forged = False
        """Something was acknowledged that the real server has not."""
        self.complaints: list[str] = []
        self.port = 0
        self._target = f"http://127.0.0.1:{port}"
        self._announced: dict[str, set[bytes]] = {}
        self._started = threading.Event()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._started.wait(LIMIT_S)

    def close(self) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(LIMIT_S)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = int(runner.addresses[0][1])
        async with aiohttp.ClientSession(auto_decompress=False) as self._http:
            self._started.set()
            await self._stop.wait()
            await runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self._judge(request, body)
        headers = {
            name: request.headers[name]
            for name in ("Authorization", protocol.EPOCH_HEADER)
            if name in request.headers
        }
        async with self._http.request(
            request.method, self._target + request.path_qs, data=io.BytesIO(body), headers=headers
        ) as answer:
            status, data = answer.status, await answer.read()
        # A client that runs once gives up at once if the very first requests fail.
        is_first = request.path.endswith(("/hello", "/session"))
        if self.lies_left <= 0 or self.random.random() < (0.9 if is_first else 0.4):
            return web.Response(status=status, body=data)
        kinds = [lie for lie in _LIES if self.only in ("", lie[0])]
        fitting = [lie for lie in kinds if lie[2] in request.path]
        if not fitting:
            return web.Response(status=status, body=data)
        self.lies_left -= 1
        name, lie, _ = self.random.choice(fitting)
        self.counts[f"hostile answers: {name}"] += 1
        return await lie(self, request, status, data)

    def _judge(self, request: web.Request, body: bytes) -> None:
        """Complain of content that was sent and was not announced in its batch's header."""
        place = f"{request.headers.get(protocol.EPOCH_HEADER)} {request.path}"
        at, size = 0, protocol.FRAME_HEAD_BYTES
        while "/batches/" in request.path and at + size <= len(body):
            head = protocol.parse_frame_head(body[at : at + size])
            end = at + size + head.head_bytes
            payload = protocol.unpack_payload(head, body[end : end + head.packed_bytes])
            if head.kind is FrameKind.BATCH:
                changes = decode(payload, protocol.Batch).changes
                self._announced.setdefault(place, set()).update(
                    chunk.id for change in changes for chunk in _chunks(change)
                )
            else:
                offset = 0
                for chunk in protocol.decode_chunk_list(body[at + size : end], head.size_bytes):
                    piece = bytes(payload[offset : offset + chunk.size])
                    offset += chunk.size
                    if blake3(piece).digest() != chunk.id:
                        self.complaints.append("content under the hash of another")
                    if chunk.id not in self._announced.get(place, set()):
                        self.complaints.append("content that its batch did not announce")
            at = end + head.packed_bytes
        self.counts["requests of the client judged"] += 1

    async def status(self, _request: web.Request, _status: int, _data: bytes) -> web.StreamResponse:
        status = self.random.choice(
            [201, 204, 301, 302, 400, 403, 404, 408, 418, 429, 500, 502, 503]
        )
        headers = {"Location": "/v1/hello"} if status in (301, 302) else {}
        body = self.random.choice([b"", b"<html>no</html>", encode(ErrorAnswer("failing", "no"))])
        return web.Response(status=status, body=body if status != 204 else b"", headers=headers)

    async def refused(
        self, _request: web.Request, _status: int, _data: bytes
    ) -> web.StreamResponse:
        codes = [
            "owned",
            "copied",
            "stale_epoch",
            "unknown_batch",
            "lost_place",
            "drift",
            "token",
            "x",
        ]
        status = self.random.choice([401, 409, 409, 409, 413, 426])
        reason = self.random.choice(["no", "", "two\nlines", "\x1b[2J"])
        return web.Response(
            status=status, body=encode(ErrorAnswer(self.random.choice(codes), reason))
        )

    async def spoilt(self, _request: web.Request, status: int, data: bytes) -> web.StreamResponse:
        self.forged = True
        spoil = self.random.choice([mutate_bytes, mutate_packed])
        return web.Response(status=status, body=spoil(self.random, data, [data]))

    async def missing(
        self, _request: web.Request, _status: int, _data: bytes
    ) -> web.StreamResponse:
        """Ask for chunks that were never offered, or of other batches."""
        others = [one for known in self._announced.values() for one in known]
        wanted = [self.random.randbytes(32), *self.random.sample(others, min(3, len(others)))]
        return web.Response(body=encode(BatchAnswer(missing=wanted)))

    async def bases(self, _request: web.Request, _status: int, _data: bytes) -> web.StreamResponse:
        return web.Response(body=encode(BatchAnswer(unknown_bases=[bytes(32)])))

    async def refusals(
        self, _request: web.Request, _status: int, _data: bytes
    ) -> web.StreamResponse:
        """Acknowledge with a wrong revision, and with refusals of changes that never were."""
        self.forged = True
        index = self.random.choice([0, 1, 1 << 40, -1])
        revision = self.random.choice([0, -1, 1 << 62, (1 << 64) - 1, 5])
        refusal = protocol.Refusal(index, "no\nroom", self.random.random() < 0.5, b"../x")
        return web.Response(body=encode(BatchAnswer(revision, [], [], [refusal])))

    async def entries(
        self, _request: web.Request, _status: int, _data: bytes
    ) -> web.StreamResponse:
        """Entries with paths that lead out, times and sizes beyond reason, without parents."""
        self.forged = True
        path = self.random.choice(
            [b"../x", b"/x", b"no/parent", b".twinfold", b"a\0", b"fine", b""]
        )
        number = self.random.choice([0, -1, (1 << 63) - 1, (1 << 64) - 1])
        kind = self.random.choice(list(Kind))
        entry = Entry(path, kind, number, number, number, b"c" * 32, b"t")
        frames = pack_frame(FrameKind.ENTRIES, b"", [encode([entry, entry])], 1)
        return web.Response(body=frames + pack_frame(FrameKind.END, b"", [encode(number)], None))

    async def frames(self, _request: web.Request, _status: int, _data: bytes) -> web.StreamResponse:
        """Frames that announce too much, that are of other kinds, or that never end."""
        bomb = pack_frame(FrameKind.ENTRIES, b"", [bytes(8 << 20)], 3)
        huge = protocol._FRAME.pack(FrameKind.ENTRIES, Codec.ZSTD, 0, 1 << 30, (1 << 32) - 1)
        other = pack_frame(FrameKind.CHUNKS, b"", [b"x"], None) * 50
        return web.Response(body=self.random.choice([bomb, huge, other]))

    async def endless(self, request: web.Request, _status: int, _data: bytes) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for _ in range(_ENDLESS_BYTES >> 20):
                await response.write(self.random.choice([b"\x91", b"x"]) * (1 << 20))
        return response

    async def cut(self, request: web.Request, status: int, data: bytes) -> web.StreamResponse:
        """Close at any byte of the answer."""
        head = f"HTTP/1.1 {status} OK\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        whole = head + data
        transport = request.transport
        if transport is not None:
            transport.write(whole[: self.random.randrange(len(whole))])
            transport.close()
        return web.Response()

    async def length(self, request: web.Request, _status: int, data: bytes) -> web.StreamResponse:
        """Announce an answer of a terabyte, or nonsense in place of HTTP."""
        lines = self.random.choice(
            [
                b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                b"SSH-2.0-Server\r\n",
                b"HTTP/1.1 99999 \xff\r\n\r\n",
            ]
        )
        if request.transport is not None:
            request.transport.write(lines + data)
            request.transport.close()
        return web.Response()


def _chunks(change: object) -> list[Chunk]:
    if isinstance(change, PutFile):
        return change.chunks
    if isinstance(change, ExtendUpload):
        return [chunk for run in change.runs for chunk in run.chunks]
    return []


_Lie = Callable[[Liar, web.Request, int, bytes], Awaitable[web.StreamResponse]]
_LIES: list[tuple[str, _Lie, str]] = [
    ("status", Liar.status, ""),
    ("refused", Liar.refused, ""),
    ("spoilt", Liar.spoilt, ""),
    ("endless", Liar.endless, ""),
    ("cut", Liar.cut, ""),
    ("lengths", Liar.length, ""),
    ("missing chunks that were not offered", Liar.missing, "/batches/"),
    ("missing chunks that were not offered", Liar.missing, "/batches/"),
    ("unknown bases", Liar.bases, "/batches/"),
    ("refusals and revisions", Liar.refusals, "/batches/"),
    ("refusals and revisions", Liar.refusals, "/batches/"),
    ("strange entries", Liar.entries, "/entries"),
    ("strange entries", Liar.entries, "/entries"),
    ("strange entries", Liar.entries, "/entries"),
    ("strange frames", Liar.frames, "/entries"),
]
"""What it is called, how it is done, and which addresses it is for."""


def mislead(
    seed: int, seconds: float, base: Path, rounds: int = 50, only: str = ""
) -> tuple[Counter[str], list[Failure]]:
    """Have clients sync with a server that lies, then with the same one when it is honest."""
    pair = Pair(base)
    pair.client_prefix = ["sh", "-c", f'ulimit -v {MOST_ADDRESSES}; exec "$@"', "sh"]
    pair.start_server()
    honest = pair.invite
    liar = Liar(seed, pair.port)
    liar.only = only
    pair.invite = re.sub(r":\d+$", f":{liar.port}", honest)
    until_s = time.monotonic() + seconds
    done = 0
    try:
        while done < rounds and (not done or time.monotonic() < until_s):
            done += 1
            _round(liar, pair)
        pair.server.terminate()
        pair.close()
    except Exception:  # noqa: BLE001 - a failure is reported with its seed
        replay = f"python -m tests.hostile.servers {seed} {done}"
        told = f"{traceback.format_exc()}\n{dict(liar.counts)}"
        return liar.counts, [Failure(f"hostile server, seed {seed}, round {done}", replay, told)]
    finally:
        if pair.server.alive:
            pair.server.kill()
        liar.close()
    return liar.counts, []


def _round(liar: Liar, pair: Pair) -> None:
    random_, source = liar.random, pair.source
    for _ in range(random_.choice([1, 5, 30])):
        folder = source / f"folder-{random_.randrange(3)}"
        folder.mkdir(exist_ok=True)
        size = random_.choice([0, 10, 1_000, 400_000])
        (folder / f"file-{random_.randrange(20)}").write_bytes(random_.randbytes(size))
    before = snapshot(source)
    if random_.random() < 0.4:
        # A client without its state compares first.
        shutil.rmtree(pair.client_state, ignore_errors=True)
    liar.forged, liar.lies_left = False, random_.randint(1, _MOST_LIES)
    _judge_result(pair.once(), liar, pair)
    liar.lies_left = 0
    result = pair.once()
    assert result.code == 0, f"it does not go on with an honest server: {result}"
    pair.assert_equal()
    assert snapshot(source) == before, "the source was changed"
    assert not liar.complaints, liar.complaints


def _judge_result(result: Result, liar: Liar, pair: Pair) -> None:
    liar.counts[f"clients that ended with {result.code}"] += 1
    assert result.code in (0, 1, 3), result
    assert "Traceback" not in result.err, result.err
    if result.code == 1:
        assert len(result.err.splitlines()) == 1, result
    if result.code == 0 and not liar.forged:
        pair.assert_equal()


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        counted, failures = mislead(int(sys.argv[1]), 3600, Path(folder) / "pair", int(sys.argv[2]))
    print(dict(counted))
    for failure in failures:
        print(failure.told)
    sys.exit(bool(failures))
