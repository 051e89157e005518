"""``twinfold demo``: the real server and client at work on a sample folder."""

from __future__ import annotations

import os
import random
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3
from rich.text import Text

from twinfold.errors import TwinfoldError
from twinfold.processes import Program, environment
from twinfold.screen.live import terminal_console
from twinfold.screen.text import count, elapsed, size

STEP_TIMEOUT_S = 30.0
VIDEO_BYTES = 8 << 20
NOTES = 40
SEED = 20

TreeEntry = tuple[object, ...]


def run_demo() -> int:
    """Show every step, check that both trees are equal after each one, and clean up."""
    with _temporary_folder() as place, ExitStack() as stack:
        source, destination = place / "source", place / "dest"
        make_sample(source)
        say = Narrator()
        say(f"A sample folder: {describe(source)}.")
        settings = environment(place / "state")
        server = stack.enter_context(
            Program(["server", str(destination), "--listen", "127.0.0.1:0", "--json"], settings)
        )
        url = server.event("listening", STEP_TIMEOUT_S)["url"]
        say("$ twinfold server dest", f"   # listens at {url}")
        began_s = time.monotonic()
        client = stack.enter_context(Program(["client", str(source), "--json"], settings))
        say("$ twinfold client source")
        say("")
        say("", f"{'':<43}{'sent':>10}{'reused':>11}{'time':>9}")
        trees = Trees(client, source, destination)
        show_steps(say, trees, began_s)
        say("")
        say(f"Both trees are equal: {describe(destination)}.")
        say("Compared: type, bytes, mode, mtime and link target of every entry.")
    return 0


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="twinfold-demo-"))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def make_sample(source: Path) -> None:
    """Make a folder with a large file, many small ones, a link and an empty folder."""
    chance = random.Random(SEED)
    notes = source / "notes"
    notes.mkdir(parents=True)
    (source / "empty").mkdir()
    words = [f"{chance.getrandbits(40):x}" for _ in range(500)]
    for number in range(NOTES):
        text = " ".join(chance.choices(words, k=3_000))
        (notes / f"note {number:02}.txt").write_text(text, "utf-8")
    (source / "video.bin").write_bytes(chance.randbytes(VIDEO_BYTES))
    if os.name == "posix":
        (source / "latest").symlink_to(f"notes/note {NOTES - 1:02}.txt")


class Narrator:
    """Says what happens; in colour where there is a terminal."""

    def __init__(self) -> None:
        self._console = terminal_console()

    def __call__(self, text: str, aside: str = "", result: str = "") -> None:
        """Print a line."""
        line = Text(text, style="bold" if text.startswith("$") else "")
        line.append(aside, style="dim").append(result, style="green")
        self._console.print(line, soft_wrap=True)


class Trees(NamedTuple):
    """A client at work, and the two folders that it keeps equal."""

    client: Program
    source: Path
    destination: Path


def show_steps(say: Narrator, trees: Trees, began_s: float) -> None:
    """Do one thing after the other in the source, and show what each one costs."""
    show_step(say, "first sync", trees, began_s)
    for text, act in STEPS:
        began_s = time.monotonic()
        act(trees.source)
        show_step(say, text, trees, began_s)


def insert_bytes(source: Path) -> None:
    """Insert ten bytes in the middle of the large file, as editors save: by a rename."""
    video, edited = source / "video.bin", source.parent / "edited.bin"
    content = video.read_bytes()
    middle = len(content) // 2
    edited.write_bytes(content[:middle] + b"0123456789" + content[middle:])
    edited.replace(video)


def delete_some(source: Path) -> None:
    """Delete the copied file and the folder with the small ones."""
    (source / "copy.bin").unlink()
    shutil.rmtree(source / "letters")


STEPS: list[tuple[str, Callable[[Path], object]]] = [
    ("edit: 10 bytes inserted in the large file", insert_bytes),
    ("rename: a folder of 40 files", lambda source: (source / "notes").rename(source / "letters")),
    ("copy: the large file", lambda source: shutil.copy(source / "video.bin", source / "copy.bin")),
    ("delete: the copy and the folder", delete_some),
]


def show_step(say: Narrator, text: str, trees: Trees, began_s: float) -> None:
    """Wait until the client says that it is in sync and the trees are equal; show the cost.

    Raises:
        TwinfoldError: that takes too long.
    """
    sent = reused = 0
    deadline_s = time.monotonic() + STEP_TIMEOUT_S
    different: str | None = "nothing compared yet"
    while different is not None:
        try:
            event = trees.client.event("in_sync", deadline_s - time.monotonic())
        except TwinfoldError as error:
            raise TwinfoldError(f"{text}: {error}; different: {different}") from error
        took_s = time.monotonic() - began_s
        sent += _number(event["sent_bytes"])
        reused += _number(event["reused_bytes"])
        different = first_difference(trees.source, trees.destination)
    say(f"{text:<43}", "", f"{size(sent):>10}{size(reused):>11}{elapsed(took_s):>9}")


def first_difference(source: Path, destination: Path) -> str | None:
    """Return a path at which two trees differ, or change meanwhile; None if they are equal."""
    try:
        ours, theirs = snapshot(source), snapshot(destination)
    except FileNotFoundError as error:
        return str(error.filename)
    paths = sorted(ours.keys() | theirs.keys())
    return next((path for path in paths if ours.get(path) != theirs.get(path)), None)


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TwinfoldError(f"the client said {value!r} where a number belongs; report it")
    return value


def snapshot(tree: Path) -> dict[str, TreeEntry]:
    """Return all that is compared of a tree, by path; without the server's own folder."""
    entries: dict[str, TreeEntry] = {}
    for folder, names, files in os.walk(tree):
        if folder == str(tree) and ".twinfold" in names:
            names.remove(".twinfold")
        entries[os.path.relpath(folder, tree)] = _entry(folder)
        for name in [*files, *(n for n in names if os.path.islink(os.path.join(folder, n)))]:
            path = os.path.join(folder, name)
            entries[os.path.relpath(path, tree)] = _entry(path)
    return entries


def _entry(path: str) -> TreeEntry:
    status = os.lstat(path)
    kind, mode = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode) & 0o777
    if stat.S_ISLNK(status.st_mode):
        return kind, os.readlink(path)
    if stat.S_ISDIR(status.st_mode):
        return kind, mode, status.st_mtime_ns
    return kind, mode, status.st_mtime_ns, blake3(Path(path).read_bytes()).digest()


def describe(tree: Path) -> str:
    """Return how many entries of which type a tree has, and its size."""
    entries = [entry for path, entry in snapshot(tree).items() if path != "."]
    files = [entry for entry in entries if entry[0] == stat.S_IFREG]
    folders = sum(entry[0] == stat.S_IFDIR for entry in entries)
    links = sum(entry[0] == stat.S_IFLNK for entry in entries)
    total = sum(
        path.stat().st_size
        for path in tree.rglob("*")
        if path.is_file() and not path.is_symlink() and ".twinfold" not in path.parts
    )
    parts = [count(len(files), "file"), count(folders, "folder"), count(links, "link")]
    return ", ".join([*parts, size(total)])
