"""What the bridge reads of OpenAI's API: the tokens that an answer says it has used."""

from __future__ import annotations

from typing import Any

from ..errors import BridgeError, CodexFailed
from ..limits import MAX_TOKENS
from . import json_codec
from .jsonrpc import LineSplitter

Usage = dict[str, int]


class UsageReader:
    """Finds the usage in an event stream of `/v1/responses` that passes by.

    Looks at every line, but decodes only those that name a usage: the last event of an answer.
    """

    def __init__(self) -> None:
        self._lines: LineSplitter | None = LineSplitter()

    def feed(self, piece: bytes) -> Usage | None:
        """Take the stream's next bytes; return the usage of the answer that ends in them."""
        found = None
        try:
            lines = self._lines.feed(piece) if self._lines else []
        except CodexFailed:
            self._lines = None  # a line beyond all measure is no event
            return None
        for line in lines:
            if b'"usage"' in line and line.startswith(b"data:"):
                found = _parse_usage(line[5:]) or found
        return found


def _parse_usage(data: bytes) -> Usage | None:
    try:
        usage = json_codec.decode(data)["response"]["usage"]
        return {
            "input_tokens": _count(usage, "input_tokens"),
            "cached_input_tokens": _count(usage.get("input_tokens_details"), "cached_tokens"),
            "output_tokens": _count(usage, "output_tokens"),
            "reasoning_output_tokens": _count(usage.get("output_tokens_details"), "reasoning_tokens"),
            "total_tokens": _count(usage, "total_tokens"),
        }
    except (BridgeError, KeyError, TypeError, AttributeError):
        return None  # another event, or null where none was counted yet


def _count(value: Any, name: str) -> int:
    number = value.get(name) if isinstance(value, dict) else None
    return number if type(number) is int and 0 <= number <= MAX_TOKENS else 0
