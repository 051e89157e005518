"""What of the source is not synchronised: patterns as in a .gitignore.

An ignored entry is treated as if the source did not have it. So one that was synchronised before
it was ignored is taken away from the destination, where the attic keeps it like any other.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from pathspec import GitIgnoreSpec

from twinfold.client.tree import Directory
from twinfold.core.paths import join
from twinfold.core.planning import DIRECTORY, FILE, Facts
from twinfold.errors import UsageError

IGNORE_FILE = b".twinfoldignore"
_MAX_FILE_BYTES = 1024 * 1024


class IgnoreRules:
    """Patterns from the command line and, after them, those of the source's own file.

    Raises:
        UsageError: a pattern of the command line is not well formed.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        for pattern in patterns:
            try:
                GitIgnoreSpec.from_lines([pattern])
            except ValueError as error:
                raise UsageError(f"--ignore {pattern!r}: {error}") from error
        self._patterns = list(patterns)
        self._file = b""
        self._spec = self._compile([]) if patterns else None

    def reload(self, root: Directory) -> list[str]:
        """Read the source's file again; return the lines that are not patterns."""
        text = _read(root)
        if text == self._file:
            return []
        self._file = text
        lines = text.decode("utf-8", "surrogateescape").splitlines() if text else []
        good, bad = [], []
        for line in lines:
            try:
                GitIgnoreSpec.from_lines([line])
                good.append(line)
            except ValueError:
                bad.append(line)
        self._spec = self._compile(good) if good or self._patterns else None
        return bad

    def changed(self, root: Directory) -> bool:
        """Tell whether the source's file differs from what `reload` read."""
        return _read(root) != self._file

    @property
    def are_empty(self) -> bool:
        """Whether nothing is ignored."""
        return self._spec is None

    def keeps(self, path: bytes, is_directory: bool) -> bool:
        """Tell whether an entry is synchronised, given that the directory above it is."""
        if self._spec is None or path == IGNORE_FILE:
            return True
        text = os.fsdecode(path)
        return not self._spec.match_file(f"{text}/" if is_directory else text)

    def without_ignored(self, path: bytes, listing: dict[bytes, Facts]) -> dict[bytes, Facts]:
        """Return what of a directory's listing is synchronised."""
        if self._spec is None:
            return listing
        return {
            name: facts
            for name, facts in listing.items()
            if self.keeps(join(path, name), facts.kind == DIRECTORY)
        }

    def _compile(self, lines: list[str]) -> GitIgnoreSpec:
        return GitIgnoreSpec.from_lines([*self._patterns, *lines])


def _read(root: Directory) -> bytes:
    try:
        seen = root.look(IGNORE_FILE)
        if seen is None or seen[0].kind != FILE:
            return b""
        fd = root.open_file(IGNORE_FILE)
    except OSError:
        return b""
    with os.fdopen(fd, "rb") as file:
        return file.read(_MAX_FILE_BYTES)
