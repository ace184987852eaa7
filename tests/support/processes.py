"""What /proc tells about the bridge's children. Only `kill` changes anything."""

import os
import signal
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


def _read(pid: int, name: str) -> bytes:
    try:
        return (_PROC / str(pid) / name).read_bytes()
    except OSError:  # gone between the listing and the look, or not ours to read
        return b""


def pids() -> list[int]:
    """Return every process id there is."""
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def environ(pid: int) -> bytes:
    """Return a process's environment as the kernel holds it (NUL between the entries)."""
    return _read(pid, "environ")


def cmdline(pid: int) -> list[str]:
    """Return a process's arguments; empty for a zombie and for one that is gone."""
    return [part.decode(errors="replace") for part in _read(pid, "cmdline").split(b"\0")[:-1]]


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the command: state, parent, group, ..."""
    return _read(pid, "stat").decode(errors="replace").rpartition(")")[2].split()


def resident_bytes(pid: int) -> int:
    """Return how much memory a process holds."""
    return int(_read(pid, "statm").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in "ZX"


def is_stopped(pid: int) -> bool:
    """Tell whether a process stands still by a signal."""
    return _stat(pid)[:1] == ["T"]


def in_group(group: int) -> list[int]:
    """Return the living members of a process group."""
    return [pid for pid in pids() if (stat := _stat(pid)) and stat[0] not in "ZX" and int(stat[2]) == group]


def descendants(root: int) -> list[int]:
    """Return the living children of a process and their children."""
    parent = {pid: int(stat[1]) for pid in pids() if (stat := _stat(pid)) and stat[0] not in "ZX"}
    found = {root}
    grew = True
    while grew:
        more = {pid for pid, above in parent.items() if above in found} - found
        found |= more
        grew = bool(more)
    return sorted(found - {root})


def marked(mark: str) -> list[int]:
    """Return the living processes with `mark` (a directory of one test alone) in environment or arguments."""
    needle = mark.encode()
    alive = [pid for pid in pids() if pid != os.getpid() and is_alive(pid)]
    return [pid for pid in alive if needle in environ(pid) + _read(pid, "cmdline")]


def kill(pid: int) -> None:
    """Send SIGKILL; a process that is gone already is fine."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _sockets(pid: int, state: str) -> list[tuple[int, int]]:
    """Return local and remote port of the IPv4 sockets that a process holds in a state of /proc/net/tcp."""
    held = set()
    for descriptor in (_PROC / str(pid) / "fd").iterdir():
        with suppress(OSError):  # closed between the listing and the look
            held.add(os.readlink(descriptor))
    rows = [line.split() for line in _read(pid, "net/tcp").decode().splitlines()[1:]]
    ours = [row for row in rows if row[3] == state and f"socket:[{row[9]}]" in held]
    ports = [[int(address.rpartition(":")[2], 16) for address in row[1:3]] for row in ours]
    return [(local, remote) for local, remote in ports]


def listening_ports(pid: int) -> set[int]:
    """Return the TCP ports on which a process listens."""
    return {local for local, _ in _sockets(pid, "0A")}


def is_connected(pid: int, remote_port: int) -> bool:
    """Tell whether a process still holds its end of a connection, seen from the other end's port."""
    return any(remote == remote_port for _, remote in _sockets(pid, "01"))


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that has to be there."""
    os.kill(pid, number)
