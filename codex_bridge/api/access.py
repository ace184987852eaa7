"""Access: who may call the bridge. Every check runs before any handler and before a body is read.

* Host: one of the bridge's own names, or a page could rebind its own name to this machine.
* Origin: none, the bridge's own, or one that is allowed; CORS headers go to those alone.
* Token: on every route but `GET /health`, compared in constant time.
* Content type: a body is `application/json`, which a "simple" cross-site request cannot send.
"""

from __future__ import annotations

import hmac
import re
from functools import lru_cache

from ..adapters.http_server import Request
from ..errors import Forbidden, Unauthorized, UnsupportedMediaType
from ..protocol.http_messages import Headers

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
_CORS_METHODS = "GET, POST, PUT, PATCH, DELETE, OPTIONS"
_CORS_HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
# How long a browser may remember the answer to a preflight.
_CORS_MAX_AGE_S = "600"


class Access:
    """Judges requests by the configured names, origins and token."""

    def __init__(
        self, host: str, allowed_hosts: frozenset[str], origins: frozenset[str], token: str | None
    ) -> None:
        self._hosts = _LOOPBACK_NAMES | {_bracketed(host.lower())} | {name.lower() for name in allowed_hosts}
        self._origins = origins
        self._token = token.encode() if token else None

    def check_host(self, request: Request) -> None:
        """Refuse a Host that is not a name of the bridge."""
        name = _host_name(request.header("host") or "localhost")
        if name in self._hosts:
            return
        local = request.local_host
        if local is None or name != _bracketed(local):
            raise Forbidden(
                f"The Host {(request.header('host') or '')[:80]!r} is not a name of this bridge; CODEX_BRIDGE_ALLOWED_HOSTS can add it.",
                code="host_not_allowed",
            )

    def check_origin(self, request: Request) -> Headers:
        """Refuse an Origin that is not allowed; return the CORS headers for one that is."""
        origin = request.header("origin")
        if origin is None:
            # What a page of elsewhere embeds, such as an image or a frame, brings no Origin; but its browser says this.
            is_foreign = request.header("sec-fetch-site") in ("cross-site", "same-site")
            if is_foreign and request.header("sec-fetch-dest") != "document":
                raise Forbidden("Pages of other origins may not embed this.", code="origin_not_allowed")
            return ()
        if origin in self._origins:
            # What a page may read of an answer: Retry-After, Idempotency-Replayed, and what an upstream sends.
            return (
                ("Access-Control-Allow-Origin", origin),
                ("Access-Control-Expose-Headers", "*"),
                ("Vary", "Origin"),
            )
        # A page of the bridge's own: its Host has been checked just before.
        if origin.lower() == f"http://{(request.header('host') or '').lower()}":
            return ()
        raise Forbidden(
            f"The Origin {origin[:80]!r} is not allowed; CODEX_BRIDGE_ALLOWED_ORIGINS lists those that are.",
            code="origin_not_allowed",
        )

    def has_token(self, request: Request) -> bool:
        """Say whether the request brings the token, or none is asked for."""
        if self._token is None:
            return True
        scheme, _, given = (request.header("authorization") or "").partition(" ")
        is_equal = hmac.compare_digest(given.strip().encode("latin-1"), self._token)
        return scheme.lower() == "bearer" and is_equal

    def check_token(self, request: Request) -> None:
        """Refuse a request without the token."""
        if not self.has_token(request):
            raise Unauthorized(
                "This bridge needs its token as Authorization: Bearer.",
                headers=(("WWW-Authenticate", "Bearer"),),
            )

    def check_content_type(self, request: Request) -> None:
        """Refuse a body that does not say it is JSON."""
        if not request.head.framing.has_body:
            return
        kind = (request.header("content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise UnsupportedMediaType(
                f"The body must be application/json, not {kind[:60] or 'without a type'!r}."
            )


def preflight_headers(request: Request) -> Headers:
    """Return the headers that answer a browser's preflight from an allowed origin, besides its CORS headers."""
    # Clients of what is behind /v1 have headers of their own, OpenAI's a dozen: the origin is what counts.
    asked = request.header("access-control-request-headers")
    return (
        ("Access-Control-Allow-Methods", _CORS_METHODS),
        ("Access-Control-Allow-Headers", asked or _CORS_HEADERS),
        ("Access-Control-Max-Age", _CORS_MAX_AGE_S),
    )


@lru_cache(maxsize=256)
def _host_name(host: str) -> str:
    """Return a Host header without its port, in lower case; "" for what is no host and port."""
    match = _HOST.fullmatch(host.lower())
    return match[1] if match else ""


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address and not address.startswith("[") else address
