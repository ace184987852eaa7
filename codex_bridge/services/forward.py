"""Passing HTTP on to an upstream: which headers travel, how the key is added, how an answer streams through."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..adapters.http_client import Body, ClientResponse, HttpClient
from ..adapters.http_server import Request, Response, Stream, StreamResponse
from ..errors import UpstreamFailed
from ..protocol.http_messages import Headers, connection_options
from .providers import Upstream

# Fields of one connection, never passed on (RFC 9110 7.6.1), and those that are set anew.
_DROPPED = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
    "transfer-encoding", "upgrade", "host", "authorization", "content-length", "expect", "date",
})  # fmt: skip


async def send(
    client: HttpClient,
    upstream: Upstream,
    request: Request,
    target: str,
    body: Body,
    dropped: frozenset[str] = frozenset(),
) -> ClientResponse:
    """Send `request` on to `upstream` as `target`, with its key; give up when the client leaves.

    `dropped` names headers of the client that do not travel.
    """
    headers = [item for item in passed_on(request.head.headers) if item[0] not in dropped]
    headers.append(("Host", upstream.origin.authority))
    if upstream.api_key:
        headers.append(("Authorization", f"Bearer {upstream.api_key}"))
    work = client.request(upstream.origin, request.method, target, tuple(headers), body)
    return await request.while_open(work)


def stream_through(
    request: Request,
    answer: ClientResponse,
    on_failure: Callable[[UpstreamFailed], bytes | None],
    on_piece: Callable[[bytes], None] | None = None,
) -> Response | StreamResponse:
    """Return a reply that passes the upstream's answer on as it comes; a client that leaves ends its work.

    `on_failure` is told when the answer breaks off, and may return last words in place of a broken connection;
    `on_piece` sees each piece of the body before the client does.
    """
    status, headers = answer.head.status, passed_on(answer.head.headers)
    if not answer.head.framing.has_body and request.method != "HEAD":
        answer.release()
        return Response(status, headers=headers)
    length = answer.head.headers.get("content-length")
    if length is not None:
        headers = (*headers, ("Content-Length", length))
    if request.method == "HEAD":
        answer.release()
        return StreamResponse(status, headers, _nothing)

    async def pump(stream: Stream) -> None:
        try:
            async for piece in answer.iter_body():
                if on_piece is not None:
                    on_piece(piece)
                await stream.write(piece)
        except UpstreamFailed as problem:
            last_words = on_failure(problem)
            if last_words is None or length is not None:
                raise
            await stream.write(last_words)
        finally:
            answer.close()

    return StreamResponse(
        status, headers, lambda stream: stream.while_open(pump(stream)), reason=answer.head.reason
    )


async def _nothing(stream: Stream) -> None:
    """Write no body."""


def passed_on(headers: Mapping[str, str]) -> Headers:
    """Return the headers that are meant for the other end, not for one connection."""
    dropped = _DROPPED | connection_options(headers)
    return tuple((name, value) for name, value in headers.items() if name not in dropped)
