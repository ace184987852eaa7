"""One connection's bytes: what came is kept until it is read, what is sent waits until there is room.

It stands in for asyncio's streams, which tell nobody that an answer begins while a request is still being sent, and
which hand out a reset in place of the bytes that came before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable

from ..limits import READ_BYTES
from ..protocol.http_reader import HeadReader


class Wire(asyncio.Protocol):
    """A connection that was opened. One task at a time may wait in it, to read or to write."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        # What came, until it is taken out of the buffer.
        self.heads = HeadReader()
        self.has_received = False
        # Nothing more comes. The other side may still be reading.
        self.is_over = False
        # The transport holds more than it should: time to wait in `drain`.
        self.is_full = False
        # Called at once when something came or the connection is over, whoever waits.
        self.on_change: Callable[[], None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._is_paused = False
        self._is_plain = False

    @property
    def is_closing(self) -> bool:
        """Whether nothing more can be sent. Over TLS, who has said all takes no more."""
        return self.transport.is_closing() or (self.is_over and not self._is_plain)

    async def receive(self) -> bool:
        """Wait until more has come than is in the buffer now; return False when nothing more comes."""
        self.resume()
        size = len(self.heads.buffer)
        while len(self.heads.buffer) == size and not self.is_over:
            await self._wait()
        return len(self.heads.buffer) > size

    def resume(self) -> None:
        """Let more come after a pause, which begins when much is in the buffer."""
        if self._is_paused:
            self._is_paused = False
            self.transport.resume_reading()

    def write(self, data: bytes | memoryview) -> None:
        """Send `data`, or nothing over a connection that ends."""
        if not self.is_closing:
            self.transport.write(data)

    async def drain(self) -> None:
        """Wait until there is room for more, or the connection is lost."""
        while self.is_full:
            await self._wait()

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Go on in TLS; raise `OSError`."""
        self._is_plain = False
        loop = asyncio.get_running_loop()
        secured = await loop.start_tls(self.transport, self, context, server_hostname=host)
        assert secured is not None
        self.transport = secured

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _tell(self) -> None:
        self._wake()
        if self.on_change is not None:
            self.on_change()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # of a TCP connection
        self._is_plain = transport.get_extra_info("sslcontext") is None

    def data_received(self, data: bytes) -> None:
        self.has_received = True
        self.heads.feed(data)
        if len(self.heads.buffer) > 2 * READ_BYTES and not self._is_paused:
            self._is_paused = True
            self.transport.pause_reading()
        self._tell()

    def eof_received(self) -> bool:
        self.is_over = True
        self._tell()
        return self._is_plain  # that is: stay open, to send on

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, OSError) and self._is_plain:
            self._take_what_is_left()
        self.is_over = True
        self.is_full = False
        self._tell()

    def _take_what_is_left(self) -> None:
        # A write that fails ends the transport although an answer may lie unread in the socket, which is closed
        # after this call. Under TLS those bytes cannot be read any more.
        descriptor = self.transport.get_extra_info("socket").fileno()
        with contextlib.suppress(OSError):
            while data := os.read(descriptor, READ_BYTES):
                self.has_received = True
                self.heads.feed(data)

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        self._wake()
