"""The command line: what is refused, with which line and code; what programs are told."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from twinfold import checks, cli, config, json_lines, registry, wiring
from twinfold.client.events import (
    Applied,
    Event,
    Held,
    InSync,
    Listener,
    Problem,
    Progress,
    Status,
)
from twinfold.config import ServerAddress
from twinfold.errors import TwinfoldError, UsageError
from twinfold.server.events import Listening

LOOPBACK = ServerAddress("127.0.0.1", 8730, tls=False, token="secret")


@pytest.fixture(autouse=True)
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in os.environ:
        if name.startswith("TWINFOLD_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TWINFOLD_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    return path


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """Run a command that must fail and return its code and its only line."""
    code = cli.run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("twinfold: ")
    return code, captured.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["clien"], "Did you mean 'client'"),
        (["client"], "Missing argument 'SOURCE'"),
        (["client", "--nope", "x"], "--nope"),
        (["client", "/a", "/b"], "unexpected extra argument"),
        (["client", "/nowhere"], "does not exist"),
        (["client", "{file}"], "is not a folder"),
        (["client", "{source}", "--limit", "0"], "--limit"),
        (["client", "{source}", "--compress", "99"], "--compress"),
        (["client", "{source}", "--server", "nonsense"], "--server"),
        (["client", "{source}", "--server", "http://127.0.0.1:1"], "no token"),
        (["client", "{source}", "--server", "http://192.0.2.1:1", "--token", "t"], "plain HTTP"),
        (["server", "{file}"], "is not a folder"),
        (["server", "{file}/below"], "lies below a file"),
        (["server", "/nowhere/dest"], "make that first"),
        (["server", "{source}", "--listen", "8730"], "--listen"),
        (["server", "{source}", "--keep", "30"], "--keep"),
        (["server", "{source}", "--token", "a b"], "--token"),
        (["server", "{source}", "--tls-cert", "{file}"], "--tls-key"),
        (["server", "{source}", "--tls-cert", "{file}", "--tls-key", "/nowhere"], "--tls-key"),
        (["wait", "{source}", "--timeout", "soon"], "--timeout"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str],
    reason: str,
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "file"
    file.touch()
    code, line = refusal(capsys, *(a.format(file=file, source=source) for a in arguments))
    assert code == 2
    assert reason in line


def test_client_without_a_server_fails_with_what_to_do(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = refusal(capsys, "client", source)
    assert code == 1
    assert "twinfold server DEST" in line


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 2
    assert "Commands:" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["server", "client", "status", "wait", "demo"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([command, "--help"]) == 0
    assert f"Usage: twinfold {command}" in capsys.readouterr().out


def test_every_option_of_a_value_names_its_environment_variable(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli.run(["client", "--help"])
    cli.run(["server", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for option in [
        "adopt", "compress", "dry-run", "ignore", "json", "keep", "limit", "listen", "once",
        "server", "take-over", "tls-cert", "tls-key", "token",
    ]:  # fmt: skip
        assert f"TWINFOLD_{option.upper().replace('-', '_')}" in text


def test_options_may_come_from_the_environment(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TWINFOLD_LIMIT", "nonsense")
    assert "--limit 'nonsense'" in refusal(capsys, "client", source)[1]


def test_ignore_patterns_of_the_environment_may_contain_spaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TWINFOLD_IGNORE", "my file\n*.o\n")
    assert cli.ignore_patterns([]) == ("my file", "*.o")
    assert cli.ignore_patterns(["given"]) == ("given",)


def test_defaults_shown_in_the_help_are_those_of_the_settings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cli.run(["server", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert f"default: {config.DEFAULT_HOST}:{config.DEFAULT_PORT}" in text
    assert f"default: {config.DEFAULT_KEEP}" in text


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (TwinfoldError("two\nlines \x1b[31m"), 1, "twinfold: two lines \\x1b[31m\n"),
        (UsageError("wrong"), 2, "twinfold: wrong\n"),
        (PermissionError(13, "Permission denied", b"/f\xff"), 1, "twinfold: Permission denied: "),
        (ValueError("odd"), 1, "twinfold: unexpected ValueError: odd; TWINFOLD_DEBUG=1"),
    ],
)
def test_every_error_is_one_line_without_a_traceback(
    error: Exception,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_given: str) -> bytes:
        raise error

    monkeypatch.setattr(checks, "check_source", fail)
    found, text = refusal(capsys, "client", "x")
    assert found == code
    assert text.startswith(line)


def test_interrupt_is_exit_code_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_given: str) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(checks, "check_source", interrupt)
    assert cli.run(["client", "x"]) == 130


def run_python(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.process
def test_module_runs_as_a_program() -> None:
    done = run_python("-m", "twinfold", "client", "/nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("twinfold: SOURCE /nowhere does not exist")


@pytest.mark.process
def test_a_command_starts_without_what_it_does_not_need(tmp_path: Path) -> None:
    """Each of these modules would cost every start a tenth of a second or so."""
    code = f"""
import sys
from twinfold import cli
cli.run(["client", {str(tmp_path)!r}])
heavy = {{"aiohttp", "sqlalchemy", "alembic", "pydantic", "rich", "numpy", "cryptography"}}
print(sorted(heavy & sys.modules.keys()))
"""
    assert run_python("-c", code).stdout == "[]\n"


@pytest.mark.process
def test_output_that_nobody_reads_is_no_traceback() -> None:
    code = """
import os, sys
from twinfold.output import write_line
from twinfold.errors import TwinfoldError
reader, writer = os.pipe()
os.dup2(writer, 1); os.close(writer); os.close(reader)
try:
    write_line("x")
except TwinfoldError:
    sys.exit(7)
"""
    done = run_python("-c", code)
    assert (done.returncode, done.stderr) == (7, "")


@pytest.mark.process
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_output_that_has_no_room() -> None:
    """What is asked for fails in one line; what is only told is left out."""
    code = """
import os, sys
from twinfold.output import finish_output, tell_line, write_line
from twinfold.errors import TwinfoldError
os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
for _ in range(10_000):
    tell_line("x" * 100)
try:
    write_line("x")
except TwinfoldError as error:
    finish_output()
    sys.exit(str(error))
"""
    done = run_python("-c", code)
    assert done.returncode == 1
    assert done.stderr == (
        "standard output cannot be written (no space left on device); send it somewhere else\n"
    )


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_are_no_failure(tmp_path: Path, closed: str) -> None:
    """Some start their services so. What is opened later does not come to stand for a stream."""
    program = f"{shlex.quote(sys.executable)} -m twinfold"
    command = f"cd {shlex.quote(str(tmp_path))} && exec {program} --version {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout[:9] == (b"" if " >&-" in f" {closed}" else b"twinfold ")


def test_client_refuses_a_destination_in_its_source(
    source: Path, state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = source / "dest"
    inside.mkdir()
    listening = Listening(LOOPBACK, os.fsencode(inside), b"id")
    with registry.announced(state_dir, listening):
        for arguments in [[], ["--server", LOOPBACK.invite]]:
            code, line = refusal(capsys, "client", source, *arguments)
            assert code == 2
            assert "lies in SOURCE" in line


def test_client_events_in_json_have_the_names_of_the_contract(
    capsys: pytest.CaptureFixture[str],
) -> None:
    events: list[Event] = [
        InSync(78_579, 1_298_681_992, 229_007_562, 0, 9.1, 0),
        Problem(b"a/b\xff\n", "busy \udcff"),
        Held("too many", 4_711),
        Progress(1, 2, 3, 4),
        Applied("put", b"x"),
    ]
    for event in events:
        json_lines.ClientLines()(event)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {
            "event": "in_sync",
            "files": 78_579,
            "bytes": 1_298_681_992,
            "sent_bytes": 229_007_562,
            "reused_bytes": 0,
            "seconds": 9.1,
            "problems": 0,
        },
        {"event": "problem", "path": "a/b\\xff\n", "reason": "busy \\xff"},
        {"event": "held", "reason": "too many", "deletions": 4_711},
    ]


def test_dry_run_in_json_lists_the_changes() -> None:
    assert json_lines.dry_run_fields(Applied("move", b"new", b"old")) == {
        "event": "would",
        "change": "move",
        "path": "new",
        "source": "old",
    }


def test_server_in_json_says_where_it_listens() -> None:
    assert json_lines.listening_fields(Listening(LOOPBACK, b"/dest", b"id")) == {
        "event": "listening",
        "url": "http://127.0.0.1:8730",
        "invite": "twinfold://secret@127.0.0.1:8730",
    }


def status(in_sync: bool, problems: list[Problem]) -> Status:
    return Status(
        source="/s\udcff",
        server="http://127.0.0.1:8730",
        pid=1,
        activity="live",
        detail="",
        files=3,
        size_bytes=5,
        sent_bytes=7,
        reused_bytes=9,
        problems=problems,
        in_sync_at=1.5,
        in_sync=in_sync,
    )


def test_status_in_json_uses_the_names_of_the_events() -> None:
    found = status(in_sync=True, problems=[Problem(b"p", "why")])
    fields = json_lines.status_fields(found)
    json.loads(json_lines.encode(json_lines.statuses_fields([found])))
    shared = {"files", "bytes", "sent_bytes", "reused_bytes", "problems"}
    assert {name: fields[name] for name in shared} == {
        "files": 3,
        "bytes": 5,
        "sent_bytes": 7,
        "reused_bytes": 9,
        "problems": 1,
    }
    assert fields["source"] == "/s\\xff"
    assert fields["problem_list"] == [{"path": "p", "reason": "why"}]


@pytest.fixture
def settings_seen(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Let a server be announced, and catch what the client would be started with."""
    seen: list[object] = []

    def run_client(settings: config.ClientSettings, listener: Listener) -> int:
        seen.append(settings)
        listener(InSync(1, 2, 3, 4, 0.5, 1))
        return 3

    monkeypatch.setattr(wiring, "run_client", run_client)
    with registry.announced(state_dir, Listening(LOOPBACK, b"/dest", b"id")):
        yield seen


def test_client_is_started_with_what_was_asked_for(
    source: Path, state_dir: Path, settings_seen: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--once --ignore a --ignore b --limit 1K --compress off --take-over --token t --json"
    assert cli.run(["client", str(source), *options.split()]) == 3
    assert settings_seen == [
        config.ClientSettings(
            source=os.fsencode(source.resolve()),
            address=LOOPBACK.with_token("t"),
            state_dir=state_dir,
            once=True,
            ignore=("a", "b"),
            limit_bytes_per_s=1_024,
            compress=0,
            take_over=True,
        )
    ]
    assert json.loads(capsys.readouterr().out)["event"] == "in_sync"


def test_client_without_options_is_live_and_plain(
    source: Path, settings_seen: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["client", str(source)]) == 3
    (settings,) = settings_seen
    assert isinstance(settings, config.ClientSettings)
    assert (settings.once, settings.ignore, settings.compress) == (False, (), None)
    assert "in sync" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("in_sync", "problems", "code"), [(True, 0, 0), (True, 1, 3), (False, 0, 3)]
)
def test_wait_says_by_its_code_whether_all_is_equal(
    in_sync: bool,
    problems: int,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = status(in_sync=in_sync, problems=[Problem(b"p", "why")] * problems)
    monkeypatch.setattr(wiring, "wait", lambda _state_dir, _source, _timeout_s: found)
    assert cli.run(["wait", ".", "--timeout", "1", "--json"]) == code
    assert json.loads(capsys.readouterr().out)["in_sync"] == in_sync
    assert cli.run(["wait", "."]) == code
    assert ("p: why" in capsys.readouterr().out) == bool(problems)


def test_status_of_a_source_without_a_client_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wiring, "status", lambda _state_dir, _source: [])
    code, line = refusal(capsys, "status", "/nowhere")
    assert (code, "no client of /nowhere" in line) == (1, True)
    assert cli.run(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"clients": []}
