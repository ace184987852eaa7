"""The conversation of one turn as the model is told it, and how it is kept within what a model can read.

What is left out to make room, in this order: what old tool calls have answered, the oldest of what was said in earlier
turns, the oldest steps of this one, and the rest of long answers of the newest tool calls. Never what the system message
says, nor what the person has said in this turn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..limits import IMAGE_CHARACTERS, MIN_TRIMMED_RESULT_CHARACTERS
from ..runtime import Utterance

Json = dict[str, Any]

_LEFT_OUT = "[This result was left out to make room; call the tool again if you need it.]"
_CUT = "... [the rest was left out to make room; ask for less]"
# Chat templates of many models insist on turns that alternate.
_NO_ANSWER = "(There is no answer: the turn was stopped.)"


@dataclass(slots=True)
class _Round:
    """An answer of the model with the results of its calls, or what a person said meanwhile."""

    messages: list[Json]
    results: list[Json] = field(default_factory=list)
    is_persons: bool = False

    @property
    def size(self) -> int:
        return sum(map(_measure, self.messages)) + sum(map(_measure, self.results))


class Conversation:
    """What the model is told with the next request."""

    def __init__(self, system: str, history: Sequence[Utterance], user: Json) -> None:
        self._system: Json = {"role": "system", "content": system}
        self._past = _to_messages(history)
        self._rounds = [_Round([user], is_persons=True)]

    @property
    def size(self) -> int:
        """How long it is, in characters; a token has about four."""
        rounds = sum(each.size for each in self._rounds)
        return _measure(self._system) + sum(map(_measure, self._past)) + rounds

    def messages(self) -> list[Json]:
        """Return all of it as the `messages` of a request."""
        rounds = [message for each in self._rounds for message in (*each.messages, *each.results)]
        return [self._system, *self._past, *rounds]

    def add_answer(self, answer: Json, results: Sequence[Json]) -> None:
        """Add an answer of the model, and what it is told of it."""
        self._rounds.append(_Round([answer], list(results)))

    def add_user(self, message: Json) -> None:
        """Add what the person has said meanwhile."""
        self._rounds.append(_Round([message], is_persons=True))

    def trim(self, budget: int) -> bool:
        """Leave out what must go so that at most `budget` characters are left, if that can be; say whether anything was."""
        size = before = self.size
        for saved in self._save():
            if size <= budget:
                break
            size -= saved()
        return size < before

    def _save(self) -> Iterator[Any]:
        """Yield what can be done to make room, the least harmful first; each returns how much it has gained."""
        answered = [each for each in self._rounds if not each.is_persons]
        older, newest = answered[:-1], answered[-1:]
        for result in (result for each in older for result in each.results):
            yield lambda result=result: _cut_result(result, 0, _LEFT_OUT)
        while self._past:
            yield self._drop_past
        for each in older:
            yield lambda each=each: self._drop_round(each)
        for result in (result for each in newest for result in each.results):
            yield lambda result=result: _cut_result(result, MIN_TRIMMED_RESULT_CHARACTERS, _CUT)

    def _drop_past(self) -> int:
        """Drop the oldest that was said, up to the next that a person said: nothing begins with an answer."""
        gained = _measure(self._past.pop(0))
        while self._past and self._past[0]["role"] != "user":
            gained += _measure(self._past.pop(0))
        return gained

    def _drop_round(self, each: _Round) -> int:
        self._rounds.remove(each)
        return each.size


def _to_messages(history: Sequence[Utterance]) -> list[Json]:
    """Return what was said before as messages that alternate, beginning with the person's."""
    found: list[Json] = []
    for said in history:
        role = "user" if said.is_user else "assistant"
        if found and found[-1]["role"] == role:
            found[-1]["content"] += f"\n\n{said.text}"
        elif found or said.is_user:
            found.append({"role": role, "content": said.text})
    if found and found[-1]["role"] == "user":
        found.append({"role": "assistant", "content": _NO_ANSWER})
    return found


def _cut_result(message: Json, most: int, note: str) -> int:
    content = message["content"]
    if not isinstance(content, str) or len(content) <= most + len(note):
        return 0
    message["content"] = content[:most] + note
    return len(content) - most - len(note)


def _measure(message: Json) -> int:
    content = message.get("content")
    if isinstance(content, list):
        size = sum(len(part.get("text", "")) or IMAGE_CHARACTERS for part in content)
    else:
        size = len(content or "")
    calls = (call["function"] for call in message.get("tool_calls", ()))
    return size + sum(len(call["name"]) + len(call["arguments"]) for call in calls)
