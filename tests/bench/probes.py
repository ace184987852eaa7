"""What `/proc` tells about a process: memory, CPU time, descendants. Linux alone; never changes a process."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

SETTLE_SECONDS = 3.0
SETTLE_STEP = 0.25
CPU_CLOCK_OF_PROCESS = 2


def memory(pid: int, name: str = "VmRSS") -> float:
    """Return a memory figure of `/proc/PID/status` in MB (10^6 bytes); 0.0 when the process is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def settled_memory(pid: int) -> float:
    """Return VmRSS in MB once two readings agree, or after a bound."""
    before = memory(pid)
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(SETTLE_STEP)
        now = memory(pid)
        if now == before:
            break
        before = now
    return before


def pin(pid: int, cpu: int) -> None:
    """Let all threads of a process run on one CPU only."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {cpu})


def reset_peak(pid: int) -> None:
    """Make VmHWM, the peak of the resident memory, start again from the present value."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process, to the nanosecond.

    `/proc/PID/stat` counts in ticks of 10 ms. Linux has a CPU clock for each process: `~pid << 3 | 2`.
    """
    return time.clock_gettime((~pid << 3) | CPU_CLOCK_OF_PROCESS)


def descendants(pid: int) -> list[int]:
    """Return the process ids below `pid`, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            parent = parent_of(int(entry.name))
            children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    pending = [pid]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def parent_of(pid: int) -> int:
    """Return the parent's process id; 0 when the process is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    return int(stat.rpartition(b")")[2].split()[1])


def app_servers(pid: int) -> list[int]:
    """Return the process ids of the `codex app-server` children below `pid`."""
    found = [child for child in descendants(pid) if b"\0app-server\0" in command_line(child)]
    # One that Codex has just forked to run a command looks like itself for a moment.
    forked = {each for child in found for each in descendants(child)}
    return [child for child in found if child not in forked]


def command_line(pid: int) -> bytes:
    """Return the arguments of a process, each ended by a NUL; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def is_alive(pid: int) -> bool:
    """Tell whether a process exists and is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] not in (b"Z", b"X")
