"""What the repository promises about itself: documented commands, a clean tree, complete pins."""

import importlib
import importlib.util
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.core import TyperGroup
from typer.main import get_command

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
PIN = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[A-Za-z0-9.!+]+)")

# Completion is typer's own, and explained by --help.
UNDOCUMENTED_OPTIONS = {"--install-completion", "--show-completion"}

# Written in parts, so that this file does not contain what it looks for.
HOME_PATH = re.compile("(?<![A-Za-z0-9_.}-])/" + "(root|home)/")
REGISTRY_HOST = re.compile(
    "|".join(
        re.escape(".".join(parts))
        for parts in [
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("registry", "npmjs"),
            ("crates", "io"),
            ("anaconda", "org"),
            ("deb", "debian", "org"),
        ]
    )
)
LEFTOVER = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME"]) + r")\b")


def repository_files() -> list[Path]:
    """Every file that is in git or would be added to it."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "-co", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    paths = (ROOT / name for name in listing.stdout.split("\0") if name)
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def lines_matching(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in paths
        for number, line in enumerate(path.read_text("utf-8", "replace").split("\n"), 1)
        if pattern.search(line)
    ]


class Command(Protocol):
    """The part of typer's command that is looked at; typer has no public name for its type."""

    hidden: bool
    params: list[Any]


def visible_commands(name: str, command: Command) -> Iterator[tuple[str, Command]]:
    """Yield a command and those below it, each with the words that call it."""
    if command.hidden:
        return
    yield name, command
    if isinstance(command, TyperGroup):
        for word, child in command.commands.items():
            yield from visible_commands(f"{name} {word}", child)


def long_options(command: Command) -> set[str]:
    return {
        option
        for parameter in command.params
        if not getattr(parameter, "hidden", False)
        for option in parameter.opts
        if option.startswith("--")
    }


def has_word(text: str, word: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text) is not None


def test_readme_mentions_every_command_and_option() -> None:
    if importlib.util.find_spec("twinfold.cli") is None:
        pytest.skip("there is no command line yet")
    root = get_command(importlib.import_module("twinfold.cli").app)
    readme = (ROOT / "README.md").read_text("utf-8")
    missing = [
        words
        for name, command in visible_commands("twinfold", root)
        for words in [name, *(f"{name} {option}" for option in long_options(command))]
        if words.split()[-1] not in UNDOCUMENTED_OPTIONS
        if not has_word(readme, words if words == name else words.split()[-1])
    ]
    assert missing == []


@pytest.mark.parametrize(
    "pattern",
    [pytest.param(HOME_PATH, id="home path"), pytest.param(REGISTRY_HOST, id="registry host")],
)
def test_no_file_names_the_machine_it_was_made_on(pattern: re.Pattern[str]) -> None:
    assert lines_matching(pattern, repository_files()) == []


def test_sources_have_no_leftovers() -> None:
    sources = [path for path in repository_files() if path.is_relative_to(ROOT / "src")]
    assert lines_matching(LEFTOVER, sources) == []


def pins() -> dict[str, str]:
    """Versions by canonical name; every line of the constraints is such a pin or a comment."""
    lines = [line for line in CONSTRAINTS.read_text("utf-8").splitlines() if line.strip()]
    entries = [line for line in lines if not line.startswith("#")]
    matches = {entry: PIN.fullmatch(entry) for entry in entries}
    assert [entry for entry, match in matches.items() if match is None] == []
    return {canonicalize_name(m["name"]): m["version"] for m in matches.values() if m}


def test_constraints_hold_versions_and_no_addresses() -> None:
    assert pins()
    assert "://" not in CONSTRAINTS.read_text("utf-8")


def declared_requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(text) for group in [project["dependencies"], *extras] for text in group]


def test_every_declared_dependency_is_pinned_within_its_bounds() -> None:
    versions = pins()
    unmet = [
        str(requirement)
        for requirement in declared_requirements()
        if (version := versions.get(canonicalize_name(requirement.name))) is None
        or version not in requirement.specifier
    ]
    assert unmet == []
