"""A plain node:http server, the comparison for everything that is plain HTTP."""

from __future__ import annotations

import time
from typing import Self

from .context import CHECKOUT, HERE, Bench
from .http_client import free_port, wait_for_answer


class Node:
    """A running node:http server."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.port = free_port()
        argv = [bench.node, str(HERE / "node_http.js"), str(self.port)]
        started = time.perf_counter()
        self.process = bench.processes.spawn(argv, bench.environment(), CHECKOUT)
        self.pid = self.process.pid
        wait_for_answer(self.process, self.port, "/bytes/100")
        self.start_seconds = time.perf_counter() - started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.bench.processes.stop(self.process)
