"""The answers to requests that came with an Idempotency-Key: who comes again gets the same one."""

from __future__ import annotations

from ..adapters.database import Query, Write
from ..values import value
from .statements import execute, find

_COLUMNS = "scope, key, digest, status, body, created_at"


@value
class IdempotencyRow:
    """An answer. `scope` says of what the key is one, `digest` is that of the request's body."""

    scope: str
    key: str
    digest: bytes
    status: int
    body: bytes
    created_at: int


def insert(row: IdempotencyRow) -> Write:
    """Store an answer. A key that is there already fails the transaction."""
    return execute(
        f"INSERT INTO idempotency ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
        row.scope, row.key, row.digest, row.status, row.body, row.created_at,
    )  # fmt: skip


def select(scope: str, key: str) -> Query[IdempotencyRow | None]:
    """Find the answer that was given to a key."""
    return find(
        f"SELECT {_COLUMNS} FROM idempotency WHERE scope = ? AND key = ?", scope, key, make=IdempotencyRow
    )
