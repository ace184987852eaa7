"""git on repositories that would rather run something else, in the real Codex's sandbox and outside of it."""

import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from codex_bridge.protocol.tools import TOOLS, check_input
from codex_bridge.runtimes.app_server import AppServerRuntime
from codex_bridge.workspace.place import Place
from codex_bridge.workspace.programs import find_programs
from codex_bridge.workspace.tools import Tools
from tests.support.codex import codex_binary
from tests.unit.loop import on_loop_with_codex

pytestmark = pytest.mark.codex

# Each names a program in a repository's own configuration; {} is a file that it would make.
TRAPS = {
    "core.fsmonitor": "touch {}; false",
    "core.pager": "touch {}; cat",
    "pager.status": "touch {}; cat",
    "pager.log": "touch {}; cat",
    "pager.diff": "touch {}; cat",
    "core.editor": "touch {}",
    "core.askPass": "touch {}",
    "core.sshCommand": "touch {}",
    "core.gitProxy": "touch {}",
    "core.alternateRefsCommand": "touch {}",
    "credential.helper": "!touch {}",
    "alias.status": "!touch {}",
    "alias.log": "!touch {}",
    "alias.diff": "!touch {}",
    "alias.config": "!touch {}",
    "diff.external": "touch {}",
    "diff.trap.textconv": "touch {}; cat",
    "diff.trap.command": "touch {}",
    "filter.trap.clean": "touch {}; cat",
    "filter.trap.smudge": "touch {}; cat",
    "filter.other trap.process": "touch {}",
    "gpg.program": "touch {}",
    "gpg.ssh.program": "touch {}",
    "remote.origin.url": "ext::touch {}",
    "remote.origin.vcs": "trap",
    # These open doors for the others.
    "filter.trap.required": "true",
    "filter.other trap.required": "true",
    "log.showSignature": "true",
    "log.diffMerges": "on",
    "protocol.ext.allow": "always",
    "extensions.partialClone": "origin",
    "remote.origin.promisor": "true",
    "submodule.recurse": "true",
    "color.ui": "always",
    "diff.noprefix": "true",
    "status.showUntrackedFiles": "no",
    "status.relativePaths": "true",
}
HOOKS = ("post-index-change", "pre-commit", "reference-transaction", "fsmonitor-watchman", "post-checkout")
TOOL_NAMES = ("git_status", "git_log", "git_diff")


def git(workspace: Path, *arguments: str, may_fail: bool = False) -> str:
    author = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"]
    done = subprocess.run(
        ["git", *author, *arguments],
        cwd=workspace, check=not may_fail, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout


def make_repository(workspace: Path) -> None:
    workspace.mkdir()
    git(workspace, "init", "--quiet", "-b", "main")
    (workspace / "a.txt").write_text("one\n")
    git(workspace, "add", "--all")
    git(workspace, "commit", "--quiet", "-m", "First")
    (workspace / "a.txt").write_text("two\n")


class Scene:
    def __init__(self, tmp_path: Path, runtime: AppServerRuntime, git: str | None) -> None:
        self.workspace = tmp_path / "workspace"
        self._tools = Tools(runtime, None, git)

    async def run(self, name: str, mode: str = "workspace-write", /, **arguments: Any) -> dict[str, Any]:
        place = Place(str(self.workspace), mode)
        result = await self._tools.run(name, check_input(TOOLS[name], arguments), place)
        return result.to_json()

    async def code(self, name: str, **arguments: Any) -> str:
        told = await self.run(name, **arguments)
        return str(told["error"]["code"])


@asynccontextmanager
async def a_scene(tmp_path: Path, has_git: bool = True) -> AsyncIterator[Scene]:
    for name in ("home", "scratch"):
        (tmp_path / name).mkdir()
    home = str(tmp_path / "home")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": home,
        "CODEX_HOME": home,
        "TMPDIR": str(tmp_path / "scratch"),
    }
    runtime = AppServerRuntime(str(codex_binary()), environ)
    try:
        yield Scene(tmp_path, runtime, find_programs(environ, None)["git"] if has_git else None)
    finally:
        await runtime.stop()


def set_traps(workspace: Path, sprung: Path) -> None:
    sprung.mkdir()
    for name, value in TRAPS.items():
        git(workspace, "config", name, value.format(sprung / name.replace(" ", "-")))
    hooks = workspace / "hooks"
    hooks.mkdir()
    for name in HOOKS:
        (hooks / name).write_text(f"#!/bin/sh\ntouch {sprung / name}\n")
        (hooks / name).chmod(0o755)
    git(workspace, "config", "core.hooksPath", str(hooks))
    attributes = workspace / ".git" / "info" / "attributes"
    attributes.write_text('*.txt filter=trap diff=trap\n*.md filter="other trap"\n')
    (workspace / "b.md").write_text("b\n")


@pytest.mark.parametrize("mode", ["workspace-write", "read-only", "danger-full-access"])
def test_no_program_that_a_repository_names_is_run(tmp_path: Path, mode: str) -> None:
    @on_loop_with_codex
    async def check() -> None:
        make_repository(tmp_path / "workspace")
        # In the sandbox, which is read-only for git, a program that is run could not leave a trace; without it, it does.
        set_traps(tmp_path / "workspace", tmp_path / "sprung")
        async with a_scene(tmp_path) as scene:
            for name in TOOL_NAMES:
                told = await scene.run(name, mode)
                assert told["ok"], told
            status = await scene.run("git_status", mode)
            paths = [file["path"] for file in status["data"]["files"]]
            assert paths == ["a.txt", "b.md", "hooks/"]
            diff = await scene.run("git_diff", mode)
            assert diff["data"]["diff"].startswith("diff --git a/a.txt b/a.txt\n")
            assert "-one\n+two\n" in diff["data"]["diff"]
            assert list((tmp_path / "sprung").iterdir()) == []
        # A git that is not held back falls into them: the traps are set.
        git(scene.workspace, "diff", may_fail=True)
        assert list((tmp_path / "sprung").iterdir()) != []

    check()


@on_loop_with_codex
async def test_a_filter_that_cannot_be_named_is_refused(tmp_path: Path) -> None:
    make_repository(tmp_path / "workspace")
    async with a_scene(tmp_path) as scene:
        git(scene.workspace, "config", "filter.a=b.clean", "cat")
        for name in TOOL_NAMES:
            assert await scene.code(name) == "unsafe_repository"


@pytest.mark.parametrize(
    "text",
    [
        '[FILTER "trap"]\n\tclean = touch {0}; cat\n',
        "[filter.trap]\nclean = touch {0}; cat\n",
        "[Include]\n\tpath = {1}\n",
        '[includeIf "gitdir:/"]\n\tpath = {1}\n',
    ],
)
def test_a_filter_is_found_however_it_is_written(tmp_path: Path, text: str) -> None:
    @on_loop_with_codex
    async def check() -> None:
        make_repository(tmp_path / "workspace")
        sprung, included = tmp_path / "sprung", tmp_path / "included"
        included.write_text(f'[filter "trap"]\n\tclean = touch {sprung}; cat\n')
        async with a_scene(tmp_path) as scene:
            with (scene.workspace / ".git" / "config").open("a") as config:
                config.write(text.format(sprung, included))
            (scene.workspace / ".git" / "info" / "attributes").write_text("*.txt filter=trap\n")
            assert (await scene.run("git_diff", "danger-full-access"))["ok"]
            assert not sprung.exists()
        git(scene.workspace, "diff")
        assert sprung.exists()

    check()


@on_loop_with_codex
async def test_the_users_own_filters_stay(tmp_path: Path) -> None:
    make_repository(tmp_path / "workspace")
    async with a_scene(tmp_path) as scene:
        (scene.workspace / ".git" / "info" / "attributes").write_text("*.txt filter=upper\n")
        config = tmp_path / "home" / ".gitconfig"
        config.write_text('[filter "upper"]\n\tclean = tr a-z A-Z\n')
        diff = await scene.run("git_diff")
        assert "+TWO\n" in diff["data"]["diff"]


@on_loop_with_codex
async def test_what_is_no_repository_of_the_workspace(tmp_path: Path) -> None:
    make_repository(tmp_path / "other")
    async with a_scene(tmp_path) as scene:
        scene.workspace.mkdir()
        place = scene.workspace / ".git"
        for name in TOOL_NAMES:
            assert await scene.code(name) == "not_a_repository"
        # One above is none of the workspace's business.
        git(tmp_path, "init", "--quiet")
        assert await scene.code("git_status") == "not_a_repository"
        place.mkdir()
        assert await scene.code("git_status") == "not_a_repository"
        place.rmdir()
        for target in ("../other/.git", str(tmp_path / "other" / ".git"), "."):
            place.write_text(f"gitdir: {target}\n")
            told = await scene.code("git_log")
            assert told == ("not_a_repository" if target == "." else "outside_workspace")
            place.unlink()
        place.symlink_to(tmp_path / "other" / ".git")
        assert await scene.code("git_log") == "outside_workspace"
        place.unlink()
        git(scene.workspace, "init", "--quiet", "--bare", ".")
        assert await scene.code("git_log") == "not_a_repository"


@on_loop_with_codex
async def test_a_linked_worktree_is_one_and_a_borrowed_directory_is_not(tmp_path: Path) -> None:
    make_repository(tmp_path / "other")
    git(tmp_path / "other", "worktree", "add", "--quiet", "-b", "beside", str(tmp_path / "workspace"))
    async with a_scene(tmp_path) as scene:
        told = await scene.run("git_status")
        assert told["data"]["branch"]["head"] == "beside"
        assert len((await scene.run("git_log"))["data"]["commits"]) == 1
        (scene.workspace / ".git").unlink()
        git(scene.workspace, "init", "--quiet")
        assert (await scene.run("git_log"))["data"] == {"commits": []}
        (scene.workspace / ".git" / "commondir").write_text(str(tmp_path / "other" / ".git"))
        assert await scene.code("git_log") == "outside_workspace"


@on_loop_with_codex
async def test_files_elsewhere_are_not_a_work_tree(tmp_path: Path) -> None:
    make_repository(tmp_path / "workspace")
    async with a_scene(tmp_path) as scene:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "a.txt").write_text("private\n")
        git(scene.workspace, "config", "core.worktree", str(elsewhere))
        diff = await scene.run("git_diff")
        assert "private" not in diff["data"]["diff"]
        assert "+two\n" in diff["data"]["diff"]
        for path in ("../elsewhere/a.txt", str(elsewhere / "a.txt"), "x/../../elsewhere"):
            assert await scene.code("git_diff", path=path) == "outside_workspace"
            assert await scene.code("git_log", path=path) == "outside_workspace"
        for path in (
            "--output=written",
            "--all",
            ":(top)a.txt",
            "*.txt",
        ):  # names of files that are not there
            assert (await scene.run("git_diff", path=path))["data"] == {"diff": ""}
        assert not (scene.workspace / "written").exists()


@on_loop_with_codex
async def test_without_git_the_tools_say_so(tmp_path: Path) -> None:
    make_repository(tmp_path / "workspace")
    async with a_scene(tmp_path, has_git=False) as scene:
        for name in TOOL_NAMES:
            assert await scene.code(name) == "git_missing"


@on_loop_with_codex
async def test_ahead_behind_conflicts_and_strange_names(tmp_path: Path) -> None:
    make_repository(tmp_path / "workspace")
    async with a_scene(tmp_path) as scene:
        workspace = scene.workspace
        git(workspace, "branch", "base")
        git(workspace, "commit", "--quiet", "-am", "Second")
        git(workspace, "branch", "--set-upstream-to=base")
        strange = 'a\nb\t"c" -> ü'
        (workspace / strange).write_text("x\n")
        told = (await scene.run("git_status"))["data"]
        assert told["branch"] | {"commit": None} == {
            "head": "main", "commit": None, "upstream": "base", "ahead": 1, "behind": 0,
        }  # fmt: skip
        assert told["files"] == [{"path": strange, "staged": None, "unstaged": "untracked"}]
        (workspace / strange).unlink()
        git(workspace, "checkout", "--quiet", "base")
        (workspace / "a.txt").write_text("three\n")
        git(workspace, "commit", "--quiet", "-am", "Third")
        git(workspace, "merge", "main", may_fail=True)
        told = (await scene.run("git_status"))["data"]
        assert told["files"] == [
            {"path": "a.txt", "staged": "unmerged", "unstaged": "unmerged", "conflict": True}
        ]
