"""What outlives the bridge: sessions, messages, events and turns, after an orderly end and after SIGKILL."""

from collections.abc import Callable

import pytest

from tests.conftest import BridgeFactory
from tests.support import stored
from tests.support.bridge import API_KEY, Bridge
from tests.support.sse import assert_contiguous
from tests.support.turns import FakeFactory, injected, open_session, play
from tests.support.upstream import Upstream, say
from tests.support.waiting import wait_until

Stop = Callable[[Bridge], None]


def end(one: Bridge) -> None:
    one.stop()


def kill(one: Bridge) -> None:
    one.kill()


both_ends = pytest.mark.parametrize("stop", [end, kill])


@both_ends
def test_sessions_and_messages_are_back(bridge: BridgeFactory, fake_codex: FakeFactory, stop: Stop) -> None:
    codex = fake_codex()
    one = bridge(CODEX_BIN=codex)
    first, _ = play(one, "say one two three")
    second = one.create_session(context={"page": 7}, mode="entity")
    gone = one.create_session()
    assert one.delete(f"/chat/sessions/{gone}").status == 200
    before = [one.session(first), one.session(second)]
    stop(one)

    again = bridge(CODEX_BIN=codex)
    assert [again.session(first), again.session(second)] == before
    listed = again.get("/chat/sessions").json
    assert [session["id"] for session in listed["sessions"]] == [second, first]
    assert listed["total"] == 2
    assert listed["sessions"][1]["message_count"] == 2
    assert [message["text"] for message in listed["sessions"][1]["messages"]] == [
        "say one two three", "one two three",
    ]  # fmt: skip
    assert again.get(f"/chat/sessions/{gone}").status == 404
    again.send(first, "say four")
    assert len(again.settled(first)["messages"]) == 4


@both_ends
def test_a_client_that_comes_back_gets_what_it_missed_from_the_disk(
    bridge: BridgeFactory, fake_codex: FakeFactory, stop: Stop
) -> None:
    codex = fake_codex()
    one = bridge(CODEX_BIN=codex)
    session_id, stream = open_session(one)
    one.send(session_id, "say one two three")
    stream.until("session.completed")
    told = list(stream.events)
    stop(one)

    again = bridge(CODEX_BIN=codex)
    missed = len(told) // 2
    back = again.stream(session_id, after=told[missed].id)
    again.send(session_id, "say four")
    back.until("session.completed")
    back.until("session.completed")
    events = told[: missed + 1] + back.events
    assert_contiguous(events)
    assert events[: len(told)] == told


def test_a_running_turn_is_interrupted_with_what_it_said(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    codex = fake_codex()
    one = bridge(CODEX_BIN=codex)
    session_id, stream = open_session(one)
    turn_id = one.send(session_id, "stay")["turn_id"]
    stream.until("item.agent_message.delta")
    last = stream.last_id
    state = one.directories.state
    wait_until(lambda: b"item.agent_message.delta" in stored.events(state, session_id), "the stored draft")
    one.kill()

    again = bridge(CODEX_BIN=codex)
    back = again.stream(session_id, after=last)
    ready = back.until("session.ready")
    told = back.until("session.interrupted")
    session = again.session(session_id)
    assert ready.epoch != last.partition("-")[0]
    assert_contiguous(back.events)
    assert session["status"] == "idle"
    assert (session["last_error_code"], session["active_turn_id"]) == ("bridge_restarted", None)
    assert [(m["role"], m["text"]) for m in session["messages"]] == [
        ("user", "stay"),
        ("assistant", "staying"),
    ]
    assert session["messages"][1]["incomplete"] is True
    completed = next(event for event in back.events if event.kind == "turn.completed")
    assert completed.data["turn_id"] == turn_id
    assert completed.runtime["status"] == "interrupted"
    assert completed.runtime["error"]["code"] == "bridge_restarted"
    assert told.data["session"]["status"] == "idle"
    again.send(session_id, "say more")
    assert again.settled(session_id)["messages"][-1]["text"] == "more"


def test_a_turn_that_codex_has_begun_is_not_told_it_again(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    codex = fake_codex()
    one = bridge(CODEX_BIN=codex)
    session_id, stream = open_session(one)
    one.send(session_id, "say before")
    stream.until("session.completed")
    one.send(session_id, "stay")
    stream.until("turn.started")
    one.kill()
    again = bridge(CODEX_BIN=codex)
    again.send(session_id, "say more")
    assert again.settled(session_id)["messages"][-1]["text"] == "more"
    assert injected(codex) == []


@both_ends
def test_waiting_turns_run_in_their_order(bridge: BridgeFactory, fake_codex: FakeFactory, stop: Stop) -> None:
    codex = fake_codex()
    one = bridge(CODEX_BIN=codex, CODEX_MAX_CONCURRENT_TURNS=1)
    running, stream = open_session(one)
    one.send(running, "stay")
    stream.until("item.agent_message.delta")
    waiting = [one.create_session() for _ in range(4)]
    for number, session_id in enumerate(waiting):
        assert one.send(session_id, f"say answer {number}")["queued"] is True
    stop(one)

    again = bridge(CODEX_BIN=codex, CODEX_MAX_CONCURRENT_TURNS=1)
    for number, session_id in enumerate(waiting):
        session = again.settled(session_id)
        assert [message["text"] for message in session["messages"]] == [
            f"say answer {number}",
            f"answer {number}",
        ]
    assert again.settled(running)["status"] == "idle"
    ended = [again.session(session_id)["messages"][1]["created_at"] for session_id in waiting]
    assert ended == sorted(ended)
    prompts = [note["params"]["input"][0]["text"] for note in codex.received("turn/start")]
    assert prompts == ["stay", *(f"say answer {number}" for number in range(4))]


@pytest.mark.codex
def test_codex_remembers_the_conversation_of_a_killed_turn(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge()
    session_id, stream = open_session(one)
    gate = upstream.gate()
    answers = {
        "Remember the word plum.": say("The word is plum."),
        "Say something long.": say("I am ", gate, "never done."),
        "What was the word?": say("Plum."),
    }
    upstream.script = lambda request: answers[request.user_text]
    one.send(session_id, "Remember the word plum.")
    stream.until("session.completed")
    one.send(session_id, "Say something long.")
    stream.until_text("I am ")
    thread_id = one.session(session_id)["thread_id"]
    one.kill()
    gate.release()

    again = bridge()
    again.send(session_id, "What was the word?")
    session = again.settled(session_id)
    assert (session["thread_id"], session["messages"][-1]["text"]) == (thread_id, "Plum.")
    asked = upstream.requests[-1].conversation
    assert "Remember the word plum." in asked
    assert "The word is plum." in asked


def test_a_sessions_own_key_ends_with_the_bridge(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    codex = fake_codex()
    one = bridge(CODEX_BIN=codex)
    key = "sk-of-this-session-alone-77"
    session_id = one.create_session(runtime={"provider_api_key": key})
    one.send(session_id, "say hello")
    assert one.settled(session_id)["runtime"]["has_provider_api_key"] is True
    one.send(session_id, "stay")
    one.send(session_id, "say waited", when_busy="queue")
    one.kill()
    assert key.encode() not in stored.dump(one.directories.state)

    again = bridge(CODEX_BIN=codex)
    session = again.settled(session_id)
    assert session["last_error_code"] == "provider_key_lost"
    assert [message["text"] for message in session["messages"]][:2] == ["say hello", "hello"]
    reply = again.post_message(session_id, "say more")
    assert (reply.status, reply.json["code"]) == (409, "provider_key_lost")
    assert API_KEY.encode() not in stored.dump(again.directories.state)
    again.kill()
    third = bridge(CODEX_BIN=codex)
    assert third.post_message(session_id, "say more").json["code"] == "provider_key_lost"


def test_a_turn_that_a_second_bridge_began_is_not_begun_by_a_third(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    codex = fake_codex()
    one = bridge(CODEX_BIN=codex, CODEX_MAX_CONCURRENT_TURNS=1)
    first, stream = open_session(one)
    one.send(first, "stay")
    stream.until("item.agent_message.delta")
    second = one.create_session()
    assert one.send(second, "stay")["queued"] is True
    one.kill()
    again = bridge(CODEX_BIN=codex, CODEX_MAX_CONCURRENT_TURNS=1)
    wait_until(lambda: len(codex.received("turn/start")) == 2, "the turn's second chance")
    again.kill()
    third = bridge(CODEX_BIN=codex, CODEX_MAX_CONCURRENT_TURNS=1)
    assert third.settled(second)["last_error_code"] == "bridge_restarted"
    assert len(codex.received("turn/start")) == 2


def test_who_comes_back_is_told_of_the_interrupted_turn_also_while_the_next_one_runs(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    codex = fake_codex()
    one = bridge(CODEX_BIN=codex)
    session_id, stream = open_session(one)
    one.send(session_id, "stay")
    stream.until("item.agent_message.delta")
    one.send(session_id, "say two", when_busy="queue")
    one.kill()
    again = bridge(CODEX_BIN=codex)
    again.settled(session_id)
    back = again.stream(session_id, after=stream.last_id)
    assert back.until("session.ready").data["session"]["status"] == "idle"
    back.until("session.interrupted")
    back.until("session.completed")
    assert_contiguous(back.events)


def test_an_unfinished_answer_is_kept_though_a_large_event_was_not_stored(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    codex = fake_codex()
    one = bridge(CODEX_BIN=codex)
    session_id, stream = open_session(one)
    one.send(session_id, "stay " + "\N{HEAVY BLACK HEART}" * 900_000)
    stream.until("item.agent_message.delta")
    state = one.directories.state
    wait_until(lambda: b"item.agent_message.delta" in stored.events(state, session_id), "the stored draft")
    one.kill()
    again = bridge(CODEX_BIN=codex)
    assert [m["text"] for m in again.session(session_id)["messages"]][1:] == ["staying"]


def test_an_unfinished_answer_is_kept_of_a_turn_that_waited_for_two_bridges(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    codex = fake_codex()
    one = bridge(CODEX_BIN=codex, CODEX_MAX_CONCURRENT_TURNS=1)
    # Many events: the new numbering does not come so far.
    session_id, _ = play(one, "say " + "word " * 30)
    busy, stream = open_session(one)
    one.send(busy, "stay")
    stream.until("item.agent_message.delta")
    assert one.send(session_id, "stay")["queued"] is True
    one.kill()
    again = bridge(CODEX_BIN=codex, CODEX_MAX_CONCURRENT_TURNS=1)
    state = again.directories.state
    wait_until(lambda: b'"staying"' in stored.events(state, session_id), "the stored draft")
    again.kill()
    third = bridge(CODEX_BIN=codex, CODEX_MAX_CONCURRENT_TURNS=1)
    session = third.settled(session_id)
    assert session["last_error_code"] == "bridge_restarted"
    assert (session["messages"][-1]["text"], session["messages"][-1]["role"]) == ("staying", "assistant")
