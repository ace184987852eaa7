"""Marks: they tell the processes of one child, and of one bridge, from all others, wherever they have gone.

A command can leave its process group, its session, its parent and its environment behind: `setsid`, `nohup`, a
double fork, `env -i`. Measured with the real Codex, in its sandbox and outside of it, what goes along into all of
that are the resource limits. So each child is started with a number as its soft limit RLIMIT_RTTIME: it counts
for real-time scheduling alone, and thousands of years in microseconds limit nothing. /proc tells it of every
process, also of those whose environment may not be read.

A bridge's mark has 13 digits, a child's those and 5 more. TMPDIR has the bridge's in its name: where limits cannot be
set so, the environment tells it as far as it goes. All of this is Linux's; elsewhere nothing is marked, and nothing found.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import sys
import time
from collections.abc import Callable

from .. import log
from ..limits import ORPHAN_END_S, ORPHAN_LOOK_S

_DIGITS = 13
_CHILD_DIGITS = 5
_numbers = itertools.count(1)
# The processes whose end the event loop waits for: buried by anybody else, they would never end for it.
awaited: set[int] = set()


def new_mark() -> str:
    """Return the mark of a bridge that begins."""
    least = 10 ** (_DIGITS - 1)
    return str(least + int.from_bytes(os.urandom(8)) % (9 * least))


def child_mark(mark: str) -> str:
    """Return the mark of the next child of a bridge."""
    return f"{mark}{next(_numbers) % 10**_CHILD_DIGITS:0{_CHILD_DIGITS}}"


def marker(mark: str) -> Callable[[], object] | None:
    """Return what a child does before it becomes its program, to bear a mark."""
    if sys.platform != "linux":
        return None
    import resource  # here, in the parent: between fork and exec there is only the call itself

    set_limit, kind, unlimited = resource.setrlimit, resource.RLIMIT_RTTIME, resource.RLIM_INFINITY
    hard = resource.getrlimit(kind)[1]
    if hard != unlimited and hard < int(mark):
        return None
    limits = (int(mark), hard)

    def bear() -> None:
        with contextlib.suppress(OSError, ValueError):  # not every sandbox around the bridge allows it
            set_limit(kind, limits)

    return bear


def end_marked(mark: str) -> int:
    """KILL all processes that bear a mark, or whose begins with it, and wait for their end; return how many there were.

    It reads all of /proc (5 ms for 100 processes) and may wait: no call for the event loop's thread while it serves.
    """
    ended: set[int] = set()
    deadline = time.monotonic() + ORPHAN_END_S
    while found := _find(mark):
        if time.monotonic() > deadline:
            log.warning("%d processes cannot be ended: %s", len(found), ", ".join(map(str, found)))
            break
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        ended.update(found)
        time.sleep(ORPHAN_LOOK_S)
    return len(ended)


def _find(mark: str) -> list[int]:
    """Return the living processes that bear a mark, but this one."""
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []
    limit = re.compile(rb"^Max realtime timeout +" + mark.encode(), re.MULTILINE)
    return [pid for pid in pids if pid != os.getpid() and _bears(pid, mark.encode(), limit) and _lives(pid)]


def _bears(pid: int, mark: bytes, limit: re.Pattern[bytes]) -> bool:
    return limit.search(_read(pid, "limits")) is not None or mark in _environ(pid)


def _environ(pid: int) -> bytes:
    """Return a process's environment, empty where it may not be read.

    One that is just becoming its program shows none for some milliseconds, or hundreds on a busy machine, and is waited for.
    """
    deadline = time.monotonic() + ORPHAN_END_S
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            while not (found := file.read()) and time.monotonic() < deadline:
                is_becoming = _is_becoming(pid)
                # Once more: it may have got one since.
                file.seek(0)
                if not is_becoming:
                    return file.read()
                time.sleep(ORPHAN_LOOK_S)
            return found
    except OSError:
        return b""


def _is_becoming(pid: int) -> bool:
    """Say whether a process has memory, which those of the kernel have not, and no place for an environment in it yet: proc(5)."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    # Without the first two, vsize and env_end.
    return len(fields) > 48 and fields[20] != b"0" and fields[48] == b"0"


def _lives(pid: int) -> bool:
    """Say whether a process runs. One that has ended and has become this one's child by its parent's death is buried."""
    state, parent, *_ = [*_read(pid, "stat").rpartition(b")")[2].split(), b"", b""]
    if state == b"Z" and parent == str(os.getpid()).encode() and pid not in awaited:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return state not in (b"Z", b"X", b"")


def _read(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read()
    except OSError:  # gone, or not ours to read
        return b""
