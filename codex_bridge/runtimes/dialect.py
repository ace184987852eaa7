"""The port between the tool loop and a model's way to say what it wants done: by tool calls, or in its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..limits import MAX_JUSTIFICATION_CHARACTERS, MAX_TOOL_RESULT_CHARACTERS
from ..protocol import json_codec
from ..protocol.chat import ChatDelta
from ..protocol.tools import TOOLS, ToolResult, ToolSpec
from ..values import replace, value

Json = dict[str, Any]


def _offer(spec: ToolSpec) -> ToolSpec:
    """Return a tool as models have it: they may ask that a command runs outside of the sandbox, which hosts may not."""
    if spec.name != "run_command":
        return spec
    escalate = {
        "type": "boolean",
        "default": False,
        "description": "Ask a person that it may run outside of the sandbox; only where it cannot work inside.",
    }
    justification = {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_JUSTIFICATION_CHARACTERS,
        "description": "With escalate: the question that the person is asked, in one sentence.",
    }
    return replace(spec, properties={**spec.properties, "escalate": escalate, "justification": justification})


# What a model is told by both dialects.
FROM_BRIDGE = "[This is the bridge, not the person.]"
CUT = "Your answer was cut off because it was too long. Do it in smaller steps."
# Stands for an answer without a word: an empty one is refused by some upstreams.
NOTHING_SAID = "(nothing)"

# The tools as a model may call them. Its arguments are judged by these, in the loop.
OFFERED: Mapping[str, ToolSpec] = {name: _offer(spec) for name, spec in TOOLS.items()}


@value
class ToolCall:
    """A call that a model wants made. `problem`: it cannot be, and this says why, to the model.

    Whether there is such a tool and whether its arguments are right is judged by the loop.
    """

    id: str
    name: str
    arguments: Json
    problem: str | None = None


@value
class Reply:
    """One answer of a model, read.

    `message` is how it goes into the conversation. `problem`: the answer as a whole cannot be used, and this tells the
    model what to do better; there are no calls then, and what a person was shown of it is void.
    """

    calls: tuple[ToolCall, ...]
    message: Json
    problem: str | None = None


class AnswerReader(Protocol):
    """Reads one answer as it streams."""

    def feed(self, delta: ChatDelta) -> str:
        """Take the next delta; return the text that a person may be shown now."""

    def end(self) -> tuple[str, Reply]:
        """Return what is still to be shown, and the whole answer."""


class Dialect(Protocol):
    """How tools are offered to a model, and how its wishes and their results are put. One is made for each turn.

    It may remember what `results` was told in the turn.
    """

    def instructions(self) -> str:
        """Return what the system message says of the tools."""

    def request_fields(self) -> Json:
        """Return what a request has besides its messages: `tools`, or nothing."""

    def reader(self) -> AnswerReader:
        """Return what reads the next answer."""

    def results(self, done: Sequence[tuple[ToolCall, ToolResult]]) -> list[Json]:
        """Return the messages that tell the model what its calls have done. Their `content` is a text (`result_text`)."""

    def correction(self, problem: str) -> Json:
        """Return the message that asks the model for a better answer."""

    def closing(self, done: Sequence[tuple[ToolCall, ToolResult]]) -> str:
        """Return what a person is told below the final answer of what the turn has really done; may be empty.

        `done` are all calls of the turn that were made, oldest first, those that failed or were declined too.
        """


def result_text(result: ToolResult) -> str:
    """Return what a model is told of a tool's result: JSON, cut where it is long."""
    text = json_codec.encode(result.to_json()).decode()
    if len(text) <= MAX_TOOL_RESULT_CHARACTERS:
        return text
    cut = f"... [cut here: {len(text)} characters in all. Ask for less, or for a page at a time.]"
    return text[:MAX_TOOL_RESULT_CHARACTERS] + cut
