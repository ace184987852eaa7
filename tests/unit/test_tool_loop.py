"""The tool loop with models that call tools: what they are told, what is done and told, and how a turn ends."""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from codex_bridge.errors import Conflict
from codex_bridge.limits import (
    MAX_CORRECTIONS,
    MAX_LOADED_THREADS,
    MAX_TURN_CALLS,
    MAX_TURN_STEPS,
    STREAM_RETRIES,
)
from codex_bridge.protocol.tools import FileEdit, ToolResult
from codex_bridge.protocol.turn_diff import TurnDiff
from codex_bridge.runtime import (
    ApprovalAnswer,
    ApprovalKind,
    ApprovalRequest,
    Decision,
    TurnOutcome,
    TurnStatus,
    Utterance,
)
from codex_bridge.runtimes import loop_calls, loop_items, loop_turn
from codex_bridge.runtimes.bridge_tools import BridgeTools
from codex_bridge.runtimes.dialect import Dialect
from codex_bridge.runtimes.model_tools import ModelTools
from codex_bridge.values import replace
from codex_bridge.workspace.tools import Place, Tools
from tests.support.images import png
from tests.support.loops import BEGIN, END, NoSandbox, Player, SmallTools, player
from tests.support.upstream import (
    ABORT,
    Answer,
    Failure,
    Request,
    Stream,
    Upstream,
    add,
    call,
    calls,
    change,
    remove,
    rounds,
    say,
)
from tests.unit.loop import run
from tests.unit.wire import Peer, scripted, take_request

COMPLETED = TurnOutcome(TurnStatus.COMPLETED)
INTERRUPTED = TurnOutcome(TurnStatus.INTERRUPTED)
Play = Callable[[Callable[[Player], Coroutine[Any, Any, None]]], None]


def edit(*files: str) -> Stream:
    return call("apply_patch", {"patch": BEGIN + "".join(files) + END})


def command(text: str, **more: Any) -> Stream:
    return call("run_command", {"command": text, **more})


@pytest.fixture
def play(tmp_path: Path, upstream: Upstream) -> Play:
    """Run a test's coroutine with a loop on the scripted upstream."""

    (tmp_path / "workspace").mkdir()

    def with_player(test: Callable[[Player], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            async with player(tmp_path / "workspace", upstream.base_url, ModelTools) as one:
                await test(one)

        run(whole)

    return with_player


def in_order(*answers: Answer) -> Callable[[Request], Answer]:
    """Answer the first request with the first answer, whatever was said, and all beyond the last with the last."""
    left = list(answers)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]


def results(request: Request) -> list[Any]:
    return [json.loads(output) for output in request.outputs]


def test_a_text_turn(play: Play, upstream: Upstream) -> None:
    upstream.script = rounds(say("Hello ", "there."))

    async def test(one: Player) -> None:
        assert await one.play("Who is it?", context={"page": "start"}) == COMPLETED
        assert one.kinds() == [
            "thread.started", "turn.started", "item.started agentMessage", "item.agent_message.delta",
            "item.completed agentMessage",
        ]  # fmt: skip
        assert one.texts() == ["Hello there."]
        assert one.events[0]["resumed"] is False
        assert one.used[0]["total_tokens"] == 15

    play(test)
    (request,) = upstream.requests
    assert request.body["stream"] is True
    assert request.body["stream_options"] == {"include_usage": True}
    assert request.body["model"] == "demo"
    assert request.headers["authorization"] == "Bearer sk-a-key-of-the-upstream"
    system, user = request.body["messages"]
    assert system["role"] == "system"
    assert '{"page":"start"}' in system["content"]
    assert user == {"role": "user", "content": "Who is it?"}
    names = {tool["function"]["name"] for tool in request.body["tools"]}
    assert {"list_files", "read_file", "run_command", "apply_patch"} <= names
    offered = {tool["function"]["name"]: tool["function"]["parameters"] for tool in request.body["tools"]}
    assert {"escalate", "justification"} <= set(offered["run_command"]["properties"])


def test_it_reads_edits_and_runs(play: Play, upstream: Upstream) -> None:
    upstream.script = rounds(
        call("read_file", {"path": "a.txt"}),
        edit(add("b.txt", "new"), remove("a.txt")),
        command("cat b.txt; exit 3"),
        say("Done."),
    )

    async def test(one: Player) -> None:
        (one.workspace / "a.txt").write_text("old\n")
        assert await one.play() == COMPLETED
        assert (one.workspace / "b.txt").read_text() == "new\n"
        assert not (one.workspace / "a.txt").exists()
        assert one.kinds()[2:] == [
            "item.started dynamicToolCall", "item.completed dynamicToolCall", "bridge.tool.result",
            "item.started fileChange", "item.completed fileChange", "bridge.tool.result", "turn.diff.updated",
            "item.started commandExecution", "command.execution.output", "item.completed commandExecution",
            "bridge.tool.result",
            "item.started agentMessage", "item.agent_message.delta", "item.completed agentMessage",
        ]  # fmt: skip
        (read,), (change,), (ran,) = map(one.items, ("dynamicToolCall", "fileChange", "commandExecution"))
        assert (read["tool"], read["status"], read["success"]) == ("read_file", "completed", True)
        assert "old" in read["contentItems"][0]["text"]
        assert change["status"] == "completed"
        assert [each["path"] for each in change["changes"]] == [
            str(one.workspace / "b.txt"), str(one.workspace / "a.txt")
        ]  # fmt: skip
        assert (ran["status"], ran["exitCode"], ran["aggregatedOutput"]) == ("failed", 3, "new\n")
        assert ran["command"] == "/bin/bash -c 'cat b.txt; exit 3'"
        assert ran["commandActions"] == [{"type": "unknown", "command": "cat b.txt; exit 3"}]
        diff = next(event["diff"] for event in one.events if event["type"] == "turn.diff.updated")
        assert "deleted file mode 100644" in diff
        assert "+++ b/b.txt\n@@ -0,0 +1 @@\n+new\n" in diff
        told = [event for event in one.events if event["type"] == "bridge.tool.result"]
        assert [(event["tool"], event["ok"]) for event in told] == [
            ("read_file", True), ("apply_patch", True), ("run_command", True)
        ]  # fmt: skip
        assert told[2]["result"]["exit_code"] == 3
        assert told[2]["item_id"] == ran["id"]

    play(test)
    last = upstream.requests[-1]
    assert [result["ok"] for result in results(last)] == [True, True, True]
    asked = [message for message in last.body["messages"] if message["role"] == "assistant"]
    ids = [message["tool_calls"][0]["id"] for message in asked]
    assert ids == [message["tool_call_id"] for message in last.body["messages"] if message["role"] == "tool"]


def test_edits_of_a_turn_make_one_diff(play: Play, upstream: Upstream) -> None:
    upstream.script = rounds(
        edit(add("a.txt", "one")), edit(add("b.txt", "x")), edit(add("a.txt", "two")), edit(remove("b.txt")), say("Ok.")
    )  # fmt: skip

    async def test(one: Player) -> None:
        (one.workspace / "a.txt").write_text("zero\n")
        assert await one.play() == COMPLETED
        diffs = [event["diff"] for event in one.events if event["type"] == "turn.diff.updated"]
        assert len(diffs) == 4
        assert "b.txt" in diffs[1]
        assert "b.txt" not in diffs[3]
        assert "-zero\n+two\n" in diffs[3]
        assert "one" not in diffs[3]

    play(test)


def test_several_calls_in_one_answer_run_in_their_order(play: Play, upstream: Upstream) -> None:
    wanted = [("run_command", {"command": f"echo {n} >> log"}) for n in range(3)]
    upstream.script = in_order(calls(*wanted, before="Let me see."), say("Done."))

    async def test(one: Player) -> None:
        assert await one.play() == COMPLETED
        assert (one.workspace / "log").read_text() == "0\n1\n2\n"
        assert one.texts() == ["Let me see.", "Done."]

    play(test)
    assert len(results(upstream.requests[1])) == 3
    assert upstream.requests[1].body["messages"][2]["content"] == "Let me see."


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (("read_file", '{"path": "a.txt'), "invalid_call"),
        (("read_file", "[1]"), "invalid_call"),
        (("look_around", {}), "unknown_tool"),
        (("read_file", {}), "invalid_arguments"),
        (("read_file", {"path": 7}), "invalid_arguments"),
        (("read_file", {"path": "a.txt", "colour": "red"}), "invalid_arguments"),
    ],
)
def test_a_bad_call_is_corrected(play: Play, upstream: Upstream, bad: Any, code: str) -> None:
    upstream.script = in_order(calls(bad), call("read_file", {"path": "a.txt"}), say("Done."))

    async def test(one: Player) -> None:
        (one.workspace / "a.txt").write_text("x\n")
        assert await one.play() == COMPLETED
        assert one.warnings() == ["tool_call_refused"]
        assert len(one.items("dynamicToolCall")) == 1

    play(test)
    (told,) = results(upstream.requests[1])
    assert told["error"]["code"] == code
    sent_back = upstream.requests[1].body["messages"][2]["tool_calls"][0]["function"]["arguments"]
    assert isinstance(json.loads(sent_back), dict)


@pytest.mark.parametrize(
    "bad",
    [
        say(""),
        say("  \n"),
        say('<tool_call>{"name": "read_file", "arguments": {"path": "a.txt"}}</tool_call>'),
        say('```json\n{"name": "run_command", "arguments": {"command": "ls"}}\n```'),
    ],
)
def test_an_answer_that_cannot_be_used_is_void_and_asked_for_again(
    play: Play, upstream: Upstream, bad: Stream
) -> None:
    upstream.script = in_order(bad, say("A real answer."))

    async def test(one: Player) -> None:
        assert await one.play() == COMPLETED
        assert one.warnings() == ["retrying"]
        assert one.texts() == ["A real answer."]

    play(test)
    roles = [message["role"] for message in upstream.requests[1].body["messages"]]
    assert roles == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize("bad", [say(""), calls(("look_around", {}))])
def test_a_model_that_does_not_learn_fails_the_turn(play: Play, upstream: Upstream, bad: Stream) -> None:
    upstream.script = in_order(bad)

    async def test(one: Player) -> None:
        outcome = await one.play()
        assert outcome.status is TurnStatus.FAILED
        assert outcome.failure is not None
        assert outcome.failure.code == "model_misbehaved"

    play(test)
    assert len(upstream.requests) == MAX_CORRECTIONS + 1


def test_a_good_call_between_makes_corrections_count_anew(play: Play, upstream: Upstream) -> None:
    bad, good = calls(("look_around", {})), command("true")
    upstream.script = in_order(*[bad] * MAX_CORRECTIONS, good, *[bad] * MAX_CORRECTIONS, say("Done."))

    async def test(one: Player) -> None:
        assert await one.play() == COMPLETED

    play(test)


def test_a_turn_has_so_many_steps(play: Play, upstream: Upstream) -> None:
    upstream.script = in_order(call("read_file", {"path": "none"}))

    async def test(one: Player) -> None:
        outcome = await one.play()
        assert outcome.failure is not None
        assert outcome.failure.code == "turn_limit_reached"

    play(test)
    assert len(upstream.requests) == MAX_TURN_STEPS


def test_a_turn_has_so_many_calls(play: Play, upstream: Upstream) -> None:
    upstream.script = in_order(calls(*[("read_file", {"path": "none"})] * 300))

    async def test(one: Player) -> None:
        outcome = await one.play()
        assert outcome.failure is not None
        assert outcome.failure.code == "turn_limit_reached"
        assert len(one.items("dynamicToolCall")) == MAX_TURN_CALLS

    play(test)


def test_a_turn_has_so_many_tokens(play: Play, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_turn, "MAX_TURN_TOKENS", 40)  # each answer is said to have used 15
    upstream.script = in_order(call("read_file", {"path": "none"}))

    async def test(one: Player) -> None:
        outcome = await one.play()
        assert outcome.failure is not None
        assert outcome.failure.code == "turn_limit_reached"

    play(test)
    assert len(upstream.requests) == 3


# Failures of the upstream ------------------------------------------------------------------------


@pytest.fixture
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_turn, "RETRY_DELAY_S", 0.0)


@pytest.mark.usefixtures("no_delay")
@pytest.mark.parametrize(
    "trouble",
    [
        Failure(500),
        Failure(503),
        Failure(429),
        Failure(429, headers={"retry-after": "0"}),
        say("half ", ABORT),
    ],
)
def test_a_failure_that_passes_is_tried_again(play: Play, upstream: Upstream, trouble: Answer) -> None:
    upstream.script = in_order(trouble, say("Whole."))

    async def test(one: Player) -> None:
        assert await one.play() == COMPLETED
        assert one.warnings() == ["retrying"]
        assert one.texts() == ["Whole."]

    play(test)


@pytest.mark.usefixtures("no_delay")
@pytest.mark.parametrize(
    ("trouble", "code", "tries"),
    [
        (Failure(401), "upstream_unauthorized", 1),
        (Failure(400), "upstream_rejected", 1),
        (Failure(404), "upstream_rejected", 1),
        (Failure(429, code="insufficient_quota"), "upstream_rate_limited", 1),
        (Failure(429, headers={"retry-after": "3600"}), "upstream_rate_limited", 1),
        (Failure(500), "upstream_error", 1 + STREAM_RETRIES),
        (say("half ", ABORT), "upstream_disconnected", 1 + STREAM_RETRIES),
    ],
)
def test_a_failure_that_stays_ends_the_turn(
    play: Play, upstream: Upstream, trouble: Answer, code: str, tries: int
) -> None:
    upstream.script = in_order(trouble)

    async def test(one: Player) -> None:
        outcome = await one.play()
        assert outcome.status is TurnStatus.FAILED
        told = one.gateway.last_failure("s")
        assert told is not None
        assert told.code == code

    play(test)
    assert len(upstream.requests) == tries


def test_the_wait_that_an_upstream_asks_for_is_kept(play: Play, upstream: Upstream) -> None:
    upstream.script = in_order(Failure(429, headers={"retry-after": "60"}), say("Too early."))

    async def test(one: Player) -> None:
        turn = one.begin()
        await one.saw("warning")
        await asyncio.wait([turn], timeout=0.1)  # what would come at once has come by then
        await one.runtime.interrupt("t")
        assert await turn == INTERRUPTED

    play(test)
    assert len(upstream.requests) == 1


def test_silence_is_not_waited_for_twice(tmp_path: Path, upstream: Upstream) -> None:
    upstream.script = in_order(say("half ", upstream.gate()))

    async def test() -> None:
        async with player(tmp_path, upstream.base_url, ModelTools, idle_timeout_s=0.2) as one:
            outcome = await one.play()
            assert outcome.status is TurnStatus.FAILED
            told = one.gateway.last_failure("s")
            assert told is not None
            assert told.code == "upstream_timeout"

    run(test)
    assert len(upstream.requests) == 1


# Interrupts and steers ---------------------------------------------------------------------------


def test_an_interrupt_ends_the_models_request(play: Play, upstream: Upstream) -> None:
    upstream.script = in_order(say("half ", upstream.gate(), "other"))

    async def test(one: Player) -> None:
        turn = one.begin()
        await one.saw("item.agent_message.delta")
        await one.runtime.interrupt("t")
        assert await turn == INTERRUPTED
        assert one.texts() == []
        assert await asyncio.to_thread(upstream.requests[0].abandoned.wait, 20)

    play(test)


def test_an_interrupt_ends_the_command(play: Play, upstream: Upstream) -> None:
    upstream.script = in_order(command("echo begun; exec sleep 1000"))

    async def test(one: Player) -> None:
        turn = one.begin()
        await one.saw("command.execution.output")
        await one.runtime.interrupt("t")
        assert await turn == INTERRUPTED
        assert isinstance(one.tools, SmallTools)
        assert one.tools.ended == 1
        (item,) = one.items("commandExecution")
        assert (item["status"], item["exitCode"], item["aggregatedOutput"]) == ("failed", -1, "begun\n")

    play(test)


def test_an_interrupt_does_not_wait_for_a_long_diff(
    play: Play, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.script = in_order(edit(add("a.txt", "one")))
    begun, may_end = threading.Event(), threading.Event()

    def render(diff: TurnDiff) -> str:
        begun.set()
        may_end.wait(20)
        return "late"

    monkeypatch.setattr(TurnDiff, "render", render)
    monkeypatch.setattr(loop_calls, "TOOL_END_S", 0.01)

    async def test(one: Player) -> None:
        turn = one.begin()
        assert await asyncio.to_thread(begun.wait, 20)
        await one.runtime.interrupt("t")
        assert not may_end.is_set() and await turn == INTERRUPTED
        assert "turn.diff.updated" not in one.kinds()
        may_end.set()

    play(test)


def test_an_interrupt_while_a_person_is_asked(play: Play, upstream: Upstream) -> None:
    upstream.script = in_order(command("touch no"))

    async def test(one: Player) -> None:
        asked = asyncio.Event()

        def never(request: ApprovalRequest) -> asyncio.Future[ApprovalAnswer]:
            asked.set()
            return asyncio.get_running_loop().create_future()

        one.person.answer = never
        turn = one.begin(approval_policy="untrusted")
        await asked.wait()
        await one.runtime.interrupt("t")
        assert await turn == INTERRUPTED
        (item,) = one.items("commandExecution")
        assert item["status"] == "declined"
        assert not (one.workspace / "no").exists()

    play(test)


def test_one_whose_approval_is_taken_back_is_interrupted(play: Play, upstream: Upstream) -> None:
    upstream.script = in_order(command("touch no"))

    async def test(one: Player) -> None:
        def taken_back(request: ApprovalRequest) -> asyncio.Future[ApprovalAnswer]:
            answer: asyncio.Future[ApprovalAnswer] = asyncio.get_running_loop().create_future()
            answer.cancel()
            return answer

        one.person.answer = taken_back
        assert await one.play(approval_policy="untrusted") == INTERRUPTED

    play(test)


def test_a_steer_joins_before_the_next_request(play: Play, upstream: Upstream) -> None:
    gate = upstream.gate()
    upstream.script = in_order(say("I think ", gate, "so."), say("Left it is."))

    async def test(one: Player) -> None:
        turn = one.begin()
        await one.saw("item.agent_message.delta")
        await one.runtime.steer("t", "to the left")
        gate.release()
        assert await turn == COMPLETED
        assert one.texts() == ["I think so.", "Left it is."]

    play(test)
    assert [message["content"] for message in upstream.requests[1].body["messages"]][2:] == [
        "I think so.", "to the left"
    ]  # fmt: skip


def test_a_turn_that_is_over_or_unknown_is_not_steered(play: Play, upstream: Upstream) -> None:
    async def test(one: Player) -> None:
        with pytest.raises(Conflict) as refused:
            await one.runtime.steer("t", "to the left")
        assert refused.value.code == "turn_not_steerable"
        await one.play()
        with pytest.raises(Conflict):
            await one.runtime.steer("t", "to the left")
        await one.runtime.interrupt("t")  # and an interrupt that comes too late does nothing

    play(test)


# Approvals ---------------------------------------------------------------------------------------


def decided(decision: Decision) -> Callable[[ApprovalRequest], ApprovalAnswer]:
    return lambda request: ApprovalAnswer(decision)


def test_untrusted_asks_for_each_command_and_edit(play: Play, upstream: Upstream) -> None:
    upstream.script = rounds(
        command("touch yes"), edit(add("b.txt", "x")), call("read_file", {"path": "b.txt"}), say("Ok.")
    )

    async def test(one: Player) -> None:
        one.person.answer = decided(Decision.ACCEPT)
        assert await one.play(approval_policy="untrusted") == COMPLETED
        first, second = one.person.asked
        root = str(one.workspace)
        assert (first.kind, first.decisions) == (ApprovalKind.COMMAND, tuple(Decision))
        assert first.details == {"reason": None, "command": "/bin/bash -c 'touch yes'", "cwd": root}
        assert second.kind is ApprovalKind.FILE_CHANGE
        change = {"path": f"{root}/b.txt", "kind": {"type": "add"}, "diff": "x\n"}
        assert second.details == {"reason": None, "changes": [change], "grant_root": None}
        started = [event["item"]["id"] for event in one.events if event["type"] == "item.started"]
        assert [first.item_id, second.item_id] == started[:2]
        assert (one.workspace / "yes").exists()
        assert isinstance(one.tools, SmallTools)
        assert one.tools.ran == [("touch yes", "workspace-write")]

    play(test)


def test_what_is_declined_is_not_done_and_the_model_is_told(play: Play, upstream: Upstream) -> None:
    upstream.script = rounds(command("touch no"), edit(add("no.txt", "x")), say("A pity."))

    async def test(one: Player) -> None:
        one.person.answer = decided(Decision.DECLINE)
        assert await one.play(approval_policy="untrusted") == COMPLETED
        assert list(one.workspace.iterdir()) == []
        assert [item["status"] for item in one.items("commandExecution") + one.items("fileChange")] == [
            "declined", "declined"
        ]  # fmt: skip
        assert "turn.diff.updated" not in one.kinds()

    play(test)
    assert [result["error"]["code"] for result in results(upstream.requests[-1])] == ["declined", "declined"]


def test_cancel_ends_the_turn(play: Play, upstream: Upstream) -> None:
    upstream.script = in_order(
        calls(("run_command", {"command": "touch no"}), ("run_command", {"command": "touch no2"}))
    )

    async def test(one: Player) -> None:
        one.person.answer = decided(Decision.CANCEL)
        assert await one.play(approval_policy="untrusted") == INTERRUPTED
        assert list(one.workspace.iterdir()) == []
        (item,) = one.items("commandExecution")
        assert item["status"] == "declined"

    play(test)
    assert len(upstream.requests) == 1


def test_what_is_accepted_for_the_session_is_not_asked_again(play: Play, upstream: Upstream) -> None:
    upstream.script = rounds(
        command("echo a >> log"), edit(add("b.txt", "1")), edit(add("b.txt", "2")), say("Ok.")
    )

    async def test(one: Player) -> None:
        one.person.answer = decided(Decision.ACCEPT_FOR_SESSION)
        assert await one.play(approval_policy="untrusted") == COMPLETED
        assert len(one.person.asked) == 2
        thread_id = one.events[0]["thread_id"]
        assert await one.play(approval_policy="untrusted", thread_id=thread_id) == COMPLETED
        assert len(one.person.asked) == 2
        assert one.kinds().count("thread.started") == 1

        upstream.script = rounds(command("echo b >> log"), say("Ok."))
        await one.play(approval_policy="untrusted", thread_id=thread_id)
        assert len(one.person.asked) == 3  # another command
        upstream.script = rounds(command("echo a >> log"), say("Ok."))
        one.runtime.close_thread(thread_id)
        await one.play(approval_policy="untrusted", thread_id=thread_id)
        assert len(one.person.asked) == 4
        assert [event["resumed"] for event in one.events if event["type"] == "thread.started"] == [
            False,
            True,
        ]

    play(test)


def test_of_many_threads_the_oldest_is_forgotten(play: Play, upstream: Upstream) -> None:
    async def test(one: Player) -> None:
        for number in (0, *range(MAX_LOADED_THREADS), 0, MAX_LOADED_THREADS, 1):
            await one.play(thread_id=f"thread {number}")
        told = [event["thread_id"] for event in one.events if event["type"] == "thread.started"]
        assert told == [f"thread {number}" for number in (*range(MAX_LOADED_THREADS + 1), 1)]

    play(test)


@pytest.mark.parametrize("policy", ["untrusted", "on-request"])
def test_a_command_may_ask_to_leave_the_sandbox(play: Play, upstream: Upstream, policy: str) -> None:
    upstream.script = rounds(command("true", escalate=True, justification="May I?"), say("Ok."))

    async def test(one: Player) -> None:
        one.person.answer = decided(Decision.ACCEPT)
        assert await one.play(approval_policy=policy) == COMPLETED
        (asked,) = one.person.asked
        assert asked.details["reason"] == "May I?"
        assert isinstance(one.tools, SmallTools)
        assert one.tools.ran == [("true", "danger-full-access")]

    play(test)


def test_leave_to_leave_the_sandbox_is_not_that_to_run(play: Play, upstream: Upstream) -> None:
    upstream.script = rounds(command("true"), command("true", escalate=True), say("Ok."))

    async def test(one: Player) -> None:
        one.person.answer = decided(Decision.ACCEPT_FOR_SESSION)
        assert await one.play(approval_policy="untrusted") == COMPLETED
        assert len(one.person.asked) == 2

    play(test)


def test_with_never_nothing_leaves_the_sandbox_and_nobody_is_asked(play: Play, upstream: Upstream) -> None:
    upstream.script = rounds(command("true", escalate=True), command("true"), say("Ok."))

    async def test(one: Player) -> None:
        assert await one.play(approval_policy="never") == COMPLETED
        assert isinstance(one.tools, SmallTools)
        assert one.tools.ran == [("true", "workspace-write")]
        assert [item["status"] for item in one.items("commandExecution")] == ["declined", "completed"]

    play(test)
    assert results(upstream.requests[1])[0]["error"]["code"] == "escalation_refused"


def test_what_was_accepted_is_what_is_done(tmp_path: Path, upstream: Upstream) -> None:
    """The person has seen a diff; a file that changes meanwhile would make it another."""
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    upstream.script = rounds(edit(change("a.txt", "two", "2")), say("A pity."))

    async def test() -> None:
        async with player(tmp_path, upstream.base_url, ModelTools, Tools(NoSandbox())) as one:

            def late(request: ApprovalRequest) -> ApprovalAnswer:
                (tmp_path / "a.txt").write_text("zero\none\ntwo\n")
                return ApprovalAnswer(Decision.ACCEPT)

            one.person.answer = late
            assert await one.play(approval_policy="untrusted") == COMPLETED
            (item,) = one.items("fileChange")
            assert item["status"] == "failed"

    run(test)
    assert (tmp_path / "a.txt").read_text() == "zero\none\ntwo\n"
    assert results(upstream.requests[1])[0]["error"]["code"] == "changed_meanwhile"


# What the model is told --------------------------------------------------------------------------


def test_history_alternates_and_an_unanswered_message_is_marked(play: Play, upstream: Upstream) -> None:
    history = (
        Utterance(False, "lost"), Utterance(True, "one"), Utterance(False, "a"), Utterance(False, "b"),
        Utterance(True, "two"),
    )  # fmt: skip

    async def test(one: Player) -> None:
        assert await one.play("three", history=history) == COMPLETED

    play(test)
    said = [(message["role"], message["content"]) for message in upstream.requests[0].body["messages"]][1:]
    assert said[:3] == [("user", "one"), ("assistant", "a\n\nb"), ("user", "two")]
    assert said[3][0] == "assistant"
    assert said[4] == ("user", "three")


def test_images_are_shown_and_what_is_none_is_told(play: Play, upstream: Upstream) -> None:
    async def test(one: Player) -> None:
        picture, other = one.workspace / "a.png", one.workspace / "b.png"
        picture.write_bytes(png())
        other.write_text("secret")
        assert await one.play("Look", images=(str(picture),)) == COMPLETED
        assert one.warnings() == []
        assert await one.play("Look", images=(str(other),)) == COMPLETED
        assert one.warnings() == ["images_left_out"]
        picture.unlink()
        picture.symlink_to(other)
        assert await one.play("Look", images=(str(picture),)) == COMPLETED

    play(test)
    text, image = upstream.requests[0].body["messages"][1]["content"]
    assert text == {"type": "text", "text": "Look"}
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    for request in upstream.requests[1:]:
        (only,) = request.body["messages"][1]["content"]
        assert only["text"].startswith("Look\n\n[The attached images cannot be shown")


def test_a_long_result_is_cut_for_the_model(play: Play, upstream: Upstream) -> None:
    upstream.script = rounds(call("read_file", {"path": "a.txt"}), say("Ok."))

    async def test(one: Player) -> None:
        (one.workspace / "a.txt").write_text("x" * 300_000)
        assert await one.play() == COMPLETED

    play(test)
    (told,) = upstream.requests[1].outputs
    assert len(told) < 61_000
    assert "cut here" in told


def test_one_that_is_too_long_for_the_model_is_halved_and_stays_so(play: Play, upstream: Upstream) -> None:
    def script(request: Request) -> Answer:
        if len(request.raw) > 100_000:
            return Failure(400, "This model's maximum context length is 8192 tokens.")
        return say("Short enough.")

    upstream.script = script
    history = tuple(Utterance(number % 2 == 0, f"{number} " + "x" * 10_000) for number in range(20))

    async def test(one: Player) -> None:
        assert await one.play("the newest", history=history) == COMPLETED
        assert "context_trimmed" in one.warnings()
        count = len(upstream.requests)
        thread_id = one.events[0]["thread_id"]
        assert await one.play("the newest", history=history, thread_id=thread_id) == COMPLETED
        assert len(upstream.requests) == count + 1

    play(test)
    messages = upstream.requests[-1].body["messages"]
    assert messages[0]["role"] == "system"
    assert messages[1]["role"] == "user"
    assert messages[-1]["content"] == "the newest"
    assert messages[-2]["content"].startswith("19 ")


def test_without_a_provider_of_the_bridges_there_is_no_turn(play: Play) -> None:
    async def test(one: Player) -> None:
        outcome = await one.play(route=None)
        assert outcome.failure is not None
        assert outcome.failure.code == "no_upstream"

    play(test)


# What upstreams stream ---------------------------------------------------------------------------


def data(**delta: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n"


STOP = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'


def play_bytes(
    root: Path,
    bodies: list[bytes],
    test: Callable[[Player], Coroutine[Any, Any, None]],
    kind: str = "text/event-stream",
    more: str = "",
    dialect: Callable[[], Dialect] = ModelTools,
) -> None:
    """Run a test against an upstream that answers with these bodies, one after the other."""

    async def script(peer: Peer) -> None:
        await take_request(peer)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{more}Connection: close\r\n\r\n"
        await peer.send(head.encode() + bodies.pop(0))

    async def whole() -> None:
        async with (
            scripted(script) as port,
            player(root, f"http://127.0.0.1:{port}/v1", dialect) as one,
        ):
            await test(one)

    run(whole)
    assert bodies == []


def test_what_a_model_thinks_is_an_item_of_its_own(tmp_path: Path) -> None:
    body = data(reasoning_content="Let me ") + data(reasoning_content="think.") + data(content="Yes.") + STOP

    async def test(one: Player) -> None:
        assert await one.play() == COMPLETED
        assert one.kinds()[2:] == [
            "item.started reasoning", "item.reasoning.delta", "item.completed reasoning",
            "item.started agentMessage", "item.agent_message.delta", "item.completed agentMessage",
        ]  # fmt: skip
        (thought,) = one.items("reasoning")
        assert (thought["summary"], thought["content"]) == ([], ["Let me think."])

    play_bytes(tmp_path, [body], test)


@pytest.mark.parametrize("dialect", [ModelTools, BridgeTools])
def test_what_it_thinks_in_its_text_is_neither_shown_nor_done(tmp_path: Path, dialect: type[Dialect]) -> None:
    block = '```tool\n{"tool": "list_files"}\n```\n'
    marked = (
        data(content=f"<think>Shall I?\n{block}")
        + data(content="No.</th")
        + data(content="ink>\nYes.")
        + STOP
    )
    lost = (
        data(content=f"Shall I?\n{block}No.\n") + data(content="</think>") + data(content="\n\nYes.") + STOP
    )

    async def test(one: Player) -> None:
        for _ in range(2):
            assert await one.play() == COMPLETED
        assert one.texts() == ["Yes.", "Yes."]
        thoughts = [thought["content"][0].rstrip() for thought in one.items("reasoning")]
        shown = "" if dialect is BridgeTools else block
        assert thoughts == [f"Shall I?\n{block}No.", f"Shall I?\n{shown}No."]
        assert one.warnings() == ["retrying"]
        assert one.items("dynamicToolCall") == []

    play_bytes(tmp_path, [marked, lost], test, dialect=dialect)


@pytest.mark.usefixtures("no_delay")
@pytest.mark.parametrize(
    "broken",
    [
        data(content="half"),  # neither an end nor a reason for one
        data(content="half") + b'data: {"error": {"message": "out of memory"}}\n\n',
        data(content="half") + b"data: {broken\n\n",
        b"",
    ],
)
def test_an_answer_that_breaks_off_is_begun_anew(tmp_path: Path, broken: bytes) -> None:
    async def test(one: Player) -> None:
        assert await one.play() == COMPLETED
        assert one.warnings() == ["retrying"]
        assert one.texts() == ["Whole."]

    play_bytes(tmp_path, [broken, data(content="Whole.") + STOP], test)


def test_how_a_connection_ends_behind_an_answer_does_not_matter(tmp_path: Path) -> None:
    async def test(one: Player) -> None:
        assert await one.play() == COMPLETED
        assert one.warnings() == []

    body = data(content="Whole.") + STOP + b"data: [DONE]\n\n"
    play_bytes(tmp_path, [body], test, more="Content-Length: 100000\r\n")


def test_an_answer_that_is_not_streamed_will_do(tmp_path: Path) -> None:
    named = {"name": "read_file", "arguments": json.dumps({"path": "a.txt"})}
    asked = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c", "type": "function", "function": named}],
    }
    said = {"role": "assistant", "content": "It says\nhello."}
    bodies = [
        json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}, indent=1).encode()
        for message in (asked, said)
    ]

    async def test(one: Player) -> None:
        assert await one.play() == COMPLETED
        assert len(one.items("dynamicToolCall")) == 1
        assert one.texts() == ["It says\nhello."]

    play_bytes(tmp_path, bodies, test, "application/json; charset=utf-8")


def test_an_answer_without_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_items, "MAX_MODEL_ANSWER_CHARACTERS", 100)

    async def test(one: Player) -> None:
        outcome = await one.play()
        assert outcome.failure is not None
        assert "more than 100 characters" in outcome.failure.message

    play_bytes(tmp_path, [data(content="x" * 60) * 2 + STOP], test)


class ManyEdits(tuple[FileEdit, ...]):
    """Edits that note in which thread they are looked at."""

    threads: ClassVar[set[threading.Thread]] = set()

    def __iter__(self) -> Iterator[FileEdit]:
        self.threads.add(threading.current_thread())
        return super().__iter__()


class ManyEditsTools(SmallTools):
    """Their edits may be hundreds of large files."""

    async def apply_patch(self, arguments: dict[str, Any], place: Place, shown: ToolResult) -> ToolResult:
        result = await super().apply_patch(arguments, place, shown)
        return replace(result, edits=ManyEdits(result.edits))


def test_the_diff_of_a_turn_is_made_while_others_go_on(tmp_path: Path, upstream: Upstream) -> None:
    upstream.script = rounds(edit(add("n", "1")), say("Done."))

    async def test() -> None:
        async with player(tmp_path, upstream.base_url, ModelTools, ManyEditsTools()) as one:
            assert await one.play() == COMPLETED
            assert "+1" in (await one.saw("turn.diff.updated"))["diff"]

    run(test)
    assert ManyEdits.threads
    assert threading.main_thread() not in ManyEdits.threads
