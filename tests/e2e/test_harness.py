"""The instruments of the end-to-end tests measure what they say."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.churn import Version, content, find_fault
from tests.e2e.proxy import Proxy
from tests.e2e.trees import differences, make_museum, random_bytes, snapshot

assert sys.platform != "win32"

Change = Callable[[Path], object]


def retime(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def rewrite(path: Path) -> None:
    status = path.stat()
    path.write_bytes(b"B" + path.read_bytes()[1:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def retarget(path: Path) -> None:
    path.unlink()
    path.symlink_to("other")


def become_a_file(path: Path) -> None:
    path.rmdir()
    path.write_bytes(b"")


CHANGES: dict[str, Change] = {
    "a byte": lambda root: rewrite(root / "file"),
    "a nanosecond of a file": lambda root: retime(root / "file"),
    "a nanosecond of a directory": lambda root: retime(root / "folder"),
    "a nanosecond of the root": retime,
    "a file's mode": lambda root: (root / "file").chmod(0o600),
    "the root's mode": lambda root: root.chmod(0o700),
    "a symlink's target": lambda root: retarget(root / "link"),
    "a name more": lambda root: (root / "more").mkdir(),
    "a name less": lambda root: (root / "file").unlink(),
    "a type": lambda root: become_a_file(root / "folder"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_comparison_sees(tmp_path: Path, change: Change) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_bytes(b"A" * 2_000_000)
    (root / "folder").mkdir()
    (root / "link").symlink_to("target")
    before = snapshot(root)
    assert differences(before, snapshot(root)) == []
    change(root)
    assert differences(before, snapshot(root)) != []


def test_a_comparison_leaves_out_only_the_servers_own_folder(tmp_path: Path) -> None:
    (tmp_path / ".twinfold" / "inside").mkdir(parents=True)
    (tmp_path / "below" / ".twinfold").mkdir(parents=True)
    assert set(snapshot(tmp_path)) == {b"", b"below", b"below/.twinfold"}


def test_a_comparison_reaches_beyond_the_longest_path(tmp_path: Path) -> None:
    make_museum(tmp_path)
    tree = snapshot(tmp_path)
    assert max(map(len, tree)) > os.pathconf(tmp_path, "PC_PATH_MAX")
    assert differences(tree, snapshot(tmp_path)) == []


def test_the_proxy_counts_and_cuts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, Proxy(server.getsockname()) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as near:
            far, _ = server.accept()
            with far:
                near.sendall(b"x" * 1000)
                proxy.wait_sent(1000, 10)
                far.sendall(b"12345")
                assert near.recv(100) == b"12345"
                proxy.cut_after(1)
                near.sendall(b"y")
                assert near.recv(100) == b""
        assert (proxy.sent_bytes, proxy.received_bytes) == (1001, 5)


def test_a_mixed_file_is_recognised() -> None:
    """The reader of the kill test sees any mixture, truncation or exchange of versions."""
    old, new = content(Version(3, 1)), content(Version(3, 2))
    assert find_fault("f-3", old) is None
    assert find_fault("f-3", new) is None
    assert find_fault("f-3", b"") is not None
    assert find_fault("f-3", new[:-1]) is not None
    assert find_fault("f-3", new + b"x") is not None
    assert find_fault("f-3", new[:1000] + old[1000:]) is not None
    assert find_fault("f-4", new) is not None
    assert find_fault("f-3", new[:100] + random_bytes(10) + new[110:]) is not None
