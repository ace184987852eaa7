"""JSON-RPC as the app-server speaks it: one JSON object on each line, no `jsonrpc` field. No I/O."""

from __future__ import annotations

from typing import Any

from ..errors import CodexFailed
from ..limits import MAX_LINE_BYTES
from . import json_codec


class LineSplitter:
    """Cuts a byte stream into lines of any size.

    The pieces of an unfinished line are kept in a list and joined once: appending to one growing
    buffer would copy a line of many megabytes again with each read.
    """

    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that `data` completes, without their newlines."""
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines and self._pieces:
            self._pieces.append(lines[0])
            lines[0] = b"".join(self._pieces)
            self._pieces.clear()
            self._size = 0
        if rest:
            self._pieces.append(rest)
            self._size += len(rest)
            if self._size > MAX_LINE_BYTES:
                raise CodexFailed(f"Codex wrote a line longer than {MAX_LINE_BYTES} bytes.")
        return lines


def encode_request(request_id: int, method: str, params: Any) -> bytes:
    """Return the line of a call that wants an answer."""
    return json_codec.encode({"id": request_id, "method": method, "params": params}) + b"\n"


def encode_notification(method: str) -> bytes:
    """Return the line of a call that wants no answer."""
    return json_codec.encode({"method": method}) + b"\n"


def encode_result(request_id: int | str, result: Any) -> bytes:
    """Return the line that answers the peer's request."""
    return json_codec.encode({"id": request_id, "result": result}) + b"\n"


def encode_error(request_id: int | str, code: int, message: str) -> bytes:
    """Return the line that refuses the peer's request."""
    return json_codec.encode({"id": request_id, "error": {"code": code, "message": message}}) + b"\n"
