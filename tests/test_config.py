"""Settings are read as people write them, or refused with a line that says what is wrong."""

import contextlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinfold.config import (
    DEFAULT_PORT,
    ServerAddress,
    check_token,
    is_loopback,
    parse_compress,
    parse_duration,
    parse_listen,
    parse_rate,
    parse_server,
    parse_timeout,
)
from twinfold.errors import UsageError
from twinfold.protocol import MIN_BYTES_PER_S

PRINTABLE = "".join(chr(code) for code in range(0x21, 0x7F))
HOST_NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{2,5})?", fullmatch=True)
HOSTS = st.one_of(
    HOST_NAMES, st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str), st.just("localhost")
)
FINGERPRINTS = st.text("0123456789abcdef", min_size=64, max_size=64)


@st.composite
def addresses(draw: st.DrawFn) -> ServerAddress:
    host = draw(HOSTS)
    tls = draw(st.booleans()) or not is_loopback(host)
    return ServerAddress(
        host=host,
        port=draw(st.integers(1, 65_535)),
        tls=tls,
        token=draw(st.text(PRINTABLE, min_size=1, max_size=60)),
        fingerprint=draw(st.none() | FINGERPRINTS) if tls else None,
    )


@given(addresses())
def test_invite_brings_back_the_address(address: ServerAddress) -> None:
    assert parse_server(address.invite, None) == address


@given(addresses(), st.text(PRINTABLE, min_size=1, max_size=60))
def test_url_and_token_bring_back_the_address(address: ServerAddress, token: str) -> None:
    found = parse_server(address.url, token)
    assert (found.url, found.token) == (address.url, token)


@given(addresses(), st.text(PRINTABLE, min_size=1, max_size=60))
def test_token_beside_an_invite_goes_first(address: ServerAddress, token: str) -> None:
    assert parse_server(address.invite, token) == address.with_token(token)


@given(st.one_of(st.text(), st.text(string.printable).map("twinfold://{}".format)))
def test_any_text_is_an_address_or_wrong_usage(text: str) -> None:
    with contextlib.suppress(UsageError):
        address = parse_server(text, None)
        assert address.tls or is_loopback(address.host)
        assert address.token


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ftp://token@host", "neither an invite"),
        ("twinfold://token@", "neither an invite"),
        ("dest", "neither an invite"),
        ("twinfold://127.0.0.1:8730", "no token"),
        ("http://token@192.0.2.1:8730", "plain HTTP"),
        ("http://token@example.org", "plain HTTP"),
        ("twinfold://token@host#md5-00", "not a fingerprint"),
        ("twinfold://token@host#sha256-00", "not a fingerprint"),
        ("twinfold://token@host:99999", "Port"),
        ("twinfold://token@127.0.0.1:0", "port 0"),
        ("twinfold://token@[::1", "IPv6"),
        ("twinfold://to%20ken@host", "--token"),
    ],
)
def test_wrong_server_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_server(text, None)


def test_refusal_does_not_show_the_token() -> None:
    with pytest.raises(UsageError) as caught:
        parse_server("http://s3cret@192.0.2.1", None)
    assert "s3cret" not in str(caught.value)


def test_invite_beyond_loopback_means_tls() -> None:
    assert parse_server("twinfold://t@192.0.2.1").tls
    assert not parse_server("twinfold://t@127.0.0.1").tls
    assert parse_server(f"twinfold://t@127.0.0.1#sha256-{'0' * 64}").tls


def test_ports_left_out_are_the_usual_ones() -> None:
    assert parse_server("https://t@host").port == 443
    assert parse_server("twinfold://t@host").port == DEFAULT_PORT


@pytest.mark.parametrize("token", ["", " ", "a b", "a\nb", "ü", "x" * 1_001])
def test_token_that_cannot_travel_in_a_header_is_refused(token: str) -> None:
    with pytest.raises(UsageError, match="--token"):
        check_token(token)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8730", ("127.0.0.1", 8730)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65_535)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
    ],
)
def test_listen_is_host_and_port(text: str, expected: tuple[str, int]) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize("text", ["", "8730", ":8730", "host", "host:", "host:65536", "::1:80"])
def test_listen_written_otherwise_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--listen"):
        parse_listen(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("1s", 1), ("90m", 5_400), ("12h", 43_200), ("30d", 2_592_000), ("1w", 604_800)],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5d", "1y", "9" * 5_000 + "d", "٣d"])
def test_wrong_durations_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("1K", 1_024), ("2000", 2_000), ("500K", 512_000), ("10M", 10 << 20), ("0.5G", 1 << 29)],
)
def test_rates(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "0", "0M", "1", "0.9K", "-1", "10m", "10 M", "9" * 400, "1e3", "inf"]
)
def test_wrong_rates_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--limit"):
        parse_rate(text)


@pytest.mark.parametrize(("text", "level"), [("auto", None), ("off", 0), ("1", 1), ("19", 19)])
def test_compression(text: str, level: int | None) -> None:
    assert parse_compress(text) == level


@pytest.mark.parametrize("text", ["", "on", "0", "20", "-1", "1.5", "²", "9" * 5_000])
def test_wrong_compression_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--compress"):
        parse_compress(text)


@pytest.mark.parametrize(("text", "seconds"), [("0", 0.0), ("30", 30.0), ("0.5", 0.5)])
def test_timeouts(text: str, seconds: float) -> None:
    assert parse_timeout(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1s", "1e9"])
def test_wrong_timeouts_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--timeout"):
        parse_timeout(text)


def test_the_least_rate_is_borne_by_servers() -> None:
    """A client that keeps its limit is not taken for one that trickles."""
    assert parse_rate("1K") >= 2 * MIN_BYTES_PER_S
