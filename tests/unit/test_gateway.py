"""The gateway between a client as Codex is one and a scripted upstream: the key, the way through, failures."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from codex_bridge import log
from codex_bridge.adapters.http_client import HttpClient, Origin
from codex_bridge.limits import MAX_PASSED_ANSWER_BYTES
from codex_bridge.protocol import json_codec
from codex_bridge.protocol.openai import Usage
from codex_bridge.runtime import Failure
from codex_bridge.services.backend import Upstream
from codex_bridge.services.gateway import Gateway
from tests.unit.loop import on_loop
from tests.unit.wire import Peer, Reply, connected, request, scripted, serving, take_request

KEY = "sk-the-real-key-0123456789"


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_secrets", {KEY: 1})


class Codex:
    """What Codex knows: its way in and the token."""

    def __init__(self, gateway: Gateway, port: int, token: str, used: list[Usage]) -> None:
        self.gateway = gateway
        self.used = used
        self.port = port
        self.token = token

    async def post(
        self,
        *headers: str,
        path: str = "/s/responses",
        credential: str | None = None,
        body: bytes = b"{}",
    ) -> Reply:
        credential = credential if credential is not None else f"Bearer {self.token}"
        head = (f"POST {path} HTTP/1.1", f"Authorization: {credential}", f"Content-Length: {len(body)}")
        data = request(*head, *headers, body=body)
        async with connected(self.port) as peer:
            await peer.send(data)
            return await peer.reply()

    @property
    def failure(self) -> Failure | None:
        return self.gateway.last_failure("s")


@asynccontextmanager
async def gateway(
    port: int, key: str | None = KEY, idle_timeout_s: float = 10.0, first_byte_timeout_s: float = 10.0
) -> AsyncIterator[Codex]:
    """Run a gateway whose session `s` leads to the upstream on `port`."""
    client = HttpClient(5.0, first_byte_timeout_s, idle_timeout_s)
    made = Gateway(client)
    async with serving(made.handle) as (_, own_port):
        made.base_url = f"http://127.0.0.1:{own_port}"
        used: list[Usage] = []
        upstream = Upstream(Origin("http", "127.0.0.1", port), "/v1", key)
        route = made.open("s", upstream, used.append)
        assert route.base_url == f"{made.base_url}/s"
        yield Codex(made, own_port, route.token, used)
    client.close()


def answer(status: int, body: bytes, *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status} Reason", f"Content-Length: {len(body)}", *headers)
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


@on_loop
async def test_a_request_goes_through_with_the_real_key_and_without_the_token() -> None:
    taken = []

    async def script(peer: Peer) -> None:
        taken.append(await take_request(peer))
        await peer.send(answer(200, b"data: 1\n\n", "Content-Type: text/event-stream", "X-Request-Id: 7"))

    async with scripted(script) as port, gateway(port) as codex:
        reply = await codex.post(
            "X-Own: 1", "TE: trailers", "Connection: keep-alive", path="/s/responses?a=b"
        )
        assert (reply.status, reply.body) == (200, b"data: 1\n\n")
        assert (reply.headers["content-type"], reply.headers["x-request-id"]) == ("text/event-stream", "7")
        assert codex.failure is None
        ((first, headers, body),) = taken
        assert (first, body) == ("POST /v1/responses?a=b HTTP/1.1", b"{}")
        assert headers["authorization"] == f"Bearer {KEY}"
        assert headers["host"] == f"127.0.0.1:{port}"
        assert headers["x-own"] == "1"
        assert "te" not in headers
        assert codex.token not in str(headers)


@on_loop
async def test_without_a_key_no_credential_is_sent() -> None:
    taken = []

    async def script(peer: Peer) -> None:
        taken.append(await take_request(peer))
        await peer.send(answer(200, b""))

    async with scripted(script) as port, gateway(port, None) as codex:
        await codex.post()
        assert "authorization" not in taken[0][1]


@on_loop
async def test_tokens_are_counted_before_codex_hears_of_the_end() -> None:
    usage = {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}
    event = {"type": "response.completed", "response": {"id": "r", "usage": usage}}
    stream = b"event: response.completed\ndata: " + json_codec.encode(event) + b"\n\n"

    async def script(peer: Peer) -> None:
        for _ in range(2):
            await take_request(peer)
            await peer.send(answer(200, stream, "Content-Type: text/event-stream"))

    async with scripted(script) as port, gateway(port) as codex:
        await codex.post()
        assert [each["total_tokens"] for each in codex.used] == [9]
        await codex.post()
        assert [each["input_tokens"] for each in codex.used] == [7, 7]


@on_loop
async def test_each_session_has_a_token_of_its_own_that_stays() -> None:
    async def never(peer: Peer) -> None:
        raise AssertionError("the upstream was asked")

    async with scripted(never) as port, gateway(port) as codex:
        upstream = Upstream(Origin("http", "127.0.0.1", port), "/v1", KEY)
        again = codex.gateway.open("s", upstream, codex.used.append)
        other = codex.gateway.open("other", upstream, codex.used.append)
        assert again.token == codex.token != other.token
        reply = await codex.post(credential=f"Bearer {other.token}")
        assert reply.status == 401


@pytest.mark.parametrize(
    "credential", ["", "Bearer", "Bearer wrong", f"Bearer {KEY}", "Basic x", "Bearer \xe9\xff"]
)
@on_loop
async def test_only_codex_comes_in(credential: str) -> None:
    async def never(peer: Peer) -> None:
        raise AssertionError("the upstream was asked")

    async with scripted(never) as port, gateway(port) as codex:
        reply = await codex.post(credential=credential)
        assert (reply.status, reply.code) == (401, "unauthorized")


@pytest.mark.parametrize("path", ["/other/responses", "/", "//s/x/responses", "/s%2Fresponses"])
@on_loop
async def test_an_unknown_session_has_no_way_through(path: str) -> None:
    async def never(peer: Peer) -> None:
        raise AssertionError("the upstream was asked")

    async with scripted(never) as port, gateway(port) as codex:
        codex.gateway.close("s")
        assert (await codex.post(path=path)).status == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/s/responses"), ("DELETE", "/s/files/file-1"), ("POST", "/s/files"), ("POST", "/s/models"),
        ("POST", "/s/responses/"), ("POST", "/s/../responses"), ("POST", "/s//responses"), ("GET", "/s/../../admin"),
        ("GET", "/s/"), ("POST", "/s"), ("POST", "/s/responses/r_1/cancel"),
    ],
)  # fmt: skip
@on_loop
async def test_only_what_codex_asks_for_is_passed_on(method: str, path: str) -> None:
    async def never(peer: Peer) -> None:
        raise AssertionError("the upstream was asked")

    async with scripted(never) as port, gateway(port) as codex:
        data = request(
            f"{method} {path} HTTP/1.1", f"Authorization: Bearer {codex.token}", "Content-Length: 0"
        )
        async with connected(codex.port) as peer:
            await peer.send(data)
            assert (await peer.reply()).status == 404


def failed_event(reply: Reply) -> tuple[str, str]:
    """Return the code and the message of the one event, a failed response, that a refusal becomes."""
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/event-stream"
    name, _, data = reply.body.strip().rpartition(b"event: response.failed\ndata: ")
    assert name == b""
    error = json_codec.decode(data)["response"]["error"]
    return error["code"], error["message"]


def final_message(reply: Reply) -> str:
    """Return the message of the one event that makes Codex give up at once."""
    code, message = failed_event(reply)
    assert code == "invalid_prompt"
    return message


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "upstream_rejected"),
        (401, "upstream_unauthorized"),
        (403, "upstream_unauthorized"),
        (404, "upstream_rejected"),
        (422, "upstream_rejected"),
    ],
)
@on_loop
async def test_a_refusal_that_is_final_is_told_at_once(status: int, code: str) -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(answer(status, b'{"error":{"message":"no such model"}}'))

    async with scripted(script) as port, gateway(port) as codex:
        message = final_message(await codex.post())
        assert message == f"The upstream answered {status} Reason: no such model"
        assert codex.failure == Failure(message, code)


@pytest.mark.parametrize(
    ("status", "code", "after", "told", "asked"),
    [
        (408, "upstream_rejected", None, "server_error", ""),
        (429, "upstream_rate_limited", None, "rate_limit_exceeded", ""),
        (429, "upstream_rate_limited", "3", "rate_limit_exceeded", ". Please try again in 3s."),
        (429, "upstream_rate_limited", "0", "rate_limit_exceeded", ""),
        (429, "upstream_rate_limited", "Wed, 21 Oct 2026 07:28:00 GMT", "rate_limit_exceeded", ""),
        (500, "upstream_error", None, "server_error", ""),
        (503, "upstream_error", "60", "rate_limit_exceeded", ". Please try again in 60s."),
        (503, "upstream_error", "61", "invalid_prompt", ""),
        (429, "upstream_rate_limited", "9" * 40, "rate_limit_exceeded", ""),
    ],
)
@on_loop
async def test_a_refusal_that_may_pass_is_tried_again_by_codex(
    status: int, code: str, after: str | None, told: str, asked: str
) -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(answer(status, b"later", *([f"Retry-After: {after}"] if after else [])))

    async with scripted(script) as port, gateway(port) as codex:
        sentence = f"The upstream answered {status} Reason: later"
        assert failed_event(await codex.post()) == (told, sentence + asked)
        assert codex.failure == Failure(sentence, code)


@on_loop
async def test_no_waiting_mends_an_empty_account() -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(answer(429, b'{"error": {"message": "no credit", "code": "insufficient_quota"}}'))

    async with scripted(script) as port, gateway(port) as codex:
        assert "no credit" in final_message(await codex.post())


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error":{"message":"a"}}', ": a"),
        (b'{"error":"b"}', ": b"),
        (b'{"message":"c"}', ": c"),
        (b'{"detail":"d"}', ": d"),
        (b'{"detail":[{"loc":1}]}', ': [{"loc":1}]'),
        (b"<html>e</html>", ": <html>e</html>"),
        (b"", ""),
        (b"x" * 2000, ": " + "x" * 500),
        (f"your key {KEY} is wrong".encode(), ": your key [hidden] is wrong"),
    ],
)
@on_loop
async def test_an_upstreams_words_are_found_in_any_shape(body: bytes, said: str) -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(answer(401, body))

    async with scripted(script) as port, gateway(port) as codex:
        assert final_message(await codex.post()) == "The upstream answered 401 Reason" + said


@on_loop
async def test_a_new_request_forgets_the_failure_before_it() -> None:
    answers = [answer(500, b"oh"), answer(200, b"fine")]

    async def script(peer: Peer) -> None:
        while answers:
            await take_request(peer)
            await peer.send(answers.pop(0))

    async with scripted(script) as port, gateway(port) as codex:
        await codex.post()
        assert codex.failure is not None
        await codex.post()
        assert codex.failure is None


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"", "upstream_disconnected"),
        (b"nonsense\r\n\r\n", "upstream_error"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"x" * 40_000 + b"\r\n\r\n", "upstream_error"),
    ],
)
@on_loop
async def test_an_upstream_that_gives_no_answer_is_502(said: bytes, code: str) -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(said)

    async with scripted(script) as port, gateway(port) as codex:
        reply = await codex.post()
        assert reply.status == 502
        assert json_codec.decode(reply.body)["error"]["code"] == code
        assert codex.failure is not None
        assert codex.failure.code == code


@on_loop
async def test_an_upstream_that_says_nothing_is_not_asked_again() -> None:
    async def script(peer: Peer) -> None:
        await peer.rest()

    async with scripted(script) as port, gateway(port, first_byte_timeout_s=0.05) as codex:
        assert "did not begin to answer within 0.05 s" in final_message(await codex.post())
        assert codex.failure is not None
        assert codex.failure.code == "upstream_timeout"


HALF = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"


@pytest.mark.parametrize(
    ("more", "code"), [(b"", "upstream_disconnected"), (b"nonsense\r\n", "upstream_error")]
)
@on_loop
async def test_a_stream_that_breaks_off_is_broken_off_and_remembered(more: bytes, code: str) -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(HALF + more)

    async with scripted(script) as port, gateway(port) as codex:
        with pytest.raises((EOFError, ConnectionError)):
            await codex.post()
        assert codex.failure is not None
        assert codex.failure.code == code


@on_loop
async def test_a_stream_that_falls_silent_ends_with_words() -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(HALF)
        await peer.rest()

    async with scripted(script) as port, gateway(port, idle_timeout_s=0.05) as codex:
        reply = await codex.post()
        assert reply.status == 200
        assert reply.body.startswith(b"hello\n\nevent: response.failed\ndata: ")
        assert codex.failure is not None
        assert codex.failure.code == "upstream_timeout"


@on_loop
async def test_an_upstream_that_is_asked_for_more_than_responses_is_answered_as_its_own_api_does() -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(answer(404, b'{"error":{"message":"no"}}'))

    async with scripted(script) as port, gateway(port) as codex:
        reply = await codex.post(path="/s/responses/compact")
        assert reply.status == 404
        assert json_codec.decode(reply.body)["error"]["code"] == "upstream_rejected"


# The loops' own requests --------------------------------------------------------------------------

LOOP = "/s/chat/completions"


@on_loop
async def test_a_loops_request_goes_through_and_its_tokens_are_counted() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    body = b'data: {"choices":[],"usage":null}\n\ndata: ' + json_codec.encode({"usage": usage}) + b"\n\n"

    async def script(peer: Peer) -> None:
        first, _, _ = await take_request(peer)
        assert first == "POST /v1/chat/completions HTTP/1.1"
        await peer.send(answer(200, body, "Content-Type: text/event-stream"))

    async with scripted(script) as port, gateway(port) as codex:
        assert (await codex.post(path=LOOP)).body == body
        assert [used["total_tokens"] for used in codex.used] == [9]


@pytest.mark.parametrize(
    ("status", "headers", "body", "told"),
    [
        (500, (), b"oh", {"code": "upstream_error", "passes": True, "retry_after_s": 0}),
        (
            429,
            ("Retry-After: 7",),
            b"",
            {"code": "upstream_rate_limited", "passes": True, "retry_after_s": 7},
        ),
        (429, ("Retry-After: 3600",), b"", {"code": "upstream_rate_limited", "passes": False}),
        (429, (), b'{"code": "insufficient_quota"}', {"code": "upstream_rate_limited", "passes": False}),
        (401, (), b"", {"code": "upstream_unauthorized", "passes": False}),
        (200, ("Content-Type: text/html",), b"<html>", {"code": "upstream_rejected", "passes": False}),
    ],
)
def test_a_loop_is_told_whether_another_try_may_help(
    status: int, headers: tuple[str, ...], body: bytes, told: dict[str, object]
) -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(answer(status, body, *headers))

    @on_loop
    async def test() -> None:
        async with scripted(script) as port, gateway(port) as codex:
            reply = await codex.post(path=LOOP)
            error = json_codec.decode(reply.body)["error"]
            assert reply.status == (status if status >= 300 else 502)
            assert {name: error[name] for name in told} == told
            assert codex.failure == Failure(error["message"], error["code"])

    test()


@on_loop
async def test_a_refusal_whose_explanation_breaks_off_is_a_refusal() -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(b"HTTP/1.1 401 No\r\nContent-Length: 100\r\n\r\nbad key")

    async with scripted(script) as port, gateway(port) as codex:
        reply = await codex.post(path=LOOP)
        error = json_codec.decode(reply.body)["error"]
        assert (reply.status, error["code"], error["passes"]) == (401, "upstream_unauthorized", False)
        assert error["message"] == "The upstream answered 401 No: bad key"


@on_loop
async def test_silence_in_an_answer_to_a_loop_is_told_in_it() -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ndata:\r\n")
        await peer.rest()

    async with scripted(script) as port, gateway(port, idle_timeout_s=0.05) as codex:
        reply = await codex.post(path=LOOP)
        error = json_codec.decode(reply.body.rpartition(b"data: ")[2])["error"]
        assert (error["code"], error["passes"]) == ("upstream_timeout", False)


@on_loop
async def test_an_answer_that_would_end_codex_is_ended_before() -> None:
    piece = b"data: " + b"x" * 999_992 + b"\n\n"

    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        for _ in range(MAX_PASSED_ANSWER_BYTES // len(piece) + 1):
            await peer.send(piece)
        await peer.rest()

    async with scripted(script) as port, gateway(port) as codex:
        reply = await codex.post()
        passed, _, failed = reply.body.rpartition(b"event: response.failed\ndata: ")
        assert len(passed) <= MAX_PASSED_ANSWER_BYTES + 2
        error = json_codec.decode(failed)["response"]["error"]
        assert error["code"] == "invalid_prompt", "or Codex would ask for as much again"
        assert codex.failure == Failure(error["message"], "upstream_error")
