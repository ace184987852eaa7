"""A turn that is stopped: by a person, by its time, by the end of the bridge."""

from signal import Signals

import pytest

from tests.conftest import BridgeFactory
from tests.support import processes
from tests.support.bridge import Bridge
from tests.support.sse import Stream, assert_contiguous, kinds
from tests.support.turns import warm_up
from tests.support.upstream import Gate, Upstream, rounds, run, say
from tests.support.waiting import wait_until

pytestmark = pytest.mark.codex


def start_held_turn(one: Bridge, upstream: Upstream) -> tuple[str, Stream, Gate]:
    """Start a turn that has said "half " and waits at a gate."""
    gate = upstream.gate()
    upstream.script = rounds(say("half ", gate, "whole"))
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Talk")
    stream.until_text("half ")
    return session_id, stream, gate


def sleepers(one: Bridge) -> list[int]:
    """Return the sandboxed `sleep 4711` of this bridge."""
    commands = {pid: processes.cmdline(pid) for pid in processes.marked(str(one.directories.codex_home))}
    return [pid for pid, command in commands.items() if command == ["sleep", "4711"]]


def test_interrupt_of_a_running_turn(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge()
    session_id, stream, _ = start_held_turn(one, upstream)
    active = one.session(session_id)["active_turn_id"]

    reply = one.interrupt(session_id)
    assert (reply.status, reply.json["ok"], reply.json["turn_id"]) == (200, True, active)
    assert reply.json["session"]["id"] == session_id
    stopped = stream.until("session.interrupted").data["session"]
    assert (stopped["status"], stopped["running"], stopped["active_turn_id"]) == ("idle", False, None)
    assert upstream.requests[0].abandoned.wait(30), "the upstream's stream goes on without a listener"

    session = one.session(session_id)
    assert session["last_error"] is None
    assert session["assistant_draft"] == ""
    last = session["messages"][-1]
    assert (last["role"], last["text"], last["incomplete"]) == ("assistant", "half ", True)

    upstream.script = rounds(say("All of it."))
    one.send(session_id, "Again")
    stream.until("session.completed")
    assert one.session(session_id)["messages"][-1]["text"] == "All of it."
    ends = [kind for kind in kinds(stream.events) if kind in ("session.interrupted", "session.completed")]
    assert ends == ["session.interrupted", "session.completed"]
    assert_contiguous(stream.events)


def test_interrupt_of_a_queued_turn(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge(CODEX_MAX_CONCURRENT_TURNS=1)
    running, running_stream, gate = start_held_turn(one, upstream)
    queued = one.create_session()
    stream = one.ready_stream(queued)
    one.send(queued, "never heard")
    assert one.session(queued)["status"] == "queued"

    assert one.interrupt(queued).status == 200
    assert stream.until("session.interrupted").data["session"]["status"] == "idle"
    assert one.get("/runtime/info").json["bridge_load"]["pending_turns"] == 0
    assert one.session(running)["status"] == "running"
    gate.release()
    running_stream.until("session.completed")

    one.send(queued, "heard")
    stream.until("session.completed")
    assert "never heard" not in upstream.requests[0].conversation
    assert len(upstream.requests) == 2
    assert "session.running" not in kinds(stream.events[: kinds(stream.events).index("session.interrupted")])


def test_interrupt_without_a_turn(bridge: BridgeFactory) -> None:
    one = bridge()
    session_id = one.create_session()
    for _ in range(2):
        reply = one.interrupt(session_id)
        assert (reply.status, reply.json["code"]) == (409, "no_turn_in_progress")
        one.send(session_id, "Talk")
        assert one.settled(session_id)["status"] == "idle"
    assert one.interrupt("s_unknown").json["code"] == "session_not_found"


def test_a_second_interrupt_does_no_harm(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge()
    session_id, stream, _ = start_held_turn(one, upstream)
    replies = [one.interrupt(session_id).status for _ in range(3)]
    assert replies[0] == 200
    assert set(replies) <= {200, 409}
    stream.until("session.interrupted")
    upstream.script = rounds(say("fine"))
    one.send(session_id, "Again")
    stream.until("session.completed")
    assert kinds(stream.events).count("session.interrupted") == 1


def test_interrupt_at_once(bridge: BridgeFactory, upstream: Upstream) -> None:
    gate = upstream.gate()
    upstream.script = rounds(say(gate, "never"))
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Talk")
    assert one.interrupt(session_id).status == 200
    stream.until("session.interrupted")
    assert one.session(session_id)["status"] == "idle"
    upstream.script = rounds(say("fine"))
    one.send(session_id, "Again")
    stream.until("session.completed")


def test_a_turn_has_its_time(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge(CODEX_CHAT_TURN_TIMEOUT_MS=4000)
    warm_up(one)
    session_id, stream, _ = start_held_turn(one, upstream)
    failed = stream.until("session.error").data["session"]
    assert (failed["status"], failed["last_error_code"]) == ("error", "turn_timeout")
    assert failed["last_error"]
    assert upstream.requests[0].abandoned.wait(30), "Codex was not stopped"

    upstream.script = rounds(say("in time"))
    one.send(session_id, "Again")
    stream.until("session.completed")
    session = one.session(session_id)
    assert (session["status"], session["last_error"], session["last_error_code"]) == ("idle", None, None)
    assert session["messages"][-1]["text"] == "in time"


@pytest.mark.parametrize("number", [Signals.SIGTERM, Signals.SIGINT])
def test_the_end_of_the_bridge_in_mid_turn(
    bridge: BridgeFactory, upstream: Upstream, number: Signals
) -> None:
    one = bridge(CODEX_MAX_CONCURRENT_TURNS=1)
    _, stream, _ = start_held_turn(one, upstream)
    one.send(one.create_session(), "queued")
    one.stop(number)
    stream.until_over()
    assert "session.completed" not in kinds(stream.events)
    assert len(upstream.requests) == 1


def test_the_end_of_the_bridge_ends_a_running_command(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(run("echo up; exec sleep 4711", yield_time_ms=30000), say("Never."))
    one = bridge()
    session_id = one.create_session()
    one.send(session_id, "Sleep")
    wait_until(lambda: sleepers(one), "the sandboxed command")
    one.stop()
    assert not sleepers(one)


def test_the_end_of_an_idle_bridge_with_open_streams(bridge: BridgeFactory) -> None:
    one = bridge()
    session_id = one.create_session()
    streams = [one.ready_stream(session_id) for _ in range(3)]
    one.stop()
    for stream in streams:
        stream.until_over()


def test_kill_9_of_the_bridge_leaves_nothing(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(run("echo up; exec sleep 4711", yield_time_ms=30000), say("Never."))
    one = bridge()
    one.send(one.create_session(), "Sleep")
    wait_until(lambda: sleepers(one), "the sandboxed command")
    one.signal(Signals.SIGKILL)
    assert one.wait_exit() == -Signals.SIGKILL
    wait_until(lambda: not one.leftovers(), "the end of every child of the killed bridge")
