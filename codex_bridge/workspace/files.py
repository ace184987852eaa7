"""The tools `list_files` and `read_file`."""

from __future__ import annotations

from typing import Any

from ..protocol.tools import ToolResult
from .place import Place

Json = dict[str, Any]


async def list_files(arguments: Json, place: Place) -> ToolResult:
    """List a directory of the workspace."""
    raise NotImplementedError


async def read_file(arguments: Json, place: Place) -> ToolResult:
    """Read lines of a file of the workspace."""
    raise NotImplementedError
