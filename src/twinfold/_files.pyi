from collections.abc import Sequence

from typing_extensions import Buffer

def create_files(
    directory_fd: int, files: Sequence[tuple[bytes, int, int, tuple[Buffer, ...]]]
) -> tuple[list[tuple[int, int]], int]: ...
def fetch_files(directory_fd: int, name: bytes, limit_bytes: int) -> None: ...
def list_entries(
    directory_fd: int, kinds: tuple[int, int, int, int]
) -> tuple[
    tuple[int, int, int, int, int, int, int],
    list[tuple[bytes, int, int, int, int, int, int, int]],
    tuple[int, int, int, int, int, int, int],
]: ...
def read_files(
    directory_fd: int,
    files: Sequence[tuple[bytes, int, int, int, int, int, int, int]],
    limit_bytes: int,
) -> tuple[list[bytes | None], bool]: ...
def take_steps(
    steps: Sequence[tuple[int, int, bytes, int, bytes, int, int]],
) -> tuple[list[tuple[int, int]], int]: ...
