"""The proxy under /v1, byte for byte: what an odd or hostile upstream says, and what an odd or hostile client asks."""

import http.client
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from codex_bridge.limits import MAX_HEAD_BYTES, MAX_HEADER_COUNT
from tests.conftest import turnless_bridge
from tests.support import processes
from tests.support.bridge import API_KEY, Bridge
from tests.support.raw_http import RawConnection, get, head
from tests.support.raw_upstream import RawUpstream, receive
from tests.support.waiting import BOUND_S, wait_until

KEPT = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
OK = KEPT.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
MIB = 1 << 20


@pytest.fixture(scope="module")
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Bridge, RawUpstream]]:
    server = RawUpstream()
    try:
        with turnless_bridge(request, tmp_path_factory.mktemp("wire"), server.base_url) as one:
            yield one, server
    finally:
        server.stop()


@pytest.fixture
def one(shared: tuple[Bridge, RawUpstream]) -> Bridge:
    return shared[0]


@pytest.fixture
def behind(shared: tuple[Bridge, RawUpstream]) -> RawUpstream:
    shared[1].heads.clear()
    shared[1].answer = OK
    return shared[1]


Fields = list[tuple[str, str]]
LENGTH_2 = ("content-length", "2")
CHUNKED = ("transfer-encoding", "chunked")

# What the upstream says behind "HTTP/1.1 ", and what the client gets: status, reason, headers, body.
ANSWERS: dict[str, tuple[bytes, int, str, Fields, bytes]] = {
    "repeated headers stay apart": (
        b"200 OK\r\nSet-Cookie: a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT\r\nSet-Cookie: b=2\r\n"
        b"Content-Length: 2\r\n\r\nok",
        200, "OK", [("set-cookie", "a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT"), ("set-cookie", "b=2"), LENGTH_2],
        b"ok",
    ),
    "a length beside a transfer coding is void": (
        b"200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        200, "OK", [CHUNKED], b"hello",
    ),
    "compressed stays compressed": (
        b"200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\x1f\x8b\x08\x00\r\n0\r\n\r\n",
        200, "OK", [("content-encoding", "gzip"), CHUNKED], b"\x1f\x8b\x08\x00",
    ),
    "interim answers are not passed on": (
        b"100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK, 200, "OK", [LENGTH_2], b"ok",
    ),
    "trailers are dropped": (
        b"200 OK\r\nTrailer: X-T\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nX-T: 1\r\n\r\n",
        200, "OK", [CHUNKED], b"ok",
    ),
    "headers of one connection are dropped": (
        b"200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\n"
        b"Upgrade: h2c\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 2\r\n\r\nok",
        200, "OK", [LENGTH_2], b"ok",
    ),
    "204": (b"204 No Content\r\nX-A: 1\r\nContent-Length: 5\r\n\r\n", 204, "No Content", [("x-a", "1")], b""),
    "205": (b"205 Reset\r\nContent-Length: 0\r\n\r\n", 205, "Reset", [("content-length", "0")], b""),
    "304": (b'304 Same\r\nETag: "x"\r\nContent-Length: 500\r\n\r\n', 304, "Same", [("etag", '"x"')], b""),
    "an empty error keeps its words": (
        b"401 Go Away\r\nContent-Length: 0\r\n\r\n", 401, "Go Away", [("content-length", "0")], b"",
    ),
    "an unknown status": (b"599 Odd\r\nContent-Length: 2\r\n\r\nok", 599, "Odd", [LENGTH_2], b"ok"),
    "no reason": (b"200\r\nContent-Length: 2\r\n\r\nok", 200, "", [LENGTH_2], b"ok"),
    "until the connection ends": (b"200 OK\r\n\r\nsome text", 200, "OK", [CHUNKED], b"some text"),
    "HTTP/1.0": (b"\bHTTP/1.0 200 OK\r\n\r\nsome text", 200, "OK", [CHUNKED], b"some text"),
    "bytes that are no ASCII": (
        b"200 \xc3\xbc\r\nX-A: \xdf\xc3\xbc\r\nContent-Length: 2\r\n\r\nok",
        200, "\xc3\xbc", [("x-a", "\xdf\xc3\xbc"), LENGTH_2], b"ok",
    ),
    "a second answer that nobody asked for": (
        KEPT.removeprefix(b"HTTP/1.1 ") + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", 200, "OK", [LENGTH_2], b"ok",
    ),
    "a head as long as it may be": (
        b"200 OK\r\nX-A: " + b"a" * (MAX_HEAD_BYTES - 100) + b"\r\nContent-Length: 2\r\n\r\nok",
        200, "OK", [("x-a", "a" * (MAX_HEAD_BYTES - 100)), LENGTH_2], b"ok",
    ),
}  # fmt: skip
OURS = {"date", "content-security-policy"}


def answered(connection: http.client.HTTPConnection) -> tuple[int, str, Fields, bytes]:
    """Read an answer without what the bridge itself adds to each."""
    response = connection.getresponse()
    fields = [(name.lower(), value) for name, value in response.getheaders() if name.lower() not in OURS]
    return response.status, response.reason, sorted(fields), response.read()


@pytest.mark.parametrize("name", ANSWERS)
def test_what_an_upstream_says(one: Bridge, behind: RawUpstream, name: str) -> None:
    said, status, reason, fields, body = ANSWERS[name]
    behind.answer = b"HTTP/1.1 " + said if not said.startswith(b"\b") else said[1:]
    connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=BOUND_S)
    try:
        connection.request("GET", "/v1/x")
        assert answered(connection) == (status, reason, sorted(fields), body)
        # The connection is in step: the next answer is the next one's.
        connection.request("GET", "/health")
        assert answered(connection)[3].startswith(b'{"ok":true')
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("said", "fields"),
    [
        (b"200 OK\r\nContent-Length: 700\r\n\r\n", [("content-length", "700")]),
        (b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", [CHUNKED]),
        (b"200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n", [CHUNKED]),
        (b"200 OK\r\nContent-Length: 5, 5\r\n\r\n", [CHUNKED]),
        (b"204 OK\r\n\r\n", []),
    ],
)
def test_what_an_upstream_says_to_a_head(
    one: Bridge, behind: RawUpstream, said: bytes, fields: Fields
) -> None:
    behind.answer = b"HTTP/1.1 " + said
    connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=BOUND_S)
    try:
        connection.request("HEAD", "/v1/x")
        assert answered(connection)[2:] == (fields, b"")
        connection.request("GET", "/health")
        assert answered(connection)[0] == 200
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"", "closed the connection before it answered"),
        (b"HTTP/1.1 200 OK\r\nContent-", "closed the connection before it answered"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", "another protocol (101)"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/2 200\r\nContent-Length: 2\r\n\r\nok", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nX-A: a\r\n b\r\nContent-Length: 2\r\n\r\nok", "no header line"),
        (b"HTTP/1.1 200 OK\r\nX-A : a\r\nContent-Length: 2\r\n\r\nok", "no header line"),
        (b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 2\r\n\r\nok", "no header line"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "Transfer-Encoding"),
        (b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 4 * MAX_HEAD_BYTES, f"longer than {MAX_HEAD_BYTES} bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-A: a\r\n" * (MAX_HEADER_COUNT + 1) + b"\r\n", "headers came"),
    ],
)
def test_an_upstream_that_is_not_understood(one: Bridge, behind: RawUpstream, said: bytes, why: str) -> None:
    behind.answer = said
    reply = one.get("/v1/x")
    assert (reply.status, reply.json["code"] in ("upstream_error", "upstream_disconnected")) == (502, True)
    assert why in reply.json["error"]
    assert API_KEY not in reply.json["error"]


@pytest.mark.parametrize(
    "target",
    [
        "/v1/",
        "/v1//a//b/",
        "/v1/a%2Fb%zz%00?x=%41&y=+&z&&",
        "/v1/a??b?#c",
        "/v1/a;b=c/...",
        "/v1/%e4%b8%ad/%252e%252e/x",
        '/v1/a"b<c>|{}^`',
        "/v1/models/org/model:tag@sha256",
    ],
)
def test_a_target_is_passed_on_byte_for_byte(one: Bridge, behind: RawUpstream, target: str) -> None:
    with RawConnection(one.port) as client:
        client.send(get(target))
        assert client.reply().status == 200
    assert behind.lines[0] == f"GET {target} HTTP/1.1"


@pytest.mark.parametrize("target", ["/v1/..;/x", "/v1/a/%2E%2e%3Bv=1/x", "/v1/.;/x"])
def test_a_target_with_parameters_cannot_climb_out(one: Bridge, behind: RawUpstream, target: str) -> None:
    assert one.get(target).status == 400
    assert behind.heads == []


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        (["X-A: 1", "x-a: 2"], ["x-a: 1, 2"]),
        (["X-A: gr\xfc\xdf", "X-Empty:"], ["x-a: gr\xfc\xdf", "x-empty: "]),
        (["Connection: X-Q, authorization, host, te", "X-Q: 1", "TE: trailers"], []),
        (["Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: x"], []),
        (["Authorization: Bearer mine", "Proxy-Authorization: Basic x", "Proxy-Connection: keep-alive"], []),
        (["Expect: something", "Keep-Alive: 5"], []),
        (["Origin: http://127.0.0.1:{port}", "Referer: http://127.0.0.1:{port}/"], ["referer: http://127.0.0.1:{port}/"]),
        (["Accept-Encoding: gzip, br", "Range: bytes=0-1"], ["accept-encoding: gzip, br", "range: bytes=0-1"]),
    ],
)  # fmt: skip
def test_headers_that_travel(one: Bridge, behind: RawUpstream, sent: list[str], seen: list[str]) -> None:
    with RawConnection(one.port) as client:
        client.send(get("/v1/x", *sent))
        assert client.reply().status == 200
    upstream = f"Host: {behind.base_url.removeprefix('http://').removesuffix('/v1')}"
    ours = [upstream, f"Authorization: Bearer {API_KEY}"]
    assert behind.lines[1:] == [line.replace("{port}", str(one.port)) for line in seen] + ours


@pytest.mark.parametrize("method", ["PURGE", "M-SEARCH", "PATCH", "OPTIONS", "get"])
def test_any_method_travels(one: Bridge, behind: RawUpstream, method: str) -> None:
    assert one.request(method, "/v1/x").status == 200
    assert behind.lines[0] == f"{method} /v1/x HTTP/1.1"


WEBSOCKET = [
    "Connection: Upgrade",
    "Upgrade: WebSocket",
    "Sec-WebSocket-Key: eA==",
    "Sec-WebSocket-Version: 13",
]


@pytest.mark.parametrize(
    ("line", "headers", "status"),
    [
        ("TRACE /v1/x HTTP/1.1", [], 501),  # an upstream that echoes it shows the key
        ("Trace /v1/x HTTP/1.1", [], 501),
        ("CONNECT /v1/x HTTP/1.1", [], 501),
        ("GET /v1/realtime HTTP/1.1", WEBSOCKET, 501),
        ("POST /v1/x HTTP/1.1", ["Content-Length: 3", "Transfer-Encoding: chunked"], 400),
        ("POST /v1/x HTTP/1.1", ["Content-Length: 3", "Content-Length: 3"], 400),
        ("POST /v1/x HTTP/1.1", ["Transfer-Encoding : chunked"], 400),
        ("POST /v1/x HTTP/1.1", ["Transfer-Encoding: xchunked"], 501),
        ("POST /v1/x HTTP/1.1", ["Host: other"], 400),
        ("POST /v1/x HTTP/1.1", ["Authorization: Bearer a", "Authorization: Bearer b"], 400),
        ("POST /v1/x HTTP/1.1", ["X-A: 1\nX-B: 2"], 400),
        ("POST /v1/x HTTP/1.1", ["X-A: 1\rX-B: 2"], 400),
    ],
)
def test_what_is_refused_never_reaches_the_upstream(
    one: Bridge, behind: RawUpstream, line: str, headers: list[str], status: int
) -> None:
    with RawConnection(one.port) as client:
        client.send(head(line, "Host: 127.0.0.1:{port}", *headers))
        assert client.reply().status == status
    assert behind.heads == []


def test_a_request_inside_a_body_is_no_request(one: Bridge, behind: RawUpstream) -> None:
    inside = b"DELETE /chat/sessions HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    bodies: list[bytes] = []

    def take(connection: socket.socket, body: bytes) -> None:
        if len(bodies) < 2:
            bodies.append(receive(connection, body, lambda data: len(data) >= len(inside)))
        connection.sendall(OK)

    behind.answer = take
    with RawConnection(one.port) as client:
        asked = head("POST /v1/x HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(inside)}")
        client.send((asked + inside) * 2 + get("/v1/last", "Connection: close"))
        assert [client.reply().status for _ in range(3)] == [200, 200, 200]
        assert client.is_closed()
    assert bodies == [inside] * 2
    assert len(behind.heads) == 3


def test_a_client_that_waits_for_the_word_to_go_on(one: Bridge, behind: RawUpstream) -> None:
    def echo(connection: socket.socket, body: bytes) -> None:
        body = receive(connection, body, lambda data: len(data) >= 5)
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n" + body)

    behind.answer = echo
    with RawConnection(one.port) as client:
        client.send(
            head("POST /v1/x HTTP/1.1", "Host: 127.0.0.1", "Content-Length: 5", "Expect: 100-continue")
        )
        assert client.reply().status == 100
        client.send(b"hello")
        assert client.reply().body == b"hello"
    assert not [line for line in behind.lines if line.lower().startswith("expect")]


FRAMINGS = [f"Content-Length: {8 * MIB}", "Transfer-Encoding: chunked"]
REFUSAL = b"HTTP/1.1 413 Too Big\r\nContent-Length: 7\r\n\r\ntoo big"


def upload(framing: str) -> list[bytes]:
    """Return a head and the pieces of a body of 8 MiB."""
    asked = head("POST /v1/files HTTP/1.1", "Host: 127.0.0.1", framing)
    if framing.startswith("Content"):
        return [asked, *[b"x" * MIB] * 8]
    return [asked, *[b"%x\r\n" % MIB + b"x" * MIB + b"\r\n"] * 8, b"0\r\n\r\n"]


@pytest.mark.parametrize("framing", FRAMINGS)
def test_an_answer_before_the_body_was_sent(one: Bridge, behind: RawUpstream, framing: str) -> None:
    def refuse(connection: socket.socket, body: bytes) -> None:
        connection.sendall(REFUSAL)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass

    behind.answer = refuse
    with RawConnection(one.port) as client:
        client.send(b"".join(upload(framing)))
        reply = client.reply()
        assert (reply.status, reply.body) == (413, b"too big")


@pytest.mark.parametrize("framing", FRAMINGS)
def test_an_answer_of_an_upstream_that_reads_no_further(
    one: Bridge, behind: RawUpstream, framing: str
) -> None:
    told, left = threading.Event(), threading.Event()

    def refuse(connection: socket.socket, body: bytes) -> None:
        connection.sendall(REFUSAL)
        assert told.wait(BOUND_S)
        # The bridge gives the rest up, and the connection with it.
        with suppress(ConnectionResetError):
            while connection.recv(1 << 16):
                pass
        left.set()

    behind.answer = refuse
    with RawConnection(one.port) as client:
        client.send(b"".join(upload(framing)))
        reply = client.reply()
        assert (reply.status, reply.body) == (413, b"too big")
        told.set()
        assert left.wait(BOUND_S)


@pytest.mark.parametrize("framing", FRAMINGS)
def test_an_answer_of_an_upstream_that_leaves_the_body_unread(
    one: Bridge, behind: RawUpstream, framing: str
) -> None:
    behind.answer = REFUSAL  # and closes: what it has not read makes that a reset
    for _ in range(10):
        with RawConnection(one.port) as client:
            client.send(b"".join(upload(framing)))
            reply = client.reply()
            assert (reply.status, reply.body) == (413, b"too big")


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
def test_a_client_that_waits_for_an_answer_before_it_goes_on(
    one: Bridge, behind: RawUpstream, framing: str
) -> None:
    def refuse(connection: socket.socket, body: bytes) -> None:
        connection.sendall(REFUSAL)
        while connection.recv(1 << 16):
            pass

    behind.answer = refuse
    first, second = (b"x" * 5,) * 2 if framing[0] == "C" else (b"5\r\nxxxxx\r\n", b"5\r\nxxxxx\r\n0\r\n\r\n")
    with RawConnection(one.port) as client:
        client.send(head("POST /v1/files HTTP/1.1", "Host: 127.0.0.1", framing) + first)
        reply = client.reply()
        assert (reply.status, reply.body, reply.closes) == (413, b"too big", False)
        # The short rest is dropped, and the connection is in step.
        client.send(second + get("/health"))
        assert client.reply().status == 200


@pytest.mark.parametrize("framing", FRAMINGS)
def test_an_answer_that_begins_before_the_body_was_sent(
    one: Bridge, behind: RawUpstream, framing: str
) -> None:
    def is_whole(body: bytes) -> bool:
        return body.endswith(b"0\r\n\r\n") if framing.endswith("chunked") else len(body) == 8 * MIB

    def answer(connection: socket.socket, body: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 7\r\n\r\n")
        connection.sendall(b"%d" % receive(connection, body, is_whole).count(b"x"))

    behind.answer = answer
    with RawConnection(one.port) as client:
        for piece in upload(framing):
            client.send(piece)
        reply = client.reply()
        assert (reply.status, reply.body) == (200, b"%d" % (8 * MIB))


@pytest.mark.parametrize("sized", [True, False])
def test_a_huge_body_passes_in_little_memory(one: Bridge, behind: RawUpstream, sized: bool) -> None:
    piece, count = b"x" * MIB, 1024 if sized else 256
    framing = f"Content-Length: {len(piece) * count}" if sized else "Transfer-Encoding: chunked"
    taken: list[int] = []

    def take(connection: socket.socket, body: bytes) -> None:
        buffer, size, end = bytearray(MIB), len(body), b""
        while size < len(piece) * count or not (sized or end == b"0\r\n\r\n"):
            got = connection.recv_into(buffer)
            if not got:
                raise EOFError
            size, end = size + got, bytes(buffer[max(0, got - 5) : got])
        taken.append(size)
        connection.sendall(OK)

    behind.answer = take
    before = processes.resident_bytes(one.pid)
    with RawConnection(one.port) as client:
        client.send(head("POST /v1/files HTTP/1.1", "Host: 127.0.0.1", framing))
        most = before
        for number in range(count):
            client.send(piece if sized else b"%x\r\n" % MIB + piece + b"\r\n")
            if number % 16 == 0:
                most = max(most, processes.resident_bytes(one.pid))
        if not sized:
            client.send(b"0\r\n\r\n")
        assert client.reply().status == 200
    assert taken[0] >= len(piece) * count
    assert most - before < 64 * MIB


def test_nothing_is_left_of_clients_that_leave(one: Bridge, behind: RawUpstream) -> None:
    left: list[bool] = []

    def stream(connection: socket.socket, body: bytes) -> None:
        if not body:
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        try:
            while connection.recv(1 << 16):
                pass
        finally:
            left.append(True)

    behind.answer = stream
    descriptors = Path(f"/proc/{one.pid}/fd")
    before = len(os.listdir(descriptors))
    unfinished = head("POST /v1/x HTTP/1.1", "Host: 127.0.0.1", "Content-Length: 1000000") + b"x"
    with ExitStack() as stack:
        for _ in range(20):
            for asked in (get("/v1/x"), unfinished):
                stack.enter_context(RawConnection(one.port)).send(asked)
        wait_until(lambda: len(behind.heads) == 40, "all requests")
    wait_until(lambda: len(left) == 40, "the end of all requests")
    wait_until(lambda: len(os.listdir(descriptors)) <= before, "the end of all connections")


def test_an_answer_is_no_page_of_the_bridge(one: Bridge, behind: RawUpstream) -> None:
    behind.answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Security-Policy: default-src *\r\n"
        b"Content-Length: 17\r\n\r\n<script></script>"
    )
    connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=BOUND_S)
    try:
        connection.request("GET", "/v1/page")
        response = connection.getresponse()
        # A browser obeys each of them.
        assert "sandbox" in response.headers.get_all("Content-Security-Policy", [])
        response.read()
    finally:
        connection.close()
