"""Resident memory of the bridge and, apart from it, of its Codex child: idle, and after many turns."""

from __future__ import annotations

from .. import probes
from ..bridge import Bridge, collect
from ..context import Bench
from ..node import Node
from ..report import Row
from ..sse_client import Crowd
from ..turn import Script

SESSIONS, QUICK_SESSIONS = 200, 40
TURNS = 5
AT_ONCE = 8
SCRIPT = Script(20)
HOW_IDLE = "VmRSS of the bridge's process alone, asked for /health once; a plain node:http server likewise"
HOW_CODEX = "VmRSS of the `codex app-server` child; `idle`: after one turn"
HOW_AFTER = (
    f"VmRSS after sessions of {TURNS} turns of {SCRIPT.deltas} deltas, streams closed; against its own idle"
)


def measure(bench: Bench) -> list[Row]:
    """Read the memory of a fresh bridge, after one turn, and after all."""
    idle: list[float] = []
    node_idle: list[float] = []

    def at_bridge() -> None:
        with Bridge(bench) as bridge:
            idle.append(probes.settled_memory(bridge.pid))

    def at_node() -> None:
        with Node(bench) as node:
            node_idle.append(probes.settled_memory(node.pid))

    bench.alternate(bench.runs(3, 1), "idle memory", at_bridge, at_node)
    return [Row("bridge, idle", "MB", idle, HOW_IDLE, "node:http", node_idle, "46 MB"), *worked(bench, idle)]


def worked(bench: Bench, idle: list[float]) -> list[Row]:
    """Play all turns and read the memory again."""
    count = QUICK_SESSIONS if bench.quick else SESSIONS
    with Bridge(bench) as bridge:
        play(bridge, 1, 1)
        codex_idle = codex_memory(bridge)
        for number in range(0, count, AT_ONCE):
            bench.say(
                f"{TURNS} turns each of sessions {number + 1} to {min(number + AT_ONCE, count)} of {count}"
            )
            play(bridge, min(AT_ONCE, count - number), TURNS)
        after = [probes.settled_memory(bridge.pid)]
        codex_after = codex_memory(bridge)
    name = f"after {count} x {TURNS} turns"
    return [
        Row(f"bridge, {name}", "MB", after, HOW_AFTER, "idle", idle, "89 MB"),
        Row("Codex child, idle", "MB", codex_idle, HOW_CODEX),
        Row(f"Codex child, {name}", "MB", codex_after, HOW_CODEX, "idle", codex_idle),
    ]


def play(bridge: Bridge, sessions: int, turns: int) -> None:
    """Play turns on fresh sessions, one after the other on each and all sessions at once."""
    ids = bridge.create(sessions)
    with Crowd(bridge.port, ids) as crowd:
        for _ in range(turns):
            connections = bridge.send_all(ids, SCRIPT)
            crowd.wait_for()
            collect(connections)


def codex_memory(bridge: Bridge) -> list[float]:
    """Return the memory of the Codex children together."""
    return [sum(probes.settled_memory(pid) for pid in bridge.codex_pids())]
