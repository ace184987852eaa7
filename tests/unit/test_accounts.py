"""Codex's sign-in over a scripted app-server: what replaces the process, and what does not."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from codex_bridge.errors import CodexFailed
from codex_bridge.runtime import AccountEvent, CodexLost, Command, LoginEnded, LoginStarted
from codex_bridge.runtimes import accounts as accounts_module
from codex_bridge.runtimes.accounts import AppServerAccounts
from codex_bridge.runtimes.app_server import AppServerRuntime
from tests.support import processes
from tests.support.fake_codex import FakeCodex
from tests.unit.loop import on_loop


class Scene:
    """A runtime on a fake Codex, its accounts, and the events they told."""

    def __init__(self, directory: Path, options: dict[str, object]) -> None:
        self.fake = FakeCodex(directory / "fake-codex", options)
        self.file = directory / "auth.json"
        environ = {"PATH": os.environ["PATH"], "CODEX_HOME": str(directory), "TMPDIR": str(directory)}
        self.runtime = AppServerRuntime(str(self.fake), environ)
        self.accounts = AppServerAccounts(self.runtime, environ)
        self.events: list[AccountEvent] = []
        self.accounts.follow(self.events.append)


@asynccontextmanager
async def scene(directory: Path, **options: object) -> AsyncIterator[Scene]:
    made = Scene(directory, options)
    try:
        yield made
    finally:
        await made.runtime.stop()


def test_one_that_does_not_answer_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path, mute=["account/login/start"], account=True) as one:
            await one.accounts.read()
            monkeypatch.setattr(accounts_module, "ACCOUNT_CALL_TIMEOUT_S", 0.2)
            with pytest.raises(CodexFailed) as stuck:
                await one.accounts.start_device_login()
            assert stuck.value.code == "codex_stuck"
            monkeypatch.undo()
            assert (await one.accounts.read()).email == "ann@example.com"
            assert len(one.fake.starts()) == 2
            assert one.runtime.describe()["quick_exits"] == 0
            assert [type(event) for event in one.events] == [CodexLost]

    check()


def test_one_that_died_at_rest_is_followed_by_another(tmp_path: Path) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path, account=True) as one:
            await one.accounts.read()
            processes.kill(one.fake.starts()[0]["pid"])
            assert (await one.accounts.read()).kind == "chatgpt"
            assert len(one.fake.starts()) == 2

    check()


def test_a_sign_in_by_another_program_is_noticed_once(tmp_path: Path) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path) as one:
            assert (await one.accounts.read()).kind is None
            one.file.write_text("{}")
            for _ in range(3):  # the fake stays signed out all the same: that must not end in a circle
                assert (await one.accounts.read()).kind is None
            assert len(one.fake.starts()) == 2
            one.file.write_text("{ }")
            await one.accounts.read()
            assert len(one.fake.starts()) == 3

    check()


def test_a_sign_out_by_another_program_is_noticed_once(tmp_path: Path) -> None:
    (tmp_path / "auth.json").write_text("{}")

    @on_loop
    async def check() -> None:
        async with scene(tmp_path, account=True) as one:
            await one.accounts.read()
            one.file.write_text("{ }")  # a renewed token
            await one.accounts.read()
            assert len(one.fake.starts()) == 1
            one.file.unlink()
            for _ in range(3):
                await one.accounts.read()
            assert len(one.fake.starts()) == 2

    check()


@pytest.mark.parametrize("account", [True, False])
def test_what_was_so_before_is_left_alone(tmp_path: Path, account: bool) -> None:
    """A sign-in that is kept elsewhere, and a file that holds none."""
    if not account:
        (tmp_path / "auth.json").write_text("nonsense")

    @on_loop
    async def check() -> None:
        async with scene(tmp_path, account=account) as one:
            for _ in range(2):
                await one.accounts.read()
            assert len(one.fake.starts()) == 1

    check()


def test_a_login_under_way_is_not_ended_for_a_file(tmp_path: Path) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path) as one:
            await one.accounts.start_device_login()
            one.file.write_text("{}")
            await one.accounts.read()
            assert len(one.fake.starts()) == 1
            await one.accounts.cancel_device_login(one.fake.logins()[0])
            await one.accounts.read()
            assert len(one.fake.starts()) == 2

    check()


def test_a_code_is_told_before_its_end(tmp_path: Path) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path, login="refused") as one:
            await one.accounts.start_device_login()
            login = one.fake.logins()[0]
            assert one.events[0] == LoginStarted(login, "http://issuer.example/device", "FAKE-CODE")
            while len(one.events) < 2:
                await one.accounts.read()
            assert one.events[1] == LoginEnded(login, "the fake issuer refuses")

    check()


def test_a_command_outside_of_turns_is_not_cut_off(tmp_path: Path) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path, held="command/exec", sandbox="open") as one:
            await one.accounts.read()
            command = ["/bin/sh", "-c", "echo whole"]
            running = asyncio.create_task(one.runtime.run_command(Command(command, "/", "read-only", 10)))
            while not one.fake.received("command/exec"):
                await one.accounts.read()
            one.file.write_text("{}")
            assert (await one.accounts.read()).kind is None
            children = one.runtime.describe()["children"]
            assert [child["is_current"] for child in children] == [False, True]
            assert [child["pid"] for child in children] == [start["pid"] for start in one.fake.starts()]
            await asyncio.to_thread(one.fake.release)
            assert (await running).stdout == "whole\n"
            while len(one.runtime.describe()["children"]) > 1:
                await one.accounts.read()
            assert len(one.fake.starts()) == 2

    check()
