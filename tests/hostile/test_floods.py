"""Many connections that want nothing good keep no client from its work."""

from __future__ import annotations

import sys

assert sys.platform == "linux"

from pathlib import Path

import pytest

from tests.hostile.floods import flood

pytestmark = pytest.mark.process


@pytest.mark.parametrize(
    ("kind", "few_descriptors"), [("idle", True), ("stalled bodies of strangers", False)]
)
def test_a_flood(tmp_path: Path, kind: str, few_descriptors: bool) -> None:
    """A client at work, and a new one, go on; memory and descriptors stay bounded."""
    assert flood(kind, tmp_path / "pair", few_descriptors=few_descriptors)["floods"]
