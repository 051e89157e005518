"""What a scan could not look at, or has to look at again."""

from __future__ import annotations

from twinfold.client.problems import Problems
from twinfold.client.read import SWAPPED, check_descriptors
from twinfold.core.paths import join, split


class Notes:
    """Takes down what one scan meets with.

    Attributes:
        retry: names, by directory, that changed while they were looked at.
    """

    def __init__(self, problems: Problems) -> None:
        self.retry: dict[bytes, set[bytes]] = {}
        self._problems = problems

    def retry_later(self, parent: bytes, name: bytes) -> None:
        """The name is to be looked at again when it has settled."""
        self.retry.setdefault(parent, set()).add(name)
        self._problems.confirm(join(parent, name))

    def problem(self, path: bytes, reason: str) -> None:
        """The entry cannot be synchronised."""
        self._problems.note(path, reason)

    def error(self, parent: bytes, name: bytes, error: Exception) -> None:
        """Looking at the name failed: it changes just now, or is a problem."""
        check_descriptors(error)
        if isinstance(error, OSError) and error.errno not in SWAPPED:
            self.problem(join(parent, name), reason_of(error))
        else:
            self.retry_later(parent, name)

    def unentered(self, path: bytes, error: OSError) -> None:
        """A directory could not be looked into: when it can be, all below it is compared."""
        check_descriptors(error)
        self._problems.note_unseen(path)
        if path:
            self.error(*split(path), error)
        else:
            self.problem(path, reason_of(error))


def reason_of(error: OSError) -> str:
    """Return an operating-system error in a few words."""
    return (error.strerror or str(error)).lower()
