"""The session service, its pages, and the JSON shapes of a session."""

import pytest

from codex_bridge.errors import InvalidField, NotFound, Unavailable
from codex_bridge.model import Message, Role, Session, SessionMode, new_id
from codex_bridge.services import sessions as sessions_module
from codex_bridge.services.sessions import LiveSession, SessionService
from tests.unit.loop import on_loop
from tests.unit.test_event_log import Follower


def create(service: SessionService, count: int) -> list[LiveSession]:
    return [service.create("/w", {}, SessionMode.WORKSPACE, {}, {}) for _ in range(count)]


def pages(service: SessionService, limit: int) -> list[list[str]]:
    """Return the ids of each page, following the cursors."""
    found, cursor = [], None
    while True:
        page, cursor = service.list_page(limit, cursor)
        found.append([session.id for session in page])
        if cursor is None:
            return found


@on_loop
async def test_pages_hold_every_session_once_newest_first() -> None:
    for count in range(8):
        service = SessionService()
        newest_first = [live.session.id for live in create(service, count)][::-1]
        for limit in (1, 2, 3, 7, 100):
            found = pages(service, limit)
            assert [name for page in found for name in page] == newest_first
            assert len(found) == max(1, -(-count // limit))
            assert all(len(page) == limit for page in found[:-1])


@on_loop
async def test_a_page_stays_where_it_is_when_others_come_and_go() -> None:
    service = SessionService()
    live = create(service, 6)
    page, cursor = service.list_page(2, None)
    assert cursor == page[-1].id
    create(service, 3)
    service.delete(live[3])
    page, _ = service.list_page(2, cursor)
    assert [session.id for session in page] == [live[2].session.id, live[1].session.id]


@on_loop
async def test_a_cursor_that_is_gone_is_named() -> None:
    service = SessionService()
    live = create(service, 3)
    service.delete(live[1])
    for cursor in (live[1].session.id, "nonsense", ""):
        with pytest.raises(InvalidField) as caught:
            service.list_page(2, cursor)
        assert caught.value.details == {"field": "cursor"}


@on_loop
async def test_get_and_delete() -> None:
    service = SessionService()
    first, second = create(service, 2)
    reader = Follower(first.log.seq)
    first.log.add(reader)
    assert service.get(first.session.id) is first
    service.delete(first)
    assert reader.closed == 1
    assert len(service) == 1
    assert service.all() == [second]
    with pytest.raises(NotFound) as caught:
        service.get(first.session.id)
    assert (caught.value.status, caught.value.code) == (404, "session_not_found")


def test_there_is_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions_module, "MAX_SESSIONS", 2)

    @on_loop
    async def main() -> None:
        service = SessionService()
        live = create(service, 2)
        with pytest.raises(Unavailable) as caught:
            create(service, 1)
        assert (caught.value.status, caught.value.code) == (503, "too_many_sessions")
        service.delete(live[0])
        create(service, 1)

    main()


def message(number: int, turn: str, role: Role = Role.USER, *, incomplete: bool = False) -> Message:
    return Message(f"m{number}", role, f"text {number}", turn, number, incomplete=incomplete)


def test_the_whole_and_the_brief_session() -> None:
    session = Session("s_1", "/w", {"provider": "x"})
    session.messages += [message(1, "t1"), message(2, "t1", Role.ASSISTANT)]
    session.messages += [message(3, "t2"), message(4, "t2", Role.ASSISTANT, incomplete=True)]
    session.recent_events.extend({"type": "n", "number": number} for number in range(60))
    session.drafts = {"a": ["x", "y"], "b": ["z"]}

    whole, brief = session.to_json(), session.to_brief_json()

    assert [item["id"] for item in whole["messages"]] == ["m1", "m2", "m3", "m4"]
    assert [item["id"] for item in brief["messages"]] == ["m3", "m4"]
    assert whole["messages"][3]["incomplete"] is True
    assert "incomplete" not in whole["messages"][0]
    assert [event["number"] for event in whole["events"]] == list(range(20, 60))
    assert brief["events"] == []
    assert whole["message_count"] == brief["message_count"] == 4
    assert whole["assistant_draft"] == "xy\n\nz"
    assert set(whole) == set(brief) == {
        "id", "thread_id", "status", "mode", "context", "messages", "events", "running", "pending_approval",
        "last_error", "assistant_draft", "created_at", "updated_at", "workspace_root", "active_turn_id",
        "queue_position", "usage", "runtime", "message_count", "last_error_code",
    }  # fmt: skip


def test_ids_cannot_be_guessed_and_fit_a_path_segment() -> None:
    ids = {new_id("s") for _ in range(1000)}
    assert len(ids) == 1000
    for name in ids:
        assert len(name) == 24
        assert name.startswith("s_")
        assert name.replace("-", "").replace("_", "").isalnum()
