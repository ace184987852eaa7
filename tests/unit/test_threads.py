"""Blocking work beside the event loop: it holds up nobody but who asked for it, and not the end of the process."""

import asyncio
import threading

import pytest

from codex_bridge.adapters import threads
from codex_bridge.adapters.threads import in_thread
from codex_bridge.errors import Unavailable
from codex_bridge.workspace import place
from codex_bridge.workspace.place import Watch, off_loop
from tests.unit.loop import BOUND_S, on_loop, run


def test_work_that_hangs_holds_up_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "TOOL_END_S", 0.01)
    may_end = threading.Event()
    ended: list[bool] = []

    def hang(watch: Watch) -> None:
        ended.append(may_end.wait(BOUND_S))

    async def main() -> None:
        # More than the loop's own executor has threads, which look up names as well.
        hanging = [asyncio.create_task(off_loop(hang, 1.0)) for _ in range(40)]
        assert await off_loop(lambda watch: "done", 1.0) == "done"
        assert await asyncio.get_running_loop().getaddrinfo("localhost", 1)
        for task in hanging:
            task.cancel()
        await asyncio.wait(hanging)

    run(main)
    # The loop is closed, and none of them was waited for.
    assert ended == []
    may_end.set()


@on_loop
async def test_work_that_hangs_does_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    may_end = threading.Event()
    hanging = in_thread(lambda: may_end.wait(BOUND_S), "work")
    monkeypatch.setattr(threads, "MAX_THREADS", threading.active_count())
    with pytest.raises(Unavailable, match="a disk may hang"):
        in_thread(lambda: None, "work")
    may_end.set()
    assert await hanging


@on_loop
async def test_what_work_raises_is_for_who_waits() -> None:
    def fail() -> None:
        raise SystemExit("no")

    with pytest.raises(SystemExit, match="no"):
        await in_thread(fail, "work")
