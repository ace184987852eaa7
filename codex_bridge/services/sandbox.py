"""The sandbox check: whether Codex's sandbox really holds on this machine.

A command is run in it that tries to write inside its directory and outside. No turn runs before the verdict, and
none at all where the sandbox does not hold, unless the operator asked for `danger-full-access` by name.
"""

from __future__ import annotations

import asyncio
import os

from .. import log
from ..adapters.process import Program
from ..errors import CodexFailed
from ..limits import PROBE_TIMEOUT_S, SANDBOX_RECHECK_S
from ..runtime import Failure, Sandbox

# Writes to its two arguments. It says that it ran: one that never started has written nothing either.
_SCRIPT = 'echo ran; echo inside >"$1"; echo outside >"$2"; true'
_UNSANDBOXED = "danger-full-access"


class SandboxCheck:
    """Holds the verdict on the Codex at `command`. `message` says it to a person; `works` is None as long as there is none."""

    def __init__(self, command: str | None, sandbox: Sandbox, mode: str) -> None:
        self._command = command
        self._sandbox = sandbox
        self._mode = mode
        self._directory = ""
        self._task: asyncio.Task[None] | None = None
        self._judged_at = 0.0
        self._judged: Program | None = None
        self.works: bool | None = None
        self.message = "The sandbox has not been tried yet."
        self._trouble = Failure(self.message, "sandbox_unavailable")

    @property
    def is_wanted(self) -> bool:
        """Whether commands are to run in a sandbox at all."""
        return self._mode != _UNSANDBOXED

    def open(self, directory: str) -> None:
        """Use the scratch directory `directory`, whose parent the sandbox must protect."""
        self._directory = directory

    def start(self) -> asyncio.Task[None] | None:
        """Begin to look where there is no verdict, one on another program, or a bad one that may have been mended.

        Returns what to wait for.
        """
        is_running = self._task is not None and not self._task.done()
        age_s = asyncio.get_running_loop().time() - self._judged_at
        is_stale = self.works is None or (self.works is False and age_s > SANDBOX_RECHECK_S)
        is_stale = is_stale or self._program() != self._judged
        if self.is_wanted and not is_running and is_stale:
            self._task = asyncio.create_task(self._look(), name="sandbox check")
        return self._task

    async def find_obstacle(self) -> Failure | None:
        """Return why no turn may run, once it is known: whatever is no good verdict."""
        task = self.start()
        if task is not None and not task.done():
            await asyncio.wait([task])
        return None if self.works or not self.is_wanted else self._trouble

    async def stop(self) -> None:
        """Give up looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _program(self) -> Program | None:
        return Program.at(self._command) if self._command is not None else None

    async def _look(self) -> None:
        self._judged = self._program()
        probe = os.path.join(self._directory, "probe")
        inside = os.path.join(probe, "file")
        outside = os.path.join(os.path.dirname(self._directory), f".codex-bridge-probe-{os.urandom(8).hex()}")
        command = ["/bin/sh", "-c", _SCRIPT, "probe", inside, outside]
        try:
            os.makedirs(probe, exist_ok=True)
            result = await self._sandbox.run_command(command, probe, self._mode, PROBE_TIMEOUT_S)
            stdout, stderr = result.stdout, result.stderr
        except CodexFailed as problem:
            if problem.code != "codex_failed":  # it did not answer at all
                self.works, self.message = None, problem.message
                self._trouble = Failure(problem.message, problem.code)
                return
            stdout, stderr = "", problem.message
        except OSError as problem:
            self.works, self.message = None, f"The sandbox cannot be tried: {problem}."
            self._trouble = Failure(self.message, "sandbox_unavailable")
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
        self._trouble = Failure(self.message, "sandbox_unavailable")
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
