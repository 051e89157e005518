"""What a process did with paths, as strace saw it: each call that may touch a file is judged."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

CALLS = (
    "open,openat,?openat2,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,unlink,unlinkat,"
    "rmdir,symlink,symlinkat,chmod,fchmodat,?fchmodat2,utimensat,chown,fchownat,lchown,truncate,"
    "mknod,mknodat,setxattr,lsetxattr,removexattr,lremovexattr"
)
_DESCRIPTOR_CALLS = "fchmod,fchown,ftruncate,fallocate,fsetxattr,copy_file_range,write,pwrite64"
_LINE = re.compile(r"^(?:\d+ +)?(?P<call>\w+)\((?P<words>.*)\) += (?P<code>-?\d+)(?P<rest>.*)$")
_AT = re.compile(r'(?:(?:AT_FDCWD|\d+)<(?P<folder>(?:[^>\\]|\\.)*)>, )?"(?P<name>(?:[^"\\]|\\.)*)"')
_FD = re.compile(r"^\d+<(?P<path>(?:[^>\\]|\\.)*)>")
_UNFINISHED = re.compile(r"^(?P<pid>\d+) +(?P<text>.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(?P<pid>\d+) +<\.\.\. \w+ resumed>(?P<text>.*)$")
_WRITING = re.compile(r"O_(WRONLY|RDWR|CREAT|TRUNC|APPEND|TMPFILE)")


class Call:
    """A call that succeeded.

    Attributes:
        places: (folder, name) of each path that it was given; the folder is the descriptor's.
        opened: what the descriptor that it returned leads to; empty if it returned none.
    """

    def __init__(self, line: str, name: str, words: str, rest: str) -> None:
        self.line = line[:1_000]
        self.name = name
        self.words = words
        found = _FD.match("0" + rest)
        self.opened = found["path"] if found and name.startswith(("open", "creat")) else ""
        self.places: list[tuple[str, str]] = []
        if name not in _DESCRIPTOR_CALLS.split(","):
            self.places = [(m["folder"] or "", m["name"]) for m in _AT.finditer(words)]
        if name.startswith("symlink"):
            # The first text is what the link says, no path that is followed.
            self.places = self.places[1:]

    @property
    def writes(self) -> bool:
        """Tell whether it can have changed something."""
        return not self.name.startswith("open") or bool(_WRITING.search(self.words))

    @property
    def follows(self) -> bool:
        """Tell whether it followed a symlink in the last place, had there been one."""
        if self.name in ("chmod", "truncate", "setxattr", "chown"):
            return True
        if self.name in ("fchmodat", "fchmodat2", "utimensat", "fchownat"):
            return "AT_SYMLINK_NOFOLLOW" not in self.words and bool(self.places)
        if self.name == "linkat":
            return "AT_SYMLINK_FOLLOW" in self.words
        return False


def command(log: Path) -> list[str]:
    """Return the words before a command that have its calls recorded."""
    traced = f"trace={CALLS},{_DESCRIPTOR_CALLS}"
    return ["strace", "-f", "-y", "-s", "300", "-o", str(log), "-e", traced, "-e", "signal=none"]


def calls(log: Path) -> Iterator[Call]:
    """Yield the calls of a record that succeeded."""
    begun: dict[str, str] = {}
    with log.open(encoding="utf-8", errors="backslashreplace") as lines:
        for raw in lines:
            line = raw.rstrip("\n")
            if found := _UNFINISHED.match(line):
                begun[found["pid"]] = found["text"]
                continue
            if found := _RESUMED.match(line):
                line = f"{found['pid']} {begun.pop(found['pid'], '')}{found['text']}"
            if (call := _LINE.match(line)) and not call["code"].startswith("-"):
                yield Call(line, call["call"], call["words"], call["rest"])


def strayed(log: Path, inside: Path, canary: Path, counts: Counter[str]) -> list[str]:
    """List the calls of a server that touched something that is not below ``inside``.

    A path is judged by the descriptor that it starts at, and has to be a single name there.
    """
    found: list[str] = []
    for call in calls(log):
        counts["calls judged"] += 1
        reached = [call.opened, *(f"{folder}/{name}" for folder, name in call.places)]
        if first := _FD.match(call.words):
            reached.append(first["path"])
        if any(is_within(path, canary) for path in reached):
            found.append(call.line)
            continue
        for folder, name in call.places:
            if is_within(folder, inside):
                counts["calls judged: at a descriptor of the folder"] += 1
                if ("/" in name or name == "..") or call.follows:
                    found.append(call.line)
    return found


def written(log: Path, source: Path, counts: Counter[str]) -> list[str]:
    """List the calls that changed, or could have changed, something in ``source``."""
    found: list[str] = []
    for call in calls(log):
        counts["calls judged"] += 1
        reached = [call.opened]
        reached += [name if name.startswith("/") else f"{at}/{name}" for at, name in call.places]
        if first := _FD.match(call.words):
            reached.append(first["path"])
        if any(is_within(path, source) for path in reached):
            counts["calls judged: in the source"] += 1
            if call.writes:
                found.append(call.line)
    return found


def is_within(path: str, folder: Path) -> bool:
    """Tell whether a path is a folder, or lies below it."""
    return path == str(folder) or path.startswith(f"{folder}/")
