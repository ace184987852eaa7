"""The events of the sessions' streams, as they were sent: encoded, in chunks of events that follow each other."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from ..adapters.database import Connection, Query, Write
from ..model import now_ms
from .sessions import WHERE_SESSION

_END = b"\n\n"
# Measured: higher levels take longer and leave hardly less.
_LEVEL = 1


def insert_chunk(
    session_key: int, epoch: str, first_seq: int, entries: Sequence[bytes], created_at: int | None = None
) -> Write:
    """Store encoded events (protocol.sse) that follow each other, the first of them with the number `first_seq`."""
    kept = tuple(entries)
    last_seq = first_seq + len(kept) - 1
    created_at = now_ms() if created_at is None else created_at

    def write(connection: Connection) -> None:
        data = zlib.compress(b"".join(kept), _LEVEL)
        connection.execute(
            "INSERT INTO events (session_key, epoch, first_seq, last_seq, created_at, data)"
            f" SELECT ?, ?, ?, ?, ?, ? {WHERE_SESSION}",
            (session_key, epoch, first_seq, last_seq, created_at, data, session_key),
        )

    return write


def select_after(
    session_key: int, epoch: str, seq: int, max_bytes: int
) -> Query[tuple[list[bytes], int] | None]:
    """Find the encoded events behind `seq`, about `max_bytes` of them, and the number of the last.

    None when not all of them are here: another epoch, a number that was not given yet, events that were deleted or
    never stored. At the end it is ([], seq).
    """

    def query(connection: Connection) -> tuple[list[bytes], int] | None:
        start = connection.execute(
            "SELECT id FROM events WHERE session_key = ? AND epoch = ? AND first_seq <= ? AND last_seq >= ?"
            " ORDER BY id DESC LIMIT 1",
            (session_key, epoch, seq + 1, seq),
        ).fetchone()
        if start is None:
            return None
        entries: list[bytes] = []
        size, last = 0, seq
        for first_seq, last_seq, data in connection.execute(
            "SELECT first_seq, last_seq, data FROM events WHERE session_key = ? AND id >= ? AND epoch = ? ORDER BY id",
            (session_key, start[0], epoch),
        ):
            found = _split(data, last_seq - first_seq + 1)
            if first_seq > last + 1 or found is None:
                return None
            for entry in found[last + 1 - first_seq :]:
                if size >= max_bytes:
                    return entries, last
                entries.append(entry)
                size += len(entry)
                last += 1
        return entries, last

    return query


def select_stored(session_key: int, epoch: str, seq: int) -> Query[list[bytes]]:
    """Find the encoded events behind `seq` that are there, whatever is missing between them."""

    def query(connection: Connection) -> list[bytes]:
        found = connection.execute(
            "SELECT first_seq, last_seq, data FROM events"
            " WHERE session_key = ? AND epoch = ? AND last_seq > ? ORDER BY id",
            (session_key, epoch, seq),
        )
        return [entry for first, last, data in found for entry in _split(data, last - first + 1) or ()]

    return query


def has_all_after(session_key: int, epoch: str, seq: int, last_seq: int) -> Query[bool]:
    """Look whether the events behind `seq` are there up to `last_seq`, all of them."""

    def query(connection: Connection) -> bool:
        first, last, count = connection.execute(
            "SELECT min(first_seq), max(last_seq), sum(last_seq - first_seq + 1) FROM events"
            " WHERE session_key = ? AND epoch = ? AND last_seq > ?",
            (session_key, epoch, seq),
        ).fetchone()
        return first is not None and first <= seq + 1 and last >= last_seq and count == last - first + 1

    return query


def select_newest(session_key: int, max_events: int) -> Query[list[bytes]]:
    """Find the newest encoded events of a session, up to `max_events`, of whatever epoch, the oldest of them first."""

    def query(connection: Connection) -> list[bytes]:
        entries: list[bytes] = []
        for first_seq, last_seq, data in connection.execute(
            "SELECT first_seq, last_seq, data FROM events WHERE session_key = ? ORDER BY id DESC",
            (session_key,),
        ):
            entries += reversed(_split(data, last_seq - first_seq + 1) or [])
            if len(entries) >= max_events:
                break
        return entries[:max_events][::-1]

    return query


def _split(data: bytes, count: int) -> list[bytes] | None:
    """Return the events of a chunk; None when it does not hold `count` of them: the file is damaged."""
    try:
        entries = [entry + _END for entry in zlib.decompress(data).split(_END)[:-1]]
    except zlib.error:
        return None
    return entries if len(entries) == count else None
