"""Answers of Chat Completions in the words of Responses: a table of answers, each whole, byte by byte and in lines."""

import json
from collections.abc import Iterable
from typing import Any

import pytest

from codex_bridge.errors import UpstreamFailed
from codex_bridge.limits import MAX_TURN_CALLS
from codex_bridge.protocol import jsonrpc
from codex_bridge.protocol.chat_request import ToolBook
from codex_bridge.protocol.chat_response import ChatAnswer

Json = dict[str, Any]
TOOLS = [
    {"type": "function", "name": "run"},
    {"type": "custom", "name": "apply_patch"},
    {"type": "namespace", "name": "agents", "tools": [{"type": "function", "name": "spawn"}]},
]
USAGE = {
    "prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 2},
}  # fmt: skip
COUNTED = {
    "input_tokens": 10, "cached_input_tokens": 4, "output_tokens": 5, "reasoning_output_tokens": 2, "total_tokens": 15
}  # fmt: skip


def chunk(finish: str | None = None, usage: Json | None = None, **delta: Any) -> bytes:
    value: Json = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
    if usage is not None:
        value["usage"] = usage
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def call(index: int | None = 0, call_id: str = "", name: str = "", arguments: str = "") -> bytes:
    piece: Json = {"function": {"arguments": arguments, **({"name": name} if name else {})}}
    piece |= {"id": call_id} if call_id else {}
    piece |= {"index": index} if index is not None else {}
    return chunk(tool_calls=[piece])


DONE = b"data: [DONE]\n\n"
STOP, CALLS = chunk("stop"), chunk("tool_calls")


def answer() -> ChatAnswer:
    book = ToolBook()
    book.add(TOOLS)
    return ChatAnswer(book)


def translate(pieces: Iterable[bytes], words: ChatAnswer | None = None) -> list[Json]:
    """Return the events of a whole answer; each must be as an event stream has it."""
    words = words or answer()
    said = b"".join(words.feed(piece) for piece in pieces) + words.finish()
    events = []
    for block in said.decode().split("\n\n")[:-1]:
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def short(events: list[Json]) -> list[tuple[str, ...]]:
    """Say what Codex makes of the events: deltas that follow each other joined, items by what they hold."""
    found: list[tuple[str, ...]] = []
    for event in events:
        kind = event["type"].removeprefix("response.")
        if "delta" in event:
            if found and found[-1][0] == kind:
                found[-1] = (kind, found[-1][1] + event["delta"])
            else:
                found.append((kind, event["delta"]))
        elif kind == "output_item.done":
            item = event["item"]
            if item["type"] == "message":
                found.append(("message", item["content"][0]["text"]))
            elif item["type"] == "reasoning":
                found.append(("reasoning", item["summary"][0]["text"]))
            else:
                held = item.get("arguments", item.get("input"))
                found.append((item["type"], item.get("namespace", ""), item["name"], held))
        elif kind == "incomplete":
            found.append((kind, event["response"]["incomplete_details"]["reason"]))
        elif kind in ("created", "completed"):
            found.append((kind,))
    return found


def spoken(text: str) -> list[tuple[str, ...]]:
    return [("output_text.delta", text), ("message", text)]


def thought(text: str) -> list[tuple[str, ...]]:
    return [("reasoning_summary_text.delta", text), ("reasoning", text)]


def run(arguments: str = "{}") -> tuple[str, ...]:
    return ("function_call", "", "run", arguments)


Short = list[tuple[str, ...]]
ANSWERS: dict[str, tuple[bytes, Short]] = {
    "text": (chunk(role="assistant", content="") + chunk(content="Hel") + chunk(content="lo") + STOP + DONE, spoken("Hello")),
    "no [DONE]": (chunk(content="Hello") + STOP, spoken("Hello")),
    "[DONE] alone": (chunk(content="Hello") + DONE, spoken("Hello")),
    "other line ends and comments": (
        b": wait\r\n\r\n" + chunk(content="Hello").replace(b"\n", b"\r\n") + b"event: x\r\n" + STOP + DONE, spoken("Hello")),
    "every character": (chunk(content='"\u2028\n\\') + chunk(content="\U0001f389</") + STOP + DONE, spoken('"\u2028\n\\\U0001f389</')),
    "parts as content": (chunk(content=[{"type": "text", "text": "Hello"}]) + STOP + DONE, spoken("Hello")),
    "reasoning": (
        chunk(reasoning_content="Hm") + chunk(reasoning_content="m.") + chunk(content="Hello") + STOP + DONE,
        [*thought("Hmm."), *spoken("Hello")]),
    "reasoning under another name": (chunk(reasoning="Hmm.") + chunk(content="Hello") + STOP + DONE, [*thought("Hmm."), *spoken("Hello")]),
    "reasoning under both names": (
        chunk(reasoning_content="", reasoning="Hmm.") + chunk(reasoning_content=None, content="a") + STOP + DONE,
        [*thought("Hmm."), *spoken("a")]),
    "thinking between words": (
        chunk(content="a") + chunk(reasoning="b") + chunk(content="c") + STOP + DONE,
        [*spoken("a"), *thought("b"), *spoken("c")]),
    "space before a call is no message": (chunk(content="\n\n") + call(0, "1", "run", "{}") + CALLS + DONE, [run()]),
    "space before words is theirs": (chunk(content="\n\n") + chunk(content="a") + STOP + DONE, spoken("\n\na")),
    "a call in pieces": (
        call(0, "1", "run") + call(arguments='{"a"') + call(arguments=":1}") + CALLS + DONE, [run('{"a":1}')]),
    "a call at once": (call(0, "1", "run", '{"a":1}') + CALLS + DONE, [run('{"a":1}')]),
    "words, then a call": (
        chunk(content="I look.") + call(0, "1", "run", "{}") + CALLS + DONE, [*spoken("I look."), run()]),
    "calls side by side": (
        call(0, "1", "run", "{") + call(1, "2", "run", '{"b"') + call(0, "", "", "}") + call(1, "", "", ":2}") + CALLS + DONE,
        [run(), run('{"b":2}')]),
    "several in one chunk": (
        chunk(tool_calls=[{"id": "1", "function": {"name": "run", "arguments": "{}"}},
                          {"id": "2", "function": {"name": "run", "arguments": '{"b":2}'}}]) + CALLS + DONE,
        [run(), run('{"b":2}')]),
    "the same index for all": (
        call(0, "1", "run", "{}") + call(0, "2", "run", '{"b"') + call(0, "", "", ":2}") + CALLS + DONE,
        [run(), run('{"b":2}')]),
    "neither index nor id": (
        call(None, "", "run", "{}") + call(None, "", "run", '{"b":2}') + CALLS + DONE, [run(), run('{"b":2}')]),
    "name and id with each piece": (
        call(0, "1", "run", '{"a"') + call(0, "1", "run", ":1}") + CALLS + DONE, [run('{"a":1}')]),
    "the name with each piece, no id": (
        call(0, "", "run", '{"a"') + call(0, "", "run", ":1}") + CALLS + DONE, [run('{"a":1}')]),
    "an id that comes late": (call(0, "", "run") + call(0, "1", "", "{}") + CALLS + DONE, [run()]),
    "arguments as an object": (
        chunk(tool_calls=[{"id": "1", "function": {"name": "run", "arguments": {"a": 1}}}]) + STOP + DONE, [run('{"a":1}')]),
    "no arguments": (call(0, "1", "run") + CALLS + DONE, [run()]),
    "a call without a name is none": (chunk(content="a") + call(0, "1", "", "{}") + STOP + DONE, spoken("a")),
    "freeform and namespace": (
        call(0, "1", "apply_patch", '{"input":"x"}') + call(1, "2", "agents__spawn", "{}") + CALLS + DONE,
        [("custom_tool_call", "", "apply_patch", "x"), ("function_call", "agents", "spawn", "{}")]),
    "thoughts in the text": (
        chunk(content="<think>Hm") + chunk(content="m.</think>") + chunk(content="\n\nHello") + STOP + DONE,
        [*thought("Hmm."), *spoken("Hello")]),
    "thoughts in the text, before a call": (
        chunk(content="<think>\nHmm.\n</think>\n") + call(0, "1", "run", "{}") + CALLS + DONE, [*thought("\nHmm.\n"), run()]),
    "thoughts in the text whose begin is lost": (
        chunk(content="Hmm.\n") + chunk(content="</think>") + chunk(content="Hello") + STOP + DONE, [*spoken("Hmm.\n"), *spoken("Hello")]),
    "a whole completion with thoughts in the text": (
        json.dumps({"choices": [{"message": {"content": "<think>Hmm.</think>Hello"}}]}).encode(), [*thought("Hmm."), *spoken("Hello")]),
    "the begin of a mark at the end": (chunk(content="Hello\n</th") + STOP + DONE, spoken("Hello\n</th")),
    "behind the end": (chunk(content="a") + STOP + DONE + b"data: \n\ndata: {\n\n", spoken("a")),
    "a whole completion": (
        json.dumps({"object": "chat.completion", "choices": [{"message": {
            "role": "assistant", "content": "Hello", "reasoning_content": "Hmm.",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "run", "arguments": "{}"}}],
        }, "finish_reason": "tool_calls"}], "usage": USAGE}, indent=1).encode(),
        [*thought("Hmm."), *spoken("Hello"), run()]),
    "space before a whole completion": (
        b"\n \r\n" + json.dumps({"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}).encode(),
        spoken("Hello")),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer(name: str) -> None:
    given, expected = ANSWERS[name]
    wanted = [("created",), *expected, ("completed",)]
    assert short(translate([given])) == wanted
    assert short(translate(given[at : at + 1] for at in range(len(given)))) == wanted
    assert short(translate(given.splitlines(keepends=True))) == wanted


def test_each_item_has_its_place_and_an_id_of_its_own() -> None:
    given = chunk(reasoning="a") + chunk(content="b") + chunk(content="c") + call(0, "1", "run", "{}") + STOP
    events = translate(given.splitlines(keepends=True))
    places: dict[int, set[str]] = {}
    for event in events:
        if "output_index" in event:
            item = event.get("item") or {}
            found = event.get("item_id") or item.get("id") or item["call_id"]
            places.setdefault(event["output_index"], set()).add(found)
    assert sorted(places) == [0, 1, 2]
    assert all(len(ids) == 1 for ids in places.values())
    assert len(set.union(*places.values())) == 3
    kinds = [event["type"] for event in events]
    assert kinds.index("response.output_item.added") < kinds.index("response.reasoning_summary_part.added")
    assert kinds[0] == "response.created"
    assert len({event["response"]["id"] for event in (events[0], events[-1])}) == 1


def test_calls_have_ids_of_their_own() -> None:
    given = call(0, "1", "run", "{}") + call(1, "1", "run", "{}") + call(2, "", "run", "{}") + STOP
    ids = [event["item"]["call_id"] for event in translate([given]) if "item" in event]
    assert ids[0] == "1"
    assert len(set(ids)) == 3
    assert all(ids)


def test_what_arrives_together_is_one_delta() -> None:
    given = b"".join(chunk(content=str(number % 10)) for number in range(2000)) + STOP + DONE
    kinds = [event["type"] for event in translate([given])]
    assert kinds.count("response.output_text.delta") == 1


USAGES: dict[str, tuple[Json | None, Json | None]] = {
    "all": (USAGE, COUNTED),
    "none": (None, None),
    "no total": (
        {"prompt_tokens": 3, "completion_tokens": 4},
        {**dict.fromkeys(COUNTED, 0), "input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
    ),
    "nonsense": ({"prompt_tokens": "many", "completion_tokens": None}, dict.fromkeys(COUNTED, 0)),
}


@pytest.mark.parametrize("name", USAGES)
def test_usage(name: str) -> None:
    given, expected = USAGES[name]
    words = answer()
    events = translate([chunk(content="a") + STOP, chunk(usage=given), DONE], words)
    assert words.usage == expected
    told = events[-1]["response"].get("usage")
    if expected is None:
        assert told is None
    else:
        assert told["total_tokens"] == expected["total_tokens"]
        assert told["input_tokens_details"] == {"cached_tokens": expected["cached_input_tokens"]}
        assert told["output_tokens_details"] == {"reasoning_tokens": expected["reasoning_output_tokens"]}


def test_usage_that_is_told_with_each_chunk_counts_once() -> None:
    words = answer()
    translate([chunk(content="a", usage={"prompt_tokens": 1}), chunk(usage=USAGE), STOP, DONE], words)
    assert words.usage == COUNTED


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])  # fmt: skip
def test_an_answer_that_is_cut_off(finish: str, reason: str) -> None:
    words = answer()
    given = chunk(content="Half an") + call(0, "1", "run", '{"a') + chunk(finish) + chunk(usage=USAGE) + DONE
    assert short(translate([given], words)) == [("created",), *spoken("Half an"), ("incomplete", reason)]
    assert words.usage == COUNTED
    assert words.cut is not None
    assert words.cut.code == "upstream_incomplete"


def test_an_answer_that_is_whole_is_not_cut_off() -> None:
    words = answer()
    translate([chunk(content="a") + STOP], words)
    assert words.cut is None


BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "broke off"),
    "only an end": (STOP + DONE, "empty"),
    "only space": (chunk(content="\n ") + STOP + DONE, "empty"),
    "only thoughts": (chunk(reasoning="Hmm.") + STOP + DONE, "empty"),
    "only thoughts in the text": (chunk(content="<think>Hmm.") + STOP + DONE, "empty"),
    "only thoughts whose begin is lost": (chunk(content="Hmm.\n</think>\n") + STOP + DONE, "empty"),
    "only a call without a name": (call(0, "1", "", "{}") + CALLS + DONE, "empty"),
    "no end": (chunk(content="Hel"), "broke off"),
    "no end behind a call": (call(0, "1", "run", "{}"), "broke off"),
    "an error": (
        chunk(content="Hel") + b'data: {"error": {"message": "out of memory"}}\n\n',
        "out of memory",
    ),
    "an error as the whole answer": (b'{"error": "no such model"}', "no such model"),
    "an error without a name": (chunk(content="a") + chunk("error") + DONE, "an error that it does not name"),
    "no JSON": (b"data: {\n\n", "not JSON"),
    "no JSON as a whole": (b'{"choices": [', "not JSON"),
    "no object": (b"data: 7\n\n", "not a JSON object"),
    "a web page": (b"<html></html>", "broke off"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_answer_that_is_none(name: str) -> None:
    given, said = BAD[name]
    for pieces in ([given], [given[at : at + 1] for at in range(len(given))]):
        with pytest.raises(UpstreamFailed, match=said):
            translate(pieces)


def test_a_completion_without_end_is_not_gathered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonrpc, "MAX_LINE_BYTES", 10)
    words = answer()
    words.feed(b"{" + b" " * 9)
    with pytest.raises(UpstreamFailed, match="beyond all measure"):
        words.feed(b" ")


def test_the_place_of_the_reasoning_is_told() -> None:
    for field in ("reasoning", "reasoning_content"):
        words = answer()
        thinking = chunk(reasoning="Hmm.").replace(b"reasoning", field.encode())
        translate([thinking + chunk(content="a") + STOP], words)
        assert words.reasoning_field == field
    words = answer()
    translate([chunk(reasoning_content="", content="<think>Hmm.</think>a") + STOP], words)
    assert words.reasoning_field is None


def test_the_end_is_known_before_the_connection_is_over() -> None:
    words = answer()
    words.feed(chunk(content="a") + STOP)
    assert not words.has_ended
    words.feed(DONE)
    assert words.has_ended


def test_a_flood_of_calls_is_no_answer() -> None:
    flood = [call(at, f"c{at}", "run", "{}") for at in range(MAX_TURN_CALLS + 1)]
    assert len(translate([*flood[:-1], STOP])) == MAX_TURN_CALLS + 2
    with pytest.raises(UpstreamFailed, match=f"more than {MAX_TURN_CALLS} tool calls") as failed:
        translate([*flood, STOP])
    assert not failed.value.passes, "the next answer would be as long"
