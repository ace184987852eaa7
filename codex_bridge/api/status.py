"""`/health` and `/runtime/info`."""

from __future__ import annotations

from typing import Any

from .. import __version__
from ..adapters.http_server import Request, Response
from ..limits import PREFLIGHT_WAIT_S
from ..runtime import Runtime
from ..services.executor import TurnExecutor
from ..services.preflight import Preflight
from . import replies
from .access import Access

_SERVICE = "codex-bridge"


class StatusRoutes:
    """Tells how the bridge is. `settings` is what `/runtime/info` shows of the configuration."""

    def __init__(
        self,
        access: Access,
        runtime: Runtime,
        executor: TurnExecutor,
        preflight: Preflight,
        settings: dict[str, Any],
    ) -> None:
        self._access = access
        self._runtime = runtime
        self._executor = executor
        self._preflight = preflight
        self._settings = settings

    async def health(self, request: Request) -> Response:
        """Answer at once, whatever else goes on; strangers learn only that the bridge is alive."""
        if not self._access.has_token(request):
            return replies.ok(service=_SERVICE, version=__version__)
        config = self._settings["runtime_config"]
        has_key, mode = config["has_provider_api_key"], config["auth_mode"]
        return replies.ok(
            service=_SERVICE,
            version=__version__,
            auth_state=mode,
            has_api_key=has_key,
            login_status="not_required" if mode != "chatgpt" else "unknown",
            bridge_load=self._executor.load(),
        )

    async def info(self, request: Request) -> Response:
        """Tell what runs here and how it is set up."""
        await self._preflight.settle(PREFLIGHT_WAIT_S)
        return replies.ok(
            service=_SERVICE,
            version=__version__,
            **self._settings,
            codex_command=self._preflight.command,
            codex_version=self._preflight.version,
            bridge_load=self._executor.load(),
            capabilities=dict(self._runtime.capabilities),
            preflight=self._preflight.to_json(),
            codex_process=self._runtime.describe(),
        )
