"""Codex on an upstream with Chat Completions alone, through the gateway: which API is found, and what a session is told."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from codex_bridge.adapters.http_client import Origin
from codex_bridge.limits import MAX_MODEL_ANSWER_CHARACTERS
from codex_bridge.protocol import json_codec
from codex_bridge.providers import WireApi
from codex_bridge.services import translation
from codex_bridge.services.backend import Upstream
from tests.unit.loop import on_loop
from tests.unit.test_chat_response import DONE, STOP, USAGE, chunk, short, spoken
from tests.unit.test_gateway import KEY, Codex, answer, failed_event, gateway
from tests.unit.wire import Peer, Reply, scripted, take_request

Json = dict[str, Any]
Script = Callable[[Peer], Awaitable[None]]
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
EVENTS = "Content-Type: text/event-stream"
HELLO = chunk(content="Hello") + STOP + chunk(usage=USAGE) + DONE
NATIVE = b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"r"}}\n\n'
NOT_HERE = answer(404, b"404 page not found")


class Server:
    """An upstream: what it answers at each path, in this order, the last for ever; what it was asked."""

    def __init__(self, **answers: list[bytes]) -> None:
        self.answers = {
            CHAT: answers.get("chat", [NOT_HERE]),
            RESPONSES: answers.get("responses", [NOT_HERE]),
        }
        self.asked: list[tuple[str, dict[str, str], Json]] = []

    @property
    def paths(self) -> list[str]:
        return [path for path, _, _ in self.asked]

    async def script(self, peer: Peer) -> None:
        while True:
            first, headers, body = await take_request(peer)
            path = first.split(" ")[1].partition("?")[0]
            self.asked.append((path, headers, json.loads(body)))
            answers = self.answers[path]
            await peer.send(answers.pop(0) if len(answers) > 1 else answers[0])


def events(reply: Reply) -> list[Json]:
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/event-stream"
    blocks = [block for block in reply.body.decode().split("\n\n") if block]
    return [json_codec.decode(block.split("\ndata: ")[1].encode()) for block in blocks]


HELLO_CHAT = answer(200, HELLO, EVENTS)
HELLO_RESPONSES = answer(200, NATIVE, EVENTS)
SPOKEN = [("created",), *spoken("Hello"), ("completed",)]


def use(codex: Codex, port: int, wire_api: str = "auto", told: list[Json] | None = None) -> Upstream:
    """Open the session's way as a turn does."""
    upstream = Upstream(Origin("http", "127.0.0.1", port), "/v1", KEY)
    told = [] if told is None else told
    codex.gateway.open("s", upstream, codex.used.append, told.append, wire_api)
    return upstream


@on_loop
async def test_an_upstream_without_responses_is_found_out_once() -> None:
    server = Server(chat=[HELLO_CHAT])
    async with scripted(server.script) as port, gateway(port) as codex:
        upstream = use(codex, port)
        assert codex.gateway.wire_of(upstream) is None
        for _ in range(2):
            assert short(events(await codex.post())) == SPOKEN
        assert server.paths == [RESPONSES, CHAT, CHAT]
        assert codex.gateway.wire_of(upstream) is WireApi.CHAT_COMPLETIONS
        assert [usage["total_tokens"] for usage in codex.used] == [15, 15]
        assert codex.failure is None
        _, headers, body = server.asked[-1]
        assert headers["authorization"] == f"Bearer {KEY}"
        assert body["stream"] is True
        assert codex.token not in str(server.asked)


@pytest.mark.parametrize("status", [400, 422])
@on_loop
async def test_an_upstream_that_refuses_stream_options_is_asked_without_them(status: int) -> None:
    refused = answer(
        status, b'{"detail":[{"loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}'
    )
    server = Server(chat=[refused, HELLO_CHAT])
    async with scripted(server.script) as port, gateway(port) as codex:
        use(codex, port, "chat_completions")
        for path in ("/s/responses", "/s/chat/completions"):
            reply = await codex.post(
                path=path, body=b'{"stream":true,"stream_options":{"include_usage":true}}'
            )
            assert reply.status == 200
        assert ["stream_options" in body for _, _, body in server.asked] == [True, False, False]
        assert codex.failure is None


@on_loop
async def test_one_that_refuses_without_them_too_is_asked_with_them_the_next_time() -> None:
    server = Server(chat=[answer(400, b"stream_options? never heard of it")])
    async with scripted(server.script) as port, gateway(port) as codex:
        use(codex, port)
        reply = await codex.post(path="/s/chat/completions", body=b'{"stream_options":{}}')
        assert reply.status == 400
        await codex.post(path="/s/chat/completions", body=b'{"stream_options":{}}')
        assert ["stream_options" in body for _, _, body in server.asked] == [True, False, True, False]


@on_loop
async def test_an_upstream_with_responses_is_left_alone() -> None:
    server = Server(chat=[HELLO_CHAT], responses=[HELLO_RESPONSES])
    async with scripted(server.script) as port, gateway(port) as codex:
        upstream = use(codex, port)
        assert (await codex.post()).body == NATIVE
        assert server.paths == [RESPONSES]
        assert codex.gateway.wire_of(upstream) is WireApi.RESPONSES


MISSING = {
    "a page": (404, b"404 page not found"),
    "nothing": (404, b""),
    "detail": (404, b'{"detail":"Not Found"}'),
    "an error": (404, b'{"error":{"message":"Invalid URL (POST /v1/responses)","code":null}}'),
    "a path of models": (404, b'{"error":"no route for /models/responses"}'),
    "html": (404, b"<html>Not Found</html>"),
    "method": (405, b'{"detail":"Method Not Allowed"}'),
    "not implemented": (501, b"Unsupported method"),
}


@pytest.mark.parametrize("name", MISSING)
@on_loop
async def test_how_upstreams_say_that_they_have_no_responses(name: str) -> None:
    server = Server(chat=[HELLO_CHAT], responses=[answer(*MISSING[name])])
    async with scripted(server.script) as port, gateway(port) as codex:
        assert short(events(await codex.post())) == SPOKEN


PRESENT = {
    "code": (404, b'{"error":{"message":"nope","code":"model_not_found"}}'),
    "ollama": (404, b'{"error":"model \\"x\\" not found, try pulling it first"}'),
    "vllm": (404, b'{"object":"error","message":"The model `x` does not exist.","code":404}'),
    "text": (404, b"unknown model x"),
    "refused": (400, b"no"),
    "key": (401, b"no"),
    "busy": (429, b"no"),
    "broken": (500, b"no"),
}


@pytest.mark.parametrize("name", PRESENT)
@on_loop
async def test_other_refusals_say_nothing_of_the_api(name: str) -> None:
    status, body = PRESENT[name]
    server = Server(chat=[HELLO_CHAT], responses=[answer(status, body)])
    async with scripted(server.script) as port, gateway(port) as codex:
        _, message = failed_event(await codex.post())
        assert message.startswith(f"The upstream answered {status} Reason: ")
        assert server.paths == [RESPONSES]


@on_loop
async def test_with_neither_the_first_refusal_is_told() -> None:
    server = Server(chat=[answer(405, b"never")], responses=[answer(404, b"not here")])
    async with scripted(server.script) as port, gateway(port) as codex:
        upstream = use(codex, port)
        code, message = failed_event(await codex.post())
        assert (code, message) == ("invalid_prompt", "The upstream answered 404 Reason: not here")
        assert codex.failure is not None
        assert codex.failure.code == "upstream_rejected"
        assert codex.gateway.wire_of(upstream) is None


@on_loop
async def test_a_refusal_of_chat_says_more_than_that_there_are_no_responses() -> None:
    busy = answer(429, b"busy", "Retry-After: 3")
    server = Server(chat=[answer(401, b"wrong key"), busy, HELLO_CHAT])
    async with scripted(server.script) as port, gateway(port) as codex:
        assert failed_event(await codex.post()) == (
            "invalid_prompt",
            "The upstream answered 401 Reason: wrong key",
        )
        assert codex.failure is not None
        assert codex.failure.code == "upstream_unauthorized"
        code, message = failed_event(await codex.post())
        assert (code, message) == (
            "rate_limit_exceeded", "The upstream answered 429 Reason: busy. Please try again in 3s."
        )  # fmt: skip
        assert short(events(await codex.post())) == SPOKEN


@on_loop
async def test_an_upstream_that_loses_chat_is_asked_for_responses() -> None:
    server = Server(chat=[HELLO_CHAT, NOT_HERE], responses=[NOT_HERE, HELLO_RESPONSES])
    async with scripted(server.script) as port, gateway(port) as codex:
        upstream = use(codex, port)
        await codex.post()
        assert (await codex.post()).body == NATIVE
        assert server.paths == [RESPONSES, CHAT, CHAT, RESPONSES]
        assert codex.gateway.wire_of(upstream) is WireApi.RESPONSES


@on_loop
async def test_an_upstream_that_loses_both_is_not_known_any_more() -> None:
    server = Server(chat=[HELLO_CHAT, NOT_HERE])
    async with scripted(server.script) as port, gateway(port) as codex:
        upstream = use(codex, port)
        await codex.post()
        assert "404" in failed_event(await codex.post())[1]
        assert codex.gateway.wire_of(upstream) is None


@on_loop
async def test_responses_are_tried_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(chat=[HELLO_CHAT], responses=[NOT_HERE, HELLO_RESPONSES])
    async with scripted(server.script) as port, gateway(port) as codex:
        upstream = use(codex, port)
        await codex.post()
        monkeypatch.setattr(translation, "WIRE_RECHECK_S", -1.0)
        assert codex.gateway.wire_of(upstream) is WireApi.CHAT_COMPLETIONS
        assert (await codex.post()).body == NATIVE
        assert codex.gateway.wire_of(upstream) is WireApi.RESPONSES


@on_loop
async def test_an_api_that_was_chosen_is_the_only_one() -> None:
    server = Server(chat=[HELLO_CHAT], responses=[HELLO_RESPONSES])
    async with scripted(server.script) as port, gateway(port) as codex:
        use(codex, port, "chat_completions")
        assert short(events(await codex.post())) == SPOKEN
        use(codex, port, "responses")
        assert (await codex.post()).body == NATIVE
        assert server.paths == [CHAT, RESPONSES]
    server = Server(chat=[HELLO_CHAT])
    async with scripted(server.script) as port, gateway(port) as codex:
        use(codex, port, "responses")
        assert "404" in failed_event(await codex.post())[1]
        assert server.paths == [RESPONSES]


@on_loop
async def test_chat_has_no_compaction() -> None:
    server = Server(chat=[HELLO_CHAT])
    async with scripted(server.script) as port, gateway(port) as codex:
        use(codex, port, "chat_completions")
        assert (await codex.post(path="/s/responses/compact")).status == 404
        assert server.asked == []


@on_loop
async def test_a_session_is_told_once_what_is_left_out() -> None:
    body = json_codec.encode({"input": [], "tools": [{"type": "web_search"}, {"type": "image_generation"}]})
    server = Server(chat=[HELLO_CHAT])
    async with scripted(server.script) as port, gateway(port) as codex:
        told: list[Json] = []
        for _ in range(2):
            use(codex, port, told=told)  # as each turn does
            await codex.post(body=body)
        (event,) = told
        assert (event["type"], event["code"]) == ("warning", "left_out")
        assert "web_search, image_generation" in event["message"]


@on_loop
async def test_reasoning_goes_back_where_the_upstream_told_it() -> None:
    server = Server(chat=[answer(200, chunk(reasoning="Hmm.") + HELLO, EVENTS), HELLO_CHAT])
    turn = [
        {"type": "message", "role": "user", "content": "go"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hmm."}]},
        {"type": "function_call", "call_id": "1", "name": "run", "arguments": "{}"},
    ]
    async with scripted(server.script) as port, gateway(port) as codex:
        for _ in range(3):
            await codex.post(body=json_codec.encode({"input": turn}))
        first, *others = (body["messages"] for path, _, body in server.asked if path == CHAT)
        assert "reasoning" not in first[1]
        assert [messages[1]["reasoning"] for messages in others] == ["Hmm.", "Hmm."]


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def call_chunk(size: int) -> bytes:
    function = {"name": "n" * size, "arguments": ""}
    delta = {"tool_calls": [{"index": 0, "id": "a", "function": function}]}
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}]})}\n\n".encode()


def chunked(*pieces: bytes) -> bytes:
    return HEAD + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


BROKEN = {
    "in the middle": (chunked(chunk(content="Hel")), "upstream_disconnected", "server_error", "in the middle"),
    "without an end": (
        chunked(chunk(content="Hel")) + b"0\r\n\r\n", "upstream_disconnected", "server_error", "broke off"),
    "with an error": (
        chunked(chunk(content="Hel"), b'data: {"error":{"message":"out of memory"}}\n\n'),
        "upstream_error", "server_error", "out of memory"),
    "empty": (answer(200, STOP + DONE, EVENTS), "upstream_error", "server_error", "empty"),
    # Trying again does not make it shorter; and a line of what Codex tells of it would be too long.
    "too long": (
        chunked(*[chunk(content="x" * (MAX_MODEL_ANSWER_CHARACTERS // 2))] * 3),
        "upstream_error", "invalid_prompt", f"more than {MAX_MODEL_ANSWER_CHARACTERS}"),
    "too many calls": (
        chunked(*[call_chunk(MAX_MODEL_ANSWER_CHARACTERS // 2)] * 3),
        "upstream_error", "invalid_prompt", f"more than {MAX_MODEL_ANSWER_CHARACTERS}"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
@on_loop
async def test_an_answer_that_breaks_off_ends_with_words(name: str) -> None:
    said, code, told, words = BROKEN[name]

    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(said)

    async with scripted(script) as port, gateway(port) as codex:
        use(codex, port, "chat_completions")
        last = events(await codex.post())[-1]
        assert last["type"] == "response.failed"
        assert last["response"]["error"]["code"] == told
        assert words in last["response"]["error"]["message"]
        assert codex.failure is not None
        assert (codex.failure.code, words in codex.failure.message) == (code, True)


@on_loop
async def test_silence_ends_the_turn_at_once() -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(chunked(chunk(content="Hel")))
        await peer.rest()

    async with scripted(script) as port, gateway(port, idle_timeout_s=0.05) as codex:
        use(codex, port, "chat_completions")
        last = events(await codex.post())[-1]
        assert last["response"]["error"]["code"] == "invalid_prompt"
        assert codex.failure is not None
        assert codex.failure.code == "upstream_timeout"


@on_loop
async def test_an_answer_that_was_cut_off_is_told_with_what_it_has_used() -> None:
    body = chunk(content="Half") + chunk("length", usage=USAGE) + DONE
    server = Server(chat=[answer(200, body, EVENTS)])
    async with scripted(server.script) as port, gateway(port) as codex:
        assert short(events(await codex.post()))[-1] == ("incomplete", "max_output_tokens")
        assert codex.failure is not None
        assert codex.failure.code == "upstream_incomplete"
        assert [usage["total_tokens"] for usage in codex.used] == [15]


@on_loop
async def test_codex_hears_the_end_before_the_connection_is_over() -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(chunked(HELLO))
        await peer.rest()  # and neither the last chunk nor the end of the connection

    async with scripted(script) as port, gateway(port, idle_timeout_s=0.2) as codex:
        use(codex, port, "chat_completions")
        assert short(events(await codex.post())) == SPOKEN
        assert codex.failure is None


@on_loop
async def test_what_comes_behind_the_end_is_nobodys() -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)
        for piece in (chunked(HELLO), b"9\r\ndata: {\n\n\r\n", b"9\r\ndata: {\n\n\r\n", b"0\r\n\r\n"):
            await peer.send(piece)

    async with scripted(script) as port, gateway(port) as codex:
        use(codex, port, "chat_completions")
        assert short(events(await codex.post())) == SPOKEN
        assert codex.failure is None


@on_loop
async def test_the_connection_is_used_again() -> None:
    peers: list[Peer] = []

    async def script(peer: Peer) -> None:
        peers.append(peer)
        while True:
            await take_request(peer)
            await peer.send(chunked(HELLO) + b"0\r\n\r\n")

    async with scripted(script) as port, gateway(port) as codex:
        use(codex, port, "chat_completions")
        for _ in range(3):
            await codex.post()
        assert len(peers) == 1
