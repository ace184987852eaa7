"""What Codex asks: how a person is told, and what Codex is answered."""

from typing import Any

import pytest

from codex_bridge.protocol import codex_requests
from codex_bridge.runtime import ApprovalAnswer, ApprovalKind, ApprovalRequest, Decision, Question

COMMAND = "item/commandExecution/requestApproval"
FILE_CHANGE = "item/fileChange/requestApproval"
PERMISSIONS = "item/permissions/requestApproval"
QUESTION = "item/tool/requestUserInput"
ACCEPT, FOR_SESSION, DECLINE, CANCEL = Decision

ALWAYS = {"acceptWithExecpolicyAmendment": {"execpolicy_amendment": ["touch", "a"]}}
HOST_RULE = {"applyNetworkPolicyAmendment": {"network_policy_amendment": {"host": "h", "action": "allow"}}}
IDS = {"threadId": "T", "turnId": "U", "itemId": "i", "startedAtMs": 1}
WANTED = {"network": {"enabled": True}, "fileSystem": None}
CHANGES = [{"path": "/w/a", "kind": {"type": "add"}, "diff": "x\n"}]


def command(**params: Any) -> dict[str, Any]:
    return {**IDS, "command": "touch a", "cwd": "/w", "reason": "why", **params}


REQUESTS: list[tuple[str, dict[str, Any], ApprovalRequest]] = [
    (
        COMMAND, command(availableDecisions=["accept", ALWAYS, "cancel"], proposedExecpolicyAmendment=["touch", "a"]),
        ApprovalRequest(
            ApprovalKind.COMMAND, "i", (ACCEPT, FOR_SESSION, DECLINE, CANCEL),
            {"command": "touch a", "cwd": "/w", "reason": "why"},
        ),
    ),
    (
        COMMAND, command(availableDecisions=["accept", "cancel"], additionalPermissions=WANTED),
        ApprovalRequest(
            ApprovalKind.COMMAND, "i", (ACCEPT, DECLINE, CANCEL),
            {"command": "touch a", "cwd": "/w", "reason": "why", "permissions": WANTED},
        ),
    ),
    (
        COMMAND,
        {
            **IDS, "availableDecisions": ["accept", "acceptForSession", HOST_RULE, "cancel"],
            "networkApprovalContext": {"host": "h", "protocol": "https"},
        },
        ApprovalRequest(
            ApprovalKind.COMMAND, "i", (ACCEPT, FOR_SESSION, DECLINE, CANCEL),
            {"command": None, "cwd": None, "reason": None, "network": {"host": "h", "protocol": "https"}},
        ),
    ),
    (
        COMMAND, command(availableDecisions=None),
        ApprovalRequest(
            ApprovalKind.COMMAND, "i", (ACCEPT, FOR_SESSION, DECLINE, CANCEL),
            {"command": "touch a", "cwd": "/w", "reason": "why"},
        ),
    ),
    (
        COMMAND, command(availableDecisions=[{}, "somethingNew"]),
        ApprovalRequest(
            ApprovalKind.COMMAND, "i", (DECLINE,), {"command": "touch a", "cwd": "/w", "reason": "why"},
        ),
    ),
    (
        FILE_CHANGE, {**IDS, "reason": "why", "grantRoot": "/x"},
        ApprovalRequest(
            ApprovalKind.FILE_CHANGE, "i", (ACCEPT, FOR_SESSION, DECLINE, CANCEL),
            {"reason": "why", "changes": CHANGES, "grant_root": "/x"},
        ),
    ),
    (
        PERMISSIONS, {**IDS, "cwd": "/w", "permissions": WANTED},
        ApprovalRequest(
            ApprovalKind.PERMISSIONS, "i", (ACCEPT, FOR_SESSION, DECLINE, CANCEL),
            {"reason": None, "permissions": WANTED, "cwd": "/w"},
        ),
    ),
    (
        QUESTION,
        {
            **IDS, "isBlocking": False,
            "questions": [
                {
                    "id": "color", "header": "Color", "question": "Which?", "isOther": True, "isSecret": False,
                    "options": [{"label": "Red", "description": "r", "more": 1}],
                },
                {"id": "pin", "header": "Pin", "question": "What?", "isSecret": True, "options": None},
            ],
        },
        ApprovalRequest(
            ApprovalKind.QUESTION, "i", (ACCEPT, DECLINE, CANCEL), {"reason": None},
            (
                Question("color", "Color", "Which?", ({"label": "Red", "description": "r"},), is_other=True),
                Question("pin", "Pin", "What?", is_secret=True),
            ),
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("method", "params", "expected"), REQUESTS)
def test_what_a_person_is_asked(method: str, params: dict[str, Any], expected: ApprovalRequest) -> None:
    assert codex_requests.read_request(method, params, CHANGES) == expected


def test_each_request_for_an_approval_is_in_the_table() -> None:
    assert {method for method, _, _ in REQUESTS} == set(codex_requests.APPROVALS)


def test_a_file_change_that_nobody_has_told_of() -> None:
    request = codex_requests.read_request(FILE_CHANGE, IDS, None)
    assert request is not None
    assert request.details["changes"] == []


@pytest.mark.parametrize("method", ["item/tool/call", "mcpServer/elicitation/request", "new/request", ""])
def test_nothing_else_is_asked(method: str) -> None:
    assert codex_requests.read_request(method, {**IDS, "command": "touch a"}, None) is None


@pytest.mark.parametrize(
    ("method", "params"),
    [
        (COMMAND, {}),
        (COMMAND, command(availableDecisions=[["accept"]])),
        (COMMAND, command(availableDecisions=1)),
        (FILE_CHANGE, {"grantRoot": "/x"}),
        (PERMISSIONS, IDS),
        (QUESTION, IDS),
        (QUESTION, {**IDS, "questions": [{"id": "a"}]}),
        (QUESTION, {**IDS, "questions": ["a"]}),
    ],
)
def test_a_request_that_makes_no_sense(method: str, params: dict[str, Any]) -> None:
    with pytest.raises((AttributeError, KeyError, TypeError)):
        codex_requests.read_request(method, params, None)


TEXTS = {"color": ("Red", "Blue"), "pin": ()}


@pytest.mark.parametrize(
    ("method", "decision", "result"),
    [
        *[(method, ACCEPT, {"decision": "accept"}) for method in (COMMAND, FILE_CHANGE)],
        *[(method, FOR_SESSION, {"decision": "acceptForSession"}) for method in (COMMAND, FILE_CHANGE)],
        *[(method, DECLINE, {"decision": "decline"}) for method in (COMMAND, FILE_CHANGE)],
        *[(method, CANCEL, {"decision": "cancel"}) for method in (COMMAND, FILE_CHANGE)],
        (PERMISSIONS, ACCEPT, {"permissions": WANTED, "scope": "turn"}),
        (PERMISSIONS, FOR_SESSION, {"permissions": WANTED, "scope": "session"}),
        (PERMISSIONS, DECLINE, {"permissions": {}, "scope": "turn"}),
        (PERMISSIONS, CANCEL, {"permissions": {}, "scope": "turn"}),
        (QUESTION, ACCEPT, {"answers": {"color": {"answers": ["Red", "Blue"]}, "pin": {"answers": []}}}),
        (QUESTION, DECLINE, {"answers": {}}),
        (QUESTION, CANCEL, {"answers": {}}),
    ],
)
def test_what_codex_is_answered(method: str, decision: Decision, result: dict[str, Any]) -> None:
    answer = ApprovalAnswer(decision, TEXTS)
    assert codex_requests.encode_answer(method, {**IDS, "permissions": WANTED}, answer) == result
    ends = decision is CANCEL and method in (PERMISSIONS, QUESTION)
    assert codex_requests.ends_turn(method, answer) is ends


@pytest.mark.parametrize(
    ("method", "result"),
    [
        (COMMAND, {"decision": "decline"}),
        (FILE_CHANGE, {"decision": "decline"}),
        (PERMISSIONS, {"permissions": {}, "scope": "turn"}),
        (QUESTION, {"answers": {}}),
        ("mcpServer/elicitation/request", {"action": "decline", "content": None}),
        ("execCommandApproval", None),
        ("currentTime/read", None),
        ("new/request", None),
    ],
)
def test_how_a_request_is_declined(method: str, result: dict[str, Any] | None) -> None:
    assert codex_requests.encode_refusal(method, {}) == result


def test_a_tool_that_nobody_has_fails() -> None:
    result = codex_requests.encode_refusal("item/tool/call", {"tool": "x"})
    assert result is not None
    assert result["success"] is False


def test_answers_are_not_shown_by_accident() -> None:
    assert "Red" not in repr(ApprovalAnswer(ACCEPT, TEXTS))
