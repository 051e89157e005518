from collections.abc import Sequence

from typing_extensions import Buffer

def create_files(
    directory_fd: int, files: Sequence[tuple[bytes, int, int, tuple[Buffer, ...]]]
) -> tuple[list[tuple[int, int]], int]: ...
def take_steps(
    steps: Sequence[tuple[int, int, bytes, int, bytes, int, int]],
) -> tuple[list[tuple[int, int]], int]: ...
