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

import msgspec

from twinfold.errors import DriftError, RefusedError, StaleEpochError

REVISION_BITS = 20
"""A revision that is not the next one counts on from the time, so that no revision of an
index that was lost or put back comes again."""


class FolderSession(msgspec.Struct, frozen=True):
    """The folder's writer and how far it has come.

    ``drifted`` is the number of entries lost to drift since the session was opened, and
    ``fenced_epoch`` the epoch that ended by it.
    """

    epoch: int = 0
    revision: int = 0
    committed: int = 0
    client_id: bytes = b""
    instance: bytes = b""
    name: str = ""
    drifted: int = 0
    fenced_epoch: int = 0


def begin(now_s: int) -> FolderSession:
    """Return the session of a new index, made at this time (seconds since 1970)."""
    return FolderSession(epoch=now_s, revision=now_s << REVISION_BITS)


def open_session(
    current: FolderSession,
    client_id: bytes,
    instance: bytes,
    name: str,
    *,
    take_over: bool,
    active: bool,
) -> FolderSession:
    """Return the session that the client gets.

    The same process goes on where it was. Another process of the same client, or of the
    same source after its state was lost (same name, and the first is not ``active``),
    begins a new epoch. Any other client needs ``take_over``.

    Raises:
        RefusedError: another client is the folder's writer.
    """
    if current.client_id == client_id and current.instance == instance and not current.drifted:
        return current
    same_source = current.client_id == client_id or (current.name == name and not active)
    if current.client_id and not same_source and not take_over:
        raise RefusedError(
            "owned",
            f"this destination is kept for {current.name}; to give it to {name}, whose content "
            "then replaces it, start that client with --take-over",
        )
    return FolderSession(current.epoch + 1, current.revision, 0, client_id, instance, name)


def check_epoch(current: FolderSession, epoch: int) -> None:
    """Pass if the epoch is the current one.

    Raises:
        DriftError: the epoch ended because something else changed the destination.
        StaleEpochError: another session began since.
    """
    if current.drifted and epoch == current.fenced_epoch:
        raise DriftError(drift_text(current.drifted))
    if epoch != current.epoch:
        raise StaleEpochError(
            f"the destination was taken over by {current.name}; this client has stopped"
        )


def is_committed(current: FolderSession, number: int) -> bool:
    """Tell whether the batch of this number is done already."""
    return number <= current.committed


def commit_batches(current: FolderSession, count: int) -> FolderSession:
    """Return the session after the next ``count`` batches."""
    return msgspec.structs.replace(
        current, revision=current.revision + count, committed=current.committed + count
    )


def drift(current: FolderSession, entries: int, now_s: int) -> FolderSession:
    """Return the session after ``entries`` were lost to drift, found at this time."""
    return msgspec.structs.replace(
        current,
        epoch=max(current.epoch + 1, now_s),
        revision=max(current.revision + 1, now_s << REVISION_BITS),
        committed=0,
        drifted=current.drifted + entries,
        fenced_epoch=current.fenced_epoch if current.drifted else current.epoch,
    )


def drift_text(entries: int) -> str:
    """Say how many entries were lost to drift."""
    what = "an entry was" if entries == 1 else f"{entries} entries were"
    return f"{what} changed at the destination by something else; the source's are sent again"
