"""Who may call: whoever has the token. All others get little of the server's time and memory.

A connection is a *stranger* until a request on it has shown the token. There are only so many
strangers at once: for a new one the oldest has to go.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import sys
import time
from collections.abc import Callable

from aiohttp import http_exceptions, web

from twinfold.core.wrong_tokens import WrongTokens

MOST_STRANGERS = 256
STRANGERS_PART = 4
"""Strangers get no more than a quarter of the descriptors that this process may have."""

MOST_WAITING = 32
"""Answers to wrong tokens that may wait at once; beyond it they are told to come back."""

IDLE_TIMEOUT_S = 60.0
"""A connection without a whole request for this long is closed."""

_THEIRS = (http_exceptions.HttpProcessingError, web.RequestPayloadError, ConnectionResetError)

_CUT_OFF = "Connection closed."
"""The text of the RuntimeError that aiohttp has for a body whose connection was closed here."""

MAX_HEADERS = 32
MAX_HEADER_BYTES = 4_096


class Admission:
    """Compares tokens, and keeps strangers few."""

    def __init__(self, token: str) -> None:
        self._authorization = f"Bearer {token}".encode()
        self._wrong = WrongTokens()
        self._waiting = 0
        self._closing = asyncio.Event()
        self._strangers: dict[web.RequestHandler, None] = {}
        self._most_descriptors = _most_descriptors()

    @property
    def _most_strangers(self) -> int:
        return min(MOST_STRANGERS, self._most_descriptors)

    @property
    def backlog(self) -> int:
        """How many connections may be waiting, and be accepted at once.

        Those that have to go for them are closed only after all of them were accepted.
        """
        return max(1, self._most_strangers // 4)

    def meet(self, make: Callable[[], web.RequestHandler]) -> web.RequestHandler:
        """Return the handler of a new connection: a stranger."""
        handler = make()
        self._strangers[handler] = None
        if len(self._strangers) > self._most_strangers:
            oldest = next(iter(self._strangers))
            del self._strangers[oldest]
            # Without a transport it has ended, or is still in its handshake, which has a limit
            # of its own; closed before its start it would never be closed.
            if oldest.transport is not None:
                oldest.force_close()
        return handler

    async def refusal(self, request: web.Request) -> tuple[int, str, str] | None:
        """Return (status, code, reason) for a request without the token, late if there are many.

        None, and at once, if it has the token.
        """
        given = request.headers.get("Authorization", "").encode("utf-8", "replace")
        if hmac.compare_digest(given, self._authorization):
            self._strangers.pop(request.protocol, None)
            return None
        delay_s = self._wrong.note(request.remote or "", time.monotonic())
        if delay_s and self._waiting >= MOST_WAITING:
            return 429, "token", "too many wrong tokens; come back later, with the right one"
        self._waiting += 1
        try:
            async with asyncio.timeout(delay_s):
                await self._closing.wait()
        except TimeoutError:
            pass
        finally:
            self._waiting -= 1
        return 401, "token", "the token is missing, wrong or revoked; use the server's invite"

    def close(self) -> None:
        """Let no answer wait any longer."""
        self._closing.set()


def _most_descriptors() -> int:
    """Return how many descriptors strangers may have, whatever their number."""
    if sys.platform == "win32":
        return sys.maxsize
    import resource

    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(1, descriptors // STRANGERS_PART)


def quiet_logger() -> logging.Logger:
    """Return a logger that shows our own errors, not what others send or break off."""
    logger = logging.getLogger("twinfold.server")
    logger.addFilter(_is_ours)
    return logger


def _is_ours(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, _THEIRS) and str(error) != _CUT_OFF
