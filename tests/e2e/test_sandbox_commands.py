"""Commands outside of turns, in the real Codex's sandbox: what is told of them, and that they end."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from codex_bridge.errors import CodexFailed
from codex_bridge.runtime import Command, CommandResult
from codex_bridge.runtimes.app_server import AppServerRuntime, BriefSandbox
from tests.support import processes
from tests.support.codex import codex_binary
from tests.support.waiting import wait_until
from tests.unit.loop import on_loop_with_codex

pytestmark = pytest.mark.codex

SPLIT = r"printf 'a\303'; sleep 0.2; printf '\251b\342\202'"
# It leaves its process group and its session, and hears no signal but KILL.
STUBBORN = "trap '' TERM INT HUP; (setsid sleep {0} &); echo begun; while :; do sleep {0}; done"
MODES = ("workspace-write", "read-only", "danger-full-access")


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    for name in ("home", "scratch", "workspace"):
        (tmp_path / name).mkdir(exist_ok=True)
    places = {"HOME": "home", "CODEX_HOME": "home", "TMPDIR": "scratch"}
    paths = {name: str(tmp_path / place) for name, place in places.items()}
    return {"PATH": os.environ["PATH"], **paths, **more}


@asynccontextmanager
async def a_runtime(tmp_path: Path, **more: str) -> AsyncIterator[AppServerRuntime]:
    runtime = AppServerRuntime(str(codex_binary()), environment(tmp_path, **more))
    try:
        yield runtime
    finally:
        await runtime.stop()


def shell(
    tmp_path: Path, script: str, mode: str = "workspace-write", timeout_s: float = 30, most: int = 1000
) -> Command:
    root = str(tmp_path / "workspace")
    return Command(["/bin/sh", "-c", script], root, mode, timeout_s, max_output_bytes=most)


async def until_told(told: list[str], text: str) -> None:
    await asyncio.to_thread(wait_until, lambda: text in "".join(told), text)


def sleepers(seconds: str) -> list[int]:
    return [pid for pid in processes.pids() if processes.cmdline(pid) == ["sleep", seconds]]


@on_loop_with_codex
async def test_output_is_told_as_it_comes_and_characters_are_whole(tmp_path: Path) -> None:
    async with a_runtime(tmp_path) as runtime:
        told: list[str] = []
        result = await runtime.run_command(shell(tmp_path, SPLIT), told.append)
        assert result == CommandResult(0, "aéb\ufffd", "")
        assert "".join(told) == result.stdout
        result = await runtime.run_command(shell(tmp_path, "echo out; echo err >&2; exit 3"))
        assert result == CommandResult(3, "out\n", "err\n")


@on_loop_with_codex
async def test_each_stream_is_kept_up_to_the_cap(tmp_path: Path) -> None:
    async with a_runtime(tmp_path) as runtime:
        exact = await runtime.run_command(shell(tmp_path, "printf 1234567890; printf abc >&2", most=10))
        assert exact == CommandResult(0, "1234567890", "abc")
        more = await runtime.run_command(shell(tmp_path, "printf 12345678901; printf abc >&2", most=10))
        assert more == CommandResult(0, "1234567890", "abc", is_cut=True)
        flood = await runtime.run_command(shell(tmp_path, "head -c 50000000 /dev/zero; printf é", most=1))
        assert flood == CommandResult(0, "\0", "", is_cut=True)


@on_loop_with_codex
async def test_a_command_whose_time_is_over_has_timed_out_and_others_have_not(tmp_path: Path) -> None:
    async with a_runtime(tmp_path) as runtime:
        late = await runtime.run_command(shell(tmp_path, "echo begun; sleep 600", timeout_s=2.5))
        assert late.timed_out
        assert late.stdout == "begun\n"
        for status in (124, 137):
            by_itself = await runtime.run_command(shell(tmp_path, f"exit {status}"))
            assert by_itself == CommandResult(status, "", "")


@pytest.mark.parametrize("mode", MODES)
def test_nothing_of_a_command_outlives_its_time_or_whoever_waits(tmp_path: Path, mode: str) -> None:
    @on_loop_with_codex
    async def check() -> None:
        async with a_runtime(tmp_path) as runtime:
            script = STUBBORN.format("600.5")
            late = await runtime.run_command(shell(tmp_path, script, mode, timeout_s=0.5))
            assert late.timed_out
            assert not [pid for pid in sleepers("600.5") if mark in processes.environ(pid)]

            told: list[str] = []
            waiting = asyncio.create_task(runtime.run_command(shell(tmp_path, script, mode), told.append))
            await until_told(told, "begun")
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
            assert not [pid for pid in sleepers("600.5") if mark in processes.environ(pid)]
            assert runtime.describe()["children"][0]["commands"] == 0
            assert (await runtime.run_command(shell(tmp_path, "echo fine"))).stdout == "fine\n"
            assert runtime.describe()["restarts"] == 0

    mark = str(tmp_path).encode()
    check()


@on_loop_with_codex
async def test_a_codex_that_dies_fails_its_commands_at_once(tmp_path: Path) -> None:
    async with a_runtime(tmp_path) as runtime:
        told: list[str] = []
        command = shell(tmp_path, "echo begun; sleep 600", timeout_s=600)
        waiting = asyncio.create_task(runtime.run_command(command, told.append))
        await until_told(told, "begun")
        processes.kill(runtime.describe()["pid"])
        with pytest.raises(CodexFailed) as died:
            await waiting
        assert died.value.code == "codex_exited"
        assert (await runtime.run_command(shell(tmp_path, "echo again"))).stdout == "again\n"


@on_loop_with_codex
async def test_commands_see_no_proxy_and_write_only_where_they_may(tmp_path: Path) -> None:
    proxy = "http://ann:hidden@127.0.0.1:9"
    async with a_runtime(tmp_path, HTTPS_PROXY=proxy, https_proxy=proxy) as runtime:
        for mode in MODES:
            seen = await runtime.run_command(shell(tmp_path, "env; echo seen", mode))
            assert "seen" in seen.stdout
            assert "hidden" not in seen.stdout
            assert "HTTPS_PROXY" not in seen.stdout
        write = f"echo in >in; echo out >'{tmp_path}/out'; true"
        await runtime.run_command(shell(tmp_path, write, "read-only"))
        assert not (tmp_path / "workspace/in").exists()
        await runtime.run_command(shell(tmp_path, write))
        assert (tmp_path / "workspace/in").exists()
        assert not (tmp_path / "out").exists()


@on_loop_with_codex
async def test_a_brief_sandbox_keeps_its_codex_for_the_next_command_and_no_longer(tmp_path: Path) -> None:
    environ = environment(tmp_path)
    sandbox = BriefSandbox(str(codex_binary()), environ, rest_s=600)
    command = shell(tmp_path, "echo $PPID; echo fine")
    results = await asyncio.gather(*(sandbox.run_command(command) for _ in range(3)))
    assert [result.stdout.endswith("fine\n") for result in results] == [True] * 3
    servers = app_servers(tmp_path)
    assert len(servers) == 1
    await sandbox.run_command(command)
    assert app_servers(tmp_path) == servers
    await sandbox.stop()
    assert not app_servers(tmp_path)

    hasty = BriefSandbox(str(codex_binary()), environ, rest_s=0)
    await hasty.run_command(command)
    assert not app_servers(tmp_path)


def app_servers(tmp_path: Path) -> list[int]:
    return [pid for pid in processes.marked(str(tmp_path)) if "app-server" in processes.cmdline(pid)]
