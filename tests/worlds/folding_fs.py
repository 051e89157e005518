"""A small file system in memory that does not tell some names apart, over /dev/fuse.

    python -m tests.worlds.folding_fs MOUNT_POINT [--fold-case] [--fold-form] [--store-decomposed]
        [--forbid CHARACTERS]

It speaks the kernel's FUSE protocol itself (version 7.31): no library is needed, only Linux
and the right to mount. It lives as long as its process; the first line on standard output
says that it is mounted. SIGUSR1 makes it read-only, SIGUSR2 writable again, as a disk that is in
trouble is. Nodes are never freed: it is for tests.
"""

from __future__ import annotations

import sys

assert sys.platform == "linux"

import argparse
import contextlib
import ctypes
import errno
import os
import signal
import stat
import struct
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.worlds.fuse_messages import (
    ATIME_NOW,
    ATTRIBUTES,
    DIRECTORY_ENTRY,
    ENTRY_HEAD,
    IN_HEADER,
    INIT_OUT,
    MTIME_NOW,
    NOREPLACE,
    OPEN_OUT,
    OUT_HEADER,
    SET_ATIME,
    SET_ATTRIBUTES,
    SET_GID,
    SET_MODE,
    SET_MTIME,
    SET_SIZE,
    SET_UID,
    STATFS_OUT,
    TRANSFER,
)

_REQUEST_BYTES = 1 << 20
_MAX_WRITE_BYTES = 128 * 1024
_ROOT = 1
_NAME_MAX = 255

_ATTRIBUTES_HEAD = struct.Struct("<QII")

_WRITING = {4, 6, 8, 9, 10, 11, 12, 13, 16, 35, 45}


@dataclass
class Node:
    """A file, directory or symlink; ``names`` are a directory's, by what they are taken for."""

    number: int
    mode: int
    uid: int
    gid: int
    data: bytearray = field(default_factory=bytearray)
    names: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    links: int = 1
    atime_ns: int = field(default_factory=time.time_ns)
    mtime_ns: int = field(default_factory=time.time_ns)
    ctime_ns: int = field(default_factory=time.time_ns)

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)


@dataclass(frozen=True)
class Request:
    """What the kernel asks: the node it is about, who asks, and the operation's own bytes."""

    node: int
    uid: int
    gid: int
    body: bytes

    def name(self, offset: int = 0) -> bytes:
        return self.body[offset:].split(b"\0", 1)[0]


class FoldingFileSystem:
    """Answers requests; raises OSError for what cannot be done."""

    def __init__(
        self, *, fold_case: bool, fold_form: bool, store_decomposed: bool, forbidden: str
    ) -> None:
        self._fold_case = fold_case
        self._fold_form = fold_form
        self._store_decomposed = store_decomposed
        self._forbidden = forbidden.encode()
        self.is_read_only = False
        self._nodes = {_ROOT: Node(_ROOT, stat.S_IFDIR | 0o755, os.geteuid(), os.getegid())}
        self._listings: dict[int, list[tuple[bytes, int]]] = {}
        self._next = _ROOT + 1
        self._operations: dict[int, Callable[[Request], bytes]] = {
            1: self._lookup,
            3: lambda request: self._attributes(self._nodes[request.node]),
            4: self._set_attributes,
            5: lambda request: bytes(self._nodes[request.node].data),
            6: self._symlink,
            8: self._make_node,
            9: self._make_directory,
            10: lambda request: self._remove(request, directory=False),
            11: lambda request: self._remove(request, directory=True),
            12: lambda request: self._rename(request, request.body[8:], 0),
            13: self._link,
            14: lambda request: OPEN_OUT.pack(0, 0, 0),
            15: self._read,
            16: self._write,
            17: lambda request: STATFS_OUT.pack(
                1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19, 4096, _NAME_MAX, 4096, 0
            ),
            18: lambda request: b"",
            20: lambda request: b"",
            25: lambda request: b"",
            26: lambda request: INIT_OUT.pack(7, 31, 0, 0, 16, 12, _MAX_WRITE_BYTES, 1, 0, 0, 0),
            27: self._open_directory,
            28: self._read_directory,
            29: self._release_directory,
            30: lambda request: b"",
            35: self._create,
            45: lambda request: self._rename(
                request, request.body[16:], struct.unpack_from("<I", request.body, 8)[0]
            ),
        }

    def answer(self, operation: int, request: Request) -> bytes:
        """Do what was asked; return the answer's body."""
        if self.is_read_only and operation in _WRITING:
            raise OSError(errno.EROFS, "read-only by now")
        work = self._operations.get(operation)
        if work is None:
            raise OSError(errno.ENOSYS, "not here")
        return work(request)

    def _key(self, name: bytes) -> str:
        text = name.decode("utf-8", "surrogateescape")
        if self._fold_form:
            text = unicodedata.normalize("NFC", text)
        return text.casefold() if self._fold_case else text

    def _stored(self, name: bytes) -> bytes:
        if not self._store_decomposed:
            return name
        text = name.decode("utf-8", "surrogateescape")
        return unicodedata.normalize("NFD", text).encode("utf-8", "surrogateescape")

    def _child(self, directory: int, name: bytes) -> Node:
        found = self._nodes[directory].names.get(self._key(name))
        if found is None:
            raise OSError(errno.ENOENT, "no such name")
        return self._nodes[found[1]]

    def _entry(self, node: Node) -> bytes:
        head = ENTRY_HEAD.pack(node.number, 0, 0, 0, 0, 0)
        return head + self._packed(node)

    def _attributes(self, node: Node) -> bytes:
        return _ATTRIBUTES_HEAD.pack(0, 0, 0) + self._packed(node)

    def _packed(self, node: Node) -> bytes:
        times = [divmod(t, 10**9) for t in (node.atime_ns, node.mtime_ns, node.ctime_ns)]
        seconds, parts = [t[0] for t in times], [t[1] for t in times]
        size = len(node.data)
        owner = node.mode, node.links, node.uid, node.gid
        return ATTRIBUTES.pack(
            node.number, size, -(-size // 512), *seconds, *parts, *owner, 0, 4096, 0
        )

    def _lookup(self, request: Request) -> bytes:
        return self._entry(self._child(request.node, request.name()))

    def _set_attributes(self, request: Request) -> bytes:
        node = self._nodes[request.node]
        values = SET_ATTRIBUTES.unpack_from(request.body)
        valid, size, (atime, mtime) = values[0], values[3], values[5:7]
        now_ns = node.ctime_ns = time.time_ns()
        if valid & SET_MODE:
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(values[11])
        if valid & SET_UID:
            node.uid = values[13]
        if valid & SET_GID:
            node.gid = values[14]
        if valid & SET_SIZE:
            del node.data[size:]
            node.data.extend(bytes(size - len(node.data)))
            node.mtime_ns = now_ns
        if valid & SET_ATIME:
            node.atime_ns = now_ns if valid & ATIME_NOW else atime * 10**9 + values[8]
        if valid & SET_MTIME:
            node.mtime_ns = now_ns if valid & MTIME_NOW else mtime * 10**9 + values[9]
        return self._attributes(node)

    def _add(self, request: Request, name: bytes, mode: int) -> Node:
        node = Node(self._next, mode, request.uid, request.gid)
        self._next += 1
        self._nodes[node.number] = node
        self._enter(request.node, name, node)
        return node

    def _enter(self, directory: int, name: bytes, node: Node) -> None:
        self._check_name(name)
        parent = self._nodes[directory]
        key = self._key(name)
        if key in parent.names:
            raise OSError(errno.EEXIST, "name is taken")
        parent.names[key] = (self._stored(name), node.number)
        parent.mtime_ns = parent.ctime_ns = time.time_ns()

    def _check_name(self, name: bytes) -> None:
        if len(name) > _NAME_MAX:
            raise OSError(errno.ENAMETOOLONG, "name too long")
        if any(character in name for character in self._forbidden):
            raise OSError(errno.EINVAL, "forbidden name")

    def _leave(self, directory: int, name: bytes) -> None:
        parent = self._nodes[directory]
        _, number = parent.names.pop(self._key(name))
        self._nodes[number].links -= 1
        parent.mtime_ns = parent.ctime_ns = self._nodes[number].ctime_ns = time.time_ns()

    def _symlink(self, request: Request) -> bytes:
        name, target = request.body.split(b"\0")[:2]
        node = self._add(request, name, stat.S_IFLNK | 0o777)
        node.data[:] = target
        return self._entry(node)

    def _make_node(self, request: Request) -> bytes:
        mode, _, umask, _ = struct.unpack_from("<IIII", request.body)
        return self._entry(self._add(request, request.name(16), mode & ~umask))

    def _make_directory(self, request: Request) -> bytes:
        mode, umask = struct.unpack_from("<II", request.body)
        return self._entry(self._add(request, request.name(8), stat.S_IFDIR | mode & ~umask))

    def _create(self, request: Request) -> bytes:
        _, mode, umask, _ = struct.unpack_from("<IIII", request.body)
        node = self._add(request, request.name(16), mode & ~umask)
        return self._entry(node) + OPEN_OUT.pack(0, 0, 0)

    def _remove(self, request: Request, *, directory: bool) -> bytes:
        node = self._child(request.node, request.name())
        self._check_replaceable(node, directory)
        self._leave(request.node, request.name())
        return b""

    def _check_replaceable(self, node: Node, directory: bool) -> None:
        if node.is_directory and not directory:
            raise OSError(errno.EISDIR, "is a directory")
        if directory and not node.is_directory:
            raise OSError(errno.ENOTDIR, "is no directory")
        if node.names:
            raise OSError(errno.ENOTEMPTY, "is not empty")

    def _rename(self, request: Request, names: bytes, flags: int) -> bytes:
        (target_directory,) = struct.unpack_from("<Q", request.body)
        old, new = names.split(b"\0")[:2]
        self._check_name(new)
        node = self._child(request.node, old)
        there = self._nodes[target_directory].names.get(self._key(new))
        if there is not None and there[1] == node.number:
            raise OSError(errno.EIO, "the kernel answers this itself")
        if there is not None:
            if flags & NOREPLACE:
                raise OSError(errno.EEXIST, "name is taken")
            self._check_replaceable(self._nodes[there[1]], node.is_directory)
            self._leave(target_directory, new)
        self._leave(request.node, old)
        self._enter(target_directory, new, node)
        node.links += 1
        return b""

    def _link(self, request: Request) -> bytes:
        (number,) = struct.unpack_from("<Q", request.body)
        node = self._nodes[number]
        self._enter(request.node, request.name(8), node)
        node.links += 1
        node.ctime_ns = time.time_ns()
        return self._entry(node)

    def _read(self, request: Request) -> bytes:
        _, offset, size, *_ = TRANSFER.unpack_from(request.body)
        return bytes(self._nodes[request.node].data[offset : offset + size])

    def _write(self, request: Request) -> bytes:
        _, offset, size, *_ = TRANSFER.unpack_from(request.body)
        node = self._nodes[request.node]
        data = request.body[TRANSFER.size : TRANSFER.size + size]
        if len(node.data) < offset:
            node.data.extend(bytes(offset - len(node.data)))
        node.data[offset : offset + size] = data
        node.mtime_ns = node.ctime_ns = time.time_ns()
        return struct.pack("<II", size, 0)

    def _open_directory(self, request: Request) -> bytes:
        handle, self._next = self._next, self._next + 1
        return OPEN_OUT.pack(handle, 0, 0)

    def _read_directory(self, request: Request) -> bytes:
        handle, offset, size, *_ = TRANSFER.unpack_from(request.body)
        if offset == 0:
            own = [(b".", request.node), (b"..", request.node)]
            self._listings[handle] = own + sorted(self._nodes[request.node].names.values())
        answer = b""
        for at, (name, number) in enumerate(self._listings[handle][offset:], offset + 1):
            kind = stat.S_IFMT(self._nodes[number].mode) >> 12
            entry = DIRECTORY_ENTRY.pack(number, at, len(name), kind) + name
            entry += bytes(-len(entry) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return answer

    def _release_directory(self, request: Request) -> bytes:
        (handle,) = struct.unpack_from("<Q", request.body)
        self._listings.pop(handle, None)
        return b""


_NO_ANSWER = {2, 36, 42}
"""Forgetting nodes and interrupting a request are not answered."""


def mount(device: int, folder: str) -> None:
    """Mount what is answered on ``device``.

    Raises:
        OSError: that is not allowed here.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    if libc.mount(b"folding", os.fsencode(folder), b"fuse", 0, options.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), folder)


def serve(device: int, file_system: FoldingFileSystem) -> None:
    """Answer requests until it is unmounted."""
    while True:
        try:
            data = os.read(device, _REQUEST_BYTES)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return
            if error.errno == errno.ENOENT:
                continue
            raise
        _, operation, unique, node, uid, gid, _, _ = IN_HEADER.unpack_from(data)
        if operation in _NO_ANSWER:
            continue
        code, answer = 0, b""
        try:
            answer = file_system.answer(operation, Request(node, uid, gid, data[IN_HEADER.size :]))
        except OSError as error:
            code = -(error.errno or errno.EIO)
        # Whoever asked may have been killed meanwhile.
        with contextlib.suppress(FileNotFoundError):
            os.write(device, OUT_HEADER.pack(OUT_HEADER.size + len(answer), code, unique) + answer)


def main() -> None:
    """Mount, say so, and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--fold-case", action="store_true")
    parser.add_argument("--fold-form", action="store_true")
    parser.add_argument("--store-decomposed", action="store_true")
    parser.add_argument("--forbid", default="")
    options = parser.parse_args()
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        mount(device, options.folder)
    except PermissionError:
        print("not permitted", flush=True)
        return
    file_system = FoldingFileSystem(
        fold_case=options.fold_case,
        fold_form=options.fold_form,
        store_decomposed=options.store_decomposed,
        forbidden=options.forbid,
    )

    def switch(number: int, _frame: object) -> None:
        file_system.is_read_only = number == signal.SIGUSR1

    signal.signal(signal.SIGUSR1, switch)
    signal.signal(signal.SIGUSR2, switch)
    print("mounted", flush=True)
    serve(device, file_system)


if __name__ == "__main__":
    main()
