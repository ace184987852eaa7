"""The event log of a session: numbers events, keeps the newest for readers that resume, feeds live ones.

Each event is encoded once, for all its readers. Events that follow each other closely are gathered and
written together; the first after a quiet moment goes out at once. Adjacent deltas of one item that wait in
the same moment become one delta. The log is bounded in bytes, and it is all that is kept in memory for slow readers:
one that lags reads from it, and one that lags behind its beginning is cut off. Older events are in the store.

What must not be told before it is stored is appended under a `hold`: it is numbered and kept, and it and all that
follows it reaches the readers with the `release`.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any, Protocol

from ..limits import (
    GATHER_S,
    LOG_REST_S,
    MAX_IDLE_LOG_BYTES,
    MAX_LOG_BYTES,
    MAX_UNSTORED_BYTES,
    MIN_LOG_EVENTS,
)
from ..protocol import json_codec, sse


class Reader(Protocol):
    """One who reads a log. `seq` is the last event it was given."""

    seq: int
    # Whether it takes events as they come; one that does not reads them with `replay`.
    is_live: bool
    # Whether it reads older events from the store, and so is behind the log's beginning by right.
    reads_store: bool

    def send(self, data: bytes, seq: int) -> None:
        """Take encoded events up to `seq`, at once."""

    def cut_off(self) -> None:
        """Learn that what comes next is no longer there."""

    def close(self) -> None:
        """Learn that nothing more comes."""


def new_epoch() -> str:
    """Return a name for a numbering."""
    return os.urandom(4).hex()


class EventLog:
    """The numbered events of one session.

    `seq` is the number of the last event, `told_seq` that of the last that readers may have; `epoch` names this
    numbering, and its first `prologue` events tell what a restart of the bridge made of the session.
    `on_unstored(is_much)` is called when there are events that `take_unstored` would return, `on_rest()` when
    nothing has happened for a while.
    """

    __slots__ = (
        "_delta", "_delta_texts", "_entries", "_flush_due", "_holds", "_last_delta_item", "_last_flush", "_loop", "_readers",
        "_size", "_stored_seq", "_unsent", "_unstored_bytes", "epoch", "is_closed", "on_rest", "on_unstored", "prologue", "seq",
        "told_seq",
    )  # fmt: skip

    def __init__(self, epoch: str | None = None, seq: int = 0) -> None:
        self.epoch = epoch or new_epoch()
        self.seq = self.told_seq = self._stored_seq = seq
        self.prologue = 0
        self.is_closed = False
        self.on_unstored: Callable[[bool], None] = lambda is_much: None
        self.on_rest: Callable[[], None] = lambda: None
        self._unstored_bytes = 0
        self._holds = 0
        self._loop = asyncio.get_running_loop()
        self._entries: deque[bytes] = deque()
        self._size = 0
        self._unsent: list[bytes] = []
        self._readers: list[Reader] = []
        # The delta that is still open for more text: its data, and its text so far.
        self._delta: dict[str, Any] | None = None
        self._delta_texts: list[str] = []
        self._last_delta_item = ""
        self._flush_due: asyncio.Handle | None = None
        self._last_flush = 0.0

    def append(self, name: str, data: dict[str, Any]) -> None:
        """Add an event; it reaches the readers in the same turn of the loop, or at the end of a burst."""
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
        if event["item_id"] != self._last_delta_item:
            # The first delta of an answer never waits, whatever came just before it.
            self._last_delta_item = event["item_id"]
            self._last_flush = 0.0
            if self._flush_due is not None:
                self._flush_due.cancel()
                self._flush_due = None
        self._schedule_flush()

    def flush(self) -> None:
        """Write what was gathered to all live readers: one write for each."""
        if self._flush_due is not None:
            self._flush_due.cancel()
            self._flush_due = None
        self._close_delta()
        if self._holds:
            return
        self.told_seq = self.seq
        if not self._unsent:
            return
        self._last_flush = self._loop.time()
        data = b"".join(self._unsent)
        self._unsent.clear()
        for reader in list(self._readers):
            if reader.is_live:
                reader.send(data, self.seq)
        self._cut_off_the_lost()

    def hold(self) -> None:
        """Tell the readers nothing that is appended from now on, until `release`. Holds may nest."""
        self.flush()
        self._holds += 1

    def release(self) -> None:
        """Take one hold back."""
        self._holds -= 1
        if not self._holds:
            self.flush()

    def renew(self) -> None:
        """Begin a new numbering with no event in it; the readers are closed, and find it when they come back."""
        for reader in list(self._readers):
            reader.close()
        self._close_delta()
        self._entries.clear()
        self._unsent.clear()
        self.epoch = new_epoch()
        self.seq = self.told_seq = self._stored_seq = self._size = self._unstored_bytes = self.prologue = 0

    def take_unstored(self) -> tuple[int, list[bytes]] | None:
        """Return the events that were not taken before, encoded, and the number of the first."""
        self._close_delta()
        entries = list(islice(reversed(self._entries), self.seq - self._stored_seq))
        self._stored_seq = self.seq
        self._unstored_bytes = 0
        entries.reverse()
        return (self.seq - len(entries) + 1, entries) if entries else None

    @property
    def is_held(self) -> bool:
        return self._holds > 0

    @property
    def has_readers(self) -> bool:
        return bool(self._readers)

    def rest(self) -> None:
        """Keep only a little once nothing has happened for a while."""
        self._loop.call_later(LOG_REST_S, self._trim_after_rest, self.seq)

    def can_replay(self, epoch: str, seq: int) -> bool:
        """Say whether all events behind `seq` are still here."""
        self.flush()
        return epoch == self.epoch and self.seq - len(self._entries) <= seq <= self.told_seq

    def replay(self, seq: int, max_bytes: int) -> tuple[bytes, int] | None:
        """Return encoded events behind `seq`, about `max_bytes` of them, and the number of the last.

        None means that some of them are no longer here.
        """
        if not self.can_replay(self.epoch, seq):
            return None
        pieces: list[bytes] = []
        size = 0
        first = self.seq - len(self._entries) + 1
        for entry in islice(self._entries, seq + 1 - first, self.told_seq + 1 - first):
            if size >= max_bytes:
                break
            pieces.append(entry)
            size += len(entry)
        return b"".join(pieces), seq + len(pieces)

    def add(self, reader: Reader) -> None:
        """Count `reader` among those who read; one that is live has had all events so far."""
        self._readers.append(reader)

    def remove(self, reader: Reader) -> None:
        """Forget `reader`."""
        self._readers.remove(reader)

    def close(self) -> None:
        """Tell the readers that nothing more comes."""
        self.is_closed = True
        self.flush()
        for reader in list(self._readers):
            reader.close()

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
        if self._readers or self._holds:
            self._unsent.append(entry)
        is_first = not self._unstored_bytes
        self._unstored_bytes += len(entry)
        if is_first or self._unstored_bytes > MAX_UNSTORED_BYTES:
            self.on_unstored(self._unstored_bytes > MAX_UNSTORED_BYTES)
        self._trim(MAX_LOG_BYTES, MIN_LOG_EVENTS)

    def _trim(self, limit: int, least: int) -> None:
        while self._size > limit and len(self._entries) > least:
            self._size -= len(self._entries.popleft())

    def _trim_after_rest(self, seq: int) -> None:
        if seq == self.seq:
            self._trim(MAX_IDLE_LOG_BYTES, 0)
            self._cut_off_the_lost()
            self.on_rest()

    def _cut_off_the_lost(self) -> None:
        first = self.seq - len(self._entries)
        for reader in list(self._readers):
            if not reader.is_live and not reader.reads_store and reader.seq < first:
                reader.cut_off()

    def _schedule_flush(self) -> None:
        if self._flush_due is None:
            wait_s = self._last_flush + GATHER_S - self._loop.time()
            if wait_s <= 0:
                self._flush_due = self._loop.call_soon(self.flush)
            else:
                self._flush_due = self._loop.call_later(wait_s, self.flush)
