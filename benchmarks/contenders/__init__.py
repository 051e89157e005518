"""The programs that are compared, each with an empty destination to begin with."""

from __future__ import annotations

from benchmarks.contenders.base import Contender
from benchmarks.contenders.local import Borg, Copy, Restic, Tar, Unison
from benchmarks.contenders.rsync import Rsync, RsyncAndSync, RsyncFsync, RsyncZstd
from benchmarks.contenders.twinfold import Twinfold, TwinfoldZstd

PEERS: tuple[type[Contender], ...] = (
    TwinfoldZstd,
    Rsync,
    RsyncAndSync,
    RsyncFsync,
    RsyncZstd,
    Copy,
    Tar,
    Unison,
    Borg,
    Restic,
)

__all__ = ["PEERS", "Contender", "Rsync", "Twinfold"]
