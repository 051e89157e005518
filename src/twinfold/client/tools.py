"""What a scan works with."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from twinfold.client.batch import BatchBuilder, Pending
from twinfold.client.files import FilePlanner
from twinfold.client.guard import Allowance
from twinfold.client.ignore import IgnoreRules
from twinfold.client.moves import MoveFinder
from twinfold.client.problems import Problems
from twinfold.client.state import State
from twinfold.client.tree import Directory


class Tools(msgspec.Struct, frozen=True):
    """The parts that a scan is given, all for this one scan or longer."""

    root: Directory
    state: State
    pending: Pending
    builder: BatchBuilder
    files: FilePlanner
    moves: MoveFinder
    problems: Problems
    ignore: IgnoreRules
    watch: Callable[[bytes, int | None], None]
    is_same_source: Callable[[], bool]
    stop: threading.Event
    allowance: Allowance = Allowance()
