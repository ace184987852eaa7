"""Runs a tool as the bridge does, with its input checked, for tests of the tools."""

import os
from pathlib import Path
from typing import Any

from codex_bridge.protocol.tools import TOOLS, ToolResult, check_input
from codex_bridge.runtime import Command, CommandResult, OnOutput
from codex_bridge.workspace.programs import find_programs
from codex_bridge.workspace.tools import Place, Tools
from tests.support.codex import codex_binary
from tests.unit.loop import run


class NoSandbox:
    """The file tools run no command."""

    async def run_command(self, command: Command, on_output: OnOutput | None = None) -> CommandResult:
        raise AssertionError(command)


def ripgrep() -> str:
    """Return the ripgrep that Codex brings."""
    path = find_programs({}, str(codex_binary()))["ripgrep"]
    assert path is not None
    return path


def place(root: Path, mode: str = "workspace-write") -> Place:
    return Place(os.path.realpath(root), mode)


def call(tools: Tools, root: Path, name: str, /, **arguments: Any) -> ToolResult:
    return run(lambda: tools.run(name, check_input(TOOLS[name], arguments), place(root)))


Call = tuple[str, dict[str, Any]]


def answers(root: Path, calls: list[Call], rg: str | None = None) -> list[dict[str, Any]]:
    """Run several tools on one loop, one after another, and return what each answers."""

    async def all_of_them() -> list[dict[str, Any]]:
        tools = Tools(NoSandbox(), rg)
        return [
            (await tools.run(name, check_input(TOOLS[name], arguments), place(root))).to_json()
            for name, arguments in calls
        ]

    return run(all_of_them)


def answer(root: Path, name: str, /, rg: str | None = None, **arguments: Any) -> dict[str, Any]:
    """Run one tool and return what it answers."""
    return call(Tools(NoSandbox(), rg), root, name, **arguments).to_json()


def data(root: Path, name: str, /, rg: str | None = None, **arguments: Any) -> Any:
    """Run one tool that must succeed and return its data."""
    told = answer(root, name, rg, **arguments)
    assert told["ok"], told
    return told["data"]


def code(root: Path, name: str, /, rg: str | None = None, **arguments: Any) -> str:
    """Run one tool that must fail and return the error's code."""
    told = answer(root, name, rg, **arguments)
    assert not told["ok"], told
    assert told["error"]["message"]
    return str(told["error"]["code"])


def update(path: str, old: str, new: str) -> str:
    """Return a patch that replaces a line."""
    return f"*** Begin Patch\n*** Update File: {path}\n@@\n-{old}\n+{new}\n*** End Patch\n"


def add(path: str, text: str) -> str:
    return f"*** Begin Patch\n*** Add File: {path}\n+{text}\n*** End Patch\n"


def delete(path: str) -> str:
    return f"*** Begin Patch\n*** Delete File: {path}\n*** End Patch\n"
