"""A tree packed by one tar and unpacked by another, with a TCP connection between them.

    python -m benchmarks.contenders.tar_through_socket SOURCE DESTINATION

The destination's file system is synced at the end.
"""

from __future__ import annotations

import socket
import subprocess
import sys


def main(source: str, destination: str) -> None:
    """Copy a tree; ends with code 1 if either tar fails."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        outward = socket.create_connection(listener.getsockname())
        inward, _ = listener.accept()
    with inward:
        unpacking = subprocess.Popen(["tar", "-xpf", "-", "-C", destination], stdin=inward.fileno())
    with outward:
        # The default format keeps times to the second.
        packing = subprocess.Popen(
            ["tar", "--format=posix", "-cf", "-", "-C", source, "."], stdout=outward.fileno()
        )
    codes = packing.wait(), unpacking.wait()
    subprocess.run(["sync", "-f", destination], check=True)
    sys.exit(1 if any(codes) else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
