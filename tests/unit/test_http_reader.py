"""HTTP/1.1 from bytes: every head and body whole, byte by byte, cut at every place, and with bytes behind it."""

import random
from collections.abc import Iterator

import pytest

from codex_bridge.errors import BodyTooLarge, BridgeError, HeadersTooLarge, MalformedRequest
from codex_bridge.limits import MAX_CHUNK_LINE_BYTES, MAX_HEAD_BYTES, MAX_HEADER_COUNT
from codex_bridge.protocol.http_messages import EMPTY_BODY, Framing, RequestHead, ResponseHead
from codex_bridge.protocol.http_reader import (
    BodyReader,
    HeadReader,
    check_body_size,
    parse_request_head,
    parse_response_head,
)

NEXT = b"GET /next HTTP/1.1\r\n"
CHUNKED = Framing(chunked=True)


def in_pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[i : i + size] for i in range(0, len(data), size))


def read_head(pieces: Iterator[bytes]) -> tuple[RequestHead, bytes]:
    """Return the head in `pieces` and what came behind it."""
    reader = HeadReader()
    head: RequestHead | None = None
    for piece in pieces:
        reader.feed(piece)
        if head is None:
            text = reader.next_head()
            head = parse_request_head(text) if text is not None else None
    assert head is not None, "the head never was complete"
    return head, bytes(reader.buffer)


def with_host(*lines: str) -> bytes:
    return ("\r\n".join(("POST / HTTP/1.1", "Host: a", *lines)) + "\r\n\r\n").encode("latin-1")


def plain(head: str) -> bytes:
    return head.encode("latin-1")


GOOD_HEADS = {
    "get": (plain("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), ("GET", "/", "1.1"), {"host": "a"}, EMPTY_BODY),
    "http/1.0 without host": (plain("GET /x?y=1 HTTP/1.0\r\n\r\n"), ("GET", "/x?y=1", "1.0"), {}, EMPTY_BODY),
    "empty lines before": (plain("\r\n\r\nGET / HTTP/1.0\r\n\r\n"), ("GET", "/", "1.0"), {}, EMPTY_BODY),
    "absolute target": (
        plain("GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n"), ("GET", "/b", "1.1"), {"host": "a"}, EMPTY_BODY,
    ),
    "asterisk": (plain("OPTIONS * HTTP/1.0\r\n\r\n"), ("OPTIONS", "*", "1.0"), {}, EMPTY_BODY),
    "odd token": (plain("M-SEARCH!# / HTTP/1.0\r\n\r\n"), ("M-SEARCH!#", "/", "1.0"), {}, EMPTY_BODY),
    "names in lower case": (with_host("X-A: Bc"), ("POST", "/", "1.1"), {"host": "a", "x-a": "Bc"}, EMPTY_BODY),
    "no space, much space": (
        with_host("A:1", "B: \t 2 \t"), ("POST", "/", "1.1"), {"host": "a", "a": "1", "b": "2"}, EMPTY_BODY,
    ),
    "empty value": (with_host("A:"), ("POST", "/", "1.1"), {"host": "a", "a": ""}, EMPTY_BODY),
    "obs-text": (with_host("A: \xe9\xff"), ("POST", "/", "1.1"), {"host": "a", "a": "\xe9\xff"}, EMPTY_BODY),
    "repeated": (
        with_host("A: 1", "a: 2"), ("POST", "/", "1.1"), {"host": "a", "a": "1, 2"}, EMPTY_BODY,
    ),
    "length": (
        with_host("Content-Length: 5"), ("POST", "/", "1.1"), {"host": "a", "content-length": "5"}, Framing(5),
    ),
    "length in spaces": (
        with_host("Content-Length:  5 "), ("POST", "/", "1.1"), {"host": "a", "content-length": "5"}, Framing(5),
    ),
    "length zero": (
        with_host("Content-Length: 0"), ("POST", "/", "1.1"), {"host": "a", "content-length": "0"}, EMPTY_BODY,
    ),
    "length with zeros": (
        with_host("Content-Length: 007"), ("POST", "/", "1.1"), {"host": "a", "content-length": "007"}, Framing(7),
    ),
    "length on 1.0": (
        plain("PUT / HTTP/1.0\r\nContent-Length: 3\r\n\r\n"), ("PUT", "/", "1.0"), {"content-length": "3"}, Framing(3),
    ),
    "chunked": (
        with_host("Transfer-Encoding: Chunked"), ("POST", "/", "1.1"),
        {"host": "a", "transfer-encoding": "Chunked"}, CHUNKED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("size", [1, 3, 10_000])
@pytest.mark.parametrize("behind", [b"", NEXT, b"\r\n\r\n\0\xff"])
@pytest.mark.parametrize("name", GOOD_HEADS)
def test_a_good_head_is_read(name: str, behind: bytes, size: int) -> None:
    data, line, headers, framing = GOOD_HEADS[name]

    head, rest = read_head(in_pieces(data + behind, size))

    assert (head.method, head.path + ("?" + head.query if head.query else ""), head.version) == line
    assert head.headers == headers
    assert head.framing == framing
    assert rest == behind


BAD_HEADS = {
    "length +5": (with_host("Content-Length: +5"), 400),
    "length -5": (with_host("Content-Length: -5"), 400),
    "length 5,5": (with_host("Content-Length: 5,5"), 400),
    "length 5, 6": (with_host("Content-Length: 5, 6"), 400),
    "length 5 5": (with_host("Content-Length: 5 5"), 400),
    "length 0x5": (with_host("Content-Length: 0x5"), 400),
    "length 5.0": (with_host("Content-Length: 5.0"), 400),
    "length 1_0": (with_host("Content-Length: 1_0"), 400),
    "length superscript": (with_host("Content-Length: \xb2"), 400),
    "length empty": (with_host("Content-Length:"), 400),
    "length of 30 digits": (with_host("Content-Length: " + "9" * 30), 400),
    "length twice, the same": (with_host("Content-Length: 5", "Content-Length: 5"), 400),
    "length twice, different": (with_host("Content-Length: 5", "content-length: 6"), 400),
    "coding and length": (with_host("Transfer-Encoding: chunked", "Content-Length: 5"), 400),
    "length and coding": (with_host("Content-Length: 5", "Transfer-Encoding: chunked"), 400),
    "coding gzip": (with_host("Transfer-Encoding: gzip"), 501),
    "coding gzip, chunked": (with_host("Transfer-Encoding: gzip, chunked"), 501),
    "coding chunked twice": (with_host("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 501),
    "coding identity": (with_host("Transfer-Encoding: identity"), 501),
    "coding empty": (with_host("Transfer-Encoding:"), 501),
    "coding with vertical tab": (with_host("Transfer-Encoding: \x0bchunked"), 400),
    "coding on 1.0": (plain("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400),
    "folded by space": (with_host("A: 1", " 2"), 400),
    "folded by tab": (with_host("A: 1", "\t2"), 400),
    "folded at once": (plain("GET / HTTP/1.1\r\n Host: a\r\n\r\n"), 400),
    "bare LF in the end": (plain("GET / HTTP/1.1\nHost: a\n\n"), 400),
    "bare LF in one line": (plain("GET / HTTP/1.1\r\nHost: a\nB: c\r\n\r\n"), 400),
    "bare LF before": (plain("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), 400),
    "bare CR in a value": (with_host("A: 1\r2"), 400),
    "bare CR before": (plain("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n"), 400),
    "CR CR LF": (plain("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n"), 400),
    "space before colon": (with_host("Content-Length : 5"), 400),
    "tab before colon": (with_host("A\t: 5"), 400),
    "empty name": (with_host(": 5"), 400),
    "no colon": (with_host("hello"), 400),
    "name with space": (with_host("A B: 5"), 400),
    "name not ASCII": (with_host("\xe9: 5"), 400),
    "NUL in a value": (with_host("A: \0"), 400),
    "NUL in a name": (with_host("A\0: 1"), 400),
    "DEL in a value": (with_host("A: \x7f"), 400),
    "no host": (plain("GET / HTTP/1.1\r\n\r\n"), 400),
    "host twice": (with_host("Host: b"), 400),
    "credentials twice": (with_host("Authorization: a", "Authorization: b"), 400),
    "no version": (plain("GET /\r\nHost: a\r\n\r\n"), 400),
    "version 1.2": (plain("GET / HTTP/1.2\r\nHost: a\r\n\r\n"), 400),
    "version 2.0": (plain("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), 400),
    "version 1.10": (plain("GET / HTTP/1.10\r\nHost: a\r\n\r\n"), 400),
    "version in lower case": (plain("GET / http/1.1\r\nHost: a\r\n\r\n"), 400),
    "two spaces": (plain("GET  / HTTP/1.1\r\nHost: a\r\n\r\n"), 400),
    "tab between": (plain("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"), 400),
    "space before": (plain(" GET / HTTP/1.1\r\nHost: a\r\n\r\n"), 400),
    "space behind": (plain("GET / HTTP/1.1 \r\nHost: a\r\n\r\n"), 400),
    "no target": (plain("GET HTTP/1.1\r\nHost: a\r\n\r\n"), 400),
    "space in target": (plain("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"), 400),
    "target not ASCII": (plain("GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n"), 400),
    "method no token": (plain("G(T / HTTP/1.1\r\nHost: a\r\n\r\n"), 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "too many headers": (with_host(*(f"A{i}: 1" for i in range(MAX_HEADER_COUNT))), 431),
    "too large": (with_host("A: " + "x" * MAX_HEAD_BYTES), 431),
    "too large, never ends": (b"x" * (MAX_HEAD_BYTES + 1), 431),
}


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("name", BAD_HEADS)
def test_a_bad_head_is_refused(name: str, size: int) -> None:
    data, status = BAD_HEADS[name]

    with pytest.raises(BridgeError) as caught:
        read_head(in_pieces(data + NEXT, size))

    assert caught.value.status == status
    assert caught.value.message.endswith(".")
    assert caught.value.message.isprintable()


def test_as_many_headers_as_the_limit_are_read() -> None:
    head, _ = read_head(iter([with_host(*(f"A{i}: 1" for i in range(MAX_HEADER_COUNT - 1)))]))

    assert len(head.headers) == MAX_HEADER_COUNT


@pytest.mark.parametrize("excess", range(-4, 7))
def test_the_size_limit_does_not_depend_on_how_a_head_arrives(excess: int) -> None:
    padding = MAX_HEAD_BYTES + excess - len(with_host("A: "))
    data = with_host("A: " + "x" * padding)
    early = MAX_HEAD_BYTES - 16

    def outcome(pieces: list[bytes]) -> str:
        try:
            read_head(iter(pieces))
        except HeadersTooLarge:
            return "too large"
        return "read"

    whole = outcome([data])
    assert outcome([data[:early], *in_pieces(data[early:], 1)]) == whole
    if excess <= 0:
        assert whole == "read"


def test_a_head_that_has_not_ended_is_waited_for() -> None:
    reader = HeadReader()
    for byte in in_pieces(b"GET / HTTP/1.1\r\nHost: a\r\n\r", 1):
        reader.feed(byte)
        assert reader.next_head() is None


def test_a_lone_line_feed_is_told_before_the_head_ends() -> None:
    reader = HeadReader()
    reader.feed(b"GET / HTTP/1.1\n")
    with pytest.raises(MalformedRequest):
        reader.next_head()


GOOD_ANSWERS = {
    "sized": ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "GET", (200, "OK", "1.1"), Framing(5), True),
    "chunked": ("HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n", "GET", (200, "", "1.1"), CHUNKED, True),
    "until close": ("HTTP/1.1 200 OK\r\n\r\n", "GET", (200, "OK", "1.1"), Framing(), False),
    "no reason": ("HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "GET", (200, "", "1.1"), EMPTY_BODY, True),
    "head": ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD", (200, "OK", "1.1"), EMPTY_BODY, True),
    "204": ("HTTP/1.1 204 No Content\r\n\r\n", "GET", (204, "No Content", "1.1"), EMPTY_BODY, True),
    "304": ("HTTP/1.1 304 N\r\nContent-Length: 5\r\n\r\n", "GET", (304, "N", "1.1"), EMPTY_BODY, True),
    "100": ("HTTP/1.1 100 Continue\r\n\r\n", "POST", (100, "Continue", "1.1"), EMPTY_BODY, True),
    "1.0": ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", "GET", (200, "OK", "1.0"), Framing(5), False),
    "1.0 is never kept": (
        "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 5\r\n\r\n", "GET",
        (200, "OK", "1.0"), Framing(5), False,
    ),
    "close": (
        "HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 5\r\n\r\n", "GET",
        (200, "OK", "1.1"), Framing(5), False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD_ANSWERS)
def test_a_good_answer_is_read(name: str) -> None:
    text, method, line, framing, keeps_alive = GOOD_ANSWERS[name]

    head: ResponseHead = parse_response_head(text, method)

    assert (head.status, head.reason, head.version) == line
    assert head.framing == framing
    assert head.keeps_alive is keeps_alive


@pytest.mark.parametrize(
    "text",
    [
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/1.1 200 O\x00K\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    ],
)
def test_a_bad_answer_is_refused(text: str) -> None:
    with pytest.raises(MalformedRequest):
        parse_response_head(text, "GET")


@pytest.mark.parametrize(
    ("version", "connection", "expected"),
    [
        ("1.1", None, True),
        ("1.1", "close", False),
        ("1.1", "Close", False),
        ("1.1", "keep-alive, close", False),
        ("1.1", "keep-alive", True),
        ("1.1", "closed-captions", True),
        ("1.0", None, False),
        ("1.0", "Keep-Alive", False),
        ("1.0", "close", False),
    ],
)
def test_keep_alive_of_a_request(version: str, connection: str | None, expected: bool) -> None:
    field = "" if connection is None else f"Connection: {connection}\r\n"
    head = parse_request_head(f"GET / HTTP/{version}\r\nHost: a\r\n{field}\r\n")
    assert head.keeps_alive is expected


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/a?b=c", "/a", "b=c"),
        ("/a?b=c?d", "/a", "b=c?d"),
        ("/a?", "/a", ""),
        ("/%2e%2E/a%2Fb", "/%2e%2E/a%2Fb", ""),
        ("//a//", "//a//", ""),
        ("/a?u=http://b/c", "/a", "u=http://b/c"),
        ("/http://b/c", "/http://b/c", ""),
        ("http://a", "/", ""),
        ("HTTP://a:1/b?c=d", "/b", "c=d"),
        ("https://a/b/c", "/b/c", ""),
        ("http://a?b=c", "/", "b=c"),
        ("http://a?b=/c", "/", "b=/c"),
        ("*", "*", ""),
    ],
)
def test_the_target_of_a_request(target: str, path: str, query: str) -> None:
    head = parse_request_head(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (head.path, head.query) == (path, query)


def test_heads_that_are_read_again_and_again_are_not_mixed_up() -> None:
    for _ in range(3):
        for number in range(400):
            text = f"GET /{number} HTTP/1.1\r\nHost: a\r\nX: {number}\r\n\r\n"
            head = parse_request_head(text)
            assert (head.path, head.headers["x"]) == (f"/{number}", str(number))
        with pytest.raises(MalformedRequest):
            parse_request_head("GET / HTTP/1.1\r\n\r\n")


GOOD_CHUNKED = {
    "one": (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    "two": (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world"),
    "none": (b"0\r\n\r\n", b""),
    "many zeros": (b"0005\r\nhello\r\n000\r\n\r\n", b"hello"),
    "hexadecimal": (b"a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n", b"01234567890123456789a"),
    "extension": (b"5;a=b\r\nhello\r\n0;c\r\n\r\n", b"hello"),
    "extension quoted": (b'5 ; a="b c;\xe9"\r\nhello\r\n0\r\n\r\n', b"hello"),
    "trailers": (b"5\r\nhello\r\n0\r\nA: 1\r\nB: 2\r\n\r\n", b"hello"),
    "data like framing": (b"7\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n\r\n"),
}


def take_all(body: BodyReader, buffer: bytearray) -> bytes:
    pieces = []
    while piece := body.take(buffer):
        pieces.append(piece)
    return b"".join(pieces)


def read_body(framing: Framing, pieces: list[bytes]) -> tuple[bytes, bool, bytes]:
    """Return the body in `pieces`, whether it is done, and what came behind it."""
    body, buffer, taken = BodyReader(framing), bytearray(), b""
    for piece in pieces:
        buffer += piece
        if not body.done:
            taken += take_all(body, buffer)
    return taken, body.done, bytes(buffer)


@pytest.mark.parametrize("behind", [b"", NEXT, b"\r\n0\r\n"])
@pytest.mark.parametrize("name", GOOD_CHUNKED)
def test_a_chunked_body_is_read_however_it_is_cut(name: str, behind: bytes) -> None:
    data, expected = GOOD_CHUNKED[name]
    data += behind

    assert read_body(CHUNKED, [data]) == (expected, True, behind)
    assert read_body(CHUNKED, list(in_pieces(data, 1))) == (expected, True, behind)
    for cut in range(len(data) + 1):
        assert read_body(CHUNKED, [data[:cut], data[cut:]]) == (expected, True, behind)


@pytest.mark.parametrize("name", GOOD_CHUNKED)
def test_a_chunked_body_is_not_done_before_its_end(name: str) -> None:
    data, _ = GOOD_CHUNKED[name]
    for cut in range(len(data)):
        body, buffer = BodyReader(CHUNKED), bytearray(data[:cut])
        take_all(body, buffer)
        assert not body.done
        assert not body.end()


BAD_CHUNKED = {
    "LF behind the size": b"5\nhello\r\n0\r\n\r\n",
    "CR behind the size": b"5\rhello\r\n0\r\n\r\n",
    "LF behind the data": b"5\r\nhello\n0\r\n\r\n",
    "data too long": b"5\r\nhello!\r\n0\r\n\r\n",
    "data too short": b"5\r\nhell\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "no number": b"g\r\nhello\r\n",
    "negative": b"-5\r\nhello\r\n",
    "signed": b"+5\r\nhello\r\n",
    "0x": b"0x5\r\nhello\r\n",
    "underscore": b"1_0\r\nhello\r\n",
    "space before": b" 5\r\nhello\r\n",
    "two numbers": b"5 5\r\nhello\r\n",
    "sixteen digits": b"1000000000000000\r\nhello\r\n",
    "huge": b"f" * 64 + b"\r\nhello\r\n",
    "NUL in an extension": b"5;a\0\r\nhello\r\n",
    "LF in an extension": b"5;a\nb\r\nhello\r\n",
    "extension too long": b"5;" + b"a" * MAX_CHUNK_LINE_BYTES + b"\r\nhello\r\n",
    "extension that never ends": b"5;" + b"a" * MAX_CHUNK_LINE_BYTES,
    "LF in a trailer": b"0\r\nA: 1\n\r\n\r\n",
    "LF instead of the last line": b"0\r\n\n\r\n\r\n",
    "folded trailer": b"0\r\nA: 1\r\n 2\r\n\r\n",
    "trailer that is none": b"0\r\nGET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_CHUNKED)
def test_a_bad_chunked_body_is_refused_however_it_is_cut(name: str) -> None:
    data = BAD_CHUNKED[name] + b"\r\n\r\n"
    for size in (1, 2, len(data)):
        with pytest.raises(MalformedRequest):
            read_body(CHUNKED, list(in_pieces(data, size)))


@pytest.mark.parametrize("trailers", [b"A: 1\r\n" * MAX_HEAD_BYTES, b"A" * (2 * MAX_HEAD_BYTES)])
@pytest.mark.parametrize("size", [4096, 10_000_000])
def test_trailers_have_a_bound(trailers: bytes, size: int) -> None:
    with pytest.raises(HeadersTooLarge):
        read_body(CHUNKED, list(in_pieces(b"0\r\n" + trailers, size)))


def test_a_huge_chunk_is_passed_on_as_it_comes() -> None:
    body, buffer = BodyReader(CHUNKED), bytearray(b"fffffffffffffff\r\n" + b"x" * 100)
    assert body.take(buffer) == b"x" * 100
    buffer += b"y" * 7
    assert body.take(buffer) == b"y" * 7
    assert not body.done


@pytest.mark.parametrize("behind", [b"", NEXT])
@pytest.mark.parametrize("length", [1, 5, 300])
def test_a_sized_body_is_read_however_it_is_cut(length: int, behind: bytes) -> None:
    data = bytes(i % 256 for i in range(length))
    for cut in range(length + len(behind) + 1):
        pieces = [(data + behind)[:cut], (data + behind)[cut:]]
        assert read_body(Framing(length), pieces) == (data, True, behind)
    assert read_body(Framing(length), list(in_pieces(data + behind, 1))) == (data, True, behind)


def test_an_empty_body_takes_nothing() -> None:
    body = BodyReader(EMPTY_BODY)
    assert body.done
    assert not EMPTY_BODY.has_body


def test_a_body_until_close_ends_with_the_connection() -> None:
    body, buffer = BodyReader(Framing()), bytearray(b"hello")
    assert body.take(buffer) == b"hello"
    assert not buffer
    assert not body.done
    assert body.end()
    assert body.done


@pytest.mark.parametrize("framing", [Framing(5), CHUNKED])
def test_a_framed_body_that_is_cut_off_is_not_whole(framing: Framing) -> None:
    body, buffer = BodyReader(framing), bytearray(b"3\r\n")
    body.take(buffer)
    assert not body.end()


def test_pipelined_requests_are_told_apart_whatever_the_cuts() -> None:
    stream = (
        with_host("Content-Length: 11") + b"hello world"
        + with_host("Transfer-Encoding: chunked") + b"3\r\nGET\r\n0\r\nA: b\r\n\r\n"
        + b"\r\n" + with_host() + with_host("Content-Length: 4") + b"\r\n\r\n"
    )  # fmt: skip
    chance = random.Random(1)
    for _ in range(200):
        cuts = sorted(chance.sample(range(len(stream)), chance.randrange(0, 12)))
        reader, body, bodies = HeadReader(), None, []
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            reader.feed(stream[start:end])
            while True:
                if body is None:
                    text = reader.next_head()
                    if text is None:
                        break
                    body, taken = BodyReader(parse_request_head(text).framing), b""
                taken += take_all(body, reader.buffer)
                if not body.done:
                    break
                bodies.append(taken)
                body = None
        assert bodies == [b"hello world", b"GET", b"", b"\r\n\r\n"]
        assert not reader.buffer


@pytest.mark.parametrize(
    ("framing", "received", "fits"),
    [
        (Framing(10), 0, True),
        (Framing(11), 0, False),
        (CHUNKED, 10, True),
        (CHUNKED, 11, False),
        (Framing(), 11, False),
    ],
)
def test_a_body_has_a_bound(framing: Framing, received: int, fits: bool) -> None:
    if fits:
        check_body_size(framing, received, 10)
    else:
        with pytest.raises(BodyTooLarge) as caught:
            check_body_size(framing, received, 10)
        assert caught.value.status == 413
