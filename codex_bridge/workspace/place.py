"""Where a tool works, how it refuses, and how its blocking work is kept off the event loop.

The codes of the file tools' refusals:

    invalid_path        no path here: NUL, bytes that are no UTF-8, a backslash or a drive, a URL, a name that is too long
    outside_workspace   it leads out of the workspace, also by links, or its links have no end
    not_found           there is no such file or directory
    not_a_file          a directory, a device, a FIFO, a socket, or a link that was to be removed
    not_a_directory     a file where a directory was to be
    not_text            no UTF-8, or NUL in it; `size`
    too_large           a file or a patch beyond the limit; `size`
    protected           .git anywhere, .codex and .agents at the root: nobody changes them here
    read_only           the session may only read, or the file is write-protected
    patch_invalid       the patch cannot be read; the message names the line
    patch_mismatch      it does not fit its file; `path`
    already_exists      a new file, or a moved one, where there is one
    changed_meanwhile   somebody else was there first; `path`, `sha256` where a hash was expected
    invalid_command     a command with NUL
    invalid_query       no query: a newline or NUL in it, or no regular expression
    not_supported       a regular expression where there is no ripgrep
    timed_out           not done in time
    io_error            what else the system said; `not_restored`: files of a failed patch that stayed changed
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ..adapters.threads import in_thread
from ..limits import TOOL_END_S
from ..protocol.tools import ToolResult, refusal
from ..values import value

T = TypeVar("T")


@value
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
    working = in_thread(lambda: work(watch), "tool")
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        watch.stop()
        working.add_done_callback(lambda done: done.exception())  # nobody's any more
        # A disk that hangs must not keep the turn from ending.
        await asyncio.wait([working], timeout=TOOL_END_S)
        raise
