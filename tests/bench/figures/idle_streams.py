"""What an open stream costs while nothing happens."""

from __future__ import annotations

import socket

from .. import probes
from ..bridge import Bridge
from ..context import Bench
from ..http_client import connect, request_bytes
from ..node import Node
from ..report import Row
from ..sse_client import stream_request

STREAMS = 1000
HOW = (
    f"VmRSS with {STREAMS} open streams of one session without a turn less VmRSS before, for each; "
    "node:http holds as many answers open and has no heartbeat"
)


def measure(bench: Bench) -> list[Row]:
    """Open idle streams at a fresh bridge and at a fresh node, in turn."""
    ours: list[float] = []
    theirs: list[float] = []

    def at_bridge() -> None:
        with Bridge(bench) as bridge:
            request = stream_request(bridge.create(1)[0], bridge.port)
            ours.append(cost_of_streams(bridge.port, bridge.pid, request))

    def at_node() -> None:
        with Node(bench) as node:
            theirs.append(
                cost_of_streams(node.port, node.pid, request_bytes("GET", "/stream", port=node.port))
            )

    bench.alternate(bench.runs(3, 1), f"{STREAMS} idle streams", at_bridge, at_node)
    return [Row("memory for each idle stream", "KB", ours, HOW, "node:http", theirs, "20 KB")]


def cost_of_streams(port: int, pid: int, request: bytes) -> float:
    """Open the streams, wait for the first bytes of each, and return the KB that each costs."""
    before = probes.settled_memory(pid)
    socks: list[socket.socket] = []
    try:
        for _ in range(STREAMS):
            sock = connect(port)
            socks.append(sock)
            sock.sendall(request)
            if not sock.recv(1):
                raise RuntimeError("the stream was refused")
        return (probes.settled_memory(pid) - before) * 1000 / STREAMS
    finally:
        for sock in socks:
            sock.close()
