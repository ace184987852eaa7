"""The port between the tool loop and a model's way to say what it wants done: by tool calls, or in its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..protocol.chat import ChatDelta
from ..protocol.tools import ToolResult

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that a model wants made. `problem`: it cannot be, and this says why, to the model."""

    id: str
    name: str
    arguments: Json
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of a model, read.

    `text` is what a person is shown of it; `message` is how it goes into the conversation. `problem`: the answer as a
    whole cannot be used, and this tells the model what to do better; there are no calls then.
    """

    text: str
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
        """Return the messages that tell the model what its calls have done."""

    def correction(self, problem: str) -> Json:
        """Return the message that asks the model for a better answer."""

    def closing(self, text: str) -> str:
        """Return what the bridge adds to the answer that ends the turn, as part of its text; "" for nothing."""
