"""kill -9 of Codex: the session says so, the next message works, and the thread remembers."""

import threading
from signal import Signals

import pytest

from tests.conftest import BridgeFactory
from tests.support import processes
from tests.support.sse import Event, assert_contiguous
from tests.support.upstream import Upstream, rounds, run, say
from tests.support.waiting import wait_until

pytestmark = pytest.mark.codex


def test_the_session_survives_its_codex(bridge: BridgeFactory, upstream: Upstream) -> None:
    gate = upstream.gate()
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    upstream.script = rounds(say("The blue answer."))
    one.send(session_id, "the first question")
    stream.until("session.completed")

    upstream.script = rounds(say("half an ", gate, "answer"))
    one.send(session_id, "the second question")
    stream.until_text("half an ")
    killed = one.codex_pid()
    processes.kill(killed)
    failed = stream.until("session.error").data["session"]

    assert (failed["status"], failed["running"]) == ("error", False)
    assert failed["last_error_code"] == "codex_exited"
    assert "Codex" in failed["last_error"]
    partial = one.session(session_id)["messages"][-1]
    assert (partial["text"], partial["incomplete"]) == ("half an ", True)
    assert upstream.requests[1].abandoned.wait(30), "the upstream's stream outlived its Codex"

    upstream.script = rounds(say("Back again."))
    one.send(session_id, "the third question")
    stream.until("session.completed")
    conversation = upstream.requests[-1].conversation
    assert "the first question" in conversation
    assert "The blue answer." in conversation
    assert "the second question" in conversation
    session = one.session(session_id)
    assert (session["status"], session["last_error"]) == ("idle", None)
    assert session["messages"][-1]["text"] == "Back again."
    assert one.codex_pid() != killed
    assert_contiguous(stream.events)
    resumed = [event.runtime["resumed"] for event in stream.events if event.kind == "thread.started"]
    assert resumed[0] is False
    assert resumed[-1] is True


def test_every_running_session_is_told(bridge: BridgeFactory, upstream: Upstream) -> None:
    gate = upstream.gate()
    upstream.script = rounds(say("held ", gate, "freed"))
    one = bridge(CODEX_MAX_CONCURRENT_TURNS=2)
    sessions = [one.create_session() for _ in range(3)]
    streams = [one.ready_stream(session_id) for session_id in sessions]
    for session_id in sessions:
        one.send(session_id, "Go")
    for stream in streams[:2]:
        stream.until_text("held ")
    processes.kill(one.codex_pid())
    for stream in streams[:2]:
        assert stream.until("session.error").data["session"]["last_error_code"] == "codex_exited"
    streams[2].until_text("held ")
    gate.release()
    streams[2].until("session.completed")
    assert one.session(sessions[2])["messages"][-1]["text"] == "held freed"


def test_a_crash_between_turns_goes_unnoticed(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    upstream.script = rounds(say("The green answer."))
    one.send(session_id, "before")
    stream.until("session.completed")
    killed = one.codex_pid()
    processes.kill(killed)
    wait_until(lambda: killed not in processes.pids(), "the bridge to bury its Codex")
    assert one.get("/health").status == 200

    one.send(session_id, "after")
    stream.until(lambda event: event.name in ("session.completed", "session.error"))
    assert stream.events[-1].name == "session.completed"
    assert "The green answer." in upstream.requests[-1].conversation


def test_a_command_dies_with_its_codex(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(run("echo up; exec sleep 4711", yield_time_ms=30000), say("Never."))
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Sleep")

    def sleepers() -> list[int]:
        commands = {pid: processes.cmdline(pid) for pid in processes.marked(str(one.directories.codex_home))}
        return [pid for pid, command in commands.items() if command == ["sleep", "4711"]]

    wait_until(sleepers, "the sandboxed command")
    processes.kill(one.codex_pid())
    stream.until("session.error")
    wait_until(lambda: not sleepers(), "the end of the sandboxed command")


def test_a_crash_in_the_first_turn_starts_the_thread_anew(bridge: BridgeFactory, upstream: Upstream) -> None:
    gate = upstream.gate()
    upstream.script = rounds(say(gate, "never"))
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "the only question")
    gate.wait()
    processes.kill(one.codex_pid())
    stream.until("session.error")
    upstream.script = rounds(say("Here."))
    one.send(session_id, "again")
    stream.until(lambda event: event.name in ("session.completed", "session.error"))
    assert stream.events[-1].name == "session.completed", stream.events[-1].data["session"]["last_error"]


def is_end(event: Event) -> bool:
    return event.name in ("session.completed", "session.error")


def test_kill_9_in_any_moment(bridge: BridgeFactory, upstream: Upstream) -> None:
    """Whenever it comes: the turn ends, is told, and the next try gets through; nothing stays behind."""
    upstream.script = rounds(run("echo one", yield_time_ms=30_000), run("sleep 0.05; echo two"), say("Done."))
    one = bridge()
    sessions = [one.create_session() for _ in range(2)]
    streams = [one.ready_stream(session_id) for session_id in sessions]
    moments = [0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]

    def kill() -> None:
        for pid in one.codex_pids():
            processes.kill(pid)

    for later_s in moments:
        for session_id in sessions:
            one.send(session_id, "Go")
        timer = threading.Timer(later_s, kill)
        timer.start()
        timer.join()
        for session_id in sessions:
            ended = one.settled(session_id)
            assert ended["last_error_code"] in (None, "codex_exited", "codex_unavailable"), ended[
                "last_error"
            ]
        if one.get("/health").json["codex"]["state"] == "backing_off":
            # The kill met a start, as most do on a slow machine; more of those in a row, and Codex is given up.
            one.send(sessions[0], "Go on")
            assert one.settled(sessions[0])["last_error"] is None
    for session_id, stream in zip(sessions, streams, strict=True):
        one.send(session_id, "At last")
        assert one.settled(session_id)["last_error"] is None
        while len(list(filter(is_end, stream.events))) <= len(moments):
            stream.until(is_end)
        assert_contiguous(stream.events)
    assert one.get("/health").json["codex"] == {"state": "running"}
    wait_until(lambda: one.leftovers() == sorted([one.pid, one.codex_pid()]), "the end of all others")


def test_a_codex_that_is_stopped_in_a_command(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(run("touch up; exec sleep 4711", yield_time_ms=30_000), say("Never."))
    one = bridge(CODEX_BRIDGE_INTERRUPT_GRACE_MS=500)
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Sleep")
    wait_until((one.workspace / "up").exists, "the command")
    stopped = one.codex_pid()
    processes.send(stopped, Signals.SIGSTOP)
    assert one.interrupt(session_id).status == 200
    ended = stream.until("session.interrupted").data["session"]
    assert (ended["status"], ended["last_error"]) == ("idle", None)
    wait_until(lambda: one.leftovers() == [one.pid], "the end of the child and its command")
    upstream.script = rounds(say("Back."))
    one.send(session_id, "Go on")
    stream.until("session.completed")
    assert "Sleep" in upstream.requests[-1].conversation


def test_a_command_that_hears_no_signal(bridge: BridgeFactory, upstream: Upstream) -> None:
    """An interrupt ends it all the same, and no Codex need be ended for it."""
    deaf = "trap '' INT TERM HUP; touch up; while :; do sleep 4711; done"
    upstream.script = rounds(run(deaf, yield_time_ms=30_000), say("Never."))
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Sleep")
    wait_until((one.workspace / "up").exists, "the command")
    codex = one.codex_pid()
    one.interrupt(session_id)
    stream.until("session.interrupted")
    wait_until(lambda: one.leftovers() == sorted([one.pid, codex]), "the end of the command")
    assert "did not stop" not in one.log_text
