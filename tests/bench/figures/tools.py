"""What a tool costs that a host runs, in a repository of 50,000 files: through the route, and as a plain command."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..bridge import Bridge
from ..context import Bench
from ..report import Row

FILES, QUICK_FILES = 50_000, 5_000
FILES_OF_A_DIRECTORY = 100
NEEDLE = "the needle in this haystack"
# Every so many files one has the needle.
NEEDLES = 1000
CHANGED = 20
HOW = (
    "POST /chat/sessions/:id/tools/:name on one kept-alive connection, in turn with the plain command, both ends to "
    "the last byte; commands and git run in Codex's sandbox"
)
HOW_PATCH = "the same; a patch that adds a line to a file, or takes it away again"


@dataclass(frozen=True)
class Case:
    """A tool with its input, and the command that does about the same."""

    tool: str
    body: Mapping[str, object]
    plain: Sequence[str] = ()
    against: str = ""
    values: list[float] = field(default_factory=list)
    compared: list[float] = field(default_factory=list)


def measure(bench: Bench) -> list[Row]:
    """Make the repository, and call each tool in it."""
    count = QUICK_FILES if bench.quick else FILES
    root = bench.new_directory("repository")
    bench.say(f"making a repository of {count:,} files")
    make_repository(bench, root, count)
    with Bridge(bench, CODEX_WORKSPACE_ROOT=root) as bridge:
        session = bridge.create(1)[0]
        programs = bridge.connection.call("GET", "/runtime/tools")["programs"]
        runs = bench.runs(15, 5)
        cases = make_cases(programs["ripgrep"])
        for case in cases:
            call(bridge, session, case)  # what starts at the first use
            bench.alternate(runs, case.tool, *measures(bench, bridge, session, root, case))
        patched = patch_times(bridge, session, 2 * runs)
    rows = [
        Row(f"{case.tool}, {count:,} files", "ms", case.values, HOW, case.against, case.compared)
        for case in cases
    ]
    return [*rows, Row(f"apply_patch, {count:,} files", "ms", patched, HOW_PATCH)]


def make_cases(ripgrep: str | None) -> list[Case]:
    """Return what is measured; without ripgrep the plain search is grep's."""
    search = [ripgrep, "-nF", NEEDLE] if ripgrep else ["grep", "-rnF", NEEDLE, "."]
    return [
        Case("list_files", {"recursive": True, "limit": 5000}, ["ls", "-R"], "ls -R"),
        Case("read_file", {"path": "d0/f0.txt"}, ["cat", "d0/f0.txt"], "cat"),
        Case("search_text", {"query": NEEDLE}, search, "rg" if ripgrep else "grep -r"),
        Case("run_command", {"command": "true"}, ["sh", "-c", "true"], "sh -c true"),
        Case("git_status", {}, ["git", "status", "--porcelain=v2", "--branch"], "git status"),
        Case("git_log", {}, ["git", "log", "-20"], "git log"),
        Case("git_diff", {}, ["git", "diff"], "git diff"),
    ]


def measures(
    bench: Bench, bridge: Bridge, session: str, root: Path, case: Case
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return what measures the tool once, and what measures the plain command."""

    def tool() -> None:
        case.values.append(call(bridge, session, case))

    def plain() -> None:
        started = time.perf_counter()
        subprocess.run(case.plain, cwd=root, env=bench.environment(), capture_output=True, check=True)
        case.compared.append((time.perf_counter() - started) * 1000)

    return tool, plain


def call(bridge: Bridge, session: str, case: Case) -> float:
    """Run a tool once and return the milliseconds; raise RuntimeError when it could not do it."""
    started = time.perf_counter()
    answer: dict[str, Any] = bridge.connection.call(
        "POST", f"/chat/sessions/{session}/tools/{case.tool}", dict(case.body)
    )
    took = time.perf_counter() - started
    if not answer["result"]["ok"]:
        raise RuntimeError(f"{case.tool}: {answer['result']['error']}")
    return took * 1000


def patch_times(bridge: Bridge, session: str, runs: int) -> list[float]:
    """Add a line to a file and take it away again, and return the milliseconds of each."""
    frame = "*** Begin Patch\n*** Update File: d0/f1.txt\n@@\n line 0 of 1\n{}line new\n*** End Patch\n"
    signs = itertools.cycle("+-")
    return [
        call(bridge, session, Case("apply_patch", {"patch": frame.format(next(signs))}))
        for _ in range(runs - runs % 2)
    ]


def make_repository(bench: Bench, root: Path, count: int) -> None:
    """Write the files, commit them, and change some of them after that."""
    for number in range(count):
        directory = root / f"d{number // FILES_OF_A_DIRECTORY}"
        if number % FILES_OF_A_DIRECTORY == 0:
            directory.mkdir()
        lines = [f"line {line} of {number}" for line in range(20)]
        if number % NEEDLES == 0:
            lines[10] = NEEDLE
        (directory / f"f{number % FILES_OF_A_DIRECTORY}.txt").write_text("\n".join(lines) + "\n")
    git = shutil.which("git")
    if git is None:
        raise RuntimeError("expected git on PATH")
    author = ["-c", "user.name=bench", "-c", "user.email=bench@example.com", "-c", "gc.auto=0"]
    for arguments in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "All"]):
        subprocess.run([git, *author, *arguments], cwd=root, env=bench.environment(), check=True)
    for number in range(CHANGED):
        with (root / f"d{number}" / "f2.txt").open("a") as file:
            file.write("changed\n")
