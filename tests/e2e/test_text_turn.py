"""A turn that only talks: its events in order, the draft while it runs, the message and the usage after it."""

import pytest

from tests.conftest import BridgeFactory
from tests.support.sse import assert_contiguous, kinds, said
from tests.support.upstream import Upstream, rounds, run, say

pytestmark = [pytest.mark.codex, pytest.mark.smoke]


def assert_in_order(seen: list[str], expected: list[str]) -> None:
    """Fail unless `expected` is what is left of `seen` when other events are taken out."""
    rest = iter(seen)
    missing = [kind for kind in expected if kind not in rest]
    assert not missing, f"{missing} missing or out of place in {seen}"


def test_events_come_in_order_and_without_a_gap(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(say("Hel", "lo ", "there"))
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)

    turn_id = one.send(session_id, "Greet me")["turn_id"]
    stream.until("session.completed")

    order = [
        "session.ready",
        "session.message",
        "session.running",
        "thread.started",
        "turn.started",
        "item.started",
        "item.agent_message.delta",
        "item.completed",
        "session.message",
        "session.completed",
    ]
    assert_in_order(kinds(stream.events), order)
    assert kinds(stream.events)[-1] == "session.completed"
    assert_contiguous(stream.events)
    assert said(stream.events) == "Hello there"
    runtime = [event for event in stream.events if event.name == "session.event"]
    assert {(event.data["session_id"], event.data["turn_id"]) for event in runtime} == {(session_id, turn_id)}


def test_runtime_events_have_the_documented_shapes(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(say("Hello"))
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Greet me")
    stream.until("session.completed")

    by_kind = {event.kind: event.runtime for event in stream.events if event.runtime}
    thread_id = by_kind["thread.started"]["thread_id"]
    assert by_kind["thread.started"]["resumed"] is False
    assert one.session(session_id)["thread_id"] == thread_id
    delta, completed = by_kind["item.agent_message.delta"], by_kind["item.completed"]["item"]
    assert (completed["type"], completed["text"]) == ("agentMessage", "Hello")
    assert delta == {"type": "item.agent_message.delta", "item_id": completed["id"], "delta": "Hello"}
    assert (by_kind["turn.completed"]["status"], by_kind["turn.completed"]["error"]) == ("completed", None)
    assert not any("userMessage" in str(event.runtime.get("item")) for event in stream.events)


def test_the_draft_grows_while_the_turn_runs(bridge: BridgeFactory, upstream: Upstream) -> None:
    gate = upstream.gate()
    upstream.script = rounds(say("Hel", gate, "lo"))
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    turn_id = one.send(session_id, "Greet me")["turn_id"]
    stream.until_text("Hel")

    running = one.session(session_id)
    assert (running["status"], running["running"]) == ("running", True)
    assert running["assistant_draft"] == "Hel"
    assert running["active_turn_id"] == turn_id
    assert [message["role"] for message in running["messages"]] == ["user"]

    gate.release()
    stream.until("session.completed")
    done = one.session(session_id)
    assert (done["status"], done["running"], done["active_turn_id"]) == ("idle", False, None)
    assert done["assistant_draft"] == ""


def test_message_and_usage_are_stored(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(say("Hello"))
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    turn_id = one.send(session_id, "Greet me")["turn_id"]
    stream.until("session.completed")

    session = one.session(session_id)
    user, assistant = session["messages"]
    assert (user["role"], user["text"], user["turn_id"]) == ("user", "Greet me", turn_id)
    assert (assistant["role"], assistant["text"], assistant["turn_id"]) == ("assistant", "Hello", turn_id)
    assert not assistant.get("incomplete")
    assert user["attachments"] == []
    assert session["created_at"] <= user["created_at"] <= assistant["created_at"] <= session["updated_at"]
    assert session["message_count"] == 2
    assert session["last_error"] is None
    assert session["usage"] == {
        "input_tokens": 10,
        "cached_input_tokens": 4,
        "output_tokens": 5,
        "reasoning_output_tokens": 2,
        "total_tokens": 15,
    }


def test_the_answer_to_a_message_tells_what_became_of_it(bridge: BridgeFactory, upstream: Upstream) -> None:
    gate = upstream.gate()
    upstream.script = rounds(say(gate, "late"))
    one = bridge()
    session_id = one.create_session()
    answer = one.send(session_id, "Greet me")
    assert answer["ok"] is True
    assert answer["queued"] is False
    assert answer["bridge_load"] == {
        "active_turns": 1,
        "pending_turns": 0,
        "max_concurrent_turns": 4,
        "max_queued_turns": 40,
    }
    assert answer["session"]["id"] == session_id
    assert answer["session"]["active_turn_id"] == answer["turn_id"]
    assert [message["text"] for message in answer["session"]["messages"]] == ["Greet me"]
    gate.release()
    assert one.settled(session_id)["status"] == "idle"


def test_the_upstream_gets_the_key_the_model_and_the_history(
    bridge: BridgeFactory, upstream: Upstream
) -> None:
    upstream.script = lambda request: say(f"You said {request.user_text}.")
    one = bridge(CODEX_PROVIDER_API_KEY="sk-of-this-test")
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "first words")
    stream.until("session.completed")
    one.send(session_id, "second words")
    stream.until("session.completed")

    first, second = upstream.requests
    assert (first.method, first.path) == ("POST", "/v1/responses")
    assert first.headers["authorization"] == "Bearer sk-of-this-test"
    assert first.body["model"] == "demo"
    assert "second words" not in first.conversation
    assert "first words" in second.conversation
    assert "You said first words." in second.conversation
    assert one.session(session_id)["message_count"] == 4


def test_every_character_comes_through(bridge: BridgeFactory, upstream: Upstream) -> None:
    parts = ["two\nlines\r\n\n", "data: not a field\nid: 7\n", 'tab\t\u2028 ünï 🎉 \\ " </script>']
    upstream.script = rounds(say(*parts))
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    message = 'ß "quoted" \\ back\u2029slash\nand 𝄞'
    one.send(session_id, message)
    stream.until("session.completed")

    assert said(stream.events) == "".join(parts)
    assert [m["text"] for m in one.session(session_id)["messages"]] == [message, "".join(parts)]
    assert upstream.requests[0].user_text == message


def test_each_message_of_a_turn_is_stored(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(run("true", before="First I look."), say("Then I tell."))
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Look")
    stream.until("session.completed")

    stored = [(m["role"], m["text"]) for m in one.session(session_id)["messages"]]
    assert stored == [("user", "Look"), ("assistant", "First I look."), ("assistant", "Then I tell.")]
    assert kinds(stream.events).count("session.message") == 3


def test_events_of_the_session_hold_no_deltas(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(say(*("x" * 60)))
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Talk")
    stream.until("session.completed")
    types = [event["type"] for event in one.session(session_id)["events"]]
    assert "turn.started" in types
    assert "turn.completed" in types
    assert "item.agent_message.delta" not in types
    assert len(types) <= 40


def test_context_and_attachments_reach_the_model(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(say("Seen"))
    one = bridge()
    (one.workspace / "notes-of-monday.txt").write_text("remember the milk")
    session_id = one.create_session(context={"site": "flower-shop-17"})
    stream = one.ready_stream(session_id)
    attachments = [{"path": "notes-of-monday.txt"}]
    one.send(session_id, "Look", context={"page": "landing-page-42"}, attachments=attachments)
    stream.until("session.completed")

    conversation = upstream.requests[0].conversation
    assert "flower-shop-17" in conversation
    assert "landing-page-42" in conversation
    assert "notes-of-monday.txt" in conversation
    session = one.session(session_id)
    assert session["context"] == {"site": "flower-shop-17"}
    (attachment,) = session["messages"][0]["attachments"]
    assert attachment["path"].endswith("notes-of-monday.txt")


def test_the_stream_says_how_it_wants_to_be_read(bridge: BridgeFactory) -> None:
    one = bridge()
    stream = one.ready_stream(one.create_session())
    assert stream.status == 200
    assert stream.headers["content-type"].split(";")[0] == "text/event-stream"
    assert stream.headers["cache-control"] == "no-store"
    assert stream.headers["x-accel-buffering"] == "no"
    assert stream.retry is not None


def test_two_sessions_do_not_see_each_other(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = lambda request: say(f"for {request.user_text}")
    one = bridge()
    left, right = one.create_session(), one.create_session()
    streams = {name: one.ready_stream(name) for name in (left, right)}
    for name in (left, right):
        one.send(name, name)
    for name, stream in streams.items():
        stream.until("session.completed")
        assert said(stream.events) == f"for {name}"
        assert_contiguous(stream.events)
    assert one.session(left)["thread_id"] != one.session(right)["thread_id"]
    assert len(one.codex_pids()) == 1
