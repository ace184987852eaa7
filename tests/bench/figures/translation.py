"""What the translation costs: the same answers over chat, translated, and over Responses, passed through."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..bridge import Bridge
from ..context import Bench
from ..report import Row
from ..turn import SMALLEST, Script
from .turns import Sample, differences, play_bridged

TURNS = (20, 2000)
FLOOD = Script(20_000)
# As fast as a model writes that is fast; each delta is a read and a write of its own.
PACED = Script(400, gap_ms=4)
HOW = (
    "message sent to session.completed seen, second turn of a fresh session; one bridge whose requests are translated "
    "and one that passes them through, in turn, the same upstream, all deltas at once"
)
HOW_ADDED = "the difference of each translated turn and the one passed through that was run next to it"
HOW_CPU = "CPU time of the bridge's process for one turn, gateway, translation and session's stream included"
HOW_TOKEN = "CPU time of the bridge's process for one turn, divided by its deltas: {}"
HOW_DELAY = "each delta bears the time the upstream sent it at; delay until our socket brought it"


@dataclass(slots=True)
class Side:
    """The turns that were played on one API."""

    bridge: Bridge
    samples: list[Sample] = field(default_factory=list)

    def play(self, script: Script) -> None:
        """Play one turn."""
        self.samples.append(play_bridged(self.bridge, script))

    def whole(self) -> list[float]:
        """Return the ms of each turn."""
        return [sample.seen.whole * 1000 for sample in self.samples]

    def cpu(self, share: int = 1) -> list[float]:
        """Return the CPU ms of each turn; `share` divides them."""
        return [sample.cpu * 1000 / share for sample in self.samples]

    def delays(self, rank: float) -> list[float]:
        """Return the delay at a rank for each turn."""
        turns = [sorted(sample.seen.delays()) for sample in self.samples]
        return [delays[int(rank * (len(delays) - 1))] for delays in turns]


def measure(bench: Bench) -> list[Row]:
    """Play the same turns on both APIs, in turn."""
    with (
        Bridge(bench, CODEX_PROVIDER_WIRE_API="chat_completions") as chat,
        Bridge(bench, CODEX_PROVIDER_WIRE_API="responses") as responses,
    ):
        for bridge in (chat, responses):
            play_bridged(bridge, SMALLEST)
        rows: list[Row] = []
        for deltas in TURNS:
            rows += compare(bench, chat, responses, Script(deltas))
        rows += per_token(bench, chat, responses, FLOOD, "all at once", bench.runs(9, 2))
        return rows + per_token(bench, chat, responses, PACED, "one by one", bench.runs(9, 2))


def play_both(bench: Bench, chat: Bridge, responses: Bridge, script: Script, runs: int) -> tuple[Side, Side]:
    """Play one script on both, in turn."""
    ours, theirs = Side(chat), Side(responses)
    bench.alternate(
        runs,
        f"{script.deltas} deltas over chat and over Responses",
        lambda: ours.play(script),
        lambda: theirs.play(script),
    )
    return ours, theirs


def compare(bench: Bench, chat: Bridge, responses: Bridge, script: Script) -> list[Row]:
    """Compare whole turns."""
    ours, theirs = play_both(bench, chat, responses, script, bench.runs(15, 4))
    whole, cpu = (ours.whole(), theirs.whole()), (ours.cpu(), theirs.cpu())
    return [
        Row(f"{script.deltas} deltas: whole turn over chat", "ms", whole[0], HOW, "Responses", whole[1]),
        Row("  added by the translation", "ms", differences(*whole), HOW_ADDED),
        Row("  CPU", "ms", cpu[0], HOW_CPU, "Responses", cpu[1]),
    ]


def per_token(
    bench: Bench, chat: Bridge, responses: Bridge, script: Script, name: str, runs: int
) -> list[Row]:
    """Compare what each delta costs."""
    ours, theirs = play_both(bench, chat, responses, script, runs)
    times = [[ms * 1000 for ms in side.cpu(script.deltas)] for side in (ours, theirs)]
    how = HOW_TOKEN.format(f"{script.deltas} of them, {name}")
    rows = [
        Row(f"CPU for a token, {name}", "us", times[0], how, "Responses", times[1]),
        Row("  added by the translation", "us", differences(*times), HOW_ADDED),
    ]
    if script.gap_ms:
        for title, rank in (("p50", 0.5), ("p99", 0.99)):
            pair = (ours.delays(rank), theirs.delays(rank))
            rows.append(Row(f"delay of a token, {title}", "ms", pair[0], HOW_DELAY, "Responses", pair[1]))
    return rows
