"""What is for one platform only stands in few modules, and the others do without them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "twinfold"
WORKFLOW = ROOT / ".github" / "workflows" / "test.yml"

POSIX_MODULES = ("fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty")


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def platform_of(path: Path) -> str | None:
    """Return what the module asserts of the platform before it imports anything but sys."""
    for statement in ast.parse(path.read_text("utf-8")).body:
        if isinstance(statement, ast.Assert):
            return ast.unparse(statement.test)
        if isinstance(statement, ast.ImportFrom | ast.Import):
            names = {alias.name for alias in statement.names}
            if not names <= {"annotations", "sys"}:
                return None
    return None


def modules_for(assertion: str) -> set[str]:
    return {name_of(path) for path in PACKAGE.rglob("*.py") if platform_of(path) == assertion}


def test_the_modules_that_need_posix_are_the_servers_storage() -> None:
    """The server's hold on its folder goes by descriptors; all else runs on Windows, too."""
    storage = ("attic", "destination", "directories", "perform", "recovery", "staging", "tree")
    assert modules_for("sys.platform != 'win32'") == {
        f"twinfold.storage.{name}" for name in storage
    }


def test_commands_of_the_client_need_no_module_of_one_platform() -> None:
    """What the client's commands load at their start is free of the server's storage."""
    loaded = python(
        "import sys, twinfold.cli, twinfold.wiring, twinfold.demo, twinfold.client.run,"
        " twinfold.screen.live; print(*sys.modules)"
    ).split()
    assert "twinfold.client.sync" in loaded
    assert not modules_for("sys.platform != 'win32'") & set(loaded)


@pytest.mark.parametrize("command", ["", "client", "server", "status", "wait", "release"])
def test_help_needs_no_posix_module(command: str) -> None:
    """Where Python lacks them, the commands still say what they do."""
    words = [command, "--help"] if command else ["--help"]
    out = python(
        f"import sys; sys.modules.update(dict.fromkeys({POSIX_MODULES!r}));"
        f" from twinfold import cli; sys.exit(cli.run({words!r}))"
    )
    assert "Usage: twinfold" in out


def python(program: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=90
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_workflow_runs_what_contributors_run() -> None:
    """The same commands on every platform, by actions of a known major version."""
    workflow = WORKFLOW.read_text("utf-8")
    commands = re.findall(r"- run: (.+)", workflow)
    contributing = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    documented = re.findall(r"(?m)^    ((?:make|py|\.venv\\).*?)(?:\s+#.*)?$", contributing)
    assert sorted(commands) == sorted(documented)
    actions = re.findall(r"uses: (\S+)", workflow)
    assert actions
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", action) for action in actions)
