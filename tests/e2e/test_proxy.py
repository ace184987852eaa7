"""The proxy under /v1: what travels and what does not, sizes, streaming, and how it fails."""

import hashlib
import http.client
import json
from collections.abc import Iterator

import pytest

from tests.conftest import BridgeFactory
from tests.support.any_upstream import AnyUpstream
from tests.support.bridge import API_KEY, Bridge
from tests.support.waiting import BOUND_S


@pytest.fixture
def behind() -> Iterator[AnyUpstream]:
    server = AnyUpstream()
    yield server
    server.stop()


@pytest.fixture
def one(bridge: BridgeFactory, behind: AnyUpstream) -> Bridge:
    return bridge(CODEX_PROVIDER_API_BASE_URL=behind.base_url)


def ask(
    one: Bridge, method: str, path: str, body: object = None, **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    """Ask through the bridge with header names in which _ stands for -."""
    connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=BOUND_S)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)  # type: ignore[arg-type]
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_what_travels(one: Bridge, method: str) -> None:
    response, data = ask(
        one, method, "/v1/files/a%20b?x=1&y=%2F", b"body", Authorization="Bearer the host's", X_Mine="kept",
        Content_Type="text/plain", Connection="x-hop", X_Hop="dropped",
    )  # fmt: skip
    seen = json.loads(data)
    assert response.status == 200
    assert response.headers["X-Upstream"] == "yes"
    assert (seen["method"], seen["path"]) == (method, "/api/agents/A1/v1/files/a%20b?x=1&y=%2F")
    assert seen["headers"]["authorization"] == f"Bearer {API_KEY}"
    assert seen["headers"]["x-mine"] == "kept"
    assert "x-hop" not in seen["headers"]
    assert seen["sha256"] == hashlib.sha256(b"body").hexdigest()


def test_status_and_reason_are_the_upstreams(one: Bridge) -> None:
    response, _ = ask(one, "GET", "/v1/teapot")
    assert (response.status, response.reason) == (418, "A Reason")


@pytest.mark.parametrize(("method", "length"), [("HEAD", "12"), ("GET", "12")])
def test_head_has_the_length_and_no_body(one: Bridge, method: str, length: str) -> None:
    response, data = ask(one, method, "/v1/12")
    assert (response.status, response.headers["Content-Length"]) == (200, length)
    assert len(data) == (0 if method == "HEAD" else 12)


def test_an_answer_without_a_body(one: Bridge) -> None:
    response, data = ask(one, "DELETE", "/v1/empty")
    assert (response.status, data) == (204, b"")


@pytest.mark.parametrize("sized", [True, False])
def test_a_large_body_is_streamed_not_gathered(one: Bridge, sized: bool) -> None:
    piece, count = b"0123456789abcdef" * 4096, 800
    pieces = (piece for _ in range(count))
    length = {"Content_Length": str(len(piece) * count)} if sized else {}
    response, data = ask(one, "POST", "/v1/files", pieces, Content_Type="application/octet-stream", **length)
    digest = hashlib.sha256()
    for _ in range(count):
        digest.update(piece)
    seen = json.loads(data)
    assert (response.status, seen["size"], seen["sha256"]) == (200, len(piece) * count, digest.hexdigest())


def test_a_large_answer_arrives_whole(one: Bridge) -> None:
    _, data = ask(one, "GET", "/v1/60000000")
    assert len(data) == 60_000_000


def test_a_stream_is_not_held_back(one: Bridge, behind: AnyUpstream) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=BOUND_S)
    try:
        connection.request("GET", "/v1/gated")
        response = connection.getresponse()
        assert response.readline() == b"data: first\n"  # while the upstream waits at its gate
        behind.gate.set()
        assert response.read() == b"\ndata: second\n\n"
    finally:
        connection.close()


def test_a_client_that_leaves_stops_the_upstream(one: Bridge, behind: AnyUpstream) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=BOUND_S)
    connection.request("GET", "/v1/gated?leave")
    connection.getresponse().readline()
    connection.close()
    assert behind.abandoned.wait(BOUND_S)


def test_connections_are_used_again(one: Bridge) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=BOUND_S)
    for number in range(20):
        connection.request("POST", "/v1/thing", b"x" * number, {"Content-Type": "application/json"})
        assert json.loads(connection.getresponse().read())["size"] == number
    connection.close()


@pytest.mark.parametrize(
    "path", ["/v1/../admin", "/v1/a/%2e%2E/b", "/v1/..%2fadmin", "/v1/.", "/v1/..\\admin"]
)
def test_a_path_cannot_climb_out(one: Bridge, path: str) -> None:
    response, data = ask(one, "GET", path)
    assert (response.status, json.loads(data)["code"]) == (400, "malformed_request")


def test_an_answer_that_is_cut_does_not_look_whole(one: Bridge) -> None:
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        ask(one, "GET", "/v1/cut")


def test_an_upstream_that_is_not_there(bridge: BridgeFactory) -> None:
    one = bridge(CODEX_PROVIDER_API_BASE_URL="http://127.0.0.1:9")
    response, data = ask(one, "GET", "/v1/models")
    assert (response.status, json.loads(data)["code"]) == (502, "upstream_unreachable")


def test_an_upstream_that_is_too_slow(bridge: BridgeFactory, behind: AnyUpstream) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        one = bridge(
            CODEX_PROVIDER_API_BASE_URL=f"http://127.0.0.1:{port}", CODEX_UPSTREAM_FIRST_BYTE_TIMEOUT_MS=300
        )
        response, data = ask(one, "GET", "/v1/models")
    assert (response.status, json.loads(data)["code"]) == (504, "upstream_timeout")
    assert (
        json.loads(data)["error"]
        == f"The upstream http://127.0.0.1:{port} did not begin to answer within 0.3 s."
    )


def test_without_an_upstream_it_says_what_to_do(bridge: BridgeFactory) -> None:
    settings = ("CODEX_RUNTIME_PROVIDER", "CODEX_PROVIDER_API_BASE_URL", "CODEX_PROVIDER_API_KEY")
    one = bridge(**dict.fromkeys(settings))
    response, data = ask(one, "GET", "/v1/models")
    answer = json.loads(data)
    assert (response.status, answer["code"]) == (400, "no_upstream")
    assert "provider_api_key" in answer["error"]


def test_access_is_checked_here_as_well(bridge: BridgeFactory, behind: AnyUpstream) -> None:
    one = bridge(
        CODEX_PROVIDER_API_BASE_URL=behind.base_url,
        CODEX_BRIDGE_TOKEN="a-token-of-some-length",
        CODEX_BRIDGE_ALLOWED_ORIGINS="https://cms.example",
    )
    assert ask(one, "GET", "/v1/models")[0].status == 401
    token = {"Authorization": "Bearer a-token-of-some-length"}
    assert ask(one, "GET", "/v1/models", Origin="https://evil.example", **token)[0].status == 403
    response, _ = ask(one, "GET", "/v1/models", Origin="https://cms.example", **token)
    assert response.headers.get_all("Access-Control-Allow-Origin") == ["https://cms.example"]
    preflight, _ = ask(
        one, "OPTIONS", "/v1/models", Origin="https://cms.example", Access_Control_Request_Method="POST"
    )
    assert preflight.status == 204
