"""Preflight without Codex: the verdict on a sandbox, and on the upstream's answer."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from codex_bridge.adapters.http_client import HttpClient, Origin
from codex_bridge.errors import CodexFailed
from codex_bridge.providers import AuthMode
from codex_bridge.runtime import Command, CommandResult, Failure, OnOutput
from codex_bridge.runtimes.accounts import AppServerAccounts
from codex_bridge.runtimes.app_server import AppServerRuntime
from codex_bridge.services import sandbox
from codex_bridge.services.backend import Backend, ProviderSettings, Upstream
from codex_bridge.services.device_auth import DeviceAuth
from codex_bridge.services.preflight import Check, Preflight, Status
from codex_bridge.services.sandbox import SandboxCheck
from tests.unit.loop import on_loop
from tests.unit.wire import Peer, scripted, take_request


class Machine:
    """A machine whose sandbox is as good as it is told to be: the command runs, some of its places cannot be written."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.runs = 0

    async def run_command(self, command: Command, on_output: OnOutput | None = None) -> CommandResult:
        self.runs += 1
        if self.kind == "refuses":
            raise CodexFailed("no such method")
        if self.kind == "is gone":
            raise CodexFailed("Codex exited.", code="codex_exited")
        if self.kind == "does not start":
            return CommandResult(1, "", "bwrap: no namespace\n")
        nowhere = "/proc/no/such/place"
        *start, inside, outside = command.argv
        places = {
            "is open": [inside, outside], "holds": [inside, nowhere], "holds all": [nowhere, nowhere],
            "lets only out": [nowhere, outside],
        }[self.kind]  # fmt: skip
        run = subprocess.run
        done = await asyncio.to_thread(
            run, [*start, *places], cwd=command.root, capture_output=True, text=True
        )
        return CommandResult(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("kind", "mode", "works", "code"),
    [
        ("holds", "workspace-write", True, None),
        ("holds all", "read-only", True, None),
        ("is open", "workspace-write", False, "sandbox_unavailable"),
        ("is open", "read-only", False, "sandbox_unavailable"),
        ("lets only out", "workspace-write", False, "sandbox_unavailable"),
        ("holds", "read-only", False, "sandbox_unavailable"),
        ("holds all", "workspace-write", False, "sandbox_unavailable"),
        ("does not start", "workspace-write", False, "sandbox_unavailable"),
        ("refuses", "workspace-write", False, "sandbox_unavailable"),
        ("is gone", "workspace-write", None, "codex_exited"),
        ("is open", "danger-full-access", None, None),
        ("does not start", "danger-full-access", None, None),
    ],
)
def test_the_verdict(tmp_path: Path, kind: str, mode: str, works: bool | None, code: str | None) -> None:
    @on_loop
    async def judge() -> None:
        check = SandboxCheck(None, Machine(kind), mode)
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        check.open(str(scratch))
        obstacle = await check.find_obstacle()
        assert check.works is works
        assert (obstacle.code if obstacle else None) == code
        assert obstacle is None or obstacle.message == check.message
        assert os.listdir(tmp_path) == ["scratch"]
        await check.stop()

    judge()


def test_a_sandbox_that_cannot_be_tried_is_not_believed(tmp_path: Path) -> None:
    @on_loop
    async def judge() -> None:
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        (scratch / "probe-workspace-write").write_text("in the way")
        machine = Machine("holds")
        check = SandboxCheck(None, machine, "workspace-write")
        check.open(str(scratch))
        obstacle = await check.find_obstacle()
        assert obstacle is not None
        assert (obstacle.code, check.works, machine.runs) == ("sandbox_unavailable", None, 0)
        (scratch / "probe-workspace-write").unlink()
        assert await check.find_obstacle() is None
        await check.stop()

    judge()


def test_a_bad_verdict_is_looked_at_again_and_a_good_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @on_loop
    async def judge() -> None:
        (tmp_path / "scratch").mkdir()
        machine = Machine("does not start")
        check = SandboxCheck(None, machine, "workspace-write")
        check.open(str(tmp_path / "scratch"))
        assert isinstance(await check.find_obstacle(), Failure)
        assert isinstance(await check.find_obstacle(), Failure)
        assert machine.runs == 1, "not each turn pays for a look"
        machine.kind = "holds"
        monkeypatch.setattr(sandbox, "SANDBOX_RECHECK_S", -1.0)
        assert await check.find_obstacle() is None
        assert await check.find_obstacle() is None
        assert machine.runs == 2
        await check.stop()

    judge()


def test_each_mode_has_a_verdict_of_its_own(tmp_path: Path) -> None:
    @on_loop
    async def judge() -> None:
        (tmp_path / "scratch").mkdir()
        machine = Machine("holds")
        check = SandboxCheck(None, machine, "danger-full-access")
        check.open(str(tmp_path / "scratch"))
        assert await check.find_obstacle() is None
        assert (machine.runs, check.works, check.is_wanted) == (0, None, False)
        assert await check.find_obstacle("workspace-write") is None
        obstacle = await check.find_obstacle("read-only")
        assert obstacle is not None
        assert "read-only" in obstacle.message
        assert machine.runs == 2
        await check.stop()

    judge()


def backend(port: int) -> Backend:
    upstream = Upstream(Origin("http", "127.0.0.1", port), "/v1", "sk-the-key")
    settings = ProviderSettings("openai_compatible", None, None, "sk-the-key", None, "auto")
    return Backend(settings, AuthMode.API_KEY, upstream, upstream)


async def look_at(port: int) -> Check:
    """Return what is found of the upstream on `port`."""
    client = HttpClient(5.0, 5.0, 5.0)
    check = SandboxCheck(None, Machine("holds"), "danger-full-access")
    target = backend(port)
    auth = DeviceAuth(AppServerAccounts(AppServerRuntime(None, {}), {}), lambda: ("api_key", True), 900.0)
    preflight = Preflight(None, {}, check, auth, client, lambda: target)
    *_, found = await preflight.examine(10.0)
    await preflight.stop()
    client.close()
    assert found.name == "upstream"
    return found


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Status.OK),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n", Status.WARNING),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", Status.WARNING),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", Status.WARNING),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", Status.FAILED),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", Status.FAILED),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", Status.WARNING),
        (b"SSH-2.0-OpenSSH\r\n\r\n", Status.FAILED),
        (b"", Status.FAILED),
    ],
)
@on_loop
async def test_the_upstreams_answer(answer: bytes, status: Status) -> None:
    asked = []

    async def script(peer: Peer) -> None:
        asked.append(await take_request(peer))
        await peer.send(answer)

    async with scripted(script) as port:
        found = await look_at(port)
    assert (found.status, f"127.0.0.1:{port}" in found.message) == (status, True)
    first, headers, _ = asked[0]
    assert (first, headers["authorization"]) == ("GET /v1/models HTTP/1.1", "Bearer sk-the-key")
    assert "sk-the-key" not in found.message


@on_loop
async def test_nobody_there() -> None:
    found = await look_at(1)
    assert (found.status, "cannot be reached" in found.message) == (Status.FAILED, True)
