"""The drain: told to stop, the bridge takes no new work, lets what runs end, and says goodbye to its streams."""

import http.client
import json
from collections.abc import Callable
from signal import Signals
from typing import Any

import pytest

from tests.conftest import BridgeFactory
from tests.support import processes
from tests.support.bridge import Bridge, Reply
from tests.support.fake_codex import FakeCodex
from tests.support.raw_http import RawConnection, get, post
from tests.support.sse import LAST_EVENT, Event, Stream, assert_contiguous, kinds
from tests.support.upstream import Gate, Upstream, rounds, say
from tests.support.waiting import BOUND_S, wait_until

FakeFactory = Callable[..., FakeCodex]
ENDLESS_MS = 3_600_000
TOKEN = "the-hosts-token-for-the-bridge-77aa"


def held_turn(one: Bridge, upstream: Upstream) -> tuple[str, Stream, Gate]:
    """Start a turn that waits at a gate in the middle of its answer."""
    gate = upstream.gate()
    upstream.script = rounds(say("half ", gate, "whole"))
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Talk")
    gate.wait()
    return session_id, stream, gate


def begin_drain(one: Bridge, number: Signals = Signals.SIGTERM) -> str:
    """Send a signal; return the line that tells of the drain."""
    one.signal(number)
    return one.wait_log("draining for up to")


def assert_draining(reply: Reply) -> None:
    assert (reply.status, reply.json["ok"], reply.json["code"]) == (503, False, "draining"), reply
    assert int(reply.headers["retry-after"]) > 0
    assert set(reply.json["bridge_load"]) >= {"active_turns", "pending_turns"}


def assert_goodbye(stream: Stream) -> None:
    """The stream ended with the last event, which leaves the client's place as it was."""
    stream.until_over()
    *before, last = stream.events
    assert last == Event("", LAST_EVENT, last.data)
    assert last.data["reason"] == "shutting_down"
    assert last.data["retry_after_ms"] > 0
    assert stream.last_id == before[-1].id
    assert LAST_EVENT not in kinds(before)
    assert_contiguous(before)


def ended_well(one: Bridge) -> None:
    """The bridge ends by itself, with 0, and leaves nothing."""
    assert one.wait_exit() == 0, one.log_text
    wait_until(lambda: not one.leftovers(), "the end of all that it had started")
    assert "Traceback" not in one.log_text


@pytest.mark.codex
@pytest.mark.parametrize("kind", ["app_server_adapter", "exec"])
def test_a_turn_may_end(bridge: BridgeFactory, upstream: Upstream, kind: str) -> None:
    one = bridge(CODEX_BRIDGE_DRAIN_TIMEOUT_MS=ENDLESS_MS, CODEX_RUNTIME_KIND=kind)
    assert one.get("/health").json["state"] == "ready"
    session_id, stream, gate = held_turn(one, upstream)
    idle_id = one.create_session()
    idle = one.ready_stream(idle_id)
    line = begin_drain(one)
    assert "1 turn runs" in line
    assert "another SIGTERM" in line

    # Each of these is a new connection.
    health = one.get("/health")
    assert (health.status, health.json["ok"], health.json["state"]) == (200, True, "draining")
    assert health.json["bridge_load"]["active_turns"] == 1
    assert_draining(one.post_message(idle_id, "me too"))
    assert_draining(one.post("/chat/sessions", {}))
    assert_draining(one.get("/v1/models"))
    assert one.session(idle_id)["message_count"] == 0
    assert one.get("/chat/sessions").json["total"] == 2
    assert one.get("/runtime/info").status == 200
    late = one.stream(session_id, after=stream.events[0].id)
    late.until("session.message")

    gate.release()
    stream.until("session.completed")
    for each in (stream, idle, late):
        assert_goodbye(each)
    assert stream.events[-2].data["session"]["messages"][-1]["text"] == "half whole"
    assert kinds(late.events)[-2:] == ["session.completed", LAST_EVENT]
    assert kinds(idle.events) == ["session.ready", LAST_EVENT]
    ended_well(one)
    assert one.wait_log("drained: no turn runs")
    assert len(upstream.requests) == 1


@pytest.mark.codex
@pytest.mark.parametrize("kind", ["app_server_adapter", "exec"])
def test_a_turn_that_does_not_end_is_interrupted(
    bridge: BridgeFactory, upstream: Upstream, kind: str
) -> None:
    one = bridge(CODEX_BRIDGE_DRAIN_TIMEOUT_MS=300, CODEX_RUNTIME_KIND=kind)
    _, stream, _ = held_turn(one, upstream)
    one.signal(Signals.SIGTERM)
    stopped = stream.until("session.interrupted").data["session"]
    assert (stopped["status"], stopped["last_error"]) == ("idle", None)
    assert_goodbye(stream)
    ended_well(one)
    assert one.wait_log("the drain's 0.3 s are over: 1 turn runs")


@pytest.mark.codex
def test_a_turn_that_waits_is_left_to_the_next_bridge(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge(CODEX_BRIDGE_DRAIN_TIMEOUT_MS=ENDLESS_MS, CODEX_MAX_CONCURRENT_TURNS=1)
    _, stream, gate = held_turn(one, upstream)
    waiting_id = one.create_session()
    waiting = one.ready_stream(waiting_id)
    one.send(waiting_id, "I wait")
    assert "1 turn runs, 1 waits" in begin_drain(one)
    assert one.session(waiting_id)["status"] == "queued"
    gate.release()
    stream.until("session.completed")
    for each in (stream, waiting):
        assert_goodbye(each)
    ended_well(one)
    assert "session.running" not in kinds(waiting.events)
    assert len(upstream.requests) == 1

    # The next bridge goes on where this one has stopped, and so does the stream.
    upstream.script = rounds(say("At last."))
    again = bridge()
    later = again.stream(waiting_id, after=waiting.last_id)
    later.until("session.completed")
    assert_contiguous([*waiting.events, *later.events])
    assert again.session(waiting_id)["messages"][-1]["text"] == "At last."


@pytest.mark.codex
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Signals.SIGTERM, Signals.SIGTERM),
        (Signals.SIGINT, Signals.SIGINT),
        (Signals.SIGINT, Signals.SIGTERM),
    ],
)
def test_a_second_signal_cuts_it_short(
    bridge: BridgeFactory, upstream: Upstream, first: Signals, second: Signals
) -> None:
    one = bridge(CODEX_BRIDGE_DRAIN_TIMEOUT_MS=ENDLESS_MS)
    _, stream, _ = held_turn(one, upstream)
    again = {Signals.SIGTERM: "another SIGTERM", Signals.SIGINT: "Ctrl-C again"}[first]
    assert f"1 turn runs; {again} stops it now" in begin_drain(one, first)
    assert one.get("/health").json["state"] == "draining"
    one.signal(second)
    stream.until("session.interrupted")
    assert_goodbye(stream)
    ended_well(one)
    assert one.wait_log("cut short: 1 turn runs")


@pytest.mark.codex
def test_an_interrupt_ends_it_as_well(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge(CODEX_BRIDGE_DRAIN_TIMEOUT_MS=ENDLESS_MS)
    session_id, stream, _ = held_turn(one, upstream)
    begin_drain(one)
    assert one.interrupt(session_id).status == 200
    stream.until("session.interrupted")
    assert_goodbye(stream)
    ended_well(one)


def test_a_turn_that_waits_for_a_person_runs(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    one = bridge(CODEX_BIN=fake_codex(), CODEX_BRIDGE_DRAIN_TIMEOUT_MS=ENDLESS_MS)
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "ask item/commandExecution/requestApproval")
    stream.until("session.approval.required")
    assert "1 turn runs" in begin_drain(one)
    (asked,) = one.approvals(session_id)
    answer = {"decision": "accept", "request_id": asked["request_id"]}
    assert one.post(f"/chat/sessions/{session_id}/approvals", answer).status == 200
    stream.until("session.completed")
    assert_goodbye(stream)
    ended_well(one)


def test_progress_is_told(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    one = bridge(CODEX_BIN=fake_codex(), CODEX_BRIDGE_DRAIN_TIMEOUT_MS=ENDLESS_MS)
    sessions = [one.create_session() for _ in range(3)]
    streams = [one.ready_stream(session_id) for session_id in sessions]
    for session_id, stream in zip(sessions, streams, strict=True):
        one.send(session_id, "stay")
        stream.until_text("staying")
    assert "3 turns run; another SIGTERM stops it now" in begin_drain(one)
    steps = ("draining: 2 turns run", "draining: 1 turn runs", "drained: no turn runs")
    for session_id, told in zip(sessions, steps, strict=True):
        one.interrupt(session_id)
        one.wait_log(told)
    for stream in streams:
        assert_goodbye(stream)
    ended_well(one)


def test_a_turn_that_hears_nothing_does_not_hold_up_the_end(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    one = bridge(
        CODEX_BIN=fake_codex(), CODEX_BRIDGE_DRAIN_TIMEOUT_MS=100, CODEX_BRIDGE_SHUTDOWN_TIMEOUT_MS=100
    )
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "deaf")
    stream.until_text("deaf")
    one.signal(Signals.SIGTERM)
    stream.until("session.interrupted")
    assert_goodbye(stream)
    ended_well(one)


def test_a_health_check_sees_it_to_the_last_turns_end(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake, CODEX_BRIDGE_DRAIN_TIMEOUT_MS=0)
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "deaf")
    stream.until_text("deaf")
    one.signal(Signals.SIGTERM)
    one.wait_log("the drain's 0 s are over")
    assert one.get("/health").json["state"] == "draining"
    processes.kill(fake.starts()[0]["pid"])
    assert_goodbye(stream)
    ended_well(one)


@pytest.mark.parametrize("number", [Signals.SIGTERM, Signals.SIGINT])
def test_with_nothing_to_wait_for_the_end_comes_at_once(
    bridge: BridgeFactory, fake_codex: FakeFactory, number: Signals
) -> None:
    one = bridge(CODEX_BIN=fake_codex(), CODEX_BRIDGE_DRAIN_TIMEOUT_MS=ENDLESS_MS)
    session_id = one.create_session()
    streams = [one.ready_stream(session_id) for _ in range(3)]
    one.signal(number)
    for stream in streams:
        assert_goodbye(stream)
    ended_well(one)
    assert "draining for up to" not in one.log_text


def test_strangers_do_not_learn_of_it(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    one = bridge(CODEX_BIN=fake_codex(), CODEX_BRIDGE_DRAIN_TIMEOUT_MS=ENDLESS_MS, CODEX_BRIDGE_TOKEN=TOKEN)
    access = {"Authorization": f"Bearer {TOKEN}"}
    before = one.get("/health").json
    session_id = one.post("/chat/sessions", {}, **access).json["session"]["id"]
    one.post(f"/chat/sessions/{session_id}/messages", {"message": "stay"}, **access)
    begin_drain(one)
    assert one.get("/health", **access).json["state"] == "draining"
    stranger = one.get("/health")
    assert stranger.json == before
    assert set(before) == {"ok", "service", "version"}
    assert stranger.status == 200
    assert one.post("/chat/sessions", {}).status == 401
    one.signal(Signals.SIGTERM)
    ended_well(one)


def test_an_answer_under_v1_may_end(
    bridge: BridgeFactory, fake_codex: FakeFactory, upstream: Upstream
) -> None:
    gate = upstream.gate()
    upstream.script = lambda request: say("half ", gate, "whole")
    one = bridge(CODEX_BIN=fake_codex(), CODEX_BRIDGE_DRAIN_TIMEOUT_MS=ENDLESS_MS)
    connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=BOUND_S)
    try:
        body = json.dumps({"model": "demo", "input": [], "stream": True})
        connection.request("POST", "/v1/responses", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        gate.wait()
        assert "no turn runs; 1 request under way" in begin_drain(one)
        refused = one.post("/v1/responses", {}, X_Stainless_Lang="python")
        assert (refused.status, refused.json["error"]["code"]) == (503, "draining")
        gate.release()
        assert b"response.completed" in response.read()
    finally:
        connection.close()
    ended_well(one)


def test_a_request_that_came_in_parts_is_refused_whole(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    one = bridge(CODEX_BIN=fake_codex(), CODEX_BRIDGE_DRAIN_TIMEOUT_MS=ENDLESS_MS)
    session_id = one.create_session()
    message = post(b'{"message": "say hello"}', path=f"/chat/sessions/{session_id}/messages")
    with RawConnection(one.port) as early, RawConnection(one.port) as kept:
        early.send(message[:-5])
        # Its head has been read when a later connection has its answer, and its way goes past the first check.
        kept.send(get())
        assert kept.reply().status == 200
        assert "1 request under way" in begin_drain(one)
        kept.send(get())
        assert kept.reply().status == 200
        early.send(message[-5:])
        reply = early.reply()
        answer: dict[str, Any] = json.loads(reply.body)
        assert (reply.status, answer["code"]) == (503, "draining")
        assert int(reply.headers["retry-after"]) > 0
    ended_well(one)
