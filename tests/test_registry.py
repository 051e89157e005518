"""What is looked at before a start: the folders, and which servers run on this machine."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from twinfold import checks, registry
from twinfold.config import ServerAddress
from twinfold.errors import SourceError, TwinfoldError, UsageError
from twinfold.server.events import Listening

LOOPBACK = ServerAddress("127.0.0.1", 8730, tls=False, token="secret")


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    return path


def test_source_that_cannot_be_read_is_refused(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(_path: object) -> Iterator[None]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", deny)
    with pytest.raises(SourceError, match="cannot be read"):
        checks.check_source(str(source))


def test_source_may_be_a_link_to_a_folder(source: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(source)
    assert checks.check_source(str(link)) == os.fsencode(source.resolve())


def test_missing_destination_is_made(tmp_path: Path) -> None:
    found = checks.check_destination(str(tmp_path / "dest"))
    assert os.path.isdir(found)


def test_link_to_nowhere_is_no_destination(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UsageError, match="not a folder"):
        checks.check_destination(str(tmp_path / "link"))


@pytest.mark.parametrize(
    ("source_name", "destination_name", "apart"),
    [
        ("a", "b", True),
        ("a", "ab", True),
        ("a", "a", False),
        ("a", "a/b", False),
        ("a", "a/b/missing/deeper", False),
        ("a/b", "a", False),
        ("a", "to-a", False),
        ("a", "to-a/b", False),
        ("to-b", "a", False),
        ("a", "b/to-a/b", False),
    ],
)
def test_source_and_destination_must_lie_apart(
    source_name: str, destination_name: str, apart: bool, tmp_path: Path
) -> None:
    for name in ("a/b", "ab", "b"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / "to-a").symlink_to("a")
    (tmp_path / "to-b").symlink_to("a/b")
    (tmp_path / "b" / "to-a").symlink_to("../a")
    source = os.fsencode(tmp_path / source_name)
    destination = os.fsencode(tmp_path / destination_name)
    if apart:
        checks.check_apart(source, destination)
    else:
        with pytest.raises(UsageError, match="lies in"):
            checks.check_apart(source, destination)


def test_running_server_is_found(tmp_path: Path, state_dir: Path) -> None:
    destination = os.fsencode(tmp_path / "dest\udcff")
    with registry.announced(state_dir, Listening(LOOPBACK, destination, b"id")):
        found = registry.find_server(state_dir)
        assert (found.address, found.destination) == (LOOPBACK, destination)
    with pytest.raises(TwinfoldError, match="no server"):
        registry.find_server(state_dir)


def test_server_on_all_addresses_is_found_on_loopback(state_dir: Path) -> None:
    address = ServerAddress("::", 8730, tls=True, token="t", fingerprint="0" * 64)
    with registry.announced(state_dir, Listening(address, b"/dest", b"id")):
        found = registry.find_server(state_dir).address
    assert found == ServerAddress("::1", 8730, tls=True, token="t", fingerprint="0" * 64)


def test_several_servers_are_listed(state_dir: Path) -> None:
    other = ServerAddress("127.0.0.1", 8731, tls=False, token="other")
    with (
        registry.announced(state_dir, Listening(LOOPBACK, b"/one", b"1")),
        registry.announced(state_dir, Listening(other, b"/two", b"2")),
        pytest.raises(UsageError, match=r"8730 \(/one\).*8731 \(/two\).*--server") as caught,
    ):
        registry.find_server(state_dir)
    assert "secret" not in str(caught.value)


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_token_is_for_its_owner_only(state_dir: Path) -> None:
    before = os.umask(0)
    try:
        with registry.announced(state_dir, Listening(LOOPBACK, b"/dest", b"id")):
            (file,) = (state_dir / "servers").iterdir()
            modes = [path.stat().st_mode & 0o777 for path in (state_dir, file.parent, file)]
    finally:
        os.umask(before)
    assert modes == [0o700, 0o700, 0o600]


def announcement_of(state_dir: Path) -> Path:
    with registry.announced(state_dir, Listening(LOOPBACK, b"/dest", b"id")):
        (file,) = (state_dir / "servers").iterdir()
        content = file.read_bytes()
    file.write_bytes(content)
    return file


def edit(file: Path, **fields: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_server_that_is_gone_is_ignored(state_dir: Path) -> None:
    file = announcement_of(state_dir)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    edit(file, pid=ended.pid)
    assert registry.running_servers(state_dir) == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a pid is all there is")
def test_another_process_with_the_pid_of_a_server_is_not_the_server(state_dir: Path) -> None:
    file = announcement_of(state_dir)
    assert len(registry.running_servers(state_dir)) == 1
    edit(file, process="another boot:1")
    assert registry.running_servers(state_dir) == []


def test_damaged_announcement_is_ignored(state_dir: Path) -> None:
    announcement_of(state_dir).write_bytes(b'{"url": 1')
    assert registry.running_servers(state_dir) == []


@pytest.mark.parametrize("destination_name", ["mounted", "mounted/dest", "mounted/missing"])
def test_source_by_another_name_is_recognised(
    destination_name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bind mount is a name that no `realpath` resolves; a link not resolved stands for it."""
    (source / "dest").mkdir()
    (tmp_path / "mounted").symlink_to(source)
    monkeypatch.setattr(os.path, "realpath", os.path.abspath)
    with pytest.raises(UsageError, match="lies in SOURCE"):
        checks.check_apart(os.fsencode(source), os.fsencode(tmp_path / destination_name))
