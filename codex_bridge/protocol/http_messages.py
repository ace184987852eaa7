"""HTTP/1.1 messages as values."""

from __future__ import annotations

from collections.abc import Mapping

from ..values import value

REASONS = {
    100: "Continue", 200: "OK", 201: "Created", 202: "Accepted", 204: "No Content",
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    408: "Request Timeout", 409: "Conflict", 411: "Length Required", 413: "Content Too Large",
    415: "Unsupported Media Type", 422: "Unprocessable Content", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented",
    502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout",
}  # fmt: skip

Headers = tuple[tuple[str, str], ...]


@value
class Framing:
    """How long a body is: `length` bytes, `chunked`, or (neither, responses only) until the peer closes."""

    length: int | None = None
    chunked: bool = False

    @property
    def has_body(self) -> bool:
        return self.chunked or self.length != 0


EMPTY_BODY = Framing(length=0)


@value
class RequestHead:
    """A request up to its body. Header names are lower case; a repeated one is joined by a comma."""

    method: str
    path: str
    query: str
    version: str
    headers: Mapping[str, str]
    framing: Framing
    keeps_alive: bool


@value
class ResponseHead:
    """An upstream's response up to its body.

    `fields` are its headers with repeated ones apart: two Set-Cookie cannot be joined (RFC 9110 5.3).
    """

    status: int
    reason: str
    version: str
    headers: Mapping[str, str]
    fields: Headers
    framing: Framing

    @property
    def keeps_alive(self) -> bool:
        closes_to_end = self.framing.length is None and not self.framing.chunked
        return not closes_to_end and keeps_alive(self.version, self.headers)


def keeps_alive(version: str, headers: Mapping[str, str]) -> bool:
    """Say whether a message lets its connection stay open. HTTP/1.0's never do here: it is not worth its rules."""
    return version == "1.1" and "close" not in connection_options(headers)


def connection_options(headers: Mapping[str, str]) -> set[str]:
    """Return what the Connection header lists: `close`, and names of headers that are for one hop alone."""
    return {option.strip().lower() for option in headers.get("connection", "").split(",")}
