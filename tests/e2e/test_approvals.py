"""Approvals with the real Codex: what a host is asked, and what each answer does."""

import re
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest

from tests.conftest import BridgeFactory
from tests.support import processes
from tests.support.bridge import Bridge, Json
from tests.support.sse import Event, Stream, assert_contiguous, kinds
from tests.support.turns import open_session, warm_up
from tests.support.upstream import (
    Answer,
    Request,
    Upstream,
    add,
    call,
    change,
    escalate,
    patch,
    rounds,
    run,
    say,
)

pytestmark = pytest.mark.codex

END = ("session.completed", "session.interrupted", "session.error")


def required(stream: Stream) -> Json:
    """Return the next approval that the stream asks for."""
    approval: Json = stream.until("session.approval.required").data["approval"]
    return approval


def begin(one: Bridge, **session: Any) -> tuple[str, Stream, Json]:
    """Start a turn in a new session; return what it asks."""
    session_id = one.create_session(**session)
    stream = one.ready_stream(session_id)
    one.send(session_id, "Do it")
    return session_id, stream, required(stream)


def end(stream: Stream) -> Event:
    """Return how the turn ended."""
    return stream.until(lambda event: event.name in END)


def item(stream: Stream, item_id: str) -> Json:
    """Return a completed item."""
    found: list[Json] = [event.runtime["item"] for event in stream.events if event.kind == "item.completed"]
    return next(item for item in found if item["id"] == item_id)


def responses(stream: Stream) -> list[Json]:
    """Return what the stream has told of settled approvals."""
    return [event.runtime for event in stream.events if event.kind == "approval.responded"]


# Commands -------------------------------------------------------------------------------------------


@pytest.mark.smoke
@pytest.mark.parametrize("word", ["accept", "allow"])
def test_a_command_is_allowed(bridge: BridgeFactory, upstream: Upstream, tmp_path: Path, word: str) -> None:
    outside = tmp_path / "outside.txt"
    upstream.script = rounds(escalate(f"echo x > {outside}"), say("Done."))
    one = bridge()
    session_id, stream, asked = begin(one)

    session = one.session(session_id)
    assert (session["status"], session["pending_approval"], session["pending_approvals"]) == (
        "running", asked, 1,
    )  # fmt: skip
    assert one.approvals(session_id) == [asked]
    assert (asked["kind"], asked["status"], asked["cwd"]) == ("command", "pending", str(one.workspace))
    assert str(outside) in asked["command"]
    assert asked["reason"] == f"May I echo x > {outside}?"
    assert asked["decisions"] == ["accept", "accept_for_session", "decline", "cancel"]
    assert asked["expires_at"] - asked["created_at"] == 600_000
    assert not outside.exists()

    reply = one.decide(session_id, word)
    assert reply.status == 200
    settled = reply.json["approval"]
    assert (settled["request_id"], settled["status"], settled["decision"], settled["settled_reason"]) == (
        asked["request_id"], "accepted", "accept", "host",
    )  # fmt: skip
    assert reply.json["session"]["pending_approval"] is None
    assert end(stream).name == "session.completed"
    assert outside.read_text() == "x\n"
    assert item(stream, asked["item_id"])["exitCode"] == 0
    assert one.approvals(session_id) == []
    told = [kind for kind in kinds(stream.events) if "approval" in kind]
    assert told == ["approval.requested", "session.approval.required", "approval.responded"]
    assert_contiguous(stream.events)


@pytest.mark.parametrize("word", ["decline", "deny"])
def test_a_command_is_refused(bridge: BridgeFactory, upstream: Upstream, tmp_path: Path, word: str) -> None:
    outside = tmp_path / "outside.txt"
    upstream.script = rounds(escalate(f"echo x > {outside}"), say("Then not."))
    one = bridge()
    session_id, stream, asked = begin(one)
    assert one.decide(session_id, word, asked["request_id"]).json["approval"]["status"] == "declined"
    assert end(stream).name == "session.completed"
    assert not outside.exists()
    assert item(stream, asked["item_id"])["status"] == "declined"
    assert "rejected by user" in str(upstream.requests[-1].outputs)
    assert one.session(session_id)["messages"][-1]["text"] == "Then not."


def test_a_command_is_allowed_for_the_session(
    bridge: BridgeFactory, upstream: Upstream, tmp_path: Path
) -> None:
    log = tmp_path / "log.txt"
    upstream.script = rounds(escalate(f"echo x >> {log}"), say("Done."))
    one = bridge()
    session_id, stream, _ = begin(one)
    assert one.decide(session_id, "accept_for_session").status == 200
    end(stream)
    one.send(session_id, "Once more")
    end(stream)
    assert log.read_text() == "x\nx\n"
    assert kinds(stream.events).count("session.approval.required") == 1
    assert not (one.directories.codex_home / "rules").exists(), "nothing is allowed for other sessions"

    other, others, _ = begin(one)
    assert one.decide(other, "decline").status == 200
    end(others)
    assert log.read_text() == "x\nx\n"


def test_a_command_that_ends_the_turn(bridge: BridgeFactory, upstream: Upstream, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    upstream.script = rounds(escalate(f"echo x > {outside}"), say("Never said."))
    one = bridge()
    session_id, stream, _ = begin(one)
    assert one.decide(session_id, "cancel").json["approval"]["status"] == "cancelled"
    assert end(stream).name == "session.interrupted"
    assert (len(upstream.requests), outside.exists()) == (1, False)
    upstream.script = rounds(say("Here."))
    one.send(session_id, "Go on")
    assert end(stream).name == "session.completed"


def test_what_was_not_offered_is_refused(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(escalate("true"), say("Done."))
    one = bridge()
    session_id, stream, asked = begin(one)
    wrong: list[Json] = [
        {"decision": word} for word in ("acceptForSession", "maybe", "", 1, None, ["accept"])
    ]
    for body in (*wrong, {}):
        reply = one.post(f"/chat/sessions/{session_id}/approvals", body)
        assert (reply.status, reply.json["field"]) == (422, "decision")
        assert reply.json["decisions"] == asked["decisions"]
    bad: list[tuple[Json, str]] = [
        ({"decision": "accept", "request_id": 7}, "request_id"), ({"decision": "accept", "other": 1}, "other"),
        ({"decision": "accept", "answers": {"a": "b"}}, "answers"),
    ]  # fmt: skip
    for body, field in bad:
        reply = one.post(f"/chat/sessions/{session_id}/approvals", body)
        assert (reply.status, reply.json["code"], reply.json["field"]) == (422, "invalid_field", field)
    assert one.approvals(session_id) == [asked]
    one.decide(session_id, "accept")
    end(stream)


def test_untrusted_asks_before_each_command(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(run("touch a.txt"), say("Done."))
    one = bridge()
    session_id, stream, asked = begin(one, approval_policy="untrusted")
    assert "touch a.txt" in asked["command"]
    assert not (one.workspace / "a.txt").exists()
    one.decide(session_id, "accept")
    end(stream)
    assert (one.workspace / "a.txt").exists()

    free, stream = open_session(one)
    one.send(free, "Do it")
    assert end(stream).name == "session.completed"
    assert "approval.requested" not in kinds(stream.events)


def test_never_asks_nothing(bridge: BridgeFactory, upstream: Upstream, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    questions = call("request_user_input", {"questions": [QUESTION]})
    upstream.script = rounds(escalate(f"echo x > {outside}"), questions, say("Neither."))
    one = bridge(CODEX_APPROVAL_POLICY="never")
    session_id, stream = open_session(one)
    one.send(session_id, "Do it")
    assert end(stream).name == "session.completed"
    assert not outside.exists()
    assert "unavailable" in upstream.requests[-1].outputs[1]
    assert not [kind for kind in kinds(stream.events) if "approval" in kind]


# File changes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["accept", "decline"])
def test_a_file_change_is_asked_for_with_its_diff(
    bridge: BridgeFactory, upstream: Upstream, word: str
) -> None:
    upstream.script = rounds(patch(add("new.txt", "new"), change("old.txt", "one", "two")), say("Done."))
    one = bridge(CODEX_APPROVAL_POLICY="untrusted")
    (one.workspace / "old.txt").write_text("one\n")
    session_id, stream, asked = begin(one)
    assert (asked["kind"], asked["grant_root"]) == ("file_change", None)
    changes = {Path(each["path"]).name: (each["kind"]["type"], each["diff"]) for each in asked["changes"]}
    assert changes["new.txt"] == ("add", "new\n")
    assert changes["old.txt"][0] == "update"
    assert "-one\n+two\n" in changes["old.txt"][1]
    assert not (one.workspace / "new.txt").exists()

    assert one.decide(session_id, word).status == 200
    assert end(stream).name == "session.completed"
    was_made = word == "accept"
    assert (one.workspace / "new.txt").exists() is was_made
    assert (one.workspace / "old.txt").read_text() == ("two\n" if was_made else "one\n")
    assert item(stream, asked["item_id"])["status"] == ("completed" if was_made else "declined")


def test_an_edit_outside_of_the_workspace_is_asked_for(
    bridge: BridgeFactory, upstream: Upstream, tmp_path: Path
) -> None:
    one = bridge()
    for word, was_made in (("decline", False), ("accept", True)):
        upstream.script = rounds(patch(add(f"{tmp_path}/outside.txt", "x")), say("Done."))
        session_id, stream, asked = begin(one)
        assert [change["path"] for change in asked["changes"]] == [f"{tmp_path}/outside.txt"]
        assert one.decide(session_id, word).status == 200
        assert end(stream).name == "session.completed"
        assert (tmp_path / "outside.txt").exists() is was_made


def test_file_changes_are_allowed_for_the_session(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(patch(add("a.txt", "1")), patch(change("a.txt", "1", "2")), say("Done."))
    one = bridge(CODEX_SANDBOX_MODE="read-only")
    session_id, stream, _ = begin(one)
    one.decide(session_id, "accept_for_session")
    assert end(stream).name == "session.completed"
    assert (one.workspace / "a.txt").read_text() == "2\n"
    assert kinds(stream.events).count("session.approval.required") == 1


# Permissions ----------------------------------------------------------------------------------------


def permitting(one_home: Path) -> None:
    """Let the model ask for permissions: it may not by itself, as long as Codex calls that unfinished."""
    one_home.mkdir(parents=True, exist_ok=True)
    (one_home / "config.toml").write_text("[features]\nrequest_permissions_tool = true\n")


def ask_to_write(where: Path) -> Answer:
    return call(
        "request_permissions",
        {"permissions": {"file_system": {"write": [str(where)]}}, "reason": "For the log."},
    )


@pytest.mark.parametrize(
    ("word", "in_turn", "later"),
    [("accept", True, False), ("accept_for_session", True, True), ("decline", False, False)],
)
def test_permissions_are_granted_as_far_as_a_person_says(
    bridge: BridgeFactory, upstream: Upstream, tmp_path: Path, word: str, in_turn: bool, later: bool
) -> None:
    permitting(tmp_path / "codex-home")
    where = tmp_path / "logs"
    where.mkdir()
    write = run(f"echo x >> {where}/log.txt; cat {where}/log.txt")
    upstream.script = rounds(ask_to_write(where), write, say("Done."))
    one = bridge()
    session_id, stream, asked = begin(one)
    assert (asked["kind"], asked["reason"]) == ("permissions", "For the log.")
    assert asked["permissions"]["fileSystem"]["write"] == [str(where)]
    assert asked["decisions"] == ["accept", "accept_for_session", "decline", "cancel"]
    assert one.decide(session_id, word).status == 200
    assert end(stream).name == "session.completed"
    assert (where / "log.txt").exists() is in_turn

    (where / "log.txt").unlink(missing_ok=True)
    upstream.script = rounds(write, say("Done."))
    one.send(session_id, "Again")
    assert end(stream).name == "session.completed"
    assert (where / "log.txt").exists() is later
    assert kinds(stream.events).count("session.approval.required") == 1


def test_permissions_that_end_the_turn(bridge: BridgeFactory, upstream: Upstream, tmp_path: Path) -> None:
    permitting(tmp_path / "codex-home")
    upstream.script = rounds(ask_to_write(tmp_path / "logs"), say("Never said."))
    one = bridge()
    session_id, stream, _ = begin(one)
    assert one.decide(session_id, "cancel").json["approval"]["status"] == "cancelled"
    assert end(stream).name == "session.interrupted"
    assert "Never said." not in str(one.session(session_id)["messages"])


# Questions ------------------------------------------------------------------------------------------

QUESTION = {
    "id": "color",
    "header": "Color",
    "question": "Which color?",
    "options": [{"label": "Red", "description": "warm"}, {"label": "Blue", "description": "cold"}],
}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"decision": "accept", "answers": {"color": "Blue"}}, '{"answers":{"color":{"answers":["Blue"]}}}'),
        ({"decision": "accept", "answers": {"color": ["Gr\u00fcn"]}}, '{"answers":{"color":{"answers":["Gr\u00fcn"]}}}'),
        ({"decision": "decline"}, '{"answers":{}}'),
    ],
)  # fmt: skip
def test_a_question_of_the_model(bridge: BridgeFactory, upstream: Upstream, body: Json, told: str) -> None:
    upstream.script = rounds(call("request_user_input", {"questions": [QUESTION]}), say("Thanks."))
    one = bridge()
    session_id, stream, asked = begin(one)
    assert (asked["kind"], asked["decisions"]) == ("question", ["accept", "decline", "cancel"])
    assert asked["questions"] == [{**QUESTION, "is_other": True, "is_secret": False}]
    reply = one.post(f"/chat/sessions/{session_id}/approvals", {"decision": "accept"})
    assert (reply.status, reply.json["field"]) == (422, "answers")
    assert one.post(f"/chat/sessions/{session_id}/approvals", body).status == 200
    assert end(stream).name == "session.completed"
    assert upstream.requests[-1].outputs == [told]
    assert "warning" not in {event.kind for event in stream.events if "nstable" in str(event.data)}


def test_a_question_that_ends_the_turn(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(call("request_user_input", {"questions": [QUESTION]}), say("Never said."))
    one = bridge()
    session_id, stream, _ = begin(one)
    assert one.decide(session_id, "cancel").status == 200
    assert end(stream).name == "session.interrupted"


def test_shell_snapshots_stay_off(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(run("true"), say("Done."))
    one = bridge()
    session_id, stream = open_session(one)
    one.send(session_id, "Do it")
    end(stream)
    assert not list((one.directories.codex_home / "shell_snapshots").glob("*"))


# Several --------------------------------------------------------------------------------------------


def test_several_are_pending_in_one_session(
    bridge: BridgeFactory, upstream: Upstream, tmp_path: Path
) -> None:
    commands = [f"echo x > {tmp_path}/{name}" for name in ("first", "second")]
    upstream.script = rounds(escalate(*commands), say("Done."))
    one = bridge()
    session_id, stream, _ = begin(one)
    required(stream)
    pending = one.approvals(session_id)
    assert len(pending) == 2
    session = one.session(session_id)
    assert (session["pending_approval"], session["pending_approvals"]) == (pending[0], 2)
    reply = one.decide(session_id, "accept")
    assert (reply.status, reply.json["field"]) == (422, "request_id")
    assert reply.json["pending"] == [asked["request_id"] for asked in pending]

    by_name = {name: asked for asked in pending for name in ("first", "second") if name in asked["command"]}
    assert one.decide(session_id, "accept", by_name["second"]["request_id"]).status == 200
    assert one.approvals(session_id) == [by_name["first"]]
    assert one.decide(session_id, "decline").status == 200
    assert end(stream).name == "session.completed"
    assert [(tmp_path / name).exists() for name in ("first", "second")] == [False, True]


def test_one_session_does_not_wait_for_the_approval_of_another(
    bridge: BridgeFactory, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.script = rounds(escalate(f"echo x > {tmp_path}/x"), say("Done."))
    one = bridge(CODEX_MAX_CONCURRENT_TURNS=1)
    first, first_stream, _ = begin(one)
    second, second_stream, _ = begin(one)
    load = one.get("/runtime/info").json["bridge_load"]
    assert (load["active_turns"], load["pending_turns"]) == (2, 0)
    assert one.decide(second, "decline").status == 200
    assert end(second_stream).name == "session.completed"
    assert len(one.approvals(first)) == 1
    assert one.decide(first, "accept").status == 200
    assert end(first_stream).name == "session.completed"
    assert (tmp_path / "x").exists()


def test_an_agent_of_the_model_asks_in_the_session_of_the_turn(
    bridge: BridgeFactory, upstream: Upstream, tmp_path: Path
) -> None:
    namespace = {"namespace": "multi_agent_v1"}

    def script(request: Request) -> Answer:
        if request.user_text == "You are the agent.":
            return rounds(escalate(f"echo x > {tmp_path}/x"), say("I have done it."))(request)
        # What the agent says comes as a message of a user, so the outputs are not counted here.
        if '"wait_agent"' in request.conversation:
            return say("The agent has done it.")
        if '"spawn_agent"' not in request.conversation:
            return call("spawn_agent", {"message": "You are the agent."}, **namespace)
        (agent,) = re.findall(r'agent_id\\":\\"([^"\\]+)', request.conversation)
        return call("wait_agent", {"targets": [agent], "timeout_ms": 30_000}, **namespace)

    upstream.script = script
    one = bridge()
    session_id, stream, asked = begin(one)
    assert f"{tmp_path}/x" in asked["command"]
    assert one.decide(session_id, "accept").status == 200
    assert end(stream).name == "session.completed"
    assert (tmp_path / "x").exists()


# Time -----------------------------------------------------------------------------------------------


def test_nobody_answers_in_time(bridge: BridgeFactory, upstream: Upstream, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    upstream.script = rounds(escalate(f"echo x > {outside}"), say("Then not."))
    one = bridge(CODEX_BRIDGE_APPROVAL_TIMEOUT_MS=200)
    session_id, stream, asked = begin(one)
    assert end(stream).name == "session.completed"
    assert not outside.exists()
    (told,) = responses(stream)
    assert (told["request_id"], told["status"], told["decision"], told["settled_reason"]) == (
        asked["request_id"], "expired", "decline", "expired",
    )  # fmt: skip
    late = one.decide(session_id, "accept", asked["request_id"])
    assert (late.status, late.json["code"]) == (409, "approval_not_pending")
    assert late.json["approval"]["status"] == "expired"
    assert one.decide(session_id, "accept").json["code"] == "approval_not_pending"


def test_a_question_that_nobody_answers(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(call("request_user_input", {"questions": [QUESTION]}), say("Never mind."))
    one = bridge(CODEX_BRIDGE_APPROVAL_TIMEOUT_MS=200)
    _, stream, _ = begin(one)
    assert end(stream).name == "session.completed"
    assert upstream.requests[-1].outputs == ['{"answers":{}}']


def test_time_spent_waiting_for_a_person_is_not_the_turns(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(escalate("true"), say("In time."))
    one = bridge(CODEX_CHAT_TURN_TIMEOUT_MS=4000, CODEX_BRIDGE_APPROVAL_TIMEOUT_MS=4500)
    warm_up(one)
    session_id, stream, _ = begin(one)
    assert end(stream).name == "session.completed"
    assert one.session(session_id)["messages"][-1]["text"] == "In time."
    gate = upstream.gate()
    upstream.script = rounds(say("half ", gate))
    one.send(session_id, "Talk")
    assert end(stream).data["session"]["last_error_code"] == "turn_timeout"


def test_a_second_answer_changes_nothing(bridge: BridgeFactory, upstream: Upstream, tmp_path: Path) -> None:
    upstream.script = rounds(escalate(f"echo x > {tmp_path}/x"), say("Then not."))
    one = bridge()
    session_id, stream, asked = begin(one)
    assert one.decide(session_id, "decline", asked["request_id"]).status == 200
    second = one.decide(session_id, "accept", asked["request_id"])
    assert (second.status, second.json["code"]) == (409, "approval_not_pending")
    assert second.json["approval"]["status"] == "declined"
    assert second.json["approval"]["settled_reason"] == "host"
    end(stream)
    assert not (tmp_path / "x").exists()
    assert len(responses(stream)) == 1
    assert one.decide(session_id, "accept", "a_unknown").json["code"] == "approval_not_pending"
    assert one.decide("s_unknown", "accept").json["code"] == "session_not_found"
    assert one.get("/chat/sessions/s_unknown/approvals").json["code"] == "session_not_found"


def test_a_host_that_leaves_takes_nothing_with_it(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(escalate("echo allowed"), say("Done."))
    one = bridge()
    session_id, stream, asked = begin(one)
    last = stream.last_id
    stream.close()
    assert one.approvals(session_id) == [asked]
    fresh = one.ready_stream(session_id)
    assert fresh.events[0].data["session"]["pending_approval"] == asked
    assert one.decide(session_id, "accept", asked["request_id"]).status == 200
    assert end(fresh).name == "session.completed"
    back = one.stream(session_id, after=last)
    assert end(back).name == "session.completed"
    assert_contiguous([*stream.events, *back.events])


# The end of the turn --------------------------------------------------------------------------------


def test_an_interrupt_settles_what_is_pending(
    bridge: BridgeFactory, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.script = rounds(escalate(f"echo x > {tmp_path}/x", f"echo y > {tmp_path}/x"), say("Never said."))
    one = bridge()
    session_id, stream, asked = begin(one)
    required(stream)
    codex = one.codex_pid()
    assert one.interrupt(session_id).status == 200
    stopped = end(stream)
    assert one.codex_pid() == codex, (
        "it was ended, with the turns of others: its commands were waited for in vain"
    )
    assert stopped.name == "session.interrupted"
    assert stopped.data["session"]["pending_approval"] is None
    told = responses(stream)
    assert [(each["status"], each["decision"], each["settled_reason"]) for each in told] == [
        ("cancelled", None, "interrupted")
    ] * 2
    late = one.decide(session_id, "accept", asked["request_id"])
    assert (late.status, late.json["approval"]["settled_reason"]) == (409, "interrupted")
    assert (len(upstream.requests), (tmp_path / "x").exists()) == (1, False)
    upstream.script = rounds(escalate(f"echo z > {tmp_path}/x"), say("Done."))
    one.send(session_id, "Again")
    required(stream)
    one.decide(session_id, "accept")
    assert end(stream).name == "session.completed"
    assert (tmp_path / "x").read_text() == "z\n"


def test_a_codex_that_dies_takes_its_questions_with_it(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(escalate("true"), say("Done."))
    one = bridge()
    session_id, stream, asked = begin(one)
    processes.send(one.codex_pid(), SIGKILL)
    failed = end(stream)
    assert failed.data["session"]["last_error_code"] == "codex_exited"
    assert failed.data["session"]["pending_approval"] is None
    (told,) = responses(stream)
    assert (told["status"], told["settled_reason"]) == ("cancelled", "codex_exited")
    late = one.decide(session_id, "accept", asked["request_id"])
    assert (late.status, late.json["approval"]["settled_reason"]) == (409, "codex_exited")
    one.send(session_id, "Again")
    required(stream)
    one.decide(session_id, "accept")
    assert end(stream).name == "session.completed"


def test_a_session_that_is_deleted_takes_its_approvals_with_it(
    bridge: BridgeFactory, upstream: Upstream
) -> None:
    upstream.script = rounds(escalate("true"), say("Never said."))
    one = bridge()
    session_id, stream, asked = begin(one)
    assert one.delete(f"/chat/sessions/{session_id}").status == 200
    stream.until_over()
    reply = one.decide(session_id, "accept", asked["request_id"])
    assert (reply.status, reply.json["code"]) == (404, "session_not_found")
    assert len(upstream.requests) == 1
    one.stop()


def test_the_end_of_the_bridge_while_something_is_pending(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(escalate("true"), say("Never said."))
    one = bridge()
    session_id, stream, asked = begin(one)
    one.stop()
    stream.until_over()
    again = bridge()
    late = again.decide(session_id, "accept", asked["request_id"])
    assert (late.status, late.json["approval"]["settled_reason"]) == (409, "shutting_down")
    assert again.session(session_id)["pending_approval"] is None


def test_kill_9_of_the_bridge_while_something_is_pending(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(escalate("true"), say("Done."))
    one = bridge()
    session_id, stream, asked = begin(one)
    last = stream.last_id
    one.kill()
    again = bridge()
    back = again.stream(session_id, after=last)
    assert end(back).name == "session.interrupted"
    (told,) = responses(back)
    assert told["request_id"] == asked["request_id"]
    assert (told["status"], told["settled_reason"]) == ("cancelled", "bridge_restarted")
    assert again.approvals(session_id) == []
    late = again.decide(session_id, "accept", asked["request_id"])
    assert (late.status, late.json["code"]) == (409, "approval_not_pending")
    assert late.json["approval"]["settled_reason"] == "bridge_restarted"
    assert "bridge" in late.json["error"]
    # Codex is asked anew, with the policy that the session has.
    again.send(session_id, "Again")
    again.decide(session_id, "accept", required(back)["request_id"])
    assert end(back).name == "session.completed"
