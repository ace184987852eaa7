"""One turn and many readers: those that read, and those that never do."""

from __future__ import annotations

import time

from .. import probes
from ..bridge import Bridge
from ..context import Bench
from ..direct import Direct
from ..report import Row
from ..sse_client import Crowd, count_closed, never_read
from ..turn import SMALLEST, Script

SUBSCRIBERS = 100
STALLED = 20
SHORT = Script(500)
LONG = Script(2000)
HEAVY = Script(2000, size=2000)
HOW_WALL = (
    f"message sent until all {SUBSCRIBERS} have session.completed, read by one process with epoll; "
    "the same turn with one subscriber in the same run"
)
HOW_DIRECT = "the same turn of `codex app-server` driven directly, in the same run"
HOW_CPU = "CPU time of the bridge's process from the message to the last session.completed"
HOW_BYTES = "bytes that all sockets brought after session.ready"
HOW_PEAK = "VmHWM of the bridge's process, reset before the turn"
HOW_STALLED = (
    f"VmRSS after the turn less VmRSS before; {STALLED} streams with a receive buffer of 4 KiB never read, "
    "one read; against the same turn on a fresh bridge with that one alone"
)
HOW_CLOSED = (
    "streams found closed when they were read after the turn; what the kernel holds is no reason to close"
)


class FannedOut:
    """Samples of one turn with a number of subscribers."""

    def __init__(self, bridge: Bridge, subscribers: int) -> None:
        self.bridge = bridge
        self.subscribers = subscribers
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.size: list[float] = []
        self.peak: list[float] = []

    def play(self) -> None:
        """Play one turn on a fresh session."""
        bridge = self.bridge
        session = bridge.create(1)[0]
        with Crowd(bridge.port, [session] * self.subscribers) as crowd:
            bridge.send(session, SMALLEST)
            crowd.wait_for()
            probes.reset_peak(bridge.pid)
            before = crowd.received
            cpu, started = probes.cpu_seconds(bridge.pid), time.perf_counter()
            bridge.send(session, SHORT)
            crowd.wait_for()
            self.wall.append((time.perf_counter() - started) * 1000)
            self.cpu.append((probes.cpu_seconds(bridge.pid) - cpu) * 1000)
            self.size.append((crowd.received - before) / 1e6)
            self.peak.append(probes.memory(bridge.pid, "VmHWM"))


def measure_subscribers(bench: Bench) -> list[Row]:
    """Play a turn for a crowd, for one, and directly, in turn."""
    direct_wall: list[float] = []
    with Bridge(bench) as bridge, Direct(bench) as direct:
        crowd, one = FannedOut(bridge, SUBSCRIBERS), FannedOut(bridge, 1)

        def directly() -> None:
            thread = direct.start_threads(1)[0]
            direct.turn(thread, SMALLEST)
            direct_wall.append(direct.turn(thread, SHORT).whole * 1000)

        what = f"{SUBSCRIBERS} subscribers, {SHORT.deltas} deltas"
        bench.alternate(bench.runs(7, 3), what, crowd.play, one.play, directly)
    name = f"{SUBSCRIBERS} x {SHORT.deltas} deltas: all at the end"
    return [
        Row(name, "ms", crowd.wall, HOW_WALL, "one", one.wall, "4,900 ms"),
        Row("  ... against Codex directly", "ms", crowd.wall, HOW_DIRECT, "direct", direct_wall),
        Row("  CPU", "ms", crowd.cpu, HOW_CPU, "one", one.cpu, "3,000 ms"),
        Row("  bytes sent", "MB", crowd.size, HOW_BYTES, "one", one.size, "288 MB"),
        Row("  peak memory", "MB", crowd.peak, HOW_PEAK, "one", one.peak, "250-580 MB"),
    ]


def measure_stalled(bench: Bench) -> list[Row]:
    """Look at the memory that readers who never read cost, with short and with long deltas."""
    rows: list[Row] = []
    for name, script, original in (("8 B", LONG, "523 MB"), ("2 KB", HEAVY, "-")):
        grown: list[float] = []
        alone: list[float] = []
        closed: list[float] = []

        def with_stalled(
            script: Script = script, grown: list[float] = grown, closed: list[float] = closed
        ) -> None:
            growth, ended = grow(bench, script, STALLED)
            grown.append(growth)
            closed.append(ended)

        def without(script: Script = script, alone: list[float] = alone) -> None:
            alone.append(grow(bench, script, 0)[0])

        what = f"{STALLED} that never read, deltas of {name}"
        bench.alternate(bench.runs(3, 1), what, with_stalled, without)
        label = f"{STALLED} x {script.deltas} deltas of {name}"
        rows.append(Row(f"{label}: growth", "MB", grown, HOW_STALLED, "none stalled", alone, original))
        rows.append(Row("  closed by the bridge", "", closed, HOW_CLOSED, original="0"))
    return rows


def grow(bench: Bench, script: Script, stalled: int) -> tuple[float, int]:
    """Play a turn for a reader and some that never read; return the MB it grew by and how many it closed."""
    with Bridge(bench) as bridge:
        session = bridge.create(1)[0]
        with Crowd(bridge.port, [session]) as crowd:
            bridge.send(session, SMALLEST)
            crowd.wait_for()
            socks = never_read(bridge.port, [session] * stalled)
            before = probes.settled_memory(bridge.pid)
            bridge.send(session, script)
            crowd.wait_for()
            growth = probes.memory(bridge.pid) - before
            closed = count_closed(socks)
        for sock in socks:
            sock.close()
    return growth, closed
