"""The stream across lost connections and slow readers: no gap, no double, nobody waits for another."""

import pytest

from tests.conftest import BridgeFactory
from tests.support import processes
from tests.support.bridge import Bridge
from tests.support.slow_reader import drain, never_reading
from tests.support.sse import Event, assert_contiguous, kinds, said
from tests.support.upstream import Upstream, rounds, say
from tests.support.waiting import wait_until

pytestmark = pytest.mark.codex

NUMBERS = [f"{number}," for number in range(200)]


def message_text(one: Bridge, session_id: str) -> str:
    """Return the text of the newest message."""
    return str(one.session(session_id)["messages"][-1]["text"])


def assert_one_stream(parts: list[list[Event]], text: str) -> None:
    """Fail unless the parts, put together, are one stream without a gap that tells `text`."""
    events = [event for part in parts for event in part]
    assert_contiguous(events)
    assert kinds(events).count("session.ready") == 1
    assert said(events) == text


def test_a_dropped_stream_goes_on_where_it_was(bridge: BridgeFactory, upstream: Upstream) -> None:
    middle, end = upstream.gate(), upstream.gate()
    upstream.script = rounds(say(*NUMBERS[:100], middle, *NUMBERS[100:180], end, *NUMBERS[180:]))
    one = bridge()
    session_id = one.create_session()
    first = one.ready_stream(session_id)
    one.send(session_id, "Count")
    first.until_text("99,")
    first.close()

    middle.release()
    wait_until(lambda: "179," in one.session(session_id)["assistant_draft"], "what nobody listened to")
    second = one.stream(session_id, after=first.last_id)
    second.until_text("179,")
    second.close()

    end.release()
    third = one.stream(session_id, after=second.last_id)
    third.until("session.completed")
    assert_one_stream([first.events, second.events, third.events], "".join(NUMBERS))
    assert one.session(session_id)["message_count"] == 2


def test_a_client_that_leaves_does_not_stop_the_turn(bridge: BridgeFactory, upstream: Upstream) -> None:
    gate = upstream.gate()
    upstream.script = rounds(say("begun ", gate, "done"))
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Work on")
    stream.until_text("begun")
    stream.close()
    gate.release()
    assert one.settled(session_id)["status"] == "idle"
    assert message_text(one, session_id) == "begun done"

    late = one.stream(session_id, after=stream.last_id)
    late.until("session.completed")
    assert_one_stream([stream.events, late.events], "begun done")


def test_many_drops_in_a_running_turn(bridge: BridgeFactory, upstream: Upstream) -> None:
    gates = [upstream.gate() for _ in range(8)]
    parts = [part for gate in gates for part in ("ab", "cd", gate)]
    upstream.script = rounds(say(*parts, "end"))
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Talk")
    seen = []
    for number, gate in enumerate(gates, 1):
        gate.wait()
        stream.close()
        seen.append(stream.events)
        gate.release()
        stream = one.stream(session_id, after=next(events for events in reversed(seen) if events)[-1].id)
        if number % 2:
            stream.until("item.agent_message.delta")
    stream.until("session.completed")
    assert_one_stream([*seen, stream.events], "abcd" * 8 + "end")


def test_after_in_the_query_resumes_as_well(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(say("one ", "two"))
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Talk")
    stream.until("session.completed")
    resumed = one.stream(session_id, query=f"?after={stream.events[2].id}")
    resumed.until("session.completed")
    assert resumed.events == stream.events[3:]


def test_a_resume_at_the_newest_event_brings_only_what_is_new(
    bridge: BridgeFactory, upstream: Upstream
) -> None:
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "one")
    stream.until("session.completed")
    resumed = one.stream(session_id, after=stream.last_id)
    one.send(session_id, "two")
    assert resumed.until(lambda event: True).name == "session.message"
    resumed.until("session.completed")
    stream.until("session.completed")
    assert_contiguous([*stream.events[: -len(resumed.events)], *resumed.events])


@pytest.mark.parametrize(
    "wrong", ["nonsense", "-", "other-1", "{epoch}-999999", "{epoch}--1", "{epoch}-1e3", "{epoch}-"]
)
def test_an_id_that_cannot_be_served_gets_a_fresh_start(bridge: BridgeFactory, wrong: str) -> None:
    one = bridge()
    session_id = one.create_session()
    ready = one.ready_stream(session_id).events[0]
    stream = one.stream(session_id, after=wrong.format(epoch=ready.epoch))
    fresh = stream.until(lambda event: True)
    assert fresh.name == "session.ready"
    assert fresh.data["session"] == one.session(session_id)
    one.send(session_id, "go on")
    stream.until("session.completed")
    assert_contiguous(stream.events)


def test_ready_is_the_first_event_in_mid_turn_too(bridge: BridgeFactory, upstream: Upstream) -> None:
    gate = upstream.gate()
    upstream.script = rounds(say("so far ", gate, "and on"))
    one = bridge()
    session_id = one.create_session()
    early = one.ready_stream(session_id)
    one.send(session_id, "Talk")
    early.until_text("so far ")

    late = one.ready_stream(session_id)
    assert late.events[0].data["session"]["assistant_draft"] == "so far "
    assert late.events[0].seq == early.events[-1].seq
    gate.release()
    late.until("session.completed")
    early.until("session.completed")
    assert_contiguous(late.events)
    assert late.events[1:] == early.events[-len(late.events) + 1 :]
    assert said(late.events) == "and on"


def test_all_readers_get_the_same_bytes(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(say(*NUMBERS))
    one = bridge()
    session_id = one.create_session()
    streams = [one.ready_stream(session_id) for _ in range(12)]
    one.send(session_id, "Count")
    for stream in streams:
        stream.until("session.completed")
        assert stream.events[1:] == streams[0].events[1:]


def test_a_client_that_never_reads_is_closed_and_nobody_else(
    bridge: BridgeFactory, upstream: Upstream
) -> None:
    gate = upstream.gate()
    parts = [f"{number:04}".ljust(40_000, ".") for number in range(200)]
    upstream.script = rounds(say("start ", gate, *parts))
    one = bridge()
    session_id = one.create_session()
    reader = one.ready_stream(session_id)
    one.send(session_id, "Talk a lot")
    reader.until_text("start ")
    with never_reading(one, session_id) as lazy:
        gate.release()
        reader.until("session.completed")
        assert_one_stream([reader.events], "start " + "".join(parts))
        port = lazy.getsockname()[1]
        wait_until(
            lambda: not processes.is_connected(one.pid, port), "the end of the stream that nobody reads"
        )
        told = drain(lazy)  # what the kernels held for it, and then the end
        assert b"0001..." in told
        assert b"session.completed" not in told
    resumed = one.stream(session_id, after=reader.events[-2].id)
    resumed.until("session.completed")
    assert resumed.events == reader.events[-1:]
