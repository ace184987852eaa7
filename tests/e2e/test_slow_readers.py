"""Readers that do not keep up: what they cost is bounded, and what they do not read hinders nobody."""

from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.conftest import BridgeFactory
from tests.support import processes
from tests.support.bridge import Bridge
from tests.support.fake_codex import FakeCodex
from tests.support.slow_reader import drain, never_reading
from tests.support.waiting import wait_until

MEGABYTE = 1_000_000


@pytest.fixture
def one(bridge: BridgeFactory, fake_codex: Callable[..., FakeCodex]) -> Bridge:
    """A bridge on the scripted app-server."""
    return bridge(CODEX_BIN=fake_codex())


def test_readers_that_never_read_cost_little(one: Bridge) -> None:
    session_id = one.create_session()
    with ExitStack() as stack:
        lazy = [stack.enter_context(never_reading(one, session_id)) for _ in range(20)]
        before = processes.resident_bytes(one.pid)
        one.send(session_id, "flood 20")
        assert one.settled(session_id, 60)["status"] == "idle"
        grown = processes.resident_bytes(one.pid) - before
        # The turn itself, of 60 MB, is in several hands for a moment: those of Codex, the log and the store.
        assert grown < 400 * MEGABYTE, "20 readers of 60 MB each, kept whole, would need 1,200 MB more"
        ports = [sock.getsockname()[1] for sock in lazy]
        wait_until(
            lambda: not any(processes.is_connected(one.pid, port) for port in ports),
            "the end of the streams that nobody reads",
        )
        assert b"session.completed" not in drain(lazy[0])


def test_a_reader_that_never_read_may_come_back(one: Bridge) -> None:
    session_id = one.create_session()
    ready = one.ready_stream(session_id).events[0]
    with never_reading(one, session_id):
        one.send(session_id, "flood 20")
        one.settled(session_id, 60)
    again = one.stream(session_id, after=ready.id)
    fresh = again.until(lambda event: True)
    assert fresh.name == "session.ready"
    assert len(fresh.data["session"]["messages"][-1]["text"]) == 20 * MEGABYTE
    one.send(session_id, "say hello")
    again.until("session.completed")


def test_a_stream_that_lags_ends_with_its_session(one: Bridge) -> None:
    session_id = one.create_session()
    one.send(session_id, "flood 20")
    one.settled(session_id, 60)
    with never_reading(one, session_id) as lazy:
        assert one.delete(f"/chat/sessions/{session_id}").status == 200
        drain(lazy)


def test_the_bridge_ends_while_a_reader_does_not_read(one: Bridge) -> None:
    session_id = one.create_session()
    one.send(session_id, "flood 20")
    one.settled(session_id, 60)
    with never_reading(one, session_id):
        one.stop()
