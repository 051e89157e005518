"""How a run ended."""

from __future__ import annotations

import msgspec


class Result(msgspec.Struct):
    """A run of one seed.

    Attributes:
        seed: decided everything.
        digest: of all that happened.
        failure: the promise that was broken, None if all were kept.
        trace: what happened, if it was to be kept.
        counts: what there was of each kind.
    """

    seed: int
    digest: str = ""
    failure: str | None = None
    trace: list[str] = []
    counts: dict[str, int] = {}
