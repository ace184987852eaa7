"""What a service manager such as systemd offers: to be told how things go, and sockets that it has opened.

The protocols are those of sd_notify(3) and sd_listen_fds(3). Its variables are read in `config`; without them nothing
here is called.
"""

from __future__ import annotations

import socket

from .. import log
from ..errors import ConfigError
from ..limits import NOTIFY_TIMEOUT_S

# The first descriptor that is handed over (SD_LISTEN_FDS_START).
_FIRST_DESCRIPTOR = 3


def notify(address: str, *lines: str) -> None:
    """Send `NAME=value` lines to the manager's socket: a path, or an abstract name behind an @."""
    name = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(NOTIFY_TIMEOUT_S)
            sender.sendto("\n".join(lines).encode(), name)
    except OSError as problem:
        # A manager that is gone, or too busy, is no reason to stop.
        log.warning("NOTIFY_SOCKET=%s: %s", address, problem.strerror or problem)


def take_sockets(count: int) -> list[socket.socket]:
    """Return the listening sockets that were handed over, kept from all children; raise `ConfigError` for others."""
    return [_take_socket(_FIRST_DESCRIPTOR + index) for index in range(count)]


def _take_socket(descriptor: int) -> socket.socket:
    try:
        taken = socket.socket(fileno=descriptor)
    except OSError as problem:
        raise _unusable(descriptor, problem.strerror or str(problem)) from None
    is_stream = taken.type == socket.SOCK_STREAM
    if not is_stream or not taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        taken.detach()
        raise _unusable(descriptor, "it does not listen for streams (Accept=no and ListenStream= do)")
    if taken.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
        taken.detach()
        raise _unusable(descriptor, f"it is of the family {taken.family}")
    taken.set_inheritable(False)
    taken.setblocking(False)
    return taken


def _unusable(descriptor: int, reason: str) -> ConfigError:
    return ConfigError(
        f"LISTEN_FDS: expected a listening TCP or unix socket as descriptor {descriptor}, but {reason}."
    )
