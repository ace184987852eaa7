"""What the bridge adds to a turn: time to the first delta, to the end, for each delta; the bytes it sends."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from .. import probes
from ..bridge import Bridge
from ..context import Bench
from ..direct import Direct
from ..report import Row
from ..sse_client import Stream, delta_text
from ..turn import SMALLEST, Script, Seen

SIZES = (20, 200, 2000)
ORIGINAL_BYTES = {20: "56 KB", 200: "890 KB", 2000: "24,000 KB"}
PACED = Script(200, gap_ms=10)
HOW = (
    "message sent to the delta or the end seen, second turn of a fresh session; bridge and Codex driven "
    "directly in turn, the same upstream, all deltas at once"
)
HOW_ADDED = "the difference of each bridged turn and the direct one run next to it"
HOW_BYTES = (
    "bytes on the stream up to session.completed, against the bytes Codex itself wrote for the same turn"
)
HOW_CPU = "CPU time of the bridge's process for one turn, gateway included, against that of the Codex child"
HOW_FIRST = "first message of a fresh session, against thread/start and turn/start"
HOW_PACE = "each delta bears the time the upstream sent it at; delay until our socket or pipe brought it"


@dataclass(frozen=True, slots=True)
class Sample:
    """One turn: what its client saw and the CPU seconds of the process it talked to."""

    seen: Seen
    cpu: float


@dataclass(slots=True)
class Side:
    """The samples of one way to play a turn, in ms and KB."""

    samples: list[Sample] = field(default_factory=list)

    def first(self) -> list[float]:
        """Return the ms to the first delta."""
        return [sample.seen.first * 1000 for sample in self.samples]

    def whole(self) -> list[float]:
        """Return the ms to the end."""
        return [sample.seen.whole * 1000 for sample in self.samples]

    def size(self) -> list[float]:
        """Return the KB that came."""
        return [len(sample.seen.data()) / 1000 for sample in self.samples]

    def cpu(self) -> list[float]:
        """Return the CPU ms."""
        return [sample.cpu * 1000 for sample in self.samples]


def measure(bench: Bench) -> list[Row]:
    """Play turns of all sizes over the bridge and directly, in turn."""
    with Bridge(bench) as bridge, Direct(bench) as direct:
        play_bridged(bridge, SMALLEST)
        play_direct(direct, SMALLEST)
        rows = first_messages(bench, bridge, direct)
        for deltas in SIZES:
            rows += compare(bench, bridge, direct, Script(deltas))
    return rows


def first_messages(bench: Bench, bridge: Bridge, direct: Direct) -> list[Row]:
    """Compare the first turn of a session with a thread's start and first turn."""
    ours: list[float] = []
    theirs: list[float] = []

    def over_bridge() -> None:
        with Stream(bridge.port, bridge.create(1)[0]) as stream:
            started = time.perf_counter()
            bridge.send(stream.session, Script(20))
            ours.append(stream.read_turn(started).whole * 1000)

    def directly() -> None:
        started = time.perf_counter()
        direct.turn(direct.start_threads(1)[0], Script(20))
        theirs.append((time.perf_counter() - started) * 1000)

    bench.alternate(bench.runs(15, 4), "first message", over_bridge, directly)
    return [
        Row("first message, 20 deltas", "ms", ours, HOW_FIRST, "direct", theirs),
        Row("  added by the bridge", "ms", differences(ours, theirs), HOW_ADDED),
    ]


def compare(bench: Bench, bridge: Bridge, direct: Direct, script: Script) -> list[Row]:
    """Play one size of turn both ways."""
    ours, theirs = Side(), Side()
    bench.alternate(
        bench.runs(15, 4), f"turn of {script.deltas} deltas",
        lambda: ours.samples.append(play_bridged(bridge, script)),
        lambda: theirs.samples.append(play_direct(direct, script)),
    )  # fmt: skip
    first, whole = (ours.first(), theirs.first()), (ours.whole(), theirs.whole())
    return [
        Row(f"{script.deltas} deltas: first delta", "ms", first[0], HOW, "direct", first[1]),
        Row("  added by the bridge", "ms", differences(*first), HOW_ADDED),
        Row(f"{script.deltas} deltas: whole turn", "ms", whole[0], HOW, "direct", whole[1]),
        Row("  added by the bridge", "ms", differences(*whole), HOW_ADDED),
        Row("  CPU", "ms", ours.cpu(), HOW_CPU, "Codex", theirs.cpu()),
        Row("  stream", "KB", ours.size(), HOW_BYTES, "Codex", theirs.size(), ORIGINAL_BYTES[script.deltas]),
    ]


def differences(ours: list[float], theirs: list[float]) -> list[float]:
    """Return the differences of samples taken next to each other."""
    return [a - b for a, b in zip(ours, theirs, strict=True)]


def play_bridged(bridge: Bridge, script: Script) -> Sample:
    """Play the second turn of a fresh session; raise RuntimeError when a delta is missing."""
    with Stream(bridge.port, bridge.create(1)[0]) as stream:
        bridge.send(stream.session, SMALLEST)
        stream.read_turn(0.0)
        cpu = probes.cpu_seconds(bridge.pid)
        started = time.perf_counter()
        bridge.send(stream.session, script)
        seen = stream.read_turn(started)
        cpu = probes.cpu_seconds(bridge.pid) - cpu
    if not script.gap_ms and len(delta_text(seen.data())) != script.deltas * script.size:
        raise RuntimeError(f"the deltas on the stream are not the {script.deltas} that were sent")
    return Sample(seen, cpu)


def play_direct(direct: Direct, script: Script) -> Sample:
    """Play the second turn of a fresh thread."""
    thread = direct.start_threads(1)[0]
    direct.turn(thread, SMALLEST)
    cpu = probes.cpu_seconds(direct.process.pid)
    seen = direct.turn(thread, script)
    return Sample(seen, probes.cpu_seconds(direct.process.pid) - cpu)


def measure_pace(bench: Bench) -> list[Row]:
    """Let the model write at a steady pace and look at the delay of each delta, both ways."""
    ours: list[list[float]] = []
    theirs: list[list[float]] = []
    with Bridge(bench) as bridge, Direct(bench) as direct:
        bench.alternate(
            bench.runs(5, 2), "paced turn",
            lambda: ours.append(play_bridged(bridge, PACED).seen.delays()),
            lambda: theirs.append(play_direct(direct, PACED).seen.delays()),
        )  # fmt: skip
    for delays in ours + theirs:
        if len(delays) != PACED.deltas:
            raise RuntimeError(f"expected {PACED.deltas} deltas with a time, got {len(delays)}")
    return [
        Row(f"{PACED.deltas} deltas, {name}", "ms", at(ours, rank), HOW_PACE, "direct", at(theirs, rank))
        for name, rank in (("p50", 0.5), ("p99", 0.99))
    ]


def at(turns: list[list[float]], rank: float) -> list[float]:
    """Return the delay at a rank for each turn."""
    return [sorted(delays)[int(rank * (len(delays) - 1))] for delays in turns]
