"""Beyond loopback there is TLS only, and the client knows the certificate from the invite."""

from __future__ import annotations

import re

import pytest

from tests.e2e.harness import Pair, Result, assert_one_line, run
from tests.e2e.trees import random_bytes

pytestmark = pytest.mark.process


@pytest.fixture
def reachable(pair: Pair) -> Pair:
    """A pair whose server listens on every address of this machine."""
    (pair.source / "file").write_bytes(random_bytes(200_000))
    pair.start_server(listen="0.0.0.0:0")
    pair.invite = re.sub("@[^:]*:", "@127.0.0.1:", pair.invite)
    return pair


def once(pair: Pair, address: str) -> Result:
    return run("client", pair.source, "--once", "--server", address, state=pair.client_state)


def test_an_invite_carries_the_certificate(reachable: Pair) -> None:
    """A server beyond loopback makes its certificate; its invite lets a client in."""
    assert re.search("#sha256-[0-9a-f]{64}$", reachable.invite)
    reachable.sync()


def test_the_certificate_is_kept(reachable: Pair) -> None:
    """An invite goes on being valid when the server starts again."""
    reachable.server.terminate()
    invite = reachable.invite
    reachable.start_server(listen=f"0.0.0.0:{reachable.port}")
    reachable.invite = invite
    reachable.sync()


def test_another_certificate_is_refused(reachable: Pair) -> None:
    """A server with another certificate than the invite says is sent nothing, not the token."""
    wrong = re.sub("#sha256-.*", "#sha256-" + "0" * 64, reachable.invite)
    assert "certificate" in assert_one_line(once(reachable, wrong))
    assert not (reachable.dest / "file").exists()


def test_a_certificate_that_nobody_vouches_for_is_refused(reachable: Pair) -> None:
    """Without a fingerprint the certificate has to be one that the system trusts."""
    url = f"https://{reachable.token}@127.0.0.1:{reachable.port}"
    assert_one_line(once(reachable, url))
    assert not (reachable.dest / "file").exists()


def test_plain_http_is_not_spoken(reachable: Pair) -> None:
    """A server that speaks TLS does not answer plain HTTP."""
    plain = reachable.invite.partition("#")[0]
    assert_one_line(once(reachable, plain))
    assert not (reachable.dest / "file").exists()
