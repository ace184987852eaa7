"""Items and events of a tool loop, in Codex's own shapes: a host cannot tell a loop's turn from one of Codex."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from typing import Any

from ..errors import UpstreamFailed
from ..limits import MAX_COMMAND_OUTPUT_BYTES, MAX_MODEL_ANSWER_CHARACTERS, MAX_TOLD_TEXT_CHARACTERS
from ..model import new_id
from ..protocol import json_codec
from ..protocol.chat import ChatDelta
from ..protocol.codex import RETRYING
from ..protocol.tools import ToolResult
from ..runtime import Emit
from ..workspace.commands import find_shell
from .dialect import AnswerReader, Reply

Json = dict[str, Any]

# The exit code that Codex tells of a command that it has ended.
_ENDED = -1


class Answer:
    """One answer of the model while it streams: first a `reasoning`, where it tells any, then an `agentMessage`."""

    def __init__(self, emit: Emit, make_reader: Callable[[], AnswerReader]) -> None:
        self._emit = emit
        self._make_reader = make_reader
        self._reader = make_reader()
        self._reasoning = _Text(emit, _reasoning_item, "item.reasoning.delta")
        self._message = _Text(emit, _message_item, "item.agent_message.delta")
        self._size = 0
        self.tokens = 0

    def take(self, delta: ChatDelta) -> None:
        """Take the next piece; raise `UpstreamFailed` when there is no end to it."""
        if delta.usage is not None:
            total = delta.usage.get("total_tokens")
            self.tokens = total if type(total) is int else self.tokens
        self._size += delta.size
        if self._size > MAX_MODEL_ANSWER_CHARACTERS:
            raise UpstreamFailed(
                f"The model's answer has more than {MAX_MODEL_ANSWER_CHARACTERS} characters.",
                passes=False,
            )
        if delta.takes_back:
            self._take_back()
        self._reasoning.add(delta.reasoning)
        self._say(self._reader.feed(delta))

    def end(self) -> Reply:
        """Return the whole answer; what was said stays open, see `close` and `void`."""
        rest, reply = self._reader.end()
        self._say(rest)
        self._reasoning.complete()
        return reply

    def close(self, closing: str = "") -> None:
        """Complete what was said, with a last word of the bridge below."""
        if closing:
            self._message.add(f"\n\n{closing}" if self._message.is_open else closing)
        self._message.complete()

    def _take_back(self) -> None:
        """Tell as a thought what was taken for the answer."""
        self._reader = self._make_reader()
        thought = self._message.drop()
        if thought:
            self.void("What was said so far were the model's thoughts.")
            self._reasoning.add(thought)

    def void(self, why: str) -> None:
        """Take back what was said of an answer that cannot be used, and say why."""
        self._emit({"type": "warning", "code": RETRYING, "message": why})

    def _say(self, text: str) -> None:
        if text and (self._message.is_open or text.strip()):
            self._reasoning.complete()
            self._message.add(text)


class _Text:
    """An item that grows, begun with the first text that is more than white space."""

    def __init__(self, emit: Emit, make: Callable[[str, str], Json], delta_type: str) -> None:
        self._emit = emit
        self._make = make
        self._delta_type = delta_type
        self._id = ""
        self._pieces: list[str] = []

    @property
    def is_open(self) -> bool:
        return bool(self._id)

    def add(self, text: str) -> None:
        if not self.is_open:
            text = text.lstrip()
        if not text:
            return
        if not self.is_open:
            self._id = new_id("item")
            self._emit({"type": "item.started", "item": self._make(self._id, "")})
        self._pieces.append(text)
        self._emit({"type": self._delta_type, "item_id": self._id, "delta": text})

    def complete(self) -> None:
        if self.is_open:
            self._emit({"type": "item.completed", "item": self._make(self._id, "".join(self._pieces))})
            self.drop()

    def drop(self) -> str:
        """Begin anew; return the text so far."""
        text = "".join(self._pieces)
        self._id = ""
        self._pieces.clear()
        return text


class ToolItem:
    """The item of one tool call, from its start to its end."""

    def __init__(self, emit: Emit, root: str, tool: str, arguments: Json) -> None:
        self._emit = emit
        self._tool = tool
        self._started = time.monotonic()
        self._output: list[str] = []
        self._output_size = 0
        self.id = new_id("item")
        self.item = _tool_item(self.id, root, tool, arguments)

    def start(self, changes: list[Json] | None = None) -> None:
        """Tell that it begins; `changes` are those of an edit."""
        if changes is not None:
            self.item["changes"] = changes
        self._emit({"type": "item.started", "item": dict(self.item)})

    def begin_work(self) -> None:
        """Count its time from here: a person may have been asked before."""
        self._started = time.monotonic()

    def on_output(self, text: str) -> None:
        """Tell what a command writes."""
        if self._output_size < MAX_COMMAND_OUTPUT_BYTES:
            self._output.append(text[: MAX_COMMAND_OUTPUT_BYTES - self._output_size])
            self._output_size += len(text)
        self._emit({"type": "command.execution.output", "item_id": self.id, "delta": text})

    def complete(self, result: ToolResult, told: str) -> None:
        """Tell its end; `told` is what the model is told of it."""
        data = result.data or {}
        kind = self.item["type"]
        if kind == "commandExecution":
            exit_code = _exit_code(result)
            self.item |= {
                "status": "completed" if exit_code == 0 else "failed",
                "aggregatedOutput": "".join(self._output) or _output_of(result),
                "exitCode": exit_code,
                "durationMs": self._duration_ms(),
            }
        elif kind == "fileChange":
            self.item["status"] = "completed" if result.is_ok else "failed"
        else:
            content = [{"type": "inputText", "text": told}]
            self.item |= {
                "status": "completed" if result.is_ok else "failed", "success": result.is_ok,
                "contentItems": content, "durationMs": self._duration_ms(),
            }  # fmt: skip
        self._end(result, {name: value for name, value in data.items() if _is_short(value)})

    def decline(self, result: ToolResult) -> None:
        """Tell that a person has not allowed it."""
        self.item["status"] = "declined"
        self._end(result, {})

    def break_off(self) -> None:
        """Tell that it was ended in the middle."""
        self.item["status"] = "failed"
        if self.item["type"] == "commandExecution":
            self.item |= {
                "aggregatedOutput": "".join(self._output), "exitCode": _ENDED, "durationMs": self._duration_ms(),
            }  # fmt: skip
        self._emit({"type": "item.completed", "item": self.item})

    def _end(self, result: ToolResult, short: Json) -> None:
        self._emit({"type": "item.completed", "item": self.item})
        event: Json = {
            "type": "bridge.tool.result", "item_id": self.id, "tool": self._tool, "ok": result.is_ok, "result": short,
        }  # fmt: skip
        if result.error is not None:
            event["error"] = {name: value for name, value in result.error.items() if _is_short(value)}
        if result.limits:
            event["limits"] = list(result.limits)
        self._emit(event)

    def _duration_ms(self) -> int:
        return round((time.monotonic() - self._started) * 1000)


def command_line(tool: str, arguments: Json) -> str:
    """Return what a person is shown of a command: as Codex does, with its shell."""
    if tool == "run_command":
        return shlex.join([find_shell(), "-c", arguments["command"]])
    words = ["git", tool.removeprefix("git_")]
    words += ["--staged"] * bool(arguments.get("staged"))
    words += ["-n", str(arguments["limit"])] if "limit" in arguments else []
    words += ["--", arguments["path"]] if "path" in arguments else []
    return shlex.join(words)


def _message_item(item_id: str, text: str) -> Json:
    empty = {"phase": None, "memoryCitation": None, "delivery": None, "questions": None}
    return {"type": "agentMessage", "id": item_id, "text": text, **empty}


def _reasoning_item(item_id: str, text: str) -> Json:
    return {"type": "reasoning", "id": item_id, "summary": [], "content": [text] if text else []}


def _tool_item(item_id: str, root: str, tool: str, arguments: Json) -> Json:
    if tool == "apply_patch":
        return {"type": "fileChange", "id": item_id, "changes": [], "status": "inProgress"}
    if tool != "run_command" and not tool.startswith("git_"):
        return {
            "type": "dynamicToolCall", "id": item_id, "namespace": None, "tool": tool, "arguments": arguments,
            "status": "inProgress", "contentItems": None, "success": None, "durationMs": None,
        }  # fmt: skip
    command = command_line(tool, arguments)
    action = arguments["command"] if tool == "run_command" else command
    return {
        "type": "commandExecution", "id": item_id, "pluginId": None, "scriptPath": None, "command": command,
        "cwd": os.path.normpath(os.path.join(root, arguments.get("cwd", "."))), "processId": None, "source": "agent",
        "status": "inProgress", "commandActions": [{"type": "unknown", "command": action}], "aggregatedOutput": None,
        "exitCode": None, "durationMs": None,
    }  # fmt: skip


def _exit_code(result: ToolResult) -> int:
    if result.data is None or "exit_code" not in result.data:
        return 0 if result.is_ok else 1
    code = result.data["exit_code"]
    return _ENDED if code is None else int(code)


def _output_of(result: ToolResult) -> str:
    """Return what a command that was not heard has written, or why it could not run."""
    if result.data is None:
        return str((result.error or {}).get("message", ""))
    text = next((result.data[name] for name in ("output", "diff") if name in result.data), None)
    return text if isinstance(text, str) else json_codec.encode(result.data).decode()


def _is_short(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_TOLD_TEXT_CHARACTERS
    return value is None or isinstance(value, int | float)
