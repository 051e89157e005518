"""The programs that follow a source for as long as they run."""

from __future__ import annotations

from benchmarks.followers.base import Follower
from benchmarks.followers.lsyncd import Lsyncd
from benchmarks.followers.syncthing import Syncthing
from benchmarks.followers.twinfold import TwinfoldLive

FOLLOWERS: tuple[type[Follower], ...] = (TwinfoldLive, Lsyncd, Syncthing)

__all__ = ["FOLLOWERS", "Follower"]
