"""The turn executor: slots, the queue in order, refusal, withdrawal, the end."""

import asyncio

import pytest

from codex_bridge.errors import Unavailable
from codex_bridge.limits import EXACT_PLACES, MAX_TOLD_AT_ONCE, ROUGH_PLACES
from codex_bridge.services import executor as executor_module
from codex_bridge.services.executor import Job, TurnExecutor
from tests.unit.loop import on_loop
from tests.unit.store import until


class Work:
    """A job that runs until it is released, and notes what it is told."""

    def __init__(self, name: str, lane: str | None = None) -> None:
        self.positions: list[int] = []
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.ended = asyncio.Event()
        self.cancelled = False
        self.error: Exception | None = None
        self.job = Job(name, lane or name, self._run, self.positions.append)

    async def _run(self) -> None:
        self.started.set()
        try:
            await self.release.wait()
            if self.error is not None:
                raise self.error
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.ended.set()


def submit(executor: TurnExecutor, *names: str) -> list[Work]:
    works = []
    for name in names:
        executor.check_capacity("new")
        works.append(Work(name))
        executor.submit(works[-1].job)
    return works


async def finish(executor: TurnExecutor, *works: Work) -> None:
    for work in works:
        work.release.set()
    await executor.join(10)


@on_loop
async def test_jobs_run_at_once_up_to_the_slots_and_then_wait_in_order() -> None:
    executor = TurnExecutor(2, 10)
    works = submit(executor, "a", "b", "c", "d", "e")
    await works[1].started.wait()

    assert [work.positions for work in works] == [[0], [0], [1], [2], [3]]
    assert executor.load() == {
        "active_turns": 2, "pending_turns": 3, "max_concurrent_turns": 2, "max_queued_turns": 10,
    }  # fmt: skip
    works[1].release.set()
    await works[2].started.wait()
    assert [work.positions for work in works] == [[0], [0], [1, 0], [2, 1], [3, 2]]
    assert not works[3].started.is_set()

    for work in works:
        work.release.set()
    await works[4].ended.wait()
    await executor.join(10)
    assert executor.load()["active_turns"] == executor.load()["pending_turns"] == 0
    assert works[4].positions == [3, 2, 1, 0] or works[4].positions == [3, 2, 0]


@on_loop
async def test_submit_says_whether_the_job_waits() -> None:
    executor = TurnExecutor(1, 1)
    first, second = Work("a"), Work("b")
    assert executor.submit(first.job) is False
    assert executor.submit(second.job) is True
    second.release.set()
    first.release.set()
    await second.ended.wait()
    await executor.join(10)


@on_loop
async def test_past_slots_and_queue_the_next_is_refused() -> None:
    executor = TurnExecutor(1, 1)
    works = submit(executor, "a", "b")
    with pytest.raises(Unavailable) as caught:
        executor.check_capacity("new")
    problem = caught.value
    assert (problem.status, problem.code) == (503, "busy")
    assert dict(problem.headers)["Retry-After"].isdigit()
    assert problem.details["bridge_load"] == executor.load()

    executor.withdraw(works[1].job)
    executor.check_capacity("new")
    await finish(executor, works[0])


@on_loop
async def test_without_a_queue_only_slots_count() -> None:
    executor = TurnExecutor(1, 0)
    (work,) = submit(executor, "a")
    with pytest.raises(Unavailable):
        executor.check_capacity("new")
    await finish(executor, work)
    executor.check_capacity("new")


@on_loop
async def test_a_waiting_job_can_be_withdrawn_and_those_behind_move_up() -> None:
    executor = TurnExecutor(1, 10)
    works = submit(executor, "a", "b", "c", "d")
    await works[0].started.wait()

    assert executor.withdraw(works[1].job) is True
    assert executor.withdraw(works[1].job) is False
    assert executor.withdraw(works[0].job) is False
    await until(lambda: works[3].positions == [3, 2])
    assert [work.positions for work in works] == [[0], [1], [2, 1], [3, 2]]

    for work in works:
        work.release.set()
    await works[3].ended.wait()
    await executor.join(10)
    assert not works[1].started.is_set()


@on_loop
async def test_thousands_that_wait_cost_no_event_each_for_each_step() -> None:
    executor = TurnExecutor(1, 10_000)
    works = submit(executor, *(str(number) for number in range(3001)))
    await works[0].started.wait()
    waiting = works[1:]

    def told() -> int:
        return sum(len(work.positions) for work in works)

    for work in waiting[:10]:
        executor.withdraw(work.job)
        asked = told()
        await until(lambda: executor._telling is None)
        assert told() - asked <= EXACT_PLACES + 1
    near, far = waiting[10 : 10 + EXACT_PLACES], waiting[10 + EXACT_PLACES :]
    assert [work.positions[-1] for work in near] == list(range(1, EXACT_PLACES + 1))
    assert all(len(work.positions) == 1 for work in far[10:])

    # What changes in one moment is told once, and never too much at a time.
    before = told()
    for work in waiting[10:1000]:
        executor.withdraw(work.job)
    assert told() == before
    largest = 0
    while executor._telling is not None:
        asked = told()
        await asyncio.sleep(0)
        largest = max(largest, told() - asked)
    assert 0 < largest <= MAX_TOLD_AT_ONCE
    assert [work.positions[-1] for work in waiting[1000:]] == list(range(1, 2001))
    executor.refuse()
    await finish(executor, works[0])


@on_loop
async def test_a_place_far_behind_is_never_far_off() -> None:
    executor = TurnExecutor(1, 1000)
    works = submit(executor, *(str(number) for number in range(301)))
    await works[0].started.wait()
    last = works[300]
    for number in range(1, 290):
        executor.withdraw(works[number].job)
        await until(lambda: executor._telling is None)
        assert 0 <= last.positions[-1] - (300 - number) < ROUGH_PLACES
    assert last.positions[-1] == 11
    executor.refuse()
    await finish(executor, works[0])


@on_loop
async def test_a_job_that_breaks_gives_its_slot_back() -> None:
    executor = TurnExecutor(1, 1)
    first, second = submit(executor, "a", "b")
    first.error = RuntimeError("a defect")
    first.release.set()
    second.release.set()
    await second.ended.wait()
    await executor.join(10)
    assert executor.load()["active_turns"] == 0


@on_loop
async def test_refuse_starts_nothing_that_waits_and_takes_nothing_more() -> None:
    executor = TurnExecutor(1, 10)
    first, second = submit(executor, "a", "b")
    await first.started.wait()
    executor.refuse()
    with pytest.raises(Unavailable) as caught:
        executor.check_capacity("new")
    assert (caught.value.status, caught.value.code) == (503, "draining")
    assert executor.load()["pending_turns"] == 1
    await finish(executor, first)
    assert not second.started.is_set()


@on_loop
async def test_join_cancels_what_does_not_end() -> None:
    executor = TurnExecutor(2, 10)
    first, second = submit(executor, "a", "b")
    await second.started.wait()
    executor.refuse()
    await executor.join(0.01)
    assert first.cancelled
    assert second.cancelled
    assert executor.load()["active_turns"] == 0


@on_loop
async def test_join_waits_for_what_ends_in_time() -> None:
    executor = TurnExecutor(1, 0)
    (work,) = submit(executor, "a")
    asyncio.get_running_loop().call_soon(work.release.set)
    await executor.join(10)
    assert work.ended.is_set()
    assert not work.cancelled
    await executor.join(0.01)


@on_loop
async def test_of_one_lane_only_one_runs_and_the_others_pass_it() -> None:
    executor = TurnExecutor(2, 10)
    works = [Work("a1", "a"), Work("a2", "a"), Work("b", "b"), Work("a3", "a")]
    queued = [executor.submit(work.job) for work in works]
    await works[2].started.wait()

    assert queued == [False, True, False, True]
    assert not works[1].started.is_set()
    assert [work.positions for work in works] == [[0], [1], [0], [2]]
    works[0].release.set()
    await works[1].started.wait()
    assert works[3].positions == [2, 1]
    assert not works[3].started.is_set()
    await finish(executor, *works)
    assert works[3].started.is_set() or works[3].cancelled


@on_loop
async def test_a_lane_that_is_taken_needs_a_place_in_the_queue() -> None:
    executor = TurnExecutor(2, 0)
    work = Work("a", "a")
    executor.submit(work.job)
    executor.check_capacity("b")
    with pytest.raises(Unavailable):
        executor.check_capacity("a")
    await finish(executor, work)


@on_loop
async def test_a_turn_that_waits_for_a_person_lends_its_slot() -> None:
    executor = TurnExecutor(1, 1)
    first, second = submit(executor, "a", "b")
    with executor.resting(first.job):
        with executor.resting(first.job):
            await second.started.wait()
            assert (executor.load()["active_turns"], executor.load()["pending_turns"]) == (2, 0)
        (third,) = submit(executor, "c")
        assert third.positions == [1], "two answers that one turn waits for are one slot"
        second.release.set()
        await third.started.wait()
    # It goes on at once, beside the one that has its slot.
    assert executor.load()["active_turns"] == 2
    (fourth,) = submit(executor, "d")
    with pytest.raises(Unavailable):
        executor.check_capacity("new")
    first.release.set()
    await first.ended.wait()
    assert not fourth.started.is_set()
    third.release.set()
    await fourth.started.wait()
    await finish(executor, fourth)
    assert executor.load()["active_turns"] == 0


@on_loop
async def test_a_bridge_that_stops_lends_no_slots() -> None:
    executor = TurnExecutor(1, 1)
    first, second = submit(executor, "a", "b")
    await first.started.wait()
    executor.refuse()
    with executor.resting(first.job):
        assert second.positions == [1]
    await finish(executor, first)
    assert not second.started.is_set()


def test_only_so_many_slots_are_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor_module, "MAX_LENT_SLOTS", 1)

    @on_loop
    async def main() -> None:
        executor = TurnExecutor(1, 5)
        first, second, third = submit(executor, "a", "b", "c")
        with executor.resting(first.job):
            await second.started.wait()
            with executor.resting(second.job):
                await until(lambda: third.positions == [2, 1])
        await finish(executor, first, second)
        await third.started.wait()
        await finish(executor, third)

    main()
