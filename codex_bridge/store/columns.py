"""JSON in columns: bytes, or NULL for None."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidJson, StoreDamaged
from ..protocol import json_codec


def encode(value: Any) -> bytes | None:
    """Return what is stored of `value`. It is encoded now, whatever becomes of the value until it is written."""
    return None if value is None else json_codec.encode(value)


def decode(data: bytes | None) -> Any:
    """Return the value of a column; raise `StoreDamaged` for what `encode` did not write."""
    if data is None:
        return None
    try:
        return json_codec.decode(data)
    except InvalidJson as problem:
        # The file was damaged in a place where SQLite does not see it.
        raise StoreDamaged(f"A row of the database is damaged. {problem.message}") from None
