"""`/v1/*`: a streaming proxy to the configured upstream, with its key in place of the host's authorization.

Bodies of any size pass both ways as they come; status and headers are the upstream's own.
"""

from __future__ import annotations

from .. import log
from ..adapters.http_client import HttpClient, StreamedBody
from ..adapters.http_server import Request, Response, StreamResponse
from ..errors import BridgeError, MalformedRequest, UpstreamFailed
from ..limits import UNLIMITED
from ..services import forward
from ..services.runtime_config import RuntimeConfig

# TRACE would have the upstream show the key; after a CONNECT the two ends would not agree on what a body is.
_REFUSED_METHODS = frozenset({"TRACE", "CONNECT"})
# The bridge answers for itself which pages may call it and read its answers. Ollama refuses origins on its own. And
# cookies of a loopback address belong to whatever else serves there.
_CORS_PREFIX = "access-control-"
_NOT_PASSED_ON = frozenset({"origin", "cookie"})
# An answer opened in a browser must not run as a page of the bridge, which may call all its routes.
_NO_PAGE = ("Content-Security-Policy", "sandbox")


class ProxyRoutes:
    """Serves `/v1` from the configuration in force."""

    def __init__(self, client: HttpClient, config: RuntimeConfig) -> None:
        self._client = client
        self._config = config

    async def forward(self, request: Request) -> Response | StreamResponse:
        """Pass a request on and its answer back."""
        upstream = self._config.backend.upstream
        if upstream is None:
            raise BridgeError(
                "There is no upstream for /v1: Codex uses its own sign-in, and there is no key to lend. POST /runtime/config "
                "(or the environment) can give a provider_api_key, or choose another runtime_provider.",
                code="no_upstream",
                status=400,
            )
        _check_is_plain_http(request)
        target = upstream.path + _path_below_v1(request) + (f"?{request.query}" if request.query else "")
        framing = request.head.framing
        body = StreamedBody(request.iter_body(UNLIMITED), framing.length) if framing.has_body else b""
        answer = await forward.send(self._client, upstream, request, target, body, _NOT_PASSED_ON)
        reply = forward.stream_through(request, answer, _on_failure)
        kept = (item for item in reply.headers if not item[0].startswith(_CORS_PREFIX))
        reply.headers = (*kept, _NO_PAGE)
        return reply


def _check_is_plain_http(request: Request) -> None:
    """Refuse what is no request with one answer. An Upgrade other than to WebSocket may be ignored, and is."""
    method = request.method.upper()  # as an upstream might read it
    asked = method if method in _REFUSED_METHODS else ""
    if (request.header("upgrade") or "").lower() == "websocket":
        asked = "WebSocket"
    if asked:
        raise BridgeError(f"{asked} is not passed on under /v1.", code="not_implemented", status=501)


def _path_below_v1(request: Request) -> str:
    """Return the path behind /v1; refuse one that could climb out of the upstream's base path."""
    path = request.path.removeprefix("/v1")
    for segment in (
        path.lower()
        .replace("%2e", ".")
        .replace("%2f", "/")
        .replace("%5c", "\\")
        .replace("\\", "/")
        .replace("%3b", ";")
        .split("/")
    ):
        # Some servers take what stands behind a ; off a segment before they resolve it.
        if segment.partition(";")[0] in (".", ".."):
            raise MalformedRequest("A path under /v1 has no segment that is . or ..")
    return path


def _on_failure(problem: UpstreamFailed) -> None:
    log.info("%s", problem.message)
