"""The sandbox check: whether Codex's sandbox really holds on this machine.

A command is run in it that tries to write inside its directory and outside. No turn runs before the verdict on the
mode of its session, and none at all where that does not hold, unless the operator asked for `danger-full-access` by
name.
"""

from __future__ import annotations

import asyncio
import os

from .. import log
from ..adapters.process import Program
from ..errors import CodexFailed
from ..limits import PROBE_TIMEOUT_S, SANDBOX_RECHECK_S
from ..runtime import Command, Failure, Sandbox

# Writes to its two arguments. It says that it ran: one that never started has written nothing either.
_SCRIPT = 'echo ran; echo inside >"$1"; echo outside >"$2"; true'
_UNSANDBOXED = "danger-full-access"


class SandboxCheck:
    """Holds the verdicts on the Codex at `command`.

    `message` says the one on the bridge's own mode; `works` is None as long as there is none.
    """

    def __init__(self, command: str | None, sandbox: Sandbox, mode: str) -> None:
        self._command = command
        self._sandbox = sandbox
        self._mode = mode
        self._directory = ""
        self._verdicts: dict[str, _Verdict] = {}

    @property
    def is_wanted(self) -> bool:
        """Whether commands are to run in a sandbox unless a session wants it."""
        return self._mode != _UNSANDBOXED

    @property
    def works(self) -> bool | None:
        return self._verdict(self._mode).works

    @property
    def message(self) -> str:
        return self._verdict(self._mode).message

    def open(self, directory: str) -> None:
        """Use the scratch directory `directory`, whose parent the sandbox must protect."""
        self._directory = directory

    def start(self, mode: str | None = None) -> asyncio.Task[None] | None:
        """Begin to look where there is no verdict, or a bad one that may have been mended; return what to wait for.

        The mode is the bridge's own where none is named.
        """
        mode = mode or self._mode
        return None if mode == _UNSANDBOXED else self._verdict(mode).start(self._directory)

    async def find_obstacle(self, mode: str | None = None) -> Failure | None:
        """Return why no turn in a mode may run, once it is known: whatever is no good verdict."""
        mode = mode or self._mode
        task = self.start(mode)
        if task is not None and not task.done():
            await asyncio.wait([task])
        verdict = self._verdict(mode)
        return None if verdict.works or mode == _UNSANDBOXED else verdict.trouble

    async def stop(self) -> None:
        """Give up looking."""
        for verdict in self._verdicts.values():
            await verdict.stop()

    def _verdict(self, mode: str) -> _Verdict:
        return self._verdicts.setdefault(mode, _Verdict(self._command, self._sandbox, mode))


class _Verdict:
    """The verdict on one mode, and the way to it."""

    def __init__(self, command: str | None, sandbox: Sandbox, mode: str) -> None:
        self._command = command
        self._sandbox = sandbox
        self._mode = mode
        self._task: asyncio.Task[None] | None = None
        self._judged_at = 0.0
        self._judged: Program | None = None
        self.works: bool | None = None
        self.message = "The sandbox has not been tried yet."
        self.trouble = Failure(self.message, "sandbox_unavailable")

    def start(self, directory: str) -> asyncio.Task[None] | None:
        """Begin to look in a scratch directory where there is no verdict, one on another program, or an old bad one.

        Returns what to wait for.
        """
        is_running = self._task is not None and not self._task.done()
        age_s = asyncio.get_running_loop().time() - self._judged_at
        is_stale = self.works is None or (self.works is False and age_s > SANDBOX_RECHECK_S)
        is_stale = is_stale or self._program() != self._judged
        if not is_running and is_stale:
            self._task = asyncio.create_task(self._look(directory), name=f"sandbox check {self._mode}")
        return self._task

    async def stop(self) -> None:
        """Give up looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _program(self) -> Program | None:
        return Program.at(self._command) if self._command is not None else None

    async def _look(self, directory: str) -> None:
        self._judged = self._program()
        # A directory of its own: two modes may be tried at once.
        probe = os.path.join(directory, f"probe-{self._mode}")
        inside = os.path.join(probe, "file")
        outside = os.path.join(os.path.dirname(directory), f".codex-bridge-probe-{os.urandom(8).hex()}")
        command = ["/bin/sh", "-c", _SCRIPT, "probe", inside, outside]
        try:
            os.makedirs(probe, exist_ok=True)
            result = await self._sandbox.run_command(Command(command, probe, self._mode, PROBE_TIMEOUT_S))
            stdout, stderr = result.stdout, result.stderr
        except CodexFailed as problem:
            if problem.code != "codex_failed":  # it did not answer at all
                self.works, self.message = None, problem.message
                self.trouble = Failure(problem.message, problem.code)
                return
            stdout, stderr = "", problem.message
        except OSError as problem:
            self.works, self.message = None, f"The sandbox cannot be tried: {problem}."
            self.trouble = Failure(self.message, "sandbox_unavailable")
            return
        self._judge(stdout, stderr, _take_away(inside), _take_away(outside))

    def _judge(self, stdout: str, stderr: str, wrote_inside: bool, wrote_outside: bool) -> None:
        self.works = False
        self._judged_at = asyncio.get_running_loop().time()
        if wrote_outside:
            self.message = "A command could write outside its workspace: Codex's sandbox does not hold here."
        elif not stdout.startswith("ran"):
            said = f" It said: {log.redact(stderr.strip())[-300:]}" if stderr.strip() else ""
            self.message = f"Codex's sandbox does not start on this machine.{said}"
        elif wrote_inside != (self._mode == "workspace-write"):
            could = "could" if wrote_inside else "could not"
            self.message = f"In the sandbox mode {self._mode} a command {could} write in its workspace."
        else:
            self.works = True
            self.message = (
                f"It holds: in the mode {self._mode} a command could not write outside its workspace."
            )
            return
        self.trouble = Failure(self.message, "sandbox_unavailable")
        log.warning("%s No turns are run.", self.message)


def _take_away(path: str) -> bool:
    """Remove a file that the probe may have written; say whether it had."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    except OSError:
        pass  # it is there, at any rate
    return True
