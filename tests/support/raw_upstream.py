"""An upstream that is no more than a socket: it keeps the bytes that came and answers with the bytes of a test."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from tests.support.waiting import BOUND_S

Talk = Callable[[socket.socket, bytes], None]


def receive(connection: socket.socket, data: bytes, enough: Callable[[bytes], bool]) -> bytes:
    """Return `data` and what comes behind it until it is enough; raise `EOFError` when the peer leaves first."""
    while not enough(data):
        more = connection.recv(1 << 16)
        if not more:
            raise EOFError(f"the bridge left after {len(data)} bytes")
        data += more
    return data


class RawUpstream:
    """Takes one request a connection, answers and closes.

    `answer` is what it says, or a function that is given the connection and what came with the request's head.
    """

    def __init__(self) -> None:
        self.answer: bytes | Talk = b""
        self.heads: list[bytes] = []
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self._accepting = threading.Thread(target=self._accept, name="raw upstream")
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # `stop` has shut the listener down
                return
            connection.settimeout(4 * BOUND_S)
            self._connections.add(connection)
            thread = threading.Thread(target=self._talk, args=(connection,), name="raw upstream's peer")
            self._threads.append(thread)
            thread.start()

    def _talk(self, connection: socket.socket) -> None:
        with (
            connection,
            suppress(OSError, EOFError),
        ):  # a bridge that leaves, or likes not what it hears, is fine
            head, _, rest = receive(connection, b"", lambda data: b"\r\n\r\n" in data).partition(b"\r\n\r\n")
            self.heads.append(head)
            if isinstance(self.answer, bytes):
                connection.sendall(self.answer)
            else:
                self.answer(connection, rest)
        self._connections.discard(connection)

    @property
    def lines(self) -> list[str]:
        """The lines of the newest request's head."""
        return self.heads[-1].decode("latin-1").split("\r\n")

    def stop(self) -> None:
        """Close what is open and join every thread."""
        for one in (self._listener, *self._connections):
            with suppress(OSError):  # closed by the other side in this moment
                one.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self._accepting, *self._threads):
            thread.join(BOUND_S)
