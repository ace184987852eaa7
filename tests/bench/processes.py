"""The processes of a run: each in its own group, each ended in the end, also what it left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import probes

STOP_SECONDS = 10.0
POLL_SECONDS = 0.02


class Processes:
    """Starts processes in sessions of their own (Ctrl-C reaches the benchmark alone), ends them as groups."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.running: list[subprocess.Popen[bytes]] = []

    def spawn(
        self, argv: Sequence[str], env: Mapping[str, str], cwd: Path, *, pipes: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start a process with exactly this environment; its stderr goes to the run's log."""
        pipe = subprocess.PIPE if pipes else subprocess.DEVNULL
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                argv, env=dict(env), cwd=cwd, stdin=pipe, stdout=pipe, stderr=log, bufsize=0,
                start_new_session=True,
            )  # fmt: skip
        self.running.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> list[int]:
        """End a process: stdin closed, TERM, KILL for its group and what it left; return what it left."""
        below = probes.descendants(process.pid)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_SECONDS)
        left = [pid for pid in below if not wait_until_gone(pid)]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.running.remove(process)
        return left

    def stop_all(self) -> None:
        """End everything that still runs, the youngest first."""
        for process in reversed(self.running[:]):
            self.stop(process)


def wait_until_gone(pid: int, bound: float = 1.0) -> bool:
    """Wait for a process that is not our child to end; return whether it did."""
    deadline = time.monotonic() + bound
    while probes.is_alive(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
