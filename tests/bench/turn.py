"""The turns that are measured: what the scripted upstream is asked to say, and what was seen of one."""

from __future__ import annotations

import re
from dataclasses import dataclass

# Codex and the bridge name the field alike; the bridge may merge neighbours into one event.
_DELAYED = re.compile(rb'"delta": ?"((?:@\d+ )+)"')
_STAMP = re.compile(rb"@(\d+) ")


@dataclass(frozen=True, slots=True)
class Script:
    """One answer of the scripted upstream: `first_ms` of silence, then deltas of `size` bytes.

    With a `gap_ms` above 0 they come one by one, each bearing the time it was sent at; else all at once.
    """

    deltas: int
    first_ms: int = 0
    gap_ms: int = 0
    size: int = 8

    def text(self) -> str:
        """Return the user's message that asks for this answer."""
        return f"bench deltas={self.deltas} first={self.first_ms} gap={self.gap_ms} size={self.size}"


@dataclass(frozen=True, slots=True)
class Seen:
    """A turn as its client saw it: seconds to the first delta and to the end; what was read, and when."""

    first: float
    whole: float
    reads: list[tuple[float, bytes]]

    def data(self) -> bytes:
        """Return all bytes read."""
        return b"".join(data for _, data in self.reads)

    def delays(self) -> list[float]:
        """Return for each delta of a paced turn the ms from the upstream's write to our read."""
        return [
            (at - int(stamp) / 1e9) * 1000
            for at, data in self.reads
            for deltas in _DELAYED.findall(data)
            for stamp in _STAMP.findall(deltas)
        ]


SMALLEST = Script(1)
