"""The tool `run_command`: a shell command in the sandbox, with what a reader needs of its output."""

from __future__ import annotations

import os
import time
from typing import Any

from ..limits import (
    MAX_COMMAND_OUTPUT_BYTES,
    MAX_COMMAND_TIMEOUT_MS,
    MAX_TOOL_OUTPUT_CHARACTERS,
    TOOL_END_S,
)
from ..protocol.tools import ToolResult, limit_hit
from ..runtime import Command, OnOutput, Sandbox
from .jail import Jail
from .place import Place, Refused, off_loop

Json = dict[str, Any]

# What models write is bash's; where there is none, they have to do with less.
_SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/sh")
# Becomes its arguments. Of two streams nobody could tell what was written first.
_ONE_STREAM = ("/bin/sh", "-c", 'exec "$@" 2>&1', "sh")
# In the sandbox, where it may not ask whose its standard input is, bash takes itself to be called from afar, and would run
# the user's ~/.bashrc, with all that it exports.
_NO_BASHRC = "--norc"


def find_shell() -> str:
    """Return the path of the shell that commands are for."""
    return next((shell for shell in _SHELLS if os.access(shell, os.X_OK)), _SHELLS[-1])


async def run_command(
    sandbox: Sandbox, arguments: Json, place: Place, on_output: OnOutput | None
) -> ToolResult:
    """Run a shell command to its end, or to its time's."""
    if "\0" in arguments["command"]:
        raise Refused("invalid_command", "A command has no NUL.")
    excerpt = Excerpt(MAX_TOOL_OUTPUT_CHARACTERS)

    def take(text: str) -> None:
        excerpt.add(text)
        if on_output is not None:
            on_output(text)

    timeout_ms: int = arguments["timeout_ms"]
    shell = find_shell()
    argv = [*_ONE_STREAM, shell, *[_NO_BASHRC] * shell.endswith("bash"), "-c", arguments["command"]]
    cwd = await off_loop(lambda watch: _find_directory(place.root, arguments["cwd"]), TOOL_END_S)
    command = Command(argv, place.root, place.sandbox_mode, timeout_ms / 1000, cwd)
    begun_at = time.monotonic()
    result = await sandbox.run_command(command, take)
    data = {
        "exit_code": None if result.timed_out else result.exit_code,
        "output": excerpt.text,
        "timed_out": result.timed_out,
        "duration_ms": round((time.monotonic() - begun_at) * 1000),
    }
    limits = []
    if result.timed_out:
        message = f"It was ended: its time was over. timeout_ms may be up to {MAX_COMMAND_TIMEOUT_MS}."
        limits.append(limit_hit("timeout_ms", timeout_ms, message))
    if result.is_cut:
        message = "Only the first bytes were read; write the output to a file to have all of it."
        limits.append(limit_hit("output_bytes", MAX_COMMAND_OUTPUT_BYTES, message))
    if excerpt.left_out:
        message = (
            f"{excerpt.left_out} characters in the middle are left out; write the output to a file, "
            "or ask for less of it."
        )
        limits.append(limit_hit("output_characters", MAX_TOOL_OUTPUT_CHARACTERS, message))
    return ToolResult(data=data, limits=tuple(limits))


class Excerpt:
    """The begin and the end of a text that grows: errors come last, and what was done first."""

    def __init__(self, most: int) -> None:
        self._head_left = most // 3
        self._tail_size = most - most // 3
        self._head: list[str] = []
        self._tail = ""
        self.left_out = 0

    def add(self, text: str) -> None:
        kept = text[: self._head_left]
        if kept:
            self._head.append(kept)
            self._head_left -= len(kept)
        self._tail += text[len(kept) :]
        if (
            len(self._tail) > 2 * self._tail_size
        ):  # not at each step, or many small ones would copy it each time
            self._shorten()

    def _shorten(self) -> None:
        too_much = max(0, len(self._tail) - self._tail_size)
        self.left_out += too_much
        self._tail = self._tail[too_much:]

    @property
    def text(self) -> str:
        """What is shown of it, with a line where something is left out."""
        self._shorten()
        gap = f"\n[... {self.left_out} characters are left out here ...]\n" if self.left_out else ""
        return "".join(self._head) + gap + self._tail


def _find_directory(root: str, path: str) -> str:
    """Return the real path of a directory of the workspace; raise `Refused`.

    A link that takes its place after this leads the command only where it could go by itself: the sandbox holds it.
    """
    with Jail(root) as jail:
        return os.path.join(root, *jail.find_directory(path))
