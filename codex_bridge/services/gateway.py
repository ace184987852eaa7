"""The gateway: the model provider of Codex and of the bridge's tool loops, on a loopback address of its own.

They send a session's model requests here with a random token of that session; the gateway adds the provider's
key and streams the upstream's answer through. So the key is in no environment, argument or file that a command
of the model can read. The token opens nothing else.

Codex speaks Responses alone; where an upstream has only Chat Completions, its requests are translated (`translation`).

It also counts the tokens that a session uses, and remembers how its last request failed, in plain words: what
reaches Codex is told by Codex in its own.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from .. import log
from ..adapters.http_client import ClientResponse, HttpClient
from ..adapters.http_server import Request, Response, StreamResponse
from ..errors import NotFound, Unauthorized, UpstreamFailed
from ..limits import (
    MAX_CHOICE_CHARACTERS,
    MAX_GATEWAY_BODY_BYTES,
    MAX_PASSED_ANSWER_BYTES,
    MAX_RETRY_AFTER_S,
    MAX_UPSTREAM_MESSAGE_CHARACTERS,
)
from ..model import new_id
from ..protocol import json_codec
from ..protocol.openai import Usage, UsageReader
from ..providers import WireApi
from ..runtime import Emit, Event, Failure, ModelRoute
from . import forward
from .backend import AUTO, Upstream
from .translation import Refusal, WireBook, stream_translated

# All that Codex asks of a provider. Whatever else the key may open stays shut.
_PASSED_ON = frozenset(
    {("POST", "responses"), ("POST", "responses/compact"), ("POST", "chat/completions"), ("GET", "models")}
)
# A turn's own requests: Codex's, and those of the bridge's tool loops, which read errors as they are.
_CODEX, _LOOP = "responses", "chat/completions"
# Has no counterpart in chat. Codex asks its own service alone for it, and others for a summary by an ordinary request.
_COMPACT = "responses/compact"
# An event stream gains nothing from compression, and the text of an error must be readable here.
_NOT_ASKED = frozenset({"accept-encoding"})
# Refusals that a second try may turn, besides those from 500 on.
_RETRIED = frozenset({408, 409, 425, 429})
# What an upstream calls a 429 that no waiting mends.
_NO_CREDIT = "insufficient_quota"
# How Codex takes a failed response, by its code. It shows the message of the first at once and does not try again;
# after the others it does, and after the second it waits as long as the message says. (The status of an answer it
# understands less well: a plain 401 it tries five times, a plain 429 but once.)
_FINAL_ERROR_CODE = "invalid_prompt"
_WAITING_ERROR_CODE = "rate_limit_exceeded"
_PASSING_ERROR_CODE = "server_error"

OnUsage = Callable[[Usage], None]
Reply = Response | StreamResponse


def _tell_nobody(event: Event) -> None:
    """Take an event that no session is there for."""


@dataclass(slots=True)
class _Lease:
    """A session's way through the gateway; all but the token and what was `told` are those of its newest turn."""

    token: str
    upstream: Upstream
    on_usage: OnUsage
    emit: Emit
    wire_api: str
    told: set[str] = field(default_factory=set)
    failure: Failure | None = None


class Gateway:
    """Answers on the gateway's listener. `base_url` must be set before the first turn."""

    def __init__(self, client: HttpClient) -> None:
        self.base_url = ""
        self._client = client
        self._leases: dict[str, _Lease] = {}
        self._wires = WireBook()

    def open(
        self,
        session_id: str,
        upstream: Upstream,
        on_usage: OnUsage,
        emit: Emit = _tell_nobody,
        wire_api: str = AUTO,
    ) -> ModelRoute:
        """Let a session's model requests through to `upstream`; return where Codex sends them.

        `on_usage` is told what each answer has used, `emit` what a host should know; `wire_api` is a `WireApi`, or
        "auto". Address and token stay the same as long as the session lives: a thread that Codex holds keeps them.
        """
        lease = self._leases.get(session_id)
        # `log` knows it by this shape.
        token = lease.token if lease is not None else new_id("gw") + new_id("gw")
        told = lease.told if lease is not None else set()
        self._leases[session_id] = _Lease(token, upstream, on_usage, emit, wire_api, told)
        return ModelRoute(f"{self.base_url}/{session_id}", token)

    def close(self, session_id: str) -> None:
        """Let no more requests of a session through."""
        self._leases.pop(session_id, None)

    def last_failure(self, session_id: str) -> Failure | None:
        """Return how the newest model request of the session's turn failed, None when it did not."""
        lease = self._leases.get(session_id)
        return lease.failure if lease else None

    def wire_of(self, upstream: Upstream) -> WireApi | None:
        """Return the API in which an upstream has answered Codex's requests, None while that is not known."""
        return self._wires.wire_of(upstream)

    async def handle(self, request: Request) -> Reply:
        """Pass one model request on."""
        given = (request.header("authorization") or "").encode("latin-1")
        session_id, _, rest = request.path.lstrip("/").partition("/")
        lease = self._leases.get(session_id)
        if lease is None or not hmac.compare_digest(given, b"Bearer " + lease.token.encode()):
            raise Unauthorized("This address is for the Codex of this bridge alone.")
        if (request.method, rest) not in _PASSED_ON:
            raise NotFound(f"The gateway does not pass on {request.method} {rest[:80]!r}.")
        if rest not in (_CODEX, _LOOP):
            lease = replace(lease)  # only how a turn's own requests end is remembered
        lease.failure = None
        try:
            return await self._forward(request, lease, rest)
        except UpstreamFailed as problem:
            lease.failure = _failure(problem)
            if not problem.passes and rest == _CODEX:  # Codex is told to give up
                return _failed_response(problem.message, _FINAL_ERROR_CODE)
            return _error_response(problem)

    async def _forward(self, request: Request, lease: _Lease, rest: str) -> Reply:
        # Gathered, so that it can be sent again when a resting connection breaks: it is Codex's, and on loopback.
        body = await request.read_body(MAX_GATEWAY_BODY_BYTES)
        wires: tuple[WireApi, ...] = (WireApi.RESPONSES,)
        if rest in (_CODEX, _COMPACT):
            wires = self._wires.choose(lease.upstream, lease.wire_api)
        if rest == _COMPACT and wires[0] is WireApi.CHAT_COMPLETIONS:
            raise NotFound(
                "The upstream is reached by Chat Completions, which do not have responses/compact."
            )
        if rest == _CODEX:
            return await self._answer_codex(request, lease, body, wires)
        answer = await self._send(request, lease, rest, body)
        if isinstance(answer, Refusal):
            return _refuse(request, answer, lease)
        return _pass_through(request, answer, lease, rest)

    async def _answer_codex(
        self, request: Request, lease: _Lease, body: bytes, wires: tuple[WireApi, ...]
    ) -> Reply:
        """Ask in each of these APIs until the upstream has it."""
        refusals: list[Refusal] = []
        for wire in wires:
            ask = self._ask_chat if wire is WireApi.CHAT_COMPLETIONS else self._ask_responses
            reply = await ask(request, lease, body)
            if not isinstance(reply, Refusal):
                self._wires.note(lease.upstream, wire)
                return reply
            refusals.append(reply)
            if not refusals[-1].is_of_the_address:
                return _refuse(request, refusals[-1], lease)
            self._wires.forget(lease.upstream, wire)
        return _refuse(request, refusals[0], lease)

    async def _ask_responses(self, request: Request, lease: _Lease, body: bytes) -> Reply | Refusal:
        answer = await self._send(request, lease, _CODEX, body)
        return answer if isinstance(answer, Refusal) else _pass_through(request, answer, lease, _CODEX)

    async def _ask_chat(self, request: Request, lease: _Lease, body: bytes) -> Reply | Refusal:
        from ..protocol.chat_request import to_chat  # late, both: few bridges translate
        from ..protocol.chat_response import ChatAnswer

        upstream = lease.upstream
        asked = to_chat(json_codec.decode(body), self._wires.reasoning_field(upstream))
        answer = await self._send(request, lease, _LOOP, json_codec.encode(asked.body))
        if isinstance(answer, Refusal):
            return answer
        words = ChatAnswer(asked.tools)

        def on_end() -> None:
            self._wires.note_reasoning(upstream, words.reasoning_field)
            if words.usage is not None:
                lease.on_usage(words.usage)
            if words.cut is not None:
                lease.failure = _failure(words.cut)

        def on_failure(problem: UpstreamFailed) -> bytes:
            lease.failure = _failure(problem)
            code = _PASSING_ERROR_CODE if problem.passes else _FINAL_ERROR_CODE
            return b"\n\n" + _failed_event(problem.message, code)

        _tell_left_out(lease, asked.left_out)
        return stream_translated(request, answer, words, on_end, on_failure)

    async def _send(
        self, request: Request, lease: _Lease, rest: str, body: bytes
    ) -> ClientResponse | Refusal:
        """Ask the upstream. One that refuses `stream_options` is asked without, and from then on where that has helped."""
        if rest != _LOOP:
            return await self._send_once(request, lease, rest, body)
        is_known = self._wires.refuses_options(lease.upstream)
        answer = await self._send_once(request, lease, rest, _without_options(body) if is_known else body)
        if is_known or not isinstance(answer, Refusal) or not answer.is_of_options:
            return answer
        answer = await self._send_once(request, lease, rest, _without_options(body))
        if not isinstance(answer, Refusal):
            self._wires.note_refused_options(lease.upstream)
        return answer

    async def _send_once(
        self, request: Request, lease: _Lease, rest: str, body: bytes
    ) -> ClientResponse | Refusal:
        target = f"{lease.upstream.path}/{rest}" + (f"?{request.query}" if request.query else "")
        answer = await forward.send(self._client, lease.upstream, request, target, body, _NOT_ASKED)
        # A redirect too: Codex would follow it to wherever it leads.
        is_refused = answer.head.status >= 300 or forward.is_web_page(answer)
        return Refusal(answer, await answer.read_error_text()) if is_refused else answer


def _without_options(body: bytes) -> bytes:
    """Return a request that does not ask for what its answer will have used."""
    asked = json_codec.decode(body)
    asked.pop("stream_options", None)
    return json_codec.encode(asked)


def _tell_left_out(lease: _Lease, names: tuple[str, ...]) -> None:
    """Tell a session's host what does not reach its upstream, each once."""
    new = [name for name in names if name not in lease.told]
    if new:
        lease.told.update(new)
        message = f"Left out, since the provider is reached by Chat Completions, which do not have it: {', '.join(new)}."
        lease.emit({"type": "warning", "code": "left_out", "message": message})


def _pass_through(request: Request, answer: ClientResponse, lease: _Lease, rest: str) -> Reply:
    """Return an answer as it comes."""

    def on_failure(problem: UpstreamFailed) -> bytes | None:
        lease.failure = _failure(problem)
        if problem.passes:
            return None
        if rest == _LOOP:
            return b"\n\ndata: " + _encode_error(problem) + b"\n\n"
        return b"\n\n" + _failed_event(problem.message, _FINAL_ERROR_CODE)

    reader = UsageReader()
    size = 0

    def on_piece(piece: bytes) -> None:
        nonlocal size
        size += len(piece)
        if size > MAX_PASSED_ANSWER_BYTES:
            raise UpstreamFailed(
                f"The model's answer has more than {MAX_PASSED_ANSWER_BYTES} bytes.", passes=False
            )
        usage = reader.feed(piece)
        if usage is not None:
            lease.on_usage(usage)

    return forward.stream_through(request, answer, on_failure, on_piece)


def _refuse(request: Request, refusal: Refusal, lease: _Lease) -> Reply:
    """Answer what the upstream refused, so that Codex tries again only where that can help."""
    answer, body = refusal.answer, refusal.body
    status = answer.head.status
    wait_s = _read_retry_after(answer)
    passes = (status >= 500 or status in _RETRIED) and _NO_CREDIT.encode() not in body
    passes = passes and wait_s <= MAX_RETRY_AFTER_S
    problem = UpstreamFailed(
        _describe_refusal(answer, body),
        code=_refusal_code(status),
        status=status if status >= 300 else 502,
        passes=passes,
        retry_after_s=wait_s,
    )
    lease.failure = _failure(problem)
    log.warning("%s", problem.message)
    if not request.path.endswith("/responses"):
        return _error_response(problem)
    if not passes:
        return _failed_response(problem.message, _FINAL_ERROR_CODE)
    if wait_s:
        return _failed_response(f"{problem.message}. Please try again in {wait_s}s.", _WAITING_ERROR_CODE)
    return _failed_response(problem.message, _WAITING_ERROR_CODE if status == 429 else _PASSING_ERROR_CODE)


def _read_retry_after(answer: ClientResponse) -> int:
    """Return the seconds that an upstream asks to wait, 0 when it does not say."""
    text = answer.head.headers.get("retry-after", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _describe_refusal(answer: ClientResponse, body: bytes) -> str:
    message = forward.read_refusal(answer, body)
    # Cut before it is looked through as well: that takes its time, and twice as much leaves no half of a secret.
    message = log.redact(message[: 2 * MAX_UPSTREAM_MESSAGE_CHARACTERS + MAX_CHOICE_CHARACTERS])
    said = f": {message[:MAX_UPSTREAM_MESSAGE_CHARACTERS]}" if message else ""
    return f"The upstream answered {answer.head.status} {log.redact(answer.head.reason)}".rstrip() + said


def _refusal_code(status: int) -> str:
    if status in (401, 403):
        return "upstream_unauthorized"
    if status == 429:
        return "upstream_rate_limited"
    return "upstream_error" if status >= 500 else "upstream_rejected"


def _failure(problem: UpstreamFailed) -> Failure:
    return Failure(problem.message, problem.code)


def _error_response(problem: UpstreamFailed) -> Response:
    return Response(problem.status, _encode_error(problem), (("Content-Type", "application/json"),))


def _encode_error(problem: UpstreamFailed) -> bytes:
    """Return an error in the shape of OpenAI's API, which clients know, with what `protocol.chat.failure` reads."""
    error = {"message": problem.message, "type": "codex_bridge_error", "code": problem.code}
    more = {"passes": problem.passes, "retry_after_s": problem.retry_after_s}
    return json_codec.encode({"error": {**error, **more}})


def _failed_response(message: str, code: str) -> Response:
    """Return an error as an answer of the model: so Codex does with it what `code` says."""
    return Response(200, _failed_event(message, code), (("Content-Type", "text/event-stream"),))


def _failed_event(message: str, code: str) -> bytes:
    error = {"code": code, "message": message}
    event = {"type": "response.failed", "response": {"id": "bridge", "status": "failed", "error": error}}
    return b"event: response.failed\ndata: " + json_codec.encode(event) + b"\n\n"
