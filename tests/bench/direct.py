"""The comparison for turns: `codex app-server` driven directly, configured as the bridge does, no gateway.

It does as little as one can: of most lines only the first bytes are looked at.
"""

from __future__ import annotations

import json
import os
import select
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Self

from .context import Bench
from .http_client import BOUND_SECONDS, CHUNK
from .turn import Script, Seen

DELTA = b'"item/agentMessage/delta"'
COMPLETED = b'"turn/completed"'
LOOK_AT = 120
OVERRIDES = (
    "features.shell_snapshot=false",
    "check_for_update_on_startup=false",
    "sandbox_workspace_write.exclude_slash_tmp=true",
)


class Direct:
    """One app-server child and its threads."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.directory = bench.new_directory("direct")
        for name in ("home", "codex", "workspace"):
            (self.directory / name).mkdir()
        env = bench.environment() | {
            "HOME": str(self.directory / "home"),
            "CODEX_HOME": str(self.directory / "codex"),
        }
        argv = [bench.codex, "app-server"]
        argv += [argument for override in OVERRIDES for argument in ("-c", override)]
        self.process = bench.processes.spawn(argv, env, self.directory / "workspace", pipes=True)
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin.fileno(), self.process.stdout.fileno()
        self.tail = b""
        self.pending: deque[bytes] = deque()
        self.last_id = 0
        client = {"name": "bench", "title": "bench", "version": "1"}
        self.call("initialize", {"clientInfo": client, "capabilities": {"experimentalApi": True}})
        self.write({"method": "initialized"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bench.processes.stop(self.process)

    def start_threads(self, count: int) -> list[str]:
        """Start threads, all asked for at once, and return their ids."""
        wanted = {self.request("thread/start", self.thread_params()) for _ in range(count)}
        threads = []
        for line in self.lines():
            message = json.loads(line)
            if message.get("id") in wanted:
                threads.append(str(result_of(message)["thread"]["id"]))
            if len(threads) == count:
                return threads
        raise RuntimeError("Codex ended")

    def start_turn(self, thread: str, script: Script) -> None:
        """Ask for a turn without waiting for it."""
        text = {"type": "text", "text": script.text()}
        self.request("turn/start", {"threadId": thread, "input": [text]})

    def turn(self, thread: str, script: Script) -> Seen:
        """Play one turn; a read is one line."""
        started = time.perf_counter()
        first = 0.0
        reads: list[tuple[float, bytes]] = []
        self.start_turn(thread, script)
        for line in self.lines():
            now = time.perf_counter()
            reads.append((now, line))
            head = line[:LOOK_AT]
            if not first and DELTA in head:
                first = now
            if COMPLETED in head:
                check_completed(line)
                return Seen(first - started, now - started, reads)
        raise RuntimeError("Codex ended")

    def wait_for_turns(self, count: int) -> None:
        """Read until so many turns have completed."""
        for line in self.lines():
            if COMPLETED in line[:LOOK_AT]:
                check_completed(line)
                count -= 1
                if not count:
                    return

    def call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return its result."""
        wanted = self.request(method, params)
        for line in self.lines():
            message = json.loads(line)
            if message.get("id") == wanted and "method" not in message:
                return result_of(message)
        raise RuntimeError("Codex ended")

    def request(self, method: str, params: dict[str, Any]) -> int:
        """Write a request and return its id."""
        self.last_id += 1
        self.write({"id": self.last_id, "method": method, "params": params})
        return self.last_id

    def write(self, message: dict[str, Any]) -> None:
        """Write one line."""
        data = memoryview(json.dumps(message).encode() + b"\n")
        while data:
            data = data[os.write(self.stdin, data) :]

    def lines(self) -> Iterator[bytes]:
        """Yield the lines that come until Codex ends; raise RuntimeError when none comes within the bound."""
        while True:
            while self.pending:
                yield self.pending.popleft()
            if not select.select([self.stdout], [], [], BOUND_SECONDS)[0]:
                raise RuntimeError(f"Codex wrote nothing for {BOUND_SECONDS:.0f} s")
            chunk = os.read(self.stdout, CHUNK)
            if not chunk:
                return
            *whole, self.tail = (self.tail + chunk).split(b"\n")
            self.pending.extend(whole)

    def thread_params(self) -> dict[str, Any]:
        """Return the parameters of a thread whose model provider is the scripted upstream."""
        workspace = str(self.directory / "workspace")
        provider = {
            "name": "Upstream",
            "base_url": f"http://127.0.0.1:{self.bench.upstream_port}/v1",
            "wire_api": "responses",
            "experimental_bearer_token": "bench-key",
        }
        return {
            "cwd": workspace,
            "sandbox": "workspace-write",
            "approvalPolicy": "never",
            "model": "demo",
            "modelProvider": "upstream",
            "config": {
                "model_providers": {"upstream": provider},
                "projects": {workspace: {"trust_level": "untrusted"}},
            },
        }


def result_of(message: dict[str, Any]) -> dict[str, Any]:
    """Return the result of an answer; raise RuntimeError for an error."""
    if "error" in message:
        raise RuntimeError(f"Codex refused: {message['error']}")
    result: dict[str, Any] = message["result"]
    return result


def check_completed(line: bytes) -> None:
    """Raise RuntimeError unless the turn that ended was completed."""
    turn = json.loads(line)["params"]["turn"]
    if turn["status"] != "completed":
        raise RuntimeError(f"the direct turn failed: {turn}")
