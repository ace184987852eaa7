"""Sign-in on bad days, played by a scripted app-server; and the providers that have none."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import BridgeFactory
from tests.support.bridge import API_KEY, Bridge
from tests.support.fake_codex import FakeCodex
from tests.support.waiting import wait_until

TOKEN = "a-token-of-some-length-5d8e"
BASE_URL = "http://127.0.0.1:9/v1"
CHATGPT: dict[str, object] = {
    "CODEX_RUNTIME_PROVIDER": "openai",
    "CODEX_PROVIDER_API_BASE_URL": None,
    "CODEX_PROVIDER_API_KEY": None,
    "CODEX_DEFAULT_MODEL": None,
}

Json = dict[str, Any]
FakeFactory = Callable[..., FakeCodex]


def login_status(one: Bridge) -> str:
    reply = one.get("/health")
    assert reply.status == 200
    return str(reply.json["login_status"])


def status_of(one: Bridge) -> Json:
    reply = one.get("/auth/status")
    assert reply.status == 200
    return reply.json


def test_health_does_not_wait_for_a_codex_that_does_not_answer(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    fake = fake_codex(held="account/read")
    one = bridge(**CHATGPT, CODEX_BIN=fake)
    assert [login_status(one) for _ in range(20)] == ["unknown"] * 20
    # It was still the first question, and nobody had given it up.
    wait_until(lambda: fake.received("account/read"), "the question")
    assert len(fake.received("account/read")) == 1
    assert one.get("/runtime/info").json["codex_process"]["pid"] == fake.starts()[0]["pid"]
    fake.release()
    wait_until(lambda: login_status(one) == "logged_out", "the answer")


def test_health_does_not_wait_for_a_codex_that_does_not_start(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    fake = fake_codex(silent=True)
    one = bridge(**CHATGPT, CODEX_BIN=fake)
    assert [login_status(one) for _ in range(20)] == ["unknown"] * 20
    wait_until(fake.starts, "the start")
    assert len(fake.starts()) == 1
    assert one.get("/health").json["ok"] is True


def test_health_asks_once_for_many(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex(account=True)
    one = bridge(**CHATGPT, CODEX_BIN=fake)
    # On a slow machine a Codex may need longer for its start than the moment that /health waits.
    wait_until(lambda: login_status(one) == "logged_in", "the answer")
    assert {login_status(one) for _ in range(50)} == {"logged_in"}
    assert len(fake.received("account/read")) == 1


def test_without_a_codex(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(**CHATGPT, CODEX_BIN=fake)
    fake.path.unlink()
    assert login_status(one) == "unknown"
    told = status_of(one)
    assert (told["logged_in"], told["login_required"]) == (False, True)
    assert "Codex cannot be started" in told["message"]
    for reply, code in (
        (one.get("/auth/device"), "sign_in_failed"),
        (one.post("/auth/logout"), "sign_out_failed"),
    ):
        assert (reply.status, reply.json["code"]) == (502, code)
        assert "Codex cannot be started" in reply.json["error"]


def test_a_turn_is_tried_when_nobody_knows(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex(held="account/read")
    one = bridge(**CHATGPT, CODEX_BIN=fake)
    session_id = one.create_session()
    one.send(session_id, "say all the same")
    assert one.settled(session_id)["messages"][-1]["text"] == "all the same"


def test_a_login_that_is_over_before_its_code_is_shown(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    one = bridge(**CHATGPT, CODEX_BIN=fake_codex(login="refused"))
    reply = one.get("/auth/device")
    assert (reply.status, reply.json["code"]) == (502, "sign_in_failed")
    assert "the fake issuer refuses" in reply.json["error"]
    assert status_of(one)["device_auth"]["status"] == "failed"


@pytest.mark.parametrize(
    ("login", "said"), [("garbled", "cannot be read"), ("dies", "Codex exited with status 9")]
)
def test_a_login_that_cannot_be_begun(
    bridge: BridgeFactory, fake_codex: FakeFactory, login: str, said: str
) -> None:
    one = bridge(**CHATGPT, CODEX_BIN=fake_codex(login=login))
    reply = one.get("/auth/device")
    assert (reply.status, reply.json["code"]) == (502, "sign_in_failed")
    assert said in reply.json["error"]
    assert status_of(one)["device_auth"] is None


def test_an_expired_login_is_given_up_in_codex(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(**CHATGPT, CODEX_BIN=fake, CODEX_DEVICE_LOGIN_TIMEOUT_MS=1000)
    assert one.get("/auth/device").json["status"] == "pending"
    cancel = wait_until(lambda: fake.received("account/login/cancel"), "the end of the login")[0]
    assert [cancel["params"]["loginId"]] == fake.logins()
    assert (
        status_of(one)["device_auth"]["status"] == "expired"
    )  # and not what Codex says of the one it gave up


def test_the_id_of_a_login_is_told_to_nobody(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(**CHATGPT, CODEX_BIN=fake, CODEX_BRIDGE_LOG_LEVEL="debug")
    told = [one.get("/auth/device").body, one.get("/auth/status").body, one.post("/auth/logout").body]
    told.append(one.get("/auth/status").body)
    one.stop()
    assert len(fake.logins()) == 1
    assert not [text for text in (*told, one.log_text.encode()) if fake.logins()[0].encode() in text]


@pytest.mark.parametrize(
    ("settings", "mode", "logged_in"),
    [
        ({"CODEX_RUNTIME_PROVIDER": "openai_compatible"}, "api_key", True),
        ({"CODEX_RUNTIME_PROVIDER": "openai"}, "api_key", True),
        ({"CODEX_RUNTIME_PROVIDER": "osirus_agent", "CODEX_PROVIDER_API_KEY": None}, "api_key", False),
        ({"CODEX_RUNTIME_PROVIDER": "ollama", "CODEX_PROVIDER_API_KEY": None}, "none", True),
        ({"CODEX_RUNTIME_PROVIDER": "vllm", "CODEX_AUTH_MODE": "none"}, "none", True),
    ],
)
def test_a_provider_without_sign_in(
    bridge: BridgeFactory, fake_codex: FakeFactory, settings: dict[str, object], mode: str, logged_in: bool
) -> None:
    fake = fake_codex(account=True)
    one = bridge(CODEX_PROVIDER_API_BASE_URL=BASE_URL, CODEX_BIN=fake, **settings)
    health = one.get("/health").json
    assert (health["login_status"], health["auth_state"]) == ("not_required", mode)
    device = one.get("/auth/device")
    assert (device.status, device.json["status"]) == (200, "not_required")
    for name in ("verification_url", "user_code", "issued_at", "expires_in_minutes"):
        assert device.json[name] is None
    told = status_of(one)
    assert (told["logged_in"], told["auth_mode"], told["login_required"]) == (logged_in, mode, False)
    assert (told["account"], told["device_auth"]) == (None, None)
    out = one.post("/auth/logout")
    assert (out.status, out.json["logged_in"]) == (200, logged_in)
    for message in (device.json["message"], told["message"], out.json["message"]):
        assert ("key is missing" in message) is not logged_in
        assert API_KEY not in message
    assert fake.starts() == []  # nobody was asked, and nothing was changed


def test_sign_in_wants_the_bridges_token(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex(account=True)
    one = bridge(**CHATGPT, CODEX_BIN=fake, CODEX_BRIDGE_TOKEN=TOKEN)
    for reply in (one.get("/auth/device"), one.get("/auth/status"), one.post("/auth/logout")):
        assert (reply.status, reply.json["code"]) == (401, "unauthorized")
    assert set(one.get("/health").json) == {"ok", "service", "version"}
    assert fake.starts() == []
    access = {"Authorization": f"Bearer {TOKEN}"}
    assert one.get("/auth/status", **access).json["account"]["email"] == "ann@example.com"
    assert one.get("/health", **access).json["login_status"] == "logged_in"


def test_signing_out_takes_no_fields(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex(account=True)
    one = bridge(**CHATGPT, CODEX_BIN=fake)
    reply = one.post("/auth/logout", {"login_id": "x"})
    assert (reply.status, reply.json["code"], reply.json["field"]) == (422, "invalid_field", "login_id")
    assert one.get("/auth/logout").status == one.post("/auth/device").status == 405
    assert fake.received("account/logout") == []
