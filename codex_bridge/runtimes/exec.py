"""The exec runtime: each turn is a `codex exec --json`, a supervised child of its own.

It begins when the turn begins and ends with it, and so does every command of the turn. What a session
remembers is in Codex's own files, from which the next child resumes the thread. So a child that dies takes its
own turn with it and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from typing import Any

from .. import log
from ..adapters.process import ChildProcess, Program
from ..errors import BridgeError, CodexFailed, Conflict
from ..limits import CHILD_STOP_STEP_S
from ..model import now_ms
from ..protocol import codex, codex_exec, json_codec
from ..protocol.jsonrpc import LineSplitter
from ..runtime import Ask, Emit, Failure, TurnOutcome, TurnRequest, TurnStatus
from ..workspace.scratch import keep_scratch, link_into, mark_of
from .quick_exits import QuickExits


class ExecRuntime:
    """Implements the `Runtime` port. `command` is None when no Codex was found."""

    capabilities: Mapping[str, bool] = {
        "deltas": False, "diffs": False, "interrupt": True, "resume": True, "images": True,
        "background_commands": False, "approvals": False, "steer": False,
    }  # fmt: skip

    def __init__(self, command: str | None, environ: Mapping[str, str], interrupt_grace_s: float) -> None:
        self._command = command
        self._environ = environ
        self._interrupt_grace_s = interrupt_grace_s
        self._runs: dict[str, _Run] = {}
        self._quick_exits = QuickExits()
        self._last_exit: dict[str, Any] | None = None
        self._stopping = False

    @property
    def state(self) -> str:
        if any(run.child is not None for run in self._runs.values()):
            return "running"
        given_up = self._quick_exits.has_given_up(
            Program.at(self._command or ""), asyncio.get_running_loop().time()
        )
        return "given_up" if given_up else "stopped"

    async def run_turn(self, request: TurnRequest, emit: Emit, ask: Ask) -> TurnOutcome:
        """Run one turn; see `Runtime`."""
        run = self._runs[request.turn_id] = _Run(request, emit)
        try:
            outcome = await self._attempt(run, request.thread_id)
            if outcome.failure is not None and outcome.failure.code == codex_exec.MISSING_THREAD:
                if request.heard:  # else it never was Codex's, or lost nothing
                    log.warning("thread %s was not resumed: %s", request.thread_id, outcome.failure.message)
                    emit(codex.not_resumed_event(outcome.failure.message))
                outcome = await self._attempt(run, None)
        except CodexFailed as problem:
            outcome = TurnOutcome(TurnStatus.FAILED, Failure(problem.message, problem.code))
        finally:
            run.ended.set()
            del self._runs[request.turn_id]
        if run.interrupted and outcome.status is not TurnStatus.COMPLETED:
            return TurnOutcome(TurnStatus.INTERRUPTED)  # its child did what was asked of it, in whatever way
        if outcome.failure is not None and outcome.failure.code in ("codex_exited", "codex_unavailable"):
            log.warning("%s", outcome.failure.message)
        return outcome

    async def steer(self, turn_id: str, text: str, images: tuple[str, ...] = ()) -> None:
        """Refuse: a `codex exec` hears nothing once it runs."""
        raise Conflict("With CODEX_RUNTIME_KIND=exec no turn can be steered.", code="turn_not_steerable")

    async def _attempt(self, run: _Run, thread_id: str | None) -> TurnOutcome:
        """Give a turn to a child of its own; raise `CodexFailed`."""
        request = run.request
        program = self._program()
        keep_scratch(self._environ["TMPDIR"])
        with _readable_images(request.images, self._environ) as images:
            child = await self._start_child(program, request, thread_id, images)
            reader = codex_exec.TurnReader(request.turn_id, thread_id)
            try:
                run.child, run.reader = child, reader
                if run.interrupted or self._stopping:
                    child.kill()
                child.write(codex_exec.prompt(request, thread_id))
                child.end_input()
                await _follow(child, run)
                how = await child.exit_status()
            finally:
                child.kill()
                said = log.redact(await child.last_words())
                await child.buried()
        events, outcome = reader.end(how, said)
        for event in events:
            run.emit(event)
        is_unwanted = not run.interrupted and not self._stopping
        if is_unwanted and outcome.failure is not None and outcome.failure.code == "codex_unavailable":
            self._note_quick_exit(program, outcome.failure.message)
        elif reader.has_begun:
            self._quick_exits.forget()
        return outcome

    def _program(self) -> Program:
        """Return the program to start; raise `CodexFailed` where there is none, or it is given up."""
        if self._command is None:
            raise CodexFailed(codex.NOT_FOUND, code="codex_unavailable")
        program, now = Program.at(self._command), asyncio.get_running_loop().time()
        if self._quick_exits.has_given_up(program, now):
            raise self._quick_exits.failure(now)
        return program

    def _note_quick_exit(self, program: Program, said: str) -> None:
        self._last_exit = {"at": now_ms(), "reason": log.redact(said)}
        self._quick_exits.note(program, said, asyncio.get_running_loop().time())

    async def _start_child(
        self, program: Program, request: TurnRequest, thread_id: str | None, images: list[str]
    ) -> ChildProcess:
        arguments = codex_exec.arguments(program.path, request, thread_id, images)
        environ = {**self._environ, **codex_exec.environment(request)}
        mark = mark_of(environ["TMPDIR"])
        try:
            # It has read its stdin to the end, so it would not notice the death of the bridge. Interrupted, it ends
            # its commands as well.
            return await ChildProcess.start(
                arguments, environ, request.workspace_root, mark=mark, orphan_signal=signal.SIGINT
            )
        except OSError as problem:
            reason = f"Codex cannot be started from {program.path}: {problem.strerror}."
            self._note_quick_exit(program, reason)
            raise CodexFailed(reason, code="codex_unavailable") from None

    async def interrupt(self, turn_id: str) -> None:
        """Ask a turn's child to stop; end one that does not within the grace time."""
        run = self._runs.get(turn_id)
        if run is None:
            return
        run.interrupted = True
        if run.child is None or run.reader is None:
            return  # it is being started, and ended when it is
        if not run.reader.has_begun:
            # Before the turn's start the signal can be lost on it, and there is nothing to be kept.
            run.child.kill()
            return
        run.child.interrupt()
        try:
            async with asyncio.timeout(self._interrupt_grace_s):
                await run.ended.wait()
        except TimeoutError:
            log.warning("a turn did not stop within %g s; its Codex is ended", self._interrupt_grace_s)
            run.child.kill()
            run.hurry()

    def close_thread(self, thread_id: str) -> None:
        """Do nothing: between turns there is only Codex's own file."""

    def warm_up(self) -> None:
        """Do nothing: a child is started with its turn and cannot wait for one."""

    async def stop(self) -> None:
        """End all children; turns that still run fail."""
        self._stopping = True
        runs = list(self._runs.values())
        for run in runs:
            if run.child is not None:
                run.child.kill()
        for run in runs:
            await run.ended.wait()

    def describe(self) -> dict[str, Any]:
        """Return how many children there are, and how the starts go."""
        program, now = Program.at(self._command or ""), asyncio.get_running_loop().time()
        given_up = self._quick_exits.has_given_up(program, now)
        return {
            "state": self.state,
            "processes": sum(run.child is not None for run in self._runs.values()),
            "quick_exits": self._quick_exits.count,
            "last_exit": self._last_exit,
            "problem": self._quick_exits.failure(now).message if given_up else None,
        }


class _Run:
    """One turn while it runs. `child` and `reader` are those of the newest attempt."""

    def __init__(self, request: TurnRequest, emit: Emit) -> None:
        self.request = request
        self.emit = emit
        self.child: ChildProcess | None = None
        self.reader: codex_exec.TurnReader | None = None
        self.interrupted = False
        self.ended = asyncio.Event()
        # How long its child is listened to.
        self.patience = asyncio.timeout(None)

    def hurry(self) -> None:
        """Listen only a moment longer, whoever still holds the child's pipe."""
        self.patience.reschedule(asyncio.get_running_loop().time() + CHILD_STOP_STEP_S)


async def _follow(child: ChildProcess, run: _Run) -> None:
    """Read the child's lines to their end; end one that has told the turn's end and does not leave."""
    splitter = LineSplitter()
    run.patience = asyncio.timeout(None)
    try:
        async with run.patience:
            async for chunk in child.read_chunks():
                for line in splitter.feed(chunk):
                    _take(line, run)
                assert run.reader is not None
                if run.reader.outcome is not None:
                    run.hurry()
    except TimeoutError:
        child.kill()


def _take(line: bytes, run: _Run) -> None:
    """Tell what one line says. One that cannot be understood is logged and skipped: the next may be fine."""
    assert run.reader is not None
    try:
        events = run.reader.read(json_codec.decode(line))
    except (BridgeError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as problem:
        log.warning("skipped a line from Codex (%s: %s): %s", type(problem).__name__, problem, line[:200])
        return
    for event in events:
        run.emit(event)


@contextlib.contextmanager
def _readable_images(paths: tuple[str, ...], environ: Mapping[str, str]) -> Iterator[list[str]]:
    """Yield paths that Codex takes for one image each: it cuts an argument at every comma."""
    links = [link_into(environ["TMPDIR"], path) if "," in path else None for path in paths]
    try:
        yield [link or path for link, path in zip(links, paths, strict=True)]
    finally:
        for link in links:
            if link is not None:
                with contextlib.suppress(OSError):
                    os.unlink(link)
