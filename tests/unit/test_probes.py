"""The questions of a verification, asked of a raw peer."""

import json

import pytest

from codex_bridge.adapters.http_client import HttpClient, Origin
from codex_bridge.services.backend import Upstream
from codex_bridge.services.probes import Finding, Probes
from tests.unit.loop import on_loop
from tests.unit.wire import Peer, scripted, take_request


async def find(answer: bytes) -> Finding:
    """Return what an upstream with this answer shows of its model's tool calls."""

    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(answer)

    client = HttpClient(5.0, 5.0, 5.0)
    try:
        async with scripted(script) as port:
            return await Probes(
                client, Upstream(Origin("http", "127.0.0.1", port), "/v1", None), "m"
            ).call_tool()
    finally:
        client.close()


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("302 Found\r\nLocation: /v2", "302: a redirect to /v2"),
        ("503 No", "503"),
        ("404 No\r\nContent-Type: text/html", "404: a web page; is the base URL right?"),
    ],
)
@on_loop
async def test_a_refusal_is_told_with_its_reason(head: str, told: str) -> None:
    found = await find(f"HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n".encode())
    assert found == Finding(False, f"POST /chat/completions answered {told}")


@on_loop
async def test_a_call_may_come_in_pieces() -> None:
    pieces = [
        {"id": "a", "function": {"name": "record_"}},
        {"function": {"name": "word", "arguments": '{"wo'}},
    ]
    pieces.append({"function": {"arguments": 'rd": "ready"}'}})
    chunks = [{"choices": [{"delta": {"tool_calls": [{"index": 0, **piece}]}}]} for piece in pieces]
    body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    found = await find(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    assert found == Finding(True, 'The model called record_word with “{"word": "ready"}”.')
