"""What is counted stays within its bounds; `python -m tests.counting` shows all of it."""

from __future__ import annotations

import shutil
import sys

assert sys.platform != "win32"

from pathlib import Path

import pytest

from tests.counting.measures import measured

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="strace and LD_PRELOAD are Linux's"),
    pytest.mark.skipif(not (shutil.which("strace") and shutil.which("cc")), reason="no strace, cc"),
]


def test_nothing_costs_more_than_it_may(tmp_path: Path) -> None:
    """Calls, statements, copies and round trips: counted, so that no load makes them more."""
    over = [str(measure) for measure in measured(tmp_path) if measure.is_over]
    assert over == []
