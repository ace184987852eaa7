"""Signing in with ChatGPT: the real Codex, and an issuer on loopback."""

import itertools
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conftest import BridgeFactory
from tests.support import processes
from tests.support.bridge import Bridge, Directories
from tests.support.codex import codex_binary
from tests.support.issuer import ACCOUNT_ID, EMAIL, PLAN, Issuer
from tests.support.upstream import Failure, Gate, Upstream, rounds, say
from tests.support.waiting import wait_until

Json = dict[str, Any]
StartBridge = Callable[..., Bridge]

pytestmark = pytest.mark.codex


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """An issuer that answers "pending" until the test says yes or no."""
    server = Issuer()
    yield server
    server.stop()


@pytest.fixture
def chatgpt(
    bridge: BridgeFactory, issuer: Issuer, upstream: Upstream, directories: Directories
) -> StartBridge:
    """A factory of bridges whose Codex signs in with the issuer and finds its model at the scripted upstream."""
    (directories.codex_home / "config.toml").write_text(issuer.codex_config(upstream.base_url))

    def start(**overrides: object) -> Bridge:
        return bridge(**{**issuer.environment(), **overrides})

    return start


def status_of(one: Bridge) -> Json:
    reply = one.get("/auth/status")
    assert (reply.status, reply.json["ok"]) == (200, True), reply
    return reply.json


def login_of(one: Bridge) -> Json:
    found: Json = status_of(one)["device_auth"]
    return found


def show_code(one: Bridge) -> Json:
    """Return the answer that shows a code."""
    reply = one.get("/auth/device")
    assert (reply.status, reply.json["status"]) == (200, "pending"), reply
    return reply.json


def wait_login(one: Bridge, status: str) -> Json:
    """Return the device login once it has a status."""

    def look() -> Json | None:
        login = login_of(one)
        return login if login["status"] == status else None

    return wait_until(look, f"a device login that is {status}")


def wait_health(one: Bridge, status: str) -> None:
    wait_until(lambda: one.get("/health").json["login_status"] == status, f"login_status {status}")


def sign_in(one: Bridge, issuer: Issuer) -> None:
    show_code(one)
    issuer.approve()
    wait_login(one, "completed")


def play(one: Bridge) -> Json:
    """Run one turn in a new session to its end; return the session."""
    session_id = one.create_session()
    one.send(session_id, "Hello")
    return one.settled(session_id)


def run_codex(one: Bridge, *arguments: str, given: str = "") -> None:
    """Run a command of Codex's own beside the bridge, as a person does in a terminal."""
    environ = {"PATH": os.environ["PATH"], "CODEX_HOME": str(one.directories.codex_home), **one.settings}
    subprocess.run(
        [codex_binary(), *arguments], env=environ, input=given, text=True, capture_output=True, check=True
    )


@pytest.mark.smoke
def test_a_person_signs_in_and_a_turn_runs(chatgpt: StartBridge, issuer: Issuer, upstream: Upstream) -> None:
    one = chatgpt()
    assert one.get("/health").json["auth_state"] == "chatgpt"
    wait_health(one, "logged_out")
    before = status_of(one)
    assert (before["logged_in"], before["login_required"], before["auth_mode"]) == (False, True, "chatgpt")
    assert (before["account"], before["device_auth"]) == (None, None)
    assert "/auth/device" in before["message"]

    shown = show_code(one)
    assert (shown["verification_url"], shown["user_code"]) == (f"{issuer.url}/codex/device", "CODE-0001")
    assert shown["expires_in_minutes"] == 15
    assert shown["user_code"] in shown["message"]
    assert set(login_of(one)) == {
        "status", "verification_url", "user_code", "issued_at", "expires_in_minutes", "error",
    }  # fmt: skip
    assert {name: login_of(one)[name] for name in ("user_code", "issued_at")} == {
        name: shown[name] for name in ("user_code", "issued_at")
    }
    assert one.get("/health").json["login_status"] == "pending"

    issuer.approve()
    done = wait_login(one, "completed")
    assert (done["user_code"], done["verification_url"], done["error"]) == (None, None, None)
    assert one.get("/health").json["login_status"] == "logged_in"
    after = status_of(one)
    assert (after["logged_in"], after["login_required"]) == (True, False)
    assert after["account"] == {"email": EMAIL, "plan": PLAN}
    again = one.get("/auth/device").json
    assert (again["status"], again["user_code"], again["verification_url"]) == ("logged_in", None, None)
    assert issuer.asked["usercode"] == 1

    upstream.script = rounds(say("Hello, Ann."))
    assert play(one)["messages"][-1]["text"] == "Hello, Ann."
    sent = upstream.requests[-1].headers
    assert sent["authorization"].removeprefix("Bearer ") in issuer.secrets
    assert sent["chatgpt-account-id"] == ACCOUNT_ID


def test_the_sign_in_outlives_the_bridge(chatgpt: StartBridge, issuer: Issuer) -> None:
    one = chatgpt()
    sign_in(one, issuer)
    one.stop()
    two = chatgpt()
    assert two.get("/auth/device").json["status"] == "logged_in"
    assert status_of(two)["account"]["email"] == EMAIL
    assert play(two)["status"] == "idle"


def test_no_secret_is_told(chatgpt: StartBridge, issuer: Issuer) -> None:
    one = chatgpt(CODEX_BRIDGE_LOG_LEVEL="debug")
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    told = [one.get("/auth/device").body]
    issuer.approve()
    wait_login(one, "completed")
    one.send(session_id, "Hello")
    stream.until("session.completed")
    paths = ("/auth/device", "/auth/status", "/health", "/runtime/info", f"/chat/sessions/{session_id}")
    told += [one.get(path).body for path in paths]
    told += [json.dumps(event.data).encode() for event in stream.events]
    told += [one.post("/auth/logout").body, one.get("/auth/status").body]
    one.stop()
    told.append(one.log_text.encode())
    assert len(issuer.secrets) > 8
    assert not [secret for secret in issuer.secrets for text in told if secret.encode() in text]


def test_all_who_ask_see_one_code(chatgpt: StartBridge, issuer: Issuer) -> None:
    one = chatgpt()
    issuer.gate = Gate()
    with ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(show_code, one) for _ in range(12)]
        issuer.gate.wait()
        issuer.gate.release()
        codes = {each.result()["user_code"] for each in asked}
    assert codes == {show_code(one)["user_code"]}
    assert issuer.asked["usercode"] == 1


@pytest.mark.parametrize("status", [401, 410, 500])
def test_a_refusal(chatgpt: StartBridge, issuer: Issuer, status: int) -> None:
    one = chatgpt()
    show_code(one)
    issuer.deny(status)
    failed = wait_login(one, "failed")
    assert str(status) in failed["error"]
    assert failed["user_code"] is None
    told = status_of(one)
    assert (told["logged_in"], str(status) in told["message"]) == (False, True)
    assert one.get("/health").json["login_status"] == "logged_out"
    issuer.approval_status = 403
    assert show_code(one)["user_code"] == "CODE-0002"


def test_a_code_that_nobody_enters(chatgpt: StartBridge, issuer: Issuer) -> None:
    one = chatgpt(CODEX_DEVICE_LOGIN_TIMEOUT_MS=1000)
    assert show_code(one)["expires_in_minutes"] == 1
    assert wait_login(one, "expired")["user_code"] is None
    told = status_of(one)
    assert (told["logged_in"], "in time" in told["message"]) == (False, True)
    issuer.approve()

    def try_again() -> bool:
        one.get("/auth/device")  # on a slow machine this one may be too late as well
        return bool(status_of(one)["logged_in"])

    wait_until(try_again, "the sign-in with a new code")
    assert issuer.asked["usercode"] >= 2


def test_offline(chatgpt: StartBridge, issuer: Issuer) -> None:
    one = chatgpt()
    issuer.stop()
    for _ in range(2):
        reply = one.get("/auth/device")
        assert (reply.status, reply.json["code"]) == (502, "sign_in_failed")
        assert "error sending request" in reply.json["error"]
    told = status_of(one)
    assert (told["logged_in"], told["device_auth"]) == (False, None)
    assert one.get("/health").json["login_status"] == "logged_out"


@pytest.mark.parametrize("status", [404, 429, 500])
def test_an_issuer_that_gives_no_code(chatgpt: StartBridge, issuer: Issuer, status: int) -> None:
    one = chatgpt()
    issuer.code_status = status
    reply = one.get("/auth/device")
    assert (reply.status, reply.json["code"]) == (502, "sign_in_failed")
    issuer.code_status = 200
    show_code(one)


def test_an_issuer_that_goes_away(chatgpt: StartBridge, issuer: Issuer) -> None:
    one = chatgpt()
    show_code(one)
    issuer.stop()
    assert wait_login(one, "failed")["error"]


def test_signing_out_gives_a_login_up(chatgpt: StartBridge, issuer: Issuer) -> None:
    one = chatgpt()
    show_code(one)
    reply = one.post("/auth/logout")
    assert (reply.status, reply.json["logged_in"]) == (200, False)
    cancelled = login_of(one)
    assert (cancelled["status"], cancelled["user_code"], cancelled["error"]) == ("cancelled", None, None)
    assert one.get("/health").json["login_status"] == "logged_out"
    assert show_code(one)["user_code"] == "CODE-0002"


def test_signing_out(chatgpt: StartBridge, issuer: Issuer) -> None:
    one = chatgpt()
    sign_in(one, issuer)
    file = one.directories.codex_home / "auth.json"
    assert file.exists()
    reply = one.post("/auth/logout")
    assert (reply.status, reply.json["logged_in"]) == (200, False)
    assert reply.json["message"]
    assert not file.exists()
    assert issuer.asked["revoke"] == 1
    told = status_of(one)
    assert (told["logged_in"], told["account"], told["device_auth"]) == (False, None, None)
    assert one.post("/auth/logout").status == 200  # once more does no harm


def test_codex_dies_in_mid_login(chatgpt: StartBridge, issuer: Issuer) -> None:
    one = chatgpt()
    show_code(one)
    processes.kill(one.get("/runtime/info").json["codex_process"]["pid"])
    assert "Codex was ended by signal 9" in wait_login(one, "failed")["error"]
    assert show_code(one)["user_code"] == "CODE-0002"
    issuer.approve()
    wait_login(one, "completed")


def test_a_turn_without_a_sign_in_fails_at_once(chatgpt: StartBridge, upstream: Upstream) -> None:
    one = chatgpt()
    session = play(one)
    assert (session["status"], session["last_error_code"]) == ("error", "sign_in_required")
    assert "/auth/device" in session["last_error"]
    assert upstream.requests == []
    show_code(one)
    assert play(one)["last_error_code"] == "sign_in_required"


def test_a_sign_in_that_is_not_taken_any_more(
    chatgpt: StartBridge, issuer: Issuer, upstream: Upstream
) -> None:
    one = chatgpt()
    sign_in(one, issuer)
    upstream.script = lambda request: Failure(401, "this token was taken back")
    issuer.refresh_status = 401
    session = play(one)
    assert (session["status"], session["last_error_code"]) == ("error", "sign_in_required")
    assert "could not be refreshed" in session["last_error"]
    wait_health(one, "logged_out")
    asked = len(upstream.requests)
    assert play(one)["last_error_code"] == "sign_in_required"
    assert len(upstream.requests) == asked
    # The way out that the errors name.
    upstream.script = rounds(say("Welcome back."))
    assert one.post("/auth/logout").status == 200
    assert one.get("/auth/device").status == 200
    wait_login(one, "completed")
    assert play(one)["messages"][-1]["text"] == "Welcome back."


def test_what_codex_does_in_a_terminal_is_noticed(chatgpt: StartBridge, issuer: Issuer) -> None:
    one = chatgpt()
    assert status_of(one)["logged_in"] is False
    run_codex(one, "login", "--with-api-key", given="sk-a-key-of-codex-itself")
    told = status_of(one)
    assert (told["logged_in"], told["account"]) == (True, None)
    assert "key of its own" in told["message"]
    assert play(one)["status"] == "idle"
    run_codex(one, "logout")
    assert status_of(one)["logged_in"] is False
    assert play(one)["last_error_code"] == "sign_in_required"
    one.stop()
    assert "sk-a-key-of-codex-itself" not in one.log_text


def test_a_change_in_a_terminal_does_not_end_a_turn(
    chatgpt: StartBridge, issuer: Issuer, upstream: Upstream
) -> None:
    one = chatgpt()
    sign_in(one, issuer)
    gate = upstream.gate()
    upstream.script = rounds(say("first half ", gate, "second half"))
    session_id = one.create_session()
    one.send(session_id, "Hello")
    gate.wait()
    run_codex(one, "logout")
    assert (
        status_of(one)["logged_in"] is False
    )  # so says the new Codex, while the turn goes on with the old one
    assert len(one.codex_pids()) == 2
    assert play(one)["last_error_code"] == "sign_in_required"
    gate.release()
    assert one.settled(session_id)["messages"][-1]["text"] == "first half second half"
    wait_until(lambda: len(one.codex_pids()) == 1, "the end of the old Codex")


@pytest.mark.parametrize(("status", "logged_in"), [(500, True), (401, False)])
def test_a_service_that_does_not_tell_the_account(
    chatgpt: StartBridge, issuer: Issuer, status: int, logged_in: bool
) -> None:
    one = chatgpt()
    sign_in(one, issuer)
    one.stop()
    issuer.account_status = status
    two = chatgpt()
    told = status_of(two)
    assert (told["logged_in"], told["account"]) == (logged_in, None)
    assert "workspace routing discovery" in told["message"]
    wait_health(two, "logged_in" if logged_in else "logged_out")


def test_a_login_that_leads_to_no_account(chatgpt: StartBridge, issuer: Issuer) -> None:
    one = chatgpt()
    show_code(one)
    issuer.account_status = 500
    issuer.approve()
    assert "workspace routing discovery failed" in wait_login(one, "failed")["error"]
    assert status_of(one)["logged_in"] is True  # Codex holds the tokens all the same


def test_the_auth_mode_changes_at_run_time(chatgpt: StartBridge, upstream: Upstream) -> None:
    one = chatgpt()
    code = show_code(one)["user_code"]
    other = {
        "runtime_provider": "openai_compatible",
        "provider_api_base_url": upstream.base_url,
        "auth_mode": "none",
    }
    assert one.post("/runtime/config", other).status == 200
    assert one.get("/auth/device").json["status"] == "not_required"
    assert one.get("/health").json["login_status"] == "not_required"
    assert (status_of(one)["logged_in"], status_of(one)["device_auth"]) == (True, None)
    assert play(one)["status"] == "idle"
    back = {"runtime_provider": "openai", "auth_mode": "chatgpt", "provider_api_base_url": ""}
    assert one.post("/runtime/config", back).status == 200
    assert show_code(one)["user_code"] == code


def test_a_session_goes_on_when_the_service_changes(
    chatgpt: StartBridge, issuer: Issuer, upstream: Upstream
) -> None:
    one = chatgpt()
    sign_in(one, issuer)
    own = {"runtime_provider": "openai", "provider_api_base_url": None, "provider_api_key": None}
    provider = {
        "runtime_provider": "vllm",
        "provider_api_base_url": upstream.base_url,
        "provider_api_key": "k" * 9,
    }
    session_id = one.create_session()
    threads = []
    for number, config in enumerate((own, provider, own)):
        one.post("/runtime/config", config)
        one.send(session_id, f"Hello {number}")
        session = one.settled(session_id)
        assert (session["status"], session["last_error"]) == ("idle", None)
        threads.append(session["thread_id"])
    keys = [request.headers["authorization"] for request in upstream.requests]
    assert [key == f"Bearer {'k' * 9}" for key in keys] == [False, True, False]
    # Where Codex lets no thread change its provider, the host is told that another has begun, with what was said.
    told = [event["code"] for event in session["events"] if event["type"] == "warning" and "code" in event]
    assert told.count("thread_not_resumed") == sum(a != b for a, b in itertools.pairwise(threads))
    for number, request in enumerate(upstream.requests):
        assert all(request.conversation.count(f"Hello {earlier}") == 1 for earlier in range(number + 1))
