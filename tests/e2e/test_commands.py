"""The other commands and options: status, wait, dry-run, ignore, limit, discovery, demo."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.harness import LIMIT_S, NO_CONTENT_BYTES, Pair, command, environment, run
from tests.e2e.trees import make_museum, make_small_files, random_bytes, snapshot, write_random

pytestmark = pytest.mark.process


def names(folder: Path) -> set[str]:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return {name for name in found if not name.startswith(".twinfold/") and name != ".twinfold"}


def test_a_client_finds_the_server_of_its_user(tmp_path: Path) -> None:
    """On the same machine, as the same user, ``client SOURCE`` needs no address."""
    pair = Pair(tmp_path / "pair")
    try:
        (pair.source / "file").write_bytes(b"file")
        pair.start_server()
        words: list[str | Path] = ["client", pair.source, "--once"]
        assert run(*words, state=pair.server_state).code == 0
        pair.assert_equal()
    finally:
        pair.close()


def test_settings_may_come_from_the_environment(pair: Pair) -> None:
    """``TWINFOLD_<OPTION>`` stands for an option."""
    (pair.source / "file").write_bytes(b"file")
    pair.start_server()
    env = {"TWINFOLD_SERVER": f"http://127.0.0.1:{pair.port}", "TWINFOLD_TOKEN": pair.token}
    assert run("client", pair.source, "--once", state=pair.client_state, env=env).code == 0
    pair.assert_equal()


def test_wait_returns_when_all_is_durable(pair: Pair) -> None:
    """After ``wait`` a kill of both sides loses nothing that was changed before it."""
    pair.start()
    make_small_files(pair.source / "many", 300)
    write_random(pair.source / "big", 6 << 20)
    result = pair.wait()
    pair.server.kill()
    pair.client.kill()
    assert result.code == 0, result
    (event,) = result.objects
    assert event["files"] == 301
    assert event["problems"] == 0
    pair.assert_equal()


def test_wait_ends_when_its_time_is_up(pair: Pair) -> None:
    """``wait --timeout`` ends with 3 while the server is away."""
    pair.start()
    pair.server.kill()
    (pair.source / "file").write_bytes(b"file")
    begin = time.monotonic()
    assert pair.wait(timeout_s=2).code == 3
    assert time.monotonic() - begin < 20


def test_wait_tells_of_problems(pair: Pair) -> None:
    """``wait`` ends with 3 where something could not be synchronised."""
    if sys.platform == "win32":
        pytest.skip("no FIFO there")
    pair.start()
    os.mkfifo(pair.source / "fifo")
    (pair.source / "file").write_bytes(b"file")
    result = pair.wait()
    assert result.code == 3, result
    assert (pair.dest / "file").exists()


def test_status_tells_what_a_client_does(pair: Pair) -> None:
    """``status`` shows each client of this user, for people and for programs."""
    (pair.source / "file").write_bytes(bytes(1_000))
    pair.start()
    shown = run("status", state=pair.client_state)
    assert shown.code == 0, shown
    assert "source" in shown.out
    result = run("status", pair.source, "--json", state=pair.client_state)
    assert result.code == 0, result
    (event,) = result.objects
    assert (event["files"], event["bytes"], event["problems"]) == (1, 1_000, 0)


def test_dry_run_says_what_would_be_done_and_does_nothing(pair: Pair) -> None:
    """``--dry-run`` lists every change; destination and state stay as they are."""
    make_museum(pair.source)
    pair.start_server()
    empty = snapshot(pair.dest)
    proxy = pair.proxy()
    url = f"http://127.0.0.1:{proxy.port}"
    words = ["--dry-run", "--server", url, "--token", pair.token]
    result = run("client", pair.source, *words, state=pair.client_state)
    assert result.code in (0, 3), result
    for name in ("random-5000000", "to-parent", "mode-444", "read-only", "hard"):
        assert name in result.out
    assert "\x1b" not in result.out
    assert "\x07" not in result.out
    assert snapshot(pair.dest) == empty
    assert proxy.sent_bytes < NO_CONTENT_BYTES
    pair.sync()


def test_dry_run_after_a_sync_lists_the_differences_only(pair: Pair) -> None:
    """A second ``--dry-run`` names what has changed, and again changes nothing."""
    make_museum(pair.source)
    (pair.source / "old name").write_bytes(random_bytes(2_000))
    pair.start_server()
    pair.sync()
    before = snapshot(pair.dest)
    (pair.source / "contents" / "text").write_bytes(b"edited")
    (pair.source / "contents" / "zeros").unlink()
    (pair.source / "old name").rename(pair.source / "new name")
    (pair.source / "fresh").mkdir()
    words = pair.client_words("--dry-run")
    words.remove("--json")
    result = run(*words, state=pair.client_state)
    assert result.code in (0, 3), result
    for name in ("contents/text", "contents/zeros", "new name", "fresh"):
        assert name in result.out
    assert "random-300000" not in result.out
    assert snapshot(pair.dest) == before
    pair.sync()


IGNORED = ["build/", "*.o", "/only-at-the-root", "deep/**/cache"]


def make_with_ignored(source: Path) -> set[str]:
    kept = {"a.c", "src", "src/b.c", "src/only-at-the-root", "deep", "deep/x", "deep/x/file"}
    for name in ("a.c", "src/b.c", "src/only-at-the-root", "deep/x/file"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(name.encode())
    for name in ("a.o", "src/b.o", "build/x", "only-at-the-root", "deep/x/cache/y"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(name.encode())
    return kept


def test_ignored_names_are_not_sent(pair: Pair) -> None:
    """``--ignore`` takes patterns as gitignore does, any number of them."""
    kept = make_with_ignored(pair.source)
    pair.start_server()
    options = [word for pattern in IGNORED for word in ("--ignore", pattern)]
    assert pair.once(*options).code == 0
    assert names(pair.dest) == kept


def test_an_ignore_file_is_followed_and_sent(pair: Pair) -> None:
    """``.twinfoldignore`` works as ``--ignore`` does, is sent itself, and may change live."""
    kept = make_with_ignored(pair.source)
    (pair.source / ".twinfoldignore").write_text("# patterns\n" + "\n".join(IGNORED) + "\n")
    pair.start()
    assert names(pair.dest) == kept | {".twinfoldignore"}
    (pair.source / "src" / "c.o").write_bytes(b"ignored")
    (pair.source / "src" / "c.c").write_bytes(b"kept")
    assert pair.wait().code == 0
    assert names(pair.dest) == kept | {".twinfoldignore", "src/c.c"}
    (pair.source / ".twinfoldignore").write_text("build/\n")
    pair.client.expect(
        "in_sync", where=lambda event: event["files"] == 11, since=0, timeout_s=LIMIT_S
    )
    assert {"a.o", "src/c.o", "deep/x/cache/y"} <= names(pair.dest)
    assert "build" not in names(pair.dest)


def test_the_rate_is_limited(pair: Pair) -> None:
    """``--limit`` bounds the bytes a second that leave the client."""
    write_random(pair.source / "big", 3 << 20)
    pair.start_server()
    begin = time.monotonic()
    pair.sync("--limit", "1M")
    assert time.monotonic() - begin > 1.8


def test_the_demo_shows_a_true_mirror(tmp_path: Path) -> None:
    """``demo`` ends with 0 and leaves nothing behind."""
    result = run("demo", state=tmp_path / "state", env={"TMPDIR": str(tmp_path)})
    assert result.code == 0, result
    assert result.out.strip()
    assert [path.name for path in tmp_path.iterdir() if path.name != "state"] == []


def test_json_output_is_nothing_else(pair: Pair) -> None:
    """With ``--json`` every line of standard output is an object with its event's name."""
    make_museum(pair.source)
    pair.start_server()
    result = pair.once()
    assert all("event" in event for event in result.objects)
    assert result.err == ""
    (listening,) = pair.server.events("listening")
    assert listening["url"] == f"http://127.0.0.1:{pair.port}"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize("form", ["json", "plain"])
def test_a_log_without_room_does_not_stop_the_mirror(pair: Pair, form: str) -> None:
    make_museum(pair.source)
    pair.start_server()
    words = pair.client_words("--once")
    if form == "plain":
        words.remove("--json")
    with open("/dev/full", "wb") as full:
        ended = subprocess.run(
            command(words),
            env=environment(pair.client_state),
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=LIMIT_S,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (0, b"")
    pair.assert_equal()


def test_plain_output_has_no_colour_and_no_bar(pair: Pair) -> None:
    """Where output is not a terminal there are calm lines without escape sequences."""
    make_museum(pair.source)
    pair.start_server()
    words = pair.client_words("--once")
    words.remove("--json")
    result = run(*words, state=pair.client_state)
    assert result.code == 0, result
    assert "\x1b" not in result.out + result.err
    assert "\r" not in result.out + result.err
