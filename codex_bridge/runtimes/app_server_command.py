"""One command in the sandbox of an app-server child: `command/exec`, from begin to end.

Measured: in the sandbox a command has a process namespace of its own, and nothing that it starts outlives it, unless Codex ends it
while the sandbox is still being made: then some go on, without a parent. Outside (`danger-full-access`) Codex ends its process group.
What has left that, and what goes on, is found here by a mark in its environment.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import itertools
from typing import Any

from .. import log
from ..adapters.marks import end_marked
from ..errors import CodexFailed
from ..limits import CALL_TIMEOUT_S, COMMAND_END_S
from ..model import new_id
from ..protocol import codex
from ..runtime import Command, CommandResult, OnOutput
from .app_server_child import AppServerChild

_numbers = itertools.count(1)


class SandboxCommand:
    """A command on a child. `run` it once; when that is cancelled the command is ended."""

    def __init__(self, command: Command, on_output: OnOutput | None) -> None:
        self.process_id = f"command-{next(_numbers)}"
        self._command = command
        self._on_output = on_output
        self._streams = {name: _Stream(command.max_output_bytes) for name in codex.OUTPUT_STREAMS}
        # Ends when nobody waits for the command any more.
        self._unwanted = asyncio.Event()
        self._mark = new_id("command")
        # Whether something of it may live on.
        self._may_leave = command.sandbox_mode == codex.UNSANDBOXED

    def take_output(self, stream: str, data: bytes) -> None:
        """Keep what the command has written, and tell it."""
        self._tell(self._streams[stream].take(data))

    async def run(self, child: AppServerChild, end_grace_s: float) -> CommandResult:
        """Run it to its end; raise `CodexFailed`. A child that does not end it within the grace time is killed."""
        playing = asyncio.create_task(self._play(child, end_grace_s), name=self.process_id)
        try:
            return await asyncio.shield(playing)
        except asyncio.CancelledError:
            self._unwanted.set()
            # Also when it is cancelled once more: its session is deleted, and its client leaves.
            while not playing.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([playing])
            if not playing.cancelled():
                playing.exception()  # whoever would have been told does not wait any more
            raise

    async def _play(self, child: AppServerChild, end_grace_s: float) -> CommandResult:
        loop = asyncio.get_running_loop()
        begun_at, has_ended = loop.time(), False
        with child.used(), child.hearing(self.process_id, self.take_output):
            try:
                answer = await self._call(child, end_grace_s)
                took_s = loop.time() - begun_at
                has_ended = answer.get("exitCode") not in codex.ENDED_BY_FORCE
            finally:
                if self._may_leave or not has_ended:
                    await asyncio.to_thread(end_marked, self._mark)
        try:
            return self._make_result(answer, took_s)
        except (KeyError, TypeError) as problem:
            raise CodexFailed(f"Codex's answer to command/exec cannot be read: {problem!r}.") from None

    async def _call(self, child: AppServerChild, end_grace_s: float) -> dict[str, Any]:
        """Return Codex's answer. Codex ends the command when its time is over; when it does not, it is asked to."""
        time_s = self._command.timeout_s + COMMAND_END_S
        params = codex.command_params(self._command, self.process_id, {codex.COMMAND_MARK: self._mark})
        calling = asyncio.create_task(
            child.call("command/exec", params, timeout_s=time_s + end_grace_s + CALL_TIMEOUT_S),
            name=f"call of {self.process_id}",
        )
        unwanted = asyncio.create_task(self._unwanted.wait(), name=f"end of {self.process_id}")
        try:
            await asyncio.wait([calling, unwanted], timeout=time_s, return_when=asyncio.FIRST_COMPLETED)
            if not calling.done():
                child.send("command/exec/terminate", {"processId": self.process_id})
                await asyncio.wait([calling], timeout=end_grace_s)
            if not calling.done():
                log.warning("Codex did not end a command within %g s and is ended", end_grace_s)
                child.kill()
                raise CodexFailed(
                    f"Codex did not end a command within {end_grace_s:g} s of its time.", code="codex_stuck"
                )
            return await calling
        finally:
            unwanted.cancel()
            calling.cancel()

    def _make_result(self, answer: dict[str, Any], took_s: float) -> CommandResult:
        for name, stream in self._streams.items():
            self._tell(stream.take(answer[name].encode()) + stream.end())  # whatever was not streamed
        stdout, stderr = (self._streams[name] for name in codex.OUTPUT_STREAMS)
        # A command may end by itself as one that Codex has ended, but not so late.
        timed_out = took_s >= self._command.timeout_s and answer["exitCode"] in codex.ENDED_BY_FORCE
        is_cut = stdout.is_cut or stderr.is_cut
        return CommandResult(int(answer["exitCode"]), stdout.text, stderr.text, timed_out, is_cut)

    def _tell(self, text: str) -> None:
        if text and self._on_output is not None and not self._unwanted.is_set():
            self._on_output(text)


class _Stream:
    """What a command has written to one of its streams, up to a limit. A character may come in two pieces."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._texts: list[str] = []
        self.is_cut = False

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def take(self, data: bytes) -> str:
        """Keep the next bytes, and return the text that is whole with them."""
        self.is_cut = self.is_cut or len(data) > self._left
        kept = data[: self._left]
        self._left -= len(kept)
        return self._keep(self._decoder.decode(kept))

    def end(self) -> str:
        """Return the text of bytes that were the begin of a character, and of none in the end."""
        # Where the limit has cut one in two, nothing was wrong with it.
        return "" if self.is_cut else self._keep(self._decoder.decode(b"", final=True))

    def _keep(self, text: str) -> str:
        if text:
            self._texts.append(text)
        return text
