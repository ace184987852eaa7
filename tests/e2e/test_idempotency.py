"""`Idempotency-Key`: a request that is sent again does nothing again, also when the bridge was killed in between."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conftest import BridgeFactory
from tests.support.bridge import Bridge, Reply
from tests.support.turns import FakeFactory


@pytest.fixture
def one(bridge: BridgeFactory, fake_codex: FakeFactory) -> Bridge:
    """A bridge on the scripted app-server."""
    return bridge(CODEX_BIN=fake_codex())


def send(one: Bridge, session_id: str, key: str, message: str = "say hello", **body: Any) -> Reply:
    return one.post(
        f"/chat/sessions/{session_id}/messages", {"message": message, **body}, Idempotency_Key=key
    )


def test_a_message_that_is_sent_again_is_taken_once(one: Bridge) -> None:
    session_id = one.create_session()
    first = send(one, session_id, "k1")
    one.settled(session_id)
    second = send(one, session_id, "k1")
    assert (first.status, second.status) == (202, 202)
    assert second.body == first.body
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert len(one.session(session_id)["messages"]) == 2


def test_a_session_that_is_asked_for_again_is_made_once(one: Bridge) -> None:
    bodies = ({"context": {"a": 1, "b": 2}}, {"context": {"b": 2, "a": 1}})
    replies = [one.post("/chat/sessions", body, Idempotency_Key="same") for body in bodies]
    assert [reply.status for reply in replies] == [201, 201]
    assert replies[0].body == replies[1].body
    assert one.get("/chat/sessions").json["total"] == 1


def test_the_same_key_with_another_body_is_refused(one: Bridge) -> None:
    session_id = one.create_session()
    assert send(one, session_id, "k1").status == 202
    one.settled(session_id)
    reply = send(one, session_id, "k1", "say something else")
    assert (reply.status, reply.json["code"]) == (409, "idempotency_key_reused")
    assert len(one.session(session_id)["messages"]) == 2
    other = one.create_session()
    assert send(one, other, "k1", "say something else").status == 202, "a key counts in its session"


def test_requests_with_one_key_at_once_are_one(one: Bridge) -> None:
    session_id = one.create_session()
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: send(one, session_id, "k1"), range(8)))
    assert {reply.status for reply in replies} == {202}
    assert len({reply.body for reply in replies}) == 1
    assert len(one.settled(session_id)["messages"]) == 2


def test_a_refused_request_leaves_its_key_free(one: Bridge) -> None:
    session_id = one.create_session()
    assert send(one, session_id, "k1", when_busy="never").status == 422
    one.send(session_id, "stay")
    assert send(one, session_id, "k1").json["code"] == "turn_in_progress"
    one.interrupt(session_id)
    one.settled(session_id)
    assert send(one, session_id, "k1").status == 202


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_that_is_none_is_named(one: Bridge, key: str) -> None:
    session_id = one.create_session()
    reply = send(one, session_id, key)
    assert (reply.status, reply.json["field"]) == (422, "Idempotency-Key")


def test_a_key_outlives_the_bridge(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    codex = fake_codex()
    one = bridge(CODEX_BIN=codex)
    created = one.post("/chat/sessions", {}, Idempotency_Key="c")
    session_id = created.json["session"]["id"]
    first = send(one, session_id, "k1", "stay")
    one.kill()
    again = bridge(CODEX_BIN=codex)
    assert again.post("/chat/sessions", {}, Idempotency_Key="c").body == created.body
    assert send(again, session_id, "k1", "stay").body == first.body
    assert send(again, session_id, "k1").json["code"] == "idempotency_key_reused"
    assert [message["text"] for message in again.settled(session_id)["messages"]][:1] == ["stay"]
    assert again.get("/chat/sessions").json["total"] == 1
