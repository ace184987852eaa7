"""How often a Codex has ended as soon as it was started, and what follows: a growing wait, then giving up.

One on which a turn has begun does not count: what ended it may be that turn, and must not cost the others. Giving up ends by itself: after a while, or when another program lies where this one lay.
"""

from __future__ import annotations

from ..adapters.process import Program
from ..errors import CodexFailed
from ..limits import GIVE_UP_S, MAX_QUICK_EXITS, RESTART_BACKOFF_S


class QuickExits:
    """Counts them, one after the other. `now` is the loop's time in seconds wherever it is asked for."""

    def __init__(self) -> None:
        self.count = 0
        self._at = 0.0
        self._program: Program | None = None
        self._said = ""

    def note(self, program: Program, said: str, now: float) -> None:
        """Count one more, or the first one of another program."""
        self.count = self.count + 1 if program == self._program else 1
        self._at, self._program, self._said = now, program, said

    def forget(self) -> None:
        """Begin anew: one was healthy."""
        self.count = 0

    def wait_s(self, now: float) -> float:
        """Return the seconds until the next start may be tried."""
        if not self.count:
            return 0.0
        wait_s = RESTART_BACKOFF_S * 2 ** (self.count - 1) if self.count < MAX_QUICK_EXITS else GIVE_UP_S
        return max(0.0, self._at + wait_s - now)

    def has_given_up(self, program: Program, now: float) -> bool:
        """Say whether nothing should be started."""
        return self.count >= MAX_QUICK_EXITS and program == self._program and self.wait_s(now) > 0

    def failure(self, now: float) -> CodexFailed:
        """Return why nothing is started, and what to do."""
        assert self._program is not None
        return CodexFailed(
            f"Codex ended {self.count} times as soon as it was started and is given up for {self.wait_s(now):.0f} s more, or until "
            f"{self._program.path} is another one; `codex-bridge doctor` looks for the reason. The last time: {self._said}",
            code="codex_unavailable",
        )
