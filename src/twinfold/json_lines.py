r"""Events and states as JSON for programs: one object a line on standard output.

Paths are text: a byte that is not UTF-8 is written as ``\xNN`` (in JSON: ``\\xNN``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from twinfold.addresses import for_other_machines
from twinfold.client import events as client
from twinfold.output import tell_line, write_line
from twinfold.server import events as server
from twinfold.server.events import Listening

Fields = Mapping[str, object]


def path_text(path: bytes) -> str:
    """Return a path as it stands in JSON."""
    return path.decode("utf-8", "backslashreplace")


def client_fields(event: client.Event) -> Fields | None:
    """Return the object for a client's event; None for those that programs are not told."""
    match event:
        case client.InSync():
            return {
                "event": "in_sync",
                "files": event.files,
                "bytes": event.size_bytes,
                "sent_bytes": event.sent_bytes,
                "reused_bytes": event.reused_bytes,
                "seconds": round(event.seconds, 3),
                "problems": event.problems,
            }
        case client.Problem():
            return {"event": "problem", **_problem_fields(event)}
        case client.Drifted():
            return {"event": "drift", "reason": _clean(event.reason)}
        case client.Held():
            return {"event": "held", "reason": _clean(event.reason), "deletions": event.deletions}
        case _:
            return None


def dry_run_fields(event: client.Event) -> Fields | None:
    """Return the object for an event of ``--dry-run``, where changes are what it is about."""
    if not isinstance(event, client.Applied):
        return client_fields(event)
    fields = {"event": "would", "change": event.verb, "path": path_text(event.path)}
    return fields if event.source is None else {**fields, "source": path_text(event.source)}


def listening_fields(listening: Listening) -> Fields:
    """Return the object with which a server says where it listens."""
    address = listening.address
    invite = for_other_machines(address).invite
    return {"event": "listening", "url": address.url, "invite": invite}


def server_fields(event: server.Event) -> Fields | None:
    """Return the object for a server's event; None for those that programs are not told."""
    match event:
        case server.AtticGaveWay():
            return {
                "event": "attic_gave_way",
                "entries": event.entries,
                "bytes": event.size_bytes,
            }
        case server.Message():
            return {"event": "message", "text": _clean(event.text)}
        case _:
            return None


def write_server_event(event: server.Event) -> None:
    """Be the listener of ``server --json``; any thread may call."""
    _tell(server_fields(event))


def status_fields(status: client.Status) -> Fields:
    """Return a client's state, under the same names as its events where they mean the same."""
    return {
        "source": _clean(status.source),
        "server": status.server,
        "pid": status.pid,
        "activity": status.activity,
        "detail": _clean(status.detail),
        "files": status.files,
        "bytes": status.size_bytes,
        "sent_bytes": status.sent_bytes,
        "reused_bytes": status.reused_bytes,
        "problems": len(status.problems),
        "problem_list": [_problem_fields(problem) for problem in status.problems],
        "in_sync": status.in_sync,
        "in_sync_at": status.in_sync_at,
        "deletions": status.held_deletions,
        "held": _clean(status.held) or None,
    }


def statuses_fields(statuses: Sequence[client.Status]) -> Fields:
    """Return the one object of ``status --json`` where no source is named."""
    return {"clients": [status_fields(status) for status in statuses]}


def verified_fields(verified: client.Verified) -> Fields:
    """Return what ``verify`` found, under the same names as elsewhere."""
    status = verified.status
    return {
        "source": _clean(status.source),
        "server": status.server,
        "files": verified.files,
        "bytes": verified.size_bytes,
        "seconds": round(verified.seconds, 3),
        "differences": len(verified.differences),
        "difference_list": [
            {
                "path": path_text(differing.path),
                "at": differing.at,
                "what": differing.what,
                "reason": _clean(differing.reason),
            }
            for differing in verified.differences
        ],
        "problems": len(status.problems),
        "problem_list": [_problem_fields(problem) for problem in status.problems],
        "in_sync": status.in_sync,
    }


def _problem_fields(problem: client.Problem) -> Fields:
    return {"path": path_text(problem.path), "reason": _clean(problem.reason)}


def _clean(text: str) -> str:
    return path_text(text.encode("utf-8", "surrogateescape"))


def write_object(fields: Fields | None) -> None:
    """Write one object as a line that can be read at once; nothing for None."""
    if fields is not None:
        write_line(encode(fields))


def _tell(fields: Fields | None) -> None:
    if fields is not None:
        tell_line(encode(fields))


def encode(fields: Fields) -> str:
    """Return an object as one line of JSON."""
    return msgspec.json.encode(fields).decode()


class ClientLines:
    """Be the listener of ``client --json``; any thread may call.

    A server that is away is told of once for each reason, and once when it is there again.
    """

    def __init__(self) -> None:
        self._waiting_for: str | None = None

    def __call__(self, event: client.Event) -> None:
        """Take in an event."""
        match event:
            case client.Applied():
                # Of these there are as many as entries.
                return
            case client.Waiting():
                if event.reason != self._waiting_for:
                    self._waiting_for = event.reason
                    _tell({"event": "waiting", "reason": _clean(event.reason)})
            case client.Connected():
                if self._waiting_for is not None:
                    self._waiting_for = None
                    _tell({"event": "connected", "server": event.url})
            case _:
                _tell(client_fields(event))


def write_dry_run_event(event: client.Event) -> None:
    """Be the listener of ``client --dry-run --json``."""
    write_object(dry_run_fields(event))
