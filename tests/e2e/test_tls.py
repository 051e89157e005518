"""Beyond loopback there is TLS only, and the client knows the certificate from the invite."""

from __future__ import annotations

import contextlib
import http.server
import re
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

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


def once(pair: Pair, address: str, env: dict[str, str] | None = None) -> Result:
    words = ("client", pair.source, "--once", "--server", address)
    return run(*words, state=pair.client_state, env=env)


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


def test_tls_is_not_spoken_to_a_plain_server(pair: Pair) -> None:
    """An invite with a fingerprint means TLS, whoever answers in plain HTTP."""
    (pair.source / "file").write_bytes(b"file")
    pair.start_server()
    assert_one_line(once(pair, f"{pair.invite}#sha256-{'0' * 64}"))
    assert not (pair.dest / "file").exists()


class Vouched:
    """A certificate that an authority of the test's own vouches for."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        self.root, self.certificate, self.key = (
            folder / name for name in ("root.pem", "cert.pem", "key.pem")
        )
        authority.cert_pem.write_to_path(self.root)
        issued.private_key_pem.write_to_path(self.key)
        for pem in issued.cert_chain_pems:
            pem.write_to_path(self.certificate, append=True)

    @property
    def options(self) -> list[str | Path]:
        """What a server that has it is started with."""
        return ["--tls-cert", self.certificate, "--tls-key", self.key]


def test_a_certificate_of_ones_own(pair: Pair, tmp_path: Path) -> None:
    """Known by the invite, or by its authority where a URL is given; not otherwise."""
    (pair.source / "file").write_bytes(b"file")
    vouched = Vouched(tmp_path)
    pair.start_server(*vouched.options)
    url = f"https://{pair.token}@127.0.0.1:{pair.port}"
    assert "not trusted" in assert_one_line(once(pair, url))
    assert not (pair.dest / "file").exists()
    assert once(pair, url, {"SSL_CERT_FILE": str(vouched.root)}).code == 0
    pair.assert_equal()
    elsewhere = url.replace("127.0.0.1", "localhost")
    assert_one_line(once(pair, elsewhere, {"SSL_CERT_FILE": str(vouched.root)}))
    pair.sync()


def test_a_key_of_another_certificate(pair: Pair, tmp_path: Path) -> None:
    """A server whose files do not fit together does not start."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    one, other = Vouched(tmp_path / "one"), Vouched(tmp_path / "other")
    words = ("--tls-cert", one.certificate, "--tls-key", other.key)
    result = run("server", pair.dest, "--listen", "127.0.0.1:0", *words, state=pair.server_state)
    assert "certificate" in assert_one_line(result)


def old_context(role: int) -> ssl.SSLContext:
    """Return settings that know TLS 1.1 and nothing newer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context = ssl.SSLContext(role)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


@contextlib.contextmanager
def old_server(vouched: Vouched) -> Iterator[int]:
    """Offer TLS 1.1 on a port."""
    context = old_context(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(vouched.certificate, vouched.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near, _ = listener.accept()
                    with contextlib.suppress(OSError), context.wrap_socket(near, True) as tls:
                        tls.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def speaks_tls_1_1(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port)) as near:
        try:
            with old_context(ssl.PROTOCOL_TLS_CLIENT).wrap_socket(near):
                return True
        except OSError:
            return False


def test_tls_1_1_is_too_old(reachable: Pair, tmp_path: Path) -> None:
    """Neither side speaks it, though this machine could."""
    with old_server(Vouched(tmp_path)) as port:
        if not speaks_tls_1_1(port):
            pytest.skip("this machine cannot speak TLS 1.1")
        assert not speaks_tls_1_1(reachable.port)
        invite = reachable.invite.replace(f":{reachable.port}#", f":{port}#")
        line = assert_one_line(once(reachable, invite))
        assert "certificate" not in line, "it came as far as the certificate"


class Redirecting(http.server.BaseHTTPRequestHandler):
    """Sends everybody on to the real server."""

    to_port = 0

    def _redirect(self) -> None:
        self.send_response(307)
        self.send_header("Location", f"http://127.0.0.1:{self.to_port}{self.path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = _redirect  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_redirect_is_not_followed(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token and the content go to the address that was given, and nowhere else."""
    (pair.source / "file").write_bytes(b"file")
    pair.start_server()
    proxy = pair.proxy()
    monkeypatch.setattr(Redirecting, "to_port", proxy.port)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as redirecting:
        thread = threading.Thread(target=redirecting.serve_forever)
        thread.start()
        address = f"twinfold://{pair.token}@127.0.0.1:{redirecting.server_address[1]}"
        line = assert_one_line(once(pair, address))
        redirecting.shutdown()
        thread.join()
    assert "not a twinfold server" in line
    assert proxy.connections == 0


def test_a_proxy_of_the_environment_is_not_asked(pair: Pair) -> None:
    """The token is shown to nobody but the server."""
    (pair.source / "file").write_bytes(b"file")
    pair.start_server()
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "ALL_PROXY"), "http://127.0.0.1:1")
    assert once(pair, pair.invite, proxies).code == 0
