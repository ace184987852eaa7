"""Preflight: which Codex there is, and whether it is one the bridge knows. Looked at once, in the background."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from .. import log
from ..adapters.process import ChildProcess
from ..limits import VERSION_TIMEOUT_S
from ..protocol import codex


class Preflight:
    """The findings. `version` is None until the binary has been asked."""

    def __init__(self, command: str | None) -> None:
        self.command = command
        self.version: str | None = None
        self._problem: str | None = None
        self._task: asyncio.Task[None] | None = None
        if command is None:
            self._problem = codex.NOT_FOUND
            log.warning("%s", self._problem)

    def start(self, environ: Mapping[str, str]) -> None:
        """Begin to look, in the background."""
        if self.command is not None:
            self._task = asyncio.create_task(self._ask_version(self.command, environ), name="preflight")

    async def settle(self, timeout_s: float) -> None:
        """Wait for the findings, but no longer than `timeout_s` seconds."""
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task], timeout=timeout_s)

    async def stop(self) -> None:
        """Give up looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _ask_version(self, command: str, environ: Mapping[str, str]) -> None:
        try:
            child = await ChildProcess.start([command, "--version"], environ)
            try:
                async with asyncio.timeout(VERSION_TIMEOUT_S):
                    output = b"".join([chunk async for chunk in child.read_chunks()])
            finally:
                await child.stop()
        except (OSError, TimeoutError) as problem:
            self._problem = f"{command} --version failed: {str(problem) or 'no answer'}."
        else:
            self.version = codex.parse_version(output.decode(errors="replace"))
            if self.version is None:
                self._problem = f"{command} --version does not tell a version; it may not be Codex."
            elif not codex.is_known_version(self.version):
                oldest = ".".join(map(str, codex.MINIMUM_VERSION))
                self._problem = (
                    f"Codex {self.version} is older than {oldest}, the oldest this bridge was tried with."
                )
        if self._problem:
            log.warning("%s", self._problem)

    def to_json(self) -> dict[str, Any]:
        return {
            "codex_found": self.command is not None,
            "codex_version": self.version,
            "known_version": self.version is not None and codex.is_known_version(self.version),
            "problem": self._problem,
        }
