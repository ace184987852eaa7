"""A command in the sandbox over a scripted app-server: what is made of its output, and what ends with it."""

import asyncio
import os
from pathlib import Path

import pytest

from codex_bridge.errors import CodexFailed
from codex_bridge.runtime import Command
from codex_bridge.runtimes import app_server_command
from codex_bridge.runtimes.app_server import AppServerRuntime
from codex_bridge.runtimes.app_server_command import SandboxCommand
from tests.support import processes
from tests.support.fake_codex import FakeCodex
from tests.support.waiting import wait_until
from tests.unit.loop import on_loop


def a_command(most: int = 100, timeout_s: float = 10.0, root: str = "/") -> Command:
    return Command(["/bin/sh", "-c", "true"], root, "workspace-write", timeout_s, max_output_bytes=most)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_a_character_in_pieces_is_told_whole(size: int) -> None:
    told: list[str] = []
    command = SandboxCommand(a_command(), told.append)
    data = "Grüße, 世界 🌍".encode()
    for start in range(0, len(data), size):
        command.take_output("stdout", data[start : start + size])
        command.take_output("stderr", b"-")
    assert "".join(told).replace("-", "") == "Grüße, 世界 🌍"
    assert "\ufffd" not in "".join(told)


def test_what_the_cap_cuts_in_two_is_left_out() -> None:
    told: list[str] = []
    command = SandboxCommand(a_command(most=2), told.append)
    command.take_output("stdout", "aé".encode())
    command.take_output("stdout", b"more")
    assert told == ["a"]


@pytest.mark.parametrize("ending", ["cancelled", "cancelled twice", "late"])
def test_a_codex_that_does_not_end_a_command_is_killed(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_server_command, "COMMAND_END_S", 2.0)  # long enough to note what it is asked

    @on_loop
    async def check() -> None:
        fake = FakeCodex(tmp_path / "fake-codex", {"sandbox": "hangs"})
        runtime = AppServerRuntime(str(fake), {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}, 0.3)
        timeout_s = 0.1 if ending == "late" else 60.0
        waiting = asyncio.create_task(runtime.run_command(a_command(timeout_s=timeout_s, root=str(tmp_path))))
        await asyncio.to_thread(wait_until, lambda: fake.received("command/exec"), "the call")
        if ending != "late":
            waiting.cancel()
            if ending == "cancelled twice":
                await asyncio.to_thread(
                    wait_until, lambda: fake.received("command/exec/terminate"), "the end asked for"
                )
                waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        else:
            with pytest.raises(CodexFailed):
                await waiting
        asked = fake.received("command/exec")[0]["params"]["processId"]
        assert [each["params"] for each in fake.received("command/exec/terminate")] == [{"processId": asked}]
        pid = fake.starts()[0]["pid"]
        await asyncio.to_thread(wait_until, lambda: not processes.is_alive(pid), "the end of Codex")
        await runtime.stop()

    check()


def test_what_goes_on_when_codex_has_ended_a_command_is_ended(tmp_path: Path) -> None:
    """Codex leaves it where the sandbox was still being made."""

    @on_loop
    async def check() -> None:
        fake = FakeCodex(tmp_path / "fake-codex", {"sandbox": "leaves"})
        runtime = AppServerRuntime(str(fake), {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}, 0.1)
        endless = Command(
            ["/bin/sh", "-c", "while :; do sleep 1; done"], str(tmp_path), "workspace-write", 60.0
        )
        result = await runtime.run_command(endless)
        pid = int(result.stdout)
        try:
            await asyncio.to_thread(wait_until, lambda: not processes.is_alive(pid), "the end of the command")
        finally:
            processes.kill(pid)
            await runtime.stop()

    check()
