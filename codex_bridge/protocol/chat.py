"""Chat Completions as upstreams stream them: what one chunk of an answer says. No I/O.

Upstreams differ: where the reasoning stands, whether they stream at all, whether the usage has a chunk of its own. What is
none of it is left out, and an error in the middle of a stream is told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from .. import log
from ..errors import BridgeError, CodexFailed, UpstreamFailed
from ..limits import MAX_CHOICE_CHARACTERS, MAX_UPSTREAM_MESSAGE_CHARACTERS
from ..values import value
from . import json_codec
from .jsonrpc import LineSplitter
from .openai import error_message
from .thoughts import ThoughtSplitter

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


@value
class CallPiece:
    """A piece of a tool call. The pieces of one call bear the same `index`; their `arguments` are to be joined."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class ChatDelta:
    """What one chunk adds to the answer. `usage` is the upstream's own object, `reasoning_field` where reasoning stood.

    `takes_back`: all text before it was reasoning, too.
    """

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()
    finish_reason: str | None = None
    usage: Json | None = None
    reasoning_field: str = field(default="", compare=False)
    takes_back: bool = False

    @property
    def size(self) -> int:
        """How long it is, in characters; a call counts also where it says nothing, as a flood of them must end as well."""
        calls = sum(len(piece.arguments) + len(piece.id) + len(piece.name) + 1 for piece in self.calls)
        return len(self.text) + len(self.reasoning) + calls


class ChatReader:
    """Reads an answer of `/v1/chat/completions`: an event stream, or the one JSON text of an upstream that does not stream.

    `is_done` behind the JSON text, or after `[DONE]`, which not all upstreams send.
    """

    def __init__(self) -> None:
        self._lines = LineSplitter()
        self._thoughts = ThoughtSplitter()
        # Known from the first byte that is no space: only JSON begins with a brace.
        self._is_json: bool | None = None
        self._has_begun = False
        self.is_done = False

    def feed(self, piece: bytes) -> list[ChatDelta]:
        """Take the next bytes; raise `UpstreamFailed` for an error that stands in them, or what is no chunk."""
        if self._is_json is None and (start := piece.lstrip()):
            self._is_json = start.startswith(b"{")
        if self._is_json:
            # One line is made of it: within texts line breaks are escaped.
            piece = piece.replace(b"\n", b" ")
        return self._read(piece)

    def end(self) -> list[ChatDelta]:
        """Return what is still to be read at the answer's end; raise `UpstreamFailed` as `feed` does."""
        deltas = self._read(b"\n") if self._is_json else []
        self.is_done = self.is_done or bool(deltas)
        rest = self._thoughts.end()
        return [*deltas, ChatDelta(rest.said, rest.thought)]

    def _read(self, piece: bytes) -> list[ChatDelta]:
        deltas = []
        try:
            lines = self._lines.feed(piece)
        except CodexFailed:
            raise UpstreamFailed("The upstream's answer has a line beyond all measure.") from None
        for line in lines:
            if not self._has_begun:
                self._has_begun = True
                line = line.removeprefix(_BYTE_ORDER_MARK)
            if line.startswith(b"data:"):
                data = line[5:].strip()
            elif self._is_json:
                data = line
            else:
                continue  # a comment, an event's name, the empty line behind each
            if data == _DONE:
                self.is_done = True
            elif data and not self.is_done:
                deltas.append(self._split(read_chunk(data)))
        return deltas

    def _split(self, delta: ChatDelta) -> ChatDelta:
        """Take what is thought out of a delta's text."""
        split = self._thoughts.feed(delta.text)
        if split is None:
            return delta
        return replace(
            delta, text=split.said, reasoning=delta.reasoning + split.thought, takes_back=split.takes_back
        )


def read_chunk(data: bytes) -> ChatDelta:
    """Read one chunk, or a whole completion; raise `UpstreamFailed`."""
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
        message = f"The upstream broke its answer off: {message[:MAX_UPSTREAM_MESSAGE_CHARACTERS]}"
        raise failure(message, chunk["error"])
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


def failure(message: str, error: Any, code: str | None = None, status: int | None = None) -> UpstreamFailed:
    """Return a failure with what the gateway says in an error of its own: whether another try may mend it, and when."""
    told = error if isinstance(error, dict) else {}
    wait_s = told.get("retry_after_s")
    return UpstreamFailed(
        message,
        passes=told.get("passes", True) is True,
        retry_after_s=wait_s if type(wait_s) is int else 0,
        code=code,
        status=status,
    )


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
