"""Who may write to a folder, and which batch comes next.

A folder has one writer at a time. Every process of a client opens its own *epoch*; from
then on requests of an older epoch are refused, so a writer that was replaced can change
nothing. Within an epoch batches are numbered 1, 2, 3 ... and committed in that order:

    number <= committed        done before: answered as the first time, no further effect
    number == committed + 1    next
    number >  committed + 1    may be staged, is committed when its turn comes

``revision`` counts the batches that the folder ever committed. A client whose state is of
another revision has lost its place and compares before it sends.

*Drift* is a change of the folder that its writer did not make. It moves the revision on and
ends the epoch, so that the writer learns of it whatever it does next: a batch of the epoch
that ended is refused, and a client that opens a session finds another revision than its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from twinfold.errors import DriftError, RefusedError, StaleEpochError

_TICK_BITS = 8
"""Where an index was lost, put back or has drifted, revisions and epochs count on from the time
in units of 256 ns, so that none of a history that is gone comes again: no folder commits a batch
that often. Until 2043 they are less than 2**53, exact in any JSON."""


class FolderSession(msgspec.Struct, frozen=True):
    """The folder's writer and how far it has come.

    ``address`` is where the writer called from, ``before`` the client that was writer before.
    ``drifted`` is the number of entries lost to drift since the session was opened, and
    ``fenced_epoch`` the epoch that ended by it.
    """

    epoch: int = 0
    revision: int = 0
    committed: int = 0
    client_id: bytes = b""
    instance: bytes = b""
    name: str = ""
    address: str = ""
    before: bytes = b""
    drifted: int = 0
    fenced_epoch: int = 0

    @property
    def writer(self) -> str:
        """The writer as people are told of it."""
        return f"{self.name} at {self.address}" if self.address else self.name


def begin(now_ns: int) -> FolderSession:
    """Return the session of a new index, made at this time (nanoseconds since 1970)."""
    return FolderSession(epoch=now_ns >> _TICK_BITS, revision=now_ns >> _TICK_BITS)


def open_session(
    current: FolderSession,
    client_id: bytes,
    instance: bytes,
    name: str,
    *,
    address: str = "",
    earlier: Sequence[bytes] = (),
    take_over: bool,
    active: bool,
) -> FolderSession:
    """Return the session that the client gets.

    The same process goes on where it was. Another process of the same client begins a new
    epoch; that it is the same is shown by the writer's instance, which it knows among those
    that it was ``earlier``. So does the same source after its state was lost or restored (same
    name, and the first is not ``active``). Any other client needs ``take_over``.

    Raises:
        RefusedError: another client is the folder's writer, or a copy of this one.
    """
    if current.client_id == client_id and current.instance == instance and not current.drifted:
        return msgspec.structs.replace(current, address=address)
    is_next = current.client_id == client_id and current.instance in (instance, *earlier)
    is_again = current.name == name and not active
    if current.client_id and not (is_next or is_again or take_over):
        raise _refusal(current, client_id, name)
    return FolderSession(
        current.epoch + 1,
        current.revision,
        0,
        client_id,
        instance,
        name,
        address,
        current.client_id,
    )


def _refusal(current: FolderSession, client_id: bytes, name: str) -> RefusedError:
    if current.client_id == client_id:
        return RefusedError(
            "copied",
            f"this client's state was copied: {current.writer} uses it, too. If that one is to go"
            " on, remove the state here; if it is gone for good, start this one with --take-over",
        )
    return RefusedError(
        "owned",
        f"this destination is kept for {current.writer}; to give it to {name}, whose content "
        "then replaces it, start that client with --take-over",
    )


def check_epoch(current: FolderSession, epoch: int) -> None:
    """Pass if the epoch is the current one.

    Raises:
        DriftError: the epoch ended because something else changed the destination.
        StaleEpochError: another session began since.
    """
    if epoch == current.epoch:
        return
    if current.drifted and epoch == current.fenced_epoch:
        raise DriftError(drift_text(current.drifted))
    if epoch == current.epoch - 1 and current.before == current.client_id:
        raise StaleEpochError(
            f"{current.writer} goes on in this client's place, with a copy of its state; this"
            " client has stopped. Remove the state of one of the two"
        )
    raise StaleEpochError(
        f"the destination was taken over by {current.writer}; this client has stopped"
    )


def is_committed(current: FolderSession, number: int) -> bool:
    """Tell whether the batch of this number is done already."""
    return number <= current.committed


def commit_batches(current: FolderSession, count: int) -> FolderSession:
    """Return the session after the next ``count`` batches."""
    return msgspec.structs.replace(
        current, revision=current.revision + count, committed=current.committed + count
    )


def drift(current: FolderSession, entries: int, now_ns: int) -> FolderSession:
    """Return the session after ``entries`` were lost to drift, found at this time."""
    return msgspec.structs.replace(
        current,
        epoch=max(current.epoch + 1, now_ns >> _TICK_BITS),
        revision=max(current.revision + 1, now_ns >> _TICK_BITS),
        committed=0,
        drifted=current.drifted + entries,
        fenced_epoch=current.fenced_epoch if current.drifted else current.epoch,
    )


def drift_text(entries: int) -> str:
    """Say how many entries were lost to drift."""
    what = "an entry was" if entries == 1 else f"{entries} entries were"
    return f"{what} changed at the destination by something else; the source's are sent again"
