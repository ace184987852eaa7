"""Tells what a model thinks from what it says, where an upstream leaves both in the text. No I/O.

Thoughts stand before all else, between `<think>` and `</think>`. The templates of many models write the `<think>` into the
prompt, so that an answer has the other mark alone: where one begins a line, all before it was thought, though it was taken
for the answer. Behind the first thoughts both marks are text like any other, and so is a `<think>` behind other text.
White space between thoughts and answer is neither.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

_BEGIN, _END = "<think>", "</think>"
_LOST = re.compile(f"^{_END}", re.MULTILINE)


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

    def feed(self, text: str) -> Split | None:
        """Take the next piece of the text; return None where all of it is said, as mostly."""
        if not text or self._state is _State.ANSWER:
            return None
        if self._state is _State.TEXT and not self._held and "<" not in text:
            self._begins_line = text[-1] == "\n"
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
        lost = _LOST.search(text, 0 if self._begins_line else 1)
        if lost is not None:
            self._state, self._has_thought, split.takes_back = _State.BEGIN, True, True
            split.thought += text[: lost.start()]
            return text[lost.end() :]
        _, line_break, line = text.rpartition("\n")
        if (line_break or self._begins_line) and _END.startswith(line):
            self._held, self._begins_line = line, True
            text = text.removesuffix(line)
        else:
            self._begins_line = False
        split.said += text
        return ""
