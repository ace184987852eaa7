"""Tells what a model thinks from what it says, where an upstream leaves both in the text. No I/O.

Thoughts stand before all else, between `<think>` and `</think>`. The templates of many models write the `<think>` into the
prompt, so that an answer has the other mark alone: where one begins a line, all before it was thought, though it was taken
for the answer. Within a fence of code it is text, as both marks are behind the first thoughts, and a `<think>` behind other
text. White space between thoughts and answer is neither.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

_BEGIN, _END = "<think>", "</think>"
_LOST = re.compile(f"^{_END}", re.MULTILINE)
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})([^`\n]*)$", re.MULTILINE)


class _State(Enum):
    BEGIN = auto()  # nothing was said yet
    THOUGHT = auto()
    TEXT = auto()  # which may turn out to have been thought
    ANSWER = auto()  # no more thoughts come


@dataclass(slots=True)
class Split:
    """What a piece of text has of both. `takes_back`: all that was said before it was thought."""

    thought: str = ""
    said: str = ""
    takes_back: bool = False


class ThoughtSplitter:
    """Splits one answer, whatever pieces it comes in."""

    def __init__(self) -> None:
        self._state = _State.BEGIN
        self._has_thought = False
        # What may be the begin of a mark.
        self._held = ""
        self._begins_line = False
        # What was said since fences were looked for, and what the fence that is open began with.
        self._said: list[str] = []
        self._fence = ""

    def feed(self, text: str) -> Split | None:
        """Take the next piece of the text; return None where all of it is said, as mostly."""
        if not text or self._state is _State.ANSWER:
            return None
        if self._state is _State.TEXT and not self._held and "<" not in text:
            self._begins_line = text[-1] == "\n"
            self._said.append(text)
            return None
        split = Split()
        rest, self._held = self._held + text, ""
        while rest:
            if self._state is _State.BEGIN:
                rest = self._begin(rest, split)
            elif self._state is _State.THOUGHT:
                rest = self._think(rest, split)
            elif self._state is _State.TEXT:
                rest = self._speak(rest, split)
            else:
                split.said += rest
                break
        return split

    def end(self) -> Split:
        """Return what was held back."""
        held, self._held = self._held, ""
        return Split(thought=held) if self._state is _State.THOUGHT else Split(said=held)

    def _begin(self, text: str, split: Split) -> str:
        word = text.lstrip()
        if not self._has_thought:
            split.said += text[: len(text) - len(word)]
        if word.startswith(_BEGIN):
            self._state = _State.THOUGHT
            return word.removeprefix(_BEGIN)
        if word.startswith(_END):
            self._has_thought = True
            return word.removeprefix(_END)
        if _BEGIN.startswith(word) or _END.startswith(word):
            self._held = word
            return ""
        self._state = _State.ANSWER if self._has_thought else _State.TEXT
        return word

    def _think(self, text: str, split: Split) -> str:
        thought, mark, rest = text.partition(_END)
        if mark:
            self._state, self._has_thought = _State.BEGIN, True
        else:
            self._held = next(_END[:size] for size in range(len(_END), -1, -1) if text.endswith(_END[:size]))
            thought = text.removesuffix(self._held)
        split.thought += thought
        return rest

    def _speak(self, text: str, split: Split) -> str:
        # A line begins behind each line break, and with the text itself where the last piece has ended in one.
        looked_through = 0
        for lost in _LOST.finditer(text, 0 if self._begins_line else 1):
            self._said.append(text[looked_through : lost.start()])
            looked_through = lost.start()
            if not self._is_in_fence():
                self._state, self._has_thought, split.takes_back = _State.BEGIN, True, True
                split.thought += text[: lost.start()]
                return text[lost.end() :]
        _, line_break, line = text.rpartition("\n")
        if (line_break or self._begins_line) and _END.startswith(line):
            self._held, self._begins_line = line, True
            text = text.removesuffix(line)
        else:
            self._begins_line = False
        self._said.append(text[looked_through:])
        split.said += text
        return ""

    def _is_in_fence(self) -> bool:
        """Say whether a fence is open at the line that begins now."""
        for found in _FENCE.finditer("".join(self._said)):
            if not self._fence:
                self._fence = found[1]
            elif found[1].startswith(self._fence) and not found[2].strip():
                self._fence = ""
        self._said.clear()
        return bool(self._fence)
