"""Steering on the real Codex, at the runtime's port: what it takes, when, and what becomes of it."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from codex_bridge.errors import Conflict
from codex_bridge.runtime import Event, ModelRoute, TurnOutcome, TurnRequest, TurnStatus
from codex_bridge.runtimes.app_server import AppServerRuntime
from tests.support.asking import never_asked
from tests.support.codex import codex_binary
from tests.support.images import png
from tests.support.upstream import Upstream, rounds, run, say
from tests.unit.loop import on_loop_with_codex

pytestmark = pytest.mark.codex

COMPLETED = TurnOutcome(TurnStatus.COMPLETED)


class Player:
    """A runtime on the real Codex; `begin` starts a turn, `saw` waits for one of its events."""

    def __init__(self, root: Path, upstream: Upstream) -> None:
        self.workspace = root / "workspace"
        for name in ("workspace", "codex-home", "scratch"):
            (root / name).mkdir()
        environ = {
            "PATH": os.environ["PATH"], "HOME": str(root), "CODEX_HOME": str(root / "codex-home"),
            "TMPDIR": str(root / "scratch"),
        }  # fmt: skip
        self.runtime = AppServerRuntime(str(codex_binary()), environ)
        self._route = ModelRoute(upstream.base_url, "no-token")
        self.events: list[Event] = []
        self._told = asyncio.Event()

    def begin(self, text: str = "Go") -> asyncio.Task[TurnOutcome]:
        def emit(event: Event) -> None:
            self.events.append(event)
            self._told.set()

        place, mode = str(self.workspace), "workspace-write"
        request = TurnRequest("s", "t", None, place, mode, text, model="demo", route=self._route)
        return asyncio.create_task(self.runtime.run_turn(request, emit, never_asked))

    async def saw(self, kind: str, item_type: str = "") -> None:
        def look() -> bool:
            items = [event.get("item", {}).get("type", "") for event in self.events if event["type"] == kind]
            return bool(items) and (not item_type or item_type in items)

        while not look():
            self._told.clear()
            await self._told.wait()

    def messages(self) -> list[tuple[str, bool]]:
        """Return the agent's messages that have ended, and whether they were broken off."""
        items = [event["item"] for event in self.events if event["type"] == "item.completed"]
        return [(i["text"], i.get("incomplete", False)) for i in items if i["type"] == "agentMessage"]


@asynccontextmanager
async def player(root: Path, upstream: Upstream) -> AsyncIterator[Player]:
    made = Player(root, upstream)
    try:
        yield made
    finally:
        await made.runtime.stop()


def test_while_a_command_runs(tmp_path: Path, upstream: Upstream) -> None:
    wait = "for i in $(seq 3000); do [ -e go ] && break; sleep 0.01; done"
    upstream.script = lambda request: (
        say("I turn left.") if "to the left" in request.conversation else run(wait, yield_time_ms=30_000)
    )

    @on_loop_with_codex
    async def check() -> None:
        async with player(tmp_path, upstream) as one:
            turn = one.begin()
            await one.saw("item.started", "commandExecution")
            (one.workspace / "a.png").write_bytes(png())
            await one.runtime.steer("t", "to the left", (str(one.workspace / "a.png"),))
            assert len(upstream.requests) == 1
            (one.workspace / "go").touch()
            assert await turn == COMPLETED
            assert one.messages() == [("I turn left.", False)]

    check()
    assert len(upstream.requests) == 2
    assert upstream.requests[-1].user_text.startswith("to the left")
    assert '"input_image"' in upstream.requests[-1].conversation


def test_in_the_middle_of_an_answer(tmp_path: Path, upstream: Upstream) -> None:
    """Codex breaks the answer off and asks the model anew."""
    gate = upstream.gate()
    upstream.script = lambda request: (
        say("Left, then.") if request.user_text == "to the left" else say("Straight on", gate, ".")
    )

    @on_loop_with_codex
    async def check() -> None:
        async with player(tmp_path, upstream) as one:
            turn = one.begin()
            await one.saw("item.agent_message.delta")
            await one.runtime.steer("t", "to the left")
            assert await turn == COMPLETED
            assert one.messages() == [("Straight on", True), ("Left, then.", False)]
            started = [e["item"]["id"] for e in one.events if e["type"] == "item.started"]
            ended = [e["item"]["id"] for e in one.events if e["type"] == "item.completed"]
            assert started == ended

    check()


def test_several_at_once(tmp_path: Path, upstream: Upstream) -> None:
    gate = upstream.gate()
    upstream.script = lambda request: say(gate, "Fine.") if len(upstream.requests) == 1 else say("Heard.")

    @on_loop_with_codex
    async def check() -> None:
        async with player(tmp_path, upstream) as one:
            turn = one.begin()
            await one.saw("turn.started")
            await asyncio.gather(*(one.runtime.steer("t", f"text {n}") for n in range(5)))
            gate.release()
            assert await turn == COMPLETED

    check()
    conversation = upstream.requests[-1].conversation
    positions = [conversation.index(f"text {n}") for n in range(5)]
    assert positions == sorted(positions)


def test_one_that_waits_when_the_turn_is_interrupted_is_lost_and_told(
    tmp_path: Path, upstream: Upstream
) -> None:
    upstream.script = rounds(run("exec sleep 4711", yield_time_ms=30_000), say("Never."))

    @on_loop_with_codex
    async def check() -> None:
        async with player(tmp_path, upstream) as one:
            turn = one.begin()
            await one.saw("item.started", "commandExecution")
            await one.runtime.steer("t", "to the left")
            await one.runtime.interrupt("t")
            assert await turn == TurnOutcome(TurnStatus.INTERRUPTED, unheard=1)

    check()


def test_what_is_taken_at_the_end_of_a_turn_is_heard_or_told(tmp_path: Path, upstream: Upstream) -> None:
    """Whichever moment it comes in: refused, answered, or told as unheard."""
    upstream.script = lambda request: say("b" if "steered" in request.user_text else "a")

    async def steer(one: Player, later_s: float) -> bool:
        """Steer so long after the answer is complete; the turn is over some milliseconds after it."""
        await one.saw("item.completed", "agentMessage")
        await asyncio.sleep(later_s)
        try:
            await one.runtime.steer("t", "steered")
        except Conflict as problem:
            assert problem.code == "turn_not_steerable"
            return False
        return True

    @on_loop_with_codex
    async def check() -> None:
        async with player(tmp_path, upstream) as one:
            for number in range(40):
                one.events.clear()
                before = len(upstream.requests)
                turn = one.begin()
                taken = await steer(one, number * 0.0005)
                outcome = await turn
                heard = any(request.user_text == "steered" for request in upstream.requests[before:])
                assert outcome.status is TurnStatus.COMPLETED
                assert (taken, heard, outcome.unheard) in {
                    (False, False, 0),
                    (True, True, 0),
                    (True, False, 1),
                }

    check()


def test_when_nothing_runs(tmp_path: Path, upstream: Upstream) -> None:
    @on_loop_with_codex
    async def check() -> None:
        async with player(tmp_path, upstream) as one:
            for _ in range(2):
                with pytest.raises(Conflict) as refused:
                    await one.runtime.steer("t", "x")
                assert (refused.value.status, refused.value.code) == (409, "turn_not_steerable")
                assert await one.begin() == COMPLETED

    check()
