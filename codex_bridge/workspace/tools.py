"""The tools, run: one entry for all of them, whoever calls, a model's loop or a host."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import CodexFailed
from ..protocol.tools import ToolResult, refusal
from ..runtime import OnOutput, Sandbox
from .place import Place as Place
from .place import Refused

if TYPE_CHECKING:
    from .edits import Edits

Json = dict[str, Any]
Runner = Callable[[Json, Place, OnOutput | None], Awaitable[ToolResult]]


class Tools:
    """Runs the tools of `protocol.tools.TOOLS`. `rg` and `git` are the paths of these programs, where they are."""

    def __init__(self, sandbox: Sandbox, rg: str | None = None, git: str | None = None) -> None:
        self._sandbox = sandbox
        self._rg = rg
        self._git = git

    # What follows is imported when it is first needed: few starts need it, and to load it takes a tenth of a start.

    @cached_property
    def _edits(self) -> Edits:
        from .edits import Edits

        return Edits()

    @cached_property
    def _runners(self) -> dict[str, Runner]:
        from .commands import run_command
        from .files import list_files, read_file
        from .git import Git
        from .search import Search

        git, search = Git(self._sandbox, self._git), Search(self._rg)
        return {
            "list_files": lambda arguments, place, _: list_files(arguments, place),
            "read_file": lambda arguments, place, _: read_file(arguments, place),
            "search_text": lambda arguments, place, _: search.run(arguments, place),
            "run_command": lambda arguments, place, on_output: run_command(
                self._sandbox, arguments, place, on_output
            ),
            "git_status": lambda arguments, place, _: git.status(arguments, place),
            "git_log": lambda arguments, place, _: git.log(arguments, place),
            "git_diff": lambda arguments, place, _: git.diff(arguments, place),
            "apply_patch": lambda arguments, place, _: self._edits.apply(arguments, place),
        }

    async def run(
        self, name: str, arguments: Json, place: Place, on_output: OnOutput | None = None
    ) -> ToolResult:
        """Run a tool with input that `check_input` has passed.

        What goes wrong is the result's `error`. When whoever waits is cancelled, a command is ended. `on_output` is told
        what `run_command` writes, as it comes.
        """
        return await _refusing(self._runners[name](arguments, place, on_output))

    async def preview_patch(self, arguments: Json, place: Place) -> ToolResult:
        """Return what `apply_patch` would change (`diffs`), or why it could not, and write nothing."""
        return await _refusing(self._edits.preview(arguments, place))

    async def apply_patch(self, arguments: Json, place: Place, shown: ToolResult) -> ToolResult:
        """Run `apply_patch`, but only to do what its preview has `shown`: files may have changed since."""
        return await _refusing(self._edits.apply(arguments, place, shown))


async def _refusing(work: Awaitable[ToolResult]) -> ToolResult:
    """Return what a tool answers, or why it could not."""
    try:
        return await work
    except Refused as refused:
        return refused.to_result()
    except CodexFailed as problem:
        return refusal(problem.code, problem.message)
    except OSError as error:
        # What no tool has words for: descriptors that are used up, a disk that fails.
        return refusal("io_error", f"The system said: {error.strerror or 'no reason'}.")
