"""Turns of the class `model_tools` on a whole bridge: the model calls tools by chat completions, the bridge runs them.

What a loop does with each kind of answer is in `tests/unit/test_tool_loop.py`; here it meets the real sandbox, the store, the
approvals, the queue and the other classes.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BridgeFactory
from tests.support.bridge import Bridge
from tests.support.images import png
from tests.support.sse import Stream, assert_contiguous, kinds
from tests.support.upstream import (
    Answer,
    Failure,
    Request,
    Script,
    Upstream,
    add,
    call,
    calls,
    change,
    patch,
    rounds,
    run,
    say,
)
from tests.support.upstream import Stream as Reply

pytestmark = pytest.mark.codex

CLASS = {"CODEX_EXECUTION_CLASS": "model_tools"}


def edit(*files: str) -> Reply:
    return call("apply_patch", {"patch": "*** Begin Patch\n" + "".join(files) + "*** End Patch\n"})


def command(text: str, **more: Any) -> Reply:
    return call("run_command", {"command": text, **more})


def steps(*answers: Answer) -> Script:
    """Answer the first request of a turn with the first answer, and so on, however many calls each has."""

    def script(request: Request) -> Answer:
        return answers[sum("tool_calls" in message for message in request.input)]

    return script


def play(one: Bridge, message: str = "Do it", session_id: str | None = None, **body: Any) -> Stream:
    """Run one turn to its end, whatever that is."""
    session_id = session_id or one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, message, **body)
    stream.until(lambda event: event.name in ("session.completed", "session.error", "session.interrupted"))
    return stream


def items(stream: Stream, kind: str) -> list[dict[str, Any]]:
    found = [event.runtime["item"] for event in stream.events if event.kind == "item.completed"]
    return [item for item in found if item["type"] == kind]


def end_of(stream: Stream) -> Any:
    return stream.events[-1].data["session"]


@pytest.mark.smoke
def test_it_reads_edits_and_runs(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = steps(
        calls(("read_file", {"path": "a.txt"}), ("search_text", {"query": "two"}), ("list_files", {})),
        edit(change("a.txt", "two", "2"), add("new/b.txt", "b")),
        command("cat a.txt new/b.txt; echo x > ../outside; exit 3"),
        call("git_status", {}),
        say("I have changed ", "a.txt."),
    )
    one = bridge(**CLASS)
    (one.workspace / "a.txt").write_text("one\ntwo\n")
    stream = play(one)

    assert end_of(stream)["status"] == "idle", end_of(stream)["last_error"]
    assert_contiguous(stream.events)
    assert (one.workspace / "a.txt").read_text() == "one\n2\n"
    assert (one.workspace / "new/b.txt").read_text() == "b\n"
    assert not (one.workspace.parent / "outside").exists()
    reads = items(stream, "dynamicToolCall")
    assert [(item["tool"], item["success"]) for item in reads] == [
        ("read_file", True), ("search_text", True), ("list_files", True)
    ]  # fmt: skip
    ran, git = items(stream, "commandExecution")
    assert (ran["exitCode"], ran["status"], ran["cwd"]) == (3, "failed", str(one.workspace))
    assert ran["aggregatedOutput"].startswith("one\n2\nb\n")
    assert (git["command"], git["exitCode"]) == ("git status", 0)
    (edited,) = items(stream, "fileChange")
    assert {Path(each["path"]).name for each in edited["changes"]} == {"a.txt", "b.txt"}
    diff = [event.runtime["diff"] for event in stream.events if event.kind == "turn.diff.updated"][-1]
    assert "-two\n+2\n" in diff
    assert "+++ b/new/b.txt" in diff
    assert end_of(stream)["messages"][-1]["text"] == "I have changed a.txt."
    assert end_of(stream)["usage"]["total_tokens"] == 5 * 15
    stored = one.get(f"/chat/sessions/{end_of(stream)['id']}/items").json["items"]
    assert [each["item"]["type"] for each in stored] == [
        "dynamicToolCall", "dynamicToolCall", "dynamicToolCall", "fileChange", "commandExecution", "commandExecution",
        "agentMessage",
    ]  # fmt: skip
    assert not any("responses" in request.path for request in upstream.requests)


def test_a_host_cannot_tell_it_from_codex(bridge: BridgeFactory, upstream: Upstream) -> None:
    """The same work, done by Codex and by the loop, is told by the same events with the same fields."""

    def shapes(stream: Stream) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for event in stream.events:
            item = event.runtime.get("item", {})
            name = f"{event.kind} {item.get('type', '')}"
            found.setdefault(name, set()).update(item or event.runtime or event.data)
        return found

    def sequence(stream: Stream) -> list[str]:
        # The loop's own event; Codex tells a diff more often than it changes, and doubts about unknown models.
        own = ("bridge.tool.result", "turn.diff.updated", "warning")
        names: list[str] = []
        for event in stream.events:
            item_type = event.runtime.get("item", {}).get("type", "")
            names += [f"{event.kind} {item_type}"] if event.kind not in own else []
        return names

    finish = "echo done; cat a.txt"
    upstream.script = rounds(patch(add("a.txt", "x")), run(finish), say("Done."))
    one = bridge()
    native = play(one)
    assert one.post("/runtime/config", {"execution_class": "model_tools"}).status == 200
    upstream.script = rounds(edit(add("b.txt", "x")), command("echo done; cat b.txt"), say("Done."))
    loop = play(one)

    quiet = ("command.execution.output ", "bridge.tool.result ", "warning ")
    # Fields that newer versions of Codex have besides.
    newer = {"startedAtMs", "completedAtMs", "moderation"}
    expected = {name: fields - newer for name, fields in shapes(native).items() if name not in quiet}
    assert {name: fields for name, fields in shapes(loop).items() if name not in quiet} == expected
    without_output = [name for name in sequence(loop) if name not in quiet]
    assert without_output == [name for name in sequence(native) if name not in quiet]


def test_approvals_of_a_session(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(command("touch made"), say("Done."))
    one = bridge(CODEX_APPROVAL_POLICY="on-request", **CLASS)
    session_id = one.create_session(approval_policy="untrusted")
    stream = one.ready_stream(session_id)
    for decision, status in (
        ("decline", "declined"),
        ("accept_for_session", "completed"),
        (None, "completed"),
    ):
        one.send(session_id, "Do it")
        if decision is not None:
            asked = stream.until("session.approval.required").data["approval"]
            assert (asked["kind"], asked["decisions"][-1]) == ("command", "cancel")
            assert not (one.workspace / "made").exists()
            assert one.decide(session_id, decision).status == 200
        stream.until("session.completed")
        assert items(stream, "commandExecution")[-1]["status"] == status
    assert (one.workspace / "made").exists()

    upstream.script = rounds(edit(add("b.txt", "x")), say("Done."))
    one.send(session_id, "Do it")
    asked = stream.until("session.approval.required").data["approval"]
    assert asked["changes"][0]["diff"] == "x\n"
    one.decide(session_id, "cancel")
    stream.until("session.interrupted")
    assert not (one.workspace / "b.txt").exists()
    assert items(stream, "fileChange")[-1]["status"] == "declined"


def test_an_approval_that_nobody_answers_is_declined(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(command("touch made"), say("A pity."))
    one = bridge(CODEX_APPROVAL_POLICY="untrusted", CODEX_BRIDGE_APPROVAL_TIMEOUT_MS=300, **CLASS)
    stream = play(one)
    assert stream.events[-1].name == "session.completed"
    assert not (one.workspace / "made").exists()
    assert "approval.responded" in kinds(stream.events)


def test_a_command_leaves_the_sandbox_only_when_a_person_says_so(
    bridge: BridgeFactory, upstream: Upstream
) -> None:
    outside = "../outside"
    asked = command(f"touch {outside}", escalate=True, justification="May I?")
    upstream.script = rounds(command(f"touch {outside}"), asked, say("Done."))
    one = bridge(CODEX_APPROVAL_POLICY="on-request", **CLASS)
    for decision, is_there in (("decline", False), ("accept", True)):
        session_id = one.create_session()
        stream = one.ready_stream(session_id)
        one.send(session_id, "Do it")
        approval = stream.until("session.approval.required").data["approval"]
        assert approval["reason"] == "May I?"
        one.decide(session_id, decision)
        stream.until("session.completed")
        assert (one.workspace / outside).exists() is is_there
        assert items(stream, "commandExecution")[0]["status"] == "failed"


@pytest.mark.parametrize("where", ["answer", "command", "request", "approval"])
def test_an_interrupt_ends_it_at_once(bridge: BridgeFactory, upstream: Upstream, where: str) -> None:
    gate = upstream.gate()
    answers: dict[str, Answer] = {
        "answer": say("half ", gate, "other"),
        "command": command("echo begun; sleep 1000"),
        "request": gate,
        "approval": command("touch no", escalate=True),
    }
    upstream.script = lambda request: answers[where]
    one = bridge(CODEX_APPROVAL_POLICY="on-request", **CLASS)
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Do it")
    if where == "request":
        gate.wait()
    else:
        seen = {"answer": "item.agent_message.delta", "command": "command.execution.output"}
        stream.until(seen.get(where, "session.approval.required"))
    assert one.interrupt(session_id).status == 200
    stream.until("session.interrupted")
    if where == "answer":
        message = one.session(session_id)["messages"][-1]
        assert (message["text"], message["incomplete"]) == ("half ", True)
    elif where == "command":
        assert items(stream, "commandExecution")[0]["exitCode"] == -1
    elif where == "approval":
        assert items(stream, "commandExecution")[0]["status"] == "declined"
        assert one.approvals(session_id) == []
    upstream.script = rounds(say("Here again."))
    one.send(session_id, "And now?")
    stream.until("session.completed")


def test_queue_and_steer(bridge: BridgeFactory, upstream: Upstream) -> None:
    gate = upstream.gate()

    def script(request: Request) -> Answer:
        return (
            say("First ", gate, "thought.") if request.user_text == "one" else say(f"To {request.user_text}.")
        )

    upstream.script = script
    one = bridge(**CLASS)
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "one")
    stream.until("item.agent_message.delta")
    assert one.send(session_id, "the steer", when_busy="steer")["steered"] is True
    assert one.send(session_id, "the queued", when_busy="queue")["turn_id"]
    gate.release()
    stream.until("session.completed")
    stream.until("session.completed")
    texts = [
        message["text"] for message in one.session(session_id)["messages"] if message["role"] == "assistant"
    ]
    assert texts == ["First thought.", "To the steer.", "To the queued."]
    said = [message["content"] for message in upstream.requests[-1].body["messages"][1:]]
    assert said[0].startswith("one")
    assert "To the steer." in json.dumps(said)


def test_a_killed_bridge_knows_what_was_said(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = lambda request: say("half ", upstream.gate())
    one = bridge(**CLASS)
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    upstream.script = rounds(say("The word is plum."))
    one.send(session_id, "What is the word?")
    stream.until("session.completed")
    upstream.script = lambda request: say("half ", upstream.gate())
    one.send(session_id, "Say more")
    stream.until("item.agent_message.delta")
    one.kill()

    again = bridge(**CLASS)
    assert again.settled(session_id)["last_error_code"] == "bridge_restarted"
    upstream.script = rounds(say("It was plum."))
    later = play(again, "And again?", session_id)
    assert end_of(later)["messages"][-1]["text"] == "It was plum."
    resumed = [event.runtime["resumed"] for event in later.events if event.kind == "thread.started"]
    assert resumed == [True]
    said = [(each["role"], each["content"]) for each in upstream.requests[-1].body["messages"]][1:]
    assert said[:2] == [("user", "What is the word?"), ("assistant", "The word is plum.")]
    assert said[2] == ("user", "Say more")
    assert said[-1] == ("user", "And again?")


@pytest.mark.parametrize(
    ("trouble", "code"),
    [(Failure(401), "upstream_unauthorized"), (Failure(400, "no such thing"), "upstream_rejected")],
)
def test_failures_are_told_in_plain_words(
    bridge: BridgeFactory, upstream: Upstream, trouble: Failure, code: str
) -> None:
    upstream.script = lambda request: trouble
    session = end_of(play(bridge(**CLASS)))
    assert (session["status"], session["last_error_code"]) == ("error", code)
    assert session["last_error"].startswith(f"The upstream answered {trouble.status}")
    assert len(upstream.requests) == 1


def test_silence_ends_the_turn(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = lambda request: say("half ", upstream.gate())
    session = end_of(play(bridge(CODEX_UPSTREAM_IDLE_TIMEOUT_MS=300, **CLASS)))
    assert session["last_error_code"] == "upstream_timeout"
    assert len(upstream.requests) == 1


def test_a_turn_has_its_time(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = lambda request: say("half ", upstream.gate())
    session = end_of(play(bridge(CODEX_CHAT_TURN_TIMEOUT_MS=1000, **CLASS)))
    assert (session["status"], session["last_error_code"]) == ("error", "turn_timeout")


def test_it_is_there_with_codex_exec_as_well(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(edit(add("a.txt", "x")), command("cat a.txt"), say("Done."))
    stream = play(bridge(CODEX_RUNTIME_KIND="exec", CODEX_APPROVAL_POLICY="never", **CLASS))
    assert items(stream, "commandExecution")[0]["aggregatedOutput"] == "x\n"
    assert end_of(stream)["messages"][-1]["text"] == "Done."


def test_images_and_context_are_shown(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(say("Red."))
    one = bridge(**CLASS)
    (one.workspace / "a.png").write_bytes(png())
    session_id = one.create_session(context={"page": "start"})
    play(one, "What is it?", session_id, attachments=[{"path": "a.png"}])
    messages = upstream.requests[0].body["messages"]
    assert '"page":"start"' in messages[0]["content"]
    text, image = messages[1]["content"]
    assert text["text"] == "What is it?"
    assert image["image_url"]["url"].startswith("data:image/png;base64,")


def test_the_key_is_in_no_reach_of_a_command(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(
        command("env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'"), say("Ok.")
    )
    one = bridge(**CLASS)
    stream = play(one)
    (ran,) = items(stream, "commandExecution")
    assert "PATH=" in ran["aggregatedOutput"]
    assert one.settings["CODEX_PROVIDER_API_KEY"] not in ran["aggregatedOutput"]


def test_models_that_only_write_text_have_a_class_too(bridge: BridgeFactory, upstream: Upstream) -> None:
    """What such a model may write is in `tests/unit/test_bridge_tools.py`; this is the way through the bridge."""
    wanted = '```tool\n{"tool": "run_command", "input": {"command": "echo from the command"}}\n```'
    upstream.script = lambda request: (
        say("Done.") if "from the command\\n" in request.user_text else say(wanted)
    )
    stream = play(bridge(CODEX_EXECUTION_CLASS="bridge_tools"))
    (ran,) = items(stream, "commandExecution")
    assert ran["aggregatedOutput"] == "from the command\n"
    assert end_of(stream)["messages"][-1]["text"].startswith("Done.")
    assert "tools" not in upstream.requests[0].body
