"""Settings of both sides, and the forms in which people write them."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

import msgspec

from twinfold.core.planning import DeletionLimit
from twinfold.errors import UsageError

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8730
DEFAULT_KEEP = "30d"
LEAST_RATE_BYTES_PER_S = 1 << 10

_INVITE_SCHEME = "twinfold"
_DURATION_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_SIZE_UNITS_BYTES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class ServerAddress(msgspec.Struct, frozen=True):
    """Where a server listens and what it takes to be let in.

    ``fingerprint`` is the SHA-256 of its certificate in lower-case hex, if it speaks TLS
    with a certificate of its own making.
    """

    host: str
    port: int
    tls: bool
    token: str
    fingerprint: str | None = None

    @property
    def url(self) -> str:
        """The address as ``http[s]://HOST:PORT``, without the token."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    @property
    def invite(self) -> str:
        """The line that lets a client in: keep it as secret as the token that it carries.

        It is a URL with the token in it where an invite would be taken for plain HTTP: TLS on
        loopback with a certificate that needs no fingerprint.
        """
        host = f"[{self.host}]" if ":" in self.host else self.host
        end = f"#sha256-{self.fingerprint}" if self.fingerprint else ""
        plain_if_invite = is_loopback(self.host) and not self.fingerprint
        scheme = "https" if self.tls and plain_if_invite else _INVITE_SCHEME
        return f"{scheme}://{quote(self.token, safe='')}@{host}:{self.port}{end}"

    @property
    def needs_authorities(self) -> bool:
        """Whether its certificate is trusted only if one of the system's authorities vouches."""
        return self.tls and self.fingerprint is None

    def with_token(self, token: str) -> ServerAddress:
        """Return the same address with another token."""
        return msgspec.structs.replace(self, token=token)


class ClientSettings(msgspec.Struct, frozen=True):
    """What ``twinfold client`` works with; ``compress`` is None for auto, 0 for off."""

    source: bytes
    address: ServerAddress
    state_dir: Path
    once: bool = False
    ignore: tuple[str, ...] = ()
    limit_bytes_per_s: int | None = None
    compress: int | None = None
    take_over: bool = False
    max_delete: DeletionLimit = DeletionLimit()
    count_first: bool = False


class ServerSettings(msgspec.Struct, frozen=True):
    """What ``twinfold server`` works with; ``keep_s`` is how long the attic keeps things."""

    destination: bytes
    state_dir: Path
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    adopt: bool = False
    keep_s: int = 30 * 86_400
    token: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None


def default_state_dir() -> Path:
    """Return the folder for this user's state (``TWINFOLD_STATE_DIR`` or the platform's own)."""
    given = os.environ.get("TWINFOLD_STATE_DIR")
    if given:
        return Path(given).absolute()
    import platformdirs

    return platformdirs.user_state_path("twinfold", appauthor=False)


def is_loopback(host: str) -> bool:
    """Tell whether ``host`` can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_listen(text: str) -> tuple[str, int]:
    """Return (host, port) of ``HOST:PORT``, ``[IPV6]:PORT``.

    Raises:
        UsageError: it is written otherwise.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+)):([0-9]{1,5})", text)
    if not match or int(match[3]) > 65_535:
        raise UsageError(f"--listen {text!r} is not HOST:PORT, such as 127.0.0.1:8730")
    return match[1] or match[2], int(match[3])


def parse_server(text: str, token: str | None = None) -> ServerAddress:
    """Return the address in an invite or a URL; ``token`` goes before the one in it.

    Raises:
        UsageError: neither of the two, no token in it or beside it, or plain HTTP to an
            address that other machines can reach.
    """
    parts, host, port = _split_address(text)
    fingerprint = _fingerprint(text, parts.fragment)
    secret = token or unquote(parts.username or "")
    if not secret:
        raise UsageError(f"--server {_hidden(text)}: no token; use the server's invite or --token")
    tls = parts.scheme == "https" or (
        parts.scheme == _INVITE_SCHEME and (fingerprint is not None or not is_loopback(host))
    )
    if not tls and not is_loopback(host):
        raise UsageError(
            f"--server {_hidden(text)}: plain HTTP would show your files and the token to others "
            "on the way; use the server's invite or https://"
        )
    return ServerAddress(host, port, tls, check_token(secret), fingerprint if tls else None)


def _split_address(text: str) -> tuple[SplitResult, str, int]:
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"--server {_hidden(text)}: {error}") from error
    if parts.scheme not in (_INVITE_SCHEME, "http", "https") or not host:
        raise UsageError(
            f"--server {_hidden(text)} is neither an invite (twinfold://...) nor a URL"
        )
    if port == 0:
        raise UsageError(f"--server {_hidden(text)}: port 0 is no address to connect to")
    return parts, host, port or (443 if parts.scheme == "https" else DEFAULT_PORT)


def check_token(token: str) -> str:
    """Return ``token`` if it can travel in a header as it is.

    Raises:
        UsageError: it is empty, or has a space or a character beyond ASCII.
    """
    if not re.fullmatch(r"[!-~]{1,1000}", token):
        raise UsageError("--token may only have ASCII letters, digits and signs, without spaces")
    return token


def _fingerprint(text: str, fragment: str) -> str | None:
    if not fragment:
        return None
    match = re.fullmatch(r"sha256-([0-9a-f]{64})", fragment)
    if not match:
        raise UsageError(f"--server {_hidden(text)}: the part after # is not a fingerprint")
    return match[1]


def _hidden(text: str) -> str:
    return repr(re.sub(r"(?s)//.*@", "//...@", text))


def parse_duration(text: str) -> int:
    """Return the seconds in ``30d``, ``12h``, ``90m``, ``0`` ...

    Raises:
        UsageError: it is written otherwise.
    """
    match = re.fullmatch(r"([0-9]{1,9})([smhdw]?)", text)
    if not match or (not match[2] and int(match[1]) != 0):
        raise UsageError(f"--keep {text!r} is not a duration such as 30d, 12h, 90m or 0")
    return int(match[1]) * _DURATION_UNITS_S[match[2] or "s"]


def parse_timeout(text: str) -> float:
    """Return the seconds in ``30``, ``0.5``.

    Raises:
        UsageError: it is written otherwise.
    """
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        raise UsageError(f"--timeout {text!r} is not a number of seconds such as 30 or 0.5")
    return float(text)


def parse_rate(text: str) -> int:
    """Return the bytes per second in ``10M`` (10 MiB/s), ``500K``, ``1G``; 1K is the least.

    Raises:
        UsageError: it is written otherwise, or is so little that servers would give up.
    """
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([KMG]?)", text)
    rate = int(float(match[1]) * _SIZE_UNITS_BYTES[match[2]]) if match else 0
    if rate < LEAST_RATE_BYTES_PER_S:
        raise UsageError(f"--limit {text!r} is not a rate such as 10M, 500K or 1G, at least 1K")
    return rate


def parse_max_delete(text: str) -> DeletionLimit:
    """Return the limit in ``5000`` (so many entries) or ``80%`` (of all entries).

    Raises:
        UsageError: it is written otherwise.
    """
    match = re.fullmatch(r"(\d{1,18})(%?)", text)
    if not match or (match[2] and int(match[1]) > 100):
        raise UsageError(f"--max-delete {text!r} is not a number (5000) or a part of all (80%)")
    number = int(match[1])
    return DeletionLimit(percent=number) if match[2] else DeletionLimit(count=number)


def parse_compress(text: str) -> int | None:
    """Return None for ``auto``, 0 for ``off``, otherwise the zstd level 1 to 19.

    Raises:
        UsageError: it is written otherwise.
    """
    if text in ("auto", "off"):
        return None if text == "auto" else 0
    if not re.fullmatch(r"[0-9]{1,2}", text) or not 1 <= int(text) <= 19:
        raise UsageError(f"--compress {text!r} is not auto, off, or a level from 1 to 19")
    return int(text)
