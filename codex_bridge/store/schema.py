"""The tables, as the migrations that make them. A migration that was released is never changed: the next one follows it.

`session_key` is the number of a session, which is never used again. Times are milliseconds since the epoch; JSON is
kept as bytes.
"""

from __future__ import annotations

_FIRST = """
CREATE TABLE sessions (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    epoch TEXT NOT NULL,
    seq INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    state BLOB NOT NULL
);
CREATE INDEX sessions_by_use ON sessions (updated_at);

-- Sessions that were deleted, and whose rows elsewhere are still to be.
CREATE TABLE garbage (
    session_key INTEGER PRIMARY KEY
);

CREATE TABLE messages (
    session_key INTEGER NOT NULL,
    position INTEGER NOT NULL,
    id TEXT NOT NULL,
    role TEXT NOT NULL,
    text TEXT NOT NULL,
    turn_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    attachments BLOB,
    incomplete INTEGER NOT NULL,
    UNIQUE (session_key, position)
);

CREATE TABLE items (
    position INTEGER PRIMARY KEY,
    session_key INTEGER NOT NULL,
    turn_id TEXT NOT NULL,
    item_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    item BLOB NOT NULL,
    UNIQUE (session_key, turn_id, item_id)
);
CREATE INDEX items_by_session ON items (session_key);

-- A chunk holds events that follow each other without a gap. Chunks of all sessions lie in the order of their coming,
-- so that writing them touches few pages; the index alone tells which events there are.
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    session_key INTEGER NOT NULL,
    epoch TEXT NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE INDEX events_by_session ON events (session_key, id, epoch, first_seq, last_seq, created_at);

CREATE TABLE turns (
    position INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    session_key INTEGER NOT NULL,
    status TEXT NOT NULL,
    request BLOB,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    ended_at INTEGER,
    error BLOB
);
CREATE INDEX turns_by_session ON turns (session_key);
CREATE INDEX turns_unfinished ON turns (position) WHERE status IN ('queued', 'running');

CREATE TABLE approvals (
    id TEXT NOT NULL UNIQUE,
    session_key INTEGER NOT NULL,
    turn_id TEXT NOT NULL,
    status TEXT NOT NULL,
    approval BLOB NOT NULL,
    decision TEXT,
    reason TEXT,
    created_at INTEGER NOT NULL,
    settled_at INTEGER
);
CREATE INDEX approvals_by_session ON approvals (session_key);

CREATE TABLE idempotency (
    position INTEGER PRIMARY KEY,
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    digest BLOB NOT NULL,
    status INTEGER NOT NULL,
    body BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (scope, key)
);
CREATE INDEX idempotency_by_age ON idempotency (created_at);

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
"""

MIGRATIONS: tuple[str, ...] = (_FIRST,)
