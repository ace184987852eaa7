"""The composition root: builds every part from a configuration, joins them, starts and stops them in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from . import config as settings
from . import log
from .adapters.database import Database
from .adapters.http_client import HttpClient
from .adapters.http_server import HttpServer
from .api import replies
from .api.access import Access
from .api.approvals import ApprovalRoutes
from .api.auth import AuthRoutes
from .api.messages import MessageRoutes
from .api.proxy import ProxyRoutes
from .api.router import Route, Router
from .api.runtime_config import RuntimeConfigRoutes
from .api.sessions import SessionRoutes
from .api.status import StatusRoutes
from .api.stream import StreamRoutes
from .api.tools import ToolRoutes
from .api.verification import VerificationRoutes
from .config import Config
from .errors import StartFailed, StoreFailed
from .from_config import (
    NEVER,
    check_bind,
    find_doubts,
    latitude,
    make_client,
    provider_settings,
    show_address,
    shown_settings,
)
from .limits import CLOSE_GRACE_S, CODEX_IDLE_TIMEOUT_MS, DOCTOR_WAIT_S
from .runtime import ExecutionClass, Runtime, Sandbox
from .runtimes.accounts import AppServerAccounts
from .runtimes.app_server import AppServerRuntime, BriefSandbox
from .runtimes.by_class import ClassRuntime
from .services.approvals import Approvals
from .services.backend import Backend
from .services.device_auth import DeviceAuth
from .services.executor import TurnExecutor
from .services.gateway import Gateway
from .services.idempotency import IdempotencyKeys
from .services.preflight import Check, Preflight
from .services.recorder import Recorder
from .services.recovery import mark_clean, recover
from .services.retention import Keep, Retention
from .services.runtime_config import RuntimeConfig
from .services.sandbox import SandboxCheck
from .services.sessions import SessionService
from .services.tools import HostTools
from .services.transcript import Transcript
from .services.turn_player import TurnPlayer
from .services.turns import TurnService
from .services.verification import OnProgress, Verification
from .store.schema import MIGRATIONS
from .workspace.paths import WorkspaceRoots
from .workspace.programs import find_programs
from .workspace.scratch import (
    clear_after_bridge,
    clear_after_bridges,
    create_scratch,
    end_processes,
    remove_scratch,
)
from .workspace.state_dir import StateDirectory
from .workspace.tools import Tools

Result = TypeVar("Result")

# In the state directory.
_DATABASE = "bridge.db"


class Bridge:
    """A whole bridge. `start` it once, `stop` it once, and `drain` it before where what runs may end.

    `sockets` are listening ones that it serves in place of the configured address.
    """

    def __init__(self, config: Config, sockets: Sequence[socket.socket] = ()) -> None:
        self._config = config
        self._sockets = sockets
        check_bind(config, sockets)
        log.hide(config.token)
        roots = WorkspaceRoots(config.workspace_root, config.workspace_roots)
        runtime_config = RuntimeConfig(provider_settings(config), roots)
        self._doubts = find_doubts(config, runtime_config.backend.auth_mode, sockets)
        self._environ = settings.child_environment(config)
        self._state: StateDirectory | None = None
        self._scratch: str | None = None
        self._is_listening = False
        self._is_open = self._is_settled = False
        self._client = make_client(config)
        self._gateway = Gateway(self._client)
        self._gateway_server = HttpServer(self._gateway.handle, replies.failure)
        # With exec it is there for Codex's account alone, and started only when that is asked for.
        self._app_server = AppServerRuntime(config.codex_bin, self._environ, config.interrupt_grace_ms / 1000)
        # What is stopped at the end.
        self._runtimes: set[Runtime | BriefSandbox] = {self._app_server}
        native, tried, sandbox = self._make_native()
        self._programs = find_programs(self._environ, config.codex_bin)
        self._tools = Tools(sandbox, self._programs["ripgrep"], self._programs["git"])
        self._runtime = ClassRuntime(native, self._make_loop)
        self._sandbox = SandboxCheck(config.codex_bin, tried, config.sandbox_mode)
        self._host_tools = HostTools(self._tools, self._sandbox)
        self._device_auth = DeviceAuth(
            AppServerAccounts(self._app_server, self._environ),
            runtime_config.auth_state,
            config.device_login_timeout_ms / 1000,
        )
        self._preflight = self._make_preflight(runtime_config)
        self._executor = TurnExecutor(config.max_concurrent_turns, config.max_queued_turns)
        self._database = Database(os.path.join(config.state_dir, _DATABASE), MIGRATIONS)
        self._recorder = Recorder(self._database)
        self._latitude = latitude(config)
        self._sessions = SessionService(self._database, self._recorder, self._latitude)
        self._sessions.on_forget = self._host_tools.end_session
        self._transcript = Transcript(self._recorder)
        self._approvals = Approvals(
            self._database, self._recorder, self._transcript, config.approval_timeout_ms / 1000
        )
        self._verification = Verification(self._try_backend, self._database, lambda: runtime_config.backend)
        self._turns = self._make_turns(runtime_config)
        self._retention = self._make_retention()
        router = self._make_router(roots, runtime_config)
        self._server = HttpServer(router.handle, replies.failure)

    async def _try_backend(self, backend: Backend, on_progress: OnProgress) -> dict[str, Any]:
        from .services.verification_run import Means, VerificationRun  # late: few bridges are asked

        assert self._scratch is not None
        means = Means(
            self._runtime, self._gateway, self._client, self._sandbox, self._device_auth, self._scratch
        )
        return await VerificationRun(means, backend, on_progress).play()

    def _make_preflight(self, runtime_config: RuntimeConfig) -> Preflight:
        return Preflight(
            self._config.codex_bin,
            self._environ,
            self._sandbox,
            self._device_auth,
            self._client,
            lambda: runtime_config.backend,
        )

    def _make_native(self) -> tuple[Runtime, Sandbox, Sandbox]:
        """Return the runtime of Codex's own tools, the sandbox to try, and that of the tools; they are stopped at the end."""
        config = self._config
        if config.runtime_kind != "exec":
            return self._app_server, self._app_server, self._app_server
        from .runtimes.exec import ExecRuntime  # late: few starts need it

        grace_s = config.interrupt_grace_ms / 1000
        native = ExecRuntime(config.codex_bin, self._environ, grace_s)
        # Between turns nothing rests here, but where tools are run one after another.
        tried = BriefSandbox(config.codex_bin, self._environ, grace_s, rest_s=0)
        sandbox = BriefSandbox(config.codex_bin, self._environ, grace_s)
        self._runtimes.update((native, tried, sandbox))
        return native, tried, sandbox

    def _make_loop(self, execution_class: ExecutionClass) -> Runtime:
        """Return the runtime of a class whose turns the bridge plays itself; it is stopped at the end."""
        # Late: few starts need them, and to load them takes a tenth of a start.
        from .runtimes.bridge_tools import BridgeTools
        from .runtimes.model_tools import ModelTools
        from .runtimes.tool_loop import ToolLoopRuntime

        dialect = ModelTools if execution_class is ExecutionClass.MODEL_TOOLS else BridgeTools
        # To the gateway, on loopback: it watches the upstream for silence, and nobody has to watch it.
        patience_s = CODEX_IDLE_TIMEOUT_MS / 1000
        client = HttpClient(self._config.upstream_connect_timeout_ms / 1000, patience_s, patience_s)
        loop = ToolLoopRuntime(dialect, self._tools, client)
        self._runtimes.add(loop)
        return loop

    def _make_retention(self) -> Retention:
        config = self._config
        keep = Keep(config.keep_sessions, config.keep_days, config.keep_events, config.keep_event_days)
        retention = Retention(self._database, keep, self._delete_unused, self._sessions.is_in_use)
        self._sessions.on_delete = retention.wake
        return retention

    async def _delete_unused(self, session_id: str) -> None:
        """Delete a session that nobody uses; one that is not in memory is not read for it."""
        if self._sessions.is_loaded(session_id):
            await self._turns.delete_unused_session(session_id)
            return
        live = await self._sessions.delete_row(session_id)
        if live is not None:  # it was asked for in this very moment
            await self._turns.delete_session(live)

    def _make_turns(self, runtime_config: RuntimeConfig) -> TurnService:
        player = TurnPlayer(
            self._runtime,
            self._gateway,
            self._sandbox,
            self._device_auth,
            self._transcript,
            self._approvals,
            self._executor,
            self._verification.class_of,
            self._config.approval_policy != NEVER,
            self._config.turn_timeout_ms / 1000,
        )
        return TurnService(
            self._sessions,
            self._executor,
            self._runtime,
            self._gateway,
            player,
            self._transcript,
            self._recorder,
            runtime_config.backend_of_session,
        )

    def _make_router(self, roots: WorkspaceRoots, runtime_config: RuntimeConfig) -> Router:
        """Return all routes, guarded."""
        config = self._config
        access = Access(config.host, config.allowed_hosts, config.allowed_origins, config.token)
        status = StatusRoutes(
            access,
            self._runtime,
            self._runtime.capabilities_of,
            self._executor,
            self._preflight,
            runtime_config,
            self._device_auth,
            self._database,
            self._verification,
            shown_settings(config),
        )
        configuration = RuntimeConfigRoutes(runtime_config)
        auth = AuthRoutes(self._device_auth)
        keys = IdempotencyKeys(self._database)
        chats = SessionRoutes(self._sessions, self._turns, roots, runtime_config, keys, self._latitude)
        messages = MessageRoutes(self._sessions, self._turns, self._executor, keys)
        approvals = ApprovalRoutes(self._sessions, self._approvals)
        self._streams = StreamRoutes(self._sessions)
        verification = VerificationRoutes(self._verification)
        tools = ToolRoutes(self._sessions, self._host_tools, self._programs)
        proxy = ProxyRoutes(self._client, runtime_config)
        routes = [
            Route("GET", "/health", status.health, is_open=True),
            Route("GET", "/runtime/info", status.info),
            Route("GET", "/runtime/config", configuration.read),
            Route("POST", "/runtime/config", configuration.update),
            Route("POST", "/runtime/verify", verification.verify, starts_work=True),
            Route("GET", "/runtime/tools", tools.list),
            Route("GET", "/auth/device", auth.device),
            Route("GET", "/auth/status", auth.status),
            Route("POST", "/auth/logout", auth.logout),
            Route("POST", "/chat/sessions", chats.create, starts_work=True),
            Route("GET", "/chat/sessions", chats.list),
            Route("DELETE", "/chat/sessions", chats.clear),
            Route("GET", "/chat/sessions/:id", chats.read),
            Route("DELETE", "/chat/sessions/:id", chats.delete),
            Route("GET", "/chat/sessions/:id/items", chats.items),
            Route("GET", "/chat/sessions/:id/stream", self._streams.stream),
            Route("POST", "/chat/sessions/:id/messages", messages.send, starts_work=True),
            Route("POST", "/chat/sessions/:id/interrupt", messages.interrupt),
            Route("POST", "/chat/sessions/:id/tools/:name", tools.run, starts_work=True),
            Route("GET", "/chat/sessions/:id/approvals", approvals.list),
            Route("POST", "/chat/sessions/:id/approvals", approvals.answer),
            Route("*", "/v1/*", proxy.forward, takes_any_body=True, starts_work=True),
        ]
        return Router(routes, access, self._executor.check_open)

    async def start(self) -> list[str]:
        """Listen; return the base URLs, or where the sockets are. Raise `StartFailed` when an address is taken."""
        config = self._config
        self._open_state()
        await self._open_gateway()
        await self._open_store()
        addresses = await self._listen()
        self._is_listening = True
        for doubt in self._doubts:
            log.warning("%s", doubt)
        self._preflight.start()
        self._retention.start()
        asyncio.get_running_loop().run_in_executor(None, clear_after_bridges, config.temporary_directory)
        return addresses

    async def _open_gateway(self) -> None:
        host, port = await self._gateway_server.listen_tcp("127.0.0.1", 0)
        self._gateway.base_url = f"http://{host}:{port}"

    async def _listen(self) -> list[str]:
        config = self._config
        if self._sockets:
            for listener in self._sockets:
                await self._server.listen_on(listener)
            return [show_address(listener.getsockname()) for listener in self._sockets]
        where = config.socket or f"{config.host}:{config.port}"
        try:
            if config.socket is not None:
                await self._server.listen_unix(config.socket)
                return [show_address(config.socket)]
            return [show_address(await self._server.listen_tcp(config.host, config.port))]
        except OSError as problem:
            reason = os.strerror(problem.errno) if problem.errno else str(problem)
            raise StartFailed(
                f"Cannot listen on {where}: {reason}. --host and --port, or CODEX_BRIDGE_HOST, CODEX_BRIDGE_PORT and "
                "CODEX_BRIDGE_SOCKET, choose the address."
            ) from None

    async def _open_store(self) -> None:
        """Open the store, and settle what the bridge before has left in it."""
        await self._database.open()
        self._is_open = True
        try:
            await self._sessions.open()
            await self._verification.load()
            await recover(self._database, self._sessions, self._turns, self._transcript, self._approvals)
        except StoreFailed as problem:
            raise StartFailed(
                f"What the bridge before has left in {self._database.path} cannot be settled: {problem.message}"
            ) from None
        self._is_settled = True

    async def _close_store(self) -> None:
        if not self._is_open:
            return
        await self._retention.stop()
        await self._recorder.close()
        if self._is_settled:  # else the next start takes it for killed
            await mark_clean(self._database)
        await self._database.close()

    async def examine(self) -> list[Check]:
        """Look at everything that a turn needs, without listening; `stop` is still to be called."""
        self._open_scratch()
        return await self._preflight.examine(DOCTOR_WAIT_S)

    async def verify(self, on_progress: OnProgress) -> dict[str, Any]:
        """Try the provider and the model, without serving; `stop` is still to be called.

        The report is kept where no bridge runs on the state directory; else its `not_kept` says why it is not.
        """
        not_kept = None
        try:
            self._open_state()
        except StartFailed as problem:
            not_kept = problem.message
            self._open_scratch()
        else:
            await self._database.open()
            self._is_open = True
            await self._verification.load()
        await self._open_gateway()
        return {**await self._verification.verify(on_progress, keep=self._is_open), "not_kept": not_kept}

    def _open_state(self) -> None:
        """Take the state directory, and clear away what a killed bridge has left, before any Codex is started."""
        self._state = StateDirectory.open(self._config.state_dir)
        if self._state.scratch_before is not None:
            clear_after_bridge(self._state.scratch_before)
        self._open_scratch()
        assert self._scratch is not None
        self._state.remember_scratch(self._scratch)

    def _open_scratch(self) -> None:
        parent = self._config.temporary_directory
        try:
            self._scratch = create_scratch(parent)
        except OSError as problem:
            raise StartFailed(
                f"TMPDIR={parent}: cannot make a directory there: {problem.strerror}."
            ) from None
        self._environ["TMPDIR"] = self._scratch
        self._sandbox.open(self._scratch)
        self._preflight.open(self._scratch)

    @property
    def is_well(self) -> bool:
        """Whether the bridge does its work as far as it can tell; what is wrong else, only a new process mends."""
        return self._server.is_well and self._database.is_well

    @property
    def is_busy(self) -> bool:
        """Whether a drain has something to wait for."""
        return self._executor.is_busy or self._host_tools.is_busy or self._server.answering > 0

    def describe_work(self) -> str:
        """Say for a person how much is under way."""
        requests = self._server.answering
        answering = f"; {requests} request{'s' * (requests > 1)} under way" if requests else ""
        return self._executor.describe() + answering

    async def drain(self) -> None:
        """Take no new work, and return when nothing runs any more: no turn, and no request. Streams go on."""
        await self._turns.drain()
        await self._host_tools.drain()
        await self._server.finish_requests()

    async def stop(self) -> None:
        """Refuse new work, interrupt turns, end Codex, close every connection. Also after half a start."""
        if self._is_listening:
            log.info("stopping")
        await asyncio.gather(
            self._host_tools.stop(),
            self._verification.stop(),
            self._turns.stop(self._config.shutdown_timeout_ms / 1000),
        )
        self._server.stop_accepting()
        await self._recorder.settle()  # the streams hear of the turns' ends when they are stored
        self._streams.stop()
        await asyncio.gather(
            self._preflight.stop(),
            self._sandbox.stop(),
            self._device_auth.stop(),
            *(runtime.stop() for runtime in self._runtimes),
            self._server.stop(CLOSE_GRACE_S),
            self._gateway_server.stop(CLOSE_GRACE_S),
        )
        await self._close_store()
        self._client.close()
        if self._config.socket is not None and self._is_listening and not self._sockets:
            with contextlib.suppress(OSError):
                os.unlink(self._config.socket)
        if self._scratch is not None:
            await asyncio.to_thread(end_processes, self._scratch)
            remove_scratch(self._scratch)
        if self._state is not None:
            self._state.close()
        if self._is_listening:
            log.info("stopped")


async def as_task(awaitable: Awaitable[Result]) -> Result:
    """Make a coroutine of anything that can be awaited."""
    return await awaitable


def run(main: Callable[[], Awaitable[Result]]) -> Result:
    """Run `main` on uvloop when it is installed, on asyncio otherwise."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(as_task(main()))
