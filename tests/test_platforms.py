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
    """Return what the module asserts of the platform, so that type checkers know it, too."""
    asserted = [s for s in ast.parse(path.read_text("utf-8")).body if isinstance(s, ast.Assert)]
    return ast.unparse(asserted[0].test) if asserted else None


def modules_for(assertion: str) -> set[str]:
    return {name_of(path) for path in PACKAGE.rglob("*.py") if platform_of(path) == assertion}


POSIX, LINUX = "sys.platform != 'win32'", "sys.platform == 'linux'"


def test_few_modules_are_for_some_platforms_only() -> None:
    """The server's hold on its folder needs POSIX, as does the help that the C code gives."""
    storage = {name for name in modules_for(POSIX) if name.startswith("twinfold.storage.")}
    assert modules_for(POSIX) - storage == {"twinfold.system.bulk"}
    assert modules_for(LINUX) == {"twinfold.client.inotify", "twinfold.client.inotify_calls"}


def test_modules_for_all_platforms_import_the_others_with_care_only() -> None:
    """In a function, or below a condition: loading them needs nothing of one platform."""
    restricted = modules_for(POSIX) | modules_for(LINUX)
    careless = [
        f"{name_of(path)} imports {name}"
        for path in PACKAGE.rglob("*.py")
        if name_of(path) not in restricted
        for name in imported_at_once(path)
        if name in restricted or name in POSIX_MODULES
    ]
    assert careless == []


def imported_at_once(path: Path) -> set[str]:
    found: set[str] = set()
    for statement in ast.parse(path.read_text("utf-8")).body:
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom) and statement.module:
            found |= {statement.module}
            found |= {f"{statement.module}.{alias.name}" for alias in statement.names}
    return found


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
    documented = re.findall(r"(?m)^    ((?:make|py |\.venv\\).*?)(?:\s+#.*)?$", contributing)
    assert sorted(commands) == sorted(documented)
    actions = re.findall(r"uses: (\S+)", workflow)
    assert actions
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+", action) for action in actions)
