"""One fault that can be planted into the program, and the tests that have to notice it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

SOURCES = Path("src") / "twinfold"


class Edit(NamedTuple):
    """A piece of a source file, below `SOURCES`, and what is put in its place."""

    file: str
    before: str
    after: str


class Fault(NamedTuple):
    """A promise that the program does not keep any more once the edits are made.

    Attributes:
        name: how it is called on the command line and in the table.
        promise: the number of the promise in docs/guarantees.md that it breaks.
        edits: what is changed; each text occurs exactly once in its file.
        tests: what pytest is to run; at least one of it has to fail.
        also: further tests, each of which has to notice the fault on its own.
        hangs: a run that does not end in time counts as noticed, too.
    """

    name: str
    promise: str
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]
    also: tuple[str, ...] = ()
    hangs: bool = False

    @property
    def selections(self) -> list[tuple[str, ...]]:
        """What pytest is to run one after the other; each of them has to fail."""
        return [self.tests, *((test,) for test in self.also)]


class PlantingError(Exception):
    """A text to be replaced is not there exactly once: the code has moved on."""


def plant(fault: Fault, root: Path) -> None:
    """Make the edits of a fault in a copy of the repository.

    Raises:
        PlantingError: a text is missing, or there more than once; nothing was changed.
    """
    texts: dict[Path, str] = {}
    for edit in fault.edits:
        path = root / SOURCES / edit.file
        text = texts.get(path) or path.read_text("utf-8")
        count = text.count(edit.before)
        if count != 1:
            raise PlantingError(f"{fault.name}: {edit.file} has its text {count} times, not once")
        texts[path] = text.replace(edit.before, edit.after)
    for path, text in texts.items():
        path.write_text(text, "utf-8")


def uproot(fault: Fault, root: Path, original: Path) -> None:
    """Undo the edits of a fault in the copy of ``original``."""
    for edit in fault.edits:
        path = SOURCES / edit.file
        (root / path).write_bytes((original / path).read_bytes())
