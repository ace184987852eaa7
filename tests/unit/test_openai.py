"""What is read of OpenAI's API: usage in a stream that passes by."""

import json

import pytest

from codex_bridge.protocol.openai import Usage, UsageReader

FULL = {
    "input_tokens": 10, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 15,
}  # fmt: skip
READ: Usage = {
    "input_tokens": 10, "cached_input_tokens": 4, "output_tokens": 5, "reasoning_output_tokens": 2, "total_tokens": 15,
}  # fmt: skip


def event(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


def completed(usage: object) -> bytes:
    return event("response.completed", response={"id": "r", "usage": usage})


def feed(*pieces: bytes) -> list[Usage]:
    reader = UsageReader()
    return [found for piece in pieces if (found := reader.feed(piece)) is not None]


def test_it_is_found_wherever_the_stream_is_cut() -> None:
    stream = event("response.created", response={"usage": None}) + completed(FULL)
    for cut in range(len(stream) + 1):
        assert feed(stream[:cut], stream[cut:]) == [READ]
    assert feed(*(stream[at : at + 1] for at in range(len(stream)))) == [READ]
    assert feed(stream.replace(b"\n", b"\r\n")) == [READ]


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        ({"input_tokens": 1}, {"input_tokens": 1}),
        ({"input_tokens_details": None, "total_tokens": 3}, {"total_tokens": 3}),
        ({"output_tokens": "many", "total_tokens": 2.5}, {}),
        ({"input_tokens": True, "output_tokens": -5, "total_tokens": 1 << 62}, {}),
        ({}, {}),
    ],
)
def test_what_is_missing_counts_as_nothing(usage: object, read: Usage) -> None:
    assert feed(completed(usage)) == [{**dict.fromkeys(READ, 0), **read}]


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        completed(None),
        completed(7),
        event("response.output_text.delta", delta='the word "usage": {"input_tokens": 5}'),
        b'data: {"usage": broken\n\n',
        b'data: {"response": [{"usage": 1}]}\n\n',
        b'data: ["usage"]\n\n',
        b': "usage"\n\n',
        b'{"response": {"usage": {"input_tokens": 1}}}\n',
        b'data: {"response": {"usage": {"input_tokens": 1}}}',
    ],
)
def test_what_is_no_usage_is_passed_over(stream: bytes) -> None:
    assert feed(stream) == []


def test_a_failed_answer_counts_too() -> None:
    assert feed(event("response.failed", response={"error": {}, "usage": FULL})) == [READ]


CHAT = {
    "prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens": 5,
    "completion_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 15,
}  # fmt: skip


def chunk(usage: object, **fields: object) -> bytes:
    return b"data: " + json.dumps({"choices": [], "usage": usage, **fields}).encode() + b"\n\n"


def test_a_chat_completion_counts_too() -> None:
    # Compact as well: that is how most upstreams write the null of every other chunk.
    compact = b'data: {"choices":[{"delta":{"content":"x"}}],"usage":null}\n\n'
    assert feed(compact, chunk(None), chunk(CHAT), b"data: [DONE]\n\n") == [READ]


def test_what_grows_with_each_chunk_is_counted_once() -> None:
    told = feed(
        *(chunk({"prompt_tokens": 10, "completion_tokens": n, "total_tokens": 10 + n}) for n in (1, 2, 5))
    )
    assert sum(usage["total_tokens"] for usage in told) == 15
    assert sum(usage["input_tokens"] for usage in told) == 10
    assert sum(usage["output_tokens"] for usage in told) == 5
