"""A client of the event stream: one thread reads, the test waits for events by name or by a predicate."""

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.support.waiting import BOUND_S

LAST_EVENT = "bridge.stopping"
"""The one event without an id: the last of a stream that the bridge ends with itself."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event as the stream brought it. `id` is empty where it brought none."""

    id: str
    name: str
    data: dict[str, Any]

    @property
    def epoch(self) -> str:
        """The part of the id that names the numbering."""
        return self.id.rpartition("-")[0]

    @property
    def seq(self) -> int:
        """The part of the id that counts."""
        return int(self.id.rpartition("-")[2])

    @property
    def runtime(self) -> dict[str, Any]:
        """The runtime event within a `session.event`; empty for every other event."""
        inner: dict[str, Any] = self.data["event"] if self.name == "session.event" else {}
        return inner

    @property
    def kind(self) -> str:
        """The runtime event's type, or the event's own name."""
        return str(self.runtime.get("type", self.name))


Wanted = str | Callable[[Event], bool]


def kinds(events: Iterable[Event]) -> list[str]:
    """Name the events, runtime events by their type."""
    return [event.kind for event in events]


def said(events: Iterable[Event]) -> str:
    """Put the message deltas together."""
    return "".join(e.runtime["delta"] for e in events if e.kind == "item.agent_message.delta")


def assert_contiguous(events: list[Event]) -> None:
    """Fail on a gap, a double, or a change of the numbering."""
    events = [event for event in events if event.name != LAST_EVENT]
    assert {event.epoch for event in events} == {events[0].epoch}
    first = events[0].seq
    assert [event.seq for event in events] == list(range(first, first + len(events)))


def _parse(block: str) -> Event | None:
    """Read one block of lines; None for a comment or a lone `retry`."""
    fields: dict[str, list[str]] = {"id": [], "event": [], "data": [], "retry": []}
    for line in block.split("\n"):
        name, _, value = line.partition(":")
        if name:  # a line that starts with a colon is a comment
            fields[name].append(value.removeprefix(" "))
    if not fields["data"]:
        return None
    name = fields["event"][0]
    return Event((fields["id"] or [""])[0], name, json.loads("\n".join(fields["data"])))


class Stream:
    """One connection to an event stream. `events` is all that came; `until` goes forward through it."""

    def __init__(self, port: int, path: str, headers: Mapping[str, str], body: bytes | None = None) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4 * BOUND_S)
        self._connection.connect()
        self._socket: socket.socket = self._connection.sock
        try:
            method = "GET" if body is None else "POST"
            self._connection.request(method, path, body, {"Accept": "text/event-stream", **headers})
            self._response = self._connection.getresponse()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        self.status = self._response.status
        self.headers = {name.lower(): value for name, value in self._response.getheaders()}
        self.events: list[Event] = []
        self.comments: list[str] = []
        self.retry: int | None = None
        self._next = 0
        self._over = False
        self._trouble: BaseException | None = None
        self._condition = threading.Condition()
        self._thread = threading.Thread(target=self._read, name=f"sse {path}")
        self._thread.start()

    def _read(self) -> None:
        buffer = bytearray()
        try:
            while chunk := self._response.read1(1 << 16):
                start = max(0, len(buffer) - 1)
                buffer += chunk
                while (end := buffer.find(b"\n\n", start)) >= 0:
                    self._take(buffer[:end].decode())
                    del buffer[: end + 2]
                    start = 0
        except (OSError, http.client.HTTPException):  # dropped by the test or by the bridge: over either way
            pass
        except (KeyError, IndexError, ValueError) as error:  # not an event stream
            self._trouble = error
        finally:
            with self._condition:
                self._over = True
                self._condition.notify_all()

    def _take(self, block: str) -> None:
        event = _parse(block)
        with self._condition:
            if event is not None:
                self.events.append(event)
            self.comments += [line[1:].strip() for line in block.split("\n") if line.startswith(":")]
            for line in block.split("\n"):
                if line.startswith("retry:"):
                    self.retry = int(line[6:])
            self._condition.notify_all()

    def _find(self, wanted: Wanted) -> Event | None:
        while self._next < len(self.events):
            event = self.events[self._next]
            self._next += 1
            if wanted in (event.name, event.kind) if isinstance(wanted, str) else wanted(event):
                return event
        return None

    def until(self, wanted: Wanted, bound_s: float = BOUND_S) -> Event:
        """Return the next event with this name (or runtime type, or for which the predicate holds)."""
        found: list[Event] = []

        def look() -> bool:
            found.extend(filter(None, [self._find(wanted)]))
            return bool(found) or self._over

        with self._condition:
            self._condition.wait_for(look, bound_s)
        if found:
            return found[0]
        state = "the stream is over" if self._over else f"nothing for {bound_s:g} s"
        came = kinds(self.events)[-60:]
        raise AssertionError(f"no {wanted} on the stream, {state} ({self._trouble!r}); came: {came}")

    def until_text(self, text: str, bound_s: float = BOUND_S) -> None:
        """Return when the deltas of the whole stream, put together, hold `text`."""
        with self._condition:
            if not self._condition.wait_for(lambda: text in said(self.events) or self._over, bound_s):
                raise AssertionError(f"{text!r} was not said in {bound_s:g} s: {said(self.events)!r}")
        assert text in said(self.events), f"the stream ended after {said(self.events)!r}"

    def until_over(self, bound_s: float = BOUND_S) -> None:
        """Return when the bridge has closed the stream."""
        self._thread.join(bound_s)
        assert not self._thread.is_alive(), f"the stream is still open after {bound_s:g} s"

    @property
    def is_over(self) -> bool:
        """Tell whether the stream has ended, for whatever reason."""
        return self._over

    @property
    def last_id(self) -> str:
        """The id of the newest event that has one, for `Last-Event-ID`."""
        return next(event.id for event in reversed(self.events) if event.id)

    def close(self) -> None:
        """Drop the connection as a client does that goes away; fail when what came was no event stream."""
        with suppress(OSError):  # closed by the bridge before
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(BOUND_S)
        self._response.close()
        self._connection.close()
        self._socket.close()
        assert self._trouble is None, f"not an event stream: {self._trouble!r}"
