"""Supervision of the app-server's children: which one new turns go to, when one is started, when one is ended.

What it does next is in its state; `TRANSITIONS` has every way from one to another, and nothing else happens:

    stopped       no child runs, and none is needed now
    starting      the first to need one has a child started; all who need it share that start
    running       there is a current child, and new turns go to it
    replacing     the same, while a newer one is started that is to take its place
    backing_off   one has ended too soon, or did not start: the next start waits, longer each time
    given_up      it has happened too often: nothing is started for a while, or until Codex is another program
    stopping      the bridge ends

Beside the current child there may be outdated ones. They get no new turns, and are ended when the last thing
that uses them has ended. So neither a new sign-in nor a new program waits for running turns or cuts them off;
and when the new one does not start, the current child stays what it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from .. import log
from ..adapters.process import Program
from ..errors import CodexFailed
from ..limits import GIVE_UP_S, HEALTHY_AFTER_S
from ..model import now_ms
from ..protocol import codex
from ..runtime import AccountEvent, CodexLost
from ..workspace.scratch import keep_scratch
from .app_server_child import AppServerChild
from .quick_exits import QuickExits


class State(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    REPLACING = "replacing"
    BACKING_OFF = "backing_off"
    GIVEN_UP = "given_up"
    STOPPING = "stopping"


TRANSITIONS: dict[State, frozenset[State]] = {
    # Somebody needs a child.
    State.STOPPED: frozenset({State.STARTING, State.STOPPING}),
    # It runs; or it did not start, and that for the first times, or once too often.
    State.STARTING: frozenset({State.RUNNING, State.BACKING_OFF, State.GIVEN_UP, State.STOPPING}),
    # It is outdated; or it has ended: after it has worked or by our own hand, or too soon.
    State.RUNNING: frozenset(
        {State.REPLACING, State.STOPPED, State.BACKING_OFF, State.GIVEN_UP, State.STOPPING}
    ),
    # The new one runs, or it does not and the old one stays; or the old one has ended meanwhile.
    State.REPLACING: frozenset({State.RUNNING, State.STARTING, State.STOPPING}),
    # Somebody needs a child and has waited; or nobody does.
    State.BACKING_OFF: frozenset({State.STARTING, State.STOPPED, State.STOPPING}),
    # It is time for another try, whether somebody needs one or not.
    State.GIVEN_UP: frozenset({State.STARTING, State.STOPPED, State.STOPPING}),
    State.STOPPING: frozenset(),
}


class Lifecycle:
    """Holds the state, and lets it change only as `TRANSITIONS` says."""

    def __init__(self) -> None:
        self.state = State.STOPPED

    def move(self, to: State) -> None:
        """Change the state."""
        assert to in TRANSITIONS[self.state], f"a Codex that is {self.state} cannot be {to} next"
        log.debug("the app-server is %s", to)
        self.state = to


class Supervisor:
    """Owns the children. `command` is None when no Codex was found.

    `on_account_event` is told what they say of Codex's account, and `CodexLost` when the current one is gone, or
    is not the current one any more.
    """

    def __init__(
        self,
        command: str | None,
        environ: Mapping[str, str],
        on_account_event: Callable[[AccountEvent], None],
    ) -> None:
        self._command = command
        self._environ = environ
        self._on_account_event = on_account_event
        # Says whether the current child must stay, whatever program there is by now.
        self.must_stay: Callable[[], bool] = lambda: False
        self._lifecycle = Lifecycle()
        self._current: AppServerChild | None = None
        self.children: list[AppServerChild] = []
        self._starting: asyncio.Task[AppServerChild] | None = None
        self._started_at = 0.0
        self._starts = 0
        self._is_outdated = False
        self._quick_exits = QuickExits()
        self._timer: asyncio.TimerHandle | None = None
        # The newest program that did not start in place of a current child, and when that was.
        self._refused: tuple[Program, float] | None = None
        self._problem: str | None = None
        self._last_exit: dict[str, Any] | None = None
        # Those that end outdated children.
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> State:
        return self._lifecycle.state

    async def ready_child(self) -> AppServerChild:
        """Return the child for what is new, started by the first of all who wait for it; raise `CodexFailed`."""
        if self.state is State.STOPPING:
            raise _shutting_down()
        if self._command is None:
            raise CodexFailed(codex.NOT_FOUND, code="codex_unavailable")
        now = _now()
        if self.state is State.RUNNING and self._current is not None and not self._wants_another(now):
            return self._current
        if self.state is State.GIVEN_UP and self._quick_exits.has_given_up(Program.at(self._command), now):
            raise self._quick_exits.failure(now)
        starting = self._starting or self._begin_start()
        try:
            # Shielded: one turn that gives up must not take the start away from the others.
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            if starting.cancelled():
                raise _shutting_down() from None
            raise

    def warm_up(self) -> None:
        """Begin to start a child where none is, so that the first turn need not wait for it."""
        if self._command is not None and self.state is State.STOPPED and self._starting is None:
            self._begin_start()

    def replace_current(self) -> None:
        """Have the next who needs a child get a new one; what the current one does it may finish."""
        self._is_outdated = self._current is not None

    async def stop(self) -> None:
        """End all children, and wait for them."""
        self._lifecycle.move(State.STOPPING)
        if self._timer is not None:
            self._timer.cancel()
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.wait([self._starting])
        await asyncio.gather(*(child.stop() for child in self.children), *self._ending)

    def describe(self) -> dict[str, Any]:
        """Return the state of the children."""
        current = self._current
        return {
            "state": self.state,
            "pid": current.pid if current else None,
            "version": current.version if current else None,
            "restarts": max(0, self._starts - 1),
            "quick_exits": self._quick_exits.count,
            "last_exit": self._last_exit,
            "problem": self._problem,
            "children": [{**child.describe(), "is_current": child is current} for child in self.children],
        }

    # Starting -------------------------------------------------------------------------------------

    def _wants_another(self, now: float) -> bool:
        """Say whether the current child is outdated: its sign-in, or its program."""
        if self._is_outdated:
            return True
        assert self._command is not None
        assert self._current is not None
        program = Program.at(self._command)
        if program == self._current.program or not program.exists or self.must_stay():
            return False
        return self._refused is None or self._refused[0] != program or now - self._refused[1] > GIVE_UP_S

    def _begin_start(self) -> asyncio.Task[AppServerChild]:
        self._starting = asyncio.create_task(self._start(), name="start of codex")
        self._starting.add_done_callback(self._on_start_done)
        return self._starting

    def _on_start_done(self, task: asyncio.Task[AppServerChild]) -> None:
        self._starting = None
        if not task.cancelled():
            task.exception()  # whoever waits for it has it, and perhaps nobody does

    async def _start(self) -> AppServerChild:
        assert self._command is not None
        if self.state is State.BACKING_OFF:
            wait_s = self._quick_exits.wait_s(_now())
            log.info("Codex is restarted in %.1f s", wait_s)
            await asyncio.sleep(wait_s)
        self._lifecycle.move(State.REPLACING if self.state is State.RUNNING else State.STARTING)
        program = Program.at(self._command)
        child = AppServerChild(self._on_exit, self._end_outdated, self._on_account_event)
        keep_scratch(self._environ["TMPDIR"])
        try:
            await child.start(program, self._environ)
        except asyncio.CancelledError:
            await child.stop()
            raise
        except CodexFailed as problem:
            return self._on_start_failed(program, problem)
        return self._on_started(child)

    def _on_started(self, child: AppServerChild) -> AppServerChild:
        log.info("Codex %s runs as process %s", child.version, child.pid)
        before = self._current
        self._current, self._started_at, self._is_outdated = child, _now(), False
        self._starts += 1
        self._refused = self._problem = None
        self.children.append(child)
        self._lifecycle.move(State.RUNNING)
        if before is not None:
            self._on_account_event(CodexLost("Codex was replaced by a newer one."))
            self._end_outdated(before)
        return child

    def _on_start_failed(self, program: Program, problem: CodexFailed) -> AppServerChild:
        """Return the current child where there still is one; else raise."""
        if self.state is State.REPLACING and self._current is not None:
            self._refused, self._is_outdated = (program, _now()), False
            self._problem = f"The Codex that runs is outdated, and no other one starts: {problem.message}"
            log.warning("%s It is used on.", self._problem)
            self._lifecycle.move(State.RUNNING)
            return self._current
        self._back_off(program, problem.message)
        raise problem

    def _back_off(self, program: Program, said: str) -> None:
        now = _now()
        self._last_exit = {"at": now_ms(), "reason": log.redact(said)}
        self._quick_exits.note(program, said, now)
        given_up = self._quick_exits.has_given_up(program, now)
        self._lifecycle.move(State.GIVEN_UP if given_up else State.BACKING_OFF)
        self._problem = self._quick_exits.failure(now).message if given_up else said
        log.warning("%s", self._problem)
        if self._timer is not None:
            self._timer.cancel()
        wait_s = self._quick_exits.wait_s(now)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._on_waited)

    def _on_waited(self) -> None:
        if self.state in (State.BACKING_OFF, State.GIVEN_UP) and self._starting is None:
            self._lifecycle.move(State.STOPPED)

    # Ending ---------------------------------------------------------------------------------------

    def _end_outdated(self, child: AppServerChild) -> None:
        """End a child that is not the current one, once nothing uses it any more."""
        if child is not self._current and child in self.children and child.is_resting and child.is_wanted:
            ending = asyncio.create_task(child.stop(), name=f"end of codex {child.pid}")
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    def _on_exit(self, child: AppServerChild, failure: CodexFailed) -> None:
        if child not in self.children:
            return  # it never started, which is told where that was awaited
        self.children.remove(child)
        if child.is_wanted:
            log.warning("%s", failure.message)
        if child is not self._current:
            return
        self._current, self._is_outdated = None, False
        self._on_account_event(CodexLost(failure.message))
        if self.state is State.STOPPING:
            return
        self._last_exit = {"at": now_ms(), "reason": log.redact(failure.message)}
        is_healthy = child.is_proven or _now() - self._started_at >= HEALTHY_AFTER_S
        if is_healthy:
            self._quick_exits.forget()
        if self.state is State.REPLACING:
            self._lifecycle.move(State.STARTING)
        elif is_healthy or not child.is_wanted:
            self._lifecycle.move(State.STOPPED)
        else:
            assert child.program is not None
            self._back_off(child.program, failure.message)


def _shutting_down() -> CodexFailed:
    return CodexFailed("The bridge is shutting down.", code="shutting_down")


def _now() -> float:
    return asyncio.get_running_loop().time()
