"""A scripted model on loopback: an event stream as the user's message asks for it, in `/v1/responses` or in chat.

A program of its own (`python upstream.py`; prints its port), so that its work is counted as nobody else's.
Answers without a gap are made once and sent with one write; with a gap each delta is made when it is due and
bears the time.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import json
import re
import time
from collections.abc import Callable, Mapping

SCRIPT = re.compile(rb"bench deltas=(\d+) first=(\d+) gap=(\d+) size=(\d+)")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
# Stands for the item's id in an answer made once; every answer that is sent gets an id of its own, as long.
ITEM_ID = "msg_0000000000"
ITEM_NUMBERS = itertools.count(1)


def encode(event: Mapping[str, object]) -> bytes:
    """Encode one event as one chunk of the answer."""
    data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


def message(text: str | None) -> dict[str, object]:
    """Return the answer's item: empty for None, else with the whole text."""
    content = [] if text is None else [{"type": "output_text", "text": text}]
    return {"type": "message", "role": "assistant", "id": ITEM_ID, "content": content}


def opening() -> bytes:
    """Encode the events before the first delta."""
    created = encode({"type": "response.created", "response": {"id": "resp_1"}})
    added = {"type": "response.output_item.added", "output_index": 0, "item": message(None)}
    return created + encode(added)


def delta(text: str) -> bytes:
    """Encode one delta."""
    place = {"item_id": ITEM_ID, "output_index": 0, "content_index": 0}
    return encode({"type": "response.output_text.delta", **place, "delta": text})


def closing(text: str, count: int) -> bytes:
    """Encode the events after the last delta, and the end of the answer."""
    usage = {
        "input_tokens": 1000,
        "input_tokens_details": None,
        "output_tokens": count,
        "output_tokens_details": None,
        "total_tokens": 1000 + count,
    }
    item = {"type": "response.output_item.done", "output_index": 0, "item": message(text)}
    done = {"type": "response.completed", "response": {"id": "resp_1", "usage": usage}}
    return encode(item) + encode(done) + LAST_CHUNK


def chat_chunk(value: Mapping[str, object]) -> bytes:
    """Encode one chunk of a chat completion as one chunk of the answer."""
    about = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "demo"}
    data = f"data: {json.dumps({**about, **value})}\n\n".encode()
    return b"%x\r\n%s\r\n" % (len(data), data)


def chat_delta(text: str) -> bytes:
    """Encode one delta of a chat completion."""
    return chat_chunk({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


def chat_closing(text: str, count: int) -> bytes:
    """Encode the end of a chat completion; `text` has been said."""
    stop = chat_chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    usage = {"prompt_tokens": 1000, "completion_tokens": count, "total_tokens": 1000 + count}
    return stop + chat_chunk({"choices": [], "usage": usage}) + b"e\r\ndata: [DONE]\n\n\r\n" + LAST_CHUNK


@dataclasses.dataclass(frozen=True, slots=True)
class Words:
    """How an API says what comes before the deltas, a delta, and what comes behind them."""

    opening: Callable[[], bytes]
    delta: Callable[[str], bytes]
    closing: Callable[[str, int], bytes]


RESPONSES = Words(opening, delta, closing)
CHAT = Words(bytes, chat_delta, chat_closing)


@functools.cache
def answer(words: Words, count: int, size: int) -> bytes:
    """Return all bytes of an answer without a gap."""
    parts = [f"{number} ".ljust(size, "x")[-size:] for number in range(count)]
    return words.opening() + b"".join(map(words.delta, parts)) + words.closing("".join(parts), count)


class Upstream(asyncio.Protocol):
    """One connection, kept alive: collects a request, answers, collects the next."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.data = bytearray()
        self.item_id = b""
        self.words = RESPONSES

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data
        end = self.data.find(b"\r\n\r\n")
        if end < 0 or not self.is_whole(end + 4):
            return
        request = bytes(self.data)
        self.data.clear()
        found = SCRIPT.findall(request)
        if not request.startswith(b"POST ") or not found:
            self.transport.write(NOT_FOUND)
            return
        # The conversation so far is in the request too: the last one asks for this answer.
        self.words = CHAT if b"/chat/completions" in request.split(b"\r\n", 1)[0] else RESPONSES
        count, first, gap, size = map(int, found[-1])
        self.loop.call_later(first / 1000, self.start, count, gap, size)

    def is_whole(self, start: int) -> bool:
        """Tell whether the body that begins at `start` is there; JSON has no raw line end of its own."""
        head = bytes(self.data[:start]).lower()
        if b"transfer-encoding: chunked" in head:
            return self.data.endswith(LAST_CHUNK)
        length = re.search(rb"\r\ncontent-length: *(\d+)", head)
        return len(self.data) >= start + (int(length[1]) if length else 0)

    def write(self, data: bytes) -> None:
        """Write a part of the answer with the id of its item."""
        self.transport.write(data.replace(ITEM_ID.encode(), self.item_id))

    def start(self, count: int, gap: int, size: int) -> None:
        """Send an answer: at once, or its first delta now and the others by the clock."""
        self.item_id = b"msg_%010d" % next(ITEM_NUMBERS)
        self.transport.write(HEAD)
        if not gap:
            self.write(answer(self.words, count, size))
            return
        self.write(self.words.opening())
        self.send_next([], count, gap / 1000, self.loop.time())

    def send_next(self, sent: list[str], count: int, gap: float, due: float) -> None:
        """Send one delta with the time of now in it, the next `gap` seconds after this one was due."""
        if len(sent) == count:
            self.write(self.words.closing("".join(sent), count))
            return
        sent.append(f"@{time.monotonic_ns()} ")
        self.write(self.words.delta(sent[-1]))
        self.loop.call_at(due + gap, self.send_next, sent, count, gap, due + gap)


async def main() -> None:
    """Serve on a free port of loopback until the process is ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
