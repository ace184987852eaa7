"""Reads intent out of a model's text as it streams: what a person is shown, and what the model wants done. No I/O.

What counts as a tool call, and what was merely shown:

* Meant by its form alone: a fence named `tool` (or `tool_call` and its like, `patch`, or a tool's name), a `<tool_call>` that
  begins a line, `[TOOL_CALLS]`, and a bare patch from `*** Begin Patch` to `*** End Patch`.
* Meant only at the end of the answer, and only when every call in it is one of a known tool with fields that fit: JSON in a fence
  without a name or named `json`, a bare JSON object that begins a line, a patch in a fence named `diff` or `text`. With prose behind
  it, it is an example: it is shown and not run, and `hint` says so.
* Never: any other fence (a command in `sh` is an example), a fence within another, a quotation, code within a line.
  What stands behind a result that the model made up itself is dropped, calls and text.

Text is passed on at once, but for lines that may begin one of these; a block is held back until it is whole. Each character is
looked at a bounded number of times, and a block that grows too long is text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..limits import MAX_ACTION_CHARACTERS, MAX_ACTIONS, MAX_MARK_CHARACTERS
from ..values import value
from .blocks import (
    ENOUGH,
    FENCE,
    MARKS,
    MISTRAL,
    Block,
    Kind,
    begins_as_call,
    is_long,
    open_block,
    read_block,
)
from .patch import BEGIN, END
from .tools import TOOLS, ToolSpec
from .wishes import Wish, find_flaw, is_patch

_CALL_KEY = re.compile(r"[\"'](?:tool|tool_name|tool_calls?|function_call|arguments)[\"']\s*:")
# What looks like a call and cannot be one where it stands.
_STRAY = re.compile(r"^[ \t]{4,}(?:`{3,}|~{3,})tool\b|(?<![`\n])<tool_call>\s*\{", re.MULTILINE)

_EXAMPLE = (
    "A block of your answer looks like a tool call, but text stands behind it: it was taken for an example."
)
_UNRUN = "It was not carried out: it stands behind a result that you wrote yourself. Wait for the results of your calls."
_TOO_LONG = (
    f"A block of your answer is longer than {MAX_ACTION_CHARACTERS} characters: it was not carried out."
)
_TOO_MANY = f"Only the first {MAX_ACTIONS} tool calls of an answer are carried out."
_MISPLACED = "Something in your answer looks like a tool call, but does not begin at the start of a line."


@value
class Part:
    """A part of an answer: text, or a block that a tool call was read from."""

    text: str
    is_action: bool


@value
class Intent:
    """A whole answer, read. `hint`: something in it looks like a call and is none; this says why, to the model."""

    parts: tuple[Part, ...]
    wishes: tuple[Wish, ...]
    hint: str | None = None

    @property
    def content(self) -> str:
        """The answer without results that the model made up."""
        return "".join(part.text for part in self.parts)


class IntentReader:
    """Reads one answer, whatever pieces it comes in. `tools` are those that a model may call."""

    def __init__(self, tools: Mapping[str, ToolSpec] = TOOLS) -> None:
        self._tools = tools
        self._shown: list[str] = []  # since the last call
        self._said: list[str] = []  # since the last block
        self._parts: list[Part] = []
        self._wishes: list[Wish] = []
        self._hint: str | None = None
        self._line: list[str] = []  # a line that is not decided yet
        self._is_plain = False  # what comes is the rest of a line of text
        self._block: Block | None = None
        self._display: Block | None = None  # the fence whose content is shown
        # Blocks that are calls if no text follows, and the white space between them.
        self._waiting: list[tuple[str, list[Wish]]] = []
        self._waiting_size = 0
        self._blocks = 0
        self._has_invented = False

    def feed(self, text: str) -> str:
        """Take the next piece of the answer; return the text that may be shown now."""
        start = 0
        while start < len(text):
            end = text.find("\n", start) + 1 or len(text)
            self._take(text[start:end])
            start = end
        return self._flush()

    def end(self) -> tuple[str, Intent]:
        """Return the text that is still to be shown, and the whole answer."""
        while self._line or self._block is not None:
            if self._block is None:
                line = "".join(self._line)
                self._line = []
                self._begin_line(line)
            else:
                block, last = self._block, "".join(self._block.line)
                if not (last and self._end_line(block, last)):
                    self._close(block, is_whole=False)
        self._confirm()
        self._settle_text()
        if len(self._wishes) > MAX_ACTIONS:
            self._wishes[MAX_ACTIONS:] = [Wish("", problem=_TOO_MANY)]
        intent = Intent(tuple(self._parts), tuple(self._wishes), self._hint)
        if self._hint is None and not self._wishes and _STRAY.search(intent.content):
            intent = Intent(intent.parts, (), _MISPLACED)
        return self._flush(), intent

    def _flush(self) -> str:
        shown = "".join(self._shown)
        self._shown = []
        return shown

    # Lines ------------------------------------------------------------------------------------------

    def _take(self, piece: str) -> None:
        """Take a piece with no line break but at its end."""
        if self._block is not None:
            self._hold(self._block, piece)
        elif self._is_plain:
            self._is_plain = not piece.endswith("\n")
            self._say(piece)
        else:
            self._line.append(piece)
            line = "".join(self._line)
            if piece.endswith("\n") or self._opens_at_once(line):
                self._line = []
                self._begin_line(line)
            elif not self._may_open(line):
                self._line = []
                self._say_start(line)

    def _say_start(self, line: str) -> None:
        """Show a line, or as much of it as has come."""
        self._is_plain = not line.endswith("\n")
        self._say(line)

    def _may_open(self, line: str) -> bool:
        """Say whether a line that has only begun may be more than text."""
        mark = line.lstrip(" ")
        if len(line) - len(mark) > 3 or is_long(line):
            return False
        if self._display is not None:
            return not mark.strip(self._display.mark[0]).strip()
        if mark[:1] in ("`", "~"):
            run = mark.lstrip(mark[0])
            return not run or (len(mark) - len(run) >= 3 and "`" not in run)
        return mark[:1] in ("", "{", "[") or any(
            mark.startswith(one) or one.startswith(mark.rstrip()) for one in (*MARKS, BEGIN)
        )

    def _opens_at_once(self, line: str) -> bool:
        """Say whether a line that has only begun is the begin of a block, whatever follows."""
        mark = line.lstrip(" ")
        if self._display is not None or not mark or len(line) - len(mark) > 3 or MISTRAL.startswith(mark):
            return False
        return mark[0] in "{[" or mark.startswith(MARKS)

    def _begin_line(self, line: str) -> None:
        """Take a line from its start: a whole one, or one that opens a block at once."""
        if self._display is not None:
            if self._display.is_closed_by(line):
                self._display = None
            self._say_start(line)
            return
        mark = line.lstrip(" ")
        if len(line) - len(mark) > 3 or self._blocks >= MAX_ACTIONS:
            self._say_start(line)
        elif (block := open_block(line, mark)) is None or (
            block.is_result and not (self._wishes or self._waiting)
        ):
            if (found := FENCE.fullmatch(line)) is not None and not is_long(line):
                self._display = Block(Kind.FENCE, False, found[2])
            self._say_start(line)
        else:
            self._block = block
            if not block.opener:
                self._hold(block, line)

    def _rest(self, text: str) -> None:
        """Go on behind a block that ended within a line."""
        if text.endswith("\n"):
            self._begin_line(text)
        elif text:
            self._take(text)

    # Blocks -----------------------------------------------------------------------------------------

    def _hold(self, block: Block, piece: str) -> None:
        block.add(piece)
        if piece.endswith("\n"):
            line = "".join(block.line)
            block.line, block.line_size = [], 0
            if self._end_line(block, line):
                return
        elif block.kind is Kind.BARE and block.line_size - len(piece) <= MAX_MARK_CHARACTERS:
            line = "".join(block.line)
            if self._opens_at_once(line) and self._end_line(block, line):
                return
        if block.size > MAX_ACTION_CHARACTERS:
            self._hint = self._hint or _TOO_LONG
            self._release(block)
        elif not block.is_meant and not block.is_plausible and not self._may_end(block):
            found = begins_as_call("".join(block.pieces))
            block.is_plausible = found is True
            if found is False:
                self._release(block)

    def _may_end(self, block: Block) -> bool:
        """Say whether the line that has begun may be the block's last one, or the first behind it."""
        line = "".join(block.line)
        if block.kind is Kind.FENCE:
            return bool(line) and not is_long(line) and not line.strip().strip(block.mark[0])
        return 0 < len(line) < block.size and self._may_open(line)

    def _end_line(self, block: Block, line: str) -> bool:
        """Close the block if this line of it is its last; say whether it was."""
        rest = ""
        if block.kind is Kind.TAG:
            at = line.find(block.mark)
            if at < 0:
                return False
            rest = line[at + len(block.mark) :]
            block.take_back(len(rest))
        elif block.kind is Kind.BARE:
            if (
                block.size == len(line)
                or open_block(line, line.lstrip(" ")) is None
                or line.lstrip()[0] in "{["
            ):
                return False
            rest = line
            block.take_back(len(rest))
        elif block.kind is Kind.PATCH:
            if line.rstrip() != END:
                return False
        elif not block.is_closed_by(line):
            block.is_strict = block.is_strict or (block.size - len(line) < ENOUGH and is_patch(line))
            return False
        self._close(block, is_whole=True)
        self._rest(rest)
        return True

    def _close(self, block: Block, is_whole: bool) -> None:
        self._block = None
        self._is_plain = False
        if block.is_result:
            self._confirm()
            self._has_invented = True
            return
        wishes = read_block(block, is_whole)
        flaw = find_flaw(wishes, self._tools)
        self._blocks += block.is_meant or flaw is None
        if block.is_meant:
            self._confirm()
            self._act(block.raw, wishes)
        elif flaw is None:
            self._waiting.append((block.raw, wishes))
            self._waiting_size += block.size
        else:
            if _CALL_KEY.search(block.raw[:ENOUGH]) or any(name in block.raw for name in TOOLS):
                self._hint = (
                    self._hint or f"A block of your answer looks like a tool call, but it is none: {flaw}"
                )
            self._say_start(block.raw)

    def _release(self, block: Block) -> None:
        """Show what turned out not to be a block."""
        self._block = None
        if block.kind is Kind.FENCE:
            self._display = block
            block.is_strict = False
        raw = block.raw
        block.pieces = []
        self._say_start(raw)

    # Text and actions -------------------------------------------------------------------------------

    def _act(self, raw: str, wishes: list[Wish]) -> None:
        if self._has_invented:
            self._wishes.append(Wish(wishes[0].name if wishes else "", problem=_UNRUN))
            return
        self._settle_text()
        self._parts.append(Part(raw, is_action=True))
        self._wishes += wishes

    def _say(self, text: str) -> None:
        if self._waiting:
            if text.isspace() and self._waiting_size + len(text) <= MAX_ACTION_CHARACTERS:
                self._waiting.append((text, []))
                self._waiting_size += len(text)
                return
            self._hint = self._hint or _EXAMPLE
            self._show("".join(raw for raw, _ in self._waiting))
            self._forget_waiting()
        self._show(text)

    def _show(self, text: str) -> None:
        if not self._has_invented:
            self._shown.append(text)
            self._said.append(text)

    def _confirm(self) -> None:
        """Take what waited as calls: no text has followed."""
        for raw, wishes in self._waiting:
            if wishes:
                self._act(raw, wishes)
            else:
                self._show(raw)
        self._forget_waiting()

    def _forget_waiting(self) -> None:
        self._waiting = []
        self._waiting_size = 0

    def _settle_text(self) -> None:
        if self._said:
            self._parts.append(Part("".join(self._said), is_action=False))
            self._said = []
