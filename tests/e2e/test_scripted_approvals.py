"""Approvals that the real Codex asks for seldom or never, played by a scripted app-server."""

import json
from typing import Any

import pytest

from tests.conftest import BridgeFactory
from tests.support import stored
from tests.support.bridge import Bridge, Json
from tests.support.fake_codex import FakeCodex
from tests.support.sse import Stream, kinds
from tests.support.turns import FakeFactory, open_session

COMMAND = "item/commandExecution/requestApproval"
FILE_CHANGE = "item/fileChange/requestApproval"
QUESTION = "item/tool/requestUserInput"
SECRET = "the-secret-answer-9c4e"


def request(request_id: int | str, method: str = COMMAND, **params: Any) -> Json:
    """Return a server request, as the scripted Codex takes it."""
    return {"id": request_id, "method": method, "params": params}


def begin(one: Bridge, *requests: Json) -> tuple[str, Stream, list[Json]]:
    """Start a turn that asks; return what is pending once all has been asked."""
    session_id, stream = open_session(one)
    one.send(session_id, f"asks {json.dumps(requests)}")
    return session_id, stream, [required(stream) for _ in requests]


def required(stream: Stream) -> Json:
    approval: Json = stream.until("session.approval.required").data["approval"]
    return approval


def answers(fake: FakeCodex) -> dict[int | str, Any]:
    """Return what was answered, by the id of the request."""
    return {answer["id"]: answer["result"] for answer in fake.received()}


def test_a_request_whose_id_is_0(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    one = bridge(CODEX_BIN=fake_codex())
    session_id, stream = open_session(one)
    one.send(session_id, f"ask {COMMAND}")
    asked = required(stream)
    assert asked["request_id"].startswith("a_")
    assert one.decide(session_id, "accept").status == 200
    stream.until("session.completed")
    assert json.loads(one.session(session_id)["messages"][-1]["text"]) == {
        "id": 0, "result": {"decision": "accept"},
    }  # fmt: skip


def test_ids_of_any_kind_and_answers_in_any_order(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    session_id, stream, asked = begin(one, request(0), request("0"), request("x y"), request(2**53))
    assert one.approvals(session_id) == asked
    for index, decision in ((2, "cancel"), (0, "accept"), (3, "decline"), (1, "accept_for_session")):
        assert one.decide(session_id, decision, asked[index]["request_id"]).status == 200
    stream.until("session.completed")
    assert answers(fake) == {
        0: {"decision": "accept"}, "0": {"decision": "acceptForSession"}, "x y": {"decision": "cancel"},
        2**53: {"decision": "decline"},
    }  # fmt: skip


def test_only_what_codex_offers_is_taken(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    session_id, stream, (asked,) = begin(one, request(1, availableDecisions=["accept", "cancel"]))
    assert asked["decisions"] == ["accept", "decline", "cancel"]
    refused = one.decide(session_id, "accept_for_session")
    assert (refused.status, refused.json["field"]) == (422, "decision")
    assert refused.json["decisions"] == asked["decisions"]
    assert "accept, decline, cancel" in refused.json["error"]
    assert one.decide(session_id, "accept").status == 200
    stream.until("session.completed")


def test_a_diff_comes_from_the_item(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    changes = [{"path": "/w/a", "kind": {"type": "update", "move_path": None}, "diff": "x" * 10_000}]
    item = {"type": "fileChange", "id": "edit", "changes": changes, "status": "inProgress"}
    asking = {**request(1, FILE_CHANGE, itemId="edit", grantRoot="/w"), "item": item}
    session_id, stream, (asked,) = begin(one, asking)
    assert (asked["changes"], asked["grant_root"]) == (changes, "/w")
    assert one.session(session_id)["pending_approval"]["changes"] == changes
    told = stream.events[-1].data["session"]["pending_approval"]["changes"]
    assert len(told[0]["diff"]) < 10_000
    assert one.decide(session_id, "accept").status == 200
    stream.until("session.completed")


def test_an_approval_that_codex_takes_back(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    session_id, stream, (taken_back, other) = begin(one, {**request(1), "resolve": True}, request(2))
    fake.release()
    responded = stream.until("approval.responded").runtime
    assert (responded["request_id"], responded["status"]) == (taken_back["request_id"], "cancelled")
    assert responded["settled_reason"] == "withdrawn"
    assert one.approvals(session_id) == [other]
    late = one.decide(session_id, "accept", taken_back["request_id"])
    assert (late.status, late.json["approval"]["settled_reason"]) == (409, "withdrawn")
    assert one.decide(session_id, "accept").status == 200
    stream.until("session.completed")
    assert answers(fake) == {2: {"decision": "accept"}}


def test_a_turn_that_ends_although_it_has_asked(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    session_id, stream, _ = begin(one, {**request(1), "resolve": True}, {**request(2), "forget": True})
    fake.release()
    stream.until("session.completed")
    reasons = [
        event.runtime["settled_reason"] for event in stream.events if event.kind == "approval.responded"
    ]
    assert reasons == ["withdrawn", "turn_ended"]
    assert one.approvals(session_id) == []
    one.send(session_id, "say on")
    stream.until("session.completed")
    assert answers(fake) == {2: {"decision": "decline"}}


def test_secret_answers_are_nowhere(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake, CODEX_BRIDGE_LOG_LEVEL="debug")
    questions = [
        {"id": "pin", "header": "Pin", "question": "Which?", "isOther": False, "isSecret": True, "options": None},
        {
            "id": "color", "header": "Color", "question": "Which?", "isOther": False, "isSecret": False,
            "options": [{"label": "Red", "description": ""}, {"label": "Blue", "description": ""}],
        },
    ]  # fmt: skip
    session_id, stream, (asked,) = begin(one, request("q", QUESTION, questions=questions))
    assert [question["is_secret"] for question in asked["questions"]] == [True, False]
    bad = one.decide(session_id, "accept", answers={"pin": SECRET, "color": "Green"})
    assert (bad.status, bad.json["field"]) == (422, "answers.color")
    assert "'Red', 'Blue'" in bad.json["error"]
    reply = one.decide(session_id, "accept", answers={"pin": SECRET, "color": ["Red"]})
    assert reply.status == 200
    assert reply.json["approval"]["answers"] == {"color": ["Red"]}
    stream.until("session.completed")
    assert answers(fake) == {
        "q": {"answers": {"pin": {"answers": [SECRET]}, "color": {"answers": ["Red"]}}},
    }  # fmt: skip
    late = one.decide(session_id, "accept", asked["request_id"])
    shown = [bad.body, reply.body, late.body, one.get(f"/chat/sessions/{session_id}").body]
    shown.append(json.dumps([event.data for event in stream.events]).encode())
    assert all(SECRET.encode() not in text for text in shown)
    one.stop()
    assert SECRET not in one.log_text
    state = one.directories.state
    assert SECRET.encode() not in stored.events(state, session_id)
    assert all(SECRET.encode() not in file.read_bytes() for file in state.iterdir() if file.is_file())


def test_many_sessions_wait_at_once(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake, CODEX_MAX_CONCURRENT_TURNS=2)
    waiting = [begin(one, request(number)) for number in range(8)]
    session_id, stream = open_session(one)
    one.send(session_id, "say I need nobody")
    stream.until("session.completed")
    for session_id, stream, (asked,) in reversed(waiting):
        assert one.decide(session_id, "accept", asked["request_id"]).status == 200
        stream.until("session.completed")
    assert len(answers(fake)) == 8


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_with_exec_nothing_is_ever_pending(
    bridge: BridgeFactory, fake_codex: FakeFactory, method: str
) -> None:
    one = bridge(CODEX_BIN=fake_codex(), CODEX_RUNTIME_KIND="exec")
    info = one.get("/runtime/info").json
    assert (info["approval_policy"], info["capabilities"]["approvals"]) == ("never", False)
    session_id, stream = open_session(one)
    assert one.session(session_id)["approval_policy"] == "never"
    one.send(session_id, "say hello")
    stream.until("session.completed")
    if method == "GET":
        assert one.approvals(session_id) == []
    else:
        assert one.decide(session_id, "accept").json["code"] == "approval_not_pending"
    assert "approval.requested" not in kinds(stream.events)
