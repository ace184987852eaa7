"""The runtime configuration: read and changed while the bridge runs, and chosen by a session for itself."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BridgeFactory
from tests.support.bridge import API_KEY, Bridge
from tests.support.upstream import Upstream, rounds, run, say

OTHER_KEY = "sk-another-key-of-the-provider-77aa"
PROVIDERS = ["openai", "osirus", "osirus_agent", "ollama", "vllm", "openai_compatible"]

Json = dict[str, Any]


def config_of(one: Bridge) -> Json:
    reply = one.get("/runtime/config")
    assert reply.status == 200
    found: Json = reply.json["config"]
    return found


def keys_seen(upstream: Upstream) -> list[str | None]:
    return [request.headers.get("authorization") for request in upstream.requests]


def play(one: Bridge, session_id: str, text: str = "Go on") -> Json:
    """Run one turn to its end and return the session."""
    one.send(session_id, text)
    return one.settled(session_id)


def test_it_is_read_without_the_key(idle_bridge: Bridge) -> None:
    reply = idle_bridge.get("/runtime/config")
    config = reply.json["config"]
    assert set(config) == {
        "runtime_provider", "auth_mode", "provider_api_base_url", "has_provider_api_key", "default_model",
        "execution_class", "provider_wire_api", "workspace_root",
    }  # fmt: skip
    assert (config["runtime_provider"], config["auth_mode"]) == ("openai_compatible", "api_key")
    assert (config["has_provider_api_key"], config["execution_class"]) == (True, "auto")
    assert API_KEY.encode() not in reply.body
    assert idle_bridge.get("/runtime/info").json["runtime_config"] == config


def test_the_providers_are_told_in_recommended_order(idle_bridge: Bridge) -> None:
    table = idle_bridge.get("/runtime/config").json["providers"]
    assert [row["name"] for row in table] == PROVIDERS
    modes = {row["name"]: row["auth_modes"] for row in table}
    assert (modes["openai"], modes["ollama"]) == (["chatgpt", "api_key"], ["none"])
    assert {row["name"]: row["default_base_url"] for row in table}["ollama"] == "http://127.0.0.1:11434/v1"
    assert all(row["label"] and row["speaks"] for row in table)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"runtime_provider": "nonsense"}, "runtime_provider"),
        ({"runtime_provider": None}, "runtime_provider"),
        ({"runtime_provider": 5}, "runtime_provider"),
        ({"runtime_provider": "openai", "auth_mode": "none"}, "auth_mode"),
        ({"auth_mode": "chatgpt"}, "auth_mode"),
        ({"auth_mode": "maybe"}, "auth_mode"),
        ({"auth_mode": ["none"]}, "auth_mode"),
        ({"auth_mode": "api_key", "provider_api_key": ""}, "provider_api_key"),
        ({"provider_api_base_url": "not a url"}, "provider_api_base_url"),
        ({"provider_api_base_url": "ftp://models.example/v1"}, "provider_api_base_url"),
        ({"provider_api_base_url": ""}, "provider_api_base_url"),
        ({"provider_api_base_url": {"a": 1}}, "provider_api_base_url"),
        ({"provider_api_key": "two words"}, "provider_api_key"),
        ({"provider_api_key": "a\r\nX-Injected: 1"}, "provider_api_key"),
        ({"provider_api_key": 7}, "provider_api_key"),
        ({"provider_api_key": "k" * 9000}, "provider_api_key"),
        ({"default_model": "two words"}, "default_model"),
        ({"default_model": False}, "default_model"),
        ({"workspace_root": "/etc"}, "workspace_root"),
        ({"workspace_root": "relative"}, "workspace_root"),
        ({"workspace_root": 1}, "workspace_root"),
        ({"workspace_root": None}, "workspace_root"),
        ({"workspace_root": ""}, "workspace_root"),
        ({"execution_class": "nonsense"}, "execution_class"),
        ({"execution_class": None}, "execution_class"),
        ({"provider_wire_api": "chat"}, "provider_wire_api"),
        ({"unknown": 1}, "unknown"),
        # The last field is the bad one: nothing of the others may have been applied.
        ({"default_model": "new", "provider_api_key": OTHER_KEY, "workspace_root": "/etc"}, "workspace_root"),
        ({"default_model": "new", "unknown": 1}, "unknown"),
    ],
)
def test_a_change_that_cannot_be_is_refused_whole(idle_bridge: Bridge, body: Json, field: str) -> None:
    before = config_of(idle_bridge)
    reply = idle_bridge.post("/runtime/config", body)
    assert (reply.status, reply.json["code"], reply.json["field"]) == (422, "invalid_field", field)
    assert field in reply.json["error"]
    assert OTHER_KEY.encode() not in reply.body
    assert config_of(idle_bridge) == before


def test_a_change_tells_whether_and_what(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge()
    before = config_of(one)
    same = one.post("/runtime/config", {"default_model": "demo"}).json
    assert (same["changed"], same["changed_fields"], same["config"]) == (False, [], before)
    assert one.post("/runtime/config", {}).json["changed"] is False
    change = {"default_model": "other", "provider_api_key": OTHER_KEY, "runtime_provider": "vllm"}
    reply = one.post("/runtime/config", change)
    assert reply.json["changed"] is True
    assert set(reply.json["changed_fields"]) == set(change)
    assert OTHER_KEY.encode() not in reply.body
    expected = {**before, "default_model": "other", "runtime_provider": "vllm"}
    assert reply.json["config"] == expected == config_of(one)
    reset = one.post("/runtime/config", {"default_model": None}).json
    assert reset["config"]["default_model"] is None


def test_a_base_url_gets_a_version_and_an_agents_path_stays(
    bridge: BridgeFactory, upstream: Upstream
) -> None:
    one = bridge()
    origin = upstream.base_url.removesuffix("/v1")
    for path, asked in (("", "/v1"), ("/", "/v1"), ("/api/agents/AGENT_ID/v1", "/api/agents/AGENT_ID/v1")):
        one.post("/runtime/config", {"provider_api_base_url": origin + path})
        assert play(one, one.create_session())["status"] == "idle"
        assert upstream.requests[-1].path == f"{asked}/responses"


@pytest.mark.codex
def test_a_running_turn_keeps_what_it_began_with(
    bridge: BridgeFactory, upstream: Upstream, other_upstream: Upstream
) -> None:
    gate = upstream.gate()
    upstream.script = rounds(run("echo first"), say("held ", gate, "and done"))
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Begin")
    gate.wait()
    pid = one.codex_pid()
    change = {
        "provider_api_base_url": other_upstream.base_url,
        "provider_api_key": OTHER_KEY,
        "default_model": "newer",
    }
    assert one.post("/runtime/config", change).json["changed"] is True
    gate.release()
    assert stream.until("session.completed").data["session"]["assistant_draft"] == ""
    assert len(upstream.requests) == 2
    assert not other_upstream.requests

    # The same session's next turn uses the new one, on the same thread of the same Codex.
    assert play(one, session_id)["status"] == "idle"
    (asked,) = other_upstream.requests
    assert (asked.headers["authorization"], asked.body["model"]) == (f"Bearer {OTHER_KEY}", "newer")
    assert "held and done" in asked.conversation
    assert len(upstream.requests) == 2
    assert keys_seen(upstream) == [f"Bearer {API_KEY}"] * 2
    assert one.codex_pid() == pid
    assert one.session(session_id)["runtime"]["default_model"] == "newer"


@pytest.mark.codex
@pytest.mark.parametrize("kind", ["app_server_adapter", "exec"])
def test_no_model_does_not_mean_the_last_one(bridge: BridgeFactory, upstream: Upstream, kind: str) -> None:
    one = bridge(CODEX_RUNTIME_KIND=kind, CODEX_DEFAULT_MODEL="first")
    session_id = one.create_session()
    play(one, session_id, "Remember the word Aubergine")
    for model in (None, "second", "third", None):
        one.post("/runtime/config", {"default_model": model})
        assert play(one, session_id)["status"] == "idle"
    own = upstream.requests[1].body["model"]
    assert [r.body["model"] for r in upstream.requests] == ["first", own, "second", "third", own]
    assert own != "first"
    assert "Aubergine" in upstream.requests[-1].conversation


@pytest.mark.codex
def test_the_key_is_taken_away(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge()
    reply = one.post("/runtime/config", {"provider_api_key": ""})
    assert (reply.status, reply.json["changed_fields"]) == (200, ["provider_api_key"])
    assert config_of(one)["has_provider_api_key"] is False
    assert one.get("/health").json["has_api_key"] is False
    play(one, one.create_session())
    assert keys_seen(upstream) == [None]


@pytest.mark.codex
def test_from_codexs_own_sign_in_to_a_provider_and_back(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge(
        CODEX_RUNTIME_PROVIDER="openai", CODEX_PROVIDER_API_BASE_URL=None, CODEX_PROVIDER_API_KEY=None
    )
    session_id = one.create_session()
    assert (config_of(one)["auth_mode"], one.get("/v1/models").status) == ("chatgpt", 400)
    change = {"runtime_provider": "openai_compatible", "provider_api_base_url": upstream.base_url}
    assert one.post("/runtime/config", {**change, "provider_api_key": API_KEY}).status == 200
    assert config_of(one)["auth_mode"] == "api_key"
    assert play(one, session_id, "Remember the word Aubergine")["status"] == "idle"
    back = {"runtime_provider": "openai", "provider_api_key": None, "provider_api_base_url": None}
    assert one.post("/runtime/config", back).json["config"]["auth_mode"] == "chatgpt"
    assert play(one, session_id)["status"] == "error"
    assert one.post("/runtime/config", {**change, "provider_api_key": API_KEY}).status == 200
    assert play(one, session_id)["status"] == "idle"
    assert "Aubergine" in upstream.requests[-1].conversation
    assert len(upstream.requests) == 2


@pytest.mark.codex
def test_new_sessions_work_in_the_new_workspace(
    bridge: BridgeFactory, upstream: Upstream, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    one = bridge(CODEX_WORKSPACE_ROOTS=tmp_path)
    old = one.create_session()
    reply = one.post("/runtime/config", {"workspace_root": str(other)})
    assert reply.json["changed_fields"] == ["workspace_root"]
    assert one.get("/runtime/info").json["workspace_root"] == str(other)
    upstream.script = rounds(run("pwd > where"), say("Done."))
    for session_id in (old, one.create_session()):
        play(one, session_id)
    assert (other / "where").read_text().strip() == str(other)
    assert (one.workspace / "where").read_text().strip() == str(one.workspace)


def test_changes_at_once_leave_one_of_them(idle_bridge: Bridge) -> None:
    before = config_of(idle_bridge)
    names = [f"model-{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda n: idle_bridge.post("/runtime/config", {"default_model": n}), names))
    assert {reply.status for reply in replies} == {200}
    assert config_of(idle_bridge)["default_model"] in names
    idle_bridge.post("/runtime/config", {"default_model": before["default_model"]})
    assert config_of(idle_bridge) == before


# A session's own choice -----------------------------------------------------------------------------


@pytest.mark.codex
def test_a_session_brings_its_own(
    bridge: BridgeFactory, upstream: Upstream, other_upstream: Upstream
) -> None:
    one = bridge()
    own = {
        "runtime_provider": "vllm",
        "provider_api_base_url": other_upstream.base_url,
        "provider_api_key": OTHER_KEY,
        "default_model": "own-model",
    }
    reply = one.post("/chat/sessions", {"runtime": own})
    assert (reply.status, OTHER_KEY.encode() in reply.body) == (201, False)
    mine, others = reply.json["session"]["id"], one.create_session()
    told = reply.json["session"]["runtime"]
    assert (told["runtime_provider"], told["default_model"], told["has_provider_api_key"]) == (
        "vllm", "own-model", True,
    )  # fmt: skip
    # A change of the bridge's configuration is not the session's.
    one.post("/runtime/config", {"default_model": "changed"})
    for session_id in (mine, others):
        assert play(one, session_id)["status"] == "idle"
    assert [(r.headers["authorization"], r.body["model"]) for r in other_upstream.requests] == [
        (f"Bearer {OTHER_KEY}", "own-model")
    ]
    assert [(r.headers["authorization"], r.body["model"]) for r in upstream.requests] == [
        (f"Bearer {API_KEY}", "changed")
    ]
    assert config_of(one)["default_model"] == "changed"
    everything = json.dumps(
        [one.session(mine), one.get("/chat/sessions").json, one.get("/runtime/info").json]
    )
    assert OTHER_KEY not in everything + one.log_text


@pytest.mark.codex
def test_the_bridges_key_does_not_go_to_a_sessions_own_address(
    bridge: BridgeFactory, other_upstream: Upstream
) -> None:
    one = bridge()
    session_id = one.create_session(runtime={"provider_api_base_url": other_upstream.base_url})
    assert play(one, session_id)["status"] == "idle"
    assert keys_seen(other_upstream) == [None]
    assert one.session(session_id)["runtime"]["has_provider_api_key"] is False


@pytest.mark.codex
def test_a_session_may_choose_just_a_model_or_a_key(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge()
    play(one, one.create_session(runtime={"default_model": "small"}))
    play(one, one.create_session(runtime={"provider_api_key": OTHER_KEY}))
    assert [request.body["model"] for request in upstream.requests] == ["small", "demo"]
    assert keys_seen(upstream) == [f"Bearer {API_KEY}", f"Bearer {OTHER_KEY}"]


@pytest.mark.codex
def test_a_sessions_key_stays_with_the_endpoint_it_was_given_for(
    bridge: BridgeFactory, upstream: Upstream, other_upstream: Upstream
) -> None:
    one = bridge()
    session_id = one.create_session(runtime={"provider_api_key": OTHER_KEY})
    one.post("/runtime/config", {"provider_api_base_url": other_upstream.base_url})
    assert play(one, session_id)["status"] == "idle"
    assert keys_seen(upstream) == [f"Bearer {OTHER_KEY}"]
    assert not other_upstream.requests


@pytest.mark.parametrize(
    ("runtime", "field"),
    [
        ("text", "runtime"),
        ([], "runtime"),
        ({"runtime_provider": "nonsense"}, "runtime.runtime_provider"),
        ({"runtime_provider": "vllm"}, "runtime.provider_api_base_url"),
        ({"provider_api_base_url": "http://user:secret@host/v1"}, "runtime.provider_api_base_url"),
        ({"runtime_provider": "openai", "auth_mode": "api_key"}, "runtime.provider_api_key"),
        ({"runtime_provider": "ollama", "auth_mode": "api_key"}, "runtime.auth_mode"),
        ({"auth_mode": "chatgpt"}, "runtime.auth_mode"),
        ({"workspace_root": "/"}, "runtime.workspace_root"),
        ({"key": OTHER_KEY}, "runtime.key"),
        ({"provider_api_key": f"{OTHER_KEY} x"}, "runtime.provider_api_key"),
    ],
)
def test_a_choice_that_cannot_be_makes_no_session(idle_bridge: Bridge, runtime: Any, field: str) -> None:
    before = idle_bridge.get("/chat/sessions").json["total"]
    reply = idle_bridge.post("/chat/sessions", {"runtime": runtime})
    assert (reply.status, reply.json["code"], reply.json["field"]) == (422, "invalid_field", field)
    assert "secret" not in reply.json["error"]
    assert OTHER_KEY not in reply.json["error"]
    assert idle_bridge.get("/chat/sessions").json["total"] == before


# Each provider ------------------------------------------------------------------------------------------

WAYS = [
    ("openai", "api_key", True),
    ("osirus", "none", False),
    ("osirus", "api_key", True),
    ("osirus_agent", "api_key", True),
    ("ollama", "none", False),
    ("vllm", "api_key", True),
    ("vllm", "none", False),
    ("openai_compatible", "api_key", True),
    ("openai_compatible", "none", False),
]


@pytest.mark.codex
@pytest.mark.parametrize(("provider", "mode", "sends_key"), WAYS)
def test_each_provider_and_auth_mode_runs_a_turn(
    bridge: BridgeFactory, upstream: Upstream, provider: str, mode: str, sends_key: bool
) -> None:
    upstream.script = rounds(run("echo made > made.txt"), say("Done."))
    one = bridge(CODEX_RUNTIME_PROVIDER=provider, CODEX_AUTH_MODE=mode)
    session = play(one, one.create_session())
    assert (session["status"], session["last_error"]) == ("idle", None)
    assert session["runtime"]["auth_mode"] == mode
    assert (one.workspace / "made.txt").read_text() == "made\n"
    assert keys_seen(upstream) == [f"Bearer {API_KEY}" if sends_key else None] * 2
    assert {request.path for request in upstream.requests} == {"/v1/responses"}
