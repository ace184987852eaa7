"""Codex's wire names: what is sent to the app-server, and what its notifications become."""

from typing import Any

import pytest

from codex_bridge.limits import MAX_RETOLD_CHARACTERS
from codex_bridge.protocol import codex
from codex_bridge.runtime import (
    Account,
    AccountChanged,
    AccountEvent,
    Failure,
    LoginEnded,
    LoginStarted,
    ModelRoute,
    TurnOutcome,
    TurnRequest,
    TurnStatus,
    Utterance,
)

COMMAND = {"type": "commandExecution", "id": "c", "command": "ls", "exitCode": 0, "status": "completed"}
TOTAL = {
    "inputTokens": 1, "cachedInputTokens": 2, "outputTokens": 3, "reasoningOutputTokens": 4, "totalTokens": 5,
}  # fmt: skip
USAGE = {
    "input_tokens": 1, "cached_input_tokens": 2, "output_tokens": 3, "reasoning_output_tokens": 4,
    "total_tokens": 5,
}  # fmt: skip
IDS = {"threadId": "T", "turnId": "U"}

NOTIFICATIONS: list[tuple[str, dict[str, Any], dict[str, Any] | None]] = [
    ("turn/started", {"turn": {"id": "U"}}, {"type": "turn.started"}),
    (
        "turn/plan/updated", {"plan": [{"step": "a", "status": "pending"}], "explanation": "why"},
        {"type": "turn.plan.updated", "plan": [{"step": "a", "status": "pending"}], "explanation": "why"},
    ),
    ("turn/plan/updated", {"plan": []}, {"type": "turn.plan.updated", "plan": [], "explanation": None}),
    ("turn/diff/updated", {"diff": "--- a\n"}, {"type": "turn.diff.updated", "diff": "--- a\n"}),
    ("item/started", {"item": COMMAND}, {"type": "item.started", "item": COMMAND}),
    ("item/completed", {"item": COMMAND}, {"type": "item.completed", "item": COMMAND}),
    ("item/started", {"item": {"type": "userMessage", "id": "u"}}, None),
    ("item/completed", {"item": {"type": "userMessage", "id": "u"}}, None),
    ("item/completed", {"item": {"id": "odd"}}, {"type": "item.completed", "item": {"id": "odd"}}),
    (
        "item/agentMessage/delta", {"itemId": "i", "delta": "x"},
        {"type": "item.agent_message.delta", "item_id": "i", "delta": "x"},
    ),
    (
        "item/reasoning/summaryTextDelta", {"itemId": "i", "delta": "x", "summaryIndex": 0},
        {"type": "item.reasoning.delta", "item_id": "i", "delta": "x"},
    ),
    (
        "item/reasoning/textDelta", {"itemId": "i", "delta": "x", "contentIndex": 0},
        {"type": "item.reasoning.delta", "item_id": "i", "delta": "x"},
    ),
    (
        "item/commandExecution/outputDelta", {"itemId": "i", "delta": "x"},
        {"type": "command.execution.output", "item_id": "i", "delta": "x"},
    ),
    ("thread/tokenUsage/updated", {"tokenUsage": {"total": TOTAL}}, {"type": "usage.updated", "usage": USAGE}),
    (
        "thread/tokenUsage/updated", {"tokenUsage": {"total": {"inputTokens": 1, "outputTokens": 3, "totalTokens": 5}}},
        {"type": "usage.updated", "usage": {**USAGE, "cached_input_tokens": 0, "reasoning_output_tokens": 0}},
    ),
    ("warning", {"message": "careful"}, {"type": "warning", "message": "careful"}),
    (
        "error", {"error": {"message": "Reconnecting 1/4", "additionalDetails": "429"}, "willRetry": True},
        {"type": "warning", "message": "Reconnecting 1/4 (429)", "code": "retrying"},
    ),
    (
        "error", {"error": {"message": "Reconnecting 1/4", "additionalDetails": None}, "willRetry": True},
        {"type": "warning", "message": "Reconnecting 1/4", "code": "retrying"},
    ),
    ("error", {"error": {"message": "over"}, "willRetry": False}, None),
    ("error", {"error": {"message": "over"}}, None),
    ("turn/completed", {"turn": {}}, None),
    ("thread/started", {"thread": {}}, None),
    ("something/new", {"a": 1}, None),
    ("", {}, None),
]  # fmt: skip


@pytest.mark.parametrize(("method", "params", "expected"), NOTIFICATIONS)
def test_what_a_notification_becomes(
    method: str, params: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    assert codex.to_event(method, {**IDS, **params}) == expected


def test_each_notification_that_is_known_is_in_the_table() -> None:
    assert set(codex._EVENTS) <= {method for method, _, expected in NOTIFICATIONS if expected}


def request(**fields: Any) -> TurnRequest:
    given = {
        "session_id": "s", "turn_id": "t", "thread_id": None, "workspace_root": "/w",
        "sandbox_mode": "workspace-write", "text": "hi", **fields,
    }  # fmt: skip
    return TurnRequest(**given)


def test_a_thread_with_codexs_own_service() -> None:
    assert codex.thread_params(request()) == {
        "cwd": "/w",
        "sandbox": "workspace-write",
        "approvalPolicy": "never",
        "approvalsReviewer": "user",
        "config": {"projects": {"/w": {"trust_level": "untrusted"}}},
    }


def test_a_thread_through_the_gateway() -> None:
    params = codex.thread_params(
        request(
            model="m", route=ModelRoute("http://127.0.0.1:1/s", "gateway-token"), sandbox_mode="read-only"
        )
    )

    assert (params["model"], params["sandbox"]) == ("m", "read-only")
    assert list(params["config"]["model_providers"]) == [params["modelProvider"]]
    provider = params["config"]["model_providers"][params["modelProvider"]]
    assert provider["base_url"] == "http://127.0.0.1:1/s"
    assert provider["wire_api"] == "responses"
    assert provider["experimental_bearer_token"] == "gateway-token"
    assert provider["request_max_retries"] == 0


@pytest.mark.parametrize("policy", ["untrusted", "on-request", "never"])
def test_a_thread_whose_model_may_ask(policy: str) -> None:
    params = codex.thread_params(request(approval_policy=policy))
    assert params["approvalPolicy"] == policy
    assert ("features.default_mode_request_user_input" in params["config"]) is (policy != "never")
    # It would take the place of what every Codex is given.
    assert "features" not in params["config"]


def test_a_thread_that_is_resumed() -> None:
    params = codex.resume_params(request(thread_id="T"))
    assert params == {**codex.thread_params(request()), "threadId": "T", "excludeTurns": True}


@pytest.mark.parametrize(
    ("fields", "context", "expected"),
    [
        ({}, None, {"input": [{"type": "text", "text": "hi"}]}),
        ({"model": "m"}, None, {"input": [{"type": "text", "text": "hi"}], "model": "m"}),
        (
            {"images": ("/w/a.png", "/w/b.png")}, None,
            {"input": [
                {"type": "text", "text": "hi"}, {"type": "localImage", "path": "/w/a.png"},
                {"type": "localImage", "path": "/w/b.png"},
            ]},
        ),
        (
            {"text": "--help"}, '{"a":1}',
            {
                "input": [{"type": "text", "text": "--help"}],
                "additionalContext": {"host_context": {"kind": "untrusted", "value": '{"a":1}'}},
            },
        ),
    ],
)  # fmt: skip
def test_a_turn(fields: dict[str, Any], context: str | None, expected: dict[str, Any]) -> None:
    assert codex.turn_params(request(**fields), "T", context) == {"threadId": "T", **expected}


def test_small_calls() -> None:
    assert codex.interrupt_params("T", "U") == {"threadId": "T", "turnId": "U"}
    assert codex.initialize_params("1.2.3")["clientInfo"]["version"] == "1.2.3"
    assert codex.initialize_params("1.2.3")["capabilities"] == {"experimentalApi": True}


def test_the_command_line_turns_shell_snapshots_off() -> None:
    arguments = codex.app_server_arguments("/opt/codex")
    assert arguments[:2] == ["/opt/codex", "app-server"]
    overrides = arguments[3::2]
    assert arguments[2::2] == ["-c"] * len(overrides)
    assert "features.shell_snapshot=false" in overrides


def failed(message: str, code: str) -> TurnOutcome:
    return TurnOutcome(TurnStatus.FAILED, Failure(message, code))


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ({"status": "completed", "error": None}, TurnOutcome(TurnStatus.COMPLETED)),
        ({"status": "interrupted"}, TurnOutcome(TurnStatus.INTERRUPTED)),
        (
            {"status": "failed", "error": {"message": "m", "codexErrorInfo": "usageLimitExceeded"}},
            failed("m", "usage_limit_exceeded"),
        ),
        (
            {"status": "failed", "error": {
                "message": "m", "additionalDetails": "d",
                "codexErrorInfo": {"httpConnectionFailed": {"httpStatusCode": 500}},
            }},
            failed("m (d)", "http_connection_failed"),
        ),
        (
            {"status": "failed", "error": {
                "message": "m", "codexErrorInfo": {"httpConnectionFailed": {"httpStatusCode": 401}},
            }},
            failed("m", "unauthorized"),
        ),
        (
            {"status": "failed", "error": {"message": "m", "codexErrorInfo": {"httpConnectionFailed": None}}},
            failed("m", "http_connection_failed"),
        ),
        ({"status": "failed", "error": {"message": "m", "codexErrorInfo": "other"}}, failed("m", "turn_failed")),
        ({"status": "failed", "error": {"message": "m", "codexErrorInfo": None}}, failed("m", "turn_failed")),
        ({"status": "failed", "error": {"message": "m", "codexErrorInfo": {}}}, failed("m", "turn_failed")),
        ({"status": "failed", "error": {"message": "m", "codexErrorInfo": 7}}, failed("m", "turn_failed")),
        ({"status": "failed", "error": None}, failed("Codex ended the turn without saying why", "turn_failed")),
        ({"status": "somethingNew"}, failed("Codex ended the turn without saying why", "turn_failed")),
    ],
)  # fmt: skip
def test_how_a_turn_ended(turn: dict[str, Any], expected: TurnOutcome) -> None:
    assert codex.parse_outcome({"id": "U", **turn}) == expected


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("codex-cli 0.163.0\n", "0.163.0"),
        ("codex-bridge/0.169.0 (Debian 12.0.1; x86_64) dumb (codex-bridge; 0.1.0)", "0.169.0"),
        ("codex-cli 0.170.0-alpha.3", "0.170.0"),
        ("codex-cli 10.20.30", "10.20.30"),
        ("codex", None),
        ("codex 1.2", None),
        ("", None),
    ],
)
def test_a_version_is_found(text: str, version: str | None) -> None:
    assert codex.parse_version(text) == version


@pytest.mark.parametrize(
    ("version", "known"),
    [
        ("0.163.0", True),
        ("0.162.99", False),
        ("0.99.0", False),
        ("0.1000.0", True),
        ("1.0.0", True),
        ("0.0.0", False),
    ],
)
def test_versions_are_compared_as_numbers(version: str, known: bool) -> None:
    assert codex.is_known_version(version) is known


@pytest.mark.parametrize(
    ("sizes", "told"),
    [([], []), ([1, 2], [1, 2]), ([MAX_RETOLD_CHARACTERS - 1, 1], [MAX_RETOLD_CHARACTERS - 1, 1]),
     ([5, MAX_RETOLD_CHARACTERS - 1, 2], [2]), ([5, MAX_RETOLD_CHARACTERS + 9], [MAX_RETOLD_CHARACTERS + 9])],
)  # fmt: skip
def test_codex_is_told_the_end_of_a_long_conversation(sizes: list[int], told: list[int]) -> None:
    said = [Utterance(index % 2 == 0, "x" * size) for index, size in enumerate(sizes)]
    items = codex.inject_params("t", said)["items"]
    assert [len(item["content"][0]["text"]) for item in items] == told


def test_a_conversation_that_is_lost_is_told_with_the_reason() -> None:
    event = codex.not_resumed_event("no rollout found")
    assert (event["type"], event["code"]) == ("warning", "thread_not_resumed")
    assert "no rollout found" in event["message"]


ANN = {"type": "chatgpt", "email": "ann@example.com", "planType": "plus"}


@pytest.mark.parametrize(
    ("answer", "account"),
    [
        ({"account": None, "requiresOpenaiAuth": True}, Account(None)),
        ({"account": None, "requiresOpenaiAuth": False}, Account(None, is_needed=False)),
        ({"account": ANN, "requiresOpenaiAuth": True}, Account("chatgpt", "ann@example.com", "plus")),
        ({"account": {"type": "apiKey"}, "requiresOpenaiAuth": True}, Account("apikey")),
        ({"account": {"type": "somethingNew"}, "requiresOpenaiAuth": True}, Account("somethingnew")),
    ],
)
def test_the_account_is_read(answer: dict[str, Any], account: Account) -> None:
    assert codex.parse_account({**answer, "workspaceRouting": None}) == account


@pytest.mark.parametrize(
    ("method", "kind", "is_ready"),
    [("chatgpt", "chatgpt", True), ("apikey", "apikey", True), (None, None, False)],
)
def test_the_stored_sign_in_is_read(method: str | None, kind: str | None, is_ready: bool) -> None:
    answer = {"authMethod": method, "authToken": None, "requiresOpenaiAuth": True}
    account = codex.parse_stored_sign_in(answer, "no way to the service")
    assert account == Account(kind, doubt="no way to the service")
    assert account.is_ready is is_ready


def test_no_token_is_ever_asked_for() -> None:
    assert codex.STORED_SIGN_IN_PARAMS["includeToken"] is False


def test_a_device_login_is_read() -> None:
    answer = {
        "type": "chatgptDeviceCode",
        "loginId": "L",
        "verificationUrl": "http://i/device",
        "userCode": "C",
    }
    assert codex.parse_device_login(answer) == LoginStarted("L", "http://i/device", "C")


@pytest.mark.parametrize("broken", [{}, {"account": "me", "requiresOpenaiAuth": True}, {"account": None}, []])
def test_an_answer_that_is_none_is_refused(broken: Any) -> None:
    with pytest.raises((AttributeError, KeyError, TypeError)):
        codex.parse_account(broken)


@pytest.mark.parametrize(
    ("method", "params", "event"),
    [
        ("account/updated", {"authMode": "chatgpt", "planType": "plus"}, AccountChanged()),
        ("account/updated", {}, AccountChanged()),
        ("account/login/completed", {"loginId": "L", "success": True, "error": None}, LoginEnded("L", None)),
        ("account/login/completed", {"loginId": "L", "success": False, "error": "no"}, LoginEnded("L", "no")),
        (
            "account/login/completed", {"loginId": "L", "success": False},
            LoginEnded("L", "Codex does not say why."),
        ),
        ("account/rateLimits/updated", {"rateLimits": {}}, None),
        ("mcpServer/oauthLogin/completed", {"name": "x", "success": True}, None),
    ],
)  # fmt: skip
def test_what_is_told_of_the_account(method: str, params: dict[str, Any], event: AccountEvent | None) -> None:
    assert codex.to_account_event(method, params) == event


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"CODEX_HOME": "/c", "HOME": "/h"}, "/c/auth.json"),
        ({"HOME": "/h"}, "/h/.codex/auth.json"),
        ({"CODEX_HOME": "", "HOME": "/h"}, "/h/.codex/auth.json"),
    ],
)
def test_where_codex_keeps_its_sign_in(environ: dict[str, str], path: str) -> None:
    assert codex.auth_file(environ) == path
