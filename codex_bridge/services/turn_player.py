"""The turn player: runs one turn, from the look at what speaks against it to its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .. import log
from ..model import STRICTEST_POLICY, Role, Session
from ..runtime import (
    ApprovalAnswer,
    ApprovalRequest,
    Event,
    ExecutionClass,
    Failure,
    ModelRoute,
    Runtime,
    TurnOutcome,
    TurnRequest,
    TurnStatus,
    Utterance,
)
from ..values import value
from ..workspace.paths import is_unmoved
from .approvals import Approvals, Reason
from .backend import Backend
from .device_auth import DeviceAuth
from .executor import Job, TurnExecutor
from .gateway import Gateway
from .live import LiveSession
from .sandbox import SandboxCheck
from .transcript import Transcript
from .turn_timer import TurnTimer

# Failures that are not the upstream's, whatever it did before.
_CODEX_ITSELF = frozenset(
    {"codex_exited", "codex_stuck", "codex_unavailable", "workspace_moved", "sandbox_unavailable"}
    | {"approvals_unavailable"}
)
MOVED = Failure("The session's workspace is gone, or has become a link to another place.", "workspace_moved")
_UNASKED = Failure(
    "Nothing may be done in this session without asking, and this bridge asks nobody: by CODEX_APPROVAL_POLICY=never, "
    "or because CODEX_RUNTIME_KIND=exec cannot.",
    "approvals_unavailable",
)


@value
class Prompt:
    """What a turn is to do: what the model reads, the images it sees, and what the host tells it beside."""

    text: str
    images: tuple[str, ...]
    context: dict[str, Any]


@dataclass(eq=False, slots=True)
class Turn:
    """A turn that waits or runs. `storing` ends when it is on disk, with an exception when it could not be stored."""

    id: str
    live: LiveSession
    prompt: Prompt
    backend: Backend
    job: Job
    storing: asyncio.Future[None] | None = None
    has_waited: bool = False
    # Its place in the queue, 0 when it runs; and whether its session tells of it.
    position: int = 0
    is_told: bool = False
    # What joined it while it ran.
    steers: list[Prompt] = field(default_factory=list)
    timed_out: bool = False
    timer: TurnTimer | None = None
    # Runs while it is looked for what speaks against the turn.
    looking: asyncio.Task[Failure | None] | None = None
    interrupting: asyncio.Task[None] | None = None


class TurnPlayer:
    """Plays turns on the runtime."""

    def __init__(
        self,
        runtime: Runtime,
        gateway: Gateway,
        sandbox: SandboxCheck,
        device_auth: DeviceAuth,
        transcript: Transcript,
        approvals: Approvals,
        executor: TurnExecutor,
        class_of: Callable[[Backend], ExecutionClass],
        asks: bool,
        timeout_s: float,
    ) -> None:
        self._runtime = runtime
        self._gateway = gateway
        self._sandbox = sandbox
        self._device_auth = device_auth
        self._transcript = transcript
        self._approvals = approvals
        self._executor = executor
        self._class_of = class_of
        self._asks = asks
        self._timeout_s = timeout_s

    async def play(self, turn: Turn) -> TurnOutcome:
        """Run a turn to its end; an interrupted one may never begin."""
        turn.timer = TurnTimer(self._timeout_s, lambda: self._on_timeout(turn))
        try:
            outcome = await self._play(turn)
        except Exception as problem:  # noqa: BLE001 - whatever breaks, the session must not stay in `running`
            log.error("turn %s broke: %s: %s", turn.id, type(problem).__name__, problem)
            failure = Failure("The bridge met an error of its own; its log says more.", "internal_error")
            outcome = TurnOutcome(TurnStatus.FAILED, failure)
        finally:
            turn.timer.stop()
        return self._explain(turn, outcome)

    def warm_up(self, sandbox_mode: str) -> None:
        """Begin to try the sandbox of a mode."""
        self._sandbox.start(sandbox_mode)

    def interrupt(self, turn: Turn, reason: Reason = Reason.INTERRUPTED) -> None:
        """Stop a running turn; its `play` ends a moment later. What it asks a person is settled at once."""
        self._approvals.cancel(turn.live, turn.id, reason)
        if turn.interrupting is None:
            turn.interrupting = asyncio.create_task(
                self._runtime.interrupt(turn.id), name=f"interrupt of {turn.id}"
            )
        if turn.looking is not None:
            turn.looking.cancel()

    async def _play(self, turn: Turn) -> TurnOutcome:
        if turn.interrupting is not None:
            return TurnOutcome(TurnStatus.INTERRUPTED)
        turn.looking = asyncio.create_task(self._find_obstacle(turn), name=f"obstacles of {turn.id}")
        try:
            obstacle = await turn.looking
        except asyncio.CancelledError:
            if turn.interrupting is None:
                raise
            obstacle = None
        finally:
            turn.looking = None
        if turn.interrupting is not None:
            return TurnOutcome(TurnStatus.INTERRUPTED)
        if obstacle is not None:
            return TurnOutcome(TurnStatus.FAILED, obstacle)
        history = _history(turn.live.session, turn.id)
        request = self._make_request(turn, history)

        def on_event(event: Event) -> None:
            if event["type"] == "thread.caught_up":
                self._transcript.note_heard(turn.live, list(history)[-1])
                return
            if event["type"] == "turn.started":
                # Else nobody could see what `auto` was for this turn.
                event["execution_class"] = request.execution_class
                if request.execution_class is ExecutionClass.NATIVE_TOOLS:
                    self._transcript.note_heard(turn.live, turn.id)
            self._on_event(turn, event)

        return await self._runtime.run_turn(request, on_event, lambda asked: self._ask(turn, asked))

    async def _ask(self, turn: Turn, request: ApprovalRequest) -> ApprovalAnswer:
        """Ask a person, in time that is not the turn's."""
        assert turn.timer is not None
        with turn.timer.paused(), self._executor.resting(turn.job):
            return await self._approvals.ask(turn.live, turn.id, request)

    def _make_request(self, turn: Turn, history: dict[str, list[Utterance]]) -> TurnRequest:
        """Return what the runtime is given. Made late: the turn before may have begun the session's thread."""
        session, prompt = turn.live.session, turn.prompt
        return TurnRequest(
            session_id=session.id,
            turn_id=turn.id,
            thread_id=session.thread_id,
            workspace_root=session.workspace_root,
            sandbox_mode=session.sandbox_mode,
            approval_policy=session.approval_policy,
            text=prompt.text,
            model=turn.backend.settings.default_model,
            route=self._open_route(turn),
            images=prompt.images,
            context={**session.context, **prompt.context},
            execution_class=self._class_of(turn.backend),
            history=tuple(said for utterances in history.values() for said in utterances),
            heard=_count_heard(history, session.thread_turn_id),
        )

    def _open_route(self, turn: Turn) -> ModelRoute | None:
        session, backend = turn.live.session, turn.backend
        if backend.route is None:
            return None

        def on_usage(usage: dict[str, int]) -> None:
            so_far = session.usage or {}
            session.usage = {name: so_far.get(name, 0) + number for name, number in usage.items()}

        return self._gateway.open(
            session.id,
            backend.route,
            on_usage,
            lambda event: self._on_event(turn, event),
            backend.settings.wire_api,
        )

    async def _find_obstacle(self, turn: Turn) -> Failure | None:
        """Return what must keep the turn from running."""
        if not is_unmoved(turn.live.session.workspace_root):
            return MOVED
        session = turn.live.session
        if session.approval_policy == STRICTEST_POLICY and not self._asks:
            return _UNASKED
        if turn.backend.route is None:
            obstacle = await self._device_auth.find_obstacle()
            if obstacle is not None:
                return obstacle
        return await self._sandbox.find_obstacle(session.sandbox_mode)

    def _on_event(self, turn: Turn, event: Event) -> None:
        if event["type"] != "usage.updated":
            self._transcript.note(turn.live, turn.id, event)
        elif turn.backend.route is None:  # else the gateway counts, the same for all runtimes
            turn.live.session.usage = event["usage"]

    def _on_timeout(self, turn: Turn) -> None:
        turn.timed_out = True
        self.interrupt(turn)

    def _explain(self, turn: Turn, outcome: TurnOutcome) -> TurnOutcome:
        """Return the outcome with the reason that says most: the bridge's own, the gateway's, or Codex's."""
        if turn.timed_out and outcome.status is not TurnStatus.COMPLETED:
            failure = Failure(
                f"The turn took longer than {self._timeout_s:g} s and was stopped.", "turn_timeout"
            )
            return TurnOutcome(TurnStatus.FAILED, failure)
        if outcome.failure is not None and turn.backend.route is None:
            return TurnOutcome(outcome.status, self._device_auth.explain(outcome.failure))
        if outcome.failure is not None and outcome.failure.code not in _CODEX_ITSELF:
            told = self._gateway.last_failure(turn.live.session.id)
            if told is not None:
                return TurnOutcome(TurnStatus.FAILED, told)
        return outcome


def _history(session: Session, turn_id: str) -> dict[str, list[Utterance]]:
    """Return what was said in a session before a turn, turn by turn."""
    later = {turn_id, *session.queued_turn_ids}
    by_turn: dict[str, list[Utterance]] = {}
    for message in session.messages:
        if message.turn_id not in later:
            said = by_turn.setdefault(message.turn_id, [])
            if message.text:
                said.append(Utterance(message.role is Role.USER, message.text))
    return by_turn


def _count_heard(history: dict[str, list[Utterance]], last_turn_id: str | None) -> int:
    """Return how much was said up to the end of the last turn that Codex's thread has heard of."""
    if last_turn_id not in history:
        return 0
    turn_ids = list(history)
    return sum(len(history[turn_id]) for turn_id in turn_ids[: turn_ids.index(last_turn_id) + 1])
