"""HTTP/1.1 messages to bytes, without I/O."""

from __future__ import annotations

from functools import lru_cache

from .http_messages import REASONS, Headers

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"


@lru_cache(maxsize=256)
def encode_status_and_headers(status: int, headers: Headers, reason: str | None = None) -> bytes:
    """Return a response head that still lacks its last headers and its empty line.

    Most answers share theirs, so they are remembered. Values must not come from outside unchecked.
    """
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, '') if reason is None else reason}\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in headers]
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
