"""What the store promises of each of its tables, and that none of its statements walks through a whole one."""

import asyncio
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from codex_bridge.adapters.database import Connection, Cursor, Database, Write
from codex_bridge.errors import StoreDamaged, StoreFailed
from codex_bridge.limits import MAX_PAGE_CHARACTERS
from codex_bridge.model import Message, Role
from codex_bridge.store import (
    approvals,
    events,
    idempotency,
    items,
    messages,
    meta,
    retention,
    sessions,
    turns,
)
from codex_bridge.store.approvals import ApprovalRow
from codex_bridge.store.idempotency import IdempotencyRow
from codex_bridge.store.turns import TurnRow
from tests.unit.loop import on_loop
from tests.unit.store import frames, opened, session

MANY = 1 << 40


async def with_sessions(database: Database, *keys: int) -> None:
    await database.commit(*(sessions.insert(session(key)) for key in keys))


class TestSessions:
    @on_loop
    async def test_a_session_comes_back_as_it_was(self, tmp_path: Path) -> None:
        row = session(7, state={"a": [1, None, {"b": "\u00e9"}], "c": 1.5}, epoch="ab", seq=12)
        async with opened(tmp_path) as database:
            await database.commit(sessions.insert(row))
            assert await database.read(sessions.select("s_7")) == row
            assert await database.read(sessions.select_key("s_7")) == 7
            assert await database.read(sessions.select("s_8")) is None
            assert await database.read(sessions.select_key("s_8")) is None

    @on_loop
    async def test_an_update_changes_what_changes(self, tmp_path: Path) -> None:
        changed = session(1, epoch="e2", seq=5, updated_at=9999, state={"x": 1})
        async with opened(tmp_path) as database:
            await with_sessions(database, 1, 2)
            await database.commit(sessions.update(changed), sessions.update(session(3)))
            assert await database.read(sessions.select("s_1")) == changed
            assert await database.read(sessions.select("s_2")) == session(2)
            assert await database.read(sessions.select("s_3")) is None

    @on_loop
    async def test_what_is_stored_is_the_state_of_that_moment(self, tmp_path: Path) -> None:
        state: dict[str, Any] = {"n": 1}
        async with opened(tmp_path) as database:
            write = sessions.insert(session(1, state=state))
            state["n"] = 2
            await database.commit(write)
            found = await database.read(sessions.select("s_1"))
            assert found is not None
            assert found.state == {"n": 1}

    @on_loop
    async def test_pages_are_newest_first(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, *range(1, 8))
            for limit in (1, 2, 3, 7, 100):
                found: list[str] = []
                before: int | None = None
                while page := await database.read(sessions.select_page(limit, before)):
                    assert len(page) <= limit
                    found += page
                    before = await database.read(sessions.select_key(found[-1]))
                assert found == [f"s_{key}" for key in range(7, 0, -1)]

    @on_loop
    async def test_a_key_is_never_used_again(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            assert await database.read(sessions.last_key()) == 0
            await with_sessions(database, 1, 2, 3)
            await database.commit(sessions.delete(3))
            assert await database.read(sessions.last_key()) == 3
            await database.commit(sessions.delete_all())
            assert await database.read(sessions.last_key()) == 3
        async with opened(tmp_path) as database:
            assert await database.read(sessions.last_key()) == 3
            assert await database.read(sessions.count()) == 0

    @on_loop
    async def test_a_deleted_session_is_gone_at_once(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 1, 2, 3)
            await database.commit(sessions.delete(2))
            assert await database.read(sessions.select("s_2")) is None
            assert await database.read(sessions.count()) == 2
            assert await database.read(sessions.select_page(9)) == ["s_3", "s_1"]
            await database.commit(sessions.delete_all())
            assert await database.read(sessions.count()) == 0

    @on_loop
    async def test_an_id_is_taken_once(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 1)
            with pytest.raises(StoreFailed, match="UNIQUE"):
                await database.commit(sessions.insert(session(2, id="s_1")))


class TestMessages:
    @on_loop
    async def test_messages_come_back_in_their_order(self, tmp_path: Path) -> None:
        first = Message("m_1", Role.USER, "\u00e9 \x00 \U0001f600", "t_1", 5, ({"name": "a.png", "n": 1},))
        second = Message("m_2", Role.ASSISTANT, "", "t_1", 6, (), incomplete=True)
        third = Message("m_3", Role.USER, "x" * 100_000, "t_2", 7)
        async with opened(tmp_path) as database:
            await with_sessions(database, 1, 2)
            await database.commit(
                messages.insert(1, 2, third), messages.insert(1, 0, first), messages.insert(2, 0, second)
            )
            await database.commit(messages.insert(1, 1, second))
            assert await database.read(messages.select(1)) == [first, second, third]
            assert await database.read(messages.select(2)) == [second]
            assert await database.read(messages.select(3)) == []
            assert await database.read(messages.select_newest(1, 2)) == [second, third]
            assert await database.read(messages.select_newest(1, 9)) == [first, second, third]

    @on_loop
    async def test_half_a_surrogate_pair_does_not_refuse_a_message(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 1)
            await database.commit(messages.insert(1, 0, Message("m", Role.USER, "a\ud800b", "t", 1)))
            assert (await database.read(messages.select(1)))[0].text == "a?b"

    @on_loop
    async def test_one_is_deleted(self, tmp_path: Path) -> None:
        one, other = (Message(name, Role.USER, name, "t", 1) for name in ("m_1", "m_2"))
        async with opened(tmp_path) as database:
            await with_sessions(database, 1, 2)
            await database.commit(
                messages.insert(1, 0, one), messages.insert(1, 1, other), messages.insert(2, 0, one)
            )
            assert await database.read(messages.next_position(1)) == 2
            assert await database.read(messages.next_position(3)) == 0


class TestItems:
    @on_loop
    async def test_pages_of_a_session_and_of_a_turn(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 1, 2)
            for number in range(10):
                item = {"id": f"i_{number}", "type": "commandExecution", "n": number}
                await database.commit(items.insert(1, f"t_{number % 2}", item, 100 + number), sync=False)
            await database.commit(items.insert(2, "t_0", {"id": "i_0"}, 1))
            for turn_id, expected in ((None, list(range(10))), ("t_1", [1, 3, 5, 7, 9]), ("t_9", [])):
                found, after, has_more = [], None, True
                while has_more:
                    page, has_more = await database.read(items.select_page(1, 3, after, turn_id))
                    assert len(page) == 3 or (len(page) < 3 and not has_more)
                    found += page
                    after = page[-1].position if page else None
                assert [row.item["n"] for row in found] == expected
                assert [(row.turn_id, row.created_at) for row in found] == [
                    (f"t_{number % 2}", 100 + number) for number in expected
                ]

    @on_loop
    async def test_a_page_of_large_items_ends_early(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 1)
            for number in range(5):
                size = 10 if number == 3 else MAX_PAGE_CHARACTERS // 2
                await database.commit(items.insert(1, "t", {"id": f"{number}", "text": "x" * size}, 1))
            page, has_more = await database.read(items.select_page(1, 50))
            assert ([row.item["id"] for row in page], has_more) == (["0", "1"], True)
            page, has_more = await database.read(items.select_page(1, 50, page[-1].position))
            assert ([row.item["id"] for row in page], has_more) == (["2", "3", "4"], False)

    @on_loop
    async def test_an_item_that_comes_again_takes_its_place(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 1)
            await database.commit(items.insert(1, "t", {"id": "a", "n": 1}, 5))
            await database.commit(items.insert(1, "t", {"id": "b", "n": 1}, 6))
            await database.commit(items.insert(1, "t", {"id": "a", "n": 2}, 7))
            await database.commit(items.insert(1, "u", {"id": "a", "n": 3}, 8))
            page, has_more = await database.read(items.select_page(1, 9))
            assert not has_more
            assert [(row.turn_id, row.item) for row in page] == [
                ("t", {"id": "a", "n": 2}), ("t", {"id": "b", "n": 1}), ("u", {"id": "a", "n": 3}),
            ]  # fmt: skip


class TestEvents:
    async def fill(self, database: Database) -> list[bytes]:
        """Store thirty events in chunks of several sizes, beside those of another session."""
        entries = frames("e1", 1, 30)
        await with_sessions(database, 1, 2)
        first = 1
        for size in (1, 4, 10, 2, 13):
            database.post(events.insert_chunk(1, "e1", first, entries[first - 1 : first - 1 + size]))
            database.post(events.insert_chunk(2, "e1", first, frames("e1", first, first + size - 1, 99)))
            first += size
        await database.commit()
        return entries

    @on_loop
    async def test_a_reader_gets_what_is_behind_any_number(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            entries = await self.fill(database)
            for seq in range(31):
                found = await database.read(events.select_after(1, "e1", seq, MANY))
                assert found == (entries[seq:], 30)

    @on_loop
    async def test_in_pieces(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            entries = await self.fill(database)
            size = len(entries[0])
            for max_bytes in (1, size, size + 1, 5 * size, 1000):
                seq, pieces = 0, []
                while found := await database.read(events.select_after(1, "e1", seq, max_bytes)):
                    if not found[0]:
                        break
                    assert sum(map(len, found[0])) < max_bytes + 2 * size
                    assert found[1] == seq + len(found[0])
                    pieces += found[0]
                    seq = found[1]
                assert pieces == entries

    @on_loop
    async def test_what_is_not_all_there_is_none(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await self.fill(database)
            for key, epoch, seq in ((1, "e1", 31), (1, "e2", 0), (3, "e1", 0), (1, "e1", -1)):
                assert await database.read(events.select_after(key, epoch, seq, MANY)) is None

    @on_loop
    async def test_a_gap_is_never_silent(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 1)
            for first, last in ((1, 3), (4, 6), (8, 9), (10, 12)):
                await database.commit(
                    events.insert_chunk(1, "e1", first, frames("e1", first, last)), sync=False
                )
            for seq in range(7):
                assert await database.read(events.select_after(1, "e1", seq, MANY)) is None, seq
            for seq in range(7, 13):
                found = await database.read(events.select_after(1, "e1", seq, MANY))
                assert found == (frames("e1", seq + 1, 12), 12)

    @on_loop
    async def test_a_beginning_that_was_deleted_is_a_gap(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            entries = await self.fill(database)
            chunks, _ = await database.read(retention.select_old_chunks(0, 1, 2, 10, 0, 0))
            await database.commit(retention.delete_chunks(chunks))
            for seq in range(5):
                assert await database.read(events.select_after(1, "e1", seq, MANY)) is None
            assert await database.read(events.select_after(1, "e1", 5, MANY)) == (entries[5:], 30)

    @on_loop
    async def test_a_chunk_that_was_stored_twice_is_read_once(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 1)
            for first, last in ((1, 3), (1, 3), (2, 5), (4, 7)):
                await database.commit(
                    events.insert_chunk(1, "e1", first, frames("e1", first, last)), sync=False
                )
            for seq in range(8):
                found = await database.read(events.select_after(1, "e1", seq, MANY))
                assert found == (frames("e1", seq + 1, 7), 7)

    @on_loop
    async def test_an_epoch_ends_where_the_next_one_begins(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 1)
            for epoch, first, last in (("e1", 1, 5), ("e1", 6, 7), ("e2", 1, 4), ("e2", 5, 9)):
                await database.commit(
                    events.insert_chunk(1, epoch, first, frames(epoch, first, last)), sync=False
                )
            assert await database.read(events.select_after(1, "e1", 5, MANY)) == (frames("e1", 6, 7), 7)
            assert await database.read(events.select_after(1, "e2", 3, MANY)) == (frames("e2", 4, 9), 9)
            newest = frames("e1", 1, 7) + frames("e2", 1, 9)
            for count in (1, 5, 6, 10, 16, 99):
                assert await database.read(events.select_newest(1, count)) == newest[-count:]
            assert await database.read(events.select_newest(2, 5)) == []

    @on_loop
    async def test_what_an_event_holds_does_not_matter(self, tmp_path: Path) -> None:
        entries = [b"id: e-1\ndata: \\n\\n \xc3\xa9\n\n", b"id: e-2\ndata: a\ndata: \ndata: b\n\n", b": \n\n"]
        entries.append(b"data: " + b"z" * 3_000_000 + b"\n\n")
        async with opened(tmp_path) as database:
            await with_sessions(database, 1)
            await database.commit(events.insert_chunk(1, "e", 1, entries))
            assert await database.read(events.select_after(1, "e", 0, MANY)) == (entries, 4)

    @pytest.mark.parametrize("data", [b"no deflated bytes", zlib.compress(frames("e1", 1, 1)[0])])
    @on_loop
    async def test_a_chunk_that_is_damaged_is_a_gap(self, tmp_path: Path, data: bytes) -> None:
        def damage(connection: Connection) -> None:
            connection.execute("UPDATE events SET data = ? WHERE session_key = 1 AND first_seq = 6", (data,))

        async with opened(tmp_path) as database:
            entries = await self.fill(database)
            await database.commit(damage)
            assert await database.read(events.select_after(1, "e1", 2, MANY)) is None
            assert await database.read(events.select_after(1, "e1", 15, MANY)) == (entries[15:], 30)
            assert await database.read(events.select_newest(1, 99)) == entries[:5] + entries[15:]


class TestTurns:
    @on_loop
    async def test_unfinished_ones_in_the_order_of_their_coming(self, tmp_path: Path) -> None:
        rows = [
            TurnRow(f"t_{name}", 1 + number % 2, "queued", {"text": name}, 100 - number)
            for number, name in enumerate("zbyax")
        ]
        async with opened(tmp_path) as database:
            await with_sessions(database, 1, 2)
            for row in rows:
                await database.commit(turns.insert(row), sync=False)
            assert await database.read(turns.select_unfinished()) == rows
            await database.commit(
                turns.update("t_b", "running", started_at=7),
                turns.update("t_z", "completed", started_at=7, ended_at=8),
                turns.update("t_x", "failed", ended_at=9, error={"code": "x"}),
            )
            found = await database.read(turns.select_unfinished())
            assert [(row.id, row.status, row.started_at) for row in found] == [
                ("t_b", "running", 7), ("t_y", "queued", None), ("t_a", "queued", None),
            ]  # fmt: skip
            assert found[0].request == {"text": "b"}

    @on_loop
    async def test_what_an_end_leaves(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 1)
            await database.commit(turns.insert(TurnRow("t", 1, "queued", {"text": "a"}, 1)))
            await database.commit(turns.update("t", "running", started_at=2))
            await database.commit(turns.update("t", "interrupted", ended_at=3, error={"code": "c"}))

            def query(connection: Connection) -> tuple[Any, ...]:
                sql = "SELECT status, request, started_at, ended_at, error FROM turns WHERE id = 't'"
                found: tuple[Any, ...] = connection.execute(sql).fetchone()
                return found

            assert await database.read(query) == ("interrupted", None, 2, 3, b'{"code":"c"}')

    @on_loop
    async def test_those_of_a_deleted_session_are_not_taken_up_again(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 1, 2)
            await database.commit(
                turns.insert(TurnRow("t_1", 1, "running", None, 1)),
                turns.insert(TurnRow("t_2", 2, "queued", {}, 1)),
            )
            await database.commit(sessions.delete(1))
            assert [row.id for row in await database.read(turns.select_unfinished())] == ["t_2"]


class TestApprovals:
    ROW = ApprovalRow("a_1", 1, "t_1", "pending", {"kind": "command", "decisions": ["accept"]}, None, None, 5)

    @on_loop
    async def test_an_approval_from_its_beginning_to_its_end(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 1, 2)
            await database.commit(approvals.insert(self.ROW))
            assert await database.read(approvals.select(1, "a_1")) == self.ROW
            assert await database.read(approvals.select(2, "a_1")) is None
            assert await database.read(approvals.select(1, "a_2")) is None
            assert await database.read(approvals.select_pending(1)) == [self.ROW]
            await database.commit(approvals.settle("a_1", "accepted", "accept", "why", 9))
            settled = ApprovalRow("a_1", 1, "t_1", "accepted", self.ROW.approval, "accept", "why", 5, 9)
            assert await database.read(approvals.select(1, "a_1")) == settled
            assert await database.read(approvals.select_pending(1)) == []
            # The first answer counts.
            await database.commit(approvals.settle("a_1", "declined", "decline", None, 10))
            assert await database.read(approvals.select(1, "a_1")) == settled

    @on_loop
    async def test_pending_ones_are_found_in_their_order(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            await with_sessions(database, 1)
            for name, turn_id in (("z", "t_1"), ("b", "t_1"), ("c", "t_2")):
                row = ApprovalRow(name, 1, turn_id, "pending", {}, None, None, 5)
                await database.commit(approvals.insert(row), sync=False)
            assert [row.id for row in await database.read(approvals.select_pending(1))] == ["z", "b", "c"]


class TestIdempotency:
    @on_loop
    async def test_the_first_answer_is_given_again(self, tmp_path: Path) -> None:
        row = IdempotencyRow("POST /a", "k\u00e9", b"\x00\xff", 202, b'{"ok":true}', 5)
        other = IdempotencyRow("POST /b", "k\u00e9", b"1", 201, b"", 6)
        async with opened(tmp_path) as database:
            await database.commit(idempotency.insert(row), idempotency.insert(other))
            assert await database.read(idempotency.select("POST /a", "k\u00e9")) == row
            assert await database.read(idempotency.select("POST /b", "k\u00e9")) == other
            assert await database.read(idempotency.select("POST /c", "k\u00e9")) is None

    @on_loop
    async def test_of_two_at_once_one_is_stored(self, tmp_path: Path) -> None:
        rows = [IdempotencyRow("a", "k", digest, 202, b"", 5) for digest in (b"1", b"2")]
        async with opened(tmp_path) as database:
            commits = [
                database.commit(idempotency.insert(row), meta.set(str(row.digest), "x")) for row in rows
            ]
            outcomes = await asyncio.gather(*commits, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [type(None), StoreFailed]
            assert await database.read(idempotency.select("a", "k")) == rows[0]
            assert await database.read(meta.get("b'2'")) is None


class TestMeta:
    @on_loop
    async def test_a_value_is_kept_and_replaced(self, tmp_path: Path) -> None:
        async with opened(tmp_path) as database:
            assert await database.read(meta.get("stopped")) is None
            await database.commit(meta.set("stopped", "1"))
            await database.commit(meta.set("stopped", "2"))
            assert await database.read(meta.get("stopped")) == "2"


@on_loop
async def test_of_a_deleted_session_nothing_is_stored_any_more(tmp_path: Path) -> None:
    message = Message("m", Role.USER, "a", "t", 1)
    late = [
        messages.insert(1, 0, message), items.insert(1, "t", {"id": "i"}, 1), turns.insert(TurnRow("t", 1, "queued", {}, 1)),
        approvals.insert(TestApprovals.ROW), events.insert_chunk(1, "e1", 1, frames("e1", 1, 3)),
    ]  # fmt: skip
    tables = ("messages", "items", "turns", "approvals", "events")

    def count(connection: Connection) -> list[int]:
        return [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]

    async with opened(tmp_path) as database:
        await with_sessions(database, 1)
        await database.commit(*late)
        assert await database.read(count) == [1] * 5
        await database.commit(sessions.delete(1))
        await database.commit(retention.clear_garbage(100, MANY))
        assert await database.read(count) == [0] * 5
        database.post(*late)
        await database.commit()
        assert await database.read(count) == [0] * 5


@on_loop
async def test_a_damaged_row_is_told_as_such_and_harms_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with opened(tmp_path) as database:
        await with_sessions(database, 1, 2)
        assert database.describe_state()["state"] == "ok"
        await database.commit(change("UPDATE sessions SET state = x'7b22' WHERE key = 1"))
        for _ in range(3):
            with pytest.raises(StoreDamaged, match="damaged") as caught:
                await database.read(sessions.select("s_1"))
        assert (caught.value.status, caught.value.headers) == (500, ())
        assert await database.read(sessions.select("s_2")) == session(2)
        assert database.describe_state() == {"state": "failing", "problem": caught.value.message}
    assert capsys.readouterr().err.count("damaged in a place") == 1


@on_loop
async def test_a_text_that_is_none_is_a_damage_and_not_quoted(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        await with_sessions(database, 1)
        await database.commit(messages.insert(1, 0, Message("m", Role.USER, "a", "t", 1)))
        await database.commit(change("UPDATE messages SET text = CAST(x'736563726574ff' AS TEXT)"))
        with pytest.raises(StoreDamaged) as caught:
            await database.read(messages.select(1))
        assert "secret" not in caught.value.message


@on_loop
async def test_a_turn_whose_request_is_damaged_is_found_without_it(tmp_path: Path) -> None:
    async with opened(tmp_path) as database:
        await with_sessions(database, 1)
        rows = [TurnRow(name, 1, "queued", {"text": name}, 1) for name in ("t_1", "t_2")]
        await database.commit(*map(turns.insert, rows))
        await database.commit(change("UPDATE turns SET request = x'7b22' WHERE id = 't_1'"))
        damaged, whole = await database.read(turns.select_unfinished())
        assert whole == rows[1]
        assert (damaged.id, damaged.request) == ("t_1", None)
        assert damaged.damage is not None
        assert "t_1" in damaged.damage.message


def change(sql: str) -> Write:
    """Return a write that runs a statement."""

    def write(connection: Connection) -> None:
        connection.execute(sql)

    return write


class Noting:
    """A connection that notes how SQLite goes about each statement."""

    def __init__(self, connection: Connection, plans: list[str]) -> None:
        self._connection = connection
        self._plans = plans

    def _explain(self, sql: str, parameters: Sequence[Any]) -> None:
        if not sql.startswith("PRAGMA"):
            found = self._connection.execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall()
            self._plans += [row[3] for row in found]

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Cursor:
        self._explain(sql, parameters)
        return self._connection.execute(sql, parameters)

    def executemany(self, sql: str, parameters: Sequence[Sequence[Any]], /) -> Cursor:
        for row in parameters[:1]:
            self._explain(sql, row)
        return self._connection.executemany(sql, parameters)


HOT = {
    "sessions.insert": sessions.insert(session(9)),
    "sessions.update": sessions.update(session(1)),
    "sessions.select": sessions.select("s_1"),
    "sessions.select_key": sessions.select_key("s_1"),
    "sessions.select_page": sessions.select_page(50, 9),
    "sessions.delete": sessions.delete(1),
    "messages.insert": messages.insert(1, 1, Message("m", Role.USER, "a", "t", 1)),
    "messages.select": messages.select(1),
    "messages.select_newest": messages.select_newest(1, 5),
    "messages.next_position": messages.next_position(1),
    "items.insert": items.insert(1, "t", {"id": "i"}, 1),
    "items.select_page": items.select_page(1, 50, 5),
    "items.select_page of a turn": items.select_page(1, 50, 5, "t"),
    "events.insert_chunk": events.insert_chunk(1, "e1", 1, frames("e1", 1, 2)),
    "events.select_after": events.select_after(1, "e1", 0, 10_000),
    "events.select_newest": events.select_newest(1, 40),
    "events.select_stored": events.select_stored(1, "e1", 0),
    "events.has_all_after": events.has_all_after(1, "e1", 0, 1),
    "turns.insert": turns.insert(TurnRow("t_9", 1, "queued", {}, 1)),
    "turns.update": turns.update("t_1", "running"),
    "approvals.insert": approvals.insert(TestApprovals.ROW),
    "approvals.settle": approvals.settle("a_1", "accepted", None, None, 1),
    "approvals.select": approvals.select(1, "a_1"),
    "approvals.select_pending": approvals.select_pending(1),
    "idempotency.insert": idempotency.insert(IdempotencyRow("a", "k", b"", 200, b"", 1)),
    "idempotency.select": idempotency.select("a", "k"),
    "meta.get": meta.get("a"),
    "meta.set": meta.set("a", "b"),
    "retention.select_least_used": retention.select_least_used(50, retention.Unused(1, 1, "")),
    "retention.select_old_chunks": retention.select_old_chunks(0, 50, 50, 1, 1, 1),
    "retention.delete_chunks": retention.delete_chunks([1]),
    "retention.select_old_answers": retention.select_old_answers(9, 50),
    "retention.delete_answers": retention.delete_answers([1]),
}


@pytest.mark.parametrize("name", HOT)
@on_loop
async def test_no_statement_walks_through_a_table(tmp_path: Path, name: str) -> None:
    plans: list[str] = []
    outcome: list[Any] = []

    def noted(connection: Connection) -> None:
        outcome.append(HOT[name](Noting(connection, plans)))

    async with opened(tmp_path) as database:
        await with_sessions(database, 1, 2)
        await database.commit(
            events.insert_chunk(1, "e1", 1, frames("e1", 1, 5)),
            events.insert_chunk(1, "e1", 6, frames("e1", 6, 9)),
        )
        await database.commit(noted)
    assert outcome
    assert plans or name in ("sessions.insert", "idempotency.insert", "meta.set")  # plain ones have no plan
    assert [plan for plan in plans if plan.startswith("SCAN") and plan != "SCAN CONSTANT ROW"] == []
    assert [plan for plan in plans if "TEMP B-TREE" in plan] == []


@on_loop
async def test_the_unfinished_turns_are_found_without_the_others(tmp_path: Path) -> None:
    plans: list[str] = []
    async with opened(tmp_path) as database:
        await database.read(lambda connection: turns.select_unfinished()(Noting(connection, plans)))
    assert plans[0] == "SCAN turns USING INDEX turns_unfinished"
    assert [plan for plan in plans[1:] if plan.startswith("SCAN")] == []
