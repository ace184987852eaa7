"""Messages to a session that has a turn: refused, queued behind it, or made a part of it."""

import os

import pytest

from tests.conftest import BridgeFactory
from tests.support import processes
from tests.support.bridge import Bridge, Json
from tests.support.fake_codex import FakeCodex
from tests.support.sse import kinds
from tests.support.turns import FakeFactory, open_session
from tests.support.upstream import Answer, Request, Upstream, run, say
from tests.support.waiting import wait_until


@pytest.fixture
def codex(fake_codex: FakeFactory) -> FakeCodex:
    """The scripted app-server."""
    return fake_codex()


@pytest.fixture
def one(bridge: BridgeFactory, codex: FakeCodex) -> Bridge:
    """A bridge on it, with a slot and two places in the queue."""
    return bridge(CODEX_BIN=codex, CODEX_MAX_CONCURRENT_TURNS=2, CODEX_MAX_QUEUED_TURNS=2)


def prompts(codex: FakeCodex) -> list[str]:
    return [note["params"]["input"][0]["text"] for note in codex.received("turn/start")]


def test_a_busy_session_refuses_by_default(one: Bridge) -> None:
    session_id, stream = open_session(one)
    turn_id = one.send(session_id, "stay")["turn_id"]
    stream.until("item.agent_message.delta")
    for body in ({}, {"when_busy": "reject"}):
        reply = one.post_message(session_id, "say more", **body)
        assert (reply.status, reply.json["code"]) == (409, "turn_in_progress")
        assert reply.json["turn_id"] == turn_id
    reply = one.post_message(session_id, "say more", when_busy="later")
    assert (reply.status, reply.json["field"]) == (422, "when_busy")
    assert len(one.session(session_id)["messages"]) == 1


def test_messages_queue_behind_the_turn_and_run_in_order(one: Bridge, codex: FakeCodex) -> None:
    session_id, stream = open_session(one)
    first = one.send(session_id, "stay", when_busy="queue")
    stream.until("item.agent_message.delta")
    second = one.send(session_id, "say two", when_busy="queue")
    third = one.send(session_id, "say three", when_busy="queue")
    assert [answer["queued"] for answer in (first, second, third)] == [False, True, True]
    session = one.session(session_id)
    assert (session["status"], session["active_turn_id"]) == ("running", first["turn_id"])
    assert session["queued_turn_ids"] == [second["turn_id"], third["turn_id"]]
    assert one.get("/health").json["bridge_load"]["pending_turns"] == 2
    assert one.post_message(session_id, "say four", when_busy="queue").json["code"] == "busy"
    other = one.create_session()
    one.send(other, "say I pass them")
    assert one.settled(other)["messages"][-1]["text"] == "I pass them"

    assert one.interrupt(session_id).json["turn_id"] == first["turn_id"]
    stream.until("session.interrupted")
    stream.until("session.completed")
    stream.until("session.completed")
    assert prompts(codex) == ["stay", "say I pass them", "say two", "say three"]
    session = one.settled(session_id)
    assert [message["text"] for message in session["messages"]] == [
        "stay", "say two", "say three", "staying", "two", "three",
    ]  # fmt: skip
    assert (session["active_turn_id"], session["queued_turn_ids"]) == (None, [])


def test_a_turn_that_waits_in_its_session_can_be_interrupted_alone(one: Bridge, codex: FakeCodex) -> None:
    session_id, stream = open_session(one)
    running = one.send(session_id, "stay")["turn_id"]
    stream.until("item.agent_message.delta")
    waiting = one.send(session_id, "say never", when_busy="queue")["turn_id"]
    path = f"/chat/sessions/{session_id}/interrupt"
    assert one.post(path, {"turn_id": waiting}).json["turn_id"] == waiting
    session = one.session(session_id)
    assert (session["active_turn_id"], session["queued_turn_ids"]) == (running, [])
    assert session["status"] == "running"
    gone = one.post(path, {"turn_id": waiting})
    assert (gone.status, gone.json["code"]) == (409, "no_turn_in_progress")
    assert one.post(path, {"turn_id": 5}).json["field"] == "turn_id"
    assert one.post(path, {"turn_id": running}).status == 200
    one.settled(session_id)
    assert prompts(codex) == ["stay"]
    assert "turn.completed" in kinds(stream.events)


def test_what_waits_in_a_session_is_there_after_a_kill(bridge: BridgeFactory, codex: FakeCodex) -> None:
    one = bridge(CODEX_BIN=codex)
    session_id, stream = open_session(one)
    one.send(session_id, "stay")
    stream.until("item.agent_message.delta")
    for text in ("say two", "say three"):
        one.send(session_id, text, when_busy="queue")
    one.kill()
    again = bridge(CODEX_BIN=codex)
    session = again.settled(session_id)
    assert [message["text"] for message in session["messages"] if message["role"] == "assistant"][-2:] == [
        "two", "three",
    ]  # fmt: skip
    assert prompts(codex) == ["stay", "say two", "say three"]


def test_a_session_with_waiting_turns_can_be_deleted(one: Bridge) -> None:
    session_id, stream = open_session(one)
    one.send(session_id, "stay")
    stream.until("item.agent_message.delta")
    one.send(session_id, "say two", when_busy="queue")
    assert one.delete(f"/chat/sessions/{session_id}").status == 200
    stream.until_over()
    assert one.get(f"/chat/sessions/{session_id}").status == 404


def test_a_turn_that_waits_always_says_where(bridge: BridgeFactory, codex: FakeCodex) -> None:
    one = bridge(CODEX_BIN=codex, CODEX_MAX_CONCURRENT_TURNS=1)
    busy, stream = open_session(one)
    one.send(busy, "stay")
    stream.until("item.agent_message.delta")
    session_id = one.create_session()
    first = one.send(session_id, "say one")["turn_id"]
    second = one.send(session_id, "say two", when_busy="queue")["turn_id"]
    assert one.interrupt(session_id).json["turn_id"] == first
    session = one.session(session_id)
    assert (session["status"], session["active_turn_id"], session["queue_position"]) == ("queued", second, 1)


def test_a_turns_error_ends_with_the_next_turn(bridge: BridgeFactory, codex: FakeCodex) -> None:
    one = bridge(CODEX_BIN=codex)
    session_id, stream = open_session(one)
    one.send(session_id, "stay")
    stream.until("item.agent_message.delta")
    one.send(session_id, "say two", when_busy="queue")
    processes.kill(one.codex_pid())
    failed = stream.until("session.error")
    assert failed.data["session"]["last_error_code"] == "codex_exited"
    done = stream.until("session.completed")
    assert (done.data["session"]["last_error"], done.data["session"]["last_error_code"]) == (None, None)


@pytest.mark.codex
def test_a_message_joins_the_running_turn(bridge: BridgeFactory, upstream: Upstream) -> None:
    command = run("read line < fifo; echo got $line", yield_time_ms=30000)
    upstream.script = lambda request: (
        say("Both done.") if "And say both." in request.conversation else command
    )
    one = bridge()
    fifo = one.workspace / "fifo"
    os.mkfifo(fifo)
    session_id, stream = open_session(one)
    turn_id = one.send(session_id, "Run it")["turn_id"]
    stream.until(lambda event: event.kind == "item.started" and "fifo" in str(event.runtime))
    answer = one.send(session_id, "And say both.", when_busy="steer")
    assert (answer["turn_id"], answer["steered"], answer["queued"]) == (turn_id, True, False)
    fifo.write_text("go\n")
    stream.until("session.completed")
    assert "And say both." in upstream.requests[-1].conversation
    session = one.session(session_id)
    assert [(m["text"], m["turn_id"]) for m in session["messages"]] == [
        ("Run it", turn_id), ("And say both.", turn_id), ("Both done.", turn_id),
    ]  # fmt: skip
    later = one.send(session_id, "And more.", when_busy="steer")
    assert later["steered"] is False, "a session at rest takes it as any other message"
    one.settled(session_id)


@pytest.mark.codex
def test_what_joined_too_late_is_answered_in_a_turn_of_its_own(
    bridge: BridgeFactory, upstream: Upstream
) -> None:
    gate = upstream.gate()

    def script(request: Request) -> Answer:
        return say("Heard it.") if "One more thing." in request.conversation else say("My answer", gate, ".")

    upstream.script = script
    one = bridge()
    session_id, stream = open_session(one)
    one.send(session_id, "Talk")
    stream.until_text("My answer")
    assert one.send(session_id, "One more thing.", when_busy="steer")["steered"] is True
    gate.release()
    wait_until(lambda: said_by_assistant(one.session(session_id))[-1:] == ["Heard it."], "the late answer")
    assert one.settled(session_id)["status"] == "idle"


def said_by_assistant(session: Json) -> list[str]:
    return [message["text"] for message in session["messages"] if message["role"] == "assistant"]


def test_a_turn_that_cannot_be_joined_says_so(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    one = bridge(CODEX_BIN=fake_codex(), CODEX_MAX_CONCURRENT_TURNS=1)
    busy, stream = open_session(one)
    one.send(busy, "stay")
    stream.until("item.agent_message.delta")
    session_id = one.create_session()
    one.send(session_id, "say waits")
    reply = one.post_message(session_id, "say more", when_busy="steer")
    assert (reply.status, reply.json["code"]) == (409, "turn_not_steerable")
    assert len(one.session(session_id)["messages"]) == 1


def test_what_joined_too_late_is_not_begun_in_a_session_that_is_deleted(
    one: Bridge, codex: FakeCodex
) -> None:
    session_id, stream = open_session(one)
    one.send(session_id, "late")
    stream.until("item.agent_message.delta")
    assert one.send(session_id, "say nobody reads it", when_busy="steer")["steered"] is True
    assert one.delete(f"/chat/sessions/{session_id}").status == 200
    wait_until(lambda: one.get("/health").json["bridge_load"]["active_turns"] == 0, "the end of the turn")
    assert prompts(codex) == ["late"]
