"""The planted faults fit the source as it is now; `make planted` plants them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.planted.fault import SOURCES, Edit, Fault, PlantingError, plant, uproot
from tests.planted.faults import FAULTS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_fault_fits_the_source(fault: Fault) -> None:
    """Each text that is to be replaced is there exactly once, and its tests exist."""
    for edit in fault.edits:
        text = (ROOT / SOURCES / edit.file).read_text("utf-8")
        count = text.count(edit.before)
        assert count == 1, edit
        assert edit.before != edit.after
        compile(text.replace(edit.before, edit.after), edit.file, "exec", dont_inherit=True)
    for test in (*fault.tests, *fault.also):
        file, _, name = test.partition("::")
        found = (ROOT / file).read_text("utf-8")
        assert f"def {name.partition('[')[0]}(" in found or not name, test


def test_names_are_given_once() -> None:
    """`--only` means one fault."""
    names = [fault.name for fault in FAULTS]
    assert len(names) == len(set(names))


def test_only_an_exact_text_is_replaced(tmp_path: Path) -> None:
    """A fault whose text is missing, or there twice, is an error; an undone one leaves nothing."""
    original, copy = tmp_path / "original", tmp_path / "copy"
    for root in (original, copy):
        (root / SOURCES).mkdir(parents=True)
        (root / SOURCES / "a.py").write_text("x = 1\ny = 1\n")
    for before in ("= 1", "= 2"):
        with pytest.raises(PlantingError):
            plant(Fault("f", "1", (Edit("a.py", before, "= 3"),), ()), copy)
    fault = Fault("f", "1", (Edit("a.py", "x = 1", "x = 3"), Edit("a.py", "y = 1", "y = 4")), ())
    plant(fault, copy)
    assert (copy / SOURCES / "a.py").read_text() == "x = 3\ny = 4\n"
    uproot(fault, copy, original)
    assert (copy / SOURCES / "a.py").read_text() == "x = 1\ny = 1\n"
