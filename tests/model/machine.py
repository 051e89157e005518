"""All that can be done to a folder, in any order, with a real server and a real client at work."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

from collections.abc import Callable

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.e2e.trees import ODD_NAMES, SYMLINKS, TIMES_NS, permissions_bind, random_bytes
from tests.model.folder import IGNORED, remove
from tests.model.hall import Hall
from twinfold.core.paths import is_within, join

NAMES = [*[b"a", b"b", b"c", b"A"] * 4, *ODD_NAMES, b".twinfold", b"x" + IGNORED]
SIZES = [0, 1, 700, 700, 33_000, 100_000, 400_000]
HOLES = [5_000, 3_000_000, 12_000_000]
MODES = [0o644, 0o444, 0o400, 0o755, 0o555, 0o777, 0o711]
ROOT_MODES = [0o000, 0o200, 0o311]
"""Modes that keep an owner from reading; root reads all the same."""
TIMES = [*TIMES_NS.values(), 1 << 60, -(1 << 60)]
TARGETS = [*SYMLINKS.values(), b"a", b"../a", b".", b"\xff"]

STEPS = 50
NUMBERS = st.integers(0, 255)
NAME = st.sampled_from(NAMES)
DATA = st.builds(random_bytes, st.sampled_from(SIZES), st.integers(0, 5))


class Machine(RuleBasedStateMachine):
    """One folder of a live pair; what is drawn decides among what there is."""

    def __init__(self, hall: Hall, modes: list[int]) -> None:
        super().__init__()
        self.hall = hall
        self.modes = modes
        self.is_broken = False
        self.may_end = True

    @initialize()
    def begin(self) -> None:
        """Make the folder."""
        self.folder = self.hall.folder()

    def _entry(self, number: int, *kinds: str) -> bytes | None:
        entries = self.folder.entries(*kinds)
        return entries[number % len(entries)] if entries else None

    def _place(self, number: int, name: bytes) -> bytes:
        """Return a path that may be new, in a directory that there is, not too deep."""
        directories = [path for path in self.folder.directories() if path.count(b"/") < 3]
        return join(directories[number % len(directories)], name)

    def _on(self, number: int, act: Callable[[bytes], object], *kinds: str) -> None:
        path = self._entry(number, *kinds)
        if path is not None:
            act(path)

    @rule(where=NUMBERS, name=NAME, data=DATA)
    def put(self, where: int, name: bytes, data: bytes) -> None:
        """A file is made, or written anew in place."""
        self.folder.put(self._place(where, name), data)

    @rule(where=NUMBERS, name=NAME, size=st.sampled_from(HOLES))
    def make_sparse(self, where: int, name: bytes, size: int) -> None:
        """A file is made that is a hole but for its end."""
        path = self._place(where, name)
        if path not in self.folder.things:
            self.folder.put(path, b"")
            self.folder.write_at(path, size, b"end")

    @rule(which=NUMBERS, offset=NUMBERS, data=DATA)
    def write_in_place(self, which: int, offset: int, data: bytes) -> None:
        """Bytes in a file are replaced, its size may grow."""
        self._on(which, lambda path: self.folder.write_at(path, offset * 100, data), "file")

    @rule(which=NUMBERS, data=DATA)
    def append(self, which: int, data: bytes) -> None:
        """A file grows."""
        things = self.folder.things
        self._on(
            which, lambda p: self.folder.write_at(p, len(things[p].content), data[:5_000]), "file"
        )

    @rule(which=NUMBERS, size=st.sampled_from([0, 1, 500, 50_000, 300_000]))
    def truncate(self, which: int, size: int) -> None:
        """A file is cut, or gets a hole at its end."""
        self._on(which, lambda path: self.folder.truncate(path, size), "file")

    @rule(which=NUMBERS, data=DATA)
    def save(self, which: int, data: bytes) -> None:
        """A file is replaced as editors do it."""
        self._on(which, lambda path: self.folder.save(path, data), "file", "symlink")

    @rule(which=NUMBERS, where=NUMBERS, name=NAME)
    def rename(self, which: int, where: int, name: bytes) -> None:
        """Anything gets another name, in place of what has it."""
        self._on(which, lambda path: self.folder.rename(path, self._place(where, name)))

    @rule(which=NUMBERS, other=NUMBERS)
    def rename_over(self, which: int, other: int) -> None:
        """Something that there is takes the place of something else that there is."""
        target = self._entry(other)
        if target is not None:
            self._on(which, lambda path: self.folder.rename(path, target))

    @rule(which=NUMBERS, other=NUMBERS)
    def exchange(self, which: int, other: int) -> None:
        """Two entries change places in one step."""
        target = self._entry(other)
        path = self._entry(which)
        if path is None or target is None or is_within(path, target) or is_within(target, path):
            return
        self.folder.exchange(path, target)

    @rule(which=NUMBERS)
    def delete(self, which: int) -> None:
        """An entry goes, with all below it."""
        self._on(which, self.folder.delete)

    @rule(where=NUMBERS, name=NAME)
    def make_directory(self, where: int, name: bytes) -> None:
        """An empty directory is made."""
        self.folder.make_directory(self._place(where, name))

    @rule(where=NUMBERS, name=NAME, count=st.integers(1, 12))
    def make_tree(self, where: int, name: bytes, count: int) -> None:
        """A directory with directories and files is made at once."""
        top = self._place(where, name)
        if top in self.folder.things:
            return
        self.folder.make_directory(top)
        self.folder.make_directory(join(top, b"inner"))
        for number in range(count):
            self.folder.put(join(top, b"%d" % number), b"%d" % number)
            self.folder.put(join(top, b"inner/%d" % number), b"%d" % number * 100)

    @rule(where=NUMBERS, name=NAME, text=st.sampled_from(TARGETS))
    def make_symlink(self, where: int, name: bytes, text: bytes) -> None:
        """A symlink is made: dangling, looping, absolute."""
        self.folder.make_symlink(self._place(where, name), text)

    @rule(which=NUMBERS, where=NUMBERS, name=NAME)
    def link(self, which: int, where: int, name: bytes) -> None:
        """An object gets one more name."""
        path = self._place(where, name)
        self._on(which, lambda p: self.folder.link(p, path), "file", "symlink", "fifo")

    @rule(where=NUMBERS, name=NAME)
    def make_fifo(self, where: int, name: bytes) -> None:
        """What is not synchronised is made."""
        self.folder.make_fifo(self._place(where, name))

    @rule(which=NUMBERS, kind=st.sampled_from(["file", "directory", "symlink", "fifo"]))
    def swap_type(self, which: int, kind: str) -> None:
        """A name becomes something else."""
        path = self._entry(which)
        if path is None:
            return
        self.folder.delete(path)
        if path in self.folder.things:
            return
        if kind == "file":
            self.folder.put(path, b"a file now")
        elif kind == "directory":
            self.folder.make_directory(path)
            self.folder.put(join(path, b"inside"), b"inside")
        elif kind == "symlink":
            self.folder.make_symlink(path, b"a symlink now")
        else:
            self.folder.make_fifo(path)

    @rule(which=NUMBERS, mode=NUMBERS)
    def chmod(self, which: int, mode: int) -> None:
        """Permission bits change."""
        bits = self.modes[mode % len(self.modes)]
        self._on(which, lambda path: self.folder.chmod(path, bits), "file", "directory")

    @rule(which=NUMBERS, mtime_ns=st.sampled_from(TIMES))
    def utime(self, which: int, mtime_ns: int) -> None:
        """An mtime is set: before 1970, in the far future, with nanoseconds."""
        self._on(which, lambda path: self.folder.utime(path, mtime_ns), "file", "directory")

    @rule()
    def check(self) -> None:
        """After `wait` source, destination and dictionary agree."""
        self._guarded(lambda: self.hall.check(self.folder))

    @rule()
    def converge(self) -> None:
        """The two sides become equal without being asked to."""
        self._guarded(lambda: self.hall.converge(self.folder))

    @precondition(lambda self: self.may_end)
    @rule(side=st.sampled_from(["client", "server"]), kill=st.booleans())
    def end(self, side: str, kill: bool) -> None:
        """One side is killed, or ends, and is started again; things go on meanwhile."""
        # Once an example: it takes as long as all the rest.
        self.may_end = False
        end = self.hall.end_client if side == "client" else self.hall.end_server
        self.folder.log.append(f"{'kill' if kill else 'restart'} the {side}")
        self._guarded(lambda: end(kill=kill))

    def _guarded(self, act: Callable[[], object]) -> None:
        """Do something that may show that the pair is of no use any more."""
        try:
            act()
        except BaseException:
            self.is_broken = True
            raise

    def teardown(self) -> None:
        """Compare once more, and clear the folder away."""
        if not hasattr(self, "folder"):
            return
        self.hall.counts["examples"] += 1
        try:
            if not self.is_broken:
                self._guarded(lambda: self.hall.check(self.folder))
        finally:
            remove(self.folder.root)
            if self.is_broken:
                self.hall.give_up()


def explore(hall: Hall, number: int, most_examples: int, *, shrinks: bool = True) -> None:
    """Run so many examples, always the same ones for a seed.

    Raises:
        AssertionError: a promise was broken. What was done is in it; with ``shrinks`` it is
            the smallest example that does it.
    """
    modes = MODES if permissions_bind() else MODES + ROOT_MODES

    def machine() -> Machine:
        return Machine(hall, modes)

    chosen = settings(
        max_examples=most_examples,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    if not shrinks:
        chosen = settings(chosen, phases=[Phase.generate])
    run_state_machine_as_test(seed(number)(machine), settings=chosen)  # type: ignore[arg-type]
