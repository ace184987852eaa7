"""HTTP/1.1 over raw sockets: framing without doubt, one answer for each request, and the door stays shut otherwise."""

import json

import pytest

from tests.support.bridge import Bridge
from tests.support.raw_http import RawConnection, get, head, post
from tests.support.waiting import BOUND_S

KIB = 1024
MIB = 1024 * KIB


def exchange(one: Bridge, data: bytes) -> tuple[int, str]:
    """Send bytes that have to be refused; return status and code, after the connection has ended."""
    with RawConnection(one.port) as connection:
        connection.send(data)
        reply = connection.reply()
        assert reply.closes, "a connection whose framing is in doubt has to end"
        assert connection.is_closed()
        decoded = json.loads(reply.body)
        assert decoded["ok"] is False
        assert decoded["error"]
        return reply.status, decoded["code"]


def sessions(one: Bridge) -> int:
    """Return how many sessions there are."""
    return int(one.get("/chat/sessions").json["total"])


def test_keep_alive(idle_bridge: Bridge) -> None:
    with RawConnection(idle_bridge.port) as connection:
        for _ in range(3):
            connection.send(get())
            reply = connection.reply()
            assert (reply.status, reply.closes) == (200, False)


@pytest.mark.parametrize("request_bytes", [get("/health", "Connection: close"), get(version="1.0")])
def test_the_connection_ends_when_the_client_wants_it(idle_bridge: Bridge, request_bytes: bytes) -> None:
    with RawConnection(idle_bridge.port) as connection:
        connection.send(request_bytes + get())
        assert connection.reply().status == 200
        assert connection.is_closed()


def test_pipelined_requests_are_answered_in_order(idle_bridge: Bridge) -> None:
    before = sessions(idle_bridge)
    with RawConnection(idle_bridge.port) as connection:
        creating = post(b'{"mode": "entity"}')
        connection.send((get() + creating + get("/no/such/path")) * 20)
        statuses = [connection.reply().status for _ in range(60)]
    assert statuses == [200, 201, 404] * 20
    assert sessions(idle_bridge) == before + 20


def test_a_request_byte_by_byte(idle_bridge: Bridge) -> None:
    with RawConnection(idle_bridge.port) as connection:
        data = post(b'{"mode": "entity"}').replace(b"{port}", str(idle_bridge.port).encode())
        for index in range(len(data)):
            connection.send(data[index : index + 1])
        assert connection.reply().status == 201


def chunked(*chunks: bytes) -> bytes:
    """Frame chunks; the last, empty one included."""
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


@pytest.mark.parametrize(
    "body",
    [
        chunked(b'{"mode": ', b'"entity"}'),
        b'A;name=value\r\n{"mode": "\r\n8\r\nentity"}\r\n0\r\n\r\n',
        b'0012\r\n{"mode": "entity"}\r\n000\r\n\r\n',
        b'12\r\n{"mode": "entity"}\r\n0\r\nTrailer: value\r\n\r\n',
        chunked(*(bytes([byte]) for byte in b'{"mode": "entity"}')),
    ],
    ids=["two", "extension", "zeros", "trailer", "bytes"],
)
def test_chunked_bodies(idle_bridge: Bridge, body: bytes) -> None:
    with RawConnection(idle_bridge.port) as connection:
        connection.send(post(body, "Transfer-Encoding: chunked", sized=False) + get())
        reply = connection.reply()
        assert (reply.status, json.loads(reply.body)["session"]["mode"]) == (201, "entity")
        assert connection.reply().status == 200


def test_expect_100_continue(idle_bridge: Bridge) -> None:
    with RawConnection(idle_bridge.port) as connection:
        body = b'{"mode": "entity"}'
        connection.send(post(body, "Expect: 100-continue").removesuffix(body))
        assert connection.reply().status == 100
        connection.send(body + get())
        assert connection.reply().status == 201
        assert connection.reply().status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Content-Type: text/plain", "Content-Length: 2"], 415),
        (["Content-Type: application/json", "Content-Length: 900000000"], 413),
        (["Content-Type: application/json", "Content-Length: 2", "Origin: http://evil.example"], 403),
    ],
)
def test_a_refused_body_is_not_asked_for(idle_bridge: Bridge, headers: list[str], status: int) -> None:
    lines = ["POST /chat/sessions HTTP/1.1", "Host: 127.0.0.1:{port}", "Expect: 100-continue", *headers]
    with RawConnection(idle_bridge.port) as connection:
        connection.send(("\r\n".join(lines) + "\r\n\r\n").encode())
        assert connection.reply().status == status


@pytest.mark.parametrize("path", ["/health", "/runtime/info", "/chat/sessions", "/no/such/path"])
def test_head_is_get_without_a_body(idle_bridge: Bridge, path: str) -> None:
    with RawConnection(idle_bridge.port) as connection:
        connection.send(get(path))
        whole = connection.reply()
        connection.send(get(path).replace(b"GET", b"HEAD") + get())
        head = connection.reply(head_only=True)
        assert head.status == whole.status
        assert head.headers.keys() == whole.headers.keys()
        assert head.headers["content-type"] == whole.headers["content-type"]
        assert connection.reply().status == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/health", {"GET", "HEAD"}),
        ("DELETE", "/runtime/info", {"GET", "HEAD"}),
        ("PUT", "/chat/sessions", {"GET", "HEAD", "POST", "DELETE"}),
        ("PATCH", "/chat/sessions/s_x", {"GET", "HEAD", "DELETE"}),
        ("GET", "/chat/sessions/s_x/messages", {"POST"}),
        ("GET", "/chat/sessions/s_x/interrupt", {"POST"}),
        ("POST", "/chat/sessions/s_x/stream", {"GET", "HEAD"}),
        ("BREW", "/health", {"GET", "HEAD"}),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(
    idle_bridge: Bridge, method: str, path: str, allowed: set[str]
) -> None:
    reply = idle_bridge.request(method, path, b"{}", Content_Type="application/json")
    assert (reply.status, reply.json["code"]) == (405, "method_not_allowed")
    assert {name.strip() for name in reply.headers["allow"].split(",")} - {"OPTIONS"} == allowed


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "//",
        "/nothing",
        "/health/",
        "/health/more",
        "/chat",
        "/chat/sessions/",
        "/chat/sessions/x/y",
        "/%00",
        "/../health",
    ],
)
def test_an_unknown_path(idle_bridge: Bridge, path: str) -> None:
    reply = idle_bridge.get(path)
    assert (reply.status, reply.json["ok"], reply.json["code"]) == (404, False, "not_found")
    assert reply.headers["content-type"].split(";")[0] == "application/json"


def test_a_query_and_an_absolute_target_are_understood(idle_bridge: Bridge) -> None:
    with RawConnection(idle_bridge.port) as connection:
        for target in ("/health?x=1&y", "http://127.0.0.1:{port}/health"):
            connection.send(get(target))
            assert connection.reply().status == 200, target


HOST = "Host: 127.0.0.1:{port}"
JSON_BODY = "Content-Type: application/json"
POST = "POST /chat/sessions HTTP/1.1"

BAD_FRAMING = {
    "length beside chunked": head(POST, HOST, JSON_BODY, "Content-Length: 2", "Transfer-Encoding: chunked")
    + b"0\r\n\r\n",
    "chunked beside length": head(POST, HOST, JSON_BODY, "Transfer-Encoding: chunked", "Content-Length: 2")
    + b"0\r\n\r\n",
    "two lengths": head(POST, HOST, JSON_BODY, "Content-Length: 2", "Content-Length: 3") + b"{}",
    "the same length twice": head(POST, HOST, JSON_BODY, "Content-Length: 2", "Content-Length: 2") + b"{}",
    "a list of lengths": head(POST, HOST, JSON_BODY, "Content-Length: 2, 2") + b"{}",
    "a length with a sign": head(POST, HOST, JSON_BODY, "Content-Length: +2") + b"{}",
    "a negative length": head(POST, HOST, JSON_BODY, "Content-Length: -2") + b"{}",
    "a hexadecimal length": head(POST, HOST, JSON_BODY, "Content-Length: 0x2") + b"{}",
    "an underscore in the length": head(POST, HOST, JSON_BODY, "Content-Length: 0_2") + b"{}",
    "an empty length": head(POST, HOST, JSON_BODY, "Content-Length:") + b"{}",
    "a length of other digits": head(POST, HOST, JSON_BODY, "Content-Length: \xb2") + b"{}",
    "an endless length": head(POST, HOST, JSON_BODY, "Content-Length: " + "9" * 5000) + b"{}",
    "chunked twice": head(POST, HOST, JSON_BODY, "Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n",
    "chunked in two headers": head(POST, HOST, JSON_BODY, *["Transfer-Encoding: chunked"] * 2) + b"0\r\n\r\n",
    "an unknown coding": head(POST, HOST, JSON_BODY, "Transfer-Encoding: xchunked") + b"0\r\n\r\n",
    "chunked before another": head(POST, HOST, JSON_BODY, "Transfer-Encoding: chunked, identity")
    + b"0\r\n\r\n",
    "an empty coding": head(POST, HOST, JSON_BODY, "Transfer-Encoding:") + b"0\r\n\r\n",
    "a vertical tab in the coding": head(POST, HOST, JSON_BODY, "Transfer-Encoding: \x0bchunked")
    + b"0\r\n\r\n",
    "chunked in HTTP/1.0": head("POST /chat/sessions HTTP/1.0", HOST, JSON_BODY, "Transfer-Encoding: chunked")
    + b"0\r\n\r\n",
    "a folded header": head("GET /health HTTP/1.1", HOST, "X-Folded: one", " two"),
    "a first header that is folded": head("GET /health HTTP/1.1", " X: y", HOST),
    "bare line feeds": b"GET /health HTTP/1.1\nHost: 127.0.0.1:{port}\n\n",
    "one bare line feed": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{port}\nX: y\r\n\r\n",
    "a bare carriage return": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{port}\rX: y\r\n\r\n",
    "a space before the colon": head("GET /health HTTP/1.1", HOST, "X-Name : value"),
    "a header without a colon": head("GET /health HTTP/1.1", HOST, "X-Name"),
    "a header without a name": head("GET /health HTTP/1.1", HOST, ": value"),
    "a bracket in a name": head("GET /health HTTP/1.1", HOST, "X[Name]: value"),
    "a letter beyond ASCII in a name": head("GET /health HTTP/1.1", HOST, "X-N\xe4me: value"),
    "a NUL in a value": head("GET /health HTTP/1.1", HOST, "X-Name: va\0lue"),
    "a control character in a value": head("GET /health HTTP/1.1", HOST, "X-Name: va\x08lue"),
    "no host": head("GET /health HTTP/1.1", "X-Name: value"),
    "two hosts": head("GET /health HTTP/1.1", HOST, HOST),
    "two spaces in the request line": head("GET  /health HTTP/1.1", HOST),
    "a tab in the request line": head("GET\t/health HTTP/1.1", HOST),
    "a space in the target": head("GET /hea lth HTTP/1.1", HOST),
    "a control character in the target": head("GET /hea\x01lth HTTP/1.1", HOST),
    "no version": head("GET /health", HOST),
    "a version in lower case": head("GET /health http/1.1", HOST),
    "a strange version": head("GET /health HTTP/1.10", HOST),
    "a strange method": head("G(T /health HTTP/1.1", HOST),
    "no target": head("GET HTTP/1.1", HOST),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n",
}


@pytest.mark.parametrize("data", BAD_FRAMING.values(), ids=BAD_FRAMING.keys())
def test_bad_framing_is_refused(idle_bridge: Bridge, data: bytes) -> None:
    smuggled = post(b'{"mode": "entity"}')
    before = sessions(idle_bridge)
    status, code = exchange(idle_bridge, data + smuggled)
    assert (status, code) in ((400, "malformed_request"), (501, "not_implemented"))
    assert sessions(idle_bridge) == before


BAD_CHUNKS = {
    "no number": b"zz\r\n{}\r\n0\r\n\r\n",
    "a prefix": b"0x2\r\n{}\r\n0\r\n\r\n",
    "a sign": b"+2\r\n{}\r\n0\r\n\r\n",
    "a negative size": b"-2\r\n{}\r\n0\r\n\r\n",
    "a leading space": b" 2\r\n{}\r\n0\r\n\r\n",
    "an underscore": b"0_2\r\n{}\r\n0\r\n\r\n",
    "an empty size": b"\r\n{}\r\n0\r\n\r\n",
    "bare line feeds": b"2\n{}\n0\n\n",
    "data longer than its size": b"2\r\n{}{}\r\n0\r\n\r\n",
    "data without its end": b"2\r\n{}0\r\n\r\n",
    "a line without an end": b"2;" + b"x" * 5000,
    "a size beyond all bounds": b"f" * 40 + b"\r\n",
    "a bad trailer": b"2\r\n{}\r\n0\r\nbad trailer\r\n\r\n",
}


@pytest.mark.parametrize("body", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
def test_bad_chunks_are_refused(idle_bridge: Bridge, body: bytes) -> None:
    before = sessions(idle_bridge)
    framed = post(body, "Transfer-Encoding: chunked", sized=False)
    status, _ = exchange(idle_bridge, framed)
    assert status in (400, 413)
    assert sessions(idle_bridge) == before


def test_an_old_and_a_new_version_are_refused(idle_bridge: Bridge) -> None:
    for version in ("2.0", "3.0", "0.9"):
        status, _ = exchange(idle_bridge, head(f"GET /health HTTP/{version}", HOST))
        assert status in (400, 505), version


def test_a_bad_request_does_not_spoil_the_one_before_it(idle_bridge: Bridge) -> None:
    with RawConnection(idle_bridge.port) as connection:
        connection.send(get() + b"nonsense\r\n\r\n" + get())
        assert connection.reply().status == 200
        assert connection.reply().status == 400
        assert connection.is_closed()


def test_a_long_target_and_a_long_header_are_refused(idle_bridge: Bridge) -> None:
    assert exchange(idle_bridge, get("/" + "x" * 200 * KIB))[0] in (414, 431)
    assert exchange(idle_bridge, get("/health", "X-Long: " + "x" * 200 * KIB)) == (431, "headers_too_large")


def test_a_head_without_an_end_is_refused(idle_bridge: Bridge) -> None:
    assert exchange(idle_bridge, b"GET /health HTTP/1.1\r\nX: " + b"x" * 200 * KIB)[0] == 431


def test_too_many_headers_are_refused(idle_bridge: Bridge) -> None:
    many = [f"X-Header-{number}: x" for number in range(500)]
    assert exchange(idle_bridge, get("/health", *many)) == (431, "headers_too_large")


def test_a_body_too_large_is_refused_before_it_comes(idle_bridge: Bridge) -> None:
    lines = head(POST, HOST, JSON_BODY, f"Content-Length: {50 * MIB}")
    assert exchange(idle_bridge, lines) == (413, "body_too_large")


def test_a_chunked_body_too_large_is_refused_on_its_way(idle_bridge: Bridge) -> None:
    with RawConnection(idle_bridge.port) as connection:
        connection.send(head(POST, HOST, JSON_BODY, "Transfer-Encoding: chunked"))
        for _ in range(50):
            connection.send(b"100000\r\n" + b" " * MIB + b"\r\n")
        reply = connection.reply()
    assert (reply.status, json.loads(reply.body)["code"]) == (413, "body_too_large")


def test_a_refusal_is_read_by_a_client_that_still_writes(idle_bridge: Bridge) -> None:
    with RawConnection(idle_bridge.port) as connection:
        connection.send(head(POST, HOST, "Content-Type: text/plain", f"Content-Length: {4 * MIB}"))
        connection.send(b" " * MIB)
        assert connection.reply().status == 415


@pytest.mark.parametrize(
    "part", [b"", b"GET", get()[:-2], post(b"{}", "Expect: 100-continue")[:-2], post(b'{"mode"', "X: y")[:-4]]
)
def test_a_client_that_leaves_in_mid_request_is_forgotten(idle_bridge: Bridge, part: bytes) -> None:
    before = sessions(idle_bridge)
    for _ in range(20):
        with RawConnection(idle_bridge.port) as connection:
            connection.send(part)
    with RawConnection(idle_bridge.port) as connection:
        connection.send(part)
        connection.end()
    assert idle_bridge.get("/health").status == 200
    assert sessions(idle_bridge) == before


def test_many_connections_at_once(idle_bridge: Bridge) -> None:
    connections = [RawConnection(idle_bridge.port) for _ in range(300)]
    try:
        for connection in connections:
            connection.send(get())
        assert {connection.reply().status for connection in connections} == {200}
    finally:
        for connection in connections:
            connection.__exit__(None, None, None)


BAD_BODIES = {
    "no JSON": (b"{", 400, "invalid_json"),
    "not UTF-8": (b'{"mode": "\xff"}', 400, "invalid_json"),
    "not a number": (b'{"context": {"x": NaN}}', 400, "invalid_json"),
    "text after it": (b"{} {}", 400, "invalid_json"),
    "very deep": (b"[" * 200_000, 400, "invalid_json"),
    "very deep and whole": (
        b'{"context": ' + b'{"x":' * 100_000 + b"1" + b"}" * 100_001,
        400,
        "invalid_json",
    ),
    "a list": (b"[]", 400, "invalid_json"),
    "a string": (b'"text"', 400, "invalid_json"),
    "null": (b"null", 400, "invalid_json"),
}


@pytest.mark.parametrize(("body", "status", "code"), BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_bad_json(idle_bridge: Bridge, body: bytes, status: int, code: str) -> None:
    reply = idle_bridge.request("POST", "/chat/sessions", body, Content_Type="application/json")
    assert (reply.status, reply.json["ok"], reply.json["code"]) == (status, False, code)


def test_a_slow_client_does_not_hold_up_others(idle_bridge: Bridge) -> None:
    with RawConnection(idle_bridge.port) as slow:
        slow.send(post(b'{"mode": "entity"}')[:-3])
        assert idle_bridge.get("/health").status == 200
        slow.send(b'y"}')
        assert slow.reply().status == 201


def test_a_head_that_never_ends_is_given_up(idle_bridge: Bridge) -> None:
    assert BOUND_S > 20, "the bridge gives a head ten seconds"
    with RawConnection(idle_bridge.port) as connection:
        connection.send(b"GET /health HTTP/1.1\r\n")
        reply = connection.reply()
        assert (reply.status, json.loads(reply.body)["code"]) == (408, "request_timeout")
        assert connection.is_closed()
