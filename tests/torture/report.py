"""The report of a torture run as text."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence

import msgspec

from tests.torture.outcome import Failure, Outcome


class Ran(msgspec.Struct, frozen=True):
    """A part that has ended."""

    name: str
    took_s: float
    outcome: Outcome


def as_text(ran: Sequence[Ran], seed: int, took_s: float) -> str:
    """Return the report in Markdown: a table of figures, then every failure in full."""
    failures = [failure for part in ran for failure in part.outcome.failures]
    verdict = f"{len(failures)} promises broken" if failures else "green"
    lines = [
        f"# Torture: {verdict}",
        "",
        f"Seed {seed}, {took_s / 60:.1f} minutes, Python {platform.python_version()},"
        f" {platform.system()} {platform.release()}.",
        "",
        "| part | seconds | what was counted | count |",
        "|---|---|---|---|",
    ]
    for part in ran:
        rows = [*sorted(part.outcome.figures.items()), ("failures", len(part.outcome.failures))]
        lines += [f"| {part.name} | {part.took_s:.0f} | {what} | {n:,.10g} |" for what, n in rows]
    return "\n".join([*lines, *_told(failures)])


def _told(failures: Iterable[Failure]) -> Iterable[str]:
    for failure in failures:
        yield from ["", f"## {failure.case}", "", f"    {failure.replay}", ""]
        yield from (f"    {line}" for line in failure.told.splitlines())
