"""HTTP/1.1 messages to bytes, without I/O."""

from __future__ import annotations

from collections.abc import Iterable

from .http_messages import REASONS, Headers

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


def encode_response_head(status: int, headers: Iterable[tuple[str, str]], reason: str | None = None) -> bytes:
    """Return a response head with its empty line. Header values must not come from outside unchecked."""
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, '') if reason is None else reason}\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in headers]
    lines.append("\r\n")
    return "".join(lines).encode("latin-1")


def encode_request_head(method: str, target: str, headers: Headers) -> bytes:
    """Return a request head with its empty line."""
    lines = [f"{method} {target} HTTP/1.1\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in headers]
    lines.append("\r\n")
    return "".join(lines).encode("latin-1")


def encode_chunk(data: bytes) -> bytes:
    """Return `data`, which is not empty, as one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)
