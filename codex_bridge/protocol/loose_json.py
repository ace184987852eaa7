"""JSON as models write it, where what they mean is beyond doubt. No I/O, linear in the text's length.

Besides JSON itself: commas behind the last value, single and triple quotes, names without quotes, comments, line breaks and
unknown escapes in texts, Python's words, and several values one after the other. What is not closed is never closed here, and a
quote within a text that is quoted the same way is not guessed at.
"""

from __future__ import annotations

import re
from typing import Any

from ..errors import InvalidJson
from ..limits import MAX_JSON_DEPTH
from . import json_codec

# Comments and white space; possessive, so that nothing is tried twice.
_BLANK = re.compile(r"(?:\s++|//[^\n]*+|#[^\n]*+|/\*(?s:.*?)\*/)*+")
_STRINGS = {
    '"""': re.compile(r'"""((?s:.*?))"""'),
    "'''": re.compile(r"'''((?s:.*?))'''"),
    '"': re.compile(r'"([^"\\]*+(?:\\(?s:.)[^"\\]*+)*+)"'),
    "'": re.compile(r"'([^'\\]*+(?:\\(?s:.)[^'\\]*+)*+)'"),
}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|(?s:.))")
_PLAIN_ESCAPES = {
    "n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "/": "/", "\\": "\\", '"': '"', "'": "'",
}  # fmt: skip
_WORD = re.compile(r"[A-Za-z_][\w-]*+")
_NUMBER = re.compile(r"-?\d{1,30}(\.\d{1,30})?([eE][+-]?\d{1,3})?(?![\w.])")
_WORDS = {"true": True, "True": True, "false": False, "False": False, "null": None, "None": None}
_EXCERPT = 40


def decode_all(text: str) -> list[Any]:
    """Return the values in a text, one at least; raise `InvalidJson` that says where it is wrong and what was expected."""
    try:
        values = [json_codec.decode(text.encode())]
    except (InvalidJson, UnicodeError):
        values = _Reader(text).read_all()
    if json_codec.is_deeper_than(values, MAX_JSON_DEPTH):
        raise InvalidJson(f"it is nested deeper than {MAX_JSON_DEPTH} levels.")
    return values


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def read_all(self) -> list[Any]:
        values = []
        self._skip()
        while self._at < len(self._text):
            values.append(self._value(0))
            self._skip()
            self._take(",") or self._take(";")
            self._skip()
        if not values:
            raise InvalidJson("there is no JSON in it.")
        return values

    def _value(self, depth: int) -> Any:
        self._skip()
        start = self._text[self._at : self._at + 1]
        if depth > MAX_JSON_DEPTH:
            raise self._error("less nesting")
        if start == "{":
            return self._object(depth)
        if start == "[":
            return self._list(depth)
        if start in ('"', "'"):
            return self._string()
        if (number := _NUMBER.match(self._text, self._at)) is not None:
            self._at = number.end()
            return float(number[0]) if number[1] or number[2] else int(number[0])
        word = _WORD.match(self._text, self._at)
        if word is None or word[0] not in _WORDS:
            raise self._error("a value")
        self._at = word.end()
        return _WORDS[word[0]]

    def _object(self, depth: int) -> dict[str, Any]:
        self._at += 1
        found: dict[str, Any] = {}
        while not self._closes("}"):
            name = self._name()
            self._skip()
            if not self._take(":"):
                raise self._error("a colon")
            found[name] = self._value(depth + 1)
            self._separate("}")
        return found

    def _list(self, depth: int) -> list[Any]:
        self._at += 1
        found = []
        while not self._closes("]"):
            found.append(self._value(depth + 1))
            self._separate("]")
        return found

    def _name(self) -> str:
        if self._text[self._at : self._at + 1] in ('"', "'"):
            return self._string()
        word = _WORD.match(self._text, self._at)
        if word is None:
            raise self._error("a field's name in double quotes")
        self._at = word.end()
        return word[0]

    def _string(self) -> str:
        mark = self._text[self._at : self._at + 3]
        mark = mark if mark in _STRINGS else mark[0]
        found = _STRINGS[mark].match(self._text, self._at)
        if found is None:
            raise self._error("the end of the text that begins here")
        self._at = found.end()
        text = _ESCAPE.sub(_unescape, found[1])
        # Escaped surrogates come in pairs; what is unpaired has no form in UTF-8.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _separate(self, end: str) -> None:
        self._skip()
        if not self._take(",") and self._text[self._at : self._at + 1] != end:
            raise self._error(f"a comma or {end}")

    def _closes(self, end: str) -> bool:
        self._skip()
        return self._take(end)

    def _take(self, mark: str) -> bool:
        if self._text[self._at : self._at + 1] != mark:
            return False
        self._at += 1
        return True

    def _skip(self) -> None:
        found = _BLANK.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _error(self, expected: str) -> InvalidJson:
        line = self._text.count("\n", 0, self._at) + 1
        rest = self._text[self._at : self._at + _EXCERPT].strip()
        came = f"{rest!r} stands there" if rest else "it ends there"
        return InvalidJson(f"line {line}: expected {expected}, but {came}.")


def _unescape(found: re.Match[str]) -> str:
    mark = found[1]
    if len(mark) == 5:
        return chr(int(mark[1:], 16))
    return _PLAIN_ESCAPES.get(mark, "\\" + mark)
