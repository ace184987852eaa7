"""How long a start takes, from the spawn to the first answer."""

from __future__ import annotations

import subprocess
import time

from ..bridge import Bridge
from ..context import CHECKOUT, Bench
from ..node import Node
from ..report import Row

HOW = "spawn to the first 200, asked every 1 ms until somebody listens; the first start of all is not counted"
HOW_FLOOR = (
    "the same interpreter, `import asyncio` alone, spawn to exit: what no Python server can be faster than"
)


def measure(bench: Bench) -> list[Row]:
    """Start the bridge, node and a bare interpreter in turn."""
    ours: list[float] = []
    theirs: list[float] = []
    floor: list[float] = []

    def start_bridge() -> None:
        with Bridge(bench) as bridge:
            ours.append(bridge.start_seconds * 1000)

    def start_node() -> None:
        with Node(bench) as node:
            theirs.append(node.start_seconds * 1000)

    def start_nothing() -> None:
        started = time.perf_counter()
        subprocess.run([bench.python, "-c", "import asyncio"], check=True, cwd=CHECKOUT)
        floor.append((time.perf_counter() - started) * 1000)

    bench.alternate(bench.runs(15, 5) + 1, "start", start_bridge, start_node, start_nothing)
    return [
        Row("bridge", "ms", ours[1:], HOW, "node:http", theirs[1:], "110-150 ms"),
        Row("bare interpreter", "ms", floor[1:], HOW_FLOOR),
    ]
