"""What a part of the torture run gives back."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec


class Failure(msgspec.Struct, frozen=True):
    """A promise that was broken.

    Attributes:
        case: what was done, in one line, the seed included.
        replay: the command that does it again.
        told: what was seen, as text of any length.
    """

    case: str
    replay: str
    told: str


class Outcome(msgspec.Struct):
    """What a part did and what it found.

    Attributes:
        figures: counts to publish, by what was counted ("runs", "kills", "kills by call/rename").
        failures: every promise that was broken; none means that the part is green.
    """

    figures: dict[str, float]
    failures: list[Failure]


class Part(Protocol):
    """A module of the tests that can go on breaking things for as long as it is given.

    ``SHARE`` is its share of the time, among those of all parts; one that is None runs beside
    the others for the whole time.
    """

    SHARE: float | None

    def run(self, seed: int, seconds: float, work: Path) -> Outcome:
        """Work for about so many seconds; the same seed begins with the same cases.

        Args:
            seed: decides everything that is chosen at random.
            seconds: begin nothing new after that time; ten of them suffice for one case.
            work: an empty folder of its own; whatever is left there is removed by the caller.
        """
