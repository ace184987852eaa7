"""The app-server runtime: what it does with children that end while it waits for them."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from codex_bridge.errors import CodexFailed
from codex_bridge.runtime import TurnRequest
from codex_bridge.runtimes.app_server import AppServerRuntime
from codex_bridge.runtimes.app_server_run import Run
from tests.unit.loop import on_loop


class Child:
    """Stands for a child that is asked to give a thread up."""

    def __init__(self, children: list[Any], ends: bool = False) -> None:
        self._children = children
        self._ends = ends
        self.asked: list[str] = []

    async def give_up_thread(self, thread_id: str) -> None:
        self.asked.append(thread_id)
        await asyncio.sleep(0)
        if self._ends:
            self._children.remove(self)

    async def open_thread(self, run: Run) -> None:
        raise CodexFailed("That is all that is to be seen.")


@on_loop
async def test_each_other_child_gives_a_thread_up_though_one_ends_meanwhile(tmp_path: Path) -> None:
    runtime = AppServerRuntime(None, {"TMPDIR": str(tmp_path)})
    children: list[Any] = runtime._supervisor.children
    first, second, current = Child(children, ends=True), Child(children), Child(children)
    children += [first, second, current]

    async def ask(request: object) -> Any:
        raise AssertionError

    run = Run(TurnRequest("s", "t", "T", "/w", "read-only", "hello"), lambda event: None, ask)
    with pytest.raises(CodexFailed, match="all that is to be seen"):
        await runtime._play_on(current, run)  # type: ignore[arg-type]
    assert (first.asked, second.asked, current.asked) == (["T"], ["T"], [])
    run.end()
    await run.asks.end()
