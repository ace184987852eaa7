"""JSON with orjson and with the standard library alone: the same answers."""

import json
import math
from typing import Any

import pytest

from codex_bridge.errors import InvalidJson
from codex_bridge.model import Role
from codex_bridge.protocol import json_codec

# The suite runs in both kinds of environment: where there is no orjson there is but one codec.
CODECS = ["standard library", *(["orjson"] if json_codec.orjson is not None else [])]


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The codec with orjson, and as it is without it."""
    if request.param == "standard library":
        monkeypatch.setattr(json_codec, "orjson", None)
    return json_codec


GOOD = {
    "null": (b"null", None),
    "true": (b" true ", True),
    "number": (b"-1.5e3", -1500.0),
    "integer": (b"9007199254740993", 9007199254740993),
    "signed 64 bits": (b"-9223372036854775808", -(2**63)),
    "unsigned 64 bits": (b"18446744073709551615", 2**64 - 1),
    "text": ('"\u00e9\U0001f600"'.encode(), "\u00e9\U0001f600"),
    "escapes": (rb'"\u00e9\n\"\\\/"', '\u00e9\n"\\/'),
    "surrogate pair": (rb'"\ud83d\ude00"', "\U0001f600"),
    "escaped backslash before u": (rb'"\\ud800"', "\\ud800"),
    "NUL": (rb'"\u0000"', "\0"),
    "object": (b'{"a":[1,{"b":null}]}', {"a": [1, {"b": None}]}),
    "twice": (b'{"a":1,"a":2}', {"a": 2}),
    "spaces": (b"\n\t\r [ ] ", []),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_json_is_decoded(codec: Any, name: str) -> None:
    data, expected = GOOD[name]
    found = codec.decode(data)
    assert found == expected
    assert type(found) is type(expected)


BAD = {
    "nothing": b"",
    "space": b"  ",
    "cut": b'{"a":',
    "behind": b"{} x",
    "two": b"{}{}",
    "NaN": b"NaN",
    "NaN inside": b'{"a":[NaN]}',
    "infinity": b"Infinity",
    "minus infinity": b"[-Infinity]",
    "a number past all bounds": b"1e999",
    "single quotes": b"{'a':1}",
    "comma behind": b"[1,]",
    "comment": b"[1] // one",
    "leading zero": b"01",
    "plus": b"+1",
    "newline in a text": b'"a\nb"',
    "unpaired high surrogate": rb'"\ud800"',
    "unpaired low surrogate": rb'["\uDC00 \ud83d\ude00"]',
    "surrogates reversed": rb'"\ude00\ud83d"',
    "surrogate in a name": rb'{"\uD800":1}',
    "surrogate as UTF-8": b'"\xed\xa0\x80"',
    "not UTF-8": b'"\xff"',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "too deep to be written again": b'{"a":' * 201 + b"1" + b"}" * 201,
    "nested deeply": b"[" * 100_000 + b"]" * 100_000,
    "nested deeply, open": b'{"a":' * 100_000,
}


@pytest.mark.parametrize("name", BAD)
def test_bad_json_is_refused_in_words(codec: Any, name: str) -> None:
    with pytest.raises(InvalidJson) as caught:
        codec.decode(BAD[name])
    assert caught.value.status == 400
    assert caught.value.message.endswith(".")
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"a": [1, 2.5, True, "é\U0001f600\n\u2028"]},
        {"big": 2**70, "low": -(2**70)},
        {"broken": "\ud800"},
        {"role": Role.USER},
        [],
    ],
)
def test_what_is_encoded_can_be_read_by_anyone(codec: Any, value: Any) -> None:
    data = codec.encode(value)
    assert json.loads(data) == (value if value != {"broken": "\ud800"} else {"broken": "?"})
    assert b"\n" not in data
    assert b": " not in data


def test_a_number_that_json_has_not_never_becomes_broken_json(codec: Any) -> None:
    for number in (math.nan, math.inf, -math.inf):
        try:
            data = codec.encode([number])
        except ValueError:
            continue  # refused: fine as well
        assert data == b"[null]"


@pytest.mark.parametrize("depth", [1, 2, 60, 200])
@pytest.mark.parametrize("opening, closing", [(b'{"a":', b"}"), (b"[1,", b"]")])
def test_what_is_not_too_deep_can_be_encoded_inside_a_reply(
    codec: Any, depth: int, opening: bytes, closing: bytes
) -> None:
    data = opening * depth + b"1" + closing * depth
    value = codec.decode(data)
    assert not codec.is_deeper_than(value, depth)
    assert codec.is_deeper_than(value, depth - 1)
    assert data in codec.encode({"ok": True, "sessions": [{"context": value}]})
