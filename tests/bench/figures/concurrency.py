"""Many turns at once, warm and cold, against the app-server driven directly in the same state."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Self

from .. import probes
from ..bridge import Bridge, collect
from ..context import Bench
from ..direct import Direct
from ..report import Row
from ..sse_client import Crowd
from ..turn import SMALLEST, Script

TURNS = 40
SLOW = Script(20, first_ms=1000)
QUICK = Script(20)
ORIGINAL_QUICK = {4: "0.44 s", 16: "2.3 s", 40: "4.9 s"}
HOW_WARM = (
    "all messages at once until the last session.completed, every session has had a turn before; "
    "direct: as many threads in the same state"
)
HOW_COLD = (
    "fresh bridge: all first messages at once until the last session.completed; "
    "direct: spawn, initialize, thread/start and turn/start for all"
)
HOW_QUICK = HOW_WARM + "; no model delay"
HOW_CHILDREN = "different `codex app-server` processes seen below the bridge, looked for every 20 ms"
HOW_MEMORY = "largest sum of the VmRSS of those processes"
HOW_CPU = (
    "CPU time of the bridge's process for all those turns, against that of the Codex child driven directly"
)
WATCH_SECONDS = 0.02


def slots(bench: Bench) -> Bridge:
    """Start a bridge that runs all turns at once."""
    return Bridge(bench, CODEX_MAX_CONCURRENT_TURNS=TURNS)


def measure(bench: Bench) -> list[Row]:
    """Play turns at once: warm with and without a model delay, then cold."""
    rows: list[Row] = []
    with slots(bench) as bridge, Direct(bench) as direct:
        sessions, threads = bridge.create(TURNS), direct.start_threads(TURNS)
        with Crowd(bridge.port, sessions) as crowd:
            play(bridge, crowd, sessions, SMALLEST)
        play_directly(direct, threads, SMALLEST)
        for count in (4, 16, TURNS):
            rows += compare(bench, bridge, direct, sessions[:count], threads[:count], QUICK)
        rows += compare(bench, bridge, direct, sessions, threads, SLOW)
    return rows + cold_turns(bench, SLOW, "1.0 s model, cold")


def compare(
    bench: Bench, bridge: Bridge, direct: Direct, sessions: list[str], threads: list[str], script: Script
) -> list[Row]:
    """Play turns at once on warm sessions and on warm threads, in turn."""
    ours: list[float] = []
    our_cpu: list[float] = []
    theirs: list[float] = []
    their_cpu: list[float] = []
    with Crowd(bridge.port, sessions) as crowd:
        bench.alternate(
            bench.runs(5, 2), f"{len(sessions)} turns, model {script.first_ms} ms",
            timed(bridge.pid, ours, our_cpu, lambda: play(bridge, crowd, sessions, script)),
            timed(direct.process.pid, theirs, their_cpu, lambda: play_directly(direct, threads, script)),
        )  # fmt: skip
    slow = bool(script.first_ms)
    name = f"{len(sessions)} turns, {'1.0 s model, warm' if slow else 'no model delay'}"
    original = "-" if slow else ORIGINAL_QUICK[len(sessions)]
    return [
        Row(name, "s", ours, HOW_WARM if slow else HOW_QUICK, "direct", theirs, original),
        Row("  CPU", "ms", our_cpu, HOW_CPU, "Codex", their_cpu),
    ]


def timed(pid: int, wall: list[float], cpu: list[float], action: Callable[[], None]) -> Callable[[], None]:
    """Return a measure that adds the seconds of an action and the CPU ms a process spent meanwhile."""

    def run() -> None:
        spent, started = probes.cpu_seconds(pid), time.perf_counter()
        action()
        wall.append(time.perf_counter() - started)
        cpu.append((probes.cpu_seconds(pid) - spent) * 1000)

    return run


def play(bridge: Bridge, crowd: Crowd, sessions: list[str], script: Script) -> None:
    """Send a message to each session at once and wait for the end of all turns."""
    connections = bridge.send_all(sessions, script)
    crowd.wait_for()
    collect(connections)


def play_directly(direct: Direct, threads: list[str], script: Script) -> None:
    """Start a turn on each thread at once and wait for the end of all."""
    for thread in threads:
        direct.start_turn(thread, script)
    direct.wait_for_turns(len(threads))


def measure_cold(bench: Bench) -> list[Row]:
    """Send the first messages of many sessions at once to a bridge that has no Codex yet."""
    return cold_turns(bench, QUICK, "no model delay, cold")


def cold_turns(bench: Bench, script: Script, name: str) -> list[Row]:
    """Play turns at once on a fresh bridge and on a fresh app-server, in turn; watch the children."""
    ours: list[float] = []
    theirs: list[float] = []
    children: list[float] = []
    memory: list[float] = []

    def over_bridge() -> None:
        with slots(bench) as bridge:
            sessions = bridge.create(TURNS)
            with Crowd(bridge.port, sessions) as crowd, Watch(bridge.pid) as watch:
                started = time.perf_counter()
                play(bridge, crowd, sessions, script)
                ours.append(time.perf_counter() - started)
            children.append(len(watch.seen))
            memory.append(watch.memory)

    def directly() -> None:
        started = time.perf_counter()
        with Direct(bench) as direct:
            play_directly(direct, direct.start_threads(TURNS), script)
            theirs.append(time.perf_counter() - started)

    bench.alternate(bench.runs(5, 2), f"{TURNS} turns, {name}", over_bridge, directly)
    return [
        Row(f"{TURNS} turns, {name}", "s", ours, HOW_COLD, "direct", theirs),
        Row("  Codex children", "", children, HOW_CHILDREN, original="36-40"),
        Row("  their memory", "MB", memory, HOW_MEMORY, original="3,600 MB"),
    ]


class Watch:
    """Looks for the Codex children of a process, from a thread, until left."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.seen: set[int] = set()
        self.memory = 0.0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def run(self) -> None:
        """Look, rest, look again."""
        while not self.over.wait(WATCH_SECONDS):
            pids = probes.app_servers(self.pid)
            self.seen.update(pids)
            self.memory = max(self.memory, sum(map(probes.memory, pids)))
