"""The kinds of figures, a module for each: `measure` takes the run and returns rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..context import Bench
from ..report import Row
from . import (
    classes,
    concurrency,
    fanout,
    idle_streams,
    memory,
    requests,
    restart,
    runtimes,
    start,
    store,
    tools,
    turns,
)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of figures, and the seconds after which its measuring is given up."""

    name: str
    title: str
    measure: Callable[[Bench], list[Row]]
    bound_seconds: int


KINDS = (
    Kind("start", "Start to first /health answer", start.measure, 120),
    Kind("requests", "Requests a second over kept-alive connections", requests.measure, 300),
    Kind("turns", "One turn: the bridge against the app-server driven directly", turns.measure, 420),
    Kind("pace", "Delay of a delta while the model writes 100 a second", turns.measure_pace, 120),
    Kind("exec", "One turn: codex exec against the app-server", runtimes.measure, 180),
    Kind("classes", "Execution classes: what models of different quality get done", classes.measure, 300),
    Kind("subscribers", "One turn, many subscribers", fanout.measure_subscribers, 180),
    Kind("stalled", "Subscribers that never read", fanout.measure_stalled, 120),
    Kind("idle", "Idle streams", idle_streams.measure, 120),
    Kind("concurrent", "Concurrent turns", concurrency.measure, 420),
    Kind("cold", "First messages at once on a cold bridge", concurrency.measure_cold, 180),
    Kind("store", "The store", store.measure, 180),
    Kind("restart", "A start with many sessions", restart.measure, 240),
    Kind("tools", "Tools of a host in a large repository", tools.measure, 300),
    Kind("memory", "Resident memory", memory.measure, 600),
)
