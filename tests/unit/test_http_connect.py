"""How an upstream is reached: through a forward proxy, through a tunnel, by TLS; and whose fault it is when it is not."""

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from codex_bridge import log
from codex_bridge.adapters.http_client import ClientResponse, HttpClient, Origin, StreamedBody
from codex_bridge.errors import UpstreamFailed
from codex_bridge.limits import READ_BYTES
from codex_bridge.proxies import ProxyRules, parse_proxy
from tests.support.any_upstream import AnyUpstream
from tests.support.proxy import ForwardProxy
from tests.support.tls import Authority
from tests.unit.loop import on_loop
from tests.unit.wire import Peer, scripted, take_request

PASSWORD = "the-proxys-password"
BASIC = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()
PLAIN = Origin("http", "models.test", 80)
SECURE = Origin("https", "models.test", 443)
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def trusted(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))


@pytest.fixture
def secure(authority: Authority) -> Iterator[AnyUpstream]:
    server = AnyUpstream(authority.server_context("models.test", "localhost"))
    yield server
    server.stop()


@pytest.fixture
def plain() -> Iterator[AnyUpstream]:
    server = AnyUpstream()
    yield server
    server.stop()


@pytest.fixture
def proxy(plain: AnyUpstream, secure: AnyUpstream) -> Iterator[ForwardProxy]:
    hosts = {"models.test:80": plain.port, "models.test:443": secure.port, "others.test:443": secure.port}
    server = ForwardProxy(hosts, f"me:{PASSWORD}")
    yield server
    server.stop()


@asynccontextmanager
async def client(proxy_port: int, *exempt: str, timeout_s: float = 10.0) -> AsyncIterator[HttpClient]:
    """Make a client whose requests go through the proxy on this port."""
    through = parse_proxy(f"http://me:{PASSWORD}@127.0.0.1:{proxy_port}")
    made = HttpClient(timeout_s, 10.0, 10.0, ProxyRules(through, through, exempt))
    try:
        yield made
    finally:
        made.close()


async def send(
    http: HttpClient, origin: Origin, target: str = "/v1/x?y=z", body: bytes = b"{}"
) -> ClientResponse:
    return await http.request(origin, "POST", target, (("Host", origin.authority), ("A", "b")), body)


async def read(answer: ClientResponse) -> bytes:
    return b"".join([piece async for piece in answer.iter_body()])


async def failure(http: HttpClient, origin: Origin) -> UpstreamFailed:
    with pytest.raises(UpstreamFailed) as caught:
        (await send(http, origin)).close()
    assert PASSWORD not in caught.value.message
    assert BASIC.split()[1] not in caught.value.message
    return caught.value


@on_loop
async def test_an_http_request_goes_to_the_proxy_with_an_absolute_target() -> None:
    taken: list[tuple[str, dict[str, str], bytes]] = []

    async def script(peer: Peer) -> None:
        for _ in range(2):
            taken.append(await take_request(peer))
            await peer.send(SIZED)

    async with scripted(script) as port, client(port) as http:
        assert await read(await send(http, PLAIN)) == b"hello"
        assert await read(await send(http, Origin("http", "models.test", 8080))) == b"hello"
        assert await read(await send(http, PLAIN)) == b"hello"
    (first, headers, body), (other, _, _), (again, _, _) = taken
    assert first == again == "POST http://models.test/v1/x?y=z HTTP/1.1"
    assert other == "POST http://models.test:8080/v1/x?y=z HTTP/1.1"
    assert headers == {"host": "models.test", "a": "b", "content-length": "2", "proxy-authorization": BASIC}
    assert body == b"{}"


@pytest.mark.usefixtures("trusted")
@on_loop
async def test_an_https_request_goes_through_a_tunnel(proxy: ForwardProxy) -> None:
    body = b"0123456789" * 1_000_000
    async with client(proxy.port) as http:
        seen = json.loads(await read(await send(http, SECURE, body=body)))
        assert (seen["method"], seen["path"], seen["size"]) == ("POST", "/v1/x?y=z", len(body))
        assert seen["headers"] == {"host": "models.test", "a": "b", "content-length": str(len(body))}
        assert len(await read(await send(http, SECURE, "/v1/20000000"))) == 20_000_000
    ((method, target, headers),) = proxy.seen  # one tunnel for both
    assert (method, target) == ("CONNECT", "models.test:443")
    assert headers == {"host": "models.test:443", "proxy-authorization": BASIC}


@pytest.mark.usefixtures("trusted")
@on_loop
async def test_direct_and_proxied_connections_are_kept_apart(
    proxy: ForwardProxy, secure: AnyUpstream, plain: AnyUpstream
) -> None:
    """The same server, straight and through the proxy: each way keeps its own connection."""
    async with client(proxy.port) as http:
        for _ in range(2):
            for origin in (
                SECURE,
                PLAIN,
                Origin("https", "localhost", secure.port),
                Origin("http", "127.0.0.1", plain.port),
            ):
                answer = await send(http, origin)
                assert json.loads(await read(answer))["headers"]["host"] == origin.authority
        assert sorted(len(resting) for resting in http._idle.values()) == [1, 1, 1, 1]
    assert sorted(proxy.targets) == ["CONNECT models.test:443", *["POST http://models.test/v1/x?y=z"] * 2]


@on_loop
async def test_a_host_in_no_proxy_is_asked_itself(proxy: ForwardProxy) -> None:
    async with client(proxy.port, "models.test") as http:
        problem = await failure(http, PLAIN)
    assert problem.message.startswith(f"The upstream {PLAIN} ")  # a name that only the proxy knows
    assert proxy.seen == []


@pytest.mark.usefixtures("trusted")
@on_loop
async def test_without_its_password_the_proxy_says_so(proxy: ForwardProxy) -> None:
    made = parse_proxy(f"http://me:wrong-{PASSWORD}@127.0.0.1:{proxy.port}")
    http = HttpClient(10.0, 10.0, 10.0, ProxyRules(made, made, ()))
    for origin, variable in ((PLAIN, "HTTP_PROXY"), (SECURE, "HTTPS_PROXY")):
        problem = await failure(http, origin)
        assert (problem.code, problem.status) == ("upstream_unreachable", 502)
        assert problem.message == (
            f"The proxy {proxy.url()} refused to connect to {origin}: it answered 407 Proxy Authentication Required. "
            f"{variable} must hold a user and a password that it takes."
        )
    http.close()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!", "refused to connect to https://models.test: it answered 403 Forbidden."),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "refused to connect to https://models.test: it answered 502 Bad Gateway."),
        (b"HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n", "refused to connect to https://models.test: it answered 301 Moved."),
        (b"HTTP/1.1 503\r\n\r\n", "refused to connect to https://models.test: it answered 503."),
        (f"HTTP/1.1 407 not {PASSWORD}\r\n\r\n".encode(), "refused to connect to https://models.test: it answered 407 not [hidden]."),
        (b"", "closed the connection before it opened a way to https://models.test."),
        (b"HTTP/1.1 200 O", "closed the connection before it opened a way to https://models.test."),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "closed the connection before it opened a way to https://models.test."),
        (b"\x05\x00\r\n\r\n", "does not speak HTTP: "),
        (b"HTTP/1.1 200 OK\r\n\r\n\x16", "does not speak HTTP: bytes came behind its answer."),
    ],
)  # fmt: skip
@on_loop
async def test_a_proxy_that_opens_no_tunnel(said: bytes, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_secrets", {PASSWORD})

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(said)

    async with scripted(script) as port, client(port) as http:
        problem = await failure(http, SECURE)
    assert (problem.code, problem.status) == ("upstream_unreachable", 502)
    assert problem.message.startswith(f"The proxy http://127.0.0.1:{port} {told}")


@pytest.mark.parametrize("status", [403, 502])
@on_loop
async def test_other_answers_of_a_forward_proxy_are_taken_for_the_upstreams(status: int) -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nno" % status)

    async with scripted(script) as port, client(port) as http:
        answer = await send(http, PLAIN)
        assert (answer.head.status, await read(answer)) == (status, b"no")


@on_loop
async def test_what_fails_behind_a_proxy_names_both() -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)

    async with scripted(script) as port, client(port) as http:
        problem = await failure(http, PLAIN)
    assert problem.code == "upstream_disconnected"
    assert problem.message == (
        f"The upstream http://models.test (through the proxy http://127.0.0.1:{port}) closed the connection before it answered."
    )


@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
@pytest.mark.parametrize("size", [1, 1000])
@on_loop
async def test_a_tunnels_answer_is_read_however_it_is_cut(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, interim: bytes, size: int
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    # Content-Length and Transfer-Encoding mean nothing here (RFC 9110 9.3.6).
    said = interim + b"HTTP/1.0 200 Connection established\r\nContent-Length: 7\r\n\r\n"

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        for start in range(0, len(said), size):
            await peer.send(said[start : start + size])
        await peer.writer.start_tls(authority.server_context("models.test"))
        await take_request(peer)
        await peer.send(SIZED)

    async with scripted(script) as port, client(port) as http:
        assert await read(await send(http, SECURE)) == b"hello"


@pytest.mark.parametrize("origin", [PLAIN, SECURE])
@on_loop
async def test_a_proxy_that_is_not_there(origin: Origin) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with client(port) as http:
            problem = await failure(http, origin)
    assert (problem.code, problem.status) == ("upstream_unreachable", 502)
    assert problem.message.startswith(f"The proxy http://127.0.0.1:{port} cannot be reached: ")


@pytest.mark.parametrize(
    ("said", "who"),
    [
        (b"", "The proxy http://127.0.0.1:{} did not open a way to https://models.test within 1 s."),
        (
            b"HTTP/1.1 200 OK\r\n\r\n",
            "The upstream https://models.test (through the proxy http://127.0.0.1:{}) did not accept a connection within 1 s.",
        ),
    ],
)
@on_loop
async def test_the_time_for_a_connection_is_also_for_the_tunnel_and_for_tls(said: bytes, who: str) -> None:
    left = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(said)
        await peer.rest()
        left.set()

    async with scripted(script) as port, client(port, timeout_s=1.0) as http:
        problem = await failure(http, SECURE)
        await left.wait()
    assert (problem.code, problem.status) == ("upstream_timeout", 504)
    assert problem.message == who.format(port)


@on_loop
async def test_a_request_that_is_cancelled_in_a_tunnel_closes_it() -> None:
    taken, left = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        await peer.reader.readexactly(1)  # TLS has begun
        taken.set()
        await peer.rest()
        left.set()

    async with scripted(script) as port, client(port) as http:
        task = asyncio.create_task(send(http, SECURE))
        await taken.wait()
        task.cancel()
        await asyncio.wait([task])
        await left.wait()


async def untrusted(origin: Origin, proxy_port: int = 9) -> str:
    """Return how an upstream is refused for its certificate."""
    async with client(proxy_port) as http:
        problem = await failure(http, origin)
    assert (problem.code, problem.status) == ("upstream_unreachable", 502)
    return problem.message


ADVICE = "; SSL_CERT_FILE can name a file of certificates to trust."


@on_loop
async def test_an_unknown_authority_is_refused(
    secure: AnyUpstream, proxy: ForwardProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    direct = await untrusted(Origin("https", "localhost", secure.port))
    assert direct.startswith(
        f"The upstream https://localhost:{secure.port} cannot be reached: its certificate is not trusted ("
    )
    assert direct.endswith(ADVICE)
    tunnelled = await untrusted(SECURE, proxy.port)
    assert tunnelled.startswith(
        f"The upstream https://models.test (through the proxy {proxy.url()}) cannot be reached: its certificate is not trusted ("
    )
    assert tunnelled.endswith(ADVICE)


@pytest.mark.usefixtures("trusted")
@on_loop
async def test_a_certificate_for_another_name_is_refused(secure: AnyUpstream, proxy: ForwardProxy) -> None:
    for message in (
        await untrusted(Origin("https", "127.0.0.1", secure.port)),
        await untrusted(Origin("https", "others.test", 443), proxy.port),
    ):
        assert "its certificate is not trusted (" in message
        assert "mismatch" in message
        assert "SSL_CERT_FILE" not in message  # which would not help


@pytest.mark.usefixtures("trusted")
@on_loop
async def test_tls_that_ends_in_the_handshake() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.read(1)
        peer.reset()

    async with scripted(script) as port, client(9) as http:
        problem = await failure(http, Origin("https", "127.0.0.1", port))
    assert problem.code == "upstream_unreachable"
    assert problem.message.startswith(f"The upstream https://127.0.0.1:{port} cannot be reached: ")
    assert not problem.message.endswith(": .")


@on_loop
async def test_the_certificates_of_ssl_cert_file_are_trusted(
    authority: Authority, secure: AnyUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    async with client(9) as http:
        answer = await send(http, Origin("https", "localhost", secure.port))
        assert json.loads(await read(answer))["size"] == 2


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * READ_BYTES


async def unfinished() -> AsyncIterator[bytes]:
    yield b"x"
    await asyncio.Event().wait()


async def upload(http: HttpClient, port: int, pieces: AsyncIterator[bytes]) -> ClientResponse:
    origin = Origin("https", "localhost", port)
    return await http.request(origin, "POST", "/", (), StreamedBody(pieces, None))


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("pieces", [endless, unfinished])
@on_loop
async def test_a_refusal_ends_the_sending_over_tls_too(
    authority: Authority, pieces: Callable[[], AsyncIterator[bytes]]
) -> None:
    is_read, left = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await peer.send(SIZED.replace(b"200 OK", b"401 No"))
        await is_read.wait()
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await peer.rest()
        left.set()

    async with scripted(script, authority.server_context("localhost")) as port, client(9) as http:
        answer = await upload(http, port, pieces())
        assert (answer.head.status, await read(answer)) == (401, b"hello")
        is_read.set()
        await left.wait()


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("leave", [Peer.reset, lambda peer: peer.writer.close()])
@pytest.mark.parametrize("said", [SIZED, SIZED.replace(b"200 OK", b"401 No"), b""])
@on_loop
async def test_an_upstream_that_leaves_ends_the_sending_over_tls_too(
    authority: Authority, said: bytes, leave: Callable[[Peer], None]
) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"1\r\nx\r\n")
        await peer.send(said)
        leave(peer)

    async with scripted(script, authority.server_context("localhost")) as port, client(9) as http:
        if said:
            assert await read(await upload(http, port, unfinished())) == b"hello"
        else:
            with pytest.raises(UpstreamFailed) as caught:
                await upload(http, port, unfinished())
            assert caught.value.code == "upstream_disconnected"
