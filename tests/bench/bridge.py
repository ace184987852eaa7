"""The bridge as a host sees it: a process with settings in its environment, sessions and turns over HTTP."""

from __future__ import annotations

import time
from typing import Any, Self

from . import probes
from .context import CHECKOUT, Bench
from .http_client import Connection, free_port, wait_for_answer
from .turn import Script


class Bridge:
    """A running bridge of its own home, workspace and state; settings are given as environment variables."""

    def __init__(self, bench: Bench, **settings: object) -> None:
        self.bench = bench
        self.port = free_port()
        directory = bench.new_directory("bridge")
        self.env = bench.environment() | settings_of(bench, str(directory), self.port)
        self.env |= {name: str(value) for name, value in settings.items()}
        for name in ("home", "codex", "workspace", "state"):
            (directory / name).mkdir()
        argv = [bench.python, "-m", "codex_bridge", "serve"]
        started = time.perf_counter()
        self.process = bench.processes.spawn(argv, self.env, CHECKOUT)
        self.pid = self.process.pid
        wait_for_answer(self.process, self.port, "/health")
        self.start_seconds = time.perf_counter() - started
        self.connection = Connection(self.port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        left = self.bench.processes.stop(self.process)
        if left:
            self.bench.say(f"WARNING: the bridge left {len(left)} processes behind")

    def create(self, count: int) -> list[str]:
        """Create sessions and return their ids."""
        return [self.connection.call("POST", "/chat/sessions", {})["session"]["id"] for _ in range(count)]

    def send(self, session: str, script: Script) -> dict[str, Any]:
        """Send a message that asks for a scripted answer, on the shared connection."""
        return self.connection.call("POST", messages_path(session), {"message": script.text()})

    def send_all(self, sessions: list[str], script: Script) -> list[Connection]:
        """Send a message to each session at once; return their connections, the answers not yet read."""
        connections = [Connection(self.port) for _ in sessions]
        for connection, session in zip(connections, sessions, strict=True):
            connection.send("POST", messages_path(session), {"message": script.text()})
        return connections

    def codex_pids(self) -> list[int]:
        """Return the `codex app-server` children of now."""
        return probes.app_servers(self.pid)


def messages_path(session: str) -> str:
    """Return where a session's messages are sent to."""
    return f"/chat/sessions/{session}/messages"


def settings_of(bench: Bench, directory: str, port: int) -> dict[str, str]:
    """Return the environment of a bridge that speaks to the scripted upstream."""
    return {
        "HOME": f"{directory}/home",
        "CODEX_HOME": f"{directory}/codex",
        "CODEX_BIN": bench.codex,
        "CODEX_WORKSPACE_ROOT": f"{directory}/workspace",
        "CODEX_BRIDGE_STATE_DIR": f"{directory}/state",
        "CODEX_BRIDGE_PORT": str(port),
        "CODEX_RUNTIME_PROVIDER": "openai_compatible",
        "CODEX_PROVIDER_API_BASE_URL": f"http://127.0.0.1:{bench.upstream_port}/v1",
        "CODEX_PROVIDER_API_KEY": "bench-key",
        "CODEX_DEFAULT_MODEL": "demo",
        # What still runs when a figure is done need not end by itself.
        "CODEX_BRIDGE_DRAIN_TIMEOUT_MS": "0",
    }


def collect(connections: list[Connection]) -> None:
    """Read the answers to messages sent at once; raise RuntimeError for one that was refused."""
    for connection in connections:
        connection.result()
        connection.close()
