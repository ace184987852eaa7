"""The dialect of models that call tools: `tools` in the request, `tool_calls` in the answer, messages of the role `tool`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..errors import InvalidJson
from ..protocol import json_codec
from ..protocol.chat import Calls, ChatDelta
from ..protocol.tools import ToolResult
from .dialect import OFFERED, AnswerReader, Reply, ToolCall, result_text

Json = dict[str, Any]

_INSTRUCTIONS = (
    "Call the tools by the tool interface of this API. A call that is written into your text is not made."
)
_EMPTY = "Your answer was empty. Call a tool, or answer the person in words."
_CUT = "Your answer was cut off because it was too long. Do it in smaller steps."
_IN_TEXT = (
    "You have written a tool call into your text, where it does nothing. Make it by the tool interface, "
    "or answer the person in words alone."
)
_NOTHING_SAID = "(nothing)"
# How models write a call that their server does not recognise as one.
_NAMES = "|".join(OFFERED)
_CALL_IN_TEXT = re.compile(
    r"<tool_call>|<function[=_]|\[TOOL_CALLS\]|<\|tool_call|<\|python_tag\|>|<invoke name="
    rf'|"(?:name|tool|function)"\s*:\s*"(?:{_NAMES})"\s*,\s*"(?:arguments|parameters|input|args)"\s*:'
)


class ModelTools:
    """Implements the `Dialect` port."""

    def instructions(self) -> str:
        """Say that calls go by the interface; what the tools are is in `tools`."""
        return _INSTRUCTIONS

    def request_fields(self) -> Json:
        """Return the tools as functions."""
        tools = [
            {
                "type": "function",
                "function": {
                    "name": spec.name,
                    "description": spec.description,
                    "parameters": spec.input_schema,
                },
            }
            for spec in OFFERED.values()
        ]
        return {"tools": tools}

    def reader(self) -> AnswerReader:
        """Return what reads the next answer."""
        return _Reader()

    def results(self, done: Sequence[tuple[ToolCall, ToolResult]]) -> list[Json]:
        """Return a message of the role `tool` for each call."""
        return [
            {"role": "tool", "tool_call_id": call.id, "content": result_text(result)} for call, result in done
        ]

    def correction(self, problem: str) -> Json:
        """Return a message that says what was wrong; it is no person's."""
        return {"role": "user", "content": f"[This is the bridge, not the person.] {problem}"}

    def closing(self, done: Sequence[tuple[ToolCall, ToolResult]]) -> str:
        """Add nothing: such models are told each result, and hosts are told each item."""
        return ""


class _Reader:
    """Reads one answer: its text is shown as it comes, the pieces of its calls are joined."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._calls = Calls()
        self._finish = ""

    def feed(self, delta: ChatDelta) -> str:
        """Take the next delta; all text is shown at once."""
        self._finish = delta.finish_reason or self._finish
        for piece in delta.calls:
            self._calls.add(piece)
        self._text.append(delta.text)
        return delta.text

    def end(self) -> tuple[str, Reply]:
        """Return the answer."""
        text = "".join(self._text)
        if self._calls:
            calls = self._read_calls()
            told = [_told(call) for call in calls]
            return "", Reply(text, calls, {"role": "assistant", "content": text or None, "tool_calls": told})
        message = {"role": "assistant", "content": text.strip() or _NOTHING_SAID}
        problem = None
        if not text.strip():
            problem = _CUT if self._finish == "length" else _EMPTY
        elif _CALL_IN_TEXT.search(text):
            problem = _IN_TEXT
        return "", Reply(text, (), message, problem)

    def _read_calls(self) -> tuple[ToolCall, ...]:
        is_cut = self._finish == "length"
        return tuple(
            ToolCall(call.id, call.name, *_read_arguments(call.arguments, is_cut))
            for call in self._calls.named_apart()
        )


def _read_arguments(text: str, is_cut: bool) -> tuple[Json, str | None]:
    """Return the arguments of a call, and what is wrong with them."""
    if not text.strip():
        return {}, None
    try:
        value = json_codec.decode(text.encode(errors="replace"))
    except InvalidJson as problem:
        return {}, _CUT if is_cut else f"The arguments of this call are no valid JSON. {problem.message}"
    # Some encode them twice.
    if isinstance(value, str):
        return (
            _read_arguments(value, is_cut) if value != text else ({}, "The arguments must be a JSON object.")
        )
    if not isinstance(value, dict):
        return {}, "The arguments of this call must be a JSON object."
    return value, None


def _told(call: ToolCall) -> Json:
    """Return a call as the model is shown it again. Broken arguments are left out: upstreams choke on them."""
    arguments = json_codec.encode(call.arguments).decode()
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
