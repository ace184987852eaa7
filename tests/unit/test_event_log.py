"""The event log: numbers, gathering and merging of deltas, replay, bounds, followers."""

import asyncio
from typing import Any

import pytest

from codex_bridge.protocol import json_codec
from codex_bridge.services import events
from codex_bridge.services.events import EventLog
from tests.unit.loop import on_loop
from tests.unit.test_sse import parse

ALL = 10**9


def delta(text: str, item: str = "i", kind: str = "item.agent_message.delta") -> dict[str, Any]:
    return {"session_id": "s", "turn_id": "t", "event": {"type": kind, "item_id": item, "delta": text}}


def decode(data: bytes) -> list[tuple[int, str, Any]]:
    """Return (seq, name, data) of each event."""
    found = []
    for event in parse(data):
        _, _, seq = event["id"].partition("-")
        found.append((int(seq), event["event"], json_codec.decode(event["data"].encode())))
    return found


def deltas(data: bytes) -> list[tuple[int, str, str]]:
    return [(seq, value["event"]["item_id"], value["event"]["delta"]) for seq, _, value in decode(data)]


class Follower:
    """A reader that keeps what it is sent."""

    def __init__(self, seq: int, *, is_live: bool = True) -> None:
        self.seq = seq
        self.is_live = is_live
        self.reads_store = False
        self.writes: list[bytes] = []
        self.came = asyncio.Event()
        self.closed = 0
        self.cuts = 0

    def send(self, data: bytes, seq: int) -> None:
        self.writes.append(data)
        self.seq = seq
        self.came.set()

    def cut_off(self) -> None:
        self.cuts += 1

    def close(self) -> None:
        self.closed += 1

    @property
    def data(self) -> bytes:
        return b"".join(self.writes)


def follow(log: EventLog) -> Follower:
    """Add a live reader that has had all events so far."""
    log.flush()
    follower = Follower(log.seq)
    log.add(follower)
    return follower


def filled(count: int) -> EventLog:
    log = EventLog()
    for number in range(1, count + 1):
        log.append("n", {"number": number})
    return log


@on_loop
async def test_events_are_numbered_from_one_without_a_gap() -> None:
    log = filled(5)
    data, last = log.replay(0, ALL)
    assert [seq for seq, _, _ in decode(data)] == [1, 2, 3, 4, 5]
    assert [value["number"] for _, _, value in decode(data)] == [1, 2, 3, 4, 5]
    assert last == log.seq == 5


@on_loop
async def test_each_log_has_an_epoch_of_its_own() -> None:
    logs = [EventLog() for _ in range(20)]
    assert len({log.epoch for log in logs}) == 20
    assert not logs[0].can_replay(logs[1].epoch, 0)


@on_loop
async def test_deltas_of_one_moment_are_merged() -> None:
    log = EventLog()
    for text in ("a", "b", "c"):
        log.append_delta(delta(text))
    data, last = log.replay(0, ALL)
    assert deltas(data) == [(1, "i", "abc")]
    assert last == 1


@on_loop
async def test_only_neighbours_of_one_item_and_kind_are_merged() -> None:
    log = EventLog()
    log.append_delta(delta("a"))
    log.append_delta(delta("b"))
    log.append_delta(delta("c", "j"))
    log.append_delta(delta("d"))
    log.append_delta(delta("e", kind="item.reasoning.delta"))
    log.append_delta(delta("f", kind="item.reasoning.delta"))
    data, _ = log.replay(0, ALL)
    assert deltas(data) == [(1, "i", "ab"), (2, "j", "c"), (3, "i", "d"), (4, "i", "ef")]


@on_loop
async def test_an_event_between_deltas_keeps_its_place() -> None:
    log = EventLog()
    log.append_delta(delta("a"))
    log.append("x", {"n": 1})
    log.append_delta(delta("b"))
    data, _ = log.replay(0, ALL)
    assert [(seq, name) for seq, name, _ in decode(data)] == [
        (1, "session.event"),
        (2, "x"),
        (3, "session.event"),
    ]


@on_loop
async def test_a_delta_that_was_sent_is_never_changed() -> None:
    log = EventLog()
    follower = follow(log)
    log.append_delta(delta("a"))
    log.flush()
    log.append_delta(delta("b"))
    log.flush()
    assert deltas(follower.data) == [(1, "i", "a"), (2, "i", "b")]
    assert log.replay(0, ALL)[0] == follower.data


@on_loop
async def test_the_first_event_goes_out_in_the_same_turn_of_the_loop() -> None:
    log = EventLog()
    follower = follow(log)
    turn = asyncio.get_running_loop().create_future()
    log.append("n", {})
    asyncio.get_running_loop().call_soon(turn.set_result, None)
    await turn
    assert len(follower.writes) == 1


@on_loop
async def test_a_burst_is_one_write_for_each_follower() -> None:
    log = EventLog()
    first, second = follow(log), follow(log)
    for number in range(50):
        log.append("n", {"number": number})
    await first.came.wait()
    assert len(first.writes) == len(second.writes) == 1
    assert [seq for seq, _, _ in decode(first.data)] == list(range(1, 51))


@on_loop
async def test_what_follows_a_write_closely_is_gathered_and_still_comes() -> None:
    log = EventLog()
    follower = follow(log)
    log.append("n", {"number": 1})
    log.flush()
    follower.came.clear()
    for text in ("a", "b", "c"):
        log.append_delta(delta(text))
    await follower.came.wait()
    assert deltas(follower.writes[1]) == [(2, "i", "abc")]


@on_loop
async def test_an_event_is_encoded_once_for_all_its_readers() -> None:
    log = EventLog()
    followers = [follow(log) for _ in range(10)]
    log.append("n", {"number": 1})
    log.flush()
    assert len({id(follower.writes[0]) for follower in followers}) == 1
    assert log.replay(0, ALL)[0] == followers[0].writes[0]


@on_loop
async def test_a_follower_gets_what_comes_after_it_and_nothing_before() -> None:
    log = filled(3)
    log.append_delta(delta("before"))
    follower = follow(log)
    log.append("n", {"number": 5})
    log.flush()
    assert [seq for seq, _, _ in decode(follower.data)] == [5]
    log.remove(follower)
    log.append("n", {"number": 6})
    log.flush()
    assert [seq for seq, _, _ in decode(follower.data)] == [5]


@on_loop
async def test_one_follower_leaves_and_the_others_stay() -> None:
    log = EventLog()
    followers = [follow(log) for _ in range(3)]
    log.remove(followers[1])
    log.append("n", {})
    log.close()
    assert [len(follower.writes) for follower in followers] == [1, 0, 1]
    assert [follower.closed for follower in followers] == [1, 0, 1]


@on_loop
async def test_replay_and_follow_join_without_gap_or_double() -> None:
    log = filled(4)
    log.append_delta(delta("a"))
    data, last = log.replay(2, ALL)
    follower = follow(log)
    log.append_delta(delta("b"))
    log.append("n", {"number": 7})
    log.flush()
    assert last == 5
    assert [seq for seq, _, _ in decode(data + follower.data)] == [3, 4, 5, 6, 7]


@on_loop
async def test_replay_gives_pieces_of_about_the_size_asked_for() -> None:
    log = filled(10)
    size = len(log.replay(0, 1)[0])
    seq, seen = 0, []
    while True:
        data, seq = log.replay(seq, 3 * size)
        if not data:
            break
        found = [number for number, _, _ in decode(data)]
        assert len(found) in (1, 3)
        seen += found
    assert seen == list(range(1, 11))


def bounded(monkeypatch: pytest.MonkeyPatch, entries: int) -> EventLog:
    """Return a log that keeps about this many entries, filled to its bound."""
    log = filled(1)
    size = len(log.replay(0, ALL)[0])
    monkeypatch.setattr(events, "MAX_LOG_BYTES", entries * size)
    monkeypatch.setattr(events, "MAX_IDLE_LOG_BYTES", 2 * size)
    monkeypatch.setattr(events, "MIN_LOG_EVENTS", 1)
    monkeypatch.setattr(events, "LOG_REST_S", 0)
    for number in range(2, 9):
        log.append("n", {"number": number})
    return log


def test_the_log_is_bounded_and_knows_what_it_can_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    @on_loop
    async def main() -> None:
        log = bounded(monkeypatch, 3)
        assert [log.can_replay(log.epoch, seq) for seq in range(-1, 11)] == (
            [False] * 6 + [True] * 4 + [False] * 2
        )
        assert [seq for seq, _, _ in decode(log.replay(5, ALL)[0])] == [6, 7, 8]
        assert log.replay(8, ALL) == (b"", 8)
        assert not log.can_replay("other", 7)

    main()


async def turn_of_the_loop() -> None:
    """Wait until what the loop has to do now and at once is done."""
    for _ in range(3):
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0, future.set_result, None)
        await future


def test_a_log_that_rests_keeps_the_little_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    @on_loop
    async def main() -> None:
        log = bounded(monkeypatch, 5)
        follower = follow(log)
        log.append("n", {"number": 9})
        log.rest()
        await turn_of_the_loop()
        assert [seq for seq, _, _ in decode(follower.data)] == [9]
        assert [seq for seq, _, _ in decode(log.replay(7, ALL)[0])] == [8, 9]
        assert not log.can_replay(log.epoch, 6)

    main()


def test_a_log_that_goes_on_does_not_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    @on_loop
    async def main() -> None:
        log = bounded(monkeypatch, 5)
        log.rest()
        log.append("n", {"number": 9})
        await turn_of_the_loop()
        assert log.can_replay(log.epoch, 5)

    main()


def test_the_newest_events_stay_whatever_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    @on_loop
    async def main() -> None:
        log = bounded(monkeypatch, 3)
        monkeypatch.setattr(events, "MIN_LOG_EVENTS", 2)
        for number in range(9, 13):
            log.append("n", {"large": "x" * 10_000, "number": number})
        assert [seq for seq, _, _ in decode(log.replay(10, ALL)[0])] == [11, 12]
        assert not log.can_replay(log.epoch, 9)

    main()


def test_a_reader_that_fell_behind_the_log_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    @on_loop
    async def main() -> None:
        log = bounded(monkeypatch, 3)
        behind, near, live = Follower(5, is_live=False), Follower(7, is_live=False), Follower(8)
        for reader in (behind, near, live):
            log.add(reader)
        log.append("n", {"number": 9})
        log.flush()
        assert [reader.cuts for reader in (behind, near, live)] == [1, 0, 0]
        assert [len(reader.writes) for reader in (behind, near, live)] == [0, 0, 1]
        assert live.seq == 9

    main()


def test_a_follower_gets_events_that_the_log_dropped_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    @on_loop
    async def main() -> None:
        log = bounded(monkeypatch, 2)
        follower = follow(log)
        for number in range(9, 20):
            log.append("n", {"number": number})
        log.flush()
        assert [seq for seq, _, _ in decode(follower.data)] == list(range(9, 20))

    main()


def test_replay_from_the_edge_gives_no_wrong_event_when_an_open_delta_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @on_loop
    async def main() -> None:
        log = bounded(monkeypatch, 3)
        log.append_delta(delta("x" * 10))
        # The open delta is encoded now and pushes the oldest entry out.
        assert log.replay(5, ALL) is None

    main()


@on_loop
async def test_close_tells_what_is_left_and_ends_each_follower() -> None:
    log = EventLog()
    follower = follow(log)
    log.append_delta(delta("last words"))
    log.close()
    assert deltas(follower.data) == [(1, "i", "last words")]
    assert follower.closed == 1
    assert log.is_closed


@on_loop
async def test_flushing_an_empty_log_writes_nothing() -> None:
    log = EventLog()
    follower = follow(log)
    log.flush()
    log.rest()
    assert follower.writes == []
    assert log.replay(0, ALL) == (b"", 0)
    assert log.can_replay(log.epoch, 0)


@on_loop
async def test_what_is_held_reaches_nobody_before_its_release() -> None:
    log = filled(2)
    live, late = follow(log), Follower(0, is_live=False)
    log.append("n", {"number": 3})
    log.hold()
    log.append("n", {"number": 4})
    log.hold()
    log.append_delta(delta("5"))
    log.flush()
    log.release()
    assert [seq for seq, _, _ in decode(live.data)] == [3]
    assert (log.seq, log.told_seq) == (5, 3)
    assert not log.can_replay(log.epoch, 4)
    data, late.seq = log.replay(0, ALL)
    assert late.seq == 3
    late.is_live = True
    log.add(late)
    log.append("n", {"number": 6})
    log.release()
    assert [seq for seq, _, _ in decode(live.data)] == [3, 4, 5, 6]
    assert [seq for seq, _, _ in decode(data + late.data)] == [1, 2, 3, 4, 5, 6]
    assert log.can_replay(log.epoch, 4)


@on_loop
async def test_events_are_taken_for_the_store_once_and_in_order() -> None:
    log = EventLog()
    calls: list[bool] = []
    log.on_unstored = calls.append
    assert log.take_unstored() is None
    log.append("n", {"number": 1})
    log.append_delta(delta("2"))
    first, entries = log.take_unstored() or (0, [])
    assert first == 1
    assert [seq for seq, _, _ in decode(b"".join(entries))] == [1, 2]
    assert log.take_unstored() is None
    log.append("n", {"number": 3})
    first, entries = log.take_unstored() or (0, [])
    assert (first, [seq for seq, _, _ in decode(b"".join(entries))]) == (3, [3])
    assert calls == [False, False]


def test_much_that_is_not_stored_is_told_before_it_could_be_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    @on_loop
    async def main() -> None:
        monkeypatch.setattr(events, "MAX_UNSTORED_BYTES", 300)
        monkeypatch.setattr(events, "MAX_LOG_BYTES", 300)
        monkeypatch.setattr(events, "MIN_LOG_EVENTS", 1)
        log = EventLog()
        taken: list[int] = []

        def on_unstored(is_much: bool) -> None:
            if is_much:
                first, entries = log.take_unstored() or (0, [])
                taken.extend(range(first, first + len(entries)))

        log.on_unstored = on_unstored
        for number in range(20):
            log.append("n", {"number": number})
        first, entries = log.take_unstored() or (log.seq + 1, [])
        assert taken + list(range(first, first + len(entries))) == list(range(1, 21))

    main()


@on_loop
async def test_a_new_numbering_begins_empty_and_sends_its_readers_away() -> None:
    log = filled(3)
    epoch, reader = log.epoch, follow(log)
    log.renew()
    assert reader.closed == 1
    assert (log.seq, log.told_seq) == (0, 0)
    assert not log.can_replay(epoch, 2)
    log.append("n", {"number": 1})
    assert [seq for seq, _, _ in decode(log.replay(0, ALL)[0])] == [1]


@on_loop
async def test_a_log_goes_on_where_the_store_has_it() -> None:
    log = EventLog("e1", 7)
    assert (log.epoch, log.seq, log.told_seq) == ("e1", 7, 7)
    assert log.replay(7, ALL) == (b"", 7)
    assert log.replay(6, ALL) is None
    assert log.take_unstored() is None
    log.append("n", {})
    assert [seq for seq, _, _ in decode(log.replay(7, ALL)[0])] == [8]


def test_a_log_at_rest_keeps_nothing_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LOG_REST_S", 0)

    @on_loop
    async def main() -> None:
        log = EventLog()
        rested = asyncio.Event()
        log.on_rest = rested.set
        log.append("n", {"text": "x" * 100_000})
        log.rest()
        await rested.wait()
        assert log.replay(0, ALL) is None
        assert log.replay(1, ALL) == (b"", 1)

    main()
