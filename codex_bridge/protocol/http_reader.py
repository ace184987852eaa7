"""Bytes to HTTP/1.1 messages, without I/O.

`HeadReader` gathers a head; `parse_request_head` and `parse_response_head` read it; a `BodyReader` cuts the
body out of what follows. The rules, all of RFC 9112 and on the strict side of it:

* lines end in CRLF, a bare LF or CR is refused, and so is a folded header;
* header names are tokens with the colon right behind them;
* `Content-Length` is digits alone and one value, and never stands beside `Transfer-Encoding` in a request (in a response it is void then);
* the only transfer coding is `chunked`.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ..errors import BodyTooLarge, HeadersTooLarge, MalformedRequest
from ..limits import (
    MAX_CHUNK_LINE_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEADER_COUNT,
    MAX_REMEMBERED_HEAD_BYTES,
    REMEMBERED_HEADS,
)
from .http_messages import EMPTY_BODY, Framing, Headers, RequestHead, ResponseHead, keeps_alive

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_FIELDS = rf"((?:{_TOKEN}:[\t\x20-\x7e\x80-\xff]*\r\n)*)\r\n"
_REQUEST = re.compile(rf"({_TOKEN}) ([\x21-\x7e]+) HTTP/1\.([01])\r\n{_FIELDS}")
_RESPONSE = re.compile(rf"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n{_FIELDS}")
_FIELD_LINE = re.compile(rf"{_TOKEN}:[\t\x20-\x7e\x80-\xff]*")
_BARE_NEWLINE = re.compile(rb"(?<!\r)\n|\r(?!\n)(?!\Z)")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[\t ]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_PATH_OR_QUERY = re.compile(r"[/?]")
_DIGITS = re.compile(r"[0-9]{1,15}")


class HeadReader:
    """Gathers bytes until a whole head is there. `buffer` holds what came behind it."""

    __slots__ = ("_searched", "buffer")

    def __init__(self) -> None:
        self.buffer = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> None:
        self.buffer += data

    def next_head(self) -> str | None:
        """Return the next head with its empty line, or None while more bytes are needed."""
        buffer = self.buffer
        if buffer.startswith((b"\r", b"\n")):
            self._skip_empty_lines()
        end = buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
        if end < 0:
            self._check_unfinished()
            self._searched = len(buffer)
            return None
        if end > MAX_HEAD_BYTES:
            raise HeadersTooLarge(f"The head is longer than {MAX_HEAD_BYTES} bytes.")
        head = buffer[: end + 4].decode("latin-1")
        del buffer[: end + 4]
        self._searched = 0
        return head

    def _skip_empty_lines(self) -> None:
        # RFC 9112 2.2: a server ignores empty lines before a request line.
        while self.buffer[:2] == b"\r\n":
            del self.buffer[:2]
        self._searched = 0

    def _check_unfinished(self) -> None:
        # The last three bytes may belong to the empty line that ends the head.
        if len(self.buffer) > MAX_HEAD_BYTES + 3:
            raise HeadersTooLarge(f"The head is longer than {MAX_HEAD_BYTES} bytes.")
        if self.buffer[:1] == b"\x16":
            raise MalformedRequest("This port speaks HTTP; the first bytes are those of TLS (https).")
        # Without this a client that ends its lines in LF alone would wait for the time-out.
        if _BARE_NEWLINE.search(self.buffer, max(0, self._searched - 1)):
            raise MalformedRequest("Lines of a head end in CRLF; a bare CR or LF came.")


def parse_request_head(head: str) -> RequestHead:
    """Read a request head; raise `MalformedRequest` that names what is wrong."""
    return _remembered(head) if len(head) <= MAX_REMEMBERED_HEAD_BYTES else _parse_request_head(head)


def _parse_request_head(head: str) -> RequestHead:
    match = _REQUEST.fullmatch(head)
    if match is None:
        raise MalformedRequest(_explain(head, "METHOD target HTTP/1.1"))
    method, target, minor, fields = match.groups()
    headers = _join_repeated(_parse_fields(fields))
    if minor == "1" and "host" not in headers:
        raise MalformedRequest("An HTTP/1.1 request needs a Host header.")
    version = "1." + minor
    framing = _request_framing(minor, headers)
    path, _, query = _origin_form(target).partition("?")
    return RequestHead(method, path, query, version, headers, framing, keeps_alive(version, headers))


def _origin_form(target: str) -> str:
    """Return the path and query of a request target, which may be in absolute form (RFC 9112 3.2.2)."""
    scheme, separator, rest = target.partition("://")
    if separator and scheme.lower() in ("http", "https"):
        match = _PATH_OR_QUERY.search(rest)
        path = rest[match.start() :] if match else ""
        return path if path.startswith("/") else f"/{path}"
    return target


_remembered = lru_cache(REMEMBERED_HEADS)(_parse_request_head)


def parse_response_head(head: str, method: str) -> ResponseHead:
    """Read the head of the answer to a `method` request; raise `MalformedRequest`."""
    match = _RESPONSE.fullmatch(head)
    if match is None:
        raise MalformedRequest(_explain(head, "HTTP/1.1 status reason"))
    minor, status_text, reason, text = match.groups()
    status = int(status_text)
    fields = _parse_fields(text)
    headers = _join_repeated(fields)
    if method == "HEAD" or status in (204, 304) or status < 200:
        framing = EMPTY_BODY
    elif "transfer-encoding" in headers:
        framing = _transfer_coding(headers)
    else:
        framing = Framing(length=_content_length(headers))
    return ResponseHead(status, reason or "", "1." + minor, headers, fields, framing)


def _parse_fields(text: str) -> Headers:
    lines = text.split("\r\n")
    if len(lines) - 1 > MAX_HEADER_COUNT:
        raise HeadersTooLarge(f"More than {MAX_HEADER_COUNT} headers came.")
    pairs = (line.partition(":") for line in lines[:-1])
    return tuple((name.lower(), value.strip(" \t")) for name, _, value in pairs)


def _join_repeated(fields: Headers) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in fields:
        if name in headers:
            if name in ("host", "authorization"):
                raise MalformedRequest(f"The header {name.title()} came more than once.")
            headers[name] += f", {value}"
        else:
            headers[name] = value
    return headers


def _request_framing(minor: str, headers: dict[str, str]) -> Framing:
    if "transfer-encoding" in headers:
        if minor == "0":
            raise MalformedRequest("An HTTP/1.0 request cannot have a Transfer-Encoding.")
        if "content-length" in headers:
            raise MalformedRequest("A request has a Content-Length or a Transfer-Encoding, not both.")
        return _transfer_coding(headers)
    if "content-length" not in headers:
        return EMPTY_BODY
    return Framing(length=_content_length(headers))


def _transfer_coding(headers: dict[str, str]) -> Framing:
    coding = headers["transfer-encoding"]
    if coding.lower() != "chunked":
        raise MalformedRequest(
            f"The only Transfer-Encoding here is chunked, not {coding[:40]!r}.",
            status=501,
            code="not_implemented",
        )
    return Framing(chunked=True)


def _content_length(headers: dict[str, str]) -> int | None:
    text = headers.get("content-length")
    if text is None:
        return None
    if not _DIGITS.fullmatch(text):
        raise MalformedRequest(f"Content-Length is one number in digits, not {text[:40]!r}.")
    return int(text)


def _explain(head: str, first_line: str) -> str:
    """Name the line that made a head unreadable."""
    first, _, rest = head.partition("\r\n")
    for line in rest[:-4].split("\r\n"):
        if line and not _FIELD_LINE.fullmatch(line):
            return f"This is no header line: {line[:60]!r}."
    return f"The first line should read {first_line!r}; {first[:60]!r} came."


class BodyReader:
    """Cuts one body out of a byte stream.

    `take(buffer)` moves what it can from the front of `buffer` and returns it; `done` says that the body
    has ended and `buffer` starts with what comes behind it.
    """

    __slots__ = ("_chunked", "_in_trailers", "_left", "_trailer_bytes", "done", "framing")

    def __init__(self, framing: Framing) -> None:
        self.framing = framing
        self._chunked = framing.chunked
        # Bytes left of the body or chunk; for a chunked body 0 means that a size line is next.
        self._left = 0 if framing.chunked else framing.length
        self._in_trailers = False
        self._trailer_bytes = 0
        self.done = not framing.has_body

    def take(self, buffer: bytearray) -> bytes:
        """Return the next piece of the body, b"" when more bytes are needed or the body is done."""
        if self._chunked:
            return self._take_chunked(buffer)
        if self._left is None:
            data = bytes(buffer)
            buffer.clear()
            return data
        data = bytes(buffer[: self._left])
        del buffer[: len(data)]
        self._left -= len(data)
        self.done = self._left == 0
        return data

    def end(self) -> bool:
        """Say whether the body is whole now that the peer has closed."""
        if not self._chunked and self._left is None:
            self.done = True
        return self.done

    def _take_chunked(self, buffer: bytearray) -> bytes:
        pieces: list[bytes] = []
        while not self.done:
            if self._in_trailers:
                if not self._skip_trailer(buffer):
                    break
            elif self._left:
                # `_left` counts the CRLF behind the data; the data alone is `_left - 2`.
                if not self._take_chunk_data(buffer, pieces):
                    break
            elif not self._read_size(buffer):
                break
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _take_chunk_data(self, buffer: bytearray, pieces: list[bytes]) -> bool:
        assert self._left is not None
        if self._left > 2:
            data = bytes(buffer[: self._left - 2])
            if not data:
                return False
            pieces.append(data)
            del buffer[: len(data)]
            self._left -= len(data)
        if self._left == 2:
            if len(buffer) < 2:
                return False
            if buffer[:2] != b"\r\n":
                raise MalformedRequest("A chunk is longer than its size says.")
            del buffer[:2]
            self._left = 0
        return True

    def _read_size(self, buffer: bytearray) -> bool:
        end = buffer.find(b"\r\n", 0, MAX_CHUNK_LINE_BYTES)
        if end < 0:
            if len(buffer) >= MAX_CHUNK_LINE_BYTES or _BARE_NEWLINE.search(buffer):
                raise MalformedRequest("A chunk starts with its size in hexadecimal digits and CRLF.")
            return False
        match = _CHUNK_LINE.fullmatch(buffer, 0, end)
        if match is None:
            raise MalformedRequest(f"This is no chunk size: {bytes(buffer[:end])[:40]!r}.")
        size = int(match[1], 16)
        del buffer[: end + 2]
        if size == 0:
            self._in_trailers = True
        else:
            self._left = size + 2
        return True

    def _skip_trailer(self, buffer: bytearray) -> bool:
        end = buffer.find(b"\r\n")
        if end < 0:
            if len(buffer) > MAX_HEAD_BYTES:
                raise HeadersTooLarge(f"The trailers are longer than {MAX_HEAD_BYTES} bytes.")
            return False
        self._trailer_bytes += end + 2
        if self._trailer_bytes > MAX_HEAD_BYTES:
            raise HeadersTooLarge(f"The trailers are longer than {MAX_HEAD_BYTES} bytes.")
        self.done = end == 0
        line = buffer[:end].decode("latin-1")
        if line and not _FIELD_LINE.fullmatch(line):
            raise MalformedRequest(f"This is no trailer line: {line[:60]!r}.")
        del buffer[: end + 2]
        return True


def check_body_size(framing: Framing, received: int, limit: int) -> None:
    """Raise `BodyTooLarge` when a body is, or says that it will be, longer than `limit` bytes."""
    if received > limit or (framing.length or 0) > limit:
        raise BodyTooLarge(f"The body is longer than the {limit} bytes that this route takes.")
