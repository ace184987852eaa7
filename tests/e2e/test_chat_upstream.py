"""The real Codex on an upstream that has Chat Completions alone: it runs, edits, remembers and fails as on any other."""

import base64
import json
from pathlib import Path

import pytest

from tests.conftest import BridgeFactory
from tests.support import processes
from tests.support.bridge import API_KEY, Bridge, Json
from tests.support.images import png
from tests.support.sse import Event, Stream, assert_contiguous, kinds, said
from tests.support.upstream import (
    Failure,
    Upstream,
    add,
    call,
    calls,
    crowded,
    patch,
    rounds,
    run,
    say,
    think,
)

pytestmark = pytest.mark.codex
CHAT = ("/chat/completions",)
# A model for which Codex has a freeform apply_patch, and a search for other tools.
FREEFORM = "gpt-5.5"
# One for which its tools stand in the conversation, in namespaces.
NAMESPACES = "gpt-5.6-sol"


@pytest.fixture(autouse=True)
def chat_alone(upstream: Upstream) -> None:
    upstream.apis = CHAT


def play(one: Bridge, message: str = "Do it", session_id: str | None = None) -> tuple[str, Stream]:
    """Run one turn to its end; return the session and its stream."""
    session_id = session_id or one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, message)
    stream.until(lambda event: event.name in ("session.completed", "session.error"))
    assert stream.events[-1].name == "session.completed", stream.events[-1].data["session"]["last_error"]
    return session_id, stream


def items(events: list[Event], kind: str) -> list[Json]:
    """Return the completed items of a type."""
    found = [event.runtime["item"] for event in events if event.kind == "item.completed"]
    return [item for item in found if item["type"] == kind]


@pytest.mark.smoke
def test_a_turn_over_chat(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(think("Hmm.", say("Hel", "lo")))
    one = bridge()
    session_id, stream = play(one, "Greet me")
    assert said(stream.events) == "Hello"
    assert_contiguous(stream.events)
    thought = [event.runtime["delta"] for event in stream.events if event.kind == "item.reasoning.delta"]
    assert "".join(thought) == "Hmm."
    session = one.session(session_id)
    assert [message["text"] for message in session["messages"]] == ["Greet me", "Hello"]
    assert session["usage"] == {
        "input_tokens": 10, "cached_input_tokens": 4, "output_tokens": 5, "reasoning_output_tokens": 2, "total_tokens": 15
    }  # fmt: skip
    (request,) = upstream.requests
    assert request.path == "/v1/chat/completions"
    assert request.user_text == "Greet me"
    assert request.headers["authorization"] == f"Bearer {API_KEY}"
    assert API_KEY.encode() not in request.raw
    assert "gw_" not in f"{request.headers} {request.body}"
    assert [message["role"] for message in request.input] == ["system", "user"]


@pytest.mark.parametrize(
    "stray",
    [Failure(404), Failure(405, "Method Not Allowed"), Failure(501, "what is that?")],
    ids=["404", "405", "501"],
)
def test_the_api_is_found_out_once(bridge: BridgeFactory, upstream: Upstream, stray: Failure) -> None:
    upstream.stray = stray
    upstream.script = rounds(run("true"), say("Done."))
    one = bridge()
    session_id, _ = play(one)
    play(one)
    play(one, "Again", session_id)
    assert upstream.strays == ["/v1/responses"]
    assert len(upstream.requests) == 6
    one.wait_log("chat completions")


def test_a_model_that_is_not_there_is_no_missing_api(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.stray = Failure(404, "The model `demo` does not exist.", "model_not_found")
    one = bridge()
    session_id = one.create_session()
    one.send(session_id, "Hello")
    session = one.settled(session_id)
    assert session["last_error_code"] == "upstream_rejected"
    assert "does not exist" in session["last_error"]
    assert upstream.requests == []


@pytest.mark.parametrize(("wire_api", "strays"), [("chat_completions", []), ("responses", ["/v1/responses"])])
def test_the_api_can_be_chosen(
    bridge: BridgeFactory, upstream: Upstream, wire_api: str, strays: list[str]
) -> None:
    one = bridge(CODEX_PROVIDER_WIRE_API=wire_api)
    session_id = one.create_session()
    one.send(session_id, "Hello")
    session = one.settled(session_id)
    assert upstream.strays == strays
    assert session["last_error_code"] == ("upstream_rejected" if strays else None)


def test_the_freeform_patch_tool_edits(bridge: BridgeFactory, upstream: Upstream) -> None:
    text = '*** Begin Patch\n*** Add File: hero.html\n+<h1 class="x">Hi</h1>\n*** End Patch\n'
    upstream.script = rounds(call("apply_patch", {"input": text}), say("Done."))
    one = bridge(CODEX_DEFAULT_MODEL=FREEFORM)
    _, stream = play(one)
    assert (one.workspace / "hero.html").read_text() == '<h1 class="x">Hi</h1>\n'
    (edit,) = items(stream.events, "fileChange")
    assert (edit["status"], Path(edit["changes"][0]["path"]).name) == ("completed", "hero.html")
    assert '<h1 class="x">Hi</h1>' in edit["changes"][0]["diff"]
    first, second = upstream.requests
    (tool,) = (each["function"] for each in first.body["tools"] if each["function"]["name"] == "apply_patch")
    assert "begin_patch" in tool["description"]
    assert "Success" in second.outputs[0]
    assert json.loads(second.input[-2]["tool_calls"][0]["function"]["arguments"]) == {"input": text}


def test_a_tool_that_was_searched_for_can_be_called(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(
        call("tool_search", {"query": "spawn agent"}),
        call("multi_agent_v1__close_agent", {"target": "nobody"}),
        say("Done."),
    )
    play(bridge(CODEX_DEFAULT_MODEL=FREEFORM))
    offered = [{tool["function"]["name"] for tool in request.body["tools"]} for request in upstream.requests]
    assert offered[1] - offered[0] >= {"multi_agent_v1__close_agent", "multi_agent_v1__spawn_agent"}
    # It was called: an unknown one is "unsupported call".
    assert "agent id" in upstream.requests[2].outputs[1]


def test_tools_in_namespaces_are_called(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(
        call("exec", {"input": "text('the sum is ' + (40 + 2))"}),
        call("collaboration__list_agents", {}),
        say("Done."),
    )
    play(bridge(CODEX_DEFAULT_MODEL=NAMESPACES))
    summed, agents = upstream.requests[-1].outputs
    assert "the sum is 42" in summed
    assert '"/root"' in agents


def test_calls_side_by_side(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = lambda request: (
        say("Done.")
        if request.outputs
        else calls(*(("exec_command", {"cmd": f"echo call-{number}"}) for number in range(3)))
    )
    one = bridge()
    _, stream = play(one)
    assert len(items(stream.events, "commandExecution")) == 3
    outputs = upstream.requests[1].outputs
    assert [f"call-{number}" in output for number, output in enumerate(outputs)] == [True] * 3
    roles = [message["role"] for message in upstream.requests[1].input]
    assert roles[-4:] == ["assistant", "tool", "tool", "tool"]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [(("fly", {"to": "moon"}), "unsupported call: fly"), (("exec_command", '{"cmd": '), "failed to parse")],
)
def test_a_call_that_cannot_be_made_goes_back_to_the_model(
    bridge: BridgeFactory, upstream: Upstream, wanted: tuple[str, Json | str], said: str
) -> None:
    upstream.script = rounds(calls(wanted), say("Then I walk."))
    session_id, _ = play(one := bridge())
    assert said in upstream.requests[1].outputs[0]
    made = upstream.requests[1].input[-2]["tool_calls"][0]["function"]
    assert isinstance(json.loads(made["arguments"]), dict)
    assert one.session(session_id)["messages"][-1]["text"] == "Then I walk."


def test_an_image_reaches_the_model(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge()
    (one.workspace / "mine.png").write_bytes(png())
    looked = call("view_image", {"path": "mine.png"})
    upstream.script = lambda request: say("Red.") if request.input[-2]["role"] == "tool" else looked
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Look", attachments=[{"path": "mine.png"}])
    stream.until("session.completed")
    for request, count in zip(upstream.requests, (1, 2), strict=True):
        parts = [
            part
            for message in request.input
            if isinstance(message["content"], list)
            for part in message["content"]
        ]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        assert len(urls) == count
        kind, _, data = urls[-1].partition(";base64,")
        assert (kind, base64.b64decode(data)[:4]) == ("data:image/png", b"\x89PNG")


def test_the_conversation_survives_its_codex(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge()
    upstream.script = rounds(
        patch(add("a.txt", "x")), run("cat a.txt"), think("Hmm.", say("The blue answer."))
    )
    session_id, stream = play(one, "the first question")
    processes.kill(one.codex_pid())
    upstream.script = rounds(run("echo again"), say("The green answer."))
    one.send(session_id, "the second question")
    stream.until("session.completed")
    request = upstream.requests[-1]
    conversation = request.conversation
    positions = [
        conversation.index(words)
        for words in (
            "the first question",
            "Success",
            "The blue answer.",
            "the second question",
            "echo again",
        )
    ]
    assert positions == sorted(positions)
    called = [made["id"] for message in request.input for made in message.get("tool_calls", ())]
    answered = [message["tool_call_id"] for message in request.input if message["role"] == "tool"]
    assert called == answered
    assert len(called) == 3


def test_a_long_conversation_is_summed_up(bridge: BridgeFactory, upstream: Upstream) -> None:
    answers = iter([crowded(run("true")), say("So far nothing was done."), say("Done.")])
    upstream.script = lambda request: next(answers)
    one = bridge()
    session_id, stream = play(one)
    assert items(stream.events, "contextCompaction")
    assert "So far nothing was done." in upstream.requests[2].conversation
    assert upstream.requests[2].outputs == []
    assert one.session(session_id)["messages"][-1]["text"] == "Done."


def test_an_interrupt_ends_the_upstreams_work(bridge: BridgeFactory, upstream: Upstream) -> None:
    gate = upstream.gate()
    upstream.script = rounds(say("half ", gate, "whole"))
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Talk")
    stream.until_text("half ")
    one.interrupt(session_id)
    stream.until("session.interrupted")
    assert upstream.requests[0].abandoned.wait(30), "the upstream's stream goes on without a listener"
    upstream.script = rounds(say("All of it."))
    one.send(session_id, "Again")
    stream.until("session.completed")
    assert [message["role"] for message in upstream.requests[-1].input][:2] == ["system", "user"]


def test_what_is_left_out_is_said_once(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge()
    session_id, stream = play(one)
    one.send(session_id, "Again")
    stream.until("session.completed")
    warnings = [event.runtime for event in stream.events if event.runtime.get("code") == "left_out"]
    assert len(warnings) == 1
    assert "web_search" in warnings[0]["message"]
    assert "web_search" not in json.dumps(upstream.requests[0].body["tools"])


@pytest.mark.parametrize("model", ["demo", FREEFORM])
def test_over_exec(bridge: BridgeFactory, upstream: Upstream, model: str) -> None:
    upstream.script = rounds(patch(add("a.txt", "x")), say("Done."))
    if model == FREEFORM:
        text = "*** Begin Patch\n*** Add File: a.txt\n+x\n*** End Patch\n"
        upstream.script = rounds(call("apply_patch", {"input": text}), say("Done."))
    one = bridge(CODEX_RUNTIME_KIND="exec", CODEX_DEFAULT_MODEL=model)
    _, stream = play(one)
    assert (one.workspace / "a.txt").read_text() == "x\n"
    assert "session.completed" in kinds(stream.events)
    assert upstream.strays == ["/v1/responses"]
