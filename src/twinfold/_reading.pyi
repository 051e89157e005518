from collections.abc import Sequence

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
