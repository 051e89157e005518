"""The kernels that find where to cut, and the choice among them. All give the same cuts."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Protocol

from twinfold.core.chunking import python_scan
from twinfold.core.chunking.format import MAX_SIZE_BYTES, MIN_SIZE_BYTES

if TYPE_CHECKING:
    from typing_extensions import Buffer

try:
    from twinfold import _chunker
except ImportError:
    _COMPILED: tuple[str, ...] = ()
else:
    _COMPILED = _chunker.kernels()


_ChooseLength = Callable[[memoryview], int]


class Kernel(Protocol):
    """One way to find the cuts."""

    def __call__(self, data: Buffer, final: bool) -> list[int]:
        """Return the lengths of the chunks that can be decided from the data."""


def available_kernels() -> tuple[str, ...]:
    """Return the names of the kernels that work here, fastest first."""
    numpy = () if _numpy_choice() is None else ("numpy",)
    return (*_COMPILED, *numpy, "python")


@cache
def load_kernel(name: str | None = None) -> Kernel:
    """Return the kernel of that name, or the fastest here.

    Raises:
        ValueError: there is no such kernel here.
    """
    if name is None:
        name = (_COMPILED or available_kernels())[0]
    if name in _COMPILED:
        return _compiled_kernel(name)
    numpy_choice = _numpy_choice() if name == "numpy" else None
    if numpy_choice is not None:
        return partial(_cut_lengths, numpy_choice)
    if name == "python":
        return partial(_cut_lengths, python_scan.choose_length)
    raise ValueError(f"no chunking kernel named {name} here")


def _compiled_kernel(name: str) -> Kernel:
    def cut_lengths(data: Buffer, final: bool) -> list[int]:
        return _chunker.cut_lengths(data, final, name)

    return cut_lengths


def _numpy_choice() -> _ChooseLength | None:
    """Return NumPy's choice of lengths; NumPy is imported only when asked for."""
    try:
        from twinfold.core.chunking import numpy_scan
    except ImportError:
        return None
    return numpy_scan.choose_length


def _cut_lengths(choose_length: _ChooseLength, data: Buffer, final: bool) -> list[int]:
    lengths = []
    rest = memoryview(data).cast("B")
    while len(rest) >= MAX_SIZE_BYTES or (final and rest):
        reach = rest[:MAX_SIZE_BYTES]
        length = choose_length(reach) if len(reach) > MIN_SIZE_BYTES else len(reach)
        lengths.append(length)
        rest = rest[length:]
    return lengths
