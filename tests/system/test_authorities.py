"""What starts without the authorities' certificates trusts nobody; what comes later has them."""

from __future__ import annotations

import os
import ssl
import sys
from pathlib import Path

import pytest
import trustme

from twinfold.system.authorities import without_authorities

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="OpenSSL finds certificates in other places elsewhere"
)


@pytest.mark.parametrize("place", ["SSL_CERT_FILE", None])
def test_only_the_block_is_without(
    place: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A context of the block knows no authority; one made after it knows those of the user."""
    root = tmp_path / "root.pem"
    trustme.CA().cert_pem.write_to_path(str(root))
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    if place:
        monkeypatch.setenv(place, str(root))
    before = dict(os.environ)
    with without_authorities():
        assert ssl.create_default_context().get_ca_certs() == []
    assert dict(os.environ) == before
    if place:
        assert len(ssl.create_default_context().get_ca_certs()) == 1
