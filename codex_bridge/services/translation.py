"""Codex on an upstream that has Chat Completions alone: which API an upstream has, and how an answer is translated.

Nobody says which API an upstream has, so Responses is tried first. One that does not know the address (404, 405 or 501,
unless that was said of the model) is sent the same as chat; when that works it is remembered, in memory and for an hour,
and tried the other way round when it ceases to work. `protocol/chat_request` and `protocol/chat_response` do the words.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import log
from ..adapters.http_client import ClientResponse, Origin
from ..adapters.http_server import Request, Stream, StreamResponse
from ..errors import BridgeError, UpstreamFailed
from ..limits import MAX_KNOWN_UPSTREAMS, WIRE_RECHECK_S
from ..protocol import json_codec
from ..protocol.openai import error_message
from ..providers import WireApi
from ..values import value
from .backend import AUTO, Upstream

if TYPE_CHECKING:
    from ..protocol.chat_response import ChatAnswer

# How servers say that they do not know an address.
_UNKNOWN_ADDRESS = frozenset({404, 405, 501})
# How they say that they do not know a field of the request.
_UNKNOWN_FIELD = frozenset({400, 422})
_UNKNOWN_MODEL = re.compile(r"(?i)\bmodel\b.*(not found|not exist|unknown|no such)|(no such|unknown) model")


@value
class Refusal:
    """An answer that is none, and the beginning of its body."""

    answer: ClientResponse
    body: bytes

    @property
    def is_of_the_address(self) -> bool:
        """Say whether the upstream does not have this API, as far as that can be told."""
        return self.answer.head.status in _UNKNOWN_ADDRESS and not _is_about_a_model(self.body)

    @property
    def is_of_options(self) -> bool:
        """Say whether the upstream refuses to be asked for what an answer has used."""
        return self.answer.head.status in _UNKNOWN_FIELD and b"stream_options" in self.body


def _is_about_a_model(body: bytes) -> bool:
    try:
        value = json_codec.decode(body)
    except BridgeError:
        return _UNKNOWN_MODEL.search(body.decode(errors="replace")) is not None
    error = value.get("error") if isinstance(value, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code == "model_not_found" or _UNKNOWN_MODEL.search(error_message(value)) is not None


@dataclass(slots=True)
class _Known:
    """What an upstream speaks, since when that is known, and where it tells its reasoning."""

    wire: WireApi
    since: float
    reasoning_field: str | None = None


class WireBook:
    """What is known of upstreams, by address: a key makes no difference."""

    def __init__(self) -> None:
        self._known: dict[tuple[Origin, str], _Known] = {}
        # Those that do not take `stream_options`.
        self._without_options: dict[tuple[Origin, str], None] = {}

    def wire_of(self, upstream: Upstream) -> WireApi | None:
        """Return the API that an upstream has answered in, None while that is not known."""
        known = self._known.get((upstream.origin, upstream.path))
        return known.wire if known else None

    def choose(self, upstream: Upstream, setting: str) -> tuple[WireApi, ...]:
        """Return the APIs to try, in this order."""
        if setting != AUTO:
            return (WireApi(setting),)
        known = self._known.get((upstream.origin, upstream.path))
        if known is None or known.wire is WireApi.RESPONSES or _age(known) > WIRE_RECHECK_S:
            return (WireApi.RESPONSES, WireApi.CHAT_COMPLETIONS)
        return (WireApi.CHAT_COMPLETIONS, WireApi.RESPONSES)

    def note(self, upstream: Upstream, wire: WireApi) -> None:
        """Remember which API has worked."""
        place = (upstream.origin, upstream.path)
        known = self._known.get(place)
        if known is not None and known.wire is wire and _age(known) <= WIRE_RECHECK_S:
            return
        self._known[place] = _Known(wire, _now(), known.reasoning_field if known else None)
        _forget_oldest(self._known)
        if wire is WireApi.CHAT_COMPLETIONS and (known is None or known.wire is not wire):
            log.info("Codex's requests reach %s%s as chat completions", *place)

    def forget(self, upstream: Upstream, wire: WireApi) -> None:
        """Forget an API that has ceased to work."""
        if self.wire_of(upstream) is wire:
            del self._known[upstream.origin, upstream.path]

    def refuses_options(self, upstream: Upstream) -> bool:
        return (upstream.origin, upstream.path) in self._without_options

    def note_refused_options(self, upstream: Upstream) -> None:
        """Remember that an upstream does not take `stream_options`."""
        self._without_options[upstream.origin, upstream.path] = None
        _forget_oldest(self._without_options)

    def reasoning_field(self, upstream: Upstream) -> str | None:
        known = self._known.get((upstream.origin, upstream.path))
        return known.reasoning_field if known else None

    def note_reasoning(self, upstream: Upstream, field: str | None) -> None:
        """Remember where an answer has told its reasoning: it wants it back there."""
        known = self._known.get((upstream.origin, upstream.path))
        if known is not None and field is not None:
            known.reasoning_field = field


def _forget_oldest(known: dict[tuple[Origin, str], Any]) -> None:
    while len(known) > MAX_KNOWN_UPSTREAMS:
        del known[next(iter(known))]


def _now() -> float:
    return asyncio.get_running_loop().time()


def _age(known: _Known) -> float:
    return _now() - known.since


def stream_translated(
    request: Request,
    answer: ClientResponse,
    words: ChatAnswer,
    on_end: Callable[[], None],
    on_failure: Callable[[UpstreamFailed], bytes],
) -> StreamResponse:
    """Return a reply that tells Codex the upstream's answer as it comes; when Codex leaves, the upstream's work ends.

    `on_end` is told before Codex is that the answer is over, however it ends; `on_failure` returns the last words of one
    that is none.
    """

    async def pump(stream: Stream) -> None:
        pieces, said, is_over = answer.iter_body(), b"", False
        try:
            async for piece in pieces:
                said = words.feed(piece)
                if words.has_ended:
                    break
                if said:
                    await stream.write(said)
                said = b""
            said += words.finish()
            on_end()
            is_over = True
            await stream.write(said)
            async for _ in pieces:
                pass  # what comes behind the end is read for the connection's sake alone
        except UpstreamFailed as problem:
            if not is_over:
                on_end()
                await stream.write(on_failure(problem))
        finally:
            answer.close()

    return StreamResponse(
        200, (("Content-Type", "text/event-stream"),), lambda stream: stream.while_open(pump(stream))
    )
