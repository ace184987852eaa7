"""The port between services and runtimes: what a turn is given, what it reports, how it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from .limits import MAX_COMMAND_OUTPUT_BYTES
from .values import value

# A runtime event is one JSON object with a `type` (docs/api.md lists the types), and two which a session keeps and its
# stream does not carry: `usage.updated`, and `thread.caught_up`, when the thread has heard all of a turn's `history`.
Event = dict[str, Any]
Emit = Callable[[Event], None]


class TurnStatus(StrEnum):
    COMPLETED = "completed"
    INTERRUPTED = "interrupted"
    FAILED = "failed"


@value
class Failure:
    """Why a turn failed: a sentence for a person and a snake_case code."""

    message: str
    code: str


@value
class TurnOutcome:
    """How a turn ended. `unheard` is how many of the newest texts that steered it came too late to be answered."""

    status: TurnStatus
    failure: Failure | None = None
    unheard: int = 0


@value
class ModelRoute:
    """Where Codex sends a session's model requests: the gateway, and the token that opens it."""

    base_url: str
    token: str


class ExecutionClass(StrEnum):
    """Where the intent to act in the workspace comes from: Codex's own tools, tool calls of a chat model, or its text."""

    NATIVE_TOOLS = "native_tools"
    MODEL_TOOLS = "model_tools"
    BRIDGE_TOOLS = "bridge_tools"


@value
class Utterance:
    """What a person (`is_user`) or the model has said in an earlier turn of a session."""

    is_user: bool
    text: str


class ApprovalKind(StrEnum):
    """What Codex asks a person for: to run a command, to change files, more permissions, or to answer questions."""

    COMMAND = "command"
    FILE_CHANGE = "file_change"
    PERMISSIONS = "permissions"
    QUESTION = "question"


class Decision(StrEnum):
    """What a person may decide. `cancel` says no and ends the turn; after `decline` it goes on without."""

    ACCEPT = "accept"
    ACCEPT_FOR_SESSION = "accept_for_session"
    DECLINE = "decline"
    CANCEL = "cancel"


@value
class Question:
    """A question of the model. Where there are `options`, the answer is one of their labels, or any text with `is_other`.

    What answers a secret question is told to Codex and to nobody else.
    """

    id: str
    header: str
    text: str
    options: tuple[dict[str, str], ...] = ()
    is_other: bool = False
    is_secret: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "header": self.header,
            "question": self.text,
            "options": list(self.options),
            "is_other": self.is_other,
            "is_secret": self.is_secret,
        }


class Withdrawn(StrEnum):
    """Why nobody waits for an answer any more."""

    BY_CODEX = "withdrawn"
    TURN_ENDED = "turn_ended"
    CODEX_EXITED = "codex_exited"


@dataclass(slots=True)
class ApprovalRequest:
    """What Codex waits for. `decisions` are those it offers; `details` are the JSON fields that tell a host about it.

    A runtime that does not wait any longer says why in `withdrawn`, and cancels the `Ask` then.
    """

    kind: ApprovalKind
    item_id: str
    decisions: tuple[Decision, ...]
    details: dict[str, Any]
    questions: tuple[Question, ...] = ()
    withdrawn: Withdrawn = Withdrawn.BY_CODEX


@dataclass(frozen=True, slots=True)
class ApprovalAnswer:
    """What was decided; `answers` are texts by the id of their question, and may be secret."""

    decision: Decision
    answers: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)


# Asks a person. It may take minutes; who does not wait any longer cancels it, see `ApprovalRequest.withdrawn`.
Ask = Callable[[ApprovalRequest], Awaitable[ApprovalAnswer]]


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """Everything a runtime needs for one turn.

    `route` None means that Codex uses its own sign-in and service. `images` are absolute paths.
    `context` is what the host tells the model beside the message. `approval_policy` says when Codex asks;
    a runtime without the capability `approvals` never does. `history` is what was said before, turn by turn; the
    first `heard` of it are in the thread already, where that is Codex's.
    """

    session_id: str
    turn_id: str
    thread_id: str | None
    workspace_root: str
    sandbox_mode: str
    text: str
    approval_policy: str = "never"
    model: str | None = None
    route: ModelRoute | None = None
    images: tuple[str, ...] = ()
    context: dict[str, Any] = field(default_factory=dict)
    execution_class: ExecutionClass = ExecutionClass.NATIVE_TOOLS
    history: tuple[Utterance, ...] = ()
    heard: int = 0

    def missed(self, is_resumed: bool) -> tuple[Utterance, ...]:
        """Return what was said before and is not in Codex's thread: all of it, unless that is the session's own."""
        return self.history[self.heard if is_resumed else 0 :]


@dataclass(frozen=True, slots=True)
class Command:
    """A command for the sandbox. It may write below `root` where the mode allows that, and begins there or in `cwd`.

    `environ` is laid over that of Codex; None takes a variable away. Of what it writes, `max_output_bytes` of each
    stream are kept.
    """

    argv: Sequence[str]
    root: str
    sandbox_mode: str
    timeout_s: float
    cwd: str | None = None
    environ: Mapping[str, str | None] = field(default_factory=dict)
    max_output_bytes: int = MAX_COMMAND_OUTPUT_BYTES


@value
class CommandResult:
    """How a command ended that ran in the sandbox, and what it wrote. `is_cut`: it wrote more."""

    exit_code: int
    stdout: str
    stderr: str
    timed_out: bool = False
    is_cut: bool = False


# Told what a command writes, as it comes: both streams, as text.
OnOutput = Callable[[str], None]


@value
class Account:
    """What Codex says of its own sign-in.

    `kind` is "chatgpt", "apikey" or another word of Codex's, None when it is signed out. `is_needed` is False
    where Codex's own configuration names a model provider without sign-in. `doubt` is why the rest is not
    known, or why the sign-in does not count.
    """

    kind: str | None
    email: str | None = None
    plan: str | None = None
    is_needed: bool = True
    doubt: str | None = None

    @property
    def is_ready(self) -> bool:
        """Whether nothing is missing for a model request."""
        return self.kind is not None or not self.is_needed


@value
class LoginStarted:
    """A device login has begun: a person opens the address and enters the code. The id never leaves the bridge."""

    login_id: str
    verification_url: str
    user_code: str


@value
class LoginEnded:
    """A device login is over; `error` says why it failed."""

    login_id: str
    error: str | None


@value
class AccountChanged:
    """What was known of the account may not be true any more."""


@value
class CodexLost:
    """The Codex that was spoken to is gone, and a login that it had begun with it."""

    reason: str


AccountEvent = LoginStarted | LoginEnded | AccountChanged | CodexLost


class Accounts(Protocol):
    """Codex's own sign-in. Every call may start Codex; each raises `CodexFailed`."""

    def follow(self, on_event: Callable[[AccountEvent], None]) -> None:
        """Tell all events to `on_event`, in order."""

    async def read(self) -> Account:
        """Ask who is signed in."""

    async def start_device_login(self) -> None:
        """Begin a device login; `LoginStarted` tells its code before this returns."""

    async def cancel_device_login(self, login_id: str) -> None:
        """Give a device login up; one that is over already is fine."""

    async def sign_out(self) -> None:
        """Make Codex forget its sign-in, and give up a device login."""


class Sandbox(Protocol):
    """Runs commands in Codex's sandbox, outside of any turn."""

    async def run_command(self, command: Command, on_output: OnOutput | None = None) -> CommandResult:
        """Run one command to its end, or to its time's; raise `CodexFailed`.

        It ends with whoever waits for it: when that is cancelled, it is ended as well.
        """


class Runtime(Protocol):
    """Executes turns. `capabilities` says what it can and what it cannot, as docs/api.md lists it."""

    capabilities: Mapping[str, bool]

    @property
    def state(self) -> str:
        """How the child process is, as `/health` tells it; asked often."""

    async def run_turn(self, request: TurnRequest, emit: Emit, ask: Ask) -> TurnOutcome:
        """Run one turn to its end. Reports failures as an outcome; raises only when cancelled.

        Whatever Codex asks meanwhile waits for `ask` in a task of its own; none of them is left at the end.
        """

    async def interrupt(self, turn_id: str) -> None:
        """Ask a running turn to stop; its `run_turn` then ends within a grace time."""

    async def steer(self, turn_id: str, text: str, images: tuple[str, ...] = ()) -> None:
        """Give a running turn more to read; the model sees it after its next step.

        Raises `Conflict` with the code `turn_not_steerable` when the turn has not begun or is over, or this runtime
        cannot. A text that was taken may still come too late: `TurnOutcome.unheard` tells.
        """

    def close_thread(self, thread_id: str) -> None:
        """Let go of what a deleted session held."""

    def warm_up(self) -> None:
        """Begin what the first turn would wait for; a turn is likely to come."""

    async def stop(self) -> None:
        """End all child processes."""

    def describe(self) -> dict[str, Any]:
        """Return the runtime's part of `/runtime/info`."""
