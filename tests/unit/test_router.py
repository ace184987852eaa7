"""The route table: methods, segments, HEAD, OPTIONS, odd paths; and the reading of fields."""

from typing import Any

import pytest

from codex_bridge.adapters.http_server import Request, Response
from codex_bridge.api import fields, replies
from codex_bridge.api.access import Access
from codex_bridge.api.router import Route, Router
from codex_bridge.errors import InvalidField
from codex_bridge.protocol import json_codec
from tests.unit.loop import run
from tests.unit.wire import Reply, exchange, request


def named(name: str) -> Any:
    async def handle(request: Request) -> Response:
        return replies.ok(route=name, values=list(request.path_values), query=request.query)

    return handle


ROUTES = [
    ("GET", "/"), ("GET", "/health"), ("POST", "/things"), ("GET", "/things"), ("GET", "/things/:id"),
    ("DELETE", "/things/:id"), ("POST", "/things/:id/parts/:part"), ("GET", "/things/fixed"), ("HEAD", "/own"),
    ("GET", "/own"),
]  # fmt: skip


def ask(line: str) -> Reply:
    access = Access("127.0.0.1", frozenset(), frozenset(), None)
    router = Router(
        [Route(method, path, named(f"{method} {path}")) for method, path in ROUTES], access, lambda: None
    )
    data = request(f"{line} HTTP/1.1")
    return run(lambda: exchange(router.handle, data, head_only=line.startswith("HEAD")))


@pytest.mark.parametrize(
    ("line", "route", "values", "query"),
    [
        ("GET /", "GET /", [], ""),
        ("GET /health", "GET /health", [], ""),
        ("GET /health?a=b&c", "GET /health", [], "a=b&c"),
        ("GET http://localhost/health?a", "GET /health", [], "a"),
        ("POST /things", "POST /things", [], ""),
        ("GET /things/x", "GET /things/:id", ["x"], ""),
        ("GET /things/fixed", "GET /things/fixed", [], ""),
        ("DELETE /things/x-_.~", "DELETE /things/:id", ["x-_.~"], ""),
        ("POST /things/1/parts/2", "POST /things/:id/parts/:part", ["1", "2"], ""),
        ("GET /things/a%2Fb", "GET /things/:id", ["a%2Fb"], ""),
        ("GET /things/..", "GET /things/:id", [".."], ""),
        ("GET /things/:id", "GET /things/:id", [":id"], ""),
    ],
)
def test_a_route_is_found(line: str, route: str, values: list[str], query: str) -> None:
    reply = ask(line)
    assert reply.status == 200
    assert json_codec.decode(reply.body) == {"ok": True, "route": route, "values": values, "query": query}


@pytest.mark.parametrize(
    "line",
    [
        "GET //", "GET //health", "GET /health/", "GET /Health", "GET /health/x", "GET /things/", "GET /things//",
        "GET /things/x/", "POST /things//parts/2", "POST /things/1/parts/", "POST /things/1/parts/2/3", "GET /x/../health",
        "GET /./health", "GET /health%00", "GET /health%2F", "GET /things%2Fx", "GET health", "GET *", "OPTIONS *",
        "GET /health;a=b", "GET /health#x", "OPTIONS /nothing", "HEAD /nothing", "GET ?health",
    ],
)  # fmt: skip
def test_an_odd_path_is_not_found(line: str) -> None:
    reply = ask(line)
    assert reply.status == 404
    if not line.startswith("HEAD"):
        assert reply.code == "not_found"


@pytest.mark.parametrize(
    ("line", "allow"),
    [
        ("POST /health", "GET, HEAD, OPTIONS"),
        ("TRACE /health", "GET, HEAD, OPTIONS"),
        ("get /health", "GET, HEAD, OPTIONS"),
        ("PUT /things", "GET, HEAD, OPTIONS, POST"),
        ("PATCH /things/x", "DELETE, GET, HEAD, OPTIONS"),
        ("GET /things/1/parts/2", "OPTIONS, POST"),
        ("HEAD /things/1/parts/2", "OPTIONS, POST"),
    ],
)
def test_another_method_is_refused_with_those_that_are_allowed(line: str, allow: str) -> None:
    reply = ask(line)
    assert reply.status == 405
    assert reply.headers["allow"] == allow
    if not line.startswith("HEAD"):
        assert reply.code == "method_not_allowed"


@pytest.mark.parametrize("path", ["/health", "/things/x", "/", "/own"])
def test_head_answers_as_get_does_but_without_a_body(path: str) -> None:
    got, head = ask(f"GET {path}"), ask(f"HEAD {path}")
    assert head.status == 200
    assert head.headers["content-type"] == got.headers["content-type"]
    # The own HEAD of a path answers with its own name, one letter longer.
    assert int(head.headers["content-length"]) - len(got.body) == (1 if path == "/own" else 0)


@pytest.mark.parametrize(
    ("path", "allow"), [("/health", "GET, HEAD, OPTIONS"), ("/things/x", "DELETE, GET, HEAD, OPTIONS")]
)
def test_options_tells_the_methods(path: str, allow: str) -> None:
    reply = ask(f"OPTIONS {path}")
    assert (reply.status, reply.body, reply.headers["allow"]) == (204, b"", allow)


def read_query(query: str, most: int = 200) -> int:
    found: list[int] = []

    async def handle(request: Request) -> Response:
        values = fields.query_fields(request, frozenset({"limit"}))
        found.append(fields.whole_number_field(values, "limit", 50, most))
        return replies.ok()

    reply = run(lambda: exchange(handle, request(f"GET /?{query} HTTP/1.1")))
    if reply.status != 200:
        assert (reply.status, reply.code) == (422, "invalid_field")
        raise InvalidField(json_codec.decode(reply.body)["field"], "")
    return found[0]


@pytest.mark.parametrize(
    ("query", "number"), [("", 50), ("limit=1", 1), ("limit=200", 200), ("limit=%31", 1), ("limit=007", 7)]
)
def test_a_number_in_a_query(query: str, number: int) -> None:
    assert read_query(query) == number


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"), ("limit=201", "limit"), ("limit=-1", "limit"), ("limit=+1", "limit"), ("limit=", "limit"),
        ("limit", "limit"), ("limit=1.0", "limit"), ("limit=abc", "limit"), ("limit=%D9%A1", "limit"),
        ("limit=99999999999999999999", "limit"), ("limit=0000001500", "limit"), ("limit=00000000119999999999", "limit"),
        ("limit=1%00", "limit"), ("other=1", "other"), ("limit=1&x", "x"),
    ],
)  # fmt: skip
def test_a_query_that_is_not_acceptable_is_named(query: str, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        read_query(query)
    assert caught.value.details == {"field": field}


def post(body: bytes) -> Reply:
    async def handle(request: Request) -> Response:
        value = await fields.read_object(request, frozenset({"text", "object"}))
        return replies.ok(
            text=fields.text_field(value, "text", 10), object=fields.object_field(value, "object")
        )

    data = request("POST / HTTP/1.1", f"Content-Length: {len(body)}", body=body)
    return run(lambda: exchange(handle, data))


@pytest.mark.parametrize(
    ("body", "text", "value"),
    [
        (b'{"text":"a"}', "a", {}),
        (b'{"text":" a ","object":null}', " a ", {}),
        (b'{"text":"0123456789","object":{"b":[1]}}', "0123456789", {"b": [1]}),
    ],
)
def test_fields_of_a_body(body: bytes, text: str, value: object) -> None:
    reply = post(body)
    assert json_codec.decode(reply.body) == {"ok": True, "text": text, "object": value}


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"", 422, "invalid_field", "text"),
        (b" \n", 422, "invalid_field", "text"),
        (b"{}", 422, "invalid_field", "text"),
        (b'{"text":""}', 422, "invalid_field", "text"),
        (b'{"text":" \\n"}', 422, "invalid_field", "text"),
        (b'{"text":7}', 422, "invalid_field", "text"),
        (b'{"text":null}', 422, "invalid_field", "text"),
        (b'{"text":"01234567890"}', 422, "invalid_field", "text"),
        (b'{"text":"a","object":[]}', 422, "invalid_field", "object"),
        (b'{"text":"a","object":"b"}', 422, "invalid_field", "object"),
        (b'{"text":"a","more":1}', 422, "invalid_field", "more"),
        (b"[]", 400, "invalid_json", None),
        (b'"text"', 400, "invalid_json", None),
        (b"{", 400, "invalid_json", None),
        (b'{"text":"\xff"}', 400, "invalid_json", None),
    ],
)
def test_a_body_that_is_not_acceptable(body: bytes, status: int, code: str, field: str | None) -> None:
    reply = post(body)
    value = json_codec.decode(reply.body)
    assert (reply.status, value["ok"], value["code"], value.get("field")) == (status, False, code, field)
    assert isinstance(value["error"], str)
