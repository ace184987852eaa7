"""Idempotency keys: the answer to a request with a key is stored with what the request did, and given again.

The same key with another body is refused. A request that was refused leaves nothing behind: its key is free.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from ..errors import Conflict
from ..model import now_ms
from ..protocol import json_codec
from ..store import idempotency
from ..store.idempotency import IdempotencyRow

if TYPE_CHECKING:
    from ..adapters.database import Database, Write

# An answer: status and body. `Remember` returns what stores one.
Answer = tuple[int, bytes]
Remember = Callable[[int, bytes], Iterable["Write"]]


class IdempotencyKeys:
    """Gives first answers again. A key belongs to a scope: a route, or a session."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Requests under way, each with its body's digest.
        self._running: dict[tuple[str, str], tuple[bytes, asyncio.Task[tuple[int, bytes, bool]]]] = {}

    async def answer(
        self, scope: str, key: str, body: dict[str, Any], act: Callable[[Remember], Awaitable[Answer]]
    ) -> tuple[int, bytes, bool]:
        """Return status and body of the answer to a request, and whether it was given before.

        `act` does what is asked for, and stores what `Remember` returns along with it. Raises `Conflict` when the
        key came with another body, and what `act` raises.
        """
        digest = hashlib.sha256(json_codec.encode(_sorted(body))).digest()
        name = scope, key
        if name in self._running:
            first_digest, running = self._running[name]
            _check_same(key, digest, first_digest)
            status, answered, _ = await asyncio.shield(running)
            return status, answered, True
        task = asyncio.create_task(self._act(scope, key, digest, act), name="request with a key")
        self._running[name] = digest, task
        task.add_done_callback(lambda done: self._running.pop(name))
        return await asyncio.shield(task)

    async def _act(
        self, scope: str, key: str, digest: bytes, act: Callable[[Remember], Awaitable[Answer]]
    ) -> tuple[int, bytes, bool]:
        found = await self._database.read(idempotency.select(scope, key))
        if found is not None:
            _check_same(key, digest, found.digest)
            return found.status, found.body, True

        def remember(status: int, body: bytes) -> Iterable[Write]:
            return [idempotency.insert(IdempotencyRow(scope, key, digest, status, body, now_ms()))]

        return *await act(remember), False


def _check_same(key: str, digest: bytes, first_digest: bytes) -> None:
    if digest != first_digest:
        raise Conflict(
            f"The Idempotency-Key {key!r} came before with another body; a new request takes a new key.",
            code="idempotency_key_reused",
        )


def _sorted(value: Any) -> Any:
    """Return a JSON value with the fields of its objects in one order, whatever order they came in."""
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value
