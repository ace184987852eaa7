"""What most writes and queries are: one statement with its values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ..adapters.database import Connection, Query, Write

Row = TypeVar("Row")


def execute(sql: str, *values: Any) -> Write:
    """Return what writes by one statement."""

    def write(connection: Connection) -> None:
        connection.execute(sql, values)

    return write


def execute_for_each(sql: str, values: Sequence[Any]) -> Write:
    """Return what writes by one statement, run with each of the values."""

    def write(connection: Connection) -> None:
        connection.executemany(sql, [(value,) for value in values])

    return write


def find(sql: str, *values: Any, make: Callable[..., Row]) -> Query[Row | None]:
    """Return what finds one row, or None; `make` is given its columns."""

    def query(connection: Connection) -> Row | None:
        found = connection.execute(sql, values).fetchone()
        return None if found is None else make(*found)

    return query


def find_all(sql: str, *values: Any, make: Callable[..., Row]) -> Query[list[Row]]:
    """Return what finds all rows; `make` is given the columns of each."""

    def query(connection: Connection) -> list[Row]:
        return [make(*found) for found in connection.execute(sql, values)]

    return query
