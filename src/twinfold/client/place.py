"""Where a client keeps what belongs to one source: state, lock, control."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
from blake3 import blake3

_FOLDER_MODE = 0o700
_KEY_HEX_DIGITS = 16


class ClientPlace(msgspec.Struct, frozen=True):
    """The folder for one source below the user's state."""

    folder: Path

    @property
    def state(self) -> Path:
        """The state's database."""
        return self.folder / "state.sqlite"

    @property
    def lock(self) -> Path:
        """The lock that one running client holds."""
        return self.folder / "lock"

    @property
    def control_socket(self) -> Path:
        """Where a running client is asked, on POSIX."""
        return self.folder / "control.sock"

    @property
    def control_port(self) -> Path:
        """Port and secret of a running client, where there is no such socket."""
        return self.folder / "control.json"

    def create(self) -> None:
        """Make the folder, for this user only."""
        self.folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        self.folder.chmod(_FOLDER_MODE)


def place_of(state_dir: Path, source: bytes) -> ClientPlace:
    """Return the place of a source; the same for every path that leads to it."""
    key = blake3(os.path.realpath(source)).hexdigest()[:_KEY_HEX_DIGITS]
    return ClientPlace(state_dir / "clients" / key)


def places(state_dir: Path) -> Iterator[ClientPlace]:
    """Yield the place of every source that this user ever synchronised."""
    folder = state_dir / "clients"
    if folder.is_dir():
        for entry in sorted(folder.iterdir()):
            if entry.is_dir():
                yield ClientPlace(entry)
