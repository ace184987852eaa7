"""What a turn costs with one `codex exec` for each, against turns on the one app-server; a model that takes no time."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..bridge import Bridge, collect
from ..context import Bench
from ..report import Row
from ..sse_client import Crowd, Stream
from ..turn import SMALLEST, Script

SCRIPT = Script(20)
AT_ONCE = 4
HOW_FIRST = (
    "message sent to session.completed seen, first message of a fresh session on a warm bridge; in turn"
)
HOW_NEXT = "the same, second message of a fresh session"
HOW_AT_ONCE = f"{AT_ONCE} sessions' second messages sent at once, until all are completed"


def measure(bench: Bench) -> list[Row]:
    """Play the same turns with both kinds of runtime, in turn."""
    with Bridge(bench, CODEX_RUNTIME_KIND="exec") as ours, Bridge(bench) as theirs:
        for bridge in (ours, theirs):
            next_message(bridge)
        return [
            compare(bench, "first message", HOW_FIRST, first_message, ours, theirs),
            compare(bench, "next message", HOW_NEXT, next_message, ours, theirs),
            compare(bench, f"{AT_ONCE} at once", HOW_AT_ONCE, all_at_once, ours, theirs),
        ]


def compare(
    bench: Bench, name: str, how: str, play: Callable[[Bridge], float], ours: Bridge, theirs: Bridge
) -> Row:
    """Measure one thing on both bridges, in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    bench.alternate(
        bench.runs(15, 4), name, lambda: times[0].append(play(ours)), lambda: times[1].append(play(theirs))
    )
    return Row(f"exec, {name}", "ms", times[0], how, "app-server", times[1])


def first_message(bridge: Bridge) -> float:
    """Return the ms of a session's first turn."""
    with Stream(bridge.port, bridge.create(1)[0]) as stream:
        started = time.perf_counter()
        bridge.send(stream.session, SCRIPT)
        return stream.read_turn(started).whole * 1000


def next_message(bridge: Bridge) -> float:
    """Return the ms of a session's second turn."""
    with Stream(bridge.port, bridge.create(1)[0]) as stream:
        bridge.send(stream.session, SMALLEST)
        stream.read_turn(0.0)
        started = time.perf_counter()
        bridge.send(stream.session, SCRIPT)
        return stream.read_turn(started).whole * 1000


def all_at_once(bridge: Bridge) -> float:
    """Return the ms until the second turns of some sessions are all done."""
    sessions = bridge.create(AT_ONCE)
    with Crowd(bridge.port, sessions) as crowd:
        collect(bridge.send_all(sessions, SMALLEST))
        crowd.wait_for()
        started = time.perf_counter()
        collect(bridge.send_all(sessions, SCRIPT))
        crowd.wait_for()
        return (time.perf_counter() - started) * 1000
