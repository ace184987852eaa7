"""`/runtime/config`: read the runtime configuration, change it while the bridge runs."""

from __future__ import annotations

from .. import log
from ..adapters.http_server import Request, Response
from ..services.runtime_config import CHOICE_FIELDS, RuntimeConfig, describe_providers
from . import fields, replies

_CONFIG_FIELDS = frozenset({*CHOICE_FIELDS, "workspace_root"})


class RuntimeConfigRoutes:
    """Reads and changes the configuration in force."""

    def __init__(self, config: RuntimeConfig) -> None:
        self._config = config

    async def read(self, request: Request) -> Response:
        return replies.ok(config=self._config.to_json(), providers=describe_providers())

    async def update(self, request: Request) -> Response:
        """Apply what is given, as a whole; turns that are in progress keep what they began with."""
        body = await fields.read_object(request, _CONFIG_FIELDS)
        changed = self._config.update(body)
        if changed:
            log.info("the runtime configuration was changed: %s", ", ".join(changed))
        return replies.ok(changed=bool(changed), changed_fields=changed, config=self._config.to_json())
