"""Requests a second over kept-alive connections, and the CPU time of each, against plain node:http."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field

from .. import probes
from ..bridge import Bridge
from ..context import HERE, Bench
from ..http_client import Connection
from ..node import Node
from ..report import Row
from ..sse_client import Crowd
from ..turn import Script

CONNECTIONS = (1, 32)
SECONDS, QUICK_SECONDS = 1.0, 0.5
# Where the scheduler puts the two decides more than either program: each has a CPU of its own.
CPUS = sorted(os.sched_getaffinity(0))
ORIGINAL = {
    ("health", 1): "3,200 /s",
    ("health", 32): "6,100 /s",
    ("session", 1): "3,800 /s",
    ("session", 32): "8,900 /s",
}
HOW = (
    "raw sockets and epoll in a process of its own, one request on its way on each connection; "
    "the server on another CPU; node sends as many bytes; bridge and node in turn"
)
HOW_CPU = "CPU time of the server's process over the requests of the same runs"
HOW_LOAD = "CPU time of the load generator over wall time; well below 100% it is no bottleneck"


@dataclass(slots=True)
class Loaded:
    """A server under load: where, and what was seen."""

    port: int
    pid: int
    path: str
    rates: list[float] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    def load(self, connections: int, seconds: float) -> None:
        """Run the load generator once."""
        argv = [sys.executable, "-I", "-S", str(HERE / "load.py")]
        argv += [str(self.port), self.path, str(connections), str(seconds), str(CPUS[0])]
        probes.pin(self.pid, CPUS[-1])
        cpu = probes.cpu_seconds(self.pid)
        done = subprocess.run(argv, check=True, capture_output=True, timeout=60)
        result = json.loads(done.stdout)
        self.rates.append(result["requests"] / result["seconds"])
        self.costs.append((probes.cpu_seconds(self.pid) - cpu) / result["all_requests"] * 1e6)
        self.shares.append(result["share"] * 100)


def measure(bench: Bench) -> list[Row]:
    """Load `/health` and a session of one turn over 1 and over 32 connections."""
    rows: list[Row] = []
    with Bridge(bench) as bridge, Node(bench) as node:
        session = bridge.create(1)[0]
        with Crowd(bridge.port, [session]) as crowd:
            bridge.send(session, Script(20))
            crowd.wait_for()
        for name, path in (("health", "/health"), ("session", f"/chat/sessions/{session}")):
            for connections in CONNECTIONS:
                rows += compare(bench, bridge, node, name, path, connections)
    return rows


def compare(bench: Bench, bridge: Bridge, node: Node, name: str, path: str, connections: int) -> list[Row]:
    """Load the bridge and node in turn with answers of one size."""
    seconds = QUICK_SECONDS if bench.quick else SECONDS
    size = size_of(bridge.port, path)
    ours = Loaded(bridge.port, bridge.pid, path)
    theirs = Loaded(node.port, node.pid, path_of_size(node.port, size))
    what = f"{name}, {connections} connections, {size} bytes"
    bench.alternate(
        bench.runs(9, 3),
        what,
        lambda: ours.load(connections, seconds),
        lambda: theirs.load(connections, seconds),
    )
    label = f"{name} {size} B, {connections} conn"
    original = ORIGINAL[name, connections]
    return [
        Row(label, "/s", ours.rates, HOW, "node:http", theirs.rates, original),
        Row("  CPU for each", "us", ours.costs, HOW_CPU, "node:http", theirs.costs),
        Row("  load generator's CPU", "%", ours.shares, HOW_LOAD, "node:http", theirs.shares),
    ]


def size_of(port: int, path: str) -> int:
    """Return the bytes of a whole answer."""
    connection = Connection(port)
    connection.send("GET", path)
    _, _, size = connection.receive()
    connection.close()
    return size


def path_of_size(port: int, size: int) -> str:
    """Return the path at which node answers `size` bytes, its own head included."""
    body = size
    for _ in range(3):
        body -= size_of(port, f"/bytes/{body}") - size
    return f"/bytes/{body}"
