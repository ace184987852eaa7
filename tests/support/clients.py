"""Clients that outlive the bridge: one retries its messages until each is acknowledged, one follows a stream.

They do what a careful host does. What they note is all that a test needs to say whether anything was lost.
"""

import http.client
import json
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from tests.support.bridge import Json, Reply
from tests.support.sse import Event, Stream
from tests.support.waiting import BOUND_S, wait_until

PATIENCE_S = 4 * BOUND_S
"""How long a client goes on trying: longer than any restart takes, also on a loaded machine."""


def try_once(port: int, method: str, path: str, body: object = None, **headers: str) -> Reply | None:
    """Send a request; return its answer, or None when no whole answer came."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json", **sent})
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, found, response.read())
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def insist(port: int, method: str, path: str, body: object = None, **headers: str) -> Json:
    """Send a request until it succeeds. A bridge that is not there, is busy or drains is asked again, and so is one
    whose session has another turn; any other refusal fails."""  # fmt: skip

    def attempt() -> Json | None:
        reply = try_once(port, method, path, body, **headers)
        if reply is None or reply.status == 503:
            return None
        if reply.status == 409 and reply.json["code"] == "turn_in_progress":
            return None
        assert 200 <= reply.status < 300, f"{method} {path}: {reply.status} {reply.body!r}"
        return reply.json

    return wait_until(attempt, f"an answer to {method} {path}", PATIENCE_S)


@dataclass(frozen=True, slots=True)
class Sent:
    """A message that was acknowledged."""

    text: str
    key: str
    turn_id: str


class Talker:
    """A client with one session: sends message after message, each until it is acknowledged, and waits for each turn."""

    def __init__(self, port: int, name: str) -> None:
        self.port = port
        self.name = name
        self.session_id = ""
        # Further sessions, made while it talks.
        self.others: list[str] = []
        # How many messages it has begun to send, and those that were acknowledged.
        self.asked = 0
        self.sent: list[Sent] = []
        self._enough = threading.Event()
        self._pool = ThreadPoolExecutor(1, f"talker {name}")
        self._talking: Future[None] | None = None

    def start(self) -> None:
        """Make the session, and begin to talk."""
        self.session_id = self.create(0)
        self._talking = self._pool.submit(self._run)

    def create(self, number: int) -> str:
        """Make a session; the same one for the same number, however often this is called."""
        key = f"{self.name}-session-{number}"
        answer = insist(self.port, "POST", "/chat/sessions", {}, Idempotency_Key=key)
        return str(answer["session"]["id"])

    def repeat(self, message: Sent) -> str:
        """Send an acknowledged message once more, as a client whose answer was lost; return its turn."""
        return str(self._post(message.text, message.key)["turn_id"])

    def give_up(self) -> None:
        """Let the message under way be the last."""
        self._enough.set()
        self._pool.shutdown(wait=False)

    def finish(self) -> None:
        """Wait for the end of the message under way; fail with what the client met."""
        self.give_up()
        assert self._talking is not None
        self._talking.result(2 * PATIENCE_S)

    def _run(self) -> None:
        while not self._enough.is_set():
            text = f"{self.name} says {len(self.sent)}"
            key = f"{self.name}-{len(self.sent)}"
            self.asked += 1
            self.sent.append(Sent(text, key, str(self._post(text, key)["turn_id"])))
            wait_until(self._is_settled, f"the end of the turn of {text!r}", PATIENCE_S)
            self.others.append(self.create(len(self.sent)))

    def _post(self, text: str, key: str) -> Json:
        path = f"/chat/sessions/{self.session_id}/messages"
        return insist(self.port, "POST", path, {"message": text}, Idempotency_Key=key)

    def _is_settled(self) -> bool:
        session = insist(self.port, "GET", f"/chat/sessions/{self.session_id}")["session"]
        return session["status"] not in ("queued", "running") and session["active_turn_id"] is None


class Follower:
    """A client that reads a session's stream, and comes back with its `Last-Event-ID` whenever it breaks off.

    `connections` is what each of its connections brought.
    """

    def __init__(self, port: int, session_id: str) -> None:
        self.port = port
        self.session_id = session_id
        self.connections: list[list[Event]] = []
        self._enough = threading.Event()
        self._stream: Stream | None = None
        self._last_id = ""
        self._pool = ThreadPoolExecutor(1, f"follower of {session_id}")
        self._reading = self._pool.submit(self._run)

    def finish(self) -> None:
        """Leave the stream; fail with what went wrong."""
        self._enough.set()
        if self._stream is not None:
            self._stream.close()
        self._pool.shutdown(wait=False)
        self._reading.result(2 * PATIENCE_S)

    @property
    def events(self) -> list[Event]:
        """All that came, over all connections."""
        return [event for events in self.connections for event in events]

    def _run(self) -> None:
        while not self._enough.is_set():
            self._stream = stream = wait_until(self._connect, "a stream", PATIENCE_S)
            if self._enough.is_set():
                stream.close()
            self.connections.append(stream.events)
            stream.until_over(3600)
            stream.close()
            self._last_id = next((event.id for event in reversed(stream.events) if event.id), self._last_id)

    def _connect(self) -> Stream | None:
        headers = {"Last-Event-ID": self._last_id} if self._last_id else {}
        try:
            return Stream(self.port, f"/chat/sessions/{self.session_id}/stream", headers)
        except (OSError, http.client.HTTPException):
            return None
