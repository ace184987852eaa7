"""The session service, its pages, and the JSON shapes of a session."""

import asyncio
import gc
import sqlite3
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from codex_bridge.adapters import database as database_module
from codex_bridge.adapters import database_file
from codex_bridge.adapters.database import Connection
from codex_bridge.errors import InvalidField, NotFound, StoreDamaged
from codex_bridge.model import Message, Role, Session, SessionStatus, new_id
from codex_bridge.services import events as events_module
from codex_bridge.services import sessions as sessions_module
from codex_bridge.services.live import LiveSession
from codex_bridge.services.sessions import SessionService
from codex_bridge.services.transcript import Transcript
from codex_bridge.store import sessions as rows
from tests.unit.loop import BOUND_S, on_loop
from tests.unit.store import held, until
from tests.unit.stored import Stored, stored
from tests.unit.test_event_log import ALL, Follower, decode


async def pages(service: SessionService, limit: int) -> list[list[str]]:
    """Return the ids of each page, following the cursors."""
    found, cursor = [], None
    while True:
        page, cursor = await service.list_page(limit, cursor)
        found.append([session["id"] for session in page])
        if cursor is None:
            return found


@on_loop
async def test_pages_hold_every_session_once_newest_first(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        newest_first: list[str] = []
        for count in range(8):
            assert len(one.sessions) == count
            for limit in (1, 2, 3, 7, 100):
                found = await pages(one.sessions, limit)
                assert [name for page in found for name in page] == newest_first
                assert len(found) == max(1, -(-count // limit))
                assert all(len(page) == limit for page in found[:-1])
            [live] = await one.create(1)
            newest_first.insert(0, live.session.id)


@on_loop
async def test_a_page_stays_where_it_is_when_others_come_and_go(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        live = await one.create(6)
        page, cursor = await one.sessions.list_page(2, None)
        assert cursor == page[-1]["id"]
        await one.create(3)
        await one.sessions.delete(live[3])
        page, _ = await one.sessions.list_page(2, cursor)
        assert [session["id"] for session in page] == [live[2].session.id, live[1].session.id]


@on_loop
async def test_a_cursor_that_is_gone_is_named(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        live = await one.create(3)
        await one.sessions.delete(live[1])
        for cursor in (live[1].session.id, "nonsense", ""):
            with pytest.raises(InvalidField) as caught:
                await one.sessions.list_page(2, cursor)
            assert caught.value.details == {"field": "cursor"}


@on_loop
async def test_get_and_delete(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        first, second = await one.create(2)
        reader = Follower(first.log.seq)
        first.log.add(reader)
        assert await one.sessions.get(first.session.id) is first
        await one.sessions.delete(first)
        await one.sessions.delete(first)
        assert reader.closed == 1
        assert len(one.sessions) == 1
        assert one.sessions.loaded() == [second]
        with pytest.raises(NotFound) as caught:
            await one.sessions.get(first.session.id)
        assert (caught.value.status, caught.value.code) == (404, "session_not_found")


async def fill(one: Stored) -> str:
    """Return the id of a session in which something has happened, all of it stored."""
    [live] = await one.create(1)
    session = live.session
    transcript = Transcript(one.recorder)
    session.active_turn_id, session.status = "t_1", SessionStatus.RUNNING
    transcript.note(live, "t_1", {"type": "thread.started", "thread_id": "T", "resumed": False})
    for text in ("al", "most"):
        transcript.note(live, "t_1", {"type": "item.agent_message.delta", "item_id": "i", "delta": text})
        live.log.flush()
    transcript.note(
        live, "t_1", {"type": "item.completed", "item": {"type": "agentMessage", "id": "i", "text": "all"}}
    )
    session.usage = {"total_tokens": 5}
    session.active_turn_id, session.status = None, SessionStatus.IDLE
    one.recorder.add(live)
    one.recorder.flush(live)
    await one.recorder.settle()
    return session.id


def test_a_session_leaves_the_memory_and_comes_back_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sessions_module, "MAX_LOADED_SESSIONS", 2)

    @on_loop
    async def main() -> None:
        async with stored(tmp_path) as one:
            session_id = await fill(one)
            live = await one.sessions.get(session_id)
            before, log = live.session.to_json(), (live.log.epoch, live.log.seq)
            await one.create(2)
            assert await one.sessions.get(session_id) is live, "somebody holds on to it"
            await one.create(2)
            del live
            gc.collect()
            assert session_id not in [live.session.id for live in one.sessions.loaded()]

            first, second = await asyncio.gather(one.sessions.get(session_id), one.sessions.get(session_id))
            assert first is second
            assert first.session.to_json() == before
            assert (first.log.epoch, first.log.seq) == log

    main()


def test_a_large_session_leaves_the_memory_when_it_rests(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sessions_module, "MAX_RESTING_CHARACTERS", 2)
    monkeypatch.setattr(events_module, "LOG_REST_S", 0)

    @on_loop
    async def main() -> None:
        async with stored(tmp_path) as one:
            session_id = await fill(one)
            live = await one.sessions.get(session_id)
            before = live.session.to_json()
            rested = asyncio.Event()
            on_rest = live.log.on_rest
            live.log.on_rest = lambda: (on_rest(), rested.set())[1]
            live.log.rest()
            await rested.wait()
            gone = weakref.ref(live)
            del live
            gc.collect()
            assert gone() is None
            assert (await one.sessions.get(session_id)).session.to_json() == before

    main()


async def show(one: Stored, live: LiveSession) -> None:
    await one.sessions.catch_up(live)


async def show_all(one: Stored, live: LiveSession) -> None:
    page, _ = await one.sessions.list_page(9, None)
    assert page[0]["usage"] == {"total_tokens": 7}


@pytest.mark.parametrize("looks", [show, show_all])
@on_loop
async def test_a_session_is_shown_once_what_it_shows_is_stored(
    tmp_path: Path, looks: Callable[[Stored, LiveSession], Coroutine[Any, Any, None]]
) -> None:
    async with stored(tmp_path) as one:
        [live] = await one.create(1)
        live.session.usage = {"total_tokens": 7}
        with held() as hold:
            one.database.post(hold)
            one.recorder.secure(live)
            assert live.log.is_held
            looking = asyncio.create_task(looks(one, live))
            await asyncio.sleep(0)  # it is on its way, and what it reads is read before this
            await one.database.read(rows.count())
            await asyncio.wait([looking], timeout=0.1)
            assert not looking.done()
        await looking
        assert not live.log.is_held
        row = await one.database.read(rows.select(live.session.id))
        assert row is not None
        assert row.state["usage"] == {"total_tokens": 7}


@on_loop
async def test_all_is_there_after_a_restart(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        session_id = await fill(one)
        live = await one.sessions.get(session_id)
        before, told = live.session.to_json(), live.log.replay(0, ALL)
    async with stored(tmp_path) as one:
        live = await one.sessions.get(session_id)
        assert live.session.to_json() == before
        assert live.log.replay(live.log.seq - 1, ALL) is None
        entries, last = await one.sessions.read_events(live, live.log.epoch, 0, ALL) or ([], 0)
        assert (b"".join(entries), last) == told
        live.log.append("n", {})
        assert [seq for seq, _, _ in decode(live.log.replay(last, ALL)[0])] == [last + 1]
        [newer] = await one.create(1)
        assert newer.key > live.key


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
        "queue_position", "usage", "runtime", "message_count", "last_error_code", "queued_turn_ids",
        "approval_policy", "sandbox_mode", "pending_approvals",
    }  # fmt: skip


def test_ids_cannot_be_guessed_and_fit_a_path_segment() -> None:
    ids = {new_id("s") for _ in range(1000)}
    assert len(ids) == 1000
    for name in ids:
        assert len(name) == 24
        assert name.startswith("s_")
        assert name.replace("-", "").replace("_", "").isalnum()


async def spoil(one: Stored, sql: str, *values: object) -> None:
    """Damage rows."""

    def write(connection: Connection) -> None:
        connection.execute(sql, values)

    await one.database.commit(write)


DAMAGES = {
    "no JSON": "UPDATE sessions SET state = x'7b22' WHERE id = ?",
    "another word": "UPDATE sessions SET state = CAST(replace(state, '\"idle\"', '\"idlf\"') AS BLOB) WHERE id = ?",
    "a name is gone": "UPDATE sessions SET state = CAST(replace(state, 'workspace_root', 'x') AS BLOB) WHERE id = ?",
    "no text": "UPDATE messages SET text = CAST(x'ff' AS TEXT) WHERE session_key = (SELECT key FROM sessions WHERE id = ?)",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@on_loop
async def test_a_damaged_session_is_left_out_told_and_deleted(tmp_path: Path, damage: str) -> None:
    async with stored(tmp_path) as one:
        session_id = await fill(one)
        names = [live.session.id for live in await one.create(2)]
    async with stored(tmp_path) as one:
        await spoil(one, damage, session_id)
        assert [name for page in await pages(one.sessions, 1) for name in page] == names[::-1]
        told = one.database.describe_state()
        assert told["state"] == "failing"
        assert session_id in told["problem"]
        for _ in range(2):
            with pytest.raises(StoreDamaged) as caught:
                await one.sessions.get(session_id)
            assert caught.value.message == told["problem"]
        assert (await one.sessions.get(names[0])).session.id == names[0]
        deleted: list[None] = []
        one.sessions.on_delete = lambda: deleted.append(None)
        assert await one.sessions.delete_row(session_id) is None
        assert len(one.sessions) == 2
        assert deleted == [None]
        for attempt in (one.sessions.delete_row, one.sessions.get):
            with pytest.raises(NotFound):
                await attempt(session_id)
    async with stored(tmp_path) as one:
        assert len(one.sessions) == 2


@on_loop
async def test_a_session_is_deleted_without_being_read(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        names = [live.session.id for live in await one.create(3)]
    async with stored(tmp_path) as one:
        assert not one.sessions.is_loaded(names[0])
        gone = await asyncio.gather(
            *(one.sessions.delete_row(names[0]) for _ in range(3)), return_exceptions=True
        )
        assert [type(each) for each in gone] == [type(None), NotFound, NotFound]
        assert (len(one.sessions), one.sessions.loaded()) == (2, [])
        # One in memory is given to the caller, also when it was read in this very moment.
        live = await one.sessions.get(names[1])
        assert one.sessions.is_loaded(names[1])
        assert await one.sessions.delete_row(names[1]) is live
        read, deleted = await asyncio.gather(
            one.sessions.get(names[2]), one.sessions.delete_row(names[2]), return_exceptions=True
        )
        if isinstance(read, LiveSession):
            assert deleted is read and read.is_deleted
        else:
            # Read only after it was gone, since two threads do the two.
            assert isinstance(read, NotFound) and deleted is None
        assert live.is_deleted
        assert len(one.sessions) == 0


@on_loop
async def test_a_session_that_is_read_while_all_are_deleted_is_gone(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        session_id = await fill(one)
    async with stored(tmp_path) as one:
        entered, gate = threading.Event(), threading.Event()

        def hold(sql: str) -> None:
            # The row was found; what belongs to it is still to be read.
            if "FROM messages" in sql:
                entered.set()
                assert gate.wait(BOUND_S)

        def trace_reader(connection: Any) -> None:
            connection.set_trace_callback(hold)

        await one.database.read(trace_reader)
        reading = asyncio.create_task(one.sessions.get(session_id))
        await until(entered.is_set)
        assert await one.sessions.delete_all() == (1, [])
        gate.set()
        with pytest.raises(NotFound):
            await reading
        assert (len(one.sessions), one.sessions.loaded()) == (0, [])
        with pytest.raises(NotFound):
            await one.sessions.get(session_id)


TOGETHER: dict[str, Callable[[Stored, LiveSession, str], list[Coroutine[Any, Any, object]]]] = {
    "creates first": lambda one, live, name: [one.create(1), one.sessions.delete_all()],
    "creates last": lambda one, live, name: [one.sessions.delete_all(), one.create(1)],
    "deletes one first": lambda one, live, name: [one.sessions.delete(live), one.sessions.delete_all()],
    "deletes one last": lambda one, live, name: [one.sessions.delete_all(), one.sessions.delete(live)],
    "deletes one unread": lambda one, live, name: [one.sessions.delete_row(name), one.sessions.delete_all()],
}


@pytest.mark.parametrize("together", TOGETHER.values(), ids=TOGETHER)
@on_loop
async def test_sessions_are_counted_right_when_all_are_deleted_meanwhile(
    tmp_path: Path, together: Callable[[Stored, LiveSession, str], list[Coroutine[Any, Any, object]]]
) -> None:
    async with stored(tmp_path) as one:
        names = [live.session.id for live in await one.create(3)]
    async with stored(tmp_path) as one:
        live = await one.sessions.get(names[0])
        outcomes = await asyncio.gather(*together(one, live, names[1]), return_exceptions=True)
        assert all(not isinstance(each, Exception) or isinstance(each, NotFound) for each in outcomes)
        assert len(one.sessions) == await one.database.read(rows.count())
        assert [live.key for live in one.sessions.loaded()] == [4] * len(one.sessions)


@on_loop
async def test_what_a_failing_store_did_not_take_is_stored_in_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_file, "STORE_LOCK_WAIT_S", 0.05)
    monkeypatch.setattr(database_module, "STORE_RETRY_S", 0.02)
    async with stored(tmp_path) as one:
        [live] = await one.create(1)
        with closing(sqlite3.connect(one.database.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            live.session.status = SessionStatus.RUNNING
            one.recorder.add(live)
            one.recorder.flush(live)
            await asyncio.sleep(0)  # it is on its way
            live.session.status = SessionStatus.IDLE
            one.recorder.add(live)
            one.recorder.flush(live)
            # The loop is busy just when the disk refuses the first: it learns of that with the second on its way.
            while one.database.describe_state()["state"] == "ok":
                pass
            other.execute("ROLLBACK")
        await one.recorder.settle()
        await until(lambda: one.database.describe_state()["state"] == "ok")
        row = await one.database.read(rows.select(live.session.id))
        assert row is not None
        assert row.state["status"] == "idle"
