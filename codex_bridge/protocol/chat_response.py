"""The answer of Chat Completions, said to Codex as the event stream of Responses. No I/O.

`ChatAnswer.feed` takes the upstream's bytes as they come and returns Codex's; `finish` ends the answer. Text and reasoning
are passed on at once, tool calls when they are whole: Codex starts them then. What arrives together is one delta.

An upstream may answer with one JSON completion instead of a stream; both are read. What is wrong with an answer is raised
as `UpstreamFailed`, by `finish` as well: empty, or broken off without a word. What it may have been cut off for
(`finish_reason` "length" or "content_filter") is told by `cut`.
"""

from __future__ import annotations

from ..errors import UpstreamFailed
from ..model import new_id
from . import json_codec
from .chat import CallPiece, ChatDelta, ChatReader, Json, read_completion
from .chat_request import ToolBook
from .openai import read_chat_usage

# What Responses calls the reasons for an answer that is not whole, and how they are told a person.
_CUT = {
    "length": ("max_output_tokens", "it reached the longest answer, or the longest conversation, that the model takes"),
    "content_filter": ("content_filter", "the upstream's content filter stopped it"),
}


class _Call:
    """A tool call as its pieces come in."""

    def __init__(self, piece: CallPiece) -> None:
        self.id = piece.id
        self.name = ""
        self._arguments: list[str] = []
        self.add(piece)

    def add(self, piece: CallPiece) -> None:
        self.id = self.id or piece.id
        self.name = self.name or piece.name  # some say it with each piece
        if piece.arguments:
            self._arguments.append(piece.arguments)

    def is_followed_by(self, piece: CallPiece) -> bool:
        """Say whether a piece at the same index begins another call: not all upstreams count."""
        if piece.id and self.id:
            return piece.id != self.id
        # Without an id a name begins one, where it does not come with each piece.
        return bool(piece.name and not piece.id and self._arguments) and _is_json(self.arguments)

    @property
    def arguments(self) -> str:
        return "".join(self._arguments)


def _is_json(text: str) -> bool:
    if not text.endswith("}"):
        return False
    try:
        json_codec.decode(text.encode(errors="replace"))
    except ValueError:
        return False
    return True


class Calls:
    """The tool calls of one answer, put together."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._open: dict[int, _Call] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, piece: CallPiece) -> None:
        """Take the next piece."""
        call = self._open.get(piece.index)
        if call is not None and not call.is_followed_by(piece):
            call.add(piece)
            return
        self._open[piece.index] = call = _Call(piece)
        self._calls.append(call)

    def to_items(self, tools: ToolBook) -> list[Json]:
        """Return the calls as Codex's items. One without an id gets one, one without a name is no call."""
        seen: set[str] = set()
        items = []
        for call in self._calls:
            if not call.name:
                continue
            call_id = call.id if call.id and call.id not in seen else new_id("call")
            seen.add(call_id)
            items.append(tools.to_item(call.name, call.arguments, call_id))
        return items
