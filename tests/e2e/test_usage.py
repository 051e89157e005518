"""Bad usage: one clear line, the right exit code, and nothing done."""

from __future__ import annotations

import json
import os
import re
import socket
import sqlite3
from pathlib import Path

import pytest

from tests.e2e.harness import Pair, Result, assert_one_line, run
from tests.e2e.trees import Tree, plain_user, snapshot

pytestmark = pytest.mark.process

FAILED = (1, 2)


def once(source: Path, state: Path, *options: str) -> Result:
    return run("client", source, "--once", *options, state=state)


@pytest.mark.parametrize("words", [["server"], ["client"], ["client", "x", "--no-such-option"]])
def test_a_command_line_that_lacks_something_is_wrong_usage(
    tmp_path: Path, words: list[str]
) -> None:
    """Missing arguments and unknown options end with exit code 2."""
    result = run(*words, state=tmp_path)
    assert result.code == 2
    assert result.err.strip()
    assert "Traceback" not in result.err


@pytest.mark.parametrize("kind", ["missing", "a file", "a dangling symlink"])
def test_a_source_that_is_no_folder(pair: Pair, kind: str) -> None:
    """SOURCE missing or a file: one line that names it; a live client ends as well."""
    pair.start_server()
    source = pair.base / "no source"
    if kind == "a file":
        source.write_bytes(b"file")
    elif kind == "a dangling symlink":
        source.symlink_to("nowhere")
    for options in (["--once"], ["--dry-run"], []):
        result = run("client", source, "--server", pair.invite, *options, state=pair.client_state)
        assert "no source" in assert_one_line(result, FAILED)


def test_a_destination_that_is_a_file(tmp_path: Path) -> None:
    """DEST that is a file is an error of one line; the file stays."""
    (tmp_path / "dest").write_bytes(b"file")
    result = run("server", tmp_path / "dest", "--listen", "127.0.0.1:0", state=tmp_path / "state")
    assert_one_line(result, FAILED)
    assert (tmp_path / "dest").read_bytes() == b"file"


def test_a_destination_that_is_missing_is_made(pair: Pair) -> None:
    """The server makes DEST where there is none."""
    assert not pair.dest.exists()
    pair.start_server()
    assert pair.dest.is_dir()


def test_a_destination_with_files_needs_adopt(tmp_path: Path) -> None:
    """A non-empty DEST is refused without ``--adopt`` and left as it is."""
    dest = tmp_path / "dest"
    dest.mkdir()
    (dest / "file").write_bytes(b"file")
    before = snapshot(dest)
    result = run("server", dest, "--listen", "127.0.0.1:0", state=tmp_path / "state")
    assert "--adopt" in assert_one_line(result, FAILED)
    assert snapshot(dest) == before
    assert os.listdir(dest) == ["file"]


def test_a_port_in_use(tmp_path: Path) -> None:
    """A port that is taken is an error of one line that names it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listen = f"127.0.0.1:{port}"
        result = run("server", tmp_path / "dest", "--listen", listen, state=tmp_path / "state")
    assert str(port) in assert_one_line(result)


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1", "127.0.0.1:99999", ":", "127.0.0.1:x"])
def test_an_address_to_listen_on_that_is_none(tmp_path: Path, listen: str) -> None:
    """``--listen`` takes HOST:PORT only."""
    result = run("server", tmp_path / "dest", "--listen", listen, state=tmp_path / "state")
    assert_one_line(result, 2)


def test_a_second_server_on_a_destination(pair: Pair) -> None:
    """One server per DEST: the second ends with one line, the first goes on."""
    (pair.source / "file").write_bytes(b"file")
    pair.start_server()
    result = run("server", pair.dest, "--listen", "127.0.0.1:0", state=pair.server_state)
    assert_one_line(result)
    pair.sync()


def test_a_second_client_on_a_source(pair: Pair) -> None:
    """One client per SOURCE: the second ends with one line, the first goes on."""
    pair.start()
    for words in (["--once"], []):
        result = run(*pair.client_words(*words), state=pair.client_state)
        assert_one_line(result)
    (pair.source / "file").write_bytes(b"file")
    pair.converge()


def test_a_folder_of_another_client(pair: Pair) -> None:
    """A second client for one DEST is refused; ``--take-over`` makes it the owner."""
    (pair.source / "file").write_bytes(b"file")
    pair.start()
    other = pair.base / "other"
    other.mkdir()
    (other / "file").write_bytes(b"of the other source")
    words: list[str | Path] = ["client", other, "--server", pair.invite]
    state = pair.base / "other-state"
    assert_one_line(run(*words, "--once", state=state))
    assert_one_line(run(*words, state=state))
    pair.assert_equal()
    assert run(*words, "--once", "--take-over", state=state).code == 0
    assert (pair.dest / "file").read_bytes() == b"of the other source"
    (pair.source / "file").write_bytes(b"by the first client")
    assert pair.client.wait_exit() == 1
    assert len(pair.client.errors.splitlines()) == 1
    assert (pair.dest / "file").read_bytes() == b"of the other source"


def test_a_wrong_token(pair: Pair) -> None:
    """A wrong token is refused for good: one line, exit 1, also for a live client."""
    pair.start_server()
    wrong = re.sub("//[^@]+@", "//wrong@", pair.invite)
    for words in (["--once"], []):
        result = run("client", pair.source, "--server", wrong, *words, state=pair.client_state)
        line = assert_one_line(result)
        assert "token" in line
        assert pair.token not in line


def test_a_missing_token(pair: Pair) -> None:
    """A URL without a token is wrong usage."""
    pair.start_server()
    url = f"http://127.0.0.1:{pair.port}"
    assert "token" in assert_one_line(once(pair.source, pair.client_state, "--server", url), FAILED)
    result = once(pair.source, pair.client_state, "--server", url, "--token", pair.token)
    assert result.code == 0


def test_a_server_that_is_nowhere(tmp_path: Path) -> None:
    """Without ``--server`` and without a server of this user there is one line to say so."""
    (tmp_path / "source").mkdir()
    assert "server" in assert_one_line(once(tmp_path / "source", tmp_path / "state"), FAILED)


@pytest.mark.parametrize(
    "address",
    [
        "nonsense",
        "ftp://token@127.0.0.1:1",
        "twinfold://",
        "http://token@192.0.2.1:8730",
        "twinfold://token@127.0.0.1:port",
        "twinfold://token@127.0.0.1:1#sha256-zz",
    ],
)
def test_a_server_address_that_is_none(tmp_path: Path, address: str) -> None:
    """What is neither an invite nor a URL, and plain HTTP to other machines, is refused."""
    (tmp_path / "source").mkdir()
    line = assert_one_line(once(tmp_path / "source", tmp_path, "--server", address), 2)
    assert "token@" not in line


@pytest.mark.parametrize("inner", ["dest", "source", "both are one"])
def test_source_and_destination_within_each_other(tmp_path: Path, inner: str) -> None:
    """DEST inside SOURCE on this machine, or the other way round, is refused; nothing is sent."""
    pair = Pair(tmp_path / "pair")
    if inner == "dest":
        pair.dest = pair.source / "below" / "dest"
        pair.dest.parent.mkdir()
    elif inner == "source":
        pair.dest, pair.source = pair.source, pair.source / "below"
    else:
        pair.dest = pair.source
    pair.client_state = pair.server_state
    try:
        pair.start_server()
        pair.source.mkdir(exist_ok=True)
        (pair.source / "file").write_bytes(b"file")
        for options in ([], ["--server", pair.invite]):
            assert_one_line(once(pair.source, pair.client_state, *options), FAILED)
        if inner == "dest":
            assert not (pair.dest / "file").exists()
    finally:
        pair.close()


def test_the_servers_own_name_in_the_source(pair: Pair) -> None:
    """A source with ``.twinfold`` at its root is refused with one line that says so."""
    (pair.source / ".twinfold").mkdir()
    (pair.source / "file").write_bytes(b"file")
    pair.start_server()
    assert ".twinfold" in assert_one_line(pair.once(), FAILED)
    assert not (pair.dest / "file").exists()


@pytest.mark.parametrize("part", ["index", "identity"])
def test_a_destination_of_a_newer_format(pair: Pair, part: str) -> None:
    """A DEST that a newer version wrote is refused and not touched."""
    pair.start_server()
    pair.server.terminate()
    own = pair.dest / ".twinfold"
    if part == "index":
        execute(own / "index.sqlite", "UPDATE alembic_version SET version_num = '9999_newer'")
    else:
        identity = json.loads((own / "server.json").read_text())
        (own / "server.json").write_text(json.dumps(identity | {"format": 9999}))
    before = contents(own)
    result = run("server", pair.dest, "--listen", "127.0.0.1:0", state=pair.server_state)
    assert "newer" in assert_one_line(result)
    assert contents(own) == before


def contents(own: Path) -> Tree:
    tree = snapshot(own)
    return {path: node for path, node in tree.items() if path not in (b"", b"lock")}


def execute(path: Path, statement: str) -> None:
    database = sqlite3.connect(path)
    with database:
        database.execute(statement)
    database.close()


def test_a_client_state_of_a_newer_format(pair: Pair) -> None:
    """A state that a newer version wrote is refused, not overwritten."""
    (pair.source / "file").write_bytes(b"file")
    pair.start_server()
    pair.sync()
    (path,) = pair.client_state.glob("clients/*/state.sqlite")
    execute(path, "PRAGMA user_version = 9999")
    assert_one_line(pair.once())


def test_a_destination_that_cannot_be_written(tmp_path: Path) -> None:
    """A DEST without the right to write is an error of one line."""
    (tmp_path / "dest").mkdir(mode=0o555)
    words: list[str | Path] = ["server", tmp_path / "dest", "--listen", "127.0.0.1:0"]
    assert_one_line(run(*words, state=tmp_path / "state", prefix=plain_user()))
    assert os.listdir(tmp_path / "dest") == []


@pytest.mark.parametrize(
    "options",
    [["--limit", "fast"], ["--limit", "0"], ["--compress", "20"], ["--once", "--dry-run", "x"]],
)
def test_options_with_values_that_are_none(tmp_path: Path, options: list[str]) -> None:
    """A value that an option does not take is wrong usage."""
    (tmp_path / "source").mkdir()
    result = run("client", tmp_path / "source", *options, state=tmp_path / "state")
    assert result.code == 2, result


def test_wait_and_status_without_a_client(tmp_path: Path) -> None:
    """``wait`` for a source without a client fails with one line; ``status`` lists nothing."""
    (tmp_path / "source").mkdir()
    state = tmp_path / "state"
    assert_one_line(run("wait", tmp_path / "source", "--timeout", "5", state=state))
    assert "Traceback" not in run("status", state=state).err
