"""Server-sent events to bytes, and the ids that make a stream resumable."""

from __future__ import annotations

import re

_EVENT_ID = re.compile(r"([0-9a-z]{1,32})-([0-9]{1,15})")

HEARTBEAT = b": still here\n\n"


def encode_event(epoch: str, seq: int, name: str, data: bytes) -> bytes:
    """Return one event. `data` is JSON on one line; JSON escapes newlines, so one `data:` line holds it."""
    return b"id: %b-%d\nevent: %b\ndata: %b\n\n" % (epoch.encode(), seq, name.encode(), data)


def decode_event(event: bytes) -> tuple[str, bytes]:
    """Return name and data of what `encode_event` made."""
    _, name, data, *_ = event.split(b"\n", 3)
    return name.removeprefix(b"event: ").decode(), data.removeprefix(b"data: ")


def encode_last_event(name: str, data: bytes) -> bytes:
    """Return an event without an id: the client's `Last-Event-ID` stays what it was."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def encode_retry(milliseconds: int) -> bytes:
    """Return the field that tells a client how long to wait before it reconnects."""
    return b"retry: %d\n\n" % milliseconds


def parse_event_id(text: str | None) -> tuple[str, int] | None:
    """Return (epoch, seq) of a `Last-Event-ID`, or None when it is none of ours."""
    match = _EVENT_ID.fullmatch(text or "")
    return (match[1], int(match[2])) if match else None
