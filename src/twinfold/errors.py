"""Every error that a person or a peer is told about.

An error's text is one line: what happened, where, and what to do.
"""

from __future__ import annotations


class TwinfoldError(Exception):
    """Base of all errors whose text is meant for people."""


class UsageError(TwinfoldError):
    """The command was called wrongly (exit code 2)."""


class SourceError(TwinfoldError):
    """The source folder cannot be used as it is."""


class SourceVanishedError(SourceError):
    """The source folder is gone, or another folder stands in its place."""


class SourceReplacedError(SourceVanishedError):
    """Another folder stands in the source's place; a person may accept it."""


class DescriptorsError(TwinfoldError):
    """This process, or the system, cannot open more files."""


class DestinationError(TwinfoldError):
    """The destination folder cannot be used as it is."""


class DestinationFullError(DestinationError):
    """No room, no inodes or no descriptors are left where the destination lies."""


class LockedError(TwinfoldError):
    """Another process already works on this folder."""


class StateError(TwinfoldError):
    """The client's own state cannot be used."""


class DamagedStateError(StateError):
    """The client's state is not as it was written; it can be made anew."""


class FormatError(TwinfoldError):
    """Stored data has a format that this version does not know."""


class ProtocolError(TwinfoldError):
    """A message does not follow the protocol; nothing of it was used.

    Attributes:
        status: the HTTP status that answers it.
    """

    status = 400

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        if status is not None:
            self.status = status


class LimitError(ProtocolError):
    """A message is larger than the receiver accepts."""

    status = 413


class PathRefusedError(ProtocolError):
    """A path from the wire is absolute, leaves the folder, or is not well formed."""

    status = 400


class ContentMismatchError(ProtocolError):
    """Bytes do not have the hash or the length that was announced for them."""

    status = 422


class LostPlaceError(ProtocolError):
    """A change builds on something that the destination does not have."""

    status = 409


class DriftError(LostPlaceError):
    """Something else changed the destination: the client has to compare."""


class ConnectionLostError(TwinfoldError):
    """The server cannot be reached, or the connection broke; trying again may help."""


class ServerBusyError(ConnectionLostError):
    """The server answered that it cannot do the work now (no space, shutting down)."""


class RefusedError(TwinfoldError):
    """The server refused for good: token, version, or another client owns the folder.

    Attributes:
        code: a word for programs, such as ``token`` or ``owned``.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class StaleEpochError(RefusedError):
    """Another session of this folder began after ours; ours is fenced off."""

    def __init__(self, reason: str) -> None:
        super().__init__("stale_epoch", reason)
