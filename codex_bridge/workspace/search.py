"""The tool `search_text`."""

from __future__ import annotations

from typing import Any

from ..protocol.tools import ToolResult
from .place import Place

Json = dict[str, Any]


class Search:
    """Searches with ripgrep at the path `rg`, else with Python."""

    def __init__(self, rg: str | None) -> None:
        self._rg = rg

    async def run(self, arguments: Json, place: Place) -> ToolResult:
        """Find lines in the files of the workspace."""
        raise NotImplementedError
