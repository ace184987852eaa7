"""Server-sent events: bytes out, ids back in."""

import pytest

from codex_bridge.protocol import json_codec, sse


def parse(data: bytes) -> list[dict[str, str]]:
    """Read events as the standard says a browser does."""
    events = []
    for block in data.decode().split("\n\n")[:-1]:
        event: dict[str, str] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            event[name] = event.get(name, "") + value.removeprefix(" ")
        events.append(event)
    return events


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"text": "a\nb\r\nc\rd"},
        {"text": "\n\ndata: forged\nid: x-1\n\n"},
        {"text": "\u2028\u2029\x00\x7f\x85 \u00e9 \U0001f600"},
    ],
)
def test_an_event_is_one_block_whatever_its_text(value: dict[str, str]) -> None:
    data = sse.encode_event("ab12", 7, "session.event", json_codec.encode(value))

    (event,) = parse(data)
    assert (event["id"], event["event"]) == ("ab12-7", "session.event")
    assert json_codec.decode(event["data"].encode()) == value
    assert b"\r" not in data


def test_events_follow_each_other() -> None:
    data = b"".join(sse.encode_event("e", seq, "n", b"{}") for seq in (1, 2)) + sse.encode_retry(1500)
    assert [event.get("id") for event in parse(data)] == ["e-1", "e-2", None]
    assert parse(data)[2] == {"retry": "1500"}


def test_a_heartbeat_is_a_comment() -> None:
    assert sse.HEARTBEAT.startswith(b":")
    assert sse.HEARTBEAT.endswith(b"\n\n")
    assert sse.HEARTBEAT.count(b"\n") == 2


@pytest.mark.parametrize(("epoch", "seq"), [("0a1b2c3d", 0), ("z", 1), ("a" * 32, 999_999_999_999_999)])
def test_an_id_comes_back(epoch: str, seq: int) -> None:
    (event,) = parse(sse.encode_event(epoch, seq, "n", b"{}"))
    assert sse.parse_event_id(event["id"]) == (epoch, seq)


@pytest.mark.parametrize(
    "text",
    [
        None, "", "-", "1", "a-", "-1", "a-b", "a--1", "a-1 ", " a-1", "a-1\n", "A-1", "a-1-2", "a-+1", "a-1.0",
        "a-\u0661", "\u00e9-1", "a" * 33 + "-1", "a-" + "1" * 16, "a_1", "a-1,a-2", "a-0x1",
    ],
)  # fmt: skip
def test_a_stray_id_is_none_of_ours(text: str | None) -> None:
    assert sse.parse_event_id(text) is None
