"""What the bridge reads of OpenAI's API: the tokens that an answer says it has used, and why it failed."""

from __future__ import annotations

from typing import Any

from ..errors import BridgeError, CodexFailed
from ..limits import MAX_TOKENS
from . import json_codec
from .jsonrpc import LineSplitter

Usage = dict[str, int]


class UsageReader:
    """Finds the usage in an event stream of `/v1/responses` or `/v1/chat/completions` that passes by.

    Looks at every line, but decodes only those that name a usage: the last event of an answer. Some upstreams tell
    what a chat completion has used so far with each chunk; of each the growth counts.
    """

    def __init__(self) -> None:
        self._lines: LineSplitter | None = LineSplitter()
        self._so_far: Usage = {}

    def feed(self, piece: bytes) -> Usage | None:
        """Take the stream's next bytes; return what their end has used, beyond what was returned before."""
        found = None
        try:
            lines = self._lines.feed(piece) if self._lines else []
        except CodexFailed:
            self._lines = None  # a line beyond all measure is no event
            return None
        for line in lines:
            if b'"usage"' in line and b'"usage":null' not in line and line.startswith(b"data:"):
                found = _parse_usage(line[5:]) or found
        if found is None:
            return None
        more = {name: max(0, number - self._so_far.get(name, 0)) for name, number in found.items()}
        self._so_far = found
        return more


def _parse_usage(data: bytes) -> Usage | None:
    try:
        event = json_codec.decode(data)
        if "response" in event:
            return _count_usage(event["response"]["usage"], "input_tokens", "output_tokens")
        return read_chat_usage(event["usage"])
    except (BridgeError, KeyError, TypeError, AttributeError):
        return None  # another event, or null where none was counted yet


def read_chat_usage(usage: dict[str, Any]) -> Usage:
    """Read the usage of a chat completion."""
    return _count_usage(usage, "prompt_tokens", "completion_tokens")


def _count_usage(usage: Any, read: str, written: str) -> Usage:
    return {
        "input_tokens": _count(usage, read),
        "cached_input_tokens": _count(usage.get(f"{read}_details"), "cached_tokens"),
        "output_tokens": _count(usage, written),
        "reasoning_output_tokens": _count(usage.get(f"{written}_details"), "reasoning_tokens"),
        "total_tokens": _count(usage, "total_tokens"),
    }


def _count(value: Any, name: str) -> int:
    number = value.get(name) if isinstance(value, dict) else None
    return number if type(number) is int and 0 <= number <= MAX_TOKENS else 0


def error_message(value: Any) -> str:
    """Return the message in an upstream's error, in any of the shapes that are about."""
    for key in ("error", "message", "detail"):
        if isinstance(value, dict) and key in value:
            value = value[key]
    return value if isinstance(value, str) else json_codec.encode(value).decode()


def read_error(body: bytes) -> str:
    """Return the message in the body of an upstream's error, which may be no JSON."""
    try:
        return error_message(json_codec.decode(body))
    except BridgeError:
        return body.decode(errors="replace").strip()
