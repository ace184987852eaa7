"""The HTTP client against scripted peers: framing, the pool, time-outs, everything that breaks."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from codex_bridge.adapters import http_client
from codex_bridge.adapters.http_client import Body, ClientResponse, HttpClient, Origin, StreamedBody
from codex_bridge.errors import UpstreamFailed
from codex_bridge.limits import (
    MAX_ERROR_BODY_BYTES,
    MAX_HEAD_BYTES,
    MAX_IDLE_UPSTREAM_CONNECTIONS,
    READ_BYTES,
)
from tests.unit.loop import on_loop
from tests.unit.wire import Peer, connected, scripted, take_request

SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nA: b\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\nhello"

Script = Callable[[Peer], Awaitable[None]]


@asynccontextmanager
async def client(
    idle_timeout_s: float = 60.0, first_byte_timeout_s: float = 60.0
) -> AsyncIterator[HttpClient]:
    # A resolver that nobody answers takes long to say so.
    made = HttpClient(15.0, first_byte_timeout_s, idle_timeout_s)
    try:
        yield made
    finally:
        made.close()


async def send(client: HttpClient, port: int, method: str = "POST", body: Body = b"{}") -> ClientResponse:
    origin = Origin("http", "127.0.0.1", port)
    return await client.request(origin, method, "/v1/x?y=z", (("Host", origin.authority), ("A", "b")), body)


async def read(answer: ClientResponse) -> bytes:
    return b"".join([piece async for piece in answer.iter_body()])


def answering(*answers: bytes, seen: list[str] | None = None) -> Script:
    """Return a script that answers the requests of each connection in this order, then closes it."""

    async def script(peer: Peer) -> None:
        for answer in answers:
            first, _, _ = await take_request(peer)
            if seen is not None:
                seen.append(first)
            await peer.send(answer)

    return script


@on_loop
async def test_a_request_is_sent_whole() -> None:
    taken: list[tuple[str, dict[str, str], bytes]] = []

    async def script(peer: Peer) -> None:
        taken.append(await take_request(peer))
        await peer.send(SIZED)

    async with scripted(script) as port, client() as http:
        answer = await send(http, port, body=b"x" * 300_000)
        assert await read(answer) == b"hello"
    ((first, headers, body),) = taken
    assert first == "POST /v1/x?y=z HTTP/1.1"
    assert headers == {"host": f"127.0.0.1:{port}", "a": "b", "content-length": "300000"}
    assert body == b"x" * 300_000


@pytest.mark.parametrize("answer", [SIZED, CHUNKED, UNTIL_CLOSE, b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED])
@pytest.mark.parametrize("size", [1, 7, 1000])
@on_loop
async def test_an_answer_is_read_however_it_is_framed_and_cut(answer: bytes, size: int) -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)
        for start in range(0, len(answer), size):
            await peer.send(answer[start : start + size])

    async with scripted(script) as port, client() as http:
        found = await send(http, port)
        assert found.head.status == 200
        assert await read(found) == b"hello"


@on_loop
async def test_a_body_comes_piece_by_piece() -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n")
        await go_on.wait()
        await peer.send(b"3\r\nllo\r\n0\r\n\r\n")

    async with scripted(script) as port, client() as http:
        pieces = (await send(http, port)).iter_body()
        assert await anext(pieces) == b"he"
        go_on.set()
        assert [piece async for piece in pieces] == [b"llo"]


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        ("POST", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
    ],
)
@on_loop
async def test_an_answer_without_a_body_ends_at_once_and_keeps_the_connection(
    method: str, answer: bytes
) -> None:
    async with scripted(answering(answer, SIZED)) as port, client() as http:
        assert await read(await send(http, port, method)) == b""
        assert await read(await send(http, port)) == b"hello"


async def count_connections(first: bytes, *, read_first: bool = True) -> int:
    """Return how many connections two requests take when the first is answered by `first`."""
    connections = 0

    async def script(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await answering(first if connections == 1 else SIZED, SIZED)(peer)

    async with scripted(script) as port, client() as http:
        answer = await send(http, port)
        if read_first:
            await read(answer)
        answer.close()
        assert await read(await send(http, port)) == b"hello"
    return connections


@pytest.mark.parametrize(
    ("first", "connections"),
    [
        (SIZED, 1),
        (CHUNKED, 1),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 1),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx", 2),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 2),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", 2),
        (SIZED + b"HTTP/1.1 200 OK\r\n", 2),
    ],
)
@on_loop
async def test_a_connection_is_used_again_when_that_is_safe(first: bytes, connections: int) -> None:
    assert await count_connections(first) == connections


@on_loop
async def test_an_answer_that_was_not_read_to_its_end_gives_its_connection_up() -> None:
    assert await count_connections(SIZED, read_first=False) == 2


@on_loop
async def test_a_pooled_connection_that_closes_in_this_moment_is_replaced() -> None:
    connections = 0

    async def script(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await answering(SIZED)(peer)
        if connections == 1:
            await take_request(peer)  # and closes without a word

    async with scripted(script) as port, client() as http:
        for _ in range(2):
            assert await read(await send(http, port)) == b"hello"
    assert connections == 2


@on_loop
async def test_a_request_that_was_answered_in_part_is_not_sent_again() -> None:
    seen: list[str] = []
    script = answering(SIZED, b"HTTP/1.1 200 O", seen=seen)
    async with scripted(script) as port, client() as http:
        await read(await send(http, port))
        with pytest.raises(UpstreamFailed) as caught:
            await send(http, port)
    assert caught.value.code == "upstream_disconnected"
    assert len(seen) == 2


@on_loop
async def test_what_a_resting_connection_says_unasked_is_no_answer() -> None:
    rested, said = asyncio.Event(), asyncio.Event()
    connections = 0

    async def script(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        if connections > 1:
            await answering(SIZED)(peer)
            return
        await answering(SIZED)(peer)
        await rested.wait()
        # As servers do that give up on an idle connection.
        await peer.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        peer.end()
        said.set()
        await peer.rest()

    async with scripted(script) as port, client() as http:
        assert await read(await send(http, port)) == b"hello"
        rested.set()
        await said.wait()
        await round_trip()
        answer = await send(http, port)
        assert (answer.head.status, await read(answer)) == (200, b"hello")


@pytest.mark.parametrize("said", [b"", b"x"])
@on_loop
async def test_a_resting_connection_is_closed_when_its_upstream_ends_it_or_speaks(said: bytes) -> None:
    rested, left = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await answering(SIZED)(peer)
        await rested.wait()
        await peer.send(said)
        if not said:
            peer.end()
        await peer.rest()
        left.set()

    async with scripted(script) as port, client() as http:
        assert await read(await send(http, port)) == b"hello"
        rested.set()
        await left.wait()


@on_loop
async def test_a_request_that_was_answered_in_part_by_a_resting_connection_is_not_sent_again() -> None:
    """The part lies in the socket, and the loop has not seen it when the request is written."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        async with client() as http:
            first = asyncio.create_task(send(http, listener.getsockname()[1]))
            connection, _ = await loop.sock_accept(listener)
            with connection:
                await loop.sock_sendall(connection, SIZED)
                assert await read(await first) == b"hello"
                connection.send(b"HTTP/1.1 200 O")
            with pytest.raises(UpstreamFailed) as caught:
                await send(http, listener.getsockname()[1])
    assert caught.value.code == "upstream_disconnected"


@on_loop
async def test_no_more_is_taken_than_is_read() -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await peer.send(b"x" * READ_BYTES)

    async with scripted(script) as port, client() as http:
        answer = await send(http, port)
        for _ in range(20):
            await round_trip()
        pieces = answer.iter_body()
        # One read more than it takes to be too much; those of the loops are four times as large.
        assert len(await anext(pieces)) <= 6 * READ_BYTES
        answer.close()


def test_a_connection_that_nobody_uses_again_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    @on_loop
    async def check() -> None:
        monkeypatch.setattr(http_client, "UPSTREAM_IDLE_REUSE_S", 0.05)
        closed = asyncio.Event()

        async def script(peer: Peer) -> None:
            await answering(SIZED)(peer)
            await peer.rest()
            closed.set()

        async with scripted(script) as port, client() as http:
            assert await read(await send(http, port)) == b"hello"
            await closed.wait()

    check()


@on_loop
async def test_the_pool_has_a_bound() -> None:
    count = MAX_IDLE_UPSTREAM_CONNECTIONS + 4
    async with scripted(answering(SIZED, SIZED)) as port, client() as http:
        answers = [await send(http, port) for _ in range(count)]
        for answer in answers:
            assert await read(answer) == b"hello"
        assert sum(len(resting) for resting in http._idle.values()) == MAX_IDLE_UPSTREAM_CONNECTIONS


async def failure(
    script: Script, idle_timeout_s: float = 60.0, first_byte_timeout_s: float = 60.0, body: Body = b"{}"
) -> UpstreamFailed:
    async with scripted(script) as port, client(idle_timeout_s, first_byte_timeout_s) as http:
        with pytest.raises(UpstreamFailed) as caught:
            answer = await send(http, port, body=body)
            try:
                await read(answer)
            finally:
                answer.close()
        assert f"http://127.0.0.1:{port}" in caught.value.message
    return caught.value


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
@on_loop
async def test_the_beginning_of_an_answer_has_a_bound(said: bytes) -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(said)
        await peer.rest()

    problem = await failure(script, first_byte_timeout_s=0.05)
    assert (problem.code, problem.status) == ("upstream_timeout", 504)
    assert problem.message.endswith(" did not begin to answer within 0.05 s.")


@pytest.mark.parametrize(
    "said",
    [
        b"H", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe",
    ],
)  # fmt: skip
@on_loop
async def test_silence_in_an_answer_has_a_bound(said: bytes) -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(said)
        await peer.rest()

    problem = await failure(script, idle_timeout_s=0.05)
    assert (problem.code, problem.status) == ("upstream_timeout", 504)
    assert problem.message.endswith(" sent nothing for 0.05 s.")


async def ticks(count: int) -> AsyncIterator[None]:
    """Yield `count` times, 0.05 s apart."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        tick = loop.create_future()
        loop.call_later(0.05, tick.set_result, None)
        await tick
        yield


@on_loop
async def test_the_time_for_the_beginning_is_not_that_for_silence() -> None:
    """Either may be the shorter one."""

    async def script(peer: Peer) -> None:
        await take_request(peer)
        async for _ in ticks(6):
            pass
        await peer.send(SIZED)

    async with scripted(script) as port, client(0.1) as http:
        assert await read(await send(http, port)) == b"hello"

    async def slow_in_the_middle(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(SIZED[:-2])
        async for _ in ticks(24):
            pass
        await peer.send(SIZED[-2:])

    async with scripted(slow_in_the_middle) as port, client(first_byte_timeout_s=1.0) as http:
        assert await read(await send(http, port)) == b"hello"


@pytest.mark.parametrize("length", [2, None])
@on_loop
async def test_a_body_that_comes_slowly_is_not_the_upstreams_fault(length: int | None) -> None:
    """The time for the beginning of the answer begins with the end of the request."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"."
        async for _ in ticks(24):
            pass
        yield b"."

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b".." if length else b"0\r\n\r\n")
        await peer.send(SIZED)

    async with scripted(script) as port, client(1.0, 1.0) as http:
        origin = Origin("http", "127.0.0.1", port)
        answer = await http.request(origin, "POST", "/", (), StreamedBody(pieces(), length))
        assert await read(answer) == b"hello"


@on_loop
async def test_a_slow_upload_that_moves_is_not_timed_out() -> None:
    size = 48_000_000

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        async for _ in ticks(48):
            await peer.reader.readexactly(size // 48)
        await peer.send(SIZED)

    async with scripted(script) as port, client(1.0) as http:
        assert await read(await send(http, port, body=bytes(size))) == b"hello"


@on_loop
async def test_an_upstream_that_does_not_read_has_a_bound() -> None:
    release = asyncio.Event()

    async def script(peer: Peer) -> None:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await release.wait()

    async with scripted(script) as port, client(0.05) as http:
        with pytest.raises(UpstreamFailed) as caught:
            await send(http, port, body=b"x" * 30_000_000)
        release.set()
    assert caught.value.code == "upstream_timeout"
    assert caught.value.message.endswith(" took nothing for 0.05 s.")


@on_loop
async def test_an_upstream_that_talks_on_is_not_timed_out() -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        async for _ in ticks(24):
            await peer.send(b".")

    async with scripted(script) as port, client(1.0) as http:
        assert await read(await send(http, port)) == b"." * 24


@pytest.mark.parametrize(
    "said",
    [
        b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    ],
)  # fmt: skip
@on_loop
async def test_an_answer_that_breaks_off_is_told(said: bytes) -> None:
    problem = await failure(answering(said))
    assert (problem.code, problem.status) == ("upstream_disconnected", 502)


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x0a", b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    ],
)  # fmt: skip
@on_loop
async def test_garbage_is_the_upstreams_failure(said: bytes) -> None:
    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(said)
        await peer.rest()

    problem = await failure(script)
    assert (problem.status, " does not speak HTTP: " in problem.message) == (502, True)


@on_loop
async def test_an_upstream_that_is_not_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with client() as http:
            with pytest.raises(UpstreamFailed) as caught:
                await send(http, port)
    assert (caught.value.code, caught.value.status) == ("upstream_unreachable", 502)


@pytest.mark.parametrize("host", ["host.invalid", "a..b", "x" * 70, "h\u00f6st.invalid"])
@on_loop
async def test_a_host_that_cannot_be_found(host: str) -> None:
    async with client() as http:
        with pytest.raises(UpstreamFailed) as caught:
            await http.request(Origin("http", host, 80), "GET", "/", (), b"")
    assert caught.value.code == "upstream_unreachable"


@on_loop
async def test_a_connection_that_is_not_accepted_in_time() -> None:
    # A listener whose queue is full does not answer the next SYN.
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            http = HttpClient(0.05, 10.0, 10.0)
            with pytest.raises(UpstreamFailed) as caught:
                await send(http, port)
        finally:
            for filler in fillers:
                filler.close()
    assert (caught.value.code, caught.value.status) == ("upstream_timeout", 504)


@on_loop
async def test_plain_http_where_tls_is_expected() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.read(1)
        await peer.send(SIZED)

    async with scripted(script) as port, client() as http:
        with pytest.raises(UpstreamFailed) as caught:
            await http.request(Origin("https", "127.0.0.1", port), "GET", "/", (), b"")
    assert caught.value.code == "upstream_unreachable"


@on_loop
async def test_of_an_errors_body_only_the_beginning_is_read() -> None:
    left = asyncio.Event()

    async def script(peer: Peer) -> None:
        await take_request(peer)
        await peer.send(
            b"HTTP/1.1 500 Oh\r\nContent-Length: 100000000\r\n\r\n" + b"x" * (2 * MAX_ERROR_BODY_BYTES)
        )
        await peer.rest()
        left.set()

    async with scripted(script) as port, client() as http:
        answer = await send(http, port)
        assert await answer.read_error_text() == b"x" * MAX_ERROR_BODY_BYTES
        await left.wait()


@on_loop
async def test_a_request_that_is_cancelled_closes_its_connection() -> None:
    taken, left = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await take_request(peer)
        taken.set()
        await peer.rest()
        left.set()

    async with scripted(script) as port, client() as http:
        task = asyncio.create_task(send(http, port))
        await taken.wait()
        task.cancel()
        await asyncio.wait([task])
        await left.wait()


def leave_rudely(peer: Peer) -> None:
    """Leave by a reset, even when nothing lies unread."""
    peer.writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    peer.reset()


REFUSAL = b"HTTP/1.1 413 Too Big\r\nContent-Length: 7\r\n\r\ntoo big"


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * READ_BYTES


async def halting(until: asyncio.Event) -> AsyncIterator[bytes]:
    """Begin, as a client does that waits for a word before it goes on."""
    yield b"x"
    await until.wait()
    yield b"x"


def unfinished() -> StreamedBody:
    return StreamedBody(halting(asyncio.Event()), None)


# Bodies that are never sent whole to an upstream that does not read them, or at all.
UNSENT: dict[str, Callable[[], Body]] = {
    "sized": lambda: StreamedBody(endless(), 1 << 40),
    "chunked": lambda: StreamedBody(endless(), None),
    "bytes": lambda: bytes(30_000_000),
    "bytes in one write": lambda: bytes(30_000_000),
    "unfinished": unfinished,
}


@pytest.mark.parametrize("name", UNSENT)
@pytest.mark.parametrize("interim", [b"", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\n"])
def test_a_refusal_ends_the_sending(name: str, interim: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The upstream reads no further, and leaves the connection open until the bridge closes it."""
    if name == "bytes in one write":
        monkeypatch.setattr(http_client, "UPLOAD_PIECE_BYTES", 1 << 26)

    @on_loop
    async def main() -> None:
        connections = 0
        is_read, left = asyncio.Event(), asyncio.Event()

        async def script(peer: Peer) -> None:
            nonlocal connections
            connections += 1
            if connections > 1:
                await answering(SIZED)(peer)
                return
            await peer.reader.readuntil(b"\r\n\r\n")
            peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await peer.send(interim + REFUSAL)
            await is_read.wait()
            peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
            await peer.rest()
            left.set()

        async with scripted(script) as port, client() as http:
            answer = await send(http, port, body=UNSENT[name]())
            assert (answer.head.status, await read(answer)) == (413, b"too big")
            is_read.set()
            await left.wait()
            assert await read(await send(http, port)) == b"hello"
        assert connections == 2

    main()


@pytest.mark.parametrize("status", [300, 307, 400, 401, 503])
@on_loop
async def test_what_ends_the_sending(status: int) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\nno" % status)
        await peer.rest()

    async with scripted(script) as port, client() as http:
        answer = await send(http, port, body=unfinished())
        assert (answer.head.status, await read(answer)) == (status, b"no")


@on_loop
async def test_a_refusal_comes_before_it_is_whole() -> None:
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(REFUSAL[:-3])
        await go_on.wait()
        await peer.send(REFUSAL[-3:])
        await peer.rest()

    async with scripted(script) as port, client() as http:
        answer = await send(http, port, body=StreamedBody(endless(), None))
        pieces = answer.iter_body()
        assert await anext(pieces) == b"too "
        go_on.set()
        assert b"".join([piece async for piece in pieces]) == b"big"


@on_loop
async def test_an_answer_that_begins_while_the_body_is_sent_does_not_end_that() -> None:
    """Its beginning may be more than the client holds before it is read."""
    begun = asyncio.Event()
    much = b"y" * (4 * READ_BYTES)
    taken: list[bytes] = []
    connections = 0

    async def script(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(much) + much + b"\r\n"
        )
        begun.set()
        taken.append(await peer.reader.readuntil(b"0\r\n\r\n"))
        await peer.send(b"0\r\n\r\n")
        await answering(SIZED)(peer)

    async with scripted(script) as port, client() as http:
        answer = await send(http, port, body=StreamedBody(halting(begun), None))
        assert (answer.head.status, await read(answer)) == (200, much)
        assert await read(await send(http, port)) == b"hello"
    assert (taken, connections) == ([b"1\r\nx\r\n1\r\nx\r\n0\r\n\r\n"], 1)


@on_loop
async def test_an_upstream_that_has_said_all_may_still_listen() -> None:
    begun, left = asyncio.Event(), asyncio.Event()
    taken: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(SIZED)
        peer.end()
        await round_trip()
        begun.set()
        taken.append(await peer.rest())
        left.set()

    async with scripted(script) as port, client() as http:
        answer = await send(http, port, body=StreamedBody(halting(begun), None))
        assert (answer.head.status, await read(answer)) == (200, b"hello")
        await left.wait()
    assert taken == [b"1\r\nx\r\n1\r\nx\r\n0\r\n\r\n"]


@on_loop
async def test_an_answer_does_not_lift_the_bound_of_an_upstream_that_does_not_read() -> None:
    release = asyncio.Event()

    async def script(peer: Peer) -> None:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await peer.send(SIZED)
        await release.wait()

    async with scripted(script) as port, client(0.05) as http:
        with pytest.raises(UpstreamFailed) as caught:
            await send(http, port, body=StreamedBody(endless(), None))
        release.set()
    assert caught.value.message.endswith(" took nothing for 0.05 s.")


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 O"])
@pytest.mark.parametrize("leave", [Peer.end, Peer.reset])
@on_loop
async def test_an_upstream_that_leaves_ends_the_sending(said: bytes, leave: Callable[[Peer], None]) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(said)
        leave(peer)
        await peer.rest()

    problem = await failure(script, body=unfinished())
    assert (problem.code, problem.status) == ("upstream_disconnected", 502)


@pytest.mark.parametrize(
    "said", [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + SIZED]
)
@on_loop
async def test_garbage_ends_the_sending(said: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(said)
        await peer.rest()

    problem = await failure(script, body=unfinished())
    assert " does not speak HTTP: " in problem.message


# What comes before a reset, and what the client gets.
RESET: dict[str, tuple[bytes, int, bytes]] = {
    "a refusal": (REFUSAL, 413, b"too big"),
    "a chunked one": (CHUNKED.replace(b"200 OK", b"401 No"), 401, b"hello"),
    "one that ends with the connection": (UNTIL_CLOSE.replace(b"200 OK", b"401 No"), 401, b"hello"),
    "an answer": (SIZED, 200, b"hello"),
}


@pytest.mark.parametrize("goes_on", [True, False])
@pytest.mark.parametrize("name", RESET)
@on_loop
async def test_what_came_before_a_reset_is_read(name: str, goes_on: bool) -> None:
    said, status, text = RESET[name]
    has_left = asyncio.Event()
    body = StreamedBody(halting(has_left), None) if goes_on else unfinished()

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(said)
        leave_rudely(peer)
        has_left.set()

    async with scripted(script) as port, client() as http:
        answer = await send(http, port, body=body)
        assert (answer.head.status, await read(answer)) == (status, text)


@pytest.mark.parametrize("name", RESET)
@on_loop
async def test_what_came_before_a_write_failed_is_read(name: str) -> None:
    """The answer lies in the socket, and the loop has not seen it when the next piece is written."""
    said, status, text = RESET[name]
    with socket.create_server(("127.0.0.1", 0)) as listener:

        async def pieces() -> AsyncIterator[bytes]:
            yield b"x"
            connection, _ = listener.accept()
            with connection:
                connection.sendall(said)
            async for piece in endless():
                yield piece

        async with client() as http:
            answer = await send(http, listener.getsockname()[1], body=StreamedBody(pieces(), None))
            assert (answer.head.status, await read(answer)) == (status, text)


@on_loop
async def test_a_reset_in_the_middle_of_a_refusal_is_told() -> None:
    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(REFUSAL[:-1])
        leave_rudely(peer)

    problem = await failure(script, body=StreamedBody(endless(), None))
    assert problem.code == "upstream_disconnected"


@pytest.mark.parametrize("trouble", [TimeoutError(), ConnectionResetError(), UpstreamFailed("Another one.")])
@on_loop
async def test_what_goes_wrong_with_a_body_is_told_as_it_is(trouble: Exception) -> None:
    left = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"
        raise trouble

    async def script(peer: Peer) -> None:
        await peer.rest()
        left.set()

    async with scripted(script) as port, client() as http:
        with pytest.raises(type(trouble)) as caught:
            await send(http, port, body=StreamedBody(pieces(), None))
        assert caught.value is trouble
        await left.wait()


@on_loop
async def test_a_request_that_is_cancelled_while_it_is_sent_closes_its_connection() -> None:
    taken, left = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"x")
        taken.set()
        await peer.rest()
        left.set()

    async with scripted(script) as port, client() as http:
        task = asyncio.create_task(send(http, port, body=unfinished()))
        await taken.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await left.wait()


@on_loop
async def test_neither_a_request_nor_a_connection_that_rests_has_a_task() -> None:
    counts: list[int] = []

    async def script(peer: Peer) -> None:
        while True:
            await take_request(peer)
            counts.append(len(asyncio.all_tasks()))
            await peer.send(SIZED)

    async with scripted(script) as port, client() as http:
        for _ in range(2):
            assert await read(await send(http, port)) == b"hello"
            counts.append(len(asyncio.all_tasks()))
    assert counts == [2] * 4  # the test and its peer


async def round_trip() -> None:
    """Return when the loop has seen what lay in its sockets before."""

    async def quiet(peer: Peer) -> None:
        await peer.send(b".")

    async with scripted(quiet) as port:
        for _ in range(3):
            async with connected(port) as peer:
                assert await peer.rest() == b"."


@on_loop
async def test_a_connection_that_rests_is_watched_after_much_came_at_once() -> None:
    much = b"y" * (2 * READ_BYTES + 1)  # its last byte is the first one too many
    rested, left = asyncio.Event(), asyncio.Event()
    connections = 0

    async def script(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.reader.readuntil(b"0\r\n\r\n")
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(much) + much)
        if connections == 1:
            await rested.wait()
            peer.reset()
            left.set()
        await peer.rest()

    async def once() -> AsyncIterator[bytes]:
        yield b"x"

    async with scripted(script) as port, client() as http:
        # A body that cannot be sent twice: it would be lost on a connection that has ended.
        answer = await send(http, port, body=StreamedBody(once(), None))
        assert answer._connection is not None
        while len(answer._connection._wire.heads.buffer) < len(much):
            await round_trip()
        assert await read(answer) == much
        rested.set()
        await left.wait()
        await round_trip()
        assert await read(await send(http, port, body=StreamedBody(once(), None))) == much
    assert connections == 2
