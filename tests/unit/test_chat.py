"""The event stream of Chat Completions, as upstreams send it."""

import pytest

from codex_bridge import log
from codex_bridge.errors import UpstreamFailed
from codex_bridge.limits import MAX_UPSTREAM_MESSAGE_CHARACTERS
from codex_bridge.protocol.chat import CallPiece, ChatDelta, ChatReader
from codex_bridge.protocol.chat_calls import Calls

CHUNK = b'data: {"choices": [{"delta": {"content": "hi"}}]}\n\n'


def test_a_byte_order_mark_does_not_hide_the_first_chunk() -> None:
    reader = ChatReader()
    assert reader.feed(b"\xef\xbb") == []
    assert reader.feed(b"\xbf" + CHUNK) == [ChatDelta("hi")]


def test_an_error_in_the_stream_is_told_short_and_without_secrets() -> None:
    secret = "sk-a-secret-that-upstreams-repeat"
    begin = "x" * (MAX_UPSTREAM_MESSAGE_CHARACTERS - 10)
    log.hide(secret)
    try:
        with pytest.raises(UpstreamFailed) as failed:
            ChatReader().feed(f'data: {{"error": "{begin}{secret}{"y" * 10_000}"}}\n'.encode())
    finally:
        log.forget(secret)
    said = failed.value.message.removeprefix("The upstream broke its answer off: ")
    assert len(said) == MAX_UPSTREAM_MESSAGE_CHARACTERS
    assert said == f"{begin}[hidden]yy"


def test_a_long_call_that_is_named_with_each_piece_comes_to_an_end() -> None:
    """Each piece may be the call's last: to look through all of it each time would take minutes."""
    calls = Calls()
    for _ in range(50_000):
        calls.add(CallPiece(0, "", "run", "return {}"))
    (call,) = calls
    assert call.arguments == "return {}" * 50_000
