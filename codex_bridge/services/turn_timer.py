"""The timer of a turn, which stands still while a person is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class TurnTimer:
    """Calls `on_timeout` once `timeout_s` seconds have passed, not counting those in which it was paused."""

    def __init__(self, timeout_s: float, on_timeout: Callable[[], None]) -> None:
        self._left_s = timeout_s
        self._on_timeout = on_timeout
        self._loop = asyncio.get_running_loop()
        self._due: asyncio.TimerHandle | None = None
        self._pauses = 0
        self._is_over = False
        self._go_on()

    def stop(self) -> None:
        """Never call `on_timeout` again."""
        self._is_over = True
        self._stand_still()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still; more than one may want that at once."""
        self._pauses += 1
        self._stand_still()
        try:
            yield
        finally:
            self._pauses -= 1
            self._go_on()

    def _go_on(self) -> None:
        if self._pauses == 0 and not self._is_over:
            self._due = self._loop.call_later(self._left_s, self._on_timeout)

    def _stand_still(self) -> None:
        if self._due is not None:
            self._left_s = max(0.0, self._due.when() - self._loop.time())
            self._due.cancel()
            self._due = None
