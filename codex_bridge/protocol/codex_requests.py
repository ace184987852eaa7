"""What the app-server asks of the bridge: its server requests, read for a person and answered in Codex's words.

Measured with Codex 0.163 and 0.169. `availableDecisions` is what Codex's own terminal shows: for a command "accept",
"always" and "cancel". It takes the other two words as well, and `decline` must be possible wherever something is
asked: an approval that nobody answers is declined, and the turn goes on. "Always", a structured decision, would write
a rule for all sessions into the user's files; `acceptForSession`, what Codex keeps for the thread alone, is offered
in its place.
"""

from __future__ import annotations

from typing import Any

from ..runtime import ApprovalAnswer, ApprovalKind, ApprovalRequest, Decision, Question

_COMMAND = "item/commandExecution/requestApproval"
_FILE_CHANGE = "item/fileChange/requestApproval"
_PERMISSIONS = "item/permissions/requestApproval"
_QUESTION = "item/tool/requestUserInput"
# What a person is asked.
APPROVALS = (_COMMAND, _FILE_CHANGE, _PERMISSIONS, _QUESTION)

_WORDS = {
    Decision.ACCEPT: "accept",
    Decision.ACCEPT_FOR_SESSION: "acceptForSession",
    Decision.DECLINE: "decline",
    Decision.CANCEL: "cancel",
}
_ALWAYS = "acceptWithExecpolicyAmendment"
_ALL = tuple(Decision)

# How to say no to all else that can be answered so.
_REFUSALS: dict[str, dict[str, Any]] = {
    "mcpServer/elicitation/request": {"action": "decline", "content": None},
    "item/tool/call": {
        "success": False,
        "contentItems": [{"type": "inputText", "text": "There is no such tool."}],
    },
}


def read_request(
    method: str, params: dict[str, Any], changes: list[dict[str, Any]] | None
) -> ApprovalRequest | None:
    """Return what a person is asked, None for every other request; raise KeyError and its like when it makes no sense.

    `changes` are those of the request's item, which it does not name itself.
    """
    read = _READERS.get(method)
    return read(params, changes) if read else None


def encode_answer(method: str, params: dict[str, Any], answer: ApprovalAnswer) -> dict[str, Any]:
    """Return the result that answers a request which `read_request` has understood."""
    if method == _QUESTION:
        told = answer.answers if answer.decision is Decision.ACCEPT else {}
        return {"answers": {question: {"answers": list(texts)} for question, texts in told.items()}}
    if method == _PERMISSIONS:
        is_granted = answer.decision in (Decision.ACCEPT, Decision.ACCEPT_FOR_SESSION)
        scope = "session" if answer.decision is Decision.ACCEPT_FOR_SESSION else "turn"
        return {"permissions": params["permissions"] if is_granted else {}, "scope": scope}
    return {"decision": _WORDS[answer.decision]}


def ends_turn(method: str, answer: ApprovalAnswer) -> bool:
    """Say whether an answer ends the turn in a way that Codex has no word for: the turn is then interrupted."""
    return answer.decision is Decision.CANCEL and method in (_PERMISSIONS, _QUESTION)


def encode_refusal(method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    """Return the result that says no to a request, None when it has no such answer."""
    if method in APPROVALS:
        return encode_answer(method, params, ApprovalAnswer(Decision.DECLINE))
    return _REFUSALS.get(method)


def _read_command(params: dict[str, Any], changes: object) -> ApprovalRequest:
    details = {"reason": params.get("reason"), "command": params.get("command"), "cwd": params.get("cwd")}
    # Told where the command is to have more than the sandbox gives, or wants to reach a host.
    for name, asked in (("permissions", "additionalPermissions"), ("network", "networkApprovalContext")):
        if params.get(asked) is not None:
            details[name] = params[asked]
    decisions = _offered(params.get("availableDecisions"))
    return ApprovalRequest(ApprovalKind.COMMAND, params["itemId"], decisions, details)


def _offered(available: list[Any] | None) -> tuple[Decision, ...]:
    if available is None:
        return _ALL
    names = {next(iter(each), None) if isinstance(each, dict) else each for each in available}
    if _ALWAYS in names:
        names.add(_WORDS[Decision.ACCEPT_FOR_SESSION])
    names.add(_WORDS[Decision.DECLINE])
    return tuple(decision for decision in _ALL if _WORDS[decision] in names)


def _read_file_change(params: dict[str, Any], changes: list[dict[str, Any]] | None) -> ApprovalRequest:
    details = {
        "reason": params.get("reason"),
        "changes": changes or [],
        # Where it is set, writing below it is asked for as well.
        "grant_root": params.get("grantRoot"),
    }
    return ApprovalRequest(ApprovalKind.FILE_CHANGE, params["itemId"], _ALL, details)


def _read_permissions(params: dict[str, Any], changes: object) -> ApprovalRequest:
    details = {"reason": params.get("reason"), "permissions": params["permissions"], "cwd": params.get("cwd")}
    return ApprovalRequest(ApprovalKind.PERMISSIONS, params["itemId"], _ALL, details)


def _read_questions(params: dict[str, Any], changes: object) -> ApprovalRequest:
    questions = tuple(_read_question(question) for question in params["questions"])
    decisions = (Decision.ACCEPT, Decision.DECLINE, Decision.CANCEL)
    return ApprovalRequest(ApprovalKind.QUESTION, params["itemId"], decisions, {"reason": None}, questions)


def _read_question(question: dict[str, Any]) -> Question:
    options = tuple(
        {"label": option["label"], "description": option["description"]}
        for option in question.get("options") or ()
    )
    return Question(
        question["id"],
        question["header"],
        question["question"],
        options,
        question.get("isOther") is True,
        question.get("isSecret") is True,
    )


_READERS = {
    _COMMAND: _read_command,
    _FILE_CHANGE: _read_file_change,
    _PERMISSIONS: _read_permissions,
    _QUESTION: _read_questions,
}
