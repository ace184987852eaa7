"""Sessions as rows: create, read, list by pages, delete, clear; and the messages that are not acceptable."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import BridgeFactory
from tests.support.bridge import Bridge, Json
from tests.support.fake_codex import FakeCodex
from tests.support.waiting import wait_until

FIELDS = {
    "id",
    "thread_id",
    "status",
    "mode",
    "context",
    "messages",
    "events",
    "running",
    "pending_approval",
    "last_error",
    "assistant_draft",
    "created_at",
    "updated_at",
    "workspace_root",
    "active_turn_id",
    "queue_position",
    "usage",
    "runtime",
    "message_count",
    "last_error_code",
}


@pytest.fixture
def one(bridge: BridgeFactory, fake_codex: Callable[..., FakeCodex]) -> Bridge:
    """A bridge of this test alone, on the scripted app-server."""
    return bridge(CODEX_BIN=fake_codex())


def test_a_new_session(one: Bridge) -> None:
    before = time.time_ns() // 1_000_000
    reply = one.post("/chat/sessions", {"mode": "entity", "context": {"page": 7}})
    after = time.time_ns() // 1_000_000
    assert (reply.status, reply.json["ok"]) == (201, True)
    session = reply.json["session"]
    assert set(session) >= FIELDS
    assert session["id"].startswith("s_")
    assert (session["status"], session["running"], session["mode"]) == ("idle", False, "entity")
    assert session["context"] == {"page": 7}
    assert (session["messages"], session["events"], session["message_count"]) == ([], [], 0)
    assert session["workspace_root"] == str(one.workspace)
    assert session["assistant_draft"] == ""
    empty = ("thread_id", "pending_approval", "last_error", "active_turn_id", "queue_position", "usage")
    assert [session[name] for name in empty] == [None] * len(empty)
    assert isinstance(session["created_at"], int)
    assert before <= session["created_at"] <= session["updated_at"] <= after
    assert one.session(session["id"]) == session


def test_mode_is_workspace_unless_said(one: Bridge) -> None:
    assert one.post("/chat/sessions").json["session"]["mode"] == "workspace"


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"mode": "other"}, "mode"),
        ({"mode": 5}, "mode"),
        ({"context": "text"}, "context"),
        ({"context": []}, "context"),
        ({"surprise": 1}, "surprise"),
        ({"workspace_root": "/"}, "workspace_root"),
        ({"workspace_root": "/etc"}, "workspace_root"),
        ({"workspace_root": 5}, "workspace_root"),
        ({"workspace_root": ""}, "workspace_root"),
        ({"workspace_root": "a\0b"}, "workspace_root"),
        ({"workspace_root": "{workspace}/../home"}, "workspace_root"),
        ({"workspace_root": "{workspace}/missing"}, "workspace_root"),
        ({"workspace_root": "{workspace}-twin"}, "workspace_root"),
        ({"workspace_root": "{workspace}/link-out"}, "workspace_root"),
        ({"workspace_root": "{workspace}/file"}, "workspace_root"),
    ],
)
def test_what_a_session_cannot_be(one: Bridge, body: dict[str, object], named: str) -> None:
    Path(f"{one.workspace}-twin").mkdir()
    (one.workspace / "link-out").symlink_to("/etc")
    (one.workspace / "file").touch()
    filled = {
        name: value.replace("{workspace}", str(one.workspace)) if isinstance(value, str) else value
        for name, value in body.items()
    }
    reply = one.post("/chat/sessions", filled)
    assert (reply.status, reply.json["code"]) == (422, "invalid_field")
    assert named in reply.json["error"]
    assert one.get("/chat/sessions").json["total"] == 0


def test_a_root_below_the_workspace_is_fine(one: Bridge) -> None:
    inner = one.workspace / "inner"
    inner.mkdir()
    reply = one.post("/chat/sessions", {"workspace_root": str(inner)})
    assert (reply.status, reply.json["session"]["workspace_root"]) == (201, str(inner))


def test_pages_from_the_newest_to_the_oldest(one: Bridge) -> None:
    created = [one.create_session() for _ in range(7)]
    seen: list[str] = []
    cursor = ""
    for size in (3, 3, 1):
        page = one.get(f"/chat/sessions?limit=3{cursor}").json
        assert (page["ok"], page["total"], len(page["sessions"])) == (True, 7, size)
        seen += [session["id"] for session in page["sessions"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert page["next_cursor"] is None
    assert seen == created[::-1]
    whole = one.get("/chat/sessions").json
    assert [session["id"] for session in whole["sessions"]] == seen
    assert all(set(session) >= FIELDS for session in whole["sessions"])


def test_a_page_goes_on_after_its_cursor_was_deleted_or_outdated(one: Bridge) -> None:
    created = [one.create_session() for _ in range(4)]
    page = one.get("/chat/sessions?limit=2").json
    one.create_session()
    rest = one.get(f"/chat/sessions?limit=2&cursor={page['next_cursor']}").json
    assert [session["id"] for session in rest["sessions"]] == created[1::-1]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", "limit=x", "limit=1e3", "limit=", "limit=100000", "cursor=unknown"]
)
def test_a_page_that_cannot_be(one: Bridge, query: str) -> None:
    reply = one.get(f"/chat/sessions?{query}")
    assert (reply.status, reply.json["code"]) == (422, "invalid_field")
    assert query.split("=")[0] in reply.json["error"]


def test_delete_one(one: Bridge) -> None:
    gone, kept = one.create_session(), one.create_session()
    stream = one.ready_stream(gone)
    reply = one.delete(f"/chat/sessions/{gone}")
    assert (reply.status, reply.json) == (200, {"ok": True, "deleted": 1})
    stream.until_over()
    for again in (one.delete(f"/chat/sessions/{gone}"), one.get(f"/chat/sessions/{gone}")):
        assert (again.status, again.json["code"]) == (404, "session_not_found")
    assert [s["id"] for s in one.get("/chat/sessions").json["sessions"]] == [kept]


def test_clear_all(one: Bridge) -> None:
    for _ in range(3):
        one.create_session()
    assert one.delete("/chat/sessions").json == {"ok": True, "deleted": 3}
    assert one.delete("/chat/sessions").json == {"ok": True, "deleted": 0}
    assert one.get("/chat/sessions").json["sessions"] == []


@pytest.mark.parametrize(
    "session_id", ["s_unknown", "x", "%2e%2e", "s_%00", "S_%F0%9F%8E%89", "s_" + "a" * 4000]
)
def test_an_unknown_session(one: Bridge, session_id: str) -> None:
    path = f"/chat/sessions/{session_id}"
    replies = [
        one.get(path),
        one.delete(path),
        one.get(f"{path}/stream"),
        one.post(f"{path}/messages", {"message": "Hello"}),
        one.post(f"{path}/interrupt"),
    ]
    assert [(reply.status, reply.json["code"]) for reply in replies] == [(404, "session_not_found")] * 5


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "message"),
        ({"message": ""}, "message"),
        ({"message": "  \n"}, "message"),
        ({"message": 5}, "message"),
        ({"message": None}, "message"),
        ({"message": ["text"]}, "message"),
        ({"message": "x" * 1_100_000}, "message"),
        ({"message": "x", "surprise": 1}, "surprise"),
        ({"message": "x", "context": "text"}, "context"),
        ({"message": "x", "attachments": "a.txt"}, "attachments"),
        ({"message": "x", "attachments": ["a.txt"]}, "attachments"),
        ({"message": "x", "attachments": [{"path": "../outside.txt"}]}, "attachments"),
        ({"message": "x", "attachments": [{"path": "/etc/passwd"}]}, "attachments"),
        ({"message": "x", "attachments": [{"path": "missing.txt"}]}, "attachments"),
        ({"message": "x", "attachments": [{"path": "link-out"}]}, "attachments"),
        ({"message": "x", "attachments": [{"path": ""}]}, "attachments"),
        ({"message": "x", "attachments": [{"path": "a\0b"}]}, "attachments"),
        ({"message": "x", "attachments": [{"name": "a.txt"}]}, "attachments"),
    ],
)
def test_what_a_message_cannot_be(one: Bridge, body: dict[str, object], named: str) -> None:
    (one.workspace.parent / "outside.txt").touch()
    (one.workspace / "link-out").symlink_to("/etc/passwd")
    session_id = one.create_session()
    before = one.session(session_id)
    reply = one.post(f"/chat/sessions/{session_id}/messages", body)
    assert (reply.status, reply.json["code"]) == (422, "invalid_field")
    assert named in reply.json["error"]
    assert one.session(session_id) == before


def test_half_a_character_does_no_harm(one: Bridge) -> None:
    session_id = one.create_session()
    body = b'{"message": "say \\ud83c alone"}'
    reply = one.request(
        "POST", f"/chat/sessions/{session_id}/messages", body, Content_Type="application/json"
    )
    assert reply.status in (202, 400, 422)
    assert one.settled(session_id)["status"] == "idle"
    assert one.get("/chat/sessions").status == 200


def test_health_and_info(one: Bridge) -> None:
    health = one.get("/health").json
    assert {"ok", "service", "version", "auth_state", "has_api_key", "login_status"} <= set(health)
    assert health["has_api_key"] is True

    def look() -> Json | None:
        found: Json = one.get("/runtime/info").json
        return found if found["codex_version"] else None

    info = wait_until(look, "the version of Codex")
    wanted = {
        "runtime_kind",
        "codex_command",
        "codex_version",
        "sandbox_mode",
        "workspace_root",
        "runtime_config",
    }
    assert {"ok", "bridge_load", "capabilities", "preflight"} | wanted <= set(info)
    assert info["runtime_kind"] == "app_server_adapter"
    assert info["sandbox_mode"] == "workspace-write"
    assert info["workspace_root"] == str(one.workspace)
    assert "0.163.0" in info["codex_version"]
    assert info["runtime_config"]["has_provider_api_key"] is True


def test_ids_are_not_to_be_guessed(one: Bridge) -> None:
    ids = {one.create_session() for _ in range(20)}
    assert len(ids) == 20
    assert {len(session_id) for session_id in ids} == {24}


def test_a_message_lists_and_streams_only_its_own_turn(one: Bridge) -> None:
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    for text in ("say one", "say two"):
        answer = one.send(session_id, text)
        last = stream.until("session.completed").data["session"]
    assert [message["text"] for message in answer["session"]["messages"]] == ["say two"]
    assert [message["text"] for message in last["messages"]] == ["say two", "two"]
    assert (last["message_count"], last["events"]) == (4, [])
    listed = one.get("/chat/sessions").json["sessions"][0]
    assert [message["text"] for message in listed["messages"]] == ["say two", "two"]
    assert [m["text"] for m in one.session(session_id)["messages"]] == ["say one", "one", "say two", "two"]


def test_the_items_of_a_session_are_listed_in_order_by_pages(one: Bridge) -> None:
    session_id = one.create_session()
    turns = []
    for number in range(3):
        turns.append(one.send(session_id, f"say answer {number}")["turn_id"])
        one.settled(session_id)
    path = f"/chat/sessions/{session_id}/items"
    found, cursor = [], ""
    while True:
        page = one.get(f"{path}?limit=2{cursor}").json
        found += page["items"]
        if page["next_cursor"] is None:
            break
        assert len(page["items"]) == 2
        cursor = f"&cursor={page['next_cursor']}"
    assert [row["turn_id"] for row in found] == turns
    assert [(row["item"]["type"], row["item"]["text"]) for row in found] == [
        ("agentMessage", f"answer {number}") for number in range(3)
    ]
    assert one.get(f"{path}?turn_id={turns[1]}").json["items"] == [found[1]]
    assert one.get(f"{path}?turn_id=none").json == {"ok": True, "items": [], "next_cursor": None}
    assert one.get(f"{path}?cursor=x").json["field"] == "cursor"


def test_a_page_of_long_messages_ends_early(one: Bridge) -> None:
    ids = [one.create_session() for _ in range(7)]
    for session_id in ids:
        one.send(session_id, "say " + "x" * 900_000)
        one.settled(session_id)
    first = one.get("/chat/sessions?limit=7").json
    assert 1 <= len(first["sessions"]) < 7
    found, cursor = [session["id"] for session in first["sessions"]], first["next_cursor"]
    while cursor is not None:
        page = one.get(f"/chat/sessions?limit=7&cursor={cursor}").json
        found += [session["id"] for session in page["sessions"]]
        cursor = page["next_cursor"]
    assert found == ids[::-1]
