"""Which user's program is at the other end of a connection within this computer, as far as Linux tells."""

import socket
import sys
from contextlib import suppress
from pathlib import Path

TABLE = Path("/proc/net/tcp")  # a line per socket: its address, the other end's, ..., its user, ..., its inode
ANYONE = ("0.0.0.0", 0)  # the other end of a socket that listens


def user_at(own: tuple[str, int], other: tuple[str, int]) -> int | None:
    """The user of the program that holds the socket from `own` to `other`, each an IPv4 address and a port.

    Returns:
        The user's number; None if no program holds one, or the system has no such table.
    """
    with suppress(OSError, ValueError):
        wanted = [_written(*own), _written(*other)]
        for line in TABLE.read_text("ascii").splitlines()[1:]:
            fields = line.split()
            if fields[1:3] == wanted and fields[9] != "0":  # 0: its program has closed it, and it is shown as root's
                return int(fields[7])
    return None


def _written(host: str, port: int) -> str:
    return f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"
