"""Chat Completions as upstreams stream them: what one chunk of an answer says. No I/O.

Upstreams differ: where the reasoning stands, whether a call's id and name come once or again, whether the usage has a
chunk of its own. What is none of it is left out, and an error in the middle of a stream is told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from .. import log
from ..errors import BridgeError, CodexFailed, UpstreamFailed
from ..limits import (
    MAX_CHOICE_CHARACTERS,
    MAX_MODEL_ANSWER_CHARACTERS,
    MAX_TURN_CALLS,
    MAX_UPSTREAM_MESSAGE_CHARACTERS,
)
from ..model import new_id
from . import json_codec
from .jsonrpc import LineSplitter

Json = dict[str, Any]
_DONE = b"[DONE]"
# Some servers write it in front of all text; in an event stream it means nothing.
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# How OpenAI, vLLM, llama.cpp, Ollama and others say that a conversation is too long.
_TOO_LONG = re.compile(
    r"context[ _](?:length|window|size|limit)|maximum context|prompt is too long|too many tokens|input is too long"
    r"|n_ctx|maximum (?:input |prompt )?length|reduce the length",
    re.IGNORECASE,
)
# Where upstreams put what a model thinks before it answers.
_REASONING = ("reasoning_content", "reasoning")


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A piece of a tool call. The pieces of one call bear the same `index`; their `arguments` are to be joined."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class ChatDelta:
    """What one chunk adds to the answer. `usage` is the upstream's own object, `reasoning_field` where reasoning stood."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()
    finish_reason: str | None = None
    usage: Json | None = None
    reasoning_field: str = field(default="", compare=False)

    @property
    def size(self) -> int:
        """How long it is, in characters; a call counts also where it says nothing, as a flood of them must end as well."""
        calls = sum(len(piece.arguments) + len(piece.id) + len(piece.name) + 1 for piece in self.calls)
        return len(self.text) + len(self.reasoning) + calls


class Call:
    """A tool call as its pieces come in."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self._arguments: list[str] = []

    def add(self, piece: CallPiece) -> None:
        self.id = self.id or piece.id  # some say both with each piece
        self.name = self.name or piece.name
        if piece.arguments:
            self._arguments.append(piece.arguments)

    @property
    def may_be_complete(self) -> bool:
        return bool(self._arguments) and self._arguments[-1].endswith("}")

    @property
    def arguments(self) -> str:
        return "".join(self._arguments)


class Calls:
    """The tool calls of one answer, put together: not all upstreams count them, or say the same with each piece."""

    def __init__(self) -> None:
        # By their index, or behind all others where it was taken.
        self._calls: dict[int, Call] = {}
        # The newest one with an index, and the first one with an id.
        self._newest: dict[int, Call] = {}
        self._by_id: dict[str, Call] = {}
        # Characters that were looked through for a call's end.
        self._looked_through = 0

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, piece: CallPiece) -> None:
        """Take the next piece."""
        call = self._newest.get(piece.index)
        if call is not None and self._is_of_another(call, piece):
            call = self._by_id.get(piece.id)
        if call is None:
            # One more than a turn may make tells that there were too many.
            if len(self._calls) > MAX_TURN_CALLS:
                return
            call = Call()
            place = piece.index if piece.index not in self._calls else 1 + max(self._calls)
            self._calls[place] = call
        self._newest[piece.index] = call
        if piece.id:
            self._by_id.setdefault(piece.id, call)
        call.add(piece)

    def named_apart(self) -> list[Call]:
        """Return the calls in their order, each with an id that no other has."""
        seen: set[str] = set()
        calls = [call for _, call in sorted(self._calls.items())]
        for call in calls:
            call.id = call.id if call.id and call.id not in seen else new_id("call")
            seen.add(call.id)
        return calls

    def _is_of_another(self, call: Call, piece: CallPiece) -> bool:
        """Say whether a piece with the same index as a call is of another one."""
        if piece.id and call.id:
            return piece.id != call.id
        # Without an id a name begins a call, where it does not come with each piece: to look for the end of a long one
        # with each would take without end.
        may_begin = piece.name and not piece.id and call.may_be_complete
        if not may_begin or self._looked_through > MAX_MODEL_ANSWER_CHARACTERS:
            return False
        arguments = call.arguments
        self._looked_through += len(arguments)
        return _is_json(arguments)


def _is_json(text: str) -> bool:
    try:
        json_codec.decode(text.encode(errors="replace"))
    except BridgeError:
        return False
    return True


class ChatReader:
    """Reads the event stream of `/v1/chat/completions`. `is_done` after `[DONE]`, which not all upstreams send."""

    def __init__(self) -> None:
        self._lines = LineSplitter()
        self._has_begun = False
        self.is_done = False

    def feed(self, piece: bytes) -> list[ChatDelta]:
        """Take the stream's next bytes; raise `UpstreamFailed` for an error that stands in it, or what is no chunk.

        An error's own object is in the exception's `details`, as `error`.
        """
        deltas = []
        try:
            lines = self._lines.feed(piece)
        except CodexFailed:
            raise UpstreamFailed("The upstream's answer has a line beyond all measure.") from None
        for line in lines:
            if not self._has_begun:
                self._has_begun = True
                line = line.removeprefix(_BYTE_ORDER_MARK)
            if not line.startswith(b"data:"):
                continue  # a comment, an event's name, the empty line behind each
            data = line[5:].strip()
            if data == _DONE:
                self.is_done = True
            elif data and not self.is_done:
                deltas.append(read_chunk(data))
        return deltas


def read_chunk(data: bytes) -> ChatDelta:
    """Read one chunk, or a whole completion of an upstream that does not stream; raise `UpstreamFailed`."""
    try:
        chunk = json_codec.decode(data)
    except BridgeError:
        raise UpstreamFailed("The upstream's answer has a line that is not JSON.") from None
    if not isinstance(chunk, dict):
        raise UpstreamFailed("The upstream's answer has a chunk that is not a JSON object.")
    if chunk.get("error"):
        # Cut before it is looked through as well, but so that no half of a secret is left.
        message = log.redact(
            error_message(chunk)[: 2 * MAX_UPSTREAM_MESSAGE_CHARACTERS + MAX_CHOICE_CHARACTERS]
        )
        raise UpstreamFailed(
            f"The upstream broke its answer off: {message[:MAX_UPSTREAM_MESSAGE_CHARACTERS]}",
            error=chunk["error"],
        )
    choices = chunk.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    # Some send a whole message in place of a delta.
    found = choice.get("delta") or choice.get("message")
    delta = found if isinstance(found, dict) else {}
    usage = chunk.get("usage")
    reasoning_field = next(
        (name for name in _REASONING if delta.get(name) and isinstance(delta[name], str)), ""
    )
    finish = choice.get("finish_reason")
    return ChatDelta(
        _read_text(delta.get("content")),
        delta.get(reasoning_field, ""),
        _read_calls(delta.get("tool_calls")),
        finish if isinstance(finish, str) else None,
        usage if isinstance(usage, dict) else None,
        reasoning_field,
    )


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


def is_too_long(message: str) -> bool:
    """Say whether an upstream's error means that the conversation is longer than the model can read."""
    return _TOO_LONG.search(message) is not None


def _read_text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(
            part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    return content if isinstance(content, str) else ""


def _read_calls(calls: Any) -> tuple[CallPiece, ...]:
    if not isinstance(calls, list):
        return ()
    return tuple(_read_call(position, call) for position, call in enumerate(calls) if isinstance(call, dict))


def _read_call(position: int, call: Json) -> CallPiece:
    index, function = call.get("index"), call.get("function")
    function = function if isinstance(function, dict) else {}
    arguments = function.get("arguments")
    if isinstance(arguments, dict):  # Ollama's own form
        arguments = json_codec.encode(arguments).decode()
    return CallPiece(
        index if isinstance(index, int) else position,
        _text(call.get("id")),
        _text(function.get("name")),
        _text(arguments),
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
