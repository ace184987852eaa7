"""The blocks of a model's answer that may be tool calls: where one begins and ends, and what it asks for. No I/O.

`intent` has the rules, and says which of them count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum

from ..limits import MAX_MARK_CHARACTERS
from .patch import BEGIN
from .tools import TOOLS
from .wishes import CALL_KEYS, Wish, is_patch, may_be_patch, read_calls, read_patches

FENCE = re.compile(r"( {0,3})(`{3,}|~{3,})[ \t]*([^`\r\n]*)\r?\n?")
_WORD = re.compile(r"[\w.+-]+")
_MEANT = frozenset({
    "tool", "tools", "tool_call", "tool_calls", "tool-call", "tool_code", "tool_use", "function_call", *TOOLS,
})  # fmt: skip
_PATCHES = frozenset({"patch", "apply_patch"})
# Shown more often than meant.
_PERHAPS = frozenset({
    "", "json", "json5", "jsonc", "diff", "udiff", "text", "txt", "plaintext", "sh", "bash", "shell",
})  # fmt: skip
_RESULTS = frozenset({"result", "results", "tool_result", "tool_results", "tool_response", "tool_output"})
_TAGS = {
    "<tool_call>": "</tool_call>",
    "<tool_calls>": "</tool_calls>",
    "<function_call>": "</function_call>",
    "<function=": "</function>",
    "<tool_response>": "</tool_response>",
    "<tool_result>": "</tool_result>",
}
_RESULT_TAGS = frozenset({"<tool_response>", "<tool_result>"})
MISTRAL = "[TOOL_CALLS]"
MARKS = (*_TAGS, MISTRAL)
_FIRST_KEY = re.compile(r"(?:\[\s*)?\{\s*[\"']?(\w+)[\"']?\s*:")
_NO_CALL = re.compile(r"\[\s*[^\s{]|\{\s*[^\s\"'\w/#]")
# Enough of a block to see its first key.
ENOUGH = 120


class Kind(Enum):
    FENCE = "fence"
    TAG = "tag"
    PATCH = "patch"
    BARE = "bare"


@dataclass(slots=True)
class Block:
    """What is held back. `is_meant`: a call, whatever it holds; `is_plausible`: it begins as a call does.

    `mark` is what it begins and ends with, `line` its last line as far as it has come. `is_strict`: it is a patch, in
    which a mark that is indented is content.
    """

    kind: Kind
    is_meant: bool
    mark: str = ""
    language: str = ""
    indent: str = ""
    opener: str = ""
    pieces: list[str] = field(default_factory=list)
    line: list[str] = field(default_factory=list)
    line_size: int = 0
    size: int = 0
    is_plausible: bool = False
    is_result: bool = False
    is_strict: bool = False

    def add(self, piece: str) -> None:
        self.pieces.append(piece)
        self.size += len(piece)
        self.line.append(piece)
        self.line_size += len(piece)

    def take_back(self, count: int) -> None:
        """Forget the last characters."""
        self.pieces = ["".join(self.pieces)[: self.size - count]]
        self.size -= count

    @property
    def raw(self) -> str:
        return self.opener + "".join(self.pieces)

    def is_closed_by(self, line: str) -> bool:
        """Say whether a line is the fence's last one."""
        found = FENCE.fullmatch(line)
        return (
            found is not None
            and not is_long(line)
            and not found[3].strip()
            and found[2].startswith(self.mark)
            and (not self.is_strict or len(found[1]) <= len(self.indent))
        )


def is_long(line: str) -> bool:
    """Say whether a line is longer than any fence's or patch's first line."""
    return len(line.removesuffix("\n")) > MAX_MARK_CHARACTERS


def open_block(line: str, mark: str) -> Block | None:
    """Return the block that a line opens, if it opens one; `mark` is the line without its indent."""
    tag = next((tag for tag in _TAGS if mark.startswith(tag)), None)
    if tag is not None:
        return Block(Kind.TAG, True, _TAGS[tag], tag, is_result=tag in _RESULT_TAGS)
    if mark.startswith(MISTRAL):
        return Block(Kind.BARE, True, language=MISTRAL)
    if mark[:1] in ("{", "["):
        return Block(Kind.BARE, False)
    if is_long(line):
        return None
    if line.rstrip() == BEGIN:
        return Block(Kind.PATCH, True, opener=line)
    found = FENCE.fullmatch(line)
    return None if found is None else _open_fence(line, found)


def _open_fence(line: str, found: re.Match[str]) -> Block | None:
    words = [word.lower() for word in _WORD.findall(found[3])]
    language = words[0] if words else ""
    if len(words) > 1 and language in _MEANT and words[1] in TOOLS:
        language = words[1]
    is_result = language in _RESULTS
    is_meant = is_result or language in _MEANT or language in _PATCHES
    if not is_meant and language not in _PERHAPS:
        return None
    return Block(Kind.FENCE, is_meant, found[2], language, found[1], line, is_result=is_result)


def begins_as_call(body: str) -> bool | None:
    """Say whether a block begins as a tool call does; None as long as that cannot be seen."""
    start = body[:ENOUGH].lstrip()
    if is_patch(start):
        return True
    if (found := _FIRST_KEY.match(start)) is not None:
        return found[1] in CALL_KEYS
    if len(body) > ENOUGH:
        return False
    if start[:1] in ("{", "["):
        return False if _NO_CALL.match(start) else None
    return None if may_be_patch(start) else False


def read_block(block: Block, is_whole: bool) -> list[Wish]:
    """Return what a block asks for: one wish at least."""
    body = "".join(block.pieces)
    if "\r\n" in (block.opener or body[: body.find("\n") + 1]):
        body = body.replace("\r\n", "\n")
    if block.kind is Kind.PATCH:
        return read_patches(f"{BEGIN}\n{body}", is_whole)
    if block.kind is Kind.TAG:
        body = body.strip().removesuffix(block.mark).removeprefix(block.language)
        body = f"<function={body}</function>" if block.language == "<function=" else body
        return read_calls(body)
    if block.kind is Kind.BARE:
        return read_calls(body.strip().removeprefix(MISTRAL))
    lines = body.split("\n")
    if is_whole:
        del lines[-2 if not lines[-1] else -1 :]
    body = "\n".join(line.removeprefix(block.indent) for line in lines)
    if block.language in _PATCHES or is_patch(body):
        return read_patches(body, is_whole)
    # Some close a fence behind the last brace.
    tool = block.language if block.language in TOOLS else ""
    return read_calls(body if is_whole else body.rstrip("`~ \t\r\n"), tool)
