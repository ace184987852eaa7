"""Opens connections to upstreams: straight or through a proxy, with TLS where the origin is https.

The time-out is for all of it: the name, the connection, the proxy's tunnel, TLS's handshake. A failure says whether
it was the proxy or the upstream, and never the proxy's password.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from .. import log
from ..errors import BridgeError, UpstreamFailed
from ..protocol.http_messages import Headers, ResponseHead
from ..protocol.http_reader import parse_response_head
from ..protocol.http_writer import encode_request_head
from ..values import value
from .http_wire import Wire

if TYPE_CHECKING:
    from ..proxies import Proxy  # not loaded by a start without a proxy

_DEFAULT_PORTS = {"http": 80, "https": 443}
# OpenSSL's numbers for a certificate that nobody known has signed.
_UNKNOWN_ISSUER = frozenset({18, 19, 20, 21})


@value
class Origin:
    """Where a connection leads to."""

    scheme: str
    host: str
    port: int

    @property
    def authority(self) -> str:
        """The value of a Host header."""
        return self._host if self.port == _DEFAULT_PORTS[self.scheme] else self.host_and_port

    @property
    def host_and_port(self) -> str:
        """What a tunnel leads to."""
        return f"{self._host}:{self.port}"

    @property
    def _host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


@value
class Route:
    """How an origin is reached: its connections serve no other route."""

    origin: Origin
    proxy: Proxy | None = None

    @property
    def is_forwarded(self) -> bool:
        """Whether the proxy itself reads the requests; through a tunnel it does not."""
        return self.proxy is not None and self.origin.scheme == "http"

    def __str__(self) -> str:
        return f"{self.origin} (through the proxy {self.proxy})" if self.proxy else str(self.origin)


class Connector:
    """Opens connections, each within `timeout_s` seconds."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._tls: ssl.SSLContext | None = None

    async def open(self, route: Route) -> Wire:
        """Open a connection; raise `UpstreamFailed` with the code upstream_unreachable or upstream_timeout."""
        origin, proxy = route.origin, route.proxy
        tls = self._tls_context() if origin.scheme == "https" else None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        if proxy is None:
            async with self._step(f"The upstream {route}", deadline):
                _, wire = await loop.create_connection(Wire, origin.host, origin.port, ssl=tls)
            return wire
        async with self._step(f"The proxy {proxy}", deadline):
            _, wire = await loop.create_connection(Wire, proxy.host, proxy.port)
        if tls is None:
            return wire
        try:
            async with self._step(f"The proxy {proxy}", deadline, f"did not open a way to {origin}"):
                await _open_tunnel(wire, origin, proxy)
            async with self._step(f"The upstream {route}", deadline):
                await wire.start_tls(tls, origin.host)
        except BaseException:
            wire.transport.abort()
            raise
        return wire

    @contextlib.asynccontextmanager
    async def _step(
        self, who: str, deadline: float, late: str = "did not accept a connection"
    ) -> AsyncIterator[None]:
        """Turn what goes wrong inside into an `UpstreamFailed` that says whose failure it is."""
        try:
            async with asyncio.timeout_at(deadline):
                yield
        except TimeoutError:
            raise UpstreamFailed(
                f"{who} {late} within {self._timeout_s:g} s.", code="upstream_timeout", status=504
            ) from None
        except (OSError, UnicodeError) as problem:
            raise _unreachable(f"{who} cannot be reached: {_reason(problem)}.") from None

    def _tls_context(self) -> ssl.SSLContext:
        """Return the settings of TLS connections: the system's certificates or SSL_CERT_FILE's, read once."""
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls


async def _open_tunnel(wire: Wire, origin: Origin, proxy: Proxy) -> None:
    """Ask the proxy for a tunnel to the origin and wait until it is there."""
    target = origin.host_and_port
    headers = (("Host", target), *proxy_headers(proxy))
    wire.write(encode_request_head("CONNECT", target, headers))
    while True:
        try:
            text = wire.heads.next_head()
            # Whatever it says of a body: behind the head of a good answer the tunnel begins.
            head = parse_response_head(text, "HEAD") if text is not None else None
        except BridgeError as problem:
            raise _unreachable(f"The proxy {proxy} does not speak HTTP: {problem.message}") from None
        if head is not None and head.status >= 300:
            raise proxy_refusal(origin, proxy, head)
        if head is not None and head.status >= 200:
            break
        if head is None and not await wire.receive():
            raise _unreachable(f"The proxy {proxy} closed the connection before it opened a way to {origin}.")
    if wire.heads.buffer:
        # The upstream is silent until it is spoken to: these bytes would be missing in TLS's handshake.
        raise _unreachable(f"The proxy {proxy} does not speak HTTP: bytes came behind its answer.")


def proxy_headers(proxy: Proxy) -> Headers:
    """Return the headers that are for the proxy alone."""
    return (("Proxy-Authorization", proxy.authorization),) if proxy.authorization else ()


def proxy_refusal(origin: Origin, proxy: Proxy, head: ResponseHead) -> UpstreamFailed:
    """Return the failure of a proxy that answered in place of the upstream."""
    advice = ""
    if head.status == 407:
        advice = f" {origin.scheme.upper()}_PROXY must hold a user and a password that it takes."
    answer = log.redact(f"{head.status} {head.reason}".rstrip())
    return _unreachable(f"The proxy {proxy} refused to connect to {origin}: it answered {answer}.{advice}")


def _unreachable(message: str) -> UpstreamFailed:
    return UpstreamFailed(message, code="upstream_unreachable")


def _reason(problem: OSError | UnicodeError) -> str:
    """Say in words why a connection was not made."""
    if isinstance(problem, ssl.SSLCertVerificationError):
        why = f"its certificate is not trusted ({problem.verify_message.rstrip('.')})"
        advice = "; SSL_CERT_FILE can name a file of certificates to trust"
        return why + (advice if problem.verify_code in _UNKNOWN_ISSUER else "")
    if isinstance(problem, ssl.SSLError) and problem.reason:
        return f"TLS failed ({problem.reason.lower().replace('_', ' ')})"
    if (
        isinstance(problem, OSError)
        and problem.errno
        and not isinstance(problem, (socket.gaierror, ssl.SSLError))
    ):
        return os.strerror(problem.errno)  # asyncio's own text repeats the address as a tuple
    return getattr(problem, "strerror", None) or str(problem) or "the connection was closed"
