"""Slots and the queue: so many turns run, so many wait in order, the rest are refused without a trace."""

from collections.abc import Iterable

import pytest

from tests.conftest import BridgeFactory
from tests.support.bridge import Bridge
from tests.support.sse import assert_contiguous, kinds
from tests.support.upstream import Failure, Gate, Request, Stream, Upstream, rounds, say
from tests.support.waiting import wait_until

pytestmark = pytest.mark.codex


class Stage:
    """Sessions whose turns stand still, each at a gate of its own, until the test lets it go."""

    def __init__(self, one: Bridge, upstream: Upstream, names: Iterable[str]) -> None:
        self.one = one
        self.upstream = upstream
        self.gates: dict[str, Gate] = {name: upstream.gate() for name in names}
        self.sessions: dict[str, str] = {name: one.create_session() for name in self.gates}
        upstream.script = self.answer

    def answer(self, request: Request) -> Stream:
        """Hold the turn at the gate that its message names."""
        return say("begun ", self.gates[request.user_text], "done")

    def started(self) -> list[str]:
        """Return the names in the order in which their turns reached the upstream."""
        return [request.user_text for request in self.upstream.requests]

    def load(self) -> tuple[int, int]:
        """Return how many turns run and how many wait."""
        load = self.one.get("/runtime/info").json["bridge_load"]
        return load["active_turns"], load["pending_turns"]

    def status(self, name: str) -> str:
        """Return the status of a session."""
        return str(self.one.session(self.sessions[name])["status"])

    def finish(self) -> None:
        """Let everything go and wait for the end of every turn."""
        for gate in self.gates.values():
            gate.release()
        for session_id in self.sessions.values():
            assert self.one.settled(session_id)["status"] == "idle"


EIGHT = [f"turn {number}" for number in range(1, 9)]


def test_eight_turns_on_four_slots(bridge: BridgeFactory, upstream: Upstream) -> None:
    stage = Stage(bridge(CODEX_MAX_CONCURRENT_TURNS=4), upstream, EIGHT)
    answers = [stage.one.send(stage.sessions[name], name) for name in EIGHT]

    assert [answer["queued"] for answer in answers] == [False] * 4 + [True] * 4
    assert answers[-1]["bridge_load"] == {
        "active_turns": 4,
        "pending_turns": 4,
        "max_concurrent_turns": 4,
        "max_queued_turns": 40,
    }
    for name in EIGHT[:4]:
        stage.gates[name].wait()
    assert [stage.status(name) for name in EIGHT] == ["running"] * 4 + ["queued"] * 4
    assert stage.load() == (4, 4)
    assert sorted(stage.started()) == EIGHT[:4]

    for leaves, comes in zip(["turn 2", "turn 4", "turn 1", "turn 5"], EIGHT[4:], strict=True):
        stage.gates[leaves].release()
        stage.gates[comes].wait()
    assert stage.started()[4:] == EIGHT[4:]
    stage.finish()
    assert stage.load() == (0, 0)
    assert len(stage.one.codex_pids()) == 1


def test_the_place_in_the_queue_is_told(bridge: BridgeFactory, upstream: Upstream) -> None:
    names = EIGHT[:4]
    stage = Stage(bridge(CODEX_MAX_CONCURRENT_TURNS=1), upstream, names)
    streams = {name: stage.one.ready_stream(stage.sessions[name]) for name in names}
    for name in names:
        stage.one.send(stage.sessions[name], name)

    def places() -> list[int | None]:
        return [stage.one.session(stage.sessions[name])["queue_position"] for name in names]

    assert places() == [None, 1, 2, 3]
    stage.gates["turn 1"].release()
    stage.gates["turn 2"].wait()
    wait_until(lambda: places() == [None, None, 1, 2], "the queue to move up")
    stage.finish()
    waited = streams["turn 3"]
    waited.until("session.completed")
    order = [kind for kind in kinds(waited.events) if kind in ("session.queued", "session.running")]
    assert order == ["session.queued", "session.running"]
    assert "session.queued" not in kinds(streams["turn 1"].events)
    assert_contiguous(waited.events)


def test_past_the_queue_a_message_is_refused_without_a_trace(
    bridge: BridgeFactory, upstream: Upstream
) -> None:
    one = bridge(CODEX_MAX_CONCURRENT_TURNS=4, CODEX_MAX_QUEUED_TURNS=2)
    stage = Stage(one, upstream, EIGHT)
    stream = one.ready_stream(stage.sessions["turn 8"])
    before = one.session(stage.sessions["turn 8"])
    replies = [one.post_message(stage.sessions[name], name) for name in EIGHT]

    assert [reply.status for reply in replies] == [202] * 6 + [503] * 2
    refused = replies[-1]
    assert (refused.json["ok"], refused.json["code"]) == (False, "busy")
    assert refused.json["bridge_load"] == {
        "active_turns": 4,
        "pending_turns": 2,
        "max_concurrent_turns": 4,
        "max_queued_turns": 2,
    }
    assert int(refused.headers["retry-after"]) > 0
    assert one.session(stage.sessions["turn 8"]) == before

    for name in EIGHT:
        stage.gates[name].release()
    for name in EIGHT[:6]:
        assert one.settled(stage.sessions[name])["message_count"] == 2
    assert "turn 8" not in stage.started()
    one.send(stage.sessions["turn 8"], "turn 8")
    stream.until("session.completed")
    assert [event.name for event in stream.events[:2]] == ["session.ready", "session.message"]
    assert_contiguous(stream.events)
    assert one.session(stage.sessions["turn 8"])["message_count"] == 2


def test_a_queue_of_none_refuses_at_once(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge(CODEX_MAX_CONCURRENT_TURNS=1, CODEX_MAX_QUEUED_TURNS=0)
    stage = Stage(one, upstream, EIGHT[:2])
    one.send(stage.sessions["turn 1"], "turn 1")
    assert one.post_message(stage.sessions["turn 2"], "turn 2").status == 503
    stage.gates["turn 1"].wait()
    stage.finish()


def test_a_session_has_one_turn_at_a_time(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge(CODEX_MAX_CONCURRENT_TURNS=1)
    stage = Stage(one, upstream, EIGHT[:2])
    for name in EIGHT[:2]:
        one.send(stage.sessions[name], name)
    stage.gates["turn 1"].wait()
    for name in EIGHT[:2]:
        before = one.session(stage.sessions[name])
        reply = one.post_message(stage.sessions[name], "me too")
        assert (reply.status, reply.json["code"]) == (409, "turn_in_progress")
        assert one.session(stage.sessions[name])["messages"] == before["messages"]
    stage.finish()
    assert stage.started() == EIGHT[:2]


def test_a_failed_turn_gives_its_slot_back(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge(CODEX_MAX_CONCURRENT_TURNS=1)
    upstream.script = lambda request: Failure(400) if request.user_text == "bad" else say("fine")
    bad, good = one.create_session(), one.create_session()
    one.send(bad, "bad")
    one.send(good, "good")
    assert one.settled(bad)["status"] == "error"
    assert one.settled(good)["status"] == "idle"
    assert one.get("/runtime/info").json["bridge_load"]["active_turns"] == 0


def test_deleting_sessions_stops_their_turns(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge(CODEX_MAX_CONCURRENT_TURNS=1)
    stage = Stage(one, upstream, ["running", "waiting", "last"])
    for name in ("running", "waiting", "last"):
        one.send(stage.sessions[name], name)
    stage.gates["running"].wait()
    stream = one.ready_stream(stage.sessions["running"])

    assert one.delete(f"/chat/sessions/{stage.sessions.pop('waiting')}").status == 200
    assert one.delete(f"/chat/sessions/{stage.sessions.pop('running')}").status == 200
    stage.gates["last"].wait()
    assert upstream.requests[0].abandoned.wait(30), "the upstream's stream of a deleted turn is still open"
    stream.until_over()
    stage.finish()
    assert stage.started() == ["running", "last"]


def test_clearing_all_sessions_stops_every_turn(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge(CODEX_MAX_CONCURRENT_TURNS=1)
    stage = Stage(one, upstream, ["running", "waiting"])
    for name in ("running", "waiting"):
        one.send(stage.sessions[name], name)
    stage.gates["running"].wait()
    assert one.delete("/chat/sessions").json["deleted"] == 2
    wait_until(lambda: stage.load() == (0, 0), "every slot to be free")
    assert stage.started() == ["running"]
    upstream.script = rounds(say("fine"))
    after = one.create_session()
    one.send(after, "again")
    assert one.settled(after)["status"] == "idle"


def test_forty_first_messages_on_a_cold_bridge(bridge: BridgeFactory, upstream: Upstream) -> None:
    gate = upstream.gate()
    upstream.script = lambda request: say("begun ", gate, request.user_text)
    one = bridge(CODEX_MAX_CONCURRENT_TURNS=40)
    sessions = {f"turn {number}": one.create_session() for number in range(40)}
    for name, session_id in sessions.items():
        one.send(session_id, name)
    gate.wait(40, 60)
    assert len(one.codex_pids()) == 1
    gate.release()
    for name, session_id in sessions.items():
        assert one.settled(session_id, 60)["messages"][-1]["text"] == f"begun {name}"
    assert len(upstream.requests) == 40
