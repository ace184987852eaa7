"""The event log of a session: numbers events, keeps the newest for readers that resume, feeds live ones.

Each event is encoded once, for all its readers. Events that follow each other closely are gathered and
written together; the first after a quiet moment goes out at once. Adjacent deltas of one item that wait in
the same moment become one delta. The log is bounded in bytes; a resume from before its beginning starts over
with `session.ready`.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Any

from ..limits import GATHER_S, MAX_IDLE_LOG_BYTES, MAX_LOG_BYTES
from ..protocol import json_codec, sse

Send = Callable[[bytes], None]


class EventLog:
    """The numbered events of one session.

    `seq` is the number of the last event; `epoch` names this numbering. A follower is a function that takes
    encoded events and returns at once.
    """

    __slots__ = (
        "_delta", "_delta_texts", "_entries", "_flush_due", "_followers", "_last_flush", "_loop", "_size",
        "_unsent", "epoch", "on_close", "seq",
    )  # fmt: skip

    def __init__(self) -> None:
        self.epoch = os.urandom(4).hex()
        self.seq = 0
        # Called for each follower when the log ends, with nothing more to come.
        self.on_close: dict[Send, Callable[[], None]] = {}
        self._loop = asyncio.get_running_loop()
        self._entries: deque[bytes] = deque()
        self._size = 0
        self._unsent: list[bytes] = []
        self._followers: list[Send] = []
        # The delta that is still open for more text: its data, and its text so far.
        self._delta: dict[str, Any] | None = None
        self._delta_texts: list[str] = []
        self._flush_due: asyncio.Handle | None = None
        self._last_flush = 0.0

    def append(self, name: str, data: dict[str, Any]) -> None:
        """Add an event; it reaches the followers in the same turn of the loop, or at the end of a burst."""
        self._close_delta()
        self._encode(name, data)
        self._schedule_flush()

    def append_delta(self, data: dict[str, Any]) -> None:
        """Add a `session.event` whose `event` is a delta; a delta of the same item right behind may join it."""
        event = data["event"]
        if self._delta is not None:
            open_event = self._delta["event"]
            if open_event["item_id"] == event["item_id"] and open_event["type"] == event["type"]:
                self._delta_texts.append(event["delta"])
                return
            self._close_delta()
        self._delta = data
        self._delta_texts = [event["delta"]]
        self._schedule_flush()

    def flush(self) -> None:
        """Write what was gathered to all followers: one write for each."""
        if self._flush_due is not None:
            self._flush_due.cancel()
            self._flush_due = None
        self._close_delta()
        if self._unsent:
            self._last_flush = self._loop.time()
            data = b"".join(self._unsent)
            self._unsent.clear()
            for send in self._followers:
                send(data)

    def trim(self) -> None:
        """Keep the little that a resting session's readers may still ask for."""
        self.flush()
        self._trim(MAX_IDLE_LOG_BYTES)

    def can_replay(self, epoch: str, seq: int) -> bool:
        """Say whether all events behind `seq` are still here."""
        return epoch == self.epoch and self.seq - len(self._entries) <= seq <= self.seq

    def replay(self, seq: int, max_bytes: int) -> tuple[bytes, int]:
        """Return encoded events behind `seq`, about `max_bytes` of them, and the number of the last."""
        self.flush()
        pieces: list[bytes] = []
        size = 0
        first = self.seq - len(self._entries) + 1
        for index in range(seq + 1 - first, len(self._entries)):
            if size >= max_bytes:
                break
            pieces.append(self._entries[index])
            size += len(self._entries[index])
        return b"".join(pieces), seq + len(pieces)

    def follow(self, send: Send, on_close: Callable[[], None]) -> None:
        """Send all later events to `send`; call `on_close` when the log ends."""
        self.flush()
        self._followers.append(send)
        self.on_close[send] = on_close

    def unfollow(self, send: Send) -> None:
        """Stop sending to `send`."""
        self._followers.remove(send)
        del self.on_close[send]

    def close(self) -> None:
        """Tell the followers that nothing more comes."""
        self.flush()
        for on_close in list(self.on_close.values()):
            on_close()

    def _close_delta(self) -> None:
        if self._delta is not None:
            data, self._delta = self._delta, None
            if len(self._delta_texts) > 1:
                data["event"]["delta"] = "".join(self._delta_texts)
            self._encode("session.event", data)

    def _encode(self, name: str, data: dict[str, Any]) -> None:
        self.seq += 1
        entry = sse.encode_event(self.epoch, self.seq, name, json_codec.encode(data))
        self._entries.append(entry)
        self._size += len(entry)
        self._trim(MAX_LOG_BYTES)
        if self._followers:
            self._unsent.append(entry)

    def _trim(self, limit: int) -> None:
        # The last event stays whatever its size: a reader that was cut off in it must get it.
        while self._size > limit and len(self._entries) > 1:
            self._size -= len(self._entries.popleft())

    def _schedule_flush(self) -> None:
        if self._flush_due is None:
            wait_s = self._last_flush + GATHER_S - self._loop.time()
            if wait_s <= 0:
                self._flush_due = self._loop.call_soon(self.flush)
            else:
                self._flush_due = self._loop.call_later(wait_s, self.flush)
