"""Probes: what an upstream answers when it is asked by each of OpenAI's APIs. Asked directly, with the provider's key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from typing import Any

from .. import log
from ..adapters.http_client import HttpClient
from ..errors import BridgeError, UpstreamFailed
from ..limits import (
    MAX_EVIDENCE_CHARACTERS,
    MAX_PROBE_BYTES,
    MAX_TOLD_MODELS,
    PROBE_ANSWER_TIMEOUT_S,
)
from ..protocol import json_codec
from ..protocol.chat import ChatDelta, ChatReader
from ..protocol.chat_calls import Calls
from ..protocol.jsonrpc import LineSplitter
from ..protocol.openai import error_message
from ..values import value
from .backend import Upstream
from .forward import read_refusal

Json = dict[str, Any]
_QUESTION = "Answer with the one word: ready"
_NO_MODEL = "No model is chosen; CODEX_DEFAULT_MODEL, or default_model in POST /runtime/config, names one."
_TOOL_QUESTION = "Call the tool `record_word` with the word `ready`. Do not write anything else."
_TOOL = {
    "type": "function",
    "function": {
        "name": "record_word",
        "description": "Record a word.",
        "parameters": {
            "type": "object",
            "properties": {"word": {"type": "string"}},
            "required": ["word"],
        },
    },
}


@value
class Finding:
    """What a probe has shown: whether it is so, and a sentence that says by what."""

    is_ok: bool
    evidence: str


class Probes:
    """Asks one upstream. `model` None: none was chosen, so what must name one cannot be asked."""

    def __init__(self, client: HttpClient, upstream: Upstream, model: str | None) -> None:
        self._client = client
        self._upstream = upstream
        self._model = model

    async def list_models(self) -> Finding:
        """Look whether models are listed, and the chosen one among them."""
        return await self._ask(self._list_models())

    async def speak_responses(self) -> Finding:
        """Look whether `/responses` streams an answer."""
        return await self._ask(self._speak_responses())

    async def speak_chat(self) -> Finding:
        """Look whether `/chat/completions` streams an answer."""
        return await self._ask(self._speak_chat())

    async def call_tool(self) -> Finding:
        """Look whether the model calls a tool that `/chat/completions` offers it."""
        return await self._ask(self._call_tool())

    async def _ask(self, work: Awaitable[Finding]) -> Finding:
        try:
            async with asyncio.timeout(PROBE_ANSWER_TIMEOUT_S):
                return await work
        except UpstreamFailed as problem:
            return Finding(False, short(problem.message))
        except TimeoutError:
            return Finding(False, f"No answer came within {PROBE_ANSWER_TIMEOUT_S:g} s.")

    async def _list_models(self) -> Finding:
        answer = b"".join([piece async for piece in self._send("GET", "models", b"")])
        try:
            rows = json_codec.decode(answer)["data"]
            names = sorted(str(row["id"]) for row in rows)
        except (BridgeError, KeyError, TypeError):
            return Finding(False, "GET /models answered, but with no list of models.")
        told = f": {', '.join(names[:MAX_TOLD_MODELS])}" if names else ""
        if self._model is None:
            return Finding(True, f"{_count(names)}{told}. {_NO_MODEL}")
        if self._model in names:
            return Finding(True, f"{_count(names)}, {self._model} among them.")
        return Finding(False, f"{_count(names)}, and {self._model} is not among them{told}.")

    async def _speak_responses(self) -> Finding:
        message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": _QUESTION}]}
        text, lines = [], LineSplitter()
        async for piece in self._send("POST", "responses", self._body(input=[message], store=False)):
            for line in lines.feed(piece):
                event = _read_event(line)
                if event.get("type") == "response.output_text.delta":
                    text.append(str(event.get("delta", "")))
                elif event.get("type") == "response.completed":
                    return Finding(True, f"POST /responses streamed an answer: {_quote(''.join(text))}.")
                elif event.get("type") in ("response.failed", "error"):
                    return Finding(
                        False, short(f"POST /responses failed: {error_message(event.get('response', event))}")
                    )
        return Finding(False, "POST /responses answered, but with no stream that ends in response.completed.")

    async def _speak_chat(self) -> Finding:
        text = []
        async for delta in self._chat(_QUESTION):
            text.append(delta.text)
        if "".join(text).strip():
            return Finding(True, f"POST /chat/completions streamed an answer: {_quote(''.join(text))}.")
        return Finding(False, "POST /chat/completions answered without a word.")

    async def _call_tool(self) -> Finding:
        text, calls = [], Calls()
        async for delta in self._chat(_TOOL_QUESTION, tools=[_TOOL]):
            text.append(delta.text)
            for piece in delta.calls:
                calls.add(piece)
        call = next((call for call in calls if call.name), None)
        if call is None:
            return Finding(False, f"No tool call came, but the text {_quote(''.join(text))}.")
        told = call.arguments
        try:
            is_right = call.name == "record_word" and isinstance(
                json_codec.decode(told.encode())["word"], str
            )
        except (BridgeError, KeyError, TypeError):
            is_right = False
        if not is_right:
            return Finding(
                False, f"The call was {_quote(f'{call.name}({told})')}, which does not fit the tool."
            )
        return Finding(True, f"The model called {call.name} with {_quote(told)}.")

    async def _chat(self, question: str, **more: Any) -> AsyncIterator[ChatDelta]:
        """Yield the deltas of an answer."""
        reader = ChatReader()
        body = self._body(messages=[{"role": "user", "content": question}], **more)
        async for piece in self._send("POST", "chat/completions", body):
            for delta in reader.feed(piece):
                yield delta
        for delta in reader.end():
            yield delta

    def _body(self, **fields: Any) -> bytes:
        if self._model is None:
            raise UpstreamFailed(_NO_MODEL)
        return json_codec.encode({"model": self._model, "stream": True, **fields})

    async def _send(self, method: str, path: str, body: bytes) -> AsyncIterator[bytes]:
        """Yield the pieces of an answer; raise `UpstreamFailed` for a refusal."""
        upstream = self._upstream
        headers = [("Host", upstream.origin.authority), ("Accept", "application/json, text/event-stream")]
        if body:
            headers.append(("Content-Type", "application/json"))
        if upstream.api_key:
            headers.append(("Authorization", f"Bearer {upstream.api_key}"))
        target = f"{upstream.path}/{path}"
        answer = await self._client.request(upstream.origin, method, target, tuple(headers), body)
        try:
            if answer.head.status != 200:
                why = read_refusal(answer, await answer.read_error_text())
                told = f"{method} /{path} answered {answer.head.status}"
                raise UpstreamFailed(f"{told}: {why}" if why else told)
            size = 0
            async for piece in answer.iter_body():
                size += len(piece)
                if size > MAX_PROBE_BYTES:
                    raise UpstreamFailed(f"{method} /{path} answered with more than {MAX_PROBE_BYTES} bytes.")
                yield piece
        finally:
            answer.close()


def _count(names: list[str]) -> str:
    return f"{len(names)} model{'s' * (len(names) != 1)} listed"


def _read_event(line: bytes) -> Json:
    """Return the JSON object of a `data:` line, {} for every other."""
    try:
        value = json_codec.decode(line[5:]) if line.startswith(b"data:") else {}
    except BridgeError:
        return {}
    return value if isinstance(value, dict) else {}


def _quote(text: str) -> str:
    return f"“{short(text)}”"


def short(text: str) -> str:
    """Return what a model or an upstream said as a part of one line, without secrets."""
    line = log.redact(" ".join(text.split()))
    return line if len(line) <= MAX_EVIDENCE_CHARACTERS else line[: MAX_EVIDENCE_CHARACTERS - 3] + "..."
