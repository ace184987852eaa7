"""What an attacker, a careless host or a model on a bad day tried once, and must not achieve again."""

import os
import socket
from pathlib import Path

import pytest

from codex_bridge.limits import MAX_CONTEXT_BYTES
from tests.conftest import BridgeFactory
from tests.support import processes
from tests.support.bridge import API_KEY, Bridge
from tests.support.raw_http import RawConnection
from tests.support.sse import kinds
from tests.support.turns import warm_up
from tests.support.upstream import Failure, Request, Stream, Upstream, rounds, run, say
from tests.support.waiting import wait_until

TICKS = "while true; do echo tick >> ticks; sleep 0.05; done"


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def tickers(one: Bridge) -> list[int]:
    """Return the processes of the command that ticks."""
    return [pid for pid in processes.descendants(one.pid) if TICKS in " ".join(processes.cmdline(pid))]


@pytest.mark.codex
@pytest.mark.parametrize("ending", ["session.interrupted", "session.error"])
def test_a_command_ends_with_its_turn(
    bridge: BridgeFactory, upstream: Upstream, workspace: Path, ending: str
) -> None:
    upstream.script = rounds(run(TICKS, yield_time_ms=30_000), say("never"))
    one = bridge(**({"CODEX_CHAT_TURN_TIMEOUT_MS": 5000} if ending == "session.error" else {}))
    warm_up(one)
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Tick")
    stream.until(
        lambda event: event.kind == "item.started" and event.runtime["item"]["type"] == "commandExecution"
    )
    wait_until(lambda: size_of(workspace / "ticks") > 0, "the command to run")
    assert tickers(one), "nothing would be seen of one that goes on"
    if ending == "session.interrupted":
        one.interrupt(session_id)
    end = stream.until(ending)
    # Its item is told when it is killed; it may write once more before it is gone.
    wait_until(lambda: not tickers(one), "the end of the command")
    size = size_of(workspace / "ticks")
    items = [event.data["event"] for event in stream.events if event.name == "session.event"]
    ended = [
        e["item"] for e in items if e["type"] == "item.completed" and e["item"]["type"] == "commandExecution"
    ]
    assert [item["status"] for item in ended] == ["failed"]
    # Another whole turn later it has written nothing more.
    upstream.script = rounds(say("Still here."))
    one.send(session_id, "And now?")
    stream.until("session.completed")
    assert size_of(workspace / "ticks") == size, end


def test_a_session_that_is_deleted_while_a_message_arrives(idle_bridge: Bridge) -> None:
    session_id = idle_bridge.create_session()
    body = b'{"message": "boo"}'
    head = (
        f"POST /chat/sessions/{session_id}/messages HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", idle_bridge.port), timeout=30) as sock:
        sock.sendall(head.encode())
        assert b"100 Continue" in sock.recv(1000)  # the handler has begun, and waits for the body
        assert idle_bridge.delete(f"/chat/sessions/{session_id}").status == 200
        sock.sendall(body)
        assert b" 404 " in sock.recv(1000).partition(b"\r\n")[0]
    assert idle_bridge.get("/health").json["bridge_load"]["active_turns"] == 0


def test_a_workspace_that_was_exchanged_for_a_link(
    bridge: BridgeFactory, workspace: Path, tmp_path: Path
) -> None:
    inner, outside = workspace / "inner", tmp_path / "outside"
    inner.mkdir()
    outside.mkdir()
    one = bridge()
    session_id = one.create_session(workspace_root=str(inner))
    inner.rmdir()
    inner.symlink_to(outside)
    stream = one.ready_stream(session_id)
    one.send(session_id, "Hello")
    end = stream.until("session.error")
    assert end.data["session"]["last_error_code"] == "workspace_moved"
    assert list(outside.iterdir()) == []


def test_paths_that_are_no_text(bridge: BridgeFactory, workspace: Path) -> None:
    strange = os.fsencode(workspace) + b"/strange\xff"
    os.mkdir(strange)
    (workspace / "link").symlink_to(os.fsdecode(strange))
    (workspace / "evil\nname.txt").write_text("x")
    os.symlink(b"strange\xff.txt", os.fsencode(workspace) + b"/file.txt")
    Path(os.fsdecode(os.fsencode(workspace) + b"/strange\xff.txt")).write_text("x")
    one = bridge()
    reply = one.post("/chat/sessions", {"workspace_root": str(workspace / "link")})
    assert (reply.status, reply.json["field"]) == (422, "workspace_root")
    session_id = one.create_session()
    for path in ("file.txt", "evil\nname.txt"):
        body = {"message": "look", "attachments": [{"path": path}]}
        reply = one.post(f"/chat/sessions/{session_id}/messages", body)
        assert (reply.status, reply.json["field"]) == (422, "attachments[0]")


def test_a_context_has_a_bound(idle_bridge: Bridge) -> None:
    reply = idle_bridge.post("/chat/sessions", {"context": {"page": "x" * MAX_CONTEXT_BYTES}})
    assert (reply.status, reply.json["field"]) == (422, "context")


@pytest.mark.codex
def test_a_redirect_does_not_lead_codex_away(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = lambda request: Failure(307, headers={"Location": f"{upstream.base_url}/elsewhere"})
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Hello")
    session = stream.until("session.error").data["session"]
    assert session["last_error_code"] == "upstream_rejected"
    assert "/elsewhere" in session["last_error"]
    assert [request.path for request in upstream.requests] == ["/v1/responses"]


@pytest.mark.codex
def test_a_key_that_the_upstream_repeats_is_not_told_on(bridge: BridgeFactory, upstream: Upstream) -> None:
    def script(request: Request) -> Stream:
        error = {"code": "server_error", "message": f"bad key {API_KEY} here"}
        return Stream(lambda: [{"type": "response.failed", "response": {"id": "r", "error": error}}])

    upstream.script = script
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Hello")
    stream.until("session.error", 60)
    assert "warning" in kinds(stream.events)
    told = repr([event.data for event in stream.events]) + repr(one.session(session_id)) + "\n".join(one.log)
    assert "[hidden]" in told
    assert API_KEY not in told


def test_https_on_the_port_is_told_at_once(idle_bridge: Bridge) -> None:
    with RawConnection(idle_bridge.port) as raw:
        raw.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        reply = raw.reply()
        assert (reply.status, reply.closes) == (400, True)
        assert b"TLS" in reply.body
