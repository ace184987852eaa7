"""The tool `apply_patch`."""

from __future__ import annotations

from typing import Any

from ..protocol.tools import ToolResult
from .place import Place

Json = dict[str, Any]


class Edits:
    """Applies patches, one after another."""

    async def apply(self, arguments: Json, place: Place) -> ToolResult:
        """Change files as a patch says."""
        raise NotImplementedError

    async def preview(self, arguments: Json, place: Place) -> ToolResult:
        """Return what a patch would change."""
        raise NotImplementedError
