"""What of the source is not synchronised: patterns as in a .gitignore.

An ignored entry is treated as if the source did not have it. So one that was synchronised before
it was ignored is taken away from the destination, where the attic keeps it like any other.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from twinfold.client.tree import Directory
from twinfold.core.paths import join
from twinfold.core.planning import DIRECTORY, FILE, ListedEntry
from twinfold.errors import UsageError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = b".twinfoldignore"
_MAX_FILE_BYTES = 1024 * 1024

_FLAWS = (ValueError, re.error)
"""What a pattern may raise: it becomes a regular expression, and ``[z-a]`` is none."""


class IgnoreRules:
    """Patterns from the command line and, after them, those of the source's own file.

    Raises:
        UsageError: a pattern of the command line is not well formed.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        for pattern in patterns:
            try:
                _spec_of([pattern])
            except _FLAWS as error:
                raise UsageError(f"--ignore {pattern!r}: {error}") from error
        self._patterns = list(patterns)
        self._file = b""
        self._flaw = ""
        self._spec = self._compile([]) if patterns else None
        self.problem = ""
        """What is wrong with the source's file; empty if nothing is."""

    def reload(self, root: Directory) -> list[str]:
        """Read the source's file again; return the lines that are not patterns.

        A file that cannot be read leaves the rules as they are; `problem` says so.
        """
        try:
            text = _read(root)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            self.problem = f"cannot be read ({reason}): the rules stay as they were"
            return []
        bad = [] if text == self._file else self._take(text)
        self.problem = self._flaw
        return bad

    def _take(self, text: bytes) -> list[str]:
        self._file = text
        good, bad = [], []
        for line in text.decode("utf-8", "surrogateescape").splitlines():
            try:
                _spec_of([line])
                good.append(line)
            except _FLAWS:
                bad.append(line)
        self._spec = self._compile(good) if good or self._patterns else None
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        self._flaw = f"has a line that is no pattern: {bad[0]!r}{more}" if bad else ""
        return bad

    @property
    def keeps_all(self) -> bool:
        """Whether there is no rule."""
        return self._spec is None

    def keeps(self, path: bytes, is_directory: bool) -> bool:
        """Tell whether an entry is synchronised, given that the directory above it is."""
        if self._spec is None or path == IGNORE_FILE:
            return True
        text = _on_one_line(os.fsdecode(path))
        return not self._spec.match_file(f"{text}/" if is_directory else text)

    def without_ignored(self, path: bytes, entries: list[ListedEntry]) -> list[ListedEntry]:
        """Return what of a directory's entries is synchronised."""
        if self._spec is None:
            return entries
        return [
            entry for entry in entries if self.keeps(join(path, entry[0]), entry[1] == DIRECTORY)
        ]

    def _compile(self, lines: list[str]) -> GitIgnoreSpec:
        return _spec_of(map(_on_one_line, [*self._patterns, *lines]))


def _spec_of(lines: Iterable[str]) -> GitIgnoreSpec:
    # Most sources have no rules, and start faster without.
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(lines)


def _on_one_line(text: str) -> str:
    """Return a path or pattern whose line breaks are NULs, which no name has.

    The patterns' regular expressions take a line break for an end, other characters for what
    they are.
    """
    return text.replace("\n", "\0")


def _read(root: Directory) -> bytes:
    seen = root.look(IGNORE_FILE)
    if seen is None or seen[0].kind != FILE:
        return b""
    try:
        fd = root.open_file(IGNORE_FILE)
    except FileNotFoundError:
        return b""
    with os.fdopen(fd, "rb") as file:
        text = file.read(_MAX_FILE_BYTES + 1)
    if len(text) > _MAX_FILE_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return text
