"""The trial: one small edit in a scratch workspace, played by a runtime as a turn of a host would be.

What the model says is no evidence: the file must be as asked, and an item must have told of it.
"""

from __future__ import annotations

import asyncio
import os

from ..limits import TRIAL_TIMEOUT_S
from ..model import new_id
from ..runtime import (
    ApprovalAnswer,
    ApprovalRequest,
    Decision,
    Event,
    ExecutionClass,
    ModelRoute,
    Runtime,
    TurnOutcome,
    TurnRequest,
    TurnStatus,
)
from ..values import value
from ..workspace.jail import Jail
from ..workspace.place import Refused
from ..workspace.scratch import remove_tree
from .probes import Finding, short

_FILE = "greeting.txt"
_BEFORE = "Hello, world!\nThis line stays as it is.\n"
_TASK = (
    "In the file greeting.txt of this workspace, replace the word world by the word {word}, and change nothing else. "
    "Do it with your tools, then say in one sentence what you did."
)
# What tells of a change that was really made.
_EDITS = ("fileChange", "commandExecution")


@value
class TrialResult:
    """What came of a trial; `acted`: the model has at least used the tools of its class."""

    finding: Finding
    acted: bool


class Trial:
    """Plays the edit once. `session_id` is where the gateway knows the route by."""

    def __init__(self, runtime: Runtime, directory: str, session_id: str, sandbox_mode: str) -> None:
        self._runtime = runtime
        self._workspace = os.path.join(os.path.realpath(directory), session_id)
        self._session_id = session_id
        self._sandbox_mode = sandbox_mode
        self._thread_id: str | None = None
        self._done: set[str] = set()
        self._said: list[str] = []

    async def play(
        self, execution_class: ExecutionClass, model: str | None, route: ModelRoute | None
    ) -> TrialResult:
        """Play it under an execution class, and look at the file."""
        # Not to be guessed, so that no answer from memory counts.
        word = f"reader{os.urandom(3).hex()}"
        os.makedirs(self._workspace)
        try:
            _write(os.path.join(self._workspace, _FILE), _BEFORE)
            outcome = await self._play(
                TurnRequest(
                    session_id=self._session_id,
                    turn_id=new_id("t"),
                    thread_id=None,
                    workspace_root=self._workspace,
                    sandbox_mode=self._sandbox_mode,
                    approval_policy="never",
                    text=_TASK.format(word=word),
                    model=model,
                    route=route,
                    execution_class=execution_class,
                )
            )
            finding = self._judge(outcome, _read(self._workspace), _BEFORE.replace("world", word))
        finally:
            if self._thread_id is not None:
                self._runtime.close_thread(self._thread_id)
            # In a thread: the model may have put anything into it.
            await asyncio.to_thread(remove_tree, self._workspace)
        return TrialResult(finding, bool(self._done))

    async def _play(self, request: TurnRequest) -> TurnOutcome | None:
        """Return how the turn ended, None when its time was over."""
        turn = asyncio.create_task(
            self._runtime.run_turn(request, self._on_event, _refuse), name=f"trial {request.turn_id}"
        )
        try:
            await asyncio.wait([turn], timeout=TRIAL_TIMEOUT_S)
            return turn.result() if turn.done() else None
        finally:
            if not turn.done():
                await self._runtime.interrupt(request.turn_id)
                await asyncio.wait([turn])

    def _on_event(self, event: Event) -> None:
        item = event.get("item", {})
        if event["type"] == "thread.started":
            self._thread_id = event["thread_id"]
        elif event["type"] == "bridge.tool.result":
            self._done.add("tool")
        elif event["type"] == "item.completed" and item.get("type") == "agentMessage":
            self._said = [item["text"]]
        elif event["type"] == "item.completed" and item.get("status") == "completed":
            self._done.add(item["type"])

    def _judge(self, outcome: TurnOutcome | None, found: str | None, wanted: str) -> Finding:
        if outcome is None:
            return Finding(False, f"The task was not done within {TRIAL_TIMEOUT_S:g} s.")
        edits = [kind for kind in _EDITS if kind in self._done]
        if found == wanted and edits and outcome.status is TurnStatus.COMPLETED:
            return Finding(True, f"{_FILE} was changed as asked, and the item {edits[0]} told of it.")
        said = f" The model said: “{short(self._said[0])}”" if self._said else ""
        if outcome.failure is not None:
            return Finding(False, short(f"The turn failed: {outcome.failure.message}"))
        if found == _BEFORE:
            return Finding(False, f"{_FILE} was not changed.{said}")
        return Finding(False, f"{_FILE} was changed, but not as asked.{said}")


async def _refuse(request: ApprovalRequest) -> ApprovalAnswer:
    """Ask nobody."""
    return ApprovalAnswer(Decision.DECLINE)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _read(workspace: str) -> str | None:
    """Return what the file says. The model may have put something else in its place, a FIFO too, which would be waited for."""
    try:
        with Jail(workspace) as jail:
            opened, _ = jail.open_file(_FILE)
            with open(opened, encoding="utf-8", errors="replace") as file:
                return file.read(2 * len(_BEFORE))
    except (Refused, OSError):
        return None
