"""Where a tool works, how it refuses, and how its blocking work is kept off the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from ..limits import TOOL_END_S
from ..protocol.tools import ToolResult, refusal

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """Where tools work: the real path of the workspace, and how far its commands and edits may go."""

    root: str
    sandbox_mode: str


class Refused(Exception):
    """A tool cannot do what it was asked: a code of docs/api.md, a sentence, and further fields of the answer."""

    def __init__(self, code: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def to_result(self) -> ToolResult:
        return refusal(self.code, self.message, **self.details)


class Watch:
    """The time that work in a thread has. Loops in it look now and again: nothing else can end a thread."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.seconds = seconds

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self._end

    def stop(self) -> None:
        """Let no time be left: nobody waits any more."""
        self._end = 0.0

    def check(self) -> None:
        """Raise `Refused` when the time is over."""
        if self.is_over:
            raise Refused(
                "timed_out", f"It was not done within {self.seconds:g} seconds; ask for less at once."
            )


async def off_loop(work: Callable[[Watch], T], seconds: float) -> T:
    """Run blocking work in a thread. When whoever waits is cancelled, the work is told and waited for: it ends first."""
    watch = Watch(seconds)
    task = asyncio.create_task(asyncio.to_thread(work, watch), name="tool")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        watch.stop()
        # A disk that hangs must not keep the turn from ending.
        await asyncio.wait([task], timeout=TOOL_END_S)
        task.add_done_callback(_forget)
        raise


def _forget(task: asyncio.Task[Any]) -> None:
    """Take what the work of somebody who has left raised: nobody else does."""
    if not task.cancelled():
        task.exception()
