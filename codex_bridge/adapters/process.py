"""Child processes: each in a process group of its own, ended as a group, its stderr kept for the post mortem.

What it must never do: wait without a bound. A grandchild that holds a pipe keeps `Process.wait` from returning
and stdout from ending (cpython gh-119710). So the death of the child is learnt from the event loop, and kills
what is left of its group; and what has left the group is found by its mark.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import cast

from .. import log
from ..limits import (
    CHILD_READ_BYTES,
    CHILD_STOP_STEP_S,
    LAST_OUTPUT_S,
    ORPHAN_END_S,
    STDERR_TAIL_BYTES,
)
from ..values import value
from .marks import awaited, child_mark, end_marked, marker

# What colours a terminal's text; in a log or an error it is noise.
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
# From <linux/prctl.h>.
_PR_SET_PDEATHSIG = 1


@value
class Program:
    """A program's file as it was when it was looked at: another one at the same path is not equal to it."""

    path: str
    # Device, inode, time of the last change and size; None when there is no such file.
    stamp: tuple[int, int, int, int] | None

    @classmethod
    def at(cls, path: str) -> Program:
        """Look at the file, behind all links."""
        try:
            found = os.stat(path)
        except OSError:
            return cls(path, None)
        return cls(path, (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size))

    @property
    def exists(self) -> bool:
        return self.stamp is not None


class ChildProcess:
    """A running child. Create it with `start`."""

    def __init__(self, process: asyncio.subprocess.Process, exited: asyncio.Event, mark: str | None) -> None:
        self._process = process
        self._exited = exited
        self._burial = asyncio.create_task(self._bury(mark), name=f"burial of {process.pid}")
        self._stderr = bytearray()
        self._stderr_task = asyncio.create_task(self._keep_stderr(), name=f"stderr of {process.pid}")

    @classmethod
    async def start(
        cls,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        cwd: str | None = None,
        *,
        mark: str | None = None,
        orphan_signal: signal.Signals | None = None,
        max_memory_bytes: int | None = None,
    ) -> ChildProcess:
        """Start `arguments` with exactly `environ`; raise OSError when it cannot be run.

        With the bridge's `mark` nothing that the child starts outlives it, wherever it goes. `orphan_signal` is what it
        gets when this process dies without a word (on Linux): for a child that does not notice by its stdin. One that
        wants more than `max_memory_bytes` is given none, and gives up.
        """
        loop = asyncio.get_running_loop()
        own_mark = child_mark(mark) if mark is not None else None
        preparations = [
            marker(own_mark) if own_mark is not None else None,
            _ask_for(orphan_signal) if orphan_signal is not None else None,
            _limit_memory(max_memory_bytes) if max_memory_bytes is not None else None,
        ]
        transport, protocol = await loop.subprocess_exec(
            lambda: _Protocol(CHILD_READ_BYTES, loop),
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environ),
            cwd=cwd,
            start_new_session=True,
            preexec_fn=_in_turn([each for each in preparations if each is not None]),
        )
        return cls(asyncio.subprocess.Process(transport, protocol, loop), protocol.exited, own_mark)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stderr_tail(self) -> str:
        """The last of what the child wrote to stderr."""
        return _COLOR.sub("", self._stderr.decode(errors="replace")).strip()

    def write(self, data: bytes) -> None:
        """Send `data` to the child's stdin; a dead child takes it silently (its reader tells)."""
        assert self._process.stdin is not None
        if not self._process.stdin.is_closing():
            self._process.stdin.write(data)

    def end_input(self) -> None:
        """Close stdin behind what was written."""
        assert self._process.stdin is not None
        if not self._process.stdin.is_closing():
            self._process.stdin.write_eof()

    async def read_chunks(self) -> AsyncIterator[bytes]:
        """Yield the child's stdout as it comes, to its end."""
        assert self._process.stdout is not None
        while chunk := await self._process.stdout.read(CHILD_READ_BYTES):
            yield chunk

    async def exit_status(self) -> str:
        """Wait a moment for the end of a child that closed its stdout; say how it ended."""
        await self._wait()
        code = self._process.returncode
        if code is None:
            return "closed its output"
        return f"was ended by signal {-code}" if code < 0 else f"exited with status {code}"

    async def last_words(self) -> str:
        """Wait for the end of stderr, which comes soon after the child's; return `stderr_tail`."""
        await asyncio.wait([self._stderr_task], timeout=CHILD_STOP_STEP_S)
        return self.stderr_tail

    async def stop(self) -> None:
        """Close stdin (or the child loses its last writes), then TERM and KILL the whole group."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._wait()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self._exited.is_set():
                _signal_group(self.pid, number)
                await self._wait()
        self._stderr_task.cancel()
        await self.buried()

    async def buried(self) -> None:
        """Wait a moment until nothing is left of a child that has ended, nor of what it has started."""
        await asyncio.wait([self._burial], timeout=CHILD_STOP_STEP_S + ORPHAN_END_S)

    def interrupt(self) -> None:
        """Send the whole group what Ctrl-C sends."""
        if not self._exited.is_set():
            _signal_group(self.pid, signal.SIGINT)

    def kill(self) -> None:
        """KILL the whole group at once."""
        # Once the child is gone its group has been killed with it, and its number may be another's.
        if not self._exited.is_set():
            _signal_group(self.pid, signal.SIGKILL)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(CHILD_STOP_STEP_S):
                await self._exited.wait()
        except TimeoutError:
            pass  # the next, harder step follows

    async def _bury(self, mark: str | None) -> None:
        """End what the child has left behind, once it has ended."""
        await self._exited.wait()
        if mark is not None:
            count = await asyncio.to_thread(end_marked, mark)
            if count:
                log.info("ended %d processes that process %d has left behind", count, self.pid)

    async def _keep_stderr(self) -> None:
        assert self._process.stderr is not None
        while chunk := await self._process.stderr.read(CHILD_READ_BYTES):
            self._stderr += chunk
            del self._stderr[:-STDERR_TAIL_BYTES]


class _Protocol(asyncio.subprocess.SubprocessStreamProtocol):
    """Tells the child's death when it happens, and not when the last holder of its pipes is gone."""

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=limit, loop=loop)
        self.exited = asyncio.Event()
        self._subprocess: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # Not checked by class: uvloop's transport is one in all but its ancestry.
        self._subprocess = cast(asyncio.SubprocessTransport, transport)
        awaited.add(self._subprocess.get_pid())

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        # A child that does not read its input tells why by its end. asyncio would keep the exception for somebody who
        # waits for the pipe to close, and complain that nobody does.
        super().pipe_connection_lost(fd, None if fd == 0 else exc)

    def process_exited(self) -> None:
        super().process_exited()
        if self._subprocess is not None:
            awaited.discard(self._subprocess.get_pid())
            _signal_group(self._subprocess.get_pid(), signal.SIGKILL)
            # One in a session of its own is not in the group and may hold the pipes on.
            asyncio.get_running_loop().call_later(LAST_OUTPUT_S, self._subprocess.close)
        self.exited.set()


def _in_turn(steps: list[Callable[[], object]]) -> Callable[[], object] | None:
    """Return one step that takes all of them."""
    if len(steps) < 2:
        return steps[0] if steps else None
    return lambda: [step() for step in steps]


def _limit_memory(most: int) -> Callable[[], object]:
    """Return what a child does before it becomes its program: take no more memory than this."""
    import resource  # here, in the parent: between fork and exec there is only the call itself

    set_limit, kind = resource.setrlimit, resource.RLIMIT_DATA
    _, allowed = resource.getrlimit(kind)
    if allowed != resource.RLIM_INFINITY:
        most = min(most, allowed)
    return lambda: set_limit(kind, (most, most))


def _ask_for(number: signal.Signals) -> Callable[[], object] | None:
    """Return what a child does before it becomes its program: ask to be sent `number` when its parent dies."""
    if sys.platform != "linux":
        return None
    # Imported and looked up here, in the parent: between fork and exec there is only the call itself.
    import ctypes

    prctl, handle, interrupt, default = ctypes.CDLL(None).prctl, signal.signal, signal.SIGINT, signal.SIG_DFL
    # What a script starts in the background ignores SIGINT, and so would its children.
    return lambda: (handle(interrupt, default), prctl(_PR_SET_PDEATHSIG, int(number)))


def _signal_group(group: int, number: signal.Signals) -> None:
    """Signal a process group, if anybody is left in it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
