"""Supervision of the app-server's children over a scripted one: every state, and every way between two."""

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from codex_bridge.errors import CodexFailed, Conflict
from codex_bridge.limits import MAX_QUICK_EXITS
from codex_bridge.runtime import Event, TurnOutcome, TurnRequest, TurnStatus
from codex_bridge.runtimes import app_server_child, quick_exits, supervisor
from codex_bridge.runtimes.app_server import AppServerRuntime
from codex_bridge.runtimes.supervisor import TRANSITIONS, Lifecycle, State
from tests.support import processes
from tests.support.asking import never_asked
from tests.support.fake_codex import FakeCodex, Json
from tests.unit.loop import on_loop

ALLOWED = {
    "stopped": {"starting", "stopping"},
    "starting": {"running", "backing_off", "given_up", "stopping"},
    "running": {"replacing", "stopped", "backing_off", "given_up", "stopping"},
    "replacing": {"running", "starting", "stopping"},
    "backing_off": {"starting", "stopped", "stopping"},
    "given_up": {"starting", "stopped", "stopping"},
    "stopping": set(),
}


@pytest.mark.parametrize(("state", "to"), list(itertools.product(State, State)))
def test_the_state_changes_only_as_the_table_says(state: State, to: State) -> None:
    lifecycle = Lifecycle()
    lifecycle.state = state
    if to in ALLOWED[state]:
        lifecycle.move(to)
        assert lifecycle.state is to
    else:
        with pytest.raises(AssertionError, match=f"{state} cannot be {to}"):
            lifecycle.move(to)
        assert lifecycle.state is state


def test_each_state_can_be_reached_and_left() -> None:
    reached = set().union(*TRANSITIONS.values())
    assert reached == set(State)
    assert [state for state in State if not TRANSITIONS[state]] == [State.STOPPING]


class Scene:
    """A runtime on a scripted Codex."""

    def __init__(self, directory: Path, options: Json, grace_s: float) -> None:
        self.fake = FakeCodex(directory / "fake-codex", options)
        environ = {"PATH": os.environ["PATH"], "TMPDIR": str(directory)}
        self.runtime = AppServerRuntime(str(self.fake), environ, grace_s)
        self.states: list[str] = []
        self.threads: dict[str, str] = {}
        self.events: dict[str, list[Event]] = {}
        self._numbers = itertools.count(1)

    def info(self) -> Json:
        return self.runtime.describe()

    async def play(self, text: str, session: str = "s", turn: str | None = None) -> TurnOutcome:
        """Run a turn of a session."""
        turn = turn or f"t{next(self._numbers)}"
        events = self.events[turn] = []

        def emit(event: Event) -> None:
            events.append(event)
            if event["type"] == "thread.started":
                self.threads[session] = event["thread_id"]

        request = TurnRequest(session, turn, self.threads.get(session), "/", "read-only", text)
        return await self.runtime.run_turn(request, emit, never_asked)

    async def begin(self, text: str, turn: str, session: str = "s") -> asyncio.Task[TurnOutcome]:
        """Run a turn in the background; return once it has said something."""
        task = asyncio.create_task(self.play(text, session, turn))
        await until(lambda: any("delta" in event for event in self.events.get(turn, [])))
        return task


async def until(look: Callable[[], object]) -> None:
    """Wait for something that another process does; the test's own bound holds."""
    while not look():  # noqa: ASYNC110 - there is no event of another process
        await asyncio.sleep(0.005)


@asynccontextmanager
async def scene(directory: Path, grace_s: float = 0.3, **options: object) -> AsyncIterator[Scene]:
    made = Scene(directory, options, grace_s)
    try:
        yield made
    finally:
        await made.runtime.stop()
        assert made.info()["state"] == "stopping"
        assert not [start for start in made.fake.starts() if processes.is_alive(start["pid"])]


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits before the starts that follow a failed one."""
    monkeypatch.setattr(quick_exits, "RESTART_BACKOFF_S", 0.01)


def said(events: list[Event]) -> str:
    return "".join(str(event["delta"]) for event in events if "delta" in event)


# Starting and ending ------------------------------------------------------------------------------


@on_loop
async def check_states(directory: Path) -> None:
    async with scene(directory) as one:
        assert (one.info()["state"], one.info()["pid"], one.info()["children"]) == ("stopped", None, [])
        one.runtime.warm_up()
        await until(lambda: one.info()["state"] == "starting")
        assert (await one.play("say hello")).status is TurnStatus.COMPLETED
        info = one.info()
        assert (info["state"], info["version"], info["restarts"]) == ("running", "0.163.0", 0)
        assert (info["quick_exits"], info["last_exit"], info["problem"]) == (0, None, None)
        (child,) = info["children"]
        assert child == {
            "pid": info["pid"], "version": "0.163.0", "turns": 0, "commands": 0, "loaded_threads": 1, "is_current": True,
        }  # fmt: skip


def test_what_is_told_of_a_healthy_one(tmp_path: Path) -> None:
    check_states(tmp_path)


def test_a_death_in_a_turn_is_no_quick_exit(tmp_path: Path) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path) as one:
            for count in range(MAX_QUICK_EXITS + 1):
                outcome = await one.play("die out of cheese")
                assert outcome.failure is not None
                assert outcome.failure.code == "codex_exited"
                assert "out of cheese" in outcome.failure.message
                info = one.info()
                assert (info["state"], info["quick_exits"], info["restarts"]) == ("stopped", 0, count)
                assert "out of cheese" in info["last_exit"]["reason"]

    check()


@pytest.mark.parametrize("healthy", [True, False])
def test_a_death_at_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, healthy: bool) -> None:
    monkeypatch.setattr(supervisor, "HEALTHY_AFTER_S", 0.0 if healthy else 1000.0)

    @on_loop
    async def check() -> None:
        async with scene(tmp_path, fail_starts=1) as one:
            await one.play("say x")
            await one.runtime.call("account/read", {})
            processes.kill(one.info()["pid"])
            await until(lambda: one.info()["pid"] is None)
            info = one.info()
            assert info["state"] == ("stopped" if healthy else "backing_off")
            assert info["quick_exits"] == (0 if healthy else 2)
            assert "signal 9" in info["last_exit"]["reason"]
            assert (await one.play("say on")).status is TurnStatus.COMPLETED
            assert one.info()["restarts"] == 1

    check()


@pytest.mark.usefixtures("brisk")
def test_back_off_ends_by_itself(tmp_path: Path) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path, fail_starts=1) as one:
            assert (await one.play("say x")).status is TurnStatus.FAILED
            assert one.info()["state"] == "backing_off"
            await until(lambda: one.info()["state"] == "stopped")
            assert len(one.fake.starts()) == 1
            assert (await one.play("say x")).status is TurnStatus.COMPLETED

    check()


@pytest.mark.usefixtures("brisk")
def test_quick_exits_are_followed_by_giving_up(tmp_path: Path) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path, fail_starts=1000) as one:
            for count in range(1, MAX_QUICK_EXITS + 1):
                # Two at once share a start.
                both = await asyncio.gather(one.play("say x"), one.play("say y"))
                assert {outcome.failure.code for outcome in both if outcome.failure} == {"codex_unavailable"}
                assert len(one.fake.starts()) == one.info()["quick_exits"] == count
            assert one.info()["state"] == "given_up"
            outcome = await one.play("say z")
            assert outcome.failure is not None
            assert outcome.failure.code == "codex_unavailable"
            for word in (
                f"{MAX_QUICK_EXITS} times",
                "refuses to start",
                "codex-bridge doctor",
                str(one.fake),
            ):
                assert word in outcome.failure.message
                assert word in one.info()["problem"]
            assert len(one.fake.starts()) == MAX_QUICK_EXITS
            with pytest.raises(CodexFailed, match=f"{MAX_QUICK_EXITS} times"):
                await one.runtime.call("account/read", {})

    check()


@pytest.mark.usefixtures("brisk")
def test_giving_up_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick_exits, "GIVE_UP_S", 1.0)

    @on_loop
    async def check() -> None:
        async with scene(tmp_path, fail_starts=MAX_QUICK_EXITS + 1) as one:
            for _ in range(2):  # the second time one more failure is enough
                while one.info()["state"] != "given_up":
                    assert (await one.play("say x")).status is TurnStatus.FAILED
                await until(lambda: one.info()["state"] == "stopped")
            assert len(one.fake.starts()) == MAX_QUICK_EXITS + 1
            assert (await one.play("say x")).status is TurnStatus.COMPLETED

    check()


@pytest.mark.usefixtures("brisk")
def test_giving_up_ends_with_another_program(tmp_path: Path) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path, fail_starts=1000) as one:
            while one.info()["state"] != "given_up":
                await one.play("say x")
            one.fake.upgrade(version="0.170.1")
            assert (await one.play("say x")).status is TurnStatus.COMPLETED
            assert one.info()["version"] == "0.170.1"

    check()


@pytest.mark.parametrize("moment", ["stopped", "starting", "backing_off", "given_up"])
def test_the_end_comes_in_every_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    if moment == "given_up":
        monkeypatch.setattr(quick_exits, "RESTART_BACKOFF_S", 0.01)

    @on_loop
    async def check() -> None:
        options: Json = {"silent": True} if moment == "starting" else {"fail_starts": 1000}
        async with scene(tmp_path, **options) as one:
            while moment in ("backing_off", "given_up") and one.info()["state"] != moment:
                await one.play("say x")
            waiting = asyncio.create_task(one.play("say x"))
            if moment == "starting":
                await until(lambda: one.fake.received("initialize"))
            assert one.info()["state"] == moment
            if moment == "given_up":
                await asyncio.wait([waiting])
        outcome = await waiting
        assert outcome.failure is not None
        assert outcome.failure.code == ("codex_unavailable" if moment == "given_up" else "shutting_down")

    check()


# Replacing ----------------------------------------------------------------------------------------


def test_another_program_gets_what_is_new_and_the_old_one_finishes(tmp_path: Path) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path, grace_s=10.0) as one:  # it stops by itself
            running = await one.begin("stay", "long", "long")
            old = one.info()["pid"]
            one.fake.upgrade(version="0.170.1")
            assert (await one.play("say hello")).status is TurnStatus.COMPLETED
            info = one.info()
            assert (info["version"], info["state"], info["restarts"]) == ("0.170.1", "running", 1)
            assert [(child["pid"], child["turns"]) for child in info["children"]] == [
                (old, 1),
                (info["pid"], 0),
            ]
            assert not running.done()
            await one.runtime.interrupt("long")
            assert (await running).status is TurnStatus.INTERRUPTED
            await until(lambda: [child["pid"] for child in one.info()["children"]] == [info["pid"]])
            assert (one.info()["quick_exits"], one.info()["last_exit"]) == (0, None)
            assert not processes.is_alive(old)
            assert len(one.fake.starts()) == 2

    check()


def test_a_new_program_that_does_not_start_leaves_the_old_one_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path) as one:
            await one.play("say before")
            old = one.info()["pid"]
            one.fake.upgrade(fail_starts=1000)
            for _ in range(3):
                assert (await one.play("say on")).status is TurnStatus.COMPLETED
            info = one.info()
            assert (info["pid"], info["state"], info["quick_exits"]) == (old, "running", 0)
            assert "refuses to start" in info["problem"]
            assert len(one.fake.starts()) == 2, "it is not tried for each turn"
            monkeypatch.setattr(supervisor, "GIVE_UP_S", 0.0)
            assert (await one.play("say on")).status is TurnStatus.COMPLETED
            assert len(one.fake.starts()) == 3, "after a while it is"
            monkeypatch.undo()
            one.fake.upgrade(version="0.170.1")
            assert (await one.play("say on")).status is TurnStatus.COMPLETED
            assert (one.info()["version"], one.info()["problem"]) == ("0.170.1", None)
            await until(lambda: len(one.info()["children"]) == 1)
            assert not processes.is_alive(old)

    check()


def test_a_program_that_is_not_there_for_a_while_changes_nothing(tmp_path: Path) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path) as one:
            await one.play("say before")
            one.fake.path.rename(one.fake.directory / "away")
            assert (await one.play("say on")).status is TurnStatus.COMPLETED
            assert one.info()["problem"] is None
            (one.fake.directory / "away").rename(one.fake.path)
            assert (await one.play("say on")).status is TurnStatus.COMPLETED
            assert len(one.fake.starts()) == 1

    check()


@pytest.mark.parametrize("starts", [True, False])
def test_the_old_one_dies_while_the_new_one_starts(tmp_path: Path, starts: bool) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path) as one:
            await one.play("say before")
            old = one.info()["pid"]
            one.fake.upgrade(held="initialize", **({} if starts else {"login": "dies"}))
            waiting = asyncio.create_task(one.play("say after"))
            await until(lambda: len(one.fake.received("initialize")) == 2)
            assert one.info()["state"] == "replacing"
            processes.kill(old)
            await until(lambda: one.info()["state"] == "starting")
            if starts:
                await asyncio.to_thread(one.fake.release)
                assert (await waiting).status is TurnStatus.COMPLETED
                assert one.info()["state"] == "running"
            else:
                processes.kill(one.fake.starts()[1]["pid"])
                outcome = await waiting
                assert outcome.failure is not None
                assert outcome.failure.code == "codex_unavailable"
                assert one.info()["state"] == "backing_off"

    check()


def test_a_thread_is_closed_in_one_child_before_it_is_opened_in_another(tmp_path: Path) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path) as one:
            await one.play("say one")
            running = await one.begin("stay", "long", "long")
            one.fake.upgrade()
            await one.play("say other", "other")
            # The fake refuses to resume a thread that is being closed, and notes what it gets in one file.
            assert (await one.play("say two", turn="two")).status is TurnStatus.COMPLETED
            opened = [event["resumed"] for event in one.events["two"] if event["type"] == "thread.started"]
            assert opened == [True]
            methods = [note["method"] for note in one.fake.received_any()]
            moved = [method for method in methods if method in ("thread/unsubscribe", "thread/resume")]
            assert moved == ["thread/unsubscribe", "thread/resume"]
            (closed,) = one.fake.received("thread/unsubscribe")
            assert closed["params"]["threadId"] == one.threads["s"]
            await one.runtime.interrupt("long")
            await running

    check()


def test_a_child_that_does_not_give_up_a_thread_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path, mute=["thread/unsubscribe"]) as one:
            await one.play("say one")
            running = await one.begin("stay", "long", "long")
            one.fake.upgrade()
            monkeypatch.setattr(app_server_child, "CALL_TIMEOUT_S", 0.1)
            assert (await one.play("say two")).status is TurnStatus.COMPLETED
            outcome = await running
            assert outcome.failure is not None
            assert outcome.failure.code == "codex_exited"

    check()


# Bad days -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wedge", ["deaf", "hang", "stopped"])
def test_a_wedged_one_is_ended_and_only_its_own_turns_fail(tmp_path: Path, wedge: str) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path) as one:
            neighbour = await one.begin("stay", "neighbour", "neighbour")
            old = one.info()["pid"]
            if wedge == "hang":
                wedged = asyncio.create_task(one.play("hang", "wedged", "wedged"))
                await until(lambda: len(one.fake.received("turn/start")) == 2)
            else:
                wedged = await one.begin("deaf" if wedge == "deaf" else "stay", "wedged", "wedged")
            one.fake.upgrade()
            elsewhere = await one.begin("stay", "elsewhere", "elsewhere")
            if wedge == "stopped":
                processes.send(old, signal.SIGSTOP)
            await one.runtime.interrupt("wedged")
            assert (await wedged) == TurnOutcome(TurnStatus.INTERRUPTED)
            lost = await neighbour
            assert lost.failure is not None
            assert lost.failure.code == "codex_exited"
            assert not elsewhere.done()
            await one.runtime.interrupt("elsewhere")
            assert (await elsewhere).status is TurnStatus.INTERRUPTED
            assert one.info()["quick_exits"] == 0

    check()


def test_one_that_was_ended_on_purpose_is_no_quick_exit(tmp_path: Path) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path) as one:
            wedged = asyncio.create_task(one.play("hang", turn="t"))
            await until(lambda: one.fake.received("turn/start"))
            await one.runtime.interrupt("t")
            assert (await wedged).status is TurnStatus.INTERRUPTED
            assert (one.info()["state"], one.info()["quick_exits"]) == ("stopped", 0)
            assert "signal 9" in one.info()["last_exit"]["reason"]

    check()


def test_commands_that_do_not_end_hold_no_turn_that_nobody_has_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_server_child, "COMMAND_END_S", 0.1)

    @on_loop
    async def check() -> None:
        async with scene(tmp_path, mute=["thread/backgroundTerminals/clean"]) as one:
            assert await one.play("quit") == TurnOutcome(TurnStatus.INTERRUPTED)
            assert one.info()["state"] == "running"

    check()


def test_pending_calls_fail_at_once_with_what_it_said(tmp_path: Path) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path, mute=["account/read"]) as one:
            calls = [asyncio.create_task(one.runtime.call("account/read", {})) for _ in range(3)]
            await until(lambda: len(one.fake.received("account/read")) == 3)
            await one.play("die out of cheese")
            for call in calls:
                with pytest.raises(
                    CodexFailed, match=r"exited with status 7\. It said: out of cheese"
                ) as failed:
                    await call
                assert failed.value.code == "codex_exited"

    check()


# Steering -----------------------------------------------------------------------------------------


def test_a_text_that_steers_is_heard(tmp_path: Path) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path) as one:
            running = await one.begin("listen", "t")
            await one.runtime.steer("t", "to the left", ("/a.png",))
            assert await running == TurnOutcome(TurnStatus.COMPLETED)
            (given,) = one.fake.received("turn/steer")
            assert given["params"]["input"] == [
                {"type": "text", "text": "to the left"}, {"type": "localImage", "path": "/a.png"},
            ]  # fmt: skip
            ended = [event["item"] for event in one.events["t"] if event["type"] == "item.completed"]
            # The message that was broken off has an end as well.
            assert [(item["text"], item.get("incomplete", False)) for item in ended] == [
                ("listening", True),
                ("to the left", False),
            ]
            started = [event["item"]["id"] for event in one.events["t"] if event["type"] == "item.started"]
            assert started == [item["id"] for item in ended]

    check()


@pytest.mark.parametrize(("verb", "status"), [("brink", "completed"), ("stay", "interrupted")])
def test_a_text_that_came_too_late_is_told(tmp_path: Path, verb: str, status: str) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path) as one:
            running = await one.begin(verb, "t")
            await one.runtime.steer("t", "too late")
            if verb == "stay":
                await one.runtime.interrupt("t")
            assert await running == TurnOutcome(TurnStatus(status), unheard=1)

    check()


@pytest.mark.parametrize("moment", ["never", "before", "over", "interrupted", "refused", "dead"])
def test_a_turn_that_cannot_be_steered(tmp_path: Path, moment: str) -> None:
    @on_loop
    async def check() -> None:
        async with scene(tmp_path) as one:
            running = None
            if moment == "before":
                running = asyncio.create_task(one.play("hang", turn="t"))
                await until(lambda: one.fake.received("turn/start"))
            elif moment == "over":
                await one.play("say x", turn="t")
            elif moment != "never":
                running = await one.begin("deaf" if moment in ("refused", "interrupted") else "stay", "t")
            if moment == "interrupted":
                interrupting = asyncio.create_task(one.runtime.interrupt("t"))
                await until(lambda: one.fake.received("turn/interrupt"))
            if moment == "dead":
                processes.send(one.info()["pid"], signal.SIGSTOP)
                steering = asyncio.create_task(one.runtime.steer("t", "x"))
                processes.kill(one.info()["pid"])
            else:
                steering = asyncio.create_task(one.runtime.steer("t", "x"))
            with pytest.raises(Conflict) as refused:
                await steering
            assert (refused.value.status, refused.value.code) == (409, "turn_not_steerable")
            assert len(one.fake.received("turn/steer")) == (moment == "refused")
            if moment == "interrupted":
                await interrupting
            elif running is not None:
                await one.runtime.interrupt("t")
            if running is not None:
                assert (await running).unheard == 0

    check()
