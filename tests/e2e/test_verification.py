"""Verification: a provider and a model are tried, and what was found decides what `auto` means."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from signal import Signals
from typing import Any

import pytest

from tests.conftest import BridgeFactory, settings_for
from tests.support.bridge import API_KEY, REPOSITORY, Bridge, Directories, bridge_command
from tests.support.turns import play
from tests.support.upstream import Answer, Failure, Request, Upstream, call, change, patch, say
from tests.support.waiting import BOUND_S, wait_until

pytestmark = pytest.mark.codex

CLASSES = ["native_tools", "model_tools", "bridge_tools"]
CHAT = ("/chat/completions",)
MODEL = "apprentice"
_TASK = re.compile(r"replace the word world by the word (\w+)")
Json = dict[str, Any]


def edit(request: Request, word: str) -> Answer:
    """Make the edit in the way that the request offers: by Codex's shell, by a tool, or in a text."""
    wanted = change("greeting.txt", "Hello, world!", f"Hello, {word}!")
    offered = [tool.get("function", tool).get("name") for tool in request.body.get("tools", [])]
    if "apply_patch" in offered and "exec_command" not in offered:
        return call("apply_patch", {"patch": f"*** Begin Patch\n{wanted}*** End Patch\n"})
    if offered:
        return patch(wanted)
    body = {"tool": "apply_patch", "input": {"patch": f"*** Begin Patch\n{wanted}*** End Patch\n"}}
    return say(f"I edit it.\n\n```tool\n{json.dumps(body)}\n```\n")


def able(request: Request) -> Answer:
    """A model that does as it is asked."""
    task = _TASK.search(request.user_text)
    if task and not request.outputs:
        return edit(request, task[1])
    if "record_word" in request.user_text:
        return call("record_word", {"word": "ready"})
    return say("ready")


def boaster(request: Request) -> Answer:
    """A model that says it has done it."""
    return say("Done: I have replaced the word.")


def only_text(request: Request) -> Answer:
    """A model that knows no tool calls, and writes what it wants."""
    if request.body.get("tools"):
        return say("I know no tools.")
    return able(request)


@pytest.fixture
def one(bridge: BridgeFactory, upstream: Upstream) -> Bridge:
    """A bridge whose provider has one model, and which has not been tried."""
    upstream.models = [MODEL]
    return bridge(CODEX_DEFAULT_MODEL=MODEL)


def verify(one: Bridge) -> Json:
    reply = one.post("/runtime/verify")
    assert reply.status == 200, reply.body
    report: Json = reply.json["verification"]
    return report


def readiness(report: Json) -> list[str]:
    return [report["classes"][name]["readiness"] for name in CLASSES]


def steps(report: Json) -> dict[str, str]:
    return {row["step"]: row["status"] for row in report["checks"]}


def described(one: Bridge) -> Json:
    found: Json = one.get("/runtime/info").json["verification"]
    return found


@pytest.mark.smoke
def test_a_model_that_can_all(one: Bridge, upstream: Upstream) -> None:
    before = described(one)
    assert (before["execution_class"], before["report"], before["running"]) == ("native_tools", None, False)
    assert [before["classes"][name]["readiness"] for name in CLASSES] == [
        None,
        "experimental",
        "experimental",
    ]
    upstream.script = able
    report = verify(one)
    assert readiness(report) == ["verified"] * 3, report
    assert set(steps(report).values()) == {"ok"}
    assert (report["best_class"], report["wire_api"], report["model"]) == ("native_tools", "responses", MODEL)
    assert described(one)["report"] == report
    assert API_KEY not in json.dumps(report)
    assert [path.name for path in one.directories.workspace.iterdir()] == [".git"]


@pytest.mark.parametrize(
    ("script", "apis", "expected", "best"),
    [
        (boaster, None, ["experimental", "unsupported", "unsupported"], "native_tools"),
        (only_text, CHAT, ["unsupported", "unsupported", "verified"], "bridge_tools"),
        (able, CHAT, ["verified", "verified", "verified"], "native_tools"),
        (lambda request: Failure(401, "no"), None, ["unsupported"] * 3, None),
    ],
)
def test_what_each_model_is_good_for(
    one: Bridge,
    upstream: Upstream,
    script: Callable[[Request], Answer],
    apis: tuple[str, ...] | None,
    expected: list[str],
    best: str | None,
) -> None:
    upstream.script, upstream.apis = script, apis or upstream.apis
    report = verify(one)
    assert readiness(report) == expected, report
    assert report["best_class"] == best
    assert all(row["evidence"] and row["duration_ms"] >= 0 for row in report["checks"])
    assert described(one)["execution_class"] == (best or "native_tools")


@pytest.mark.parametrize(
    ("settings", "expected", "told"),
    [
        # Codex's requests would reach no address here, whatever the model can by chat.
        (
            {"CODEX_PROVIDER_WIRE_API": "responses"},
            ["unsupported", "verified", "verified"],
            "Not tried, since the step responses failed: POST /responses answered 404",
        ),
        ({"CODEX_PROVIDER_WIRE_API": "chat_completions"}, ["verified"] * 3, "was changed as asked"),
        # Codex has a model of its own, which this upstream takes.
        ({"CODEX_DEFAULT_MODEL": ""}, ["verified", "unsupported", "unsupported"], "was changed as asked"),
    ],
)
def test_what_the_configuration_allows(
    bridge: BridgeFactory, upstream: Upstream, settings: dict[str, str], expected: list[str], told: str
) -> None:
    upstream.script, upstream.apis = able, CHAT
    report = verify(bridge(**{"CODEX_DEFAULT_MODEL": MODEL, **settings}))
    assert readiness(report) == expected, report
    assert told in report["classes"]["native_tools"]["evidence"]


def test_a_provider_that_is_away_takes_nothing_back(one: Bridge, upstream: Upstream) -> None:
    upstream.script, upstream.apis = only_text, CHAT
    known = verify(one)
    upstream.apis = ()
    report = verify(one)
    assert (report["best_class"], described(one)["report"]) == (None, known)
    assert report["classes"]["bridge_tools"]["evidence"].startswith("Not tried, since the step chat failed: ")
    assert described(one)["execution_class"] == "bridge_tools"


def test_auto_plays_what_was_found_best_also_after_a_restart(
    bridge: BridgeFactory, upstream: Upstream
) -> None:
    upstream.script, upstream.apis = only_text, CHAT
    one = bridge(CODEX_DEFAULT_MODEL=MODEL)
    assert verify(one)["best_class"] == "bridge_tools"
    one.signal(Signals.SIGTERM)
    one.wait_exit()
    two = bridge(CODEX_DEFAULT_MODEL=MODEL)
    assert described(two)["execution_class"] == "bridge_tools"
    count = len(upstream.requests)
    _, stream = play(two, "Hello")
    told = [event.data["event"] for event in stream.events if event.name == "session.event"]
    assert [event["execution_class"] for event in told if event["type"] == "turn.started"] == ["bridge_tools"]
    played = upstream.requests[count:]
    assert played and all(request.is_chat and not request.body.get("tools") for request in played)
    # Of another model nothing is known.
    two.post("/runtime/config", {"default_model": "another"})
    assert described(two)["execution_class"] == "native_tools"
    # What is chosen by name is not overruled.
    two.post("/runtime/config", {"default_model": MODEL, "execution_class": "model_tools"})
    assert described(two)["execution_class"] == "model_tools"


def test_progress_streams(one: Bridge, upstream: Upstream) -> None:
    upstream.script = able
    stream = one.post_stream("/runtime/verify")
    end = stream.until("verify.completed", 4 * BOUND_S)
    assert readiness(end.data["verification"]) == ["verified"] * 3
    told = [(event.data["step"], event.data["status"]) for event in stream.events[:-1]]
    assert told[:4] == [
        ("models", "running"),
        ("models", "ok"),
        ("responses", "running"),
        ("responses", "ok"),
    ]
    assert {name for name, _ in told} == set(steps(end.data["verification"]))


def test_one_at_a_time_and_it_ends_with_its_client(one: Bridge, upstream: Upstream) -> None:
    gate = upstream.gate()
    upstream.script = lambda request: say("half ", gate, "whole")
    stream = one.post_stream("/runtime/verify")
    gate.wait()
    reply = one.post("/runtime/verify", {})
    assert (reply.status, reply.json["code"]) == (409, "verification_running")
    assert described(one)["running"] is True
    stream.close()
    wait_until(lambda: not described(one)["running"], "the end of the verification")
    gate.release()


def test_a_stop_ends_it_with_a_word(one: Bridge, upstream: Upstream) -> None:
    gate = upstream.gate()
    upstream.script = lambda request: say("half ", gate, "whole")
    stream = one.post_stream("/runtime/verify")
    gate.wait()
    one.signal(Signals.SIGTERM)
    assert stream.until("verify.failed").data["code"] == "draining"
    assert one.wait_exit() == 0


def test_the_command_prints_a_table(
    request: pytest.FixtureRequest, upstream: Upstream, directories: Directories
) -> None:
    upstream.script, upstream.models = able, [MODEL]
    places = {
        "HOME": directories.home, "CODEX_HOME": directories.codex_home,
        "CODEX_WORKSPACE_ROOT": directories.workspace, "PYTHONPATH": REPOSITORY, "PATH": os.environ["PATH"],
    }  # fmt: skip
    environ = {
        name: str(value)
        for name, value in {
            **places,
            **settings_for(upstream.base_url, {"CODEX_DEFAULT_MODEL": MODEL}),
        }.items()
    }
    command = [*bridge_command(request.config.getoption("--bridge")), "verify"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=4 * BOUND_S)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("verified")] == [
        ["verified", name] for name in CLASSES
    ]
    assert f"The best execution class for {MODEL} of openai_compatible is native_tools (verified)." in lines
    upstream.script = boaster
    told = subprocess.run(
        [*command, "--json"], env=environ, capture_output=True, text=True, timeout=4 * BOUND_S
    )
    assert told.returncode == 1
    assert json.loads(told.stdout)["best_class"] == "native_tools"
