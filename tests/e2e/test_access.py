"""Who may speak to the bridge: token, Host, Origin, content type, and the addresses it listens on."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import BridgeFactory
from tests.support.bridge import Bridge
from tests.support.fake_codex import FakeCodex
from tests.support.raw_http import RawConnection, head

TOKEN = "a-token-of-some-length-5d8e"
ORIGIN = "http://app.example:8080"
FakeFactory = Callable[..., FakeCodex]


def asked_as(one: Bridge, host: str, path: str = "/health") -> int:
    """GET a path under another Host; return the status."""
    with RawConnection(one.port) as connection:
        connection.send(head(f"GET {path} HTTP/1.1", f"Host: {host}"))
        return connection.reply().status


@pytest.fixture
def guarded(bridge: BridgeFactory, fake_codex: FakeFactory) -> Bridge:
    """A bridge with a token."""
    return bridge(CODEX_BRIDGE_TOKEN=TOKEN, CODEX_BIN=fake_codex())


def test_without_the_token_only_health_answers(guarded: Bridge) -> None:
    health = guarded.get("/health")
    assert health.status == 200
    assert set(health.json) == {"ok", "service", "version"}
    session_id = guarded.post("/chat/sessions", Authorization=f"Bearer {TOKEN}").json["session"]["id"]
    calls = [
        ("GET", "/runtime/info"),
        ("GET", "/chat/sessions"),
        ("POST", "/chat/sessions"),
        ("DELETE", "/chat/sessions"),
        ("GET", f"/chat/sessions/{session_id}"),
        ("DELETE", f"/chat/sessions/{session_id}"),
        ("GET", f"/chat/sessions/{session_id}/stream"),
        ("POST", f"/chat/sessions/{session_id}/messages"),
        ("POST", f"/chat/sessions/{session_id}/interrupt"),
        ("GET", "/no/such/path"),
        ("PUT", "/runtime/info"),
    ]
    for method, path in calls:
        reply = guarded.request(method, path, b"{}", Content_Type="application/json")
        assert (reply.status, reply.json["code"]) == (401, "unauthorized"), (method, path)
        assert reply.headers["www-authenticate"].startswith("Bearer")
    kept = guarded.get("/chat/sessions", Authorization=f"Bearer {TOKEN}")
    assert [session["id"] for session in kept.json["sessions"]] == [session_id]


@pytest.mark.parametrize(
    "value",
    [
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer",
        "Bearer ",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer {TOKEN} {TOKEN}",
        "",
    ],
)
def test_a_wrong_token_is_refused(guarded: Bridge, value: str) -> None:
    assert guarded.get("/runtime/info", Authorization=value).status == 401
    assert guarded.get(f"/runtime/info?token={TOKEN}&access_token={TOKEN}", Authorization=value).status == 401


@pytest.mark.parametrize("value", ["Bearer t\xf6ken", "Bearer \xff\xfe"])
def test_a_token_beyond_ascii_is_refused(guarded: Bridge, value: str) -> None:
    assert guarded.get("/runtime/info", Authorization=value).status == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_right_token_opens(guarded: Bridge, scheme: str) -> None:
    access = {"Authorization": f"{scheme} {TOKEN}"}
    assert guarded.get("/runtime/info", **access).status == 200
    assert "auth_state" in guarded.get("/health", **access).json
    session_id = guarded.post("/chat/sessions", **access).json["session"]["id"]
    assert guarded.stream(session_id, **access).until("session.ready").data["session"]["id"] == session_id


def test_the_token_may_come_from_a_file(
    bridge: BridgeFactory, fake_codex: FakeFactory, tmp_path: Path
) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    one = bridge(CODEX_BRIDGE_TOKEN_FILE=path, CODEX_BIN=fake_codex())
    assert one.get("/runtime/info").status == 401
    assert one.get("/runtime/info", Authorization=f"Bearer {TOKEN}").status == 200
    one.stop()
    assert TOKEN not in one.log_text


def test_without_a_token_none_is_asked_for(idle_bridge: Bridge) -> None:
    health = idle_bridge.get("/health").json
    assert health["ok"] is True
    assert {"service", "version", "auth_state", "has_api_key", "login_status"} <= set(health)
    assert idle_bridge.get("/runtime/info", Authorization="Bearer whatever").status == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_a_public_address_needs_a_token(
    bridge: BridgeFactory, fake_codex: FakeFactory, host: str, subtests_log: list[str]
) -> None:
    with pytest.raises(AssertionError, match="exit code 2") as refused:
        bridge(CODEX_BRIDGE_HOST=host, CODEX_BIN=fake_codex())
    subtests_log.extend(str(refused.value).splitlines()[1:])
    assert len(subtests_log) == 1, subtests_log
    assert "CODEX_BRIDGE_TOKEN" in subtests_log[0]
    assert host in subtests_log[0]


@pytest.fixture
def subtests_log() -> list[str]:
    """The lines that a bridge left which did not start."""
    return []


def test_own_names_are_served(idle_bridge: Bridge) -> None:
    for host in (
        f"127.0.0.1:{idle_bridge.port}",
        f"localhost:{idle_bridge.port}",
        f"LocalHost:{idle_bridge.port}",
    ):
        assert asked_as(idle_bridge, host) == 200, host


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1.evil.example:{port}",
        "localhost.evil.example:{port}",
        "evil-localhost:{port}",
        "169.254.169.254",
        "127.0.0.1:{port}@evil.example",
        "127.0.0.1, evil.example",
        "[::1]evil.example",
    ],
)
@pytest.mark.parametrize("path", ["/health", "/runtime/info", "/no/such/path"])
def test_a_strange_host_is_refused(idle_bridge: Bridge, host: str, path: str) -> None:
    assert asked_as(idle_bridge, host, path) in (400, 403)
    assert idle_bridge.get("/health").status == 200


def test_a_strange_host_has_its_code(idle_bridge: Bridge) -> None:
    reply = idle_bridge.request(
        "POST", "/chat/sessions", b"{}", Host="evil.example", Content_Type="application/json"
    )
    assert (reply.status, reply.json["code"]) == (403, "host_not_allowed")


@pytest.fixture
def cors(bridge: BridgeFactory, fake_codex: FakeFactory) -> Bridge:
    """A bridge with one allowed origin and a token."""
    return bridge(CODEX_BRIDGE_ALLOWED_ORIGINS=ORIGIN, CODEX_BRIDGE_TOKEN=TOKEN, CODEX_BIN=fake_codex())


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://app.example",
        "http://app.example:8080.evil.example",
        "https://app.example:8080",
        "",
    ],
)
def test_a_strange_origin_is_refused_before_anything_happens(cors: Bridge, origin: str) -> None:
    access = {"Authorization": f"Bearer {TOKEN}"}
    for method, path in (
        ("GET", "/health"),
        ("POST", "/chat/sessions"),
        ("DELETE", "/chat/sessions"),
        ("GET", "/x"),
    ):
        headers = {"Content_Type": "application/json", "Origin": origin, **access}
        reply = cors.request(method, path, b"{}", **headers)
        assert (reply.status, reply.json["code"]) == (403, "origin_not_allowed"), (method, path)
        assert "access-control-allow-origin" not in reply.headers
    assert cors.get("/chat/sessions", **access).json["total"] == 0


def test_an_allowed_origin_is_served(cors: Bridge) -> None:
    access = {"Authorization": f"Bearer {TOKEN}", "Origin": ORIGIN}
    replies = [
        cors.get("/health", Origin=ORIGIN),
        cors.post("/chat/sessions", **access),
        cors.get("/x", **access),
    ]
    assert [reply.status for reply in replies] == [200, 201, 404]
    for reply in replies:
        assert reply.headers["access-control-allow-origin"] == ORIGIN
        assert "origin" in reply.headers["vary"].lower()
    stream = cors.stream(replies[1].json["session"]["id"], **access)
    assert stream.headers["access-control-allow-origin"] == ORIGIN
    refused = cors.get("/chat/sessions", Origin=ORIGIN)
    assert (refused.status, refused.headers["access-control-allow-origin"]) == (401, ORIGIN)


def test_cors_headers_go_to_origins_alone(cors: Bridge) -> None:
    assert not [name for name in cors.get("/health").headers if name.startswith("access-control-")]


def test_a_preflight_is_answered_for_an_allowed_origin(cors: Bridge) -> None:
    asked = {
        "Access_Control_Request_Method": "POST",
        "Access_Control_Request_Headers": "authorization,content-type",
    }
    reply = cors.request("OPTIONS", "/chat/sessions", None, Origin=ORIGIN, **asked)
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    assert {"GET", "POST", "DELETE"} <= {
        m.strip() for m in reply.headers["access-control-allow-methods"].split(",")
    }
    allowed = {name.strip().lower() for name in reply.headers["access-control-allow-headers"].split(",")}
    assert {"authorization", "content-type"} <= allowed
    refused = cors.request("OPTIONS", "/chat/sessions", None, Origin="http://evil.example", **asked)
    assert refused.status == 403
    assert not [name for name in refused.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonp",
        "text/json; application/json",
    ],
)
def test_a_body_that_is_no_json_is_refused(idle_bridge: Bridge, content_type: str | None) -> None:
    before = idle_bridge.get("/chat/sessions").json["total"]
    headers = {} if content_type is None else {"Content_Type": content_type}
    reply = idle_bridge.request("POST", "/chat/sessions", b"{}", **headers)
    assert (reply.status, reply.json["code"]) == (415, "unsupported_media_type")
    assert idle_bridge.get("/chat/sessions").json["total"] == before


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=utf-8", "Application/JSON"]
)
def test_json_is_json(idle_bridge: Bridge, content_type: str) -> None:
    assert idle_bridge.request("POST", "/chat/sessions", b"{}", Content_Type=content_type).status == 201


def test_the_token_is_in_no_log_and_no_child(guarded: Bridge) -> None:
    guarded.get("/runtime/info", Authorization=f"Bearer {TOKEN}")
    guarded.get("/runtime/info", Authorization=f"Bearer {TOKEN}wrong")
    arguments = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert TOKEN not in arguments
    guarded.stop()
    assert TOKEN not in guarded.log_text
