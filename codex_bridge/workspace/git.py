"""The tools `git_status`, `git_log` and `git_diff`: git in the sandbox, without a way to change anything.

The repository is the one whose `.git` lies in the workspace itself; one above the workspace is none of its business. A
`.git` that is a link or a file may lead elsewhere only where git's own linked worktrees do.
"""

from __future__ import annotations

import os

from ..limits import (
    FILE_TOOL_S,
    GIT_TIMEOUT_S,
    MAX_DIFF_CHARACTERS,
    MAX_GIT_FILE_BYTES,
    MAX_LOG_COMMITS,
    MAX_STATUS_FILES,
)
from ..protocol import git as protocol
from ..protocol.tools import Json, ToolResult, limit_hit
from ..runtime import Command, CommandResult, Sandbox
from .jail import Jail, check_path, told
from .paths import is_inside, read_regular
from .place import Place, Refused, off_loop

_READ_ONLY = "read-only"
_UNSANDBOXED = "danger-full-access"
# The file in a linked worktree's part of a repository that says where the worktree's `.git` is.
_BACK = "gitdir"


class Git:
    """Runs git. `program` is its path, None where there is none."""

    def __init__(self, sandbox: Sandbox, program: str | None) -> None:
        self._sandbox = sandbox
        self._program = program

    async def status(self, arguments: Json, place: Place) -> ToolResult:
        """Tell the branch and the changed files."""
        git, filters = await self._prepare(place)
        result = await self._run(protocol.status_arguments(git, filters), place)
        _check(result)
        data = protocol.parse_status(result.stdout)
        files = data["files"]
        limits = []
        if len(files) > MAX_STATUS_FILES or result.is_cut:
            data["files"] = files[:MAX_STATUS_FILES]
            message = "There are more changed files than these; git_diff with a path tells of others."
            limits.append(limit_hit("files", MAX_STATUS_FILES, message))
        return ToolResult(data=data, limits=tuple(limits))

    async def log(self, arguments: Json, place: Place) -> ToolResult:
        """List the newest commits; none where there is none yet."""
        limit: int = arguments["limit"]
        path = _check_path(arguments.get("path"), place.root)
        git, filters = await self._prepare(place)
        result = await self._run(protocol.log_arguments(git, filters, limit + 1, path), place)
        if result.exit_code != 0 and protocol.is_without_commits(result.stderr):
            return ToolResult(data={"commits": []})
        _check(result)
        commits = protocol.parse_log(result.stdout)
        limits = []
        if len(commits) > limit or result.is_cut:
            message = f"There are older commits; limit may be up to {MAX_LOG_COMMITS}."
            limits.append(limit_hit("limit", limit, message))
        return ToolResult(data={"commits": commits[:limit]}, limits=tuple(limits))

    async def diff(self, arguments: Json, place: Place) -> ToolResult:
        """Show changes as a unified diff."""
        path = _check_path(arguments.get("path"), place.root)
        git, filters = await self._prepare(place)
        result = await self._run(protocol.diff_arguments(git, filters, arguments["staged"], path), place)
        _check(result)
        diff, limits = result.stdout, []
        if len(diff) > MAX_DIFF_CHARACTERS or result.is_cut:
            diff = diff[: diff.rfind("\n", 0, MAX_DIFF_CHARACTERS) + 1]
            message = "The diff is longer than this; a path asks for one file's alone."
            limits.append(limit_hit("diff_characters", MAX_DIFF_CHARACTERS, message))
        return ToolResult(data={"diff": diff}, limits=tuple(limits))

    async def _prepare(self, place: Place) -> tuple[str, list[str]]:
        """Return git, and the filters that the repository has configured: they must not run."""
        if self._program is None:
            raise Refused("git_missing", "There is no git on the bridge's PATH.")
        if not await off_loop(lambda _: _may_run_filters(place.root), FILE_TOOL_S):
            return self._program, []
        result = await self._run(protocol.filters_arguments(self._program), place)
        if result.exit_code > 1:  # 1: there are none
            _check(result)
        filters = protocol.parse_filters(result.stdout)
        if result.is_cut or any("=" in name for name in filters):
            # git could not be told to leave such a one alone.
            raise Refused(
                "unsafe_repository", "The repository's configuration has filters that cannot be turned off."
            )
        return self._program, filters

    async def _run(self, argv: list[str], place: Place) -> CommandResult:
        mode = place.sandbox_mode if place.sandbox_mode == _UNSANDBOXED else _READ_ONLY
        environ = protocol.environment(place.root, os.path.dirname(place.root))
        result = await self._sandbox.run_command(
            Command(argv, place.root, mode, GIT_TIMEOUT_S, environ=environ)
        )
        if result.timed_out:
            raise Refused("timed_out", f"git was not done within {GIT_TIMEOUT_S:g} seconds.")
        return result


def _check(result: CommandResult) -> None:
    if result.exit_code != 0:
        raise Refused(*protocol.parse_refusal(result.stderr))


def _check_path(path: str | None, root: str) -> str | None:
    """Refuse a path that leads out of the workspace. It may be one that was deleted, and git follows no link in it."""
    if path is None:
        return None
    check_path(path)
    inside = Jail(root).inside(path) if path.startswith("/") else path
    if inside is None or os.path.normpath(inside or ".").split("/")[0] == "..":
        raise Refused("outside_workspace", f"path: {told(path)} leads out of the workspace.")
    return inside or "."


def _check_repository(root: str) -> str:
    """Return the repository's directory; raise `Refused` unless the workspace has one of its own."""
    place = os.path.join(root, ".git")
    if not os.path.lexists(place):
        raise Refused("not_a_repository", "The workspace is not a git repository.")
    led_to = _git_directory(place)
    if not is_inside(led_to, root):
        back = _read_line(os.path.join(led_to, _BACK))
        if os.path.islink(place) or back is None or os.path.realpath(back) != place:
            raise Refused(
                "outside_workspace", "The workspace's .git leads to a repository outside of the workspace."
            )
    elif os.path.lexists(os.path.join(led_to, "commondir")):
        raise Refused("outside_workspace", "The workspace's .git shares another repository's directory.")
    return led_to


def _may_run_filters(root: str) -> bool:
    """Say whether a repository has to be asked for its filters: that costs as much as git itself; raise `Refused`.

    The names of sections cannot be written in another way.
    """
    directory = _check_repository(root)
    if not is_inside(directory, root):
        return True
    for name in ("config", "config.worktree"):
        path = os.path.join(directory, name)
        if os.path.lexists(path):
            text = _read_small(path)
            if text is None or b"filter" in text.lower() or b"include" in text.lower():
                return True
    return False


def _git_directory(place: str) -> str:
    """Return the real path of the repository's directory, behind links and a file that names it."""
    if os.path.isdir(place):
        return os.path.realpath(place)
    named = (_read_line(place) or "").removeprefix("gitdir:").strip()
    return os.path.realpath(os.path.join(os.path.dirname(place), named))


def _read_line(path: str) -> str | None:
    """Return the first line of a small file, None where there is none."""
    text = _read_small(path)
    return None if text is None else os.fsdecode(text.partition(b"\n")[0])


def _read_small(path: str) -> bytes | None:
    """Return what is in a file, None where it is none or too large."""
    try:
        text = read_regular(os.path.realpath(path), MAX_GIT_FILE_BYTES + 1)
    except OSError:
        return None
    return text if len(text) <= MAX_GIT_FILE_BYTES else None
