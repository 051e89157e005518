"""Speed of the chunking kernels beside BLAKE3's, and what a small insertion costs.

Run it as ``python benchmarks/chunker.py``. Speeds are the best of several rounds, in MB/s
(10**6 bytes) on one core; the kernels and BLAKE3 take turns, so that noise hits all alike.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

from blake3 import blake3

from twinfold.core.chunking import (
    available_kernels,
    cut,
    cut_lengths,
    cut_with_rows,
    sub_blocks_of_each,
)

MIB = 1024 * 1024
PIECE_SIZE_BYTES = 64 * 1024
SMALL_FILE_BYTES = 8 * 1024
SLOW_SAMPLE_BYTES = 2 * MIB


def numbered_lines(size: int) -> bytes:
    source = random.Random(1)
    lines = [b"line %d: %d\n" % (n, source.getrandbits(40)) for n in range(size // 16)]
    return b"".join(lines)[:size]


def hash_pieces(data: memoryview) -> None:
    for start in range(0, len(data), PIECE_SIZE_BYTES):
        blake3(data[start : start + PIECE_SIZE_BYTES]).digest()


def cutter(kernel: str) -> Callable[[memoryview], object]:
    return lambda data: cut_lengths(data, True, kernel)


def row_cutter(*, fine: bool) -> Callable[[memoryview], object]:
    return lambda data: cut_with_rows(data, True, fine=fine)


def rows_of_small_files(data: memoryview) -> None:
    sub_blocks_of_each(
        [data[at : at + SMALL_FILE_BYTES] for at in range(0, len(data), SMALL_FILE_BYTES)],
        fine=True,
    )


def cut_and_hash(data: memoryview) -> None:
    for chunk in cut(data, True):
        blake3(chunk).digest()


def seconds(work: Callable[[memoryview], object], data: memoryview) -> float:
    started = time.perf_counter()
    work(data)
    return time.perf_counter() - started


def measure(data: memoryview, rounds: int) -> dict[str, float]:
    """Return the MB/s of each contender."""
    contenders = {
        "BLAKE3 of 64 KiB pieces": hash_pieces,
        **{kernel: cutter(kernel) for kernel in available_kernels()},
        "cut, then BLAKE3": cut_and_hash,
        "cut with coarse rows": row_cutter(fine=False),
        "cut with fine rows": row_cutter(fine=True),
        "rows of 8 KiB files": rows_of_small_files,
    }
    best: dict[str, float] = {}
    for turn in range(rounds):
        for name, work in contenders.items():
            slow = name == "python"
            if slow and turn:
                continue
            sample = data[:SLOW_SAMPLE_BYTES] if slow else data
            speed = len(sample) / 1e6 / seconds(work, sample)
            best[name] = max(best.get(name, 0.0), speed)
    return best


def print_speeds(title: str, speeds: dict[str, float]) -> None:
    blake3_speed = speeds["BLAKE3 of 64 KiB pieces"]
    print(f"\n{title}")
    for name, speed in speeds.items():
        print(f"  {name:24} {speed:8.0f} MB/s  {speed / blake3_speed:6.3f} x BLAKE3")


def fixed_blocks(data: bytes) -> list[bytes]:
    return [data[at : at + PIECE_SIZE_BYTES] for at in range(0, len(data), PIECE_SIZE_BYTES)]


def content_defined(data: bytes) -> list[bytes]:
    return [bytes(chunk) for chunk in cut(data, True)]


def mean_resent(chunks_of: Callable[[bytes], list[bytes]], data: bytes, edits: int) -> float:
    """Return the mean KiB in new chunks after an insertion of 1 to 100 bytes."""
    source = random.Random(2)
    known = set(chunks_of(data))
    resent = 0
    for _ in range(edits):
        at, inserted = source.randrange(len(data)), source.randbytes(source.randint(1, 100))
        edited = data[:at] + inserted + data[at:]
        resent += sum(len(chunk) for chunk in set(chunks_of(edited)) - known)
    return resent / edits / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=128, help="size of the input in memory")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()

    random_data = random.Random(0).randbytes(arguments.mib * MIB)
    text = numbered_lines(arguments.mib * MIB)
    for name, data in (("random", random_data), ("text", text)):
        view = memoryview(data)
        print_speeds(f"{name}, {arguments.mib} MiB in memory", measure(view, arguments.rounds))
        small = view[:MIB]
        print_speeds(f"{name}, 1 MiB in cache", measure(small, 20 * arguments.rounds))

    print("\nmean KiB resent after one insertion into 8 MiB")
    for name, data in (("random", random_data[: 8 * MIB]), ("text", text[: 8 * MIB])):
        lengths = cut_lengths(data, True)
        print(
            f"  {name:7} content-defined {mean_resent(content_defined, data, 100):6.0f}"
            f"   fixed blocks {mean_resent(fixed_blocks, data, 30):6.0f}"
            f"   mean chunk {sum(lengths) / len(lengths) / 1024:.1f} KiB"
        )


if __name__ == "__main__":
    main()
