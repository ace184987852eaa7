"""Turns from the outside: a session and its stream, one turn to its end."""

from collections.abc import Callable

from tests.support.bridge import Bridge
from tests.support.fake_codex import FakeCodex
from tests.support.sse import Stream
from tests.support.waiting import BOUND_S

FakeFactory = Callable[..., FakeCodex]


def warm_up(one: Bridge) -> None:
    """Have Codex and its sandbox started: a turn that has little time is not to spend it on that."""
    tool = f"/chat/sessions/{one.create_session()}/tools/run_command"
    reply = one.post(tool, {"command": "true"})
    assert reply.status == 200 and reply.json["result"]["ok"], reply


def open_session(one: Bridge) -> tuple[str, Stream]:
    """Create a session and follow it."""
    session_id = one.create_session()
    return session_id, one.ready_stream(session_id)


def play(one: Bridge, message: str, bound_s: float = BOUND_S) -> tuple[str, Stream]:
    """Run one turn in a new session to its end, whatever that is."""
    session_id, stream = open_session(one)
    one.send(session_id, message)
    stream.until(lambda event: event.name in ("session.completed", "session.error"), bound_s)
    return session_id, stream


def injected(fake: FakeCodex) -> list[str]:
    """Return what the threads of a scripted Codex were told that they had missed."""
    told = [note["params"]["items"] for note in fake.received("thread/inject_items")]
    return [item["content"][0]["text"] for items in told for item in items]
