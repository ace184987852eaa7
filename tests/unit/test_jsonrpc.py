"""Lines of any size out of a byte stream, and the calls written into one."""

import random

import pytest

from codex_bridge.errors import CodexFailed
from codex_bridge.protocol import json_codec, jsonrpc
from codex_bridge.protocol.jsonrpc import LineSplitter

STREAMS = {
    "lines": b'{"id":1}\n{"id":2}\n',
    "empty lines": b"\n\na\n\n",
    "no last newline": b"a\nb\nunfinished",
    "nothing": b"",
    "one byte": b"x",
    "a newline": b"\n",
    "other separators": b"a\rb\r\nc\x0bd\x0ce\x1cf\xc2\x85g\xe2\x80\xa8h\n",
    "cut characters": "äöü\U0001f600\nß\n".encode(),
    "long": b"a" * 700 + b"\n" + b"b" * 3 + b"\n" + b"c" * 1500,
}


def lines_of(pieces: list[bytes]) -> list[bytes]:
    splitter = LineSplitter()
    return [line for piece in pieces for line in splitter.feed(piece)]


@pytest.mark.parametrize("name", STREAMS)
def test_lines_are_the_same_whatever_the_cuts(name: str) -> None:
    data = STREAMS[name]
    expected = data.split(b"\n")[:-1]

    assert lines_of([data]) == expected
    assert lines_of([data[i : i + 1] for i in range(len(data))]) == expected
    for cut in range(len(data) + 1):
        assert lines_of([data[:cut], b"", data[cut:]]) == expected


def test_lines_are_the_same_for_random_streams_and_cuts() -> None:
    chance = random.Random(7)
    for _ in range(500):
        data = bytes(chance.choice(b"ab{}\n\n\r") for _ in range(chance.randrange(200)))
        cuts = sorted(chance.choices(range(len(data) + 1), k=chance.randrange(20)))
        pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
        assert lines_of(pieces) == data.split(b"\n")[:-1]


def test_a_line_of_20_megabytes_is_joined_once() -> None:
    splitter = LineSplitter()
    piece = b"x" * 65536
    for _ in range(320):
        assert splitter.feed(piece) == []
    # Each piece still stands for itself: nothing was copied into a growing whole on the way.
    assert [len(held) for held in splitter._pieces] == [65536] * 320
    assert all(held is piece for held in splitter._pieces)

    first, second = splitter.feed(b"end\nnext\n")

    assert len(first) == 320 * 65536 + 3
    assert first.endswith(b"xend")
    assert second == b"next"
    assert splitter._pieces == []


def test_a_line_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonrpc, "MAX_LINE_BYTES", 100)
    splitter = LineSplitter()
    # The bound is for one line, not for the stream.
    for _ in range(10):
        assert splitter.feed(b"y" * 60 + b"\n" + b"z" * 20) != []
    assert splitter.feed(b"x" * 80) == []
    with pytest.raises(CodexFailed):
        splitter.feed(b"x")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (jsonrpc.encode_request(3, "m", {"a": "b\nc"}), {"id": 3, "method": "m", "params": {"a": "b\nc"}}),
        (jsonrpc.encode_notification("initialized"), {"method": "initialized"}),
        (jsonrpc.encode_result("x", {"decision": "decline"}), {"id": "x", "result": {"decision": "decline"}}),
        (jsonrpc.encode_error(4, -32601, "no\n"), {"id": 4, "error": {"code": -32601, "message": "no\n"}}),
    ],
)
def test_a_message_is_one_line(line: bytes, expected: object) -> None:
    assert lines_of([line]) == [line[:-1]]
    assert json_codec.decode(line) == expected
