"""The tool calls of an answer of Chat Completions, put together from their pieces. No I/O.

Upstreams do not agree on what tells the calls of one answer apart: each has an index of its own, or all have the same and an
id of their own, or neither; id and name come once, or with each piece, and a name also in pieces of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import InvalidJson, UpstreamFailed
from ..limits import MAX_MODEL_ANSWER_CHARACTERS, MAX_TOOL_NAME_CHARACTERS, MAX_TURN_CALLS
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

    @property
    def may_be_whole(self) -> bool:
        return bool(self._arguments) and self._arguments[-1].endswith("}")

    def add(self, piece: CallPiece) -> None:
        self.id = self.id or piece.id
        if piece.name != self.name and not self._arguments and len(self.name) <= MAX_TOOL_NAME_CHARACTERS:
            self.name += piece.name
        if piece.arguments:
            self._arguments.append(piece.arguments)


class Calls:
    """The calls of one answer."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        # By index, the one whose pieces came last; by id, the first that has it.
        self._open: dict[int, Call] = {}
        self._by_id: dict[str, Call] = {}
        # Characters of arguments that were looked through for their end.
        self._looked_through = 0

    def __bool__(self) -> bool:
        return bool(self._calls)

    def __iter__(self) -> Iterator[Call]:
        return iter(self._calls)

    def add(self, piece: CallPiece) -> None:
        """Take the next piece; raise `UpstreamFailed` when there is no end to the calls."""
        call = self._open.get(piece.index)
        if call is not None and self._is_of_another(call, piece):
            call = self._by_id.get(piece.id)
        if call is None:
            if len(self._calls) == MAX_TURN_CALLS:
                message = f"The model's answer has more than {MAX_TURN_CALLS} tool calls."
                raise UpstreamFailed(message, passes=False)
            call = Call()
            self._calls.append(call)
        self._open[piece.index] = call
        if piece.id:
            self._by_id.setdefault(piece.id, call)
        call.add(piece)

    def _is_of_another(self, call: Call, piece: CallPiece) -> bool:
        """Say whether a piece at the index of a call belongs to another one."""
        if piece.id and call.id:
            return piece.id != call.id
        # Without an id a name begins one, where it does not come with each piece: then a long call would be looked
        # through with each.
        may_begin = piece.name and not piece.id and call.may_be_whole
        if not may_begin or self._looked_through > MAX_MODEL_ANSWER_CHARACTERS:
            return False
        arguments = call.arguments
        self._looked_through += len(arguments)
        return _is_json(arguments)

    def give_ids(self) -> None:
        """Give an id to each call that has none, or that of another one."""
        taken: set[str] = set()
        for call in self._calls:
            call.id = call.id if call.id and call.id not in taken else new_id("call")
            taken.add(call.id)


def _is_json(text: str) -> bool:
    try:
        json_codec.decode(text.encode(errors="replace"))
    except InvalidJson:
        return False
    return True
