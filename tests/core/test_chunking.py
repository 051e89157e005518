"""The cuts: one frozen definition, the same from every kernel and however the data arrives."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import twinfold
from tests.core.chunking_definition import (
    GENERATORS,
    GOLDEN,
    defined_lengths,
    densest_pair,
    gear,
    hash_at,
    lone_block,
    numbered_lines,
    random_bytes,
    repeated,
    repeated_splitmix,
)
from twinfold.core import chunking
from twinfold.core.chunking import MAX_SIZE_BYTES, MIN_SIZE_BYTES, Chunker, cut, cut_lengths
from twinfold.core.chunking.format import GEAR, TABLE_A, TABLE_B

KERNELS = chunking.available_kernels()
FAST_KERNELS = [name for name in KERNELS if name != "python"]
COMPILED_KERNELS = [name for name in FAST_KERNELS if name != "numpy"]

every_kernel = pytest.mark.parametrize("kernel", KERNELS)

sizes = st.integers(30_000, 200_000)
segments = st.one_of(
    st.builds(random_bytes, sizes, st.integers(0, 2**32)),
    st.builds(numbered_lines, sizes, st.integers(0, 2**32)),
    st.builds(repeated_splitmix, sizes, st.integers(1, 5_000)),
    st.builds(repeated, st.just(densest_pair()), sizes),
    st.builds(repeated, st.binary(min_size=1, max_size=64), sizes),
    st.binary(max_size=200),
)
inputs = st.lists(segments, max_size=4).map(b"".join)
some_examples = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


# The format.


def test_tables_are_the_golden_ones() -> None:
    assert list(TABLE_A) == GOLDEN["table_a"]
    assert list(TABLE_B) == GOLDEN["table_b"]
    assert [gear(byte) for byte in range(256)] == list(GEAR)


def test_constants_are_frozen() -> None:
    assert chunking.FORMAT_VERSION == GOLDEN["format_version"] == 1
    assert (MIN_SIZE_BYTES, MAX_SIZE_BYTES) == (32 * 1024, 96 * 1024)


def test_no_run_of_one_byte_value_makes_a_candidate() -> None:
    assert all(hash_at(bytes([byte]) * 16, 15) >= 64 for byte in range(256))


def test_hash_of_random_bytes_is_uniform_because_half_the_table_is_odd() -> None:
    assert sum(value & 1 for value in GEAR) == 128
    assert len(set(GEAR)) == 256


@every_kernel
@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_golden_cuts(case: dict[str, object], kernel: str) -> None:
    data = GENERATORS[str(case["generator"])](int(str(case["size"])), int(str(case["seed"])))
    assert cut_lengths(data, True, kernel) == case["lengths"]


@pytest.mark.parametrize(
    "data",
    [
        random_bytes(250_000),
        numbered_lines(150_000, 7),
        repeated_splitmix(200_000, 3_000),
        repeated(densest_pair(), 100_000),
    ],
    ids=["random", "text", "period of 3000", "every second byte a candidate"],
)
def test_cuts_are_those_of_the_definition(data: bytes) -> None:
    expected = defined_lengths(data)
    assert {name: cut_lengths(data, True, name) for name in KERNELS} == dict.fromkeys(
        KERNELS, expected
    )


def test_chunk_id_is_blake3() -> None:
    assert chunking.chunk_id(memoryview(b"abc")) == blake3(b"abc").digest()


# Every kernel finds every candidate.


def positions_to_try(kernel: str) -> Iterator[int]:
    step = 1 if kernel in COMPILED_KERNELS else 211 if kernel == "numpy" else 4_999
    yield from range(MIN_SIZE_BYTES - 20, MAX_SIZE_BYTES + 20, step)


@every_kernel
def test_lone_candidate_is_found_wherever_it_is(kernel: str) -> None:
    block = lone_block(7)
    data = bytearray(MAX_SIZE_BYTES + 100)
    for length in positions_to_try(kernel):
        data[length - len(block) : length] = block
        reachable = MIN_SIZE_BYTES <= length <= MAX_SIZE_BYTES
        expected = length if reachable else MAX_SIZE_BYTES
        assert cut_lengths(data, False, kernel) == [expected]
        data[length - len(block) : length] = bytes(len(block))


@every_kernel
def test_candidate_threshold_is_exact(kernel: str) -> None:
    for hash_, expected in ((63, 50_000), (64, MAX_SIZE_BYTES)):
        data = bytearray(MAX_SIZE_BYTES)
        data[50_000 - 16 : 50_000] = lone_block(hash_)
        assert cut_lengths(data, True, kernel)[0] == expected


@every_kernel
def test_end_of_file_is_decided_exactly(kernel: str) -> None:
    block = lone_block(7)
    step = 1 if kernel in COMPILED_KERNELS else 97
    for rest in range(MIN_SIZE_BYTES + 1, MIN_SIZE_BYTES + 1_200, step):
        for length in (MIN_SIZE_BYTES, (MIN_SIZE_BYTES + rest) // 2, rest - 1):
            data = bytearray(rest)
            data[length - len(block) : length] = block
            assert cut_lengths(data, True, kernel) == [length, rest - length]


@every_kernel
def test_earliest_of_equal_ranks_is_cut(kernel: str) -> None:
    data = repeated(densest_pair(), 300_000)
    assert set(cut_lengths(data, True, kernel)[:-1]) <= {MIN_SIZE_BYTES, MIN_SIZE_BYTES + 1}


@some_examples
@given(inputs)
def test_all_kernels_cut_alike(data: bytes) -> None:
    for final in (False, True):
        cuts = {name: cut_lengths(data, final, name) for name in KERNELS}
        assert cuts == dict.fromkeys(KERNELS, cuts["python"])


@pytest.mark.parametrize("kernel", FAST_KERNELS)
def test_start_in_memory_does_not_matter(kernel: str) -> None:
    data = random_bytes(400_000, 5)
    expected = cut_lengths(data, True, kernel)
    for offset in range(1, 66):
        shifted = memoryview(bytes(offset) + data)[offset:]
        assert cut_lengths(shifted, True, kernel) == expected


# What holds for any input.


@some_examples
@given(inputs)
def test_chunks_are_the_input_and_within_bounds(data: bytes) -> None:
    chunks = cut(data, True)
    assert b"".join(chunks) == data
    assert all(MIN_SIZE_BYTES <= len(chunk) <= MAX_SIZE_BYTES for chunk in chunks[:-1])
    assert all(0 < len(chunk) <= MAX_SIZE_BYTES for chunk in chunks[-1:])


@some_examples
@given(inputs)
def test_undecided_rest_is_shorter_than_the_longest_chunk(data: bytes) -> None:
    decided = cut_lengths(data, False)
    assert len(data) - sum(decided) < MAX_SIZE_BYTES
    assert decided == cut_lengths(data, True)[: len(decided)]


@some_examples
@given(inputs, st.data())
def test_cuts_do_not_depend_on_feeding(data: bytes, choices: st.DataObject) -> None:
    chunker = Chunker()
    fed = []
    at = 0
    while at < len(data):
        size = choices.draw(st.sampled_from([1, 100, 40_000, 98_304, 1_000_000]))
        for start in range(at, min(at + 20 * size, len(data)), size):
            fed += chunker.feed(data[start : start + size])
        at = start + size
    fed += chunker.finish()
    assert fed == cut(data, True)


@some_examples
@given(inputs)
def test_chunk_cut_as_a_file_is_one_chunk(data: bytes) -> None:
    for chunk in cut(data, True):
        assert cut_lengths(chunk, True) == [len(chunk)]


@some_examples
@given(inputs)
def test_file_that_stops_at_a_boundary_has_the_same_chunks(data: bytes) -> None:
    lengths = cut_lengths(data, True)
    for count in range(len(lengths)):
        assert cut_lengths(data[: sum(lengths[:count])], True) == lengths[:count]


@every_kernel
def test_small_and_boundary_sizes(kernel: str) -> None:
    zeros = bytes(2 * MAX_SIZE_BYTES + 1)
    expected = {
        0: [],
        1: [1],
        MIN_SIZE_BYTES: [MIN_SIZE_BYTES],
        MIN_SIZE_BYTES + 1: [MIN_SIZE_BYTES + 1],
        MAX_SIZE_BYTES: [MAX_SIZE_BYTES],
        MAX_SIZE_BYTES + 1: [MAX_SIZE_BYTES, 1],
        2 * MAX_SIZE_BYTES + 1: [MAX_SIZE_BYTES, MAX_SIZE_BYTES, 1],
    }
    assert {size: cut_lengths(zeros[:size], True, kernel) for size in expected} == expected
    assert cut_lengths(zeros[: MAX_SIZE_BYTES - 1], False, kernel) == []


@every_kernel
@pytest.mark.parametrize("period", [*range(2, 65, 9), 2048, 2047])
def test_periodic_input_is_cut_within_bounds(period: int, kernel: str) -> None:
    data = repeated(random_bytes(period, period), 250_000)
    lengths = cut_lengths(data, True, kernel)
    assert sum(lengths) == len(data)
    assert all(MIN_SIZE_BYTES <= length <= MAX_SIZE_BYTES for length in lengths[:-1])


@every_kernel
@pytest.mark.parametrize("byte", [0, 1, 32, 127, 255])
def test_one_byte_value_makes_only_longest_chunks(byte: int, kernel: str) -> None:
    lengths = cut_lengths(bytes([byte]) * (2 * MAX_SIZE_BYTES + 5), True, kernel)
    assert lengths == [MAX_SIZE_BYTES, MAX_SIZE_BYTES, 5]


# What chunking is for.


def edited(data: bytes, source: random.Random) -> bytes:
    at = source.randrange(len(data))
    size = source.randint(1, 100)
    inserted = source.randbytes(size)
    kind = source.choice(["insert", "delete", "overwrite"])
    return (
        data[:at] + (inserted if kind != "delete" else b"") + data[at + size * (kind != "insert") :]
    )


@pytest.mark.parametrize("make", [random_bytes, numbered_lines])
def test_small_edit_changes_few_chunks(make: Callable[[int, int], bytes]) -> None:
    data = make(4 * 1024 * 1024, 11)
    known = set(map(bytes, cut(data, True)))
    changed = [
        len(set(map(bytes, cut(edited(data, random.Random(seed)), True))) - known)
        for seed in range(30)
    ]
    assert max(changed) <= 8
    assert sum(changed) / len(changed) < 3


def test_mean_length_is_about_64_kib() -> None:
    lengths = cut_lengths(random_bytes(16 * 1024 * 1024, 3), True)
    assert 60 * 1024 < sum(lengths) / len(lengths) < 70 * 1024


# Streams, threads, installations.


def test_finished_chunker_takes_another_stream() -> None:
    chunker = Chunker()
    first = [*chunker.feed(b"one"), *chunker.finish()]
    assert (first, chunker.finish()) == ([b"one"], [])
    assert [*chunker.feed(memoryview(b"two")), *chunker.finish()] == [b"two"]


def test_feeding_single_bytes_takes_linear_time() -> None:
    def seconds(size: int) -> float:
        chunker = Chunker()
        byte = bytes(1)
        started = time.process_time()
        for _ in range(size):
            chunker.feed(byte)
        chunker.finish()
        return time.process_time() - started

    assert min(seconds(1_200_000) for _ in range(2)) < 10 * min(seconds(300_000) for _ in range(3))


def test_views_of_a_reused_buffer_are_not_copies() -> None:
    buffer = bytearray(random_bytes(300_000))
    first = cut(memoryview(buffer), False)[0]
    buffer[0] ^= 255
    assert first[0] == buffer[0]


@pytest.mark.parametrize("kernel", FAST_KERNELS)
def test_threads_may_cut_at_once(kernel: str) -> None:
    inputs_ = [random_bytes(1_000_000, seed) for seed in range(8)]
    expected = [cut_lengths(data, True, kernel) for data in inputs_]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = list(pool.map(lambda data: cut_lengths(data, True, kernel), inputs_))
            assert found == expected


def test_unknown_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="no chunking kernel named quantum"):
        cut_lengths(b"", True, "quantum")


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        (["twinfold._chunker"], ["numpy", "python"]),
        (["twinfold._chunker", "numpy"], ["python"]),
    ],
)
def test_works_without_the_extension(missing: list[str], expected: list[str]) -> None:
    if "numpy" in expected:
        pytest.importorskip("numpy")
    data = random_bytes(200_000)
    program = (
        f"import sys; sys.path.insert(0, {str(Path(twinfold.__file__).parents[1])!r})\n"
        f"sys.modules.update(dict.fromkeys({missing}))\n"
        "from twinfold.core import chunking\n"
        f"assert list(chunking.available_kernels()) == {expected}\n"
        "print(chunking.cut_lengths(sys.stdin.buffer.read(), True))"
    )
    done = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True)
    assert (done.returncode, json.loads(done.stdout)) == (0, cut_lengths(data, True)), done.stderr
