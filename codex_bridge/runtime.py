"""The port between services and runtimes: what a turn is given, what it reports, how it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

# A runtime event is one JSON object with a `type` (docs/api.md lists the types), and
# `usage.updated`, which a session keeps and its stream does not carry.
Event = dict[str, Any]
Emit = Callable[[Event], None]


class TurnStatus(StrEnum):
    COMPLETED = "completed"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a turn failed: a sentence for a person and a snake_case code."""

    message: str
    code: str


@dataclass(frozen=True, slots=True)
class TurnOutcome:
    status: TurnStatus
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """Where Codex sends a session's model requests: the gateway, and the token that opens it."""

    base_url: str
    token: str


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """Everything a runtime needs for one turn.

    `route` None means that Codex uses its own sign-in and service. `images` are absolute paths.
    `context` is what the host tells the model beside the message.
    """

    session_id: str
    turn_id: str
    thread_id: str | None
    workspace_root: str
    sandbox_mode: str
    text: str
    model: str | None = None
    route: ModelRoute | None = None
    images: tuple[str, ...] = ()
    context: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended that ran in the sandbox, and what it wrote."""

    exit_code: int
    stdout: str
    stderr: str


class Sandbox(Protocol):
    """Runs commands in Codex's sandbox, outside of any turn."""

    async def run_command(
        self, command: Sequence[str], cwd: str, sandbox_mode: str, timeout_s: float
    ) -> CommandResult:
        """Run one command, which may write below `cwd` where the mode allows that; raise `CodexFailed`."""


class Runtime(Protocol):
    """Executes turns."""

    async def run_turn(self, request: TurnRequest, emit: Emit) -> TurnOutcome:
        """Run one turn to its end. Reports failures as an outcome; raises only when cancelled."""

    async def interrupt(self, turn_id: str) -> None:
        """Ask a running turn to stop; its `run_turn` then ends within a grace time."""

    def close_thread(self, thread_id: str) -> None:
        """Let go of what a deleted session held."""

    def warm_up(self) -> None:
        """Begin what the first turn would wait for; a turn is likely to come."""

    async def stop(self) -> None:
        """End all child processes."""

    def describe(self) -> dict[str, Any]:
        """Return the runtime's part of `/runtime/info`."""
