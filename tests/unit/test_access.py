"""Access: every Host, Origin, token and content type, judged behind a real socket."""

import pytest

from codex_bridge.adapters.http_server import Request, Response
from codex_bridge.api import replies
from codex_bridge.api.access import Access
from codex_bridge.api.router import Route, Router
from tests.unit.loop import run
from tests.unit.wire import Reply, exchange, request

TOKEN = "the-token-of-this-bridge"


async def _answer(request: Request) -> Response:
    return replies.ok(body=(await request.read_body(1000)).decode())


def ask(data: bytes, access: Access) -> Reply:
    routes = [
        Route("GET", "/open", _answer, is_open=True),
        Route("GET", "/closed", _answer),
        Route("POST", "/closed", _answer),
    ]
    return run(lambda: exchange(Router(routes, access, lambda: None).handle, data))


def access(
    *origins: str, host: str = "127.0.0.1", hosts: tuple[str, ...] = (), token: str | None = None
) -> Access:
    return Access(host, frozenset(hosts), frozenset(origins), token)


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:4399", "LOCALHOST:4399", "LocalHost", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:4399",
        "bridge.example", "Bridge.Example:443", "listen.example:4399",
    ],
)  # fmt: skip
def test_a_name_of_the_bridge_is_served(host: str) -> None:
    reply = ask(
        request("GET /open HTTP/1.1", f"Host: {host}"),
        access(host="listen.example", hosts=("BRIDGE.example",)),
    )
    assert reply.status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:4399", "localhost.evil.example", "evil.localhost", "127.0.0.1.evil.example",
        "127.0.0.2", "0.0.0.0", "[::2]", "::1", "[::1]evil.example", "[::1", "localhost@evil.example", "user@localhost",
        "localhost.", "localhost/evil", "localhost:80.evil.example", "localhost,evil.example", "\xe9",
    ],
)  # fmt: skip
def test_another_name_is_refused(host: str) -> None:
    reply = ask(request("GET /open HTTP/1.1", f"Host: {host}"), access())
    assert (reply.status, reply.code) == (403, "host_not_allowed")


def test_the_address_that_was_connected_to_is_a_name_of_the_bridge() -> None:
    reply = ask(request("GET /open HTTP/1.1", "Host: 127.0.0.1:99"), access(host="0.0.0.0"))
    assert reply.status == 200


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:4399", "http://localhost:4399"),
        ("LOCALHOST:4399", "http://localhost:4399"),
        ("127.0.0.1", "http://127.0.0.1"),
        ("[::1]:4399", "http://[::1]:4399"),
    ],
)
def test_a_page_of_the_bridges_own_is_served_without_cors_headers(host: str, origin: str) -> None:
    reply = ask(request("GET /open HTTP/1.1", f"Host: {host}", f"Origin: {origin}"), access())
    assert reply.status == 200
    assert not any(name.startswith("access-control") for name in reply.headers)


@pytest.mark.parametrize(
    ("line", "status"),
    [("GET /open", 200), ("GET /missing", 404), ("PUT /open", 405), ("OPTIONS /closed", 204)],
)
def test_an_allowed_origin_gets_cors_headers_on_every_answer(line: str, status: int) -> None:
    reply = ask(
        request(f"{line} HTTP/1.1", "Origin: https://cms.example"), access("https://cms.example", "https://b")
    )
    assert reply.status == status
    assert reply.headers["access-control-allow-origin"] == "https://cms.example"
    assert reply.headers["vary"] == "Origin"
    assert reply.headers["access-control-expose-headers"] == "*"
    assert "access-control-allow-credentials" not in reply.headers


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example", "null", "", "https://cms.example.evil.example", "https://cms.example:444",
        "http://cms.example", "https://CMS.example/", "https://cms.example/", "https://cms.example, https://evil.example",
        "http://localhost:1", "https://localhost", "file://", "*", "vscode-webview://abc",
    ],
)  # fmt: skip
@pytest.mark.parametrize("line", ["GET /open", "POST /closed", "OPTIONS /closed", "GET /missing"])
def test_another_origin_is_refused_before_any_route(line: str, origin: str) -> None:
    reply = ask(request(f"{line} HTTP/1.1", f"Origin: {origin}"), access("https://cms.example"))
    assert (reply.status, reply.code) == (403, "origin_not_allowed")
    assert not any(name.startswith("access-control") for name in reply.headers)


@pytest.mark.parametrize(
    ("site", "destination", "status"),
    [
        ("cross-site", "image", 403), ("cross-site", "empty", 403), ("cross-site", "iframe", 403),
        ("cross-site", "document", 200), ("same-site", "script", 403), ("same-site", "document", 200),
        ("same-origin", "empty", 200), ("same-origin", "iframe", 200), ("none", "document", 200),
    ],
)  # fmt: skip
def test_what_another_site_embeds_is_refused(site: str, destination: str, status: int) -> None:
    headers = (f"Sec-Fetch-Site: {site}", f"Sec-Fetch-Dest: {destination}")
    assert ask(request("GET /open HTTP/1.1", *headers), access()).status == status


def test_a_preflight_of_an_allowed_origin_is_answered_without_the_token() -> None:
    data = request(
        "OPTIONS /closed HTTP/1.1", "Origin: https://cms.example", "Access-Control-Request-Method: POST"
    )
    reply = ask(data, access("https://cms.example", token=TOKEN))
    assert reply.status == 204
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        assert method in reply.headers["access-control-allow-methods"]
    for name in ("authorization", "content-type", "last-event-id", "idempotency-key"):
        assert name in reply.headers["access-control-allow-headers"].lower()


def test_a_preflight_of_an_allowed_origin_may_ask_for_any_header() -> None:
    asked = "authorization,x-stainless-lang,openai-project"
    data = request(
        "OPTIONS /closed HTTP/1.1", "Origin: https://cms.example", "Access-Control-Request-Method: PATCH",
        f"Access-Control-Request-Headers: {asked}",
    )  # fmt: skip
    reply = ask(data, access("https://cms.example", token=TOKEN))
    assert reply.headers["access-control-allow-headers"] == asked


@pytest.mark.parametrize(
    ("credential", "status"),
    [
        (None, 401),
        ("", 401),
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Bearer {TOKEN.upper()}", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
        ("Bearer", 401),
        ("Bearer \xe9\xff", 401),
    ],
)
def test_the_token(credential: str | None, status: int) -> None:
    header = () if credential is None else (f"Authorization: {credential}",)
    reply = ask(request("GET /closed HTTP/1.1", *header), access(token=TOKEN))
    assert reply.status == status
    if status == 401:
        assert reply.code == "unauthorized"
        assert reply.headers["www-authenticate"].startswith("Bearer")


def test_an_open_route_needs_no_token() -> None:
    assert ask(request("GET /open HTTP/1.1"), access(token=TOKEN)).status == 200


def test_methods_of_a_closed_route_are_not_told_without_the_token() -> None:
    reply = ask(request("PUT /closed HTTP/1.1"), access(token=TOKEN))
    assert reply.status == 401
    assert "allow" not in reply.headers


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("application/json", 200),
        ("Application/JSON", 200),
        ("application/json; charset=utf-8", 200),
        ("application/json ;x=y", 200),
        (None, 415),
        ("", 415),
        ("text/plain", 415),
        ("text/plain; application/json", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/jsonp", 415),
        ("application/json, text/plain", 415),
    ],
)
def test_a_body_says_that_it_is_json(kind: str | None, status: int) -> None:
    header = () if kind is None else (f"Content-Type: {kind}",)
    reply = ask(request("POST /closed HTTP/1.1", "Content-Length: 2", *header, body=b"{}"), access())
    assert reply.status == status
    if status == 415:
        assert reply.code == "unsupported_media_type"


def test_no_body_needs_no_type() -> None:
    assert ask(request("POST /closed HTTP/1.1", "Content-Length: 0"), access()).status == 200
