"""The events of the sessions' streams, as they were sent: encoded, in chunks that follow each other.

A chunk's id is made of the session's key and the chunk's number in the session, so the chunks of a session lie
side by side in the file, in the order in which they were written.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from ..adapters.database import Connection, Query, Write
from ..model import now_ms

# Chunks of one session; a bridge that writes 20 a second needs more than a year for them.
_BITS = 30
_END = b"\n\n"
# What the fastest level leaves is a tenth more than what the usual one leaves, for a third of the time.
_LEVEL = 1


def insert_chunk(
    session_key: int, epoch: str, first_seq: int, entries: Sequence[bytes], created_at: int | None = None
) -> Write:
    """Store encoded events (protocol.sse) that follow each other, the first of them with the number `first_seq`."""
    kept = tuple(entries)
    low, high = chunk_ids(session_key)
    last_seq = first_seq + len(kept) - 1
    created_at = now_ms() if created_at is None else created_at

    def write(connection: Connection) -> None:
        data = zlib.compress(b"".join(kept), _LEVEL)
        connection.execute(
            "INSERT INTO events (id, epoch, first_seq, last_seq, created_at, data) VALUES"
            " ((SELECT coalesce(max(id), ?) + 1 FROM events WHERE id BETWEEN ? AND ?), ?, ?, ?, ?, ?)",
            (low, low, high, epoch, first_seq, last_seq, created_at, data),
        )

    return write


def select_after(
    session_key: int, epoch: str, seq: int, max_bytes: int
) -> Query[tuple[list[bytes], int] | None]:
    """Find the encoded events behind `seq`, about `max_bytes` of them, and the number of the last.

    None when not all of them are here: another epoch, a number that was not given yet, events that were deleted or
    never stored. At the end it is ([], seq).
    """
    low, high = chunk_ids(session_key)

    def query(connection: Connection) -> tuple[list[bytes], int] | None:
        start = connection.execute(
            "SELECT id, last_seq FROM events WHERE id BETWEEN ? AND ? AND epoch = ? AND first_seq <= ?"
            " ORDER BY id DESC LIMIT 1",
            (low, high, epoch, seq + 1),
        ).fetchone()
        if start is None:
            return None
        if start[1] < seq:
            return None
        entries: list[bytes] = []
        size, last = 0, seq
        for chunk_epoch, first, chunk_last, data in connection.execute(
            "SELECT epoch, first_seq, last_seq, data FROM events WHERE id BETWEEN ? AND ? ORDER BY id",
            (start[0], high),
        ):
            if chunk_epoch != epoch:
                break
            if first > last + 1:
                return None
            for entry in _split(data)[last + 1 - first :]:
                if size >= max_bytes:
                    return entries, last
                entries.append(entry)
                size += len(entry)
                last += 1
            if last != chunk_last:
                return None
        return entries, last

    return query


def select_newest(session_key: int, max_events: int) -> Query[list[bytes]]:
    """Find the newest encoded events of a session, up to `max_events`, of whatever epoch, the oldest of them first."""
    low, high = chunk_ids(session_key)

    def query(connection: Connection) -> list[bytes]:
        entries: list[bytes] = []
        for (data,) in connection.execute(
            "SELECT data FROM events WHERE id BETWEEN ? AND ? ORDER BY id DESC", (low, high)
        ):
            entries += reversed(_split(data))
            if len(entries) >= max_events:
                break
        return entries[:max_events][::-1]

    return query


def chunk_ids(session_key: int) -> tuple[int, int]:
    """Return what lies before the first possible id of a session's chunks, and the last possible one."""
    return session_key << _BITS, (session_key + 1 << _BITS) - 1


def _split(data: bytes) -> list[bytes]:
    return [entry + _END for entry in zlib.decompress(data).split(_END)[:-1]]
