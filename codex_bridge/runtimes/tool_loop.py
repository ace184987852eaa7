"""The runtime that plays turns itself: a model behind the gateway says what it wants done, in some dialect, and the
bridge's own tools do it.

It keeps no conversation: each turn brings its history. Of a thread it knows for a while what a person has accepted.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from ..adapters.http_client import HttpClient
from ..errors import Conflict
from ..limits import MAX_LOADED_THREADS
from ..runtime import Ask, Emit, Failure, TurnOutcome, TurnRequest, TurnStatus
from ..workspace.tools import Tools
from .by_class import LOOP_CAPABILITIES
from .dialect import Dialect
from .loop_calls import Calls
from .loop_model import Model
from .loop_turn import LoopTurn, Thread


class ToolLoopRuntime:
    """Implements the `Runtime` port for one dialect, which is made anew for each turn. `client` reaches the gateway: on loopback, without proxies."""

    capabilities = LOOP_CAPABILITIES

    def __init__(self, make_dialect: Callable[[], Dialect], tools: Tools, client: HttpClient) -> None:
        self._make_dialect = make_dialect
        self._tools = tools
        self._client = client
        self._threads: OrderedDict[str, Thread] = OrderedDict()
        self._turns: dict[str, LoopTurn] = {}
        self._playing: dict[str, asyncio.Task[TurnOutcome]] = {}

    @property
    def state(self) -> str:
        return "running"  # in this process itself

    async def run_turn(self, request: TurnRequest, emit: Emit, ask: Ask) -> TurnOutcome:
        """Run one turn; see `Runtime`."""
        if request.route is None:
            failure = Failure(
                "This class of turns needs a provider that the bridge itself calls.", "no_upstream"
            )
            return TurnOutcome(TurnStatus.FAILED, failure)
        thread = self._open_thread(request, emit)
        calls = Calls(self._tools, request, emit, ask, thread.accepted)
        model = Model(self._client, request.route, request.model)
        turn = LoopTurn(request, self._make_dialect(), model, calls, thread, emit)
        # A task of its own: an interrupt cancels it, and not whoever waits for the turn.
        task = asyncio.create_task(turn.play(), name=f"loop of {request.turn_id}")
        self._turns[request.turn_id], self._playing[request.turn_id] = turn, task
        try:
            await asyncio.wait([task])
        finally:
            del self._turns[request.turn_id], self._playing[request.turn_id]
            await _end(task)
        return TurnOutcome(TurnStatus.INTERRUPTED) if task.cancelled() else task.result()

    async def interrupt(self, turn_id: str) -> None:
        """End a turn: its model request, the tool that runs, what it asks a person."""
        if turn_id in self._playing:
            await _end(self._playing[turn_id])

    async def steer(self, turn_id: str, text: str, images: tuple[str, ...] = ()) -> None:
        """Give a running turn more to read; see `Runtime`."""
        turn = self._turns.get(turn_id)
        if turn is None or not await turn.steer(text, images):
            raise Conflict(
                "The turn cannot be steered: it has not begun, or is over.", code="turn_not_steerable"
            )

    def close_thread(self, thread_id: str) -> None:
        """Forget what a person has accepted in a deleted session."""
        self._threads.pop(thread_id, None)

    def warm_up(self) -> None:
        """Do nothing: there is nothing to start."""

    async def stop(self) -> None:
        """End all turns, and the connections to the gateway."""
        for task in list(self._playing.values()):
            await _end(task)
        self._client.close()

    def describe(self) -> dict[str, Any]:
        """Return how many turns run."""
        return {"running_turns": len(self._turns)}

    def _open_thread(self, request: TurnRequest, emit: Emit) -> Thread:
        """Return what is known of a turn's thread, and tell a new one, or one that was forgotten, as Codex does."""
        # In the form of Codex's own: a session may change its class, and Codex then looks for the thread.
        thread_id = request.thread_id or str(uuid.uuid4())
        if thread_id not in self._threads:
            self._threads[thread_id] = Thread()
            resumed = request.thread_id is not None
            emit({"type": "thread.started", "thread_id": thread_id, "resumed": resumed})
        self._threads.move_to_end(thread_id)
        while len(self._threads) > MAX_LOADED_THREADS:
            self._threads.popitem(last=False)
        return self._threads[thread_id]


async def _end(task: asyncio.Task[TurnOutcome]) -> None:
    """Cancel a task where it still runs, and wait for its end."""
    if not task.done():
        task.cancel()
        await asyncio.wait([task])
