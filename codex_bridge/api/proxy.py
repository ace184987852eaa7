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

# The bridge answers for itself which pages may read its answers.
_CORS_PREFIX = "access-control-"


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
        target = upstream.path + _path_below_v1(request) + (f"?{request.query}" if request.query else "")
        framing = request.head.framing
        body = StreamedBody(request.iter_body(UNLIMITED), framing.length) if framing.has_body else b""
        answer = await forward.send(self._client, upstream, request, target, body)
        reply = forward.stream_through(request, answer, _on_failure)
        reply.headers = tuple(item for item in reply.headers if not item[0].startswith(_CORS_PREFIX))
        return reply


def _path_below_v1(request: Request) -> str:
    """Return the path behind /v1; refuse one that could climb out of the upstream's base path."""
    path = request.path.removeprefix("/v1")
    for segment in (
        path.lower()
        .replace("%2e", ".")
        .replace("%2f", "/")
        .replace("%5c", "\\")
        .replace("\\", "/")
        .split("/")
    ):
        if segment in (".", ".."):
            raise MalformedRequest("A path under /v1 has no segment that is . or ..")
    return path


def _on_failure(problem: UpstreamFailed) -> None:
    log.info("%s", problem.message)
