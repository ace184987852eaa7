"""What a session may be allowed: an approval policy and a sandbox mode, never looser than the bridge's own."""

import pytest

from tests.conftest import BridgeFactory
from tests.support.bridge import Bridge
from tests.support.fake_codex import FakeCodex
from tests.support.turns import FakeFactory, open_session
from tests.support.upstream import Upstream, rounds, run, say


def allowed(one: Bridge, session_id: str) -> tuple[str, str]:
    session = one.session(session_id)
    return session["approval_policy"], session["sandbox_mode"]


def opened(fake: FakeCodex, method: str = "thread/start") -> list[tuple[str, str]]:
    """Return how threads were started, or resumed."""
    params = [note["params"] for note in fake.received(method)]
    return [(each["approvalPolicy"], each["sandbox"]) for each in params]


def test_a_session_has_what_the_bridge_has(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    session_id, stream = open_session(one)
    assert allowed(one, session_id) == ("on-request", "workspace-write")
    info = one.get("/runtime/info").json
    assert (info["approval_policy"], info["sandbox_mode"]) == ("on-request", "workspace-write")
    one.send(session_id, "say hello")
    stream.until("session.completed")
    assert opened(fake) == [("on-request", "workspace-write")]


def test_a_session_chooses_less_and_keeps_it(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake, CODEX_SANDBOX_MODE="danger-full-access")
    session_id = one.create_session(approval_policy="untrusted", sandbox_mode="workspace-write")
    assert allowed(one, session_id) == ("untrusted", "workspace-write")
    one.send(session_id, "say hello")
    one.settled(session_id)
    one.kill()
    again = bridge(CODEX_BIN=fake, CODEX_SANDBOX_MODE="danger-full-access")
    assert allowed(again, session_id) == ("untrusted", "workspace-write")
    again.send(session_id, "say again")
    again.settled(session_id)
    assert opened(fake) == opened(fake, "thread/resume") == [("untrusted", "workspace-write")]


@pytest.mark.parametrize(
    ("body", "field", "named"),
    [
        ({"approval_policy": "never"}, "approval_policy", "untrusted or on-request"),
        ({"approval_policy": "onRequest"}, "approval_policy", "untrusted or on-request"),
        ({"approval_policy": None}, "approval_policy", "untrusted or on-request"),
        ({"approval_policy": ["untrusted"]}, "approval_policy", "untrusted or on-request"),
        ({"sandbox_mode": "danger-full-access"}, "sandbox_mode", "read-only or workspace-write"),
        ({"sandbox_mode": "workspaceWrite"}, "sandbox_mode", "read-only or workspace-write"),
    ],
)
def test_a_session_cannot_have_more(
    idle_bridge: Bridge, body: dict[str, object], field: str, named: str
) -> None:
    reply = idle_bridge.post("/chat/sessions", body)
    assert (reply.status, reply.json["code"], reply.json["field"]) == (422, "invalid_field", field)
    assert reply.json["error"] == f"{field}: expected {named}."


ASKS_NOBODY = pytest.mark.parametrize(
    "settings", [{"CODEX_RUNTIME_KIND": "exec"}, {"CODEX_APPROVAL_POLICY": "never"}]
)


@ASKS_NOBODY
def test_where_nobody_is_asked_no_session_can_have_it_otherwise(
    bridge: BridgeFactory, fake_codex: FakeFactory, settings: dict[str, str]
) -> None:
    one = bridge(CODEX_BIN=fake_codex(), **settings)
    for policy in ("untrusted", "on-request"):
        reply = one.post("/chat/sessions", {"approval_policy": policy})
        assert (reply.status, reply.json["field"]) == (422, "approval_policy")
    session_id = one.create_session(approval_policy="never", sandbox_mode="read-only")
    assert allowed(one, session_id) == ("never", "read-only")


@ASKS_NOBODY
def test_nothing_is_done_unasked_where_all_must_be_asked(
    bridge: BridgeFactory, fake_codex: FakeFactory, settings: dict[str, str]
) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    strict, usual = one.create_session(approval_policy="untrusted"), one.create_session()
    one.stop()
    again = bridge(CODEX_BIN=fake, **settings)
    for session_id in (strict, usual):
        again.send(session_id, "say hello")
    assert again.settled(strict)["last_error_code"] == "approvals_unavailable"
    assert allowed(again, strict) == ("untrusted", "workspace-write")
    assert again.settled(usual)["status"] == "idle"
    assert allowed(again, usual) == ("never", "workspace-write")
    assert len(fake.execs()) + len(fake.received("turn/start")) == 1


def test_a_stricter_bridge_takes_back_what_the_one_before_allowed(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake, CODEX_APPROVAL_POLICY="never")
    session_id = one.create_session()
    one.stop()
    again = bridge(CODEX_BIN=fake, CODEX_APPROVAL_POLICY="untrusted", CODEX_SANDBOX_MODE="read-only")
    assert allowed(again, session_id) == ("untrusted", "read-only")
    again.send(session_id, "say hello")
    again.settled(session_id)
    assert opened(fake) == [("untrusted", "read-only")]


def test_the_sandbox_is_tried_in_the_mode_of_the_session(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    one = bridge(CODEX_BIN=fake_codex(sandbox="broken"), CODEX_SANDBOX_MODE="danger-full-access")
    free = one.create_session()
    one.send(free, "say hello")
    assert one.settled(free)["status"] == "idle"
    held = one.create_session(sandbox_mode="workspace-write")
    one.send(held, "say hello")
    assert one.settled(held)["last_error_code"] == "sandbox_unavailable"


@pytest.mark.codex
def test_a_read_only_session_of_a_bridge_that_writes(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(run("echo x > a.txt"), say("Done."))
    one = bridge()
    for mode, was_written in (("read-only", False), ("workspace-write", True)):
        session_id = one.create_session(sandbox_mode=mode)
        one.send(session_id, "Do it")
        assert one.settled(session_id)["status"] == "idle"
        assert (one.workspace / "a.txt").exists() is was_written
