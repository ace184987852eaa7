"""The timer of a turn: it counts what is the turn's own time."""

import asyncio

from codex_bridge.services.turn_timer import TurnTimer
from tests.unit.loop import on_loop

SHORT_S, LONG_S = 0.01, 0.03


class Bell:
    """A timer that says when it has run out."""

    def __init__(self, timeout_s: float) -> None:
        self.rung = asyncio.Event()
        self.timer = TurnTimer(timeout_s, self.rung.set)


@on_loop
async def test_it_runs_out() -> None:
    await Bell(SHORT_S).rung.wait()


@on_loop
async def test_one_that_is_stopped_does_not() -> None:
    stopped, other = Bell(SHORT_S), Bell(LONG_S)
    stopped.timer.stop()
    await other.rung.wait()
    assert not stopped.rung.is_set()


@on_loop
async def test_it_stands_still_until_the_last_pause_is_over() -> None:
    paused = Bell(SHORT_S)
    with paused.timer.paused():
        with paused.timer.paused():
            await Bell(LONG_S).rung.wait()
        await Bell(LONG_S).rung.wait()
        assert not paused.rung.is_set()
    await paused.rung.wait()


@on_loop
async def test_a_pause_that_ends_after_it_was_stopped_does_not_start_it_again() -> None:
    paused = Bell(SHORT_S)
    with paused.timer.paused():
        paused.timer.stop()
    await Bell(LONG_S).rung.wait()
    assert not paused.rung.is_set()


@on_loop
async def test_time_that_has_passed_counts() -> None:
    first, second = Bell(10.0), Bell(SHORT_S)
    await second.rung.wait()
    with first.timer.paused():
        left = first.timer._left_s
    assert left <= 10.0 - SHORT_S / 2
    first.timer.stop()
