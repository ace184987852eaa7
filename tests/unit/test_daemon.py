"""What a service manager is told over time: the phases, the status, the watchdog."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from codex_bridge import daemon
from codex_bridge.config import Manager
from codex_bridge.daemon import Reporter
from tests.unit.loop import on_loop


@contextlib.contextmanager
def manager_socket(directory: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hears:
        hears.setblocking(False)
        hears.bind(str(directory / "notify"))
        yield hears


async def next_message(hears: socket.socket) -> list[str]:
    return (await asyncio.get_running_loop().sock_recv(hears, 4096)).decode().split("\n")


def waiting_messages(hears: socket.socket) -> list[str]:
    """Return what has come and was not read yet."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(hears.recv(4096).decode())
    return found


async def ended(reporter: Reporter) -> None:
    reporter.stop()
    await asyncio.sleep(0)


@on_loop
async def test_phases_and_the_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "STATUS_INTERVAL_S", 0.01)
    work = ["no turn runs"]
    with manager_socket(tmp_path) as hears:
        reporter = Reporter(Manager(str(tmp_path / "notify")), lambda: work[0], lambda: True)
        assert waiting_messages(hears) == []
        reporter.enter("Ready", "READY=1")
        assert await next_message(hears) == ["READY=1", "STATUS=Ready: no turn runs."]
        work[0] = "2 turns run, 1 waits"
        assert await next_message(hears) == ["STATUS=Ready: 2 turns run, 1 waits."]
        reporter.enter("Draining", "STOPPING=1")
        assert await next_message(hears) == ["STOPPING=1", "STATUS=Draining: 2 turns run, 1 waits."]
        await ended(reporter)
        assert waiting_messages(hears) == []


@on_loop
async def test_without_a_manager_nothing_is_asked_nor_told() -> None:
    def never() -> str:
        raise AssertionError("nobody wants to know")

    reporter = Reporter(Manager(), never, lambda: bool(never()))
    reporter.enter("Ready", "READY=1")
    reporter.stop()


@on_loop
async def test_the_watchdog_is_fed_by_the_loop_itself(tmp_path: Path) -> None:
    with manager_socket(tmp_path) as hears:
        reporter = Reporter(Manager(str(tmp_path / "notify"), 0.02), lambda: "no turn runs", lambda: True)
        reporter.enter("Ready", "READY=1")
        await next_message(hears)
        for _ in range(3):
            assert await next_message(hears) == ["WATCHDOG=1"]
        # From here on the loop is blocked: what waits may be read, and then nothing must come.
        hears.settimeout(0.5)
        with pytest.raises(TimeoutError):
            for _ in range(10):
                hears.recv(4096)
        hears.setblocking(False)
        assert await next_message(hears) == ["WATCHDOG=1"]
        await ended(reporter)


@on_loop
async def test_a_bridge_that_is_not_well_does_not_feed_it(tmp_path: Path) -> None:
    asked = asyncio.Event()
    health = [True]

    def is_well() -> bool:
        asked.set()
        return health[0]

    with manager_socket(tmp_path) as hears:
        reporter = Reporter(Manager(str(tmp_path / "notify"), 0.02), lambda: "no turn runs", is_well)
        reporter.enter("Ready", "READY=1")
        await next_message(hears)
        assert await next_message(hears) == ["WATCHDOG=1"]
        health[0] = False
        waiting_messages(hears)
        for _ in range(3):
            asked.clear()
            await asked.wait()
        assert waiting_messages(hears) == []
        health[0] = True
        assert await next_message(hears) == ["WATCHDOG=1"]
        await ended(reporter)
