"""Making the calls of one turn: judged, allowed by a person where the session's policy wants it, run, and told."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

from ..adapters.threads import in_thread
from ..errors import BridgeError, InvalidField
from ..limits import MAX_ACCEPTED, TOOL_END_S
from ..protocol.tools import FileEdit, ToolResult, check_input, refusal
from ..protocol.turn_diff import TurnDiff
from ..runtime import ApprovalKind, ApprovalRequest, Ask, Decision, Emit, TurnRequest, Withdrawn
from ..workspace.tools import Place, Tools
from .dialect import OFFERED, ToolCall, result_text
from .loop_items import ToolItem, command_line

Json = dict[str, Any]

_UNTRUSTED, _NEVER = "untrusted", "never"
_UNSANDBOXED = "danger-full-access"
# What only a model says of a command, and the tool does not know.
_MODELS_OWN = frozenset({"escalate", "justification"})
_DECLINED = refusal(
    "declined",
    "The person has not allowed it, and nothing was done. Do not try the same in another way; go on without, or end "
    "and say what is missing.",
)
_NO_ESCALATION = refusal(
    "escalation_refused",
    "Nobody can be asked in this session, so nothing runs outside of the sandbox. Do without, or end and say why.",
)


class TurnCancelled(Exception):
    """A person has answered an approval so that the turn ends."""


class Accepted:
    """What a person has accepted for a session: it is not asked for again."""

    def __init__(self) -> None:
        self._keys: OrderedDict[Hashable, None] = OrderedDict()

    def covers(self, keys: Sequence[Hashable]) -> bool:
        return bool(keys) and all(key in self._keys for key in keys)

    def add(self, keys: Sequence[Hashable]) -> None:
        self._keys.update(dict.fromkeys(keys))
        while len(self._keys) > MAX_ACCEPTED:
            self._keys.popitem(last=False)


class Calls:
    """Makes the calls of one turn. `diff` is what its edits have changed so far."""

    def __init__(self, tools: Tools, request: TurnRequest, emit: Emit, ask: Ask, accepted: Accepted) -> None:
        self._tools = tools
        self._request = request
        self._place = Place(request.workspace_root, request.sandbox_mode)
        self._emit = emit
        self._ask = ask
        self._accepted = accepted
        self._diff = TurnDiff()

    async def make(self, call: ToolCall) -> tuple[ToolResult, bool]:
        """Make a call; return its result, and False when it was no call that could be made.

        Raises `TurnCancelled`. When whoever waits is cancelled, the tool ends first.
        """
        arguments = _check(call)
        if isinstance(arguments, ToolResult):
            message = str((arguments.error or {}).get("message"))
            self._emit({"type": "warning", "code": "tool_call_refused", "message": message})
            return arguments, False
        item = ToolItem(self._emit, self._place.root, call.name, arguments)
        try:
            if call.name == "apply_patch":
                result = await self._edit(item, arguments)
            elif call.name == "run_command":
                result = await self._run_command(item, arguments)
            else:
                item.start()
                result = await self._run(item, call.name, arguments, self._place)
        except (asyncio.CancelledError, BridgeError):
            if item.item["status"] == "inProgress":
                item.break_off()
            raise
        return result, True

    async def _run(self, item: ToolItem, tool: str, arguments: Json, place: Place) -> ToolResult:
        item.begin_work()
        result = await self._tools.run(tool, arguments, place, item.on_output)
        item.complete(result, result_text(result))
        return result

    async def _run_command(self, item: ToolItem, arguments: Json) -> ToolResult:
        escalates = arguments.get("escalate") is True
        policy, place = self._request.approval_policy, self._place
        escalates = escalates and place.sandbox_mode != _UNSANDBOXED  # else it has what it asks for
        if escalates and policy == _NEVER:
            item.start()
            item.decline(_NO_ESCALATION)
            return _NO_ESCALATION
        item.start()
        if escalates or policy == _UNTRUSTED:
            details = {
                "reason": arguments.get("justification"),
                "command": command_line("run_command", arguments),
                "cwd": item.item["cwd"],
            }
            key = ("command", arguments["command"], item.item["cwd"], escalates)
            if not await self._is_allowed(item, ApprovalKind.COMMAND, (key,), details):
                return _DECLINED
        if escalates:
            place = Place(place.root, _UNSANDBOXED)
        plain = {name: value for name, value in arguments.items() if name not in _MODELS_OWN}
        return await self._run(item, "run_command", plain, place)

    async def _edit(self, item: ToolItem, arguments: Json) -> ToolResult:
        shown = await self._tools.preview_patch(arguments, self._place)
        changes = list(shown.diffs)
        item.start(changes)
        if not shown.is_ok:
            item.complete(shown, "")
            return shown
        if self._request.approval_policy == _UNTRUSTED:
            details = {"reason": None, "changes": changes, "grant_root": None}
            keys = [("edit", path) for change in changes for path in _paths(change)]
            if not await self._is_allowed(item, ApprovalKind.FILE_CHANGE, keys, details):
                return _DECLINED
        result = await self._tools.apply_patch(arguments, self._place, shown)
        item.complete(result, "")
        if result.edits:
            await self._tell_diff(result.edits)
        return result

    async def _tell_diff(self, edits: Sequence[FileEdit]) -> None:
        """Tell what the turn has changed so far, also when it ends meanwhile, unless that takes long: the files are changed by now."""

        def note() -> str:
            for edit in edits:
                self._diff.note(edit.path, edit.before, edit.after, edit.new_path)
            return self._diff.render()

        # In a thread: hundreds of files, of megabytes, take seconds.
        noting = in_thread(note, "diff of a turn")
        try:
            await asyncio.shield(noting)
        finally:
            if (await asyncio.wait([noting], timeout=TOOL_END_S))[0]:
                self._emit({"type": "turn.diff.updated", "diff": noting.result()})

    async def _is_allowed(
        self, item: ToolItem, kind: ApprovalKind, keys: Sequence[Hashable], details: Json
    ) -> bool:
        """Ask a person, where it was not accepted for the session; an item that is not allowed is ended."""
        if self._accepted.covers(keys):
            return True
        request = ApprovalRequest(kind, item.id, tuple(Decision), details, withdrawn=Withdrawn.TURN_ENDED)
        try:
            answer = await self._ask(request)
        except asyncio.CancelledError:
            item.decline(_DECLINED)
            raise
        if answer.decision is Decision.ACCEPT_FOR_SESSION:
            self._accepted.add(keys)
        if answer.decision in (Decision.ACCEPT, Decision.ACCEPT_FOR_SESSION):
            return True
        item.decline(_DECLINED)
        if answer.decision is Decision.CANCEL:
            raise TurnCancelled
        return False


def _check(call: ToolCall) -> Json | ToolResult:
    """Return a call's arguments with their defaults, or what the model is told of a call that cannot be made."""
    if call.problem is not None:
        return refusal("invalid_call", call.problem)
    spec = OFFERED.get(call.name)
    if spec is None:
        return refusal(
            "unknown_tool", f"There is no tool {call.name[:80]!r}; there are: {', '.join(OFFERED)}."
        )
    try:
        return check_input(spec, call.arguments)
    except InvalidField as problem:
        return refusal("invalid_arguments", problem.message)


def _paths(change: Json) -> list[str]:
    moved = change["kind"].get("move_path")
    return [change["path"], moved] if moved else [change["path"]]
