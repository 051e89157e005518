"""What ``twinfold status`` shows."""

from __future__ import annotations

import os
from collections.abc import Sequence

from twinfold.client.events import Problem, Status
from twinfold.core.paths import display
from twinfold.screen.story import one_line
from twinfold.screen.text import count, cut_end, cut_middle, moment, size, width

HEADS = ("SOURCE", "SERVER", "ACTIVITY", "FILES", "SIZE", "IN SYNC AS OF", "PROBLEMS")
RIGHT = {3, 4, 6}
GAP = "  "
SHOWN_PROBLEMS = 20


def status_text(statuses: Sequence[Status], now_s: float, cells: int | None) -> str:
    """Return a table of clients and what each one could not synchronise.

    ``cells`` is the terminal's width; None where lines may be as long as they like.
    """
    rows = [HEADS, *(_row(status, now_s) for status in statuses)]
    widths = [max(width(row[column]) for row in rows) for column in range(len(HEADS))]
    if cells is not None:
        _narrow(widths, cells)
    lines = [_line(row, widths) for row in rows]
    for status in statuses:
        lines += _details(status, cells)
    return "\n".join(lines)


def _row(status: Status, now_s: float) -> tuple[str, ...]:
    at_s = status.in_sync_at
    return (
        display(os.fsencode(status.source)),
        one_line(status.server),
        status.activity,
        f"{status.files:,}",
        size(status.size_bytes),
        moment(at_s, now_s) if at_s is not None else "never",
        f"{len(status.problems):,}",
    )


def _narrow(widths: list[int], cells: int) -> None:
    """Take what is too much from the paths and addresses, the longer one first."""
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - cells
    while excess > 0:
        widest = 0 if widths[0] >= widths[1] else 1
        if widths[widest] <= 8:
            return
        widths[widest] -= 1
        excess -= 1


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    fields = []
    for column, (text, cells) in enumerate(zip(row, widths, strict=True)):
        cut = cut_middle(text, cells)
        space = " " * (cells - width(cut))
        fields.append(space + cut if column in RIGHT else cut + space)
    return GAP.join(fields).rstrip()


def _details(status: Status, cells: int | None) -> list[str]:
    lines = []
    source = display(os.fsencode(status.source))
    if status.detail:
        lines.append(f"{source}: {one_line(status.detail)}")
    lines += [f"{source}: {problem_text(problem)}" for problem in status.problems[:SHOWN_PROBLEMS]]
    if len(status.problems) > SHOWN_PROBLEMS:
        more = len(status.problems) - SHOWN_PROBLEMS
        lines.append(f"{source}: {count(more, 'more problem')}")
    return lines if cells is None else [cut_end(line, max(cells, 60)) for line in lines]


def wait_text(status: Status) -> str:
    """Return what ``twinfold wait`` says when it returns, a line for each problem included."""
    state = "in sync"
    if not status.in_sync:
        state = f"not in sync yet: {status.activity} {one_line(status.detail)}".rstrip()
    total = f"{state}, {count(status.files, 'file')}, {size(status.size_bytes)}"
    return "\n".join([total, *map(problem_text, status.problems)])


def problem_text(problem: Problem) -> str:
    """Return what could not be synchronised, and why, on one line."""
    return f"{display(problem.path) or '.'}: {one_line(problem.reason)}"


def released_text(status: Status) -> str:
    """Return what a person lets pass now."""
    if status.held_deletions:
        return f"letting {count(status.held_deletions, 'deletion')} pass, once"
    return f"taking what is there now for what is meant: {one_line(status.held)}"
