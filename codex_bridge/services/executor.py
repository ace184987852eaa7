"""The turn executor: slots for running turns and a bounded first-in-first-out queue for those that wait.

A turn that waits for a person lends its slot to others: it needs nothing meanwhile, and a person may take long. When
it goes on, it does so at once, and for a while more turns may run than there are slots.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .. import log
from ..errors import Unavailable
from ..limits import (
    BUSY_RETRY_AFTER_S,
    DRAIN_RETRY_AFTER_S,
    EXACT_PLACES,
    MAX_LENT_SLOTS,
    MAX_TOLD_AT_ONCE,
    ROUGH_PLACES,
)


@dataclass(eq=False, slots=True)
class Job:
    """A turn to run. Of one lane only one runs at a time. `on_position` is told its place in the queue: 1 is next, 0 is running.

    `told` is the place that it was told last.
    """

    name: str
    lane: str
    run: Callable[[], Awaitable[None]]
    on_position: Callable[[int], None]
    told: int = 0


class TurnExecutor:
    """Runs at most `slots` jobs at once and lets at most `queue_limit` wait."""

    def __init__(self, slots: int, queue_limit: int) -> None:
        self._slots = slots
        self._queue_limit = queue_limit
        self._queue: deque[Job] = deque()
        # The running jobs' tasks, by lane.
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # Of those that wait for a person, by lane: how many answers they wait for.
        self._resting: Counter[str] = Counter()
        self._draining = False
        self._telling: asyncio.Handle | None = None

    def load(self) -> dict[str, int]:
        """Return `bridge_load`."""
        return {
            "active_turns": len(self._tasks),
            "pending_turns": len(self._queue),
            "max_concurrent_turns": self._slots,
            "max_queued_turns": self._queue_limit,
        }

    @property
    def is_busy(self) -> bool:
        """Whether a job runs, be it that it waits for a person."""
        return bool(self._tasks)

    @property
    def is_draining(self) -> bool:
        """Whether no more jobs are taken."""
        return self._draining

    def describe(self) -> str:
        """Say for a person how many turns run and wait."""
        running, waiting = len(self._tasks), len(self._queue)
        text = "no turn runs" if not running else "1 turn runs" if running == 1 else f"{running} turns run"
        return text + (f", {waiting} wait{'s' * (waiting == 1)}" if waiting else "")

    def check_open(self) -> None:
        """Raise `Unavailable` once no more jobs are taken."""
        if self._draining:
            message = "The bridge is stopping and takes no new work. Try again in a moment."
            raise self._unavailable(message, "draining", DRAIN_RETRY_AFTER_S)

    def check_capacity(self, lane: str) -> None:
        """Raise `Unavailable` when the next job of `lane` would be refused."""
        self.check_open()
        if len(self._queue) >= self._queue_limit and (not self._has_slot or lane in self._tasks):
            waiting = f"{len(self._tasks)} turns run and {len(self._queue)} wait"
            message = f"The bridge is busy: {waiting}. Try again later."
            raise self._unavailable(message, "busy", BUSY_RETRY_AFTER_S)

    def submit(self, job: Job) -> bool:
        """Start `job`, or queue it and return True. Call `check_capacity` first."""
        if self._has_slot and job.lane not in self._tasks:
            self._start(job)
            return False
        self._queue.append(job)
        self._tell(job, len(self._queue))
        return True

    def withdraw(self, job: Job) -> bool:
        """Take a waiting job back; return False when it does not wait."""
        if job not in self._queue:
            return False
        self._queue.remove(job)
        self._tell_soon()
        return True

    def is_waiting(self, job: Job) -> bool:
        """Say whether `job` is in the queue."""
        return job in self._queue

    @contextmanager
    def resting(self, job: Job) -> Iterator[None]:
        """Lend the slot of a running job to others; it may wait for several things at once."""
        self._resting[job.lane] += 1
        self._fill_slots()
        try:
            yield
        finally:
            self._resting[job.lane] -= 1
            if not self._resting[job.lane]:
                del self._resting[job.lane]

    def refuse(self) -> None:
        """Take no more jobs, and start none of those that wait."""
        self._draining = True

    async def wait_for_an_end(self) -> None:
        """Wait until one of the running jobs has ended."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), return_when=asyncio.FIRST_COMPLETED)

    async def join(self, timeout_s: float) -> None:
        """Wait for the running jobs; cancel what is left after `timeout_s` seconds."""
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=timeout_s)
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=timeout_s)

    @property
    def _taken_slots(self) -> int:
        return len(self._tasks) - min(len(self._resting), MAX_LENT_SLOTS)

    @property
    def _has_slot(self) -> bool:
        return self._taken_slots < self._slots

    def _start(self, job: Job) -> None:
        self._tell(job, 0)
        self._tasks[job.lane] = asyncio.create_task(self._run(job), name=job.name)

    async def _run(self, job: Job) -> None:
        try:
            await job.run()
        except Exception as problem:  # noqa: BLE001 - a defect in one turn must not take its slot with it
            log.error("%s failed: %s: %s", job.name, type(problem).__name__, problem)
        finally:
            del self._tasks[job.lane]
            self._fill_slots()

    def _fill_slots(self) -> None:
        if self._draining:
            return
        started = False
        while self._has_slot:
            job = next((job for job in self._queue if job.lane not in self._tasks), None)
            if job is None:
                break
            self._queue.remove(job)
            self._start(job)
            started = True
        if started:
            self._tell_soon()

    def _tell_soon(self) -> None:
        """Tell those that wait where they are, once for all that changes in this moment."""
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_soon(self._tell_positions)

    def _tell_positions(self) -> None:
        # Each that is told costs an event: those near the front learn of each step, those far behind of many at once.
        self._telling = None
        told = 0
        for position, job in enumerate(self._queue, start=1):
            steps = job.told - position
            if steps >= (1 if position <= EXACT_PLACES else ROUGH_PLACES):
                if told == MAX_TOLD_AT_ONCE:
                    self._tell_soon()
                    return
                self._tell(job, position)
                told += 1

    def _tell(self, job: Job, position: int) -> None:
        job.told = position
        job.on_position(position)

    def _unavailable(self, message: str, code: str, retry_after_s: int) -> Unavailable:
        retry_after = (("Retry-After", str(retry_after_s)),)
        return Unavailable(message, code=code, headers=retry_after, bridge_load=self.load())
