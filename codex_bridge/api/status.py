"""`/health` and `/runtime/info`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .. import __version__
from ..adapters.database import Database
from ..adapters.http_server import Request, Response
from ..limits import PREFLIGHT_WAIT_S
from ..runtime import ExecutionClass, Runtime
from ..services.device_auth import DeviceAuth
from ..services.executor import TurnExecutor
from ..services.preflight import Preflight
from ..services.runtime_config import RuntimeConfig
from ..services.verification import Verification
from . import replies
from .access import Access

_SERVICE = "codex-bridge"


class StatusRoutes:
    """Tells how the bridge is. `settings` is what `/runtime/info` shows of what does not change; `capabilities` says
    what turns of a class can.
    """

    def __init__(
        self,
        access: Access,
        runtime: Runtime,
        capabilities: Callable[[ExecutionClass], Mapping[str, bool]],
        executor: TurnExecutor,
        preflight: Preflight,
        config: RuntimeConfig,
        device_auth: DeviceAuth,
        database: Database,
        verification: Verification,
        settings: dict[str, Any],
    ) -> None:
        self._access = access
        self._runtime = runtime
        self._capabilities = capabilities
        self._executor = executor
        self._preflight = preflight
        self._config = config
        self._device_auth = device_auth
        self._database = database
        self._verification = verification
        self._settings = settings

    async def health(self, request: Request) -> Response:
        """Answer at once, or about: whatever else goes on; strangers learn only that the bridge is alive."""
        if not self._access.has_token(request):
            return replies.ok(service=_SERVICE, version=__version__)
        backend = self._config.backend
        return replies.ok(
            service=_SERVICE,
            version=__version__,
            state="draining" if self._executor.is_draining else "ready",
            auth_state=backend.auth_mode,
            has_api_key=backend.settings.api_key is not None,
            login_status=await self._device_auth.status_for_health(),
            bridge_load=self._executor.load(),
            store=self._database.describe_state(),
            codex={"state": self._runtime.state},
        )

    async def info(self, request: Request) -> Response:
        """Tell what runs here and how it is set up."""
        checks = await self._preflight.examine(PREFLIGHT_WAIT_S)
        config, backend = self._config.to_json(), self._config.backend
        return replies.ok(
            service=_SERVICE,
            version=__version__,
            **self._settings,
            workspace_root=config["workspace_root"],
            runtime_config=config,
            codex_command=self._preflight.command,
            codex_version=self._preflight.version,
            bridge_load=self._executor.load(),
            capabilities=dict(self._capabilities(self._verification.class_of(backend))),
            preflight=self._preflight.to_json(checks),
            codex_process=self._runtime.describe(),
            store=self._database.describe(),
            verification=self._verification.describe(backend),
        )
