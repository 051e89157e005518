"""Faults that make the work more than it has to be, and change nothing else."""

from __future__ import annotations

from tests.planted.fault import Edit, Fault

_COUNTING = ("tests/counting/test_counting.py",)

COST_FAULTS = (
    Fault(
        "the client makes a call more a file",
        "12",
        (
            Edit(
                "client/straight.py",
                "                content = blake3(data).digest()\n",
                '                __import__("os").getcwd()\n'
                "                content = blake3(data).digest()\n",
            ),
        ),
        _COUNTING,
    ),
    Fault(
        "the server makes a statement more a file",
        "12",
        (
            Edit(
                "storage/transaction.py",
                "        self.next_id += 1\n",
                '        self.next_id += 1\n        self._cursor.execute("SELECT 1")\n',
            ),
        ),
        _COUNTING,
    ),
    Fault(
        "what is sent is copied once more",
        "12",
        (
            Edit(
                "client/frames.py",
                '            frame = b"".join([start, *await self._contents(group)])\n',
                '            frame = b"".join([start, *await self._contents(group)])\n'
                "            frame = bytes(bytearray(frame))\n",
            ),
        ),
        _COUNTING,
    ),
    Fault(
        "a batch of new files is announced before it is sent",
        "12",
        (
            Edit(
                "client/transfer.py",
                "        eager = self._send_all or eager_bytes <= EAGER_BYTES\n",
                "        eager = False\n",
            ),
        ),
        _COUNTING,
    ),
)
