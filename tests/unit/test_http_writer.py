"""HTTP/1.1 to bytes, read back by the parser."""

import pytest

from codex_bridge.protocol import http_messages, http_writer
from codex_bridge.protocol.http_messages import Framing
from codex_bridge.protocol.http_reader import BodyReader, parse_request_head, parse_response_head


def test_an_answer_is_written() -> None:
    data = http_writer.encode_status_and_headers(200, (("Content-Type", "a/b"), ("X", "1")))
    assert data == b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nX: 1\r\n"


@pytest.mark.parametrize(
    ("status", "reason", "line"),
    [
        (404, None, b"HTTP/1.1 404 Not Found\r\n"),
        (299, None, b"HTTP/1.1 299 \r\n"),
        (404, "Nope", b"HTTP/1.1 404 Nope\r\n"),
        (404, "", b"HTTP/1.1 404 \r\n"),
    ],
)
def test_the_status_line(status: int, reason: str | None, line: bytes) -> None:
    data = http_writer.encode_status_and_headers(status, (), reason)
    assert data == line
    assert parse_response_head(data.decode("latin-1") + "\r\n", "GET").status == status


@pytest.mark.parametrize("status", sorted(http_messages.REASONS))
def test_each_reason_can_be_read_back(status: int) -> None:
    data = http_writer.encode_status_and_headers(status, ())
    assert parse_response_head(data.decode("latin-1") + "\r\n", "GET").reason == http_messages.REASONS[status]


def test_a_request_is_written_and_read_back() -> None:
    data = http_writer.encode_request_head("POST", "/v1/responses?a=b", (("Host", "h"), ("A", "\xe9")))
    assert data == b"POST /v1/responses?a=b HTTP/1.1\r\nHost: h\r\nA: \xe9\r\n\r\n"
    head = parse_request_head(data.decode("latin-1"))
    assert (head.method, head.path, head.query, head.headers["a"]) == ("POST", "/v1/responses", "a=b", "\xe9")


@pytest.mark.parametrize("data", [b"x", b"\r\n0\r\n\r\n", b"y" * 300])
def test_a_chunk_is_written_and_read_back(data: bytes) -> None:
    buffer = bytearray(http_writer.encode_chunk(data) + http_writer.LAST_CHUNK + b"behind")
    body = BodyReader(Framing(chunked=True))
    assert body.take(buffer) == data
    assert body.done
    assert buffer == b"behind"


def test_the_interim_answer() -> None:
    assert parse_response_head(http_writer.CONTINUE.decode(), "POST").status == 100
