"""Whether to compress, from what was measured."""

from __future__ import annotations

from twinfold.core.compression import CompressionChooser, is_incompressible

MIB = 1 << 20


def test_fixed_choices() -> None:
    """Off is off and a level is that level, for any size."""
    assert CompressionChooser(0, loopback=False).level(MIB) is None
    assert CompressionChooser(7, loopback=True).level(10) == 7


def test_small_bodies_are_compressed_well() -> None:
    """A small edit costs few bytes, however fast the network is."""
    assert CompressionChooser(None, loopback=True).level(1_000) == 3


def test_a_slow_network_gets_compression_and_a_fast_one_does_not() -> None:
    """What was measured overrides the first guess, in both directions."""
    chooser = CompressionChooser(None, loopback=True)
    assert chooser.level(MIB) is None
    for _ in range(40):
        chooser.observe_sending(MIB, 1.0)
    assert chooser.level(MIB) is not None
    for _ in range(40):
        chooser.observe_sending(MIB, 0.0005)
    assert chooser.level(MIB) is None


def test_what_does_not_compress_is_not_compressed() -> None:
    """A poor ratio, measured, ends compression; a sample shows it per frame."""
    chooser = CompressionChooser(None, loopback=False)
    assert chooser.level(MIB) is not None
    for _ in range(40):
        chooser.observe_packing(MIB, MIB, 0.01)
    assert chooser.level(MIB) is None
    assert is_incompressible(1_000, 990)
    assert not is_incompressible(1_000, 500)
