"""The tools, run: one entry for all of them, whoever calls, a model's loop or a host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..protocol.tools import ToolResult
from ..runtime import OnOutput, Sandbox


@dataclass(frozen=True, slots=True)
class Place:
    """Where tools work: the real path of the workspace, and how far its commands and edits may go."""

    root: str
    sandbox_mode: str


class Tools:
    """Runs the tools of `protocol.tools.TOOLS`."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def run(
        self, name: str, arguments: dict[str, Any], place: Place, on_output: OnOutput | None = None
    ) -> ToolResult:
        """Run a tool with input that `check_input` has passed.

        What goes wrong is the result's `error`. When whoever waits is cancelled, a command is ended. `on_output` is told
        what `run_command` writes, as it comes.
        """
        raise NotImplementedError(name)

    async def preview(self, name: str, arguments: dict[str, Any], place: Place) -> ToolResult:
        """Return what `apply_patch` would change (`diffs`), or why it could not, and write nothing: for an approval."""
        raise NotImplementedError(name)
