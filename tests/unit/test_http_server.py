"""The HTTP server over real sockets, with deadlines short enough to pass."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from codex_bridge.adapters import http_server
from codex_bridge.adapters.http_server import (
    Handler,
    HttpServer,
    Request,
    Response,
    Stream,
    StreamResponse,
    Timeouts,
)
from codex_bridge.api import replies
from codex_bridge.errors import Unauthorized, UpstreamFailed
from tests.unit.loop import on_loop
from tests.unit.wire import Peer, brisk, connected, request, serving

GET = request("GET /a HTTP/1.1")


async def echo(request: Request) -> Response:
    """Answer with the request's line and body."""
    body = await request.read_body(1000)
    return Response(200, f"{request.method} {request.path} ".encode() + body)


async def ignore(request: Request) -> Response:
    """Answer without a look at the body."""
    return Response(200, request.path.encode())


def post(body: bytes, *headers: str, path: str = "/p") -> bytes:
    return request(f"POST {path} HTTP/1.1", f"Content-Length: {len(body)}", *headers, body=body)


@pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\n", GET[:-1]])
@on_loop
async def test_a_slow_head_is_408(sent: bytes) -> None:
    async with serving(echo, brisk("head", "linger")) as (_, port), connected(port) as peer:
        await peer.send(sent)
        reply = await peer.reply()
        assert (reply.status, reply.code, reply.closes) == (408, "request_timeout", True)
        assert await peer.rest() == b""


@pytest.mark.parametrize(
    "sent",
    [
        post(b"12345")[:-1],
        post(b"12345")[:-5],
        request("POST / HTTP/1.1", "Transfer-Encoding: chunked", body=b"5\r\nab"),
        request("POST / HTTP/1.1", "Transfer-Encoding: chunked", body=b"2\r\nab\r\n0\r\n"),
    ],
)
@on_loop
async def test_a_slow_body_is_408(sent: bytes) -> None:
    async with (
        serving(echo, brisk("body_idle", "body_total", "linger")) as (_, port),
        connected(port) as peer,
    ):
        await peer.send(sent)
        reply = await peer.reply()
        assert (reply.status, reply.code, reply.closes) == (408, "request_timeout", True)
        assert await peer.rest() == b""


@on_loop
async def test_a_refusal_does_not_wait_for_a_body_that_nobody_reads() -> None:
    async def refuse(request: Request) -> Response:
        raise Unauthorized("No.")

    async with (
        serving(refuse, brisk("body_idle", "body_total", "linger")) as (_, port),
        connected(port) as peer,
    ):
        await peer.send(post(b"12345")[:-5])
        assert (await peer.reply()).status == 401


@on_loop
async def test_a_body_that_nobody_reads_has_a_bound_for_the_whole() -> None:
    times = brisk("body_total", "linger")
    async with serving(ignore, times) as (_, port), connected(port) as peer:
        await peer.send(post(b"12345")[:-1])
        async with asyncio.timeout(10):
            await peer.rest()


@on_loop
async def test_a_body_that_its_handler_gives_up_is_not_waited_for() -> None:
    another_is_late = asyncio.Event()

    async def handle(request: Request) -> Response:
        if request.path == "/late":
            return await echo(request)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await request.read_body(1000)
        await another_is_late.wait()
        return Response(413)

    async with (
        # Long enough for the first handler to give up before.
        serving(handle, brisk("body_idle", "body_total", "linger", seconds=1)) as (_, port),
        connected(port) as peer,
        connected(port) as late,
    ):
        await peer.send(post(b"12345")[:-1])
        await late.send(post(b"12345", path="/late")[:-1])
        assert (await late.reply()).status == 408
        another_is_late.set()
        assert (await peer.reply()).status == 413


@pytest.mark.parametrize(("deadline", "first"), [("head", b""), ("idle", GET)])
@on_loop
async def test_an_idle_connection_is_closed_without_a_word(deadline: str, first: bytes) -> None:
    async with serving(echo, brisk(deadline, seconds=1.0)) as (_, port), connected(port) as peer:
        if first:
            await peer.send(first)
            assert (await peer.reply()).status == 200
        assert await peer.rest() == b""


@pytest.mark.parametrize("size", [1, 10, 100_000])
@on_loop
async def test_pipelined_requests_are_answered_in_order(size: int) -> None:
    data, expected = b"", []
    for number in range(30):
        if number % 3:
            data += post(b"x" * number, path=f"/{number}")
            expected.append(f"POST /{number} ".encode() + b"x" * number)
        else:
            data += request(f"GET /{number} HTTP/1.1")
            expected.append(f"GET /{number} ".encode())
    async with serving(echo) as (_, port), connected(port) as peer:
        for start in range(0, len(data), size):
            await peer.send(data[start : start + size])
        assert [(await peer.reply()).body for _ in expected] == expected


@on_loop
async def test_a_slow_answer_holds_back_those_behind_it() -> None:
    release = asyncio.Event()

    async def handle(request: Request) -> Response:
        if request.path == "/slow":
            await release.wait()
        return Response(200, request.path.encode())

    async with serving(handle) as (_, port), connected(port) as peer, connected(port) as other:
        await peer.send(request("GET /slow HTTP/1.1") + request("GET /fast HTTP/1.1"))
        await other.send(GET)
        assert (await other.reply()).body == b"/a"
        release.set()
        assert [(await peer.reply()).body for _ in range(2)] == [b"/slow", b"/fast"]


@pytest.mark.parametrize(
    ("sent", "closes"),
    [
        (GET, False),
        (request("GET /a HTTP/1.1", "Connection: close"), True),
        (request("GET /a HTTP/1.1", "Connection: Keep-Alive, Close"), True),
        (request("GET /a HTTP/1.0"), True),
    ],
)
@on_loop
async def test_keep_alive(sent: bytes, closes: bool) -> None:
    async with serving(echo) as (_, port), connected(port) as peer:
        await peer.send(sent)
        reply = await peer.reply()
        assert (reply.version, reply.status, reply.closes) == ("HTTP/1.1", 200, closes)
        assert reply.headers["date"].endswith(" GMT")
        if closes:
            peer.end()
            assert await peer.rest() == b""
        else:
            await peer.send(sent)
            assert (await peer.reply()).status == 200


@on_loop
async def test_an_http_1_0_client_that_may_stay_is_told_so() -> None:
    async with serving(echo) as (_, port), connected(port) as peer:
        await peer.send(request("GET /a HTTP/1.0", "Connection: keep-alive"))
        reply = await peer.reply()
        assert reply.headers.get("connection", "").lower() in ("keep-alive", "close")


@on_loop
async def test_expect_100_continue() -> None:
    async with serving(echo) as (_, port), connected(port) as peer:
        for _ in range(2):
            await peer.send(post(b"hello", "Expect: 100-Continue")[:-5])
            assert (await peer.reply()).status == 100
            await peer.send(b"hello")
            assert (await peer.reply()).body == b"POST /p hello"
        # A client that did not wait needs no word.
        await peer.send(post(b"hello", "Expect: 100-continue"))
        assert (await peer.reply()).status == 200


@on_loop
async def test_expect_is_not_answered_when_the_body_is_not_wanted() -> None:
    async with serving(ignore) as (_, port), connected(port) as peer:
        await peer.send(post(b"hello", "Expect: 100-continue")[:-5])
        reply = await peer.reply()
        assert (reply.status, reply.closes) == (200, True)
        peer.end()
        assert await peer.rest() == b""


@on_loop
async def test_http_1_0_does_not_know_expect() -> None:
    async with serving(echo) as (_, port), connected(port) as peer:
        await peer.send(request("POST /p HTTP/1.0", "Content-Length: 2", "Expect: 100-continue"))
        await peer.send(b"hi")
        assert (await peer.reply()).status == 200


@pytest.mark.parametrize(
    "body",
    [
        post(b"x" * 60_000),
        request("POST /p HTTP/1.1", "Transfer-Encoding: chunked", body=b"3\r\nGET\r\n0\r\n\r\n"),
    ],
    ids=["sized", "chunked"],
)
@on_loop
async def test_a_short_body_that_nobody_read_is_dropped(body: bytes) -> None:
    async with serving(ignore) as (_, port), connected(port) as peer:
        await peer.send(body + GET)
        assert [(await peer.reply()).body for _ in range(2)] == [b"/p", b"/a"]


async def ignore_and_stream(request: Request) -> StreamResponse:
    async def run(stream: Stream) -> None:
        await stream.write(b"streamed")

    return StreamResponse(200, (), run)


@pytest.mark.parametrize(("handler", "status"), [(ignore, 200), (ignore_and_stream, 200), (echo, 413)])
@on_loop
async def test_a_long_body_ends_the_connection_and_the_answer_still_arrives(
    handler: Handler, status: int
) -> None:
    async with serving(handler, brisk()) as (_, port), connected(port) as peer:
        peer.writer.write(post(b"x" * 3_000_000) + GET)
        reply = await peer.reply()
        assert (reply.status, reply.closes) == (status, True)
        assert await peer.rest() == b""


@on_loop
async def test_a_chunked_body_past_the_limit_is_413() -> None:
    async with serving(echo, brisk()) as (_, port), connected(port) as peer:
        await peer.send(request("POST / HTTP/1.1", "Transfer-Encoding: chunked"))
        await peer.send(b"200\r\n" + b"x" * 512 + b"\r\n" + b"200\r\n" + b"x" * 512 + b"\r\n")
        assert (await peer.reply()).status == 413


@on_loop
async def test_head_204_and_304_have_no_body() -> None:
    async def handle(request: Request) -> Response:
        return Response(int(request.path[1:])) if request.path[1:].isdigit() else Response(200, b"hello")

    async with serving(handle) as (_, port), connected(port) as peer:
        asked = [request(f"{line} HTTP/1.1") for line in ("HEAD /", "GET /204", "GET /304")]
        await peer.send(b"".join(asked) + GET)
        head = await peer.reply(head_only=True)
        assert (head.status, head.headers["content-length"]) == (200, "5")
        for status in (204, 304):
            none = await peer.reply(head_only=True)
            assert none.status == status
            assert "content-length" not in none.headers
        assert (await peer.reply()).body == b"hello"


@on_loop
async def test_a_handler_that_breaks_is_500_and_tells_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    async def handle(request: Request) -> Response:
        if request.path == "/bad":
            raise ZeroDivisionError("an inner matter")
        return Response(200)

    async with serving(handle) as (_, port), connected(port) as peer:
        await peer.send(request("GET /bad HTTP/1.1") + GET)
        reply = await peer.reply()
        assert (reply.status, reply.code) == (500, "internal_error")
        assert b"inner" not in reply.body
        assert (await peer.reply()).status == 200
    assert "ZeroDivisionError: an inner matter" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400), (b"GET / HTTP/1.1\n", 400), (request("GET / HTTP/1.1", "A : b"), 400),
        (request("POST / HTTP/1.1", "Transfer-Encoding: gzip"), 501), (b"x" * 40_000, 431),
        (request("POST / HTTP/1.1", "Transfer-Encoding: chunked", body=b"x\r\n"), 400),
    ],
)  # fmt: skip
@on_loop
async def test_what_is_no_http_is_refused_and_ends_the_connection(sent: bytes, status: int) -> None:
    async with serving(echo) as (_, port), connected(port) as peer:
        await peer.send(sent)
        reply = await peer.reply()
        assert (reply.status, reply.closes) == (status, True)
        peer.end()
        assert await peer.rest() == b""


@on_loop
async def test_a_client_that_leaves_in_a_body_harms_nobody() -> None:
    async with serving(echo) as (_, port):
        async with connected(port) as peer:
            await peer.send(post(b"12345")[:-1])
        async with connected(port) as peer:
            await peer.send(GET)
            assert (await peer.reply()).status == 200


# Streams ------------------------------------------------------------------------------------------


def streaming(
    run: Callable[[Stream], Awaitable[None]], *headers: tuple[str, str], until_close: bool = False
) -> Handler:
    async def handle(request: Request) -> StreamResponse:
        return StreamResponse(200, headers, run, until_close=until_close)

    return handle


async def hello(stream: Stream) -> None:
    await stream.write(b"hel")
    await stream.write(b"")
    await stream.write(b"lo")


@pytest.mark.parametrize(
    ("sent", "headers", "until_close", "framing", "closes"),
    [
        (GET, (), False, "chunked", False),
        (GET, (("Content-Length", "5"),), False, "sized", False),
        (GET, (), True, "bare", True),
        (request("GET / HTTP/1.0"), (), False, "bare", True),
    ],
)
@on_loop
async def test_a_streamed_answer(
    sent: bytes, headers: tuple[tuple[str, str], ...], until_close: bool, framing: str, closes: bool
) -> None:
    times = brisk()
    async with (
        serving(streaming(hello, *headers, until_close=until_close), times) as (_, port),
        connected(port) as peer,
    ):
        await peer.send(sent)
        reply = await peer.reply()
        assert (reply.body, reply.closes) == (b"hello", closes)
        assert ("transfer-encoding" in reply.headers) is (framing == "chunked")
        assert ("content-length" in reply.headers) is (framing == "sized")
        if not closes:
            await peer.send(sent)
            assert (await peer.reply()).body == b"hello"


@on_loop
async def test_a_streamed_answer_that_breaks_off_does_not_look_whole() -> None:
    async def breaking(stream: Stream) -> None:
        await stream.write(b"hel")
        raise UpstreamFailed("gone")

    async with serving(streaming(breaking)) as (_, port), connected(port) as peer:
        await peer.send(GET)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await peer.reply()


def test_a_quiet_stream_has_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEARTBEAT_S", 0.02)

    async def quiet(stream: Stream) -> None:
        stream.heartbeat = b": beat\n\n"
        await stream.wait_closed()

    @on_loop
    async def main() -> None:
        async with serving(streaming(quiet, until_close=True), brisk()) as (_, port), connected(port) as peer:
            await peer.send(GET)
            for _ in range(3):
                await peer.reader.readuntil(b": beat\n\n")

    main()


@on_loop
async def test_a_stream_ends_when_its_client_leaves() -> None:
    ended = asyncio.Event()

    async def quiet(stream: Stream) -> None:
        await stream.wait_closed()
        ended.set()

    async with serving(streaming(quiet)) as (_, port):
        async with connected(port) as peer:
            await peer.send(GET)
            await peer.reader.readuntil(b"\r\n\r\n")
        await ended.wait()


# Clients that do not read -------------------------------------------------------------------------


def make_narrow(request: Request) -> None:
    """Let the kernel hold only little of what is written to this client."""
    own = request._connection.transport.get_extra_info("socket")
    with socket.socket(fileno=os.dup(own.fileno())) as shared:
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)


async def gone(tasks: list[asyncio.Task[None]]) -> None:
    """Wait for the end of the connections' tasks, under a bound far above every deadline of the test."""
    _, left = await asyncio.wait(tasks, timeout=15)
    assert not left, "the connection of a client that never reads is held for ever"


@on_loop
async def test_a_pushed_stream_knows_what_its_reader_has_not_taken_and_waits_with_a_bound() -> None:
    tasks: list[asyncio.Task[None]] = []
    unsent: list[int] = []
    waiting = asyncio.Event()

    async def handle(request: Request) -> StreamResponse:
        make_narrow(request)
        tasks.append(request._connection.task)

        async def push(stream: Stream) -> None:
            unsent.append(stream.unsent_bytes)
            for _ in range(40):
                stream.send(b"x" * 100_000)
                await asyncio.sleep(0)  # as between two bursts of events
            unsent.append(stream.unsent_bytes)
            waiting.set()
            await stream.drain()

        return StreamResponse(200, (), push, until_close=True)

    async with serving(handle, brisk("write", "linger")) as (_, port), connected(port, 4096) as peer:
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await peer.send(GET)
        await waiting.wait()
        assert unsent[0] < 1000
        assert unsent[1] > 3_000_000
        await gone(tasks)


@on_loop
async def test_a_writer_waits_for_its_reader_but_not_for_ever() -> None:
    told = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def handle(request: Request) -> StreamResponse:
        make_narrow(request)
        tasks.append(request._connection.task)

        async def endless(stream: Stream) -> None:
            try:
                # Not for ever: a writer that is never told would not let go of the loop.
                for _ in range(2000):
                    await stream.write(b"x" * 100_000)
            except ConnectionError:
                told.set()
                raise

        return StreamResponse(200, (), endless)

    async with serving(handle, brisk("write", "linger")) as (_, port), connected(port, 4096) as peer:
        await peer.send(GET)
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await gone(tasks)
        assert told.is_set()


@pytest.mark.parametrize("ending", ["idle", "close", "head", "stream"])
@on_loop
async def test_a_client_that_never_reads_the_rest_is_not_held_for_ever(ending: str) -> None:
    tasks: list[asyncio.Task[None]] = []
    transports: list[asyncio.WriteTransport] = []
    handled = asyncio.Event()

    async def handle(request: Request) -> Response | StreamResponse:
        make_narrow(request)
        handled.set()
        tasks.append(request._connection.task)
        transports.append(request._connection.transport)
        if ending != "stream":
            return Response(200, b"x" * 60_000)

        async def push(stream: Stream) -> None:
            stream.send(b"x" * 60_000)
            stream.close()
            await stream.wait_closed()

        return StreamResponse(200, (), push, until_close=True)

    sent = {"close": request("GET / HTTP/1.1", "Connection: close"), "head": GET + b"GET /"}.get(ending, GET)
    async with (
        serving(handle, brisk("write", "linger", "idle", "head", seconds=1.0)) as (_, port),
        connected(port, 4096) as peer,
    ):
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await peer.send(sent)
        await handled.wait()
        await gone(tasks)
        async with asyncio.timeout(20):
            # Bytes that nobody reads are not kept for long; no event tells when they go.
            while transports[0].get_write_buffer_size():  # noqa: ASYNC110
                await asyncio.sleep(0.01)


# The end, the bound, clients that leave -----------------------------------------------------------


@on_loop
async def test_stop_ends_every_kind_of_connection() -> None:
    started = asyncio.Event()

    async def handle(request: Request) -> Response | StreamResponse:
        if request.path == "/stuck":
            started.set()
            await asyncio.Event().wait()
        if request.path == "/stream":
            return StreamResponse(200, (), lambda stream: stream.wait_closed(), until_close=True)
        return Response(200)

    async with (
        serving(handle) as (server, port), connected(port) as idle, connected(port) as stuck,
        connected(port) as stream, connected(port) as half,
    ):  # fmt: skip
        await idle.send(GET)
        await idle.reply()
        await half.send(b"GET / HT")
        await stream.send(request("GET /stream HTTP/1.1"))
        await stream.reader.readuntil(b"\r\n\r\n")
        await stuck.send(request("GET /stuck HTTP/1.1"))
        await started.wait()
        await server.stop(0.05)
        for peer in (idle, stuck, stream, half):
            assert await peer.rest() == b""
        with pytest.raises(ConnectionError):
            async with connected(port):
                pass


@on_loop
async def test_stop_lets_an_answer_under_way_through_and_says_that_it_is_the_last() -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def handle(request: Request) -> Response:
        started.set()
        await release.wait()
        return Response(200, b"done")

    async with serving(handle) as (server, port), connected(port) as peer:
        await peer.send(GET + GET)
        await started.wait()
        stopping = asyncio.create_task(server.stop(10))
        server.stop_accepting()
        release.set()
        reply = await peer.reply()
        assert (reply.body, reply.closes) == (b"done", True)
        peer.end()
        assert await peer.rest() == b""
        await stopping


@on_loop
async def test_requests_under_way_are_waited_for_and_lasting_streams_are_not() -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def handle(request: Request) -> Response | StreamResponse:
        if request.path == "/events":
            return StreamResponse(200, (), lambda stream: stream.wait_closed(), until_close=True)
        if request.path == "/held":
            return StreamResponse(200, (), hold)
        return await echo(request)

    async def hold(stream: Stream) -> None:
        await stream.write(b"first ")
        started.set()
        await release.wait()
        await stream.write(b"last")

    async with (
        serving(handle) as (server, port), connected(port) as events, connected(port) as held, connected(port) as idle,
    ):  # fmt: skip
        await events.send(request("GET /events HTTP/1.1"))
        await events.reader.readuntil(b"\r\n\r\n")
        await idle.send(GET)
        await idle.reply()
        await server.finish_requests()
        await held.send(request("GET /held HTTP/1.1"))
        await started.wait()
        assert server.answering == 1
        finishing = asyncio.create_task(server.finish_requests())
        await idle.send(GET)
        assert (await idle.reply()).status == 200
        assert not finishing.done()
        release.set()
        assert (await held.reply()).body == b"first last"
        await finishing
        assert server.answering == 0


@pytest.mark.parametrize("leave", [Peer.end, Peer.reset])
@on_loop
async def test_a_request_whose_client_has_left_is_not_waited_for(leave: Callable[[Peer], None]) -> None:
    started = asyncio.Event()

    async def handle(request: Request) -> Response:
        started.set()
        return await echo(request)

    async with serving(handle) as (server, port), connected(port) as peer:
        await peer.send(post(b"12345")[:-1])
        await started.wait()
        finishing = asyncio.create_task(server.finish_requests())
        leave(peer)
        await finishing


@on_loop
async def test_sockets_that_somebody_else_has_opened(tmp_path: Path) -> None:
    server = HttpServer(echo, replies.failure)
    listeners = [socket.socket(family) for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)]
    path = str(tmp_path / "given.sock")
    addresses: list[object] = [("127.0.0.1", 0), ("::1", 0), path]
    with contextlib.ExitStack() as stack:
        for listener, address in zip(listeners, addresses, strict=True):
            stack.enter_context(listener)
            listener.bind(address)
            listener.listen()
            # The server has its own, as a process to which it was handed over has.
            await server.listen_on(listener.dup())
        first, second, _ = listeners
        for host, port in (first.getsockname()[:2], second.getsockname()[:2]):
            reader, writer = await asyncio.open_connection(host, port)
            assert await ask(reader, writer) == b"HTTP/1.1 200 OK\r\n"
        assert await ask(*await asyncio.open_unix_connection(path)) == b"HTTP/1.1 200 OK\r\n"
        await server.stop(1.0)
        # They go on without it: the next one takes what has come meanwhile.
        waiting = await asyncio.open_unix_connection(path)
        again = HttpServer(echo, replies.failure)
        await again.listen_on(listeners[2].dup())
        assert await ask(*waiting) == b"HTTP/1.1 200 OK\r\n"
        await again.stop(1.0)
        _, writer = await asyncio.open_unix_connection(path)
        writer.close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """GET over a connection; return the first line of the answer."""
    writer.write(GET)
    line = await reader.readline()
    writer.close()
    await writer.wait_closed()
    return line


@on_loop
async def test_a_server_whose_sweep_stands_still_is_not_well() -> None:
    server = HttpServer(echo, replies.failure, Timeouts(sweep=0.01))
    assert not server.is_well
    await server.listen_tcp("127.0.0.1", 0)
    assert server.is_well
    await server.stop(1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_server, "SWEEP_OVERDUE_S", 0.0)
        assert not server.is_well


def test_there_is_a_bound_on_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 2)

    @on_loop
    async def main() -> None:
        async with serving(echo) as (_, port), connected(port) as first:
            async with connected(port) as second:
                for peer in (first, second):
                    await peer.send(GET)
                    assert (await peer.reply()).status == 200
                async with connected(port) as third:
                    assert await third.rest() == b""
                second.end()
                assert await second.rest() == b""
            async with connected(port) as fourth:
                await fourth.send(GET)
                assert (await fourth.reply()).status == 200

    main()


@pytest.mark.parametrize("leave", [Peer.end, Peer.reset])
@on_loop
async def test_work_for_a_client_ends_when_it_leaves(leave: Callable[[Peer], None]) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def handle(request: Request) -> Response:
        await request.while_open(work())
        return Response(200)

    async with serving(handle) as (_, port), connected(port) as peer:
        await peer.send(GET)
        await started.wait()
        leave(peer)
        await cancelled.wait()


@pytest.mark.parametrize("size", [100, 300_000])
@on_loop
async def test_what_is_pipelined_during_work_is_kept_or_refused_but_never_torn(size: int) -> None:
    started, release = asyncio.Event(), asyncio.Event()
    bodies: list[bytes] = []

    async def handle(request: Request) -> Response:
        if request.path == "/work":
            started.set()
            await request.while_open(release.wait())
        elif request.path == "/p":
            bodies.append(await request.read_body(1_000_000))
        return Response(200)

    body = b"".join(b"%09d\n" % number for number in range(size // 10))
    times = brisk()
    async with serving(handle, times) as (_, port), connected(port) as peer:
        await peer.send(request("GET /work HTTP/1.1"))
        await started.wait()
        sending = asyncio.create_task(peer.send(post(body)))
        # Some round trips later the server has taken of it what it takes while it works.
        for _ in range(20):
            async with connected(port) as other:
                await other.send(GET)
                await other.reply()
        release.set()
        assert (await peer.reply()).status == 200
        try:
            refused = (await peer.reply()).status != 200
        except (asyncio.IncompleteReadError, ConnectionError):
            refused = True
        sending.cancel()
        await asyncio.wait([sending])
        assert bodies == ([] if refused else [body])
        assert not refused, "a request that came whole, and early, was lost"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.8.9.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False),
        ("10.0.0.1", False), ("", False), ("host.invalid", False), ("a..b", False), ("x" * 70, False),
    ],
)  # fmt: skip
def test_what_is_loopback(host: str, loopback: bool) -> None:
    assert http_server.is_loopback(host) is loopback


def test_the_deadlines_have_names() -> None:
    times = Timeouts()
    assert times.head < times.idle
    assert times.body_idle < times.body_total
