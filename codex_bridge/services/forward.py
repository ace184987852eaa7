"""Passing HTTP on to an upstream: which headers travel, how the key is added, how an answer streams through."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..adapters.http_client import Body, ClientResponse, HttpClient
from ..adapters.http_server import Request, Response, Stream, StreamResponse
from ..errors import UpstreamFailed
from ..protocol.http_messages import Headers, ResponseHead, connection_options
from ..protocol.openai import read_error
from .backend import Upstream

# Fields of one connection, never passed on (RFC 9110 7.6.1), and those that are set anew.
_DROPPED = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
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
    head = answer.head
    headers = passed_on(head.headers, head.fields)
    # A 204 has no body to leave out.
    is_head = request.method == "HEAD" and head.status != 204
    if not head.framing.has_body and not is_head:
        answer.release()
        return Response(head.status, headers=headers, reason=head.reason)
    length = _told_length(head) if is_head else head.framing.length
    if length is not None:
        headers = (*headers, ("Content-Length", str(length)))
    if is_head:
        answer.release()
        return StreamResponse(head.status, headers, _nothing, reason=head.reason)

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
        head.status, headers, lambda stream: stream.while_open(pump(stream)), reason=head.reason
    )


def is_web_page(answer: ClientResponse) -> bool:
    """Say whether an answer is for a person, whatever its status: no API gives such."""
    return answer.head.headers.get("content-type", "").lower().startswith("text/html")


def read_refusal(answer: ClientResponse, body: bytes) -> str:
    """Return why an upstream has refused, in its own words where it has some; those may be long and hold secrets."""
    if is_web_page(answer):
        return "a web page; is the base URL right?"
    location = answer.head.headers.get("location")
    return f"a redirect to {location}" if location else read_error(body)


def _told_length(head: ResponseHead) -> str | None:
    """Return the length that the answer to a HEAD tells of the body it leaves out."""
    text = head.headers.get("content-length", "")
    # A transfer coding makes a length that stands beside it void (RFC 9112 6.3).
    return text if text.isdecimal() and "transfer-encoding" not in head.headers else None


async def _nothing(stream: Stream) -> None:
    """Write no body."""


def passed_on(headers: Mapping[str, str], fields: Headers | None = None) -> Headers:
    """Return the headers that are meant for the other end, not for one connection.

    `fields` are the same with repeated ones apart, which then stay apart.
    """
    dropped = _DROPPED | connection_options(headers)
    return tuple(field for field in fields or headers.items() if field[0] not in dropped)
