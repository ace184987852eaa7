"""The tool calls of an answer of Chat Completions, put together from their pieces. No I/O.

Upstreams do not agree on what tells the calls of one answer apart: each has an index of its own, or all have the same and an
id of their own, or neither; id and name come once, or with each piece.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import InvalidJson
from ..model import new_id
from . import json_codec
from .chat import CallPiece


class Call:
    """A tool call as its pieces come in."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self._arguments: list[str] = []

    @property
    def arguments(self) -> str:
        return "".join(self._arguments)

    def add(self, piece: CallPiece) -> None:
        self.id = self.id or piece.id
        self.name = self.name or piece.name
        if piece.arguments:
            self._arguments.append(piece.arguments)

    def is_followed_by(self, piece: CallPiece) -> bool:
        """Say whether a piece at the same index belongs to another call."""
        if piece.id and self.id:
            return piece.id != self.id
        # Without an id a name begins one, where it does not come with each piece.
        return bool(piece.name and not piece.id) and _is_json(self.arguments)


class Calls:
    """The calls of one answer. Of those beyond `most` nothing is kept."""

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._calls: list[Call] = []
        # By index, the one whose pieces came last.
        self._open: dict[int, Call] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls)

    def add(self, piece: CallPiece) -> None:
        """Take the next piece."""
        call = self._open.get(piece.index)
        if call is None or call.is_followed_by(piece):
            if len(self._calls) == self._most:
                return
            call = self._open[piece.index] = Call()
            self._calls.append(call)
        call.add(piece)

    def give_ids(self) -> None:
        """Give an id to each call that has none, or that of another one."""
        taken: set[str] = set()
        for call in self._calls:
            call.id = call.id if call.id and call.id not in taken else new_id("call")
            taken.add(call.id)


def _is_json(text: str) -> bool:
    if not text.endswith("}"):
        return False
    try:
        json_codec.decode(text.encode(errors="replace"))
    except InvalidJson:
        return False
    return True
