"""The runtime of runtimes: gives each turn to the one that plays its execution class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import Conflict
from ..runtime import Ask, Emit, ExecutionClass, Runtime, TurnOutcome, TurnRequest

# What the bridge can where it plays turns itself, which is told before it has to.
LOOP_CAPABILITIES: Mapping[str, bool] = {
    "deltas": True, "diffs": True, "interrupt": True, "resume": True, "images": True,
    "background_commands": False, "approvals": True, "steer": True,
}  # fmt: skip


class ClassRuntime:
    """Implements the `Runtime` port. How it is is told of the native one, which has processes.

    `make` returns the runtime of another class, and is asked once, when the first turn needs it.
    """

    def __init__(self, native: Runtime, make: Callable[[ExecutionClass], Runtime]) -> None:
        self._native = native
        self._make = make
        self._by_class = {ExecutionClass.NATIVE_TOOLS: native}
        self._playing: dict[str, Runtime] = {}
        self.capabilities: Mapping[str, bool] = native.capabilities

    def capabilities_of(self, execution_class: ExecutionClass) -> Mapping[str, bool]:
        """Return what turns of a class can."""
        native = self._native.capabilities
        if execution_class is ExecutionClass.NATIVE_TOOLS:
            return native
        # Where Codex cannot ask, the policy of all sessions is not to.
        return {**LOOP_CAPABILITIES, "approvals": native["approvals"]}

    @property
    def state(self) -> str:
        return self._native.state

    async def run_turn(self, request: TurnRequest, emit: Emit, ask: Ask) -> TurnOutcome:
        """Run one turn; see `Runtime`."""
        wanted = request.execution_class
        if wanted not in self._by_class:
            self._by_class[wanted] = self._make(wanted)
        runtime = self._playing[request.turn_id] = self._by_class[wanted]
        try:
            return await runtime.run_turn(request, emit, ask)
        finally:
            del self._playing[request.turn_id]

    async def interrupt(self, turn_id: str) -> None:
        """Ask a running turn to stop."""
        if turn_id in self._playing:
            await self._playing[turn_id].interrupt(turn_id)

    async def steer(self, turn_id: str, text: str, images: tuple[str, ...] = ()) -> None:
        """Give a running turn more to read; see `Runtime`."""
        if turn_id not in self._playing:
            raise Conflict(
                "The turn cannot be steered: it has not begun, or is over.", code="turn_not_steerable"
            )
        await self._playing[turn_id].steer(turn_id, text, images)

    def close_thread(self, thread_id: str) -> None:
        """Let go of what a deleted session held."""
        for runtime in self._by_class.values():
            runtime.close_thread(thread_id)

    def warm_up(self) -> None:
        """Begin what the first turn would wait for."""
        self._native.warm_up()

    async def stop(self) -> None:
        """Do nothing: whoever made the runtimes stops them."""

    def describe(self) -> dict[str, Any]:
        """Return the runtime's part of `/runtime/info`."""
        return self._native.describe()
