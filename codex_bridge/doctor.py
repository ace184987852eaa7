"""A bridge that looks and does not serve: what `codex-bridge doctor` and `codex-bridge verify` do."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

from .app import Bridge
from .config import Config
from .services.preflight import Check
from .services.verification import OnProgress

Result = TypeVar("Result")


async def examine(config: Config) -> list[Check] | None:
    """Return what a bridge with this configuration finds right and wrong; None when SIGTERM came first."""
    bridge = Bridge(config)
    return await _until_signal(bridge, bridge.examine())


async def verify(config: Config, on_progress: OnProgress) -> dict[str, Any] | None:
    """Return the report on the provider and the model of a configuration; None when SIGTERM came first."""
    bridge = Bridge(config)
    return await _until_signal(bridge, bridge.verify(on_progress))


async def _until_signal(bridge: Bridge, work: Coroutine[Any, Any, Result]) -> Result | None:
    """Return what `work` on a bridge does, None when SIGTERM came first; stop the bridge."""
    looking = asyncio.create_task(work, name="look")
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, looking.cancel)
    try:
        await asyncio.wait([looking])
        return None if looking.cancelled() else looking.result()
    finally:
        looking.cancel()
        await asyncio.wait([looking])
        await bridge.stop()
