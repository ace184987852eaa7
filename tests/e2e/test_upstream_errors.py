"""An upstream on a bad day, and an answer of five megabytes: a clear word in the session, and life goes on."""

import socket
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import BridgeFactory
from tests.support.bridge import Bridge, Json
from tests.support.sse import Stream, kinds, said
from tests.support.upstream import ABORT, Answer, Failure, Gate, Hangup, Request, Upstream, rounds, say

pytestmark = pytest.mark.codex


def fail(one: Bridge, message: str = "Hello") -> tuple[str, Stream, Json]:
    """Run a turn that has to fail; return the session's id, its stream and the failed session."""
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, message)
    end = stream.until(lambda event: event.name in ("session.error", "session.completed"), 60)
    assert end.name == "session.error", kinds(stream.events)
    return session_id, stream, end.data["session"]


def assert_next_turn_works(one: Bridge, upstream: Upstream, session_id: str, stream: Stream) -> None:
    """Fail unless the session goes on as if nothing had been."""
    upstream.script = rounds(say("All is well."))
    one.send(session_id, "Again")
    stream.until("session.completed")
    session = one.session(session_id)
    assert (session["status"], session["last_error"], session["last_error_code"]) == ("idle", None, None)
    assert session["messages"][-1]["text"] == "All is well."


@pytest.mark.usefixtures("each_api")
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "upstream_rejected"),
        (401, "upstream_unauthorized"),
        (403, "upstream_unauthorized"),
        (404, "upstream_rejected"),
        (429, "upstream_rate_limited"),
        (500, "upstream_error"),
        (503, "upstream_error"),
    ],
)
def test_an_upstream_that_refuses(bridge: BridgeFactory, upstream: Upstream, status: int, code: str) -> None:
    upstream.script = rounds(Failure(status, "unknown model: it has left the building"))
    one = bridge()
    session_id, stream, failed = fail(one)
    assert (failed["status"], failed["last_error_code"]) == ("error", code)
    assert "unknown model: it has left the building" in failed["last_error"]
    assert "\n" not in failed["last_error"]
    assert len(upstream.requests) == 1 or status >= 429, "asking again is no use"
    assert_next_turn_works(one, upstream, session_id, stream)


@pytest.mark.usefixtures("each_api")
def test_a_hiccup_is_overcome(bridge: BridgeFactory, upstream: Upstream) -> None:
    answers: Iterator[Answer] = iter([Failure(500), say("to be contin", ABORT), say("Third time lucky.")])
    upstream.script = lambda request: next(answers)
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Hello")
    stream.until(lambda event: event.name in ("session.completed", "session.error"))
    assert stream.events[-1].name == "session.completed"
    stored = [message["text"] for message in one.session(session_id)["messages"]]
    assert stored == ["Hello", "Third time lucky."]
    assert "warning" in kinds(stream.events)


@pytest.mark.usefixtures("each_api")
def test_an_upstream_that_is_busy_is_asked_again_when_it_says(
    bridge: BridgeFactory, upstream: Upstream
) -> None:
    busy = Failure(429, "too many at once", headers={"retry-after": "1"})
    answers: Iterator[Answer] = iter([busy, busy, say("Here I am.")])
    upstream.script = lambda request: next(answers)
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Hello")
    stream.until(lambda event: event.name in ("session.completed", "session.error"))
    assert stream.events[-1].name == "session.completed"
    retries = [event.runtime["message"] for event in stream.events if event.runtime.get("code") == "retrying"]
    assert len(retries) == 2
    assert all("too many at once" in message and "1s" in message for message in retries)


@pytest.mark.usefixtures("each_api")
def test_an_upstream_that_closes_in_mid_stream(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(say("to be contin", ABORT))
    one = bridge()
    session_id, stream, failed = fail(one)
    assert failed["last_error_code"] == "upstream_disconnected"
    assert failed["last_error"]
    assert_next_turn_works(one, upstream, session_id, stream)


def test_an_upstream_that_hangs_up_at_once(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(Hangup())
    one = bridge()
    session_id, stream, failed = fail(one)
    assert failed["last_error_code"] in ("upstream_disconnected", "upstream_unreachable")
    assert_next_turn_works(one, upstream, session_id, stream)


def test_an_upstream_that_is_not_there(bridge: BridgeFactory) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and never listening: a connection is refused
        one = bridge(CODEX_PROVIDER_API_BASE_URL=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        _, _, failed = fail(one)
    assert failed["last_error_code"] == "upstream_unreachable"


def stall_before_the_answer(gate: Gate) -> Answer:
    """Never answer."""
    return gate


def stall_in_the_answer(gate: Gate) -> Answer:
    """Begin, and never go on."""
    return say("let me think ", gate, "of it")


@pytest.mark.usefixtures("each_api")
@pytest.mark.parametrize(
    ("stall", "limit"),
    [
        (stall_before_the_answer, "CODEX_UPSTREAM_FIRST_BYTE_TIMEOUT_MS"),
        (stall_in_the_answer, "CODEX_UPSTREAM_IDLE_TIMEOUT_MS"),
    ],
)
def test_an_upstream_that_stalls(
    bridge: BridgeFactory, upstream: Upstream, stall: Callable[[Gate], Answer], limit: str
) -> None:
    gate = upstream.gate()
    upstream.script = lambda _: stall(gate)
    one = bridge(**{limit: 2000})  # which the next turn must not meet
    session_id, stream, failed = fail(one)
    assert failed["last_error_code"] == "upstream_timeout"
    assert failed["last_error"]
    assert all(request.abandoned.wait(30) for request in upstream.requests)
    assert_next_turn_works(one, upstream, session_id, stream)


def test_an_upstream_that_speaks_nonsense(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(Failure(200, "this is JSON and no event stream"))
    one = bridge()
    session_id, stream, failed = fail(one)
    assert failed["last_error"]
    assert_next_turn_works(one, upstream, session_id, stream)


def test_one_bad_upstream_answer_leaves_other_sessions_alone(
    bridge: BridgeFactory, upstream: Upstream
) -> None:
    gate = upstream.gate()

    def script(request: Request) -> Answer:
        return Failure(401) if request.user_text == "bad" else say("calm ", gate, "and steady")

    upstream.script = script
    one = bridge()
    calm = one.create_session()
    stream = one.ready_stream(calm)
    one.send(calm, "good")
    stream.until_text("calm ")
    fail(one, "bad")
    gate.release()
    stream.until("session.completed")
    assert one.session(calm)["messages"][-1]["text"] == "calm and steady"


@pytest.mark.usefixtures("each_api")
def test_a_line_of_five_megabytes(bridge: BridgeFactory, upstream: Upstream) -> None:
    size = 5_000_000
    upstream.script = rounds(say("x" * size))
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Talk a lot")
    stream.until("session.completed", 90)
    assert said(stream.events) == "x" * size
    assert one.session(session_id)["messages"][-1]["text"] == "x" * size
    assert one.session(session_id)["status"] == "idle"
