"""The app-server's wire names: the only place that knows them. Builds what is sent, reads what comes.

Measured with Codex 0.163 and 0.169; `codex app-server generate-json-schema --experimental` prints the protocol.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..limits import CODEX_IDLE_TIMEOUT_MS, MAX_RETOLD_CHARACTERS, STREAM_RETRIES
from ..runtime import (
    Account,
    AccountChanged,
    AccountEvent,
    Command,
    Event,
    Failure,
    LoginEnded,
    LoginStarted,
    TurnOutcome,
    TurnRequest,
    TurnStatus,
    Utterance,
)
from . import codex_requests

# The name under which Codex knows the bridge's gateway.
PROVIDER_ID = "codex_bridge"
MINIMUM_VERSION = (0, 163, 0)
# The code of the warning that a broken answer is begun anew.
RETRYING = "retrying"

_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
_NOT_FOR_COMMANDS = (*_PROXIES, *(name.lower() for name in _PROXIES))

# Given to every Codex. A shell snapshot spawns a login shell for each thread: measured, it makes 40
# concurrent turns five times slower.
OVERRIDES = (
    "features.shell_snapshot=false",
    "check_for_update_on_startup=false",
    # A thread that is closed gives its memory back at once (1.1 MB each); by default it stays loaded.
    "thread_unload_delay_secs=0",
    # Without this /tmp, which all users share, would be writable; $TMPDIR, the bridge's own, stays so.
    "sandbox_workspace_write.exclude_slash_tmp=true",
    # What the user's own configuration opens for terminals is not meant for a host's turns.
    "sandbox_workspace_write.network_access=false",
    "sandbox_workspace_write.writable_roots=[]",
    # Codex calls out through the proxy, whose URL may hold a password: commands find it empty. This joins what the
    # user's configuration says of their environment; an `exclude` would replace it.
    *(f'shell_environment_policy.set.{name}=""' for name in _NOT_FOR_COMMANDS),
)

NOT_FOUND = "No Codex was found: set CODEX_BIN, install the Python package openai-codex-cli-bin, or put codex on the PATH."

UNSANDBOXED = "danger-full-access"

# The same modes as `thread/start` names, in the other spelling that Codex has for them.
_SANDBOX_POLICIES: dict[str, dict[str, Any]] = {
    "workspace-write": {
        "type": "workspaceWrite", "networkAccess": False, "excludeSlashTmp": True,
    },
    "read-only": {"type": "readOnly", "networkAccess": False},
    UNSANDBOXED: {"type": "dangerFullAccess"},
}  # fmt: skip

# The notification of what a command of `command/exec` writes; it bears no thread.
COMMAND_OUTPUT = "command/exec/outputDelta"
OUTPUT_STREAMS = ("stdout", "stderr")
# The variable that tells the processes of one command outside of the sandbox.
COMMAND_MARK = "BRIDGE_COMMAND_MARK"
# Measured: 124 when Codex's time for a command is over, 137 after `command/exec/terminate`.
ENDED_BY_FORCE = frozenset({124, 137})

# The approval policy with which Codex asks nothing.
_NEVER = "never"

# What this client is; models see it in the user agent of requests.
_CLIENT = "codex-bridge"

_VERSION = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})")
_LOST_THREAD = re.compile(
    r"no rollout found|thread not found|Cannot change this thread's model provider|no longer configured"
    r"|Model provider .* not found"
)
_CAMEL = re.compile(r"(?<!^)(?=[A-Z])")


def app_server_arguments(codex: str) -> list[str]:
    """Return the command line of an app-server on stdio."""
    arguments = [codex, "app-server"]
    for override in OVERRIDES:
        arguments += ["-c", override]
    return arguments


def schema_arguments(codex: str, directory: str) -> list[str]:
    """Return the command line that writes the protocol's schema into `directory`."""
    return [codex, "app-server", "generate-json-schema", "--experimental", "--out", directory]


def find_missing_names(directory: str) -> list[str]:
    """Return those of `NAMES` that a schema does not have; raise OSError."""
    text = ""
    for name in ("ClientRequest.json", "ServerNotification.json", "ServerRequest.json"):
        with open(os.path.join(directory, name), encoding="utf-8", errors="replace") as file:
            text += file.read()
    return [name for name in NAMES if f'"{name}"' not in text]


def parse_version(text: str) -> str | None:
    """Return the version in the output of `codex --version` or a user agent."""
    match = _VERSION.search(text)
    return match[0] if match else None


def is_known_version(version: str) -> bool:
    """Say whether the bridge was built for this version or an older one it still speaks with."""
    return tuple(int(part) for part in version.split(".")) >= MINIMUM_VERSION


def initialize_params(bridge_version: str) -> dict[str, Any]:
    client = {"name": _CLIENT, "title": "Codex Bridge", "version": bridge_version}
    return {"clientInfo": client, "capabilities": {"experimentalApi": True}}


def session_config(request: TurnRequest, credential: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration of a session's thread; `credential` says how Codex knows the gateway's token.

    The workspace is set to untrusted for this thread: its own `.codex/config.toml` is then not loaded, and
    Codex does not write a mark of trust into the user's configuration, as it does otherwise.
    """
    config: dict[str, Any] = {"projects": {request.workspace_root: {"trust_level": "untrusted"}}}
    if request.approval_policy != _NEVER:
        # The model has the tool in any case; without this it is told that questions are not possible. A table
        # `features` would take the place of those in `OVERRIDES`.
        config["features.default_mode_request_user_input"] = True
        config["suppress_unstable_features_warning"] = True
    if request.route:
        config["model_providers"] = {
            PROVIDER_ID: {
                "name": "Codex Bridge",
                "base_url": request.route.base_url,
                "wire_api": "responses",
                **credential,
                # Retries of both kinds multiply; one kind is enough, and it is told as an event.
                "request_max_retries": 0,
                "stream_max_retries": STREAM_RETRIES,
                # The gateway watches for silence and says so in plain words.
                "stream_idle_timeout_ms": CODEX_IDLE_TIMEOUT_MS,
            }
        }
    return config


def thread_params(request: TurnRequest) -> dict[str, Any]:
    """Return the params of `thread/start`, which `thread/resume` takes as well."""
    credential = {"experimental_bearer_token": request.route.token} if request.route else {}
    params: dict[str, Any] = {
        "cwd": request.workspace_root,
        "sandbox": request.sandbox_mode,
        "approvalPolicy": request.approval_policy,
        # The host decides, whatever the user's configuration says of a model that reviews.
        "approvalsReviewer": "user",
        "config": session_config(request, credential),
    }
    if request.model:
        params["model"] = request.model
    if request.route:
        params["modelProvider"] = PROVIDER_ID
    return params


def resume_params(request: TurnRequest) -> dict[str, Any]:
    return {**thread_params(request), "threadId": request.thread_id, "excludeTurns": True}


def inject_params(thread_id: str, said: Sequence[Utterance]) -> dict[str, Any]:
    """Return the params of `thread/inject_items`: what the model is to know as if it had been said in the thread."""
    items = [
        {
            "type": "message",
            "role": "user" if each.is_user else "assistant",
            "content": [{"type": "input_text" if each.is_user else "output_text", "text": each.text}],
        }
        for each in newest(said)
    ]
    return {"threadId": thread_id, "items": items}


def newest(said: Sequence[Utterance]) -> Sequence[Utterance]:
    """Return the end of a conversation that Codex is told at once."""
    size = 0
    for index in reversed(range(len(said))):
        size += len(said[index].text)
        if size > MAX_RETOLD_CHARACTERS and index + 1 < len(said):
            return said[index + 1 :]
    return said


def turn_params(request: TurnRequest, thread_id: str, context_json: str | None) -> dict[str, Any]:
    """Return the params of `turn/start`."""
    params: dict[str, Any] = {"threadId": thread_id, "input": _user_input(request.text, request.images)}
    if request.model:
        params["model"] = request.model
    if context_json is not None:
        params["additionalContext"] = {"host_context": {"kind": "untrusted", "value": context_json}}
    return params


def steer_params(
    thread_id: str, turn_id: str, message_id: str, text: str, images: tuple[str, ...]
) -> dict[str, Any]:
    """Return the params of `turn/steer`; the item that the text becomes bears `message_id` as its `clientId`."""
    return {
        "threadId": thread_id, "expectedTurnId": turn_id, "clientUserMessageId": message_id,
        "input": _user_input(text, images),
    }  # fmt: skip


def _user_input(text: str, images: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text}, *({"type": "localImage", "path": path} for path in images)]


def command_params(command: Command, process_id: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the params of `command/exec`: one command in the sandbox that a turn's commands have.

    Measured: `cwd` alone does not make a directory writable, while that of the app-server itself always is; standard
    input is empty; a stream that has exactly as many bytes as its cap counts as cut, so one more is asked for.
    """
    policy = dict(_SANDBOX_POLICIES[command.sandbox_mode])
    if command.sandbox_mode == "workspace-write":
        policy["writableRoots"] = [command.root]
    return {
        "command": list(command.argv), "cwd": command.cwd or command.root, "timeoutMs": int(command.timeout_s * 1000),
        "sandboxPolicy": policy, "outputBytesCap": command.max_output_bytes + 1,
        "env": {**dict.fromkeys(_NOT_FOR_COMMANDS), **command.environ, **environ},
        "processId": process_id, "streamStdoutStderr": True,
    }  # fmt: skip


def parse_command_output(params: dict[str, Any]) -> tuple[str, str, bytes]:
    """Read `command/exec/outputDelta`: the command's id, the stream, and what it wrote."""
    return params["processId"], params["stream"], base64.b64decode(params["deltaBase64"])


def interrupt_params(thread_id: str, turn_id: str) -> dict[str, Any]:
    return {"threadId": thread_id, "turnId": turn_id}


def to_event(method: str, params: dict[str, Any]) -> Event | None:
    """Return the runtime event of a notification, None for those that tell a host nothing."""
    make = _EVENTS.get(method)
    return make(params) if make else None


def _item_event(kind: str, params: dict[str, Any]) -> Event | None:
    item = params["item"]
    # The host's own message comes back as an item; the session has told it already.
    return None if item.get("type") == "userMessage" else {"type": kind, "item": item}


def _delta(kind: str, params: dict[str, Any]) -> Event:
    return {"type": kind, "item_id": params["itemId"], "delta": params["delta"]}


def _error_event(params: dict[str, Any]) -> Event | None:
    # The last error of a turn comes again in turn/completed; only those that are retried are told here.
    if not params.get("willRetry"):
        return None
    error = params["error"]
    return {"type": "warning", "message": _message(error), "code": RETRYING}


def _usage_event(params: dict[str, Any]) -> Event:
    total = params["tokenUsage"]["total"]
    usage = {
        "input_tokens": total["inputTokens"],
        "cached_input_tokens": total.get("cachedInputTokens", 0),
        "output_tokens": total["outputTokens"],
        "reasoning_output_tokens": total.get("reasoningOutputTokens", 0),
        "total_tokens": total["totalTokens"],
    }
    return {"type": "usage.updated", "usage": usage}


_EVENTS = {
    "turn/started": lambda p: {"type": "turn.started"},
    "turn/plan/updated": lambda p: {
        "type": "turn.plan.updated", "explanation": p.get("explanation"), "plan": p["plan"],
    },
    "turn/diff/updated": lambda p: {"type": "turn.diff.updated", "diff": p["diff"]},
    "item/started": lambda p: _item_event("item.started", p),
    "item/completed": lambda p: _item_event("item.completed", p),
    "item/agentMessage/delta": lambda p: _delta("item.agent_message.delta", p),
    "item/reasoning/summaryTextDelta": lambda p: _delta("item.reasoning.delta", p),
    "item/reasoning/textDelta": lambda p: _delta("item.reasoning.delta", p),
    "item/commandExecution/outputDelta": lambda p: _delta("command.execution.output", p),
    "thread/tokenUsage/updated": _usage_event,
    "warning": lambda p: {"type": "warning", "message": p["message"]},
    "error": _error_event,
}  # fmt: skip

# What the bridge calls and is asked; with the notifications it hears, all names it needs of the protocol.
_CALLS = (
    "initialize", "thread/start", "thread/resume", "thread/inject_items", "thread/unsubscribe",
    "thread/backgroundTerminals/clean",
    "turn/start", "turn/steer", "turn/interrupt", "command/exec", "command/exec/terminate",
    "account/read", "account/login/start", "account/login/cancel", "account/logout",
)  # fmt: skip
NAMES = (
    *_CALLS, *codex_requests.APPROVALS, *_EVENTS, "turn/completed", "thread/closed", "serverRequest/resolved", COMMAND_OUTPUT,
    "account/login/completed", "account/updated",
)  # fmt: skip


def parse_outcome(turn: dict[str, Any]) -> TurnOutcome:
    """Read the turn of `turn/completed`."""
    status = turn["status"]
    if status == "completed":
        return TurnOutcome(TurnStatus.COMPLETED)
    if status == "interrupted":
        return TurnOutcome(TurnStatus.INTERRUPTED)
    error = turn.get("error") or {}
    return TurnOutcome(TurnStatus.FAILED, Failure(_message(error), _error_code(error.get("codexErrorInfo"))))


def _message(error: dict[str, Any]) -> str:
    message = error.get("message") or "Codex ended the turn without saying why"
    details = error.get("additionalDetails")
    return f"{message} ({details})" if details else str(message)


def _error_code(info: Any) -> str:
    """Return Codex's name of an error in snake_case."""
    name = next(iter(info), None) if isinstance(info, dict) else info
    details = info.get(name) if isinstance(info, dict) else None
    if isinstance(details, dict) and details.get("httpStatusCode") == 401:
        return "unauthorized"  # as Codex itself says where it could not renew its token either
    if not isinstance(name, str) or name == "other":
        return "turn_failed"
    return _CAMEL.sub("_", name).lower()


def is_lost_thread(message: str) -> bool:
    """Say whether `thread/resume` was refused for good: no file of the thread, or one of another model provider.

    Measured: 0.169 changes no thread's provider at all, 0.163 not from the gateway to Codex's own service.
    """
    return _LOST_THREAD.search(message) is not None


def not_resumed_event(reason: str) -> Event:
    """Tell a host that the model knows of the turns so far only what was said in them."""
    return {
        "type": "warning", "code": "thread_not_resumed",
        "message": "The earlier conversation could not be resumed; a new one begins with what was said in it, "
        f"without what was done. {reason}",
    }  # fmt: skip


# Account ------------------------------------------------------------------------------------------

DEVICE_LOGIN_PARAMS = {"type": "chatgptDeviceCode"}
READ_PARAMS = {"refreshToken": False}
# An older call that the schema does not list any more. It looks into Codex's files alone, where `account/read`
# asks the service as well, and fails when that cannot be reached.
STORED_SIGN_IN = "getAuthStatus"
STORED_SIGN_IN_PARAMS = {"includeToken": False, "refreshToken": False}


def parse_account(result: dict[str, Any]) -> Account:
    """Read the answer to `account/read`."""
    account, is_needed = result["account"], result["requiresOpenaiAuth"] is not False
    if account is None:
        return Account(None, is_needed=is_needed)
    email, plan = account.get("email"), account.get("planType")
    return Account(str(account["type"]).lower(), email, plan, is_needed)


def parse_stored_sign_in(result: dict[str, Any], doubt: str) -> Account:
    """Read the answer to `getAuthStatus`; `doubt` says why no more is known."""
    method, is_needed = result["authMethod"], result["requiresOpenaiAuth"] is not False
    return Account(None if method is None else str(method).lower(), is_needed=is_needed, doubt=doubt)


def is_refused_sign_in(message: str) -> bool:
    """Say whether `account/read` failed because the service does not take Codex's tokens any more."""
    return "unauthorized" in message


def parse_device_login(result: dict[str, Any]) -> LoginStarted:
    """Read the answer to `account/login/start`."""
    return LoginStarted(str(result["loginId"]), str(result["verificationUrl"]), str(result["userCode"]))


def to_account_event(method: str, params: dict[str, Any]) -> AccountEvent | None:
    """Return what a notification tells of the account, None for all others."""
    if method == "account/updated":
        return AccountChanged()
    if method != "account/login/completed":
        return None
    error = None if params["success"] is True else str(params.get("error") or "Codex does not say why.")
    return LoginEnded(str(params["loginId"]), error)


def auth_file(environ: Mapping[str, str]) -> str:
    """Return the path of the file where Codex keeps its sign-in."""
    home = environ.get("CODEX_HOME") or os.path.join(environ.get("HOME", ""), ".codex")
    return os.path.join(home, "auth.json")
