"""A disk that does not take what is to be stored: clear errors, reads go on, nothing acknowledged is lost."""

import resource
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.conftest import BridgeFactory
from tests.support import stored
from tests.support.bridge import Bridge
from tests.support.sse import assert_contiguous
from tests.support.turns import FakeFactory, open_session, play
from tests.support.waiting import wait_until


@pytest.fixture
def one(bridge: BridgeFactory, fake_codex: FakeFactory) -> Bridge:
    """A bridge on the scripted app-server."""
    return bridge(CODEX_BIN=fake_codex())


@contextmanager
def full_disk(one: Bridge) -> Iterator[None]:
    """Let no file of the bridge grow, as on a disk that is full."""
    _, hard = resource.prlimit(one.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(one.pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.prlimit(one.pid, resource.RLIMIT_FSIZE, (hard, hard))


@contextmanager
def locked(one: Bridge) -> Iterator[None]:
    """Hold the database as a backup program might that has gone astray."""
    path = one.directories.state / "bridge.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def is_well(one: Bridge) -> bool:
    return bool(one.get("/health").json["store"]["state"] == "ok")


@pytest.mark.parametrize("trouble", [full_disk, locked])
def test_a_message_that_cannot_be_stored_is_refused_and_reads_go_on(one: Bridge, trouble: object) -> None:
    assert callable(trouble)
    session_id, _ = play(one, "say before")
    before = one.session(session_id)
    ready = one.ready_stream(session_id)
    with trouble(one):
        reply = one.post_message(session_id, "say lost")
        assert (reply.status, reply.json["code"]) == (503, "store_unavailable")
        assert "bridge.db" in reply.json["error"]
        assert int(reply.headers["retry-after"]) > 0
        refused = one.post("/chat/sessions", {})
        assert (refused.status, refused.json["code"]) == (503, "store_unavailable")
        session = one.session(session_id)
        assert (session["messages"], session["status"]) == (before["messages"], "idle")
        assert session["active_turn_id"] is None
        assert one.get("/chat/sessions").json["total"] == 1
        assert not is_well(one)
        assert one.get("/runtime/info").json["store"]["problem"]
    wait_until(lambda: is_well(one), "the store's recovery")
    one.send(session_id, "say after")
    ready.until("session.completed")
    assert_contiguous(ready.events)
    assert "say lost" not in str(ready.events), "nothing is told of what was not taken"
    assert [message["text"] for message in one.session(session_id)["messages"]] == [
        "say before", "before", "say after", "after",
    ]  # fmt: skip
    assert len(stored.rows(one.directories.state, "SELECT id FROM messages")) == 4


def test_a_turn_goes_on_while_the_disk_is_full_and_is_stored_later(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    codex = fake_codex()
    one = bridge(CODEX_BIN=codex)
    session_id, stream = open_session(one)
    one.send(session_id, "stay")
    stream.until("item.agent_message.delta")
    with full_disk(one):
        assert one.interrupt(session_id).status == 200
        told = stream.until("session.interrupted")
        assert told.data["session"]["messages"][-1]["text"] == "staying"
    wait_until(lambda: is_well(one), "the store's recovery")
    wait_until(
        lambda: stored.rows(one.directories.state, "SELECT text FROM messages WHERE role = 'assistant'"),
        "the stored answer",
    )
    one.kill()
    again = bridge(CODEX_BIN=codex)
    session = again.session(session_id)
    assert [message["text"] for message in session["messages"]] == ["stay", "staying"]
    assert (session["status"], session["last_error_code"]) == ("idle", None)


def test_a_large_message_that_is_refused_leaves_nothing_behind(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    codex = fake_codex()
    one = bridge(CODEX_BIN=codex)
    session_id = one.create_session()
    with locked(one):
        assert one.post_message(session_id, "say " + "x" * 900_000).status == 503
    wait_until(lambda: is_well(one), "the store's recovery")
    assert one.session(session_id)["status"] == "idle"
    one.kill()
    assert stored.rows(one.directories.state, "SELECT id FROM messages UNION ALL SELECT id FROM turns") == []
    again = bridge(CODEX_BIN=codex)
    session = again.session(session_id)
    assert (session["status"], session["messages"]) == ("idle", [])


def test_a_queued_message_that_is_refused_does_not_wake_the_turn_before(one: Bridge) -> None:
    session_id, stream = open_session(one)
    one.send(session_id, "stay")
    stream.until("item.agent_message.delta")
    with full_disk(one), ThreadPoolExecutor(1) as pool:
        refused = pool.submit(one.post_message, session_id, "say lost", when_busy="queue")
        one.interrupt(session_id)
        assert refused.result().status in (503, 202)
        stream.until("session.interrupted")
    wait_until(lambda: is_well(one), "the store's recovery")
    session = one.settled(session_id)
    assert (session["status"], session["active_turn_id"], session["queued_turn_ids"]) == ("idle", None, [])


@pytest.mark.parametrize("name", ["bridge.db", "bridge.db-wal"])
def test_a_database_that_is_taken_away_is_noticed(one: Bridge, name: str) -> None:
    session_id, _ = play(one, "say before")
    (one.directories.state / name).unlink()
    reply = one.post_message(session_id, "say lost")
    assert (reply.status, reply.json["code"]) == (503, "store_unavailable")
    assert f"{name} was removed or replaced" in reply.json["error"]
    assert not is_well(one)
    assert one.session(session_id)["messages"][-1]["text"] == "before"


@pytest.fixture
def stopped(one: Bridge) -> Path:
    """The database of a bridge that has stopped."""
    play(one, "say hello")
    one.stop()
    return one.directories.state / "bridge.db"


def test_a_damaged_database_stops_the_start_and_stays_as_it_is(bridge: BridgeFactory, stopped: Path) -> None:
    stopped.write_bytes(b"no database at all" * 1000)
    before = stopped.read_bytes()
    with pytest.raises(AssertionError, match="did not start") as caught:
        bridge()
    assert f"codex-bridge: The database {stopped} is damaged" in str(caught.value)
    assert "exit code 1" in str(caught.value)
    assert stopped.read_bytes() == before


def test_a_database_of_a_newer_bridge_is_refused_and_not_rewritten(
    bridge: BridgeFactory, stopped: Path
) -> None:
    with closing(sqlite3.connect(stopped)) as database:
        database.execute("PRAGMA journal_mode = DELETE")
        database.execute("PRAGMA user_version = 999")
    before = stopped.read_bytes()
    with pytest.raises(AssertionError, match="did not start") as caught:
        bridge()
    assert "is of version 999" in str(caught.value)
    assert "exit code 1" in str(caught.value)
    assert stopped.read_bytes() == before


def spoil(database: Path, sql: str, *values: object) -> None:
    """Damage rows as SQLite itself does not notice it."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        assert connection.execute(sql, values).rowcount == 1


def test_a_damaged_session_disables_nothing_but_itself_and_can_be_deleted(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    codex = fake_codex()
    one = bridge(CODEX_BIN=codex)
    whole, damaged, last = (play(one, f"say {word}")[0] for word in ("a", "b", "c"))
    one.stop()
    database = one.directories.state / "bridge.db"
    spoil(database, "UPDATE sessions SET state = x'7b22' WHERE id = ?", damaged)

    again = bridge(CODEX_BIN=codex)
    assert is_well(again)
    page = again.get("/chat/sessions").json
    assert [session["id"] for session in page["sessions"]] == [last, whole]
    store = again.get("/health").json["store"]
    assert store["state"] == "failing"
    assert damaged in store["problem"]
    for path in (f"/chat/sessions/{damaged}", f"/chat/sessions/{damaged}/items"):
        refused = again.get(path)
        assert (refused.status, refused.json["code"]) == (500, "store_damaged")
        assert "retry-after" not in refused.headers
    stream = again.ready_stream(whole)
    again.send(whole, "say more")
    stream.until("session.completed")
    assert again.delete(f"/chat/sessions/{damaged}").status == 200
    assert again.get("/chat/sessions").json["total"] == 2
    assert again.get(f"/chat/sessions/{damaged}").status == 404
    assert again.delete(f"/chat/sessions/{damaged}").status == 404


def test_what_is_old_goes_though_a_session_is_damaged(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    codex = fake_codex()
    one = bridge(CODEX_BIN=codex)
    damaged, second, third, last = (play(one, f"say {word}")[0] for word in "abcd")
    one.stop()
    state = one.directories.state
    spoil(state / "bridge.db", "UPDATE sessions SET state = x'7b22' WHERE id = ?", damaged)
    again = bridge(CODEX_BIN=codex, CODEX_BRIDGE_KEEP_SESSIONS="1")
    # A deletion begins a round, in which the oldest is met first.
    assert again.delete(f"/chat/sessions/{second}").status == 200
    wait_until(lambda: stored.rows(state, "SELECT id FROM sessions") == [(last,)], "the end of what is old")
    wait_until(lambda: not stored.rows(state, "SELECT * FROM garbage"), "the end of what belonged to it")
    assert again.get(f"/chat/sessions/{third}").status == 404
    assert len(stored.rows(state, "SELECT id FROM messages")) == 2
    assert again.get("/chat/sessions").json["total"] == 1


def test_what_cannot_be_settled_stops_the_start_with_a_sentence(bridge: BridgeFactory, stopped: Path) -> None:
    with closing(sqlite3.connect(stopped)) as database:
        database.execute("DROP TABLE turns")
    for _ in range(2):
        with pytest.raises(AssertionError, match="did not start") as caught:
            bridge()
        assert f"codex-bridge: What the bridge before has left in {stopped} cannot be settled" in str(
            caught.value
        )
        assert "Traceback" not in str(caught.value)
        # Nobody has looked whether anything is missing, so the next start must.
        assert stored.rows(stopped.parent, "SELECT value FROM meta WHERE name = 'stopped_clean'") == [("no",)]


def test_a_start_settles_what_it_can_read(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    codex = fake_codex()
    one = bridge(CODEX_BIN=codex, CODEX_MAX_CONCURRENT_TURNS="1")
    running, stream = open_session(one)
    one.send(running, "stay")
    stream.until("item.agent_message.delta")
    unreadable, lost, whole = (open_session(one)[0] for _ in range(3))
    for session_id, word in ((unreadable, "a"), (lost, "b"), (whole, "c")):
        one.send(session_id, f"say {word}")
    one.kill()
    database = one.directories.state / "bridge.db"
    turn_of = "WHERE session_key = (SELECT key FROM sessions WHERE id = ?)"
    spoil(database, "UPDATE sessions SET state = x'7b22' WHERE id = ?", unreadable)
    spoil(database, f"UPDATE turns SET request = x'7b22' {turn_of}", lost)
    spoil(database, f"UPDATE turns SET request = x'7b22' {turn_of}", running)
    again = bridge(CODEX_BIN=codex, CODEX_MAX_CONCURRENT_TURNS="1")
    wait_until(lambda: again.session(whole)["status"] == "idle", "the turn that can be run")
    assert [message["text"] for message in again.session(whole)["messages"]] == ["say c", "c"]
    assert (again.session(lost)["status"], again.session(lost)["last_error_code"]) == (
        "error",
        "store_damaged",
    )
    assert again.session(running)["last_error_code"] == "bridge_restarted"
    assert again.get(f"/chat/sessions/{unreadable}").json["code"] == "store_damaged"
    assert not is_well(again)


def test_a_waiting_turn_that_cannot_be_read_leaves_the_one_before_it_alone(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    codex = fake_codex()
    one = bridge(CODEX_BIN=codex)
    session_id, stream = open_session(one)
    one.send(session_id, "stay")
    stream.until("item.agent_message.delta")
    lost = [one.send(session_id, f"say {word}", when_busy="queue")["turn_id"] for word in "abcd"]
    one.kill()
    database = one.directories.state / "bridge.db"
    spoil(database, "UPDATE turns SET request = x'7b22' WHERE id = ?", lost[1])
    spoil(database, "UPDATE turns SET request = x'7b7d' WHERE id = ?", lost[2])
    again = bridge(CODEX_BIN=codex)
    session = again.settled(session_id)
    answers = [message["text"] for message in session["messages"] if message["role"] == "assistant"]
    assert answers[-2:] == ["a", "d"]
    assert (session["active_turn_id"], session["queued_turn_ids"]) == (None, [])
    found = stored.rows(again.directories.state, "SELECT status FROM turns ORDER BY position")
    assert found == [("interrupted",), ("completed",), ("failed",), ("failed",), ("completed",)]


def test_what_is_told_behind_a_turns_end_is_stored_before(one: Bridge) -> None:
    session_id, stream = open_session(one)
    one.send(session_id, "listen")
    stream.until("item.agent_message.delta")
    with ThreadPoolExecutor(1) as pool:
        with locked(one):
            steered = pool.submit(one.send, session_id, "joins", when_busy="steer")
            wait_until(lambda: not one.get("/health").json["bridge_load"]["active_turns"], "the turn's end")
        assert steered.result()["steered"] is True
    stream.until("session.completed")
    told = stream.until("session.message")
    one.kill()
    assert told.data["session"]["messages"][-1]["text"] == "joins"
    assert f"id: {told.id}\n".encode() in stored.events(one.directories.state, session_id)
