"""Turns with models that only write text: what they are told, what is done, and what the last answer says of it."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from codex_bridge.protocol.chat import ChatDelta
from codex_bridge.protocol.intent import IntentReader
from codex_bridge.protocol.tools import ToolResult, refusal
from codex_bridge.runtime import ApprovalAnswer, Decision, TurnStatus
from codex_bridge.runtimes.bridge_tools import BridgeTools
from codex_bridge.runtimes.dialect import OFFERED, ToolCall
from tests.support import models
from tests.support.loops import Player, player
from tests.support.models import MODELS, read, run, write
from tests.support.upstream import Upstream, say
from tests.unit.loop import run as run_on_loop

Play = Callable[[Callable[[Player], Coroutine[Any, Any, None]]], None]
NOTHING = "Verified by the bridge: in this turn no file was changed and no command was run."
LIE = "I have changed a.txt."


@pytest.fixture
def play(tmp_path: Path, upstream: Upstream) -> Play:
    """Run a test's coroutine with a loop on the scripted upstream."""
    (tmp_path / "workspace").mkdir()

    def with_player(test: Callable[[Player], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            async with player(tmp_path / "workspace", upstream.base_url, BridgeTools) as one:
                await test(one)

        run_on_loop(whole)

    return with_player


def test_the_instructions_have_every_tool_and_field_and_follow_themselves() -> None:
    told = BridgeTools().instructions()
    for spec in OFFERED.values():
        assert f"\n{spec.name}: {spec.description}" in told
        for name, schema in spec.properties.items():
            assert f"\n  {name}" in told
            assert schema["description"] in told
    reader = IntentReader(OFFERED)
    reader.feed(told)
    calls = [(wish.name, wish.problem) for wish in reader.end()[1].wishes]
    assert calls == [("read_file", None), ("apply_patch", None)]


def test_a_turn_is_played(play: Play, upstream: Upstream) -> None:
    upstream.script = models.perfect

    async def plain(one: Player) -> None:
        outcome = await one.play(write("hello", "b.txt"))
        assert outcome.status is TurnStatus.COMPLETED, outcome
        assert (one.workspace / "b.txt").read_text() == "hello\n"
        assert one.kinds()[2:] == [
            "item.started fileChange", "item.completed fileChange", "bridge.tool.result", "turn.diff.updated",
            "item.started agentMessage", "item.agent_message.delta", "item.completed agentMessage",
        ]  # fmt: skip
        assert one.texts() == ["I have written it.\n\nVerified by the bridge: added `b.txt`."]

    play(plain)
    first, second = upstream.requests
    assert "tools" not in first.body
    assert [message["role"] for message in second.input] == ["system", "user", "assistant", "user"]
    assert second.input[2]["content"].startswith("```patch\n*** Begin Patch\n")
    assert second.input[3]["content"].startswith(
        "[This is the bridge, not the person.] What came of your tool calls:\n\napply_patch:\n```result\n{"
    )


@pytest.mark.parametrize("name", MODELS)
def test_which_models_can_write_a_file(play: Play, upstream: Upstream, name: str) -> None:
    upstream.script = MODELS[name]

    async def test(one: Player) -> None:
        outcome = await one.play(write("hello", "b.txt"))
        is_written = (one.workspace / "b.txt").exists()
        if name == "hopeless":
            assert outcome.failure is not None
            assert (outcome.failure.code, is_written) == ("model_misbehaved", False)
            assert "expected a value, but" in outcome.failure.message
        elif name == "liar":
            assert (outcome.status, is_written) == (TurnStatus.COMPLETED, False)
            assert one.texts()[-1].endswith(NOTHING)
        else:
            assert (outcome.status, is_written) == (TurnStatus.COMPLETED, True)
            assert one.texts()[-1].endswith("Verified by the bridge: added `b.txt`.")

    if name != "chatty":  # it lists files, which these tools do not
        play(test)


def test_a_lie_is_asked_about_once(play: Play, upstream: Upstream) -> None:
    upstream.script = models.liar

    async def test(one: Player) -> None:
        assert (await one.play(run("touch x"))).status is TurnStatus.COMPLETED
        assert one.warnings() == ["retrying"]
        assert one.items("commandExecution") == []
        assert one.texts()[-1].endswith(f"\n\n{NOTHING}")

    play(test)
    assert len(upstream.requests) == 2
    assert "nothing was changed and no command was run" in upstream.requests[1].input[-1]["content"]


def test_an_answer_streams_without_its_blocks(play: Play, upstream: Upstream) -> None:
    gate = upstream.gate()
    block = '```tool\n{"tool": "read_file", "input": {"path": "a.txt"}}\n```\n'
    seen: list[str] = []

    def script(request: Any) -> Any:
        results = models.see(request).results
        return say("It is empty.") if results else say("I lo", "ok.\n\n", gate, *block)

    upstream.script = script

    async def test(one: Player) -> None:
        (one.workspace / "a.txt").write_text("")
        turn = one.begin(read("a.txt"))
        await one.saw("item.agent_message.delta")
        await asyncio.to_thread(gate.wait)
        while "".join(seen) != "I look.":
            seen[:] = [event["delta"] for event in one.events if event["type"] == "item.agent_message.delta"]
            await asyncio.sleep(0)
        gate.release()
        assert (await turn).status is TurnStatus.COMPLETED
        assert one.texts() == ["I look.", "It is empty."]

    play(test)


def test_what_a_person_declines_is_told(play: Play, upstream: Upstream) -> None:
    upstream.script = models.perfect

    async def test(one: Player) -> None:
        one.person.answer = lambda _: ApprovalAnswer(Decision.DECLINE)
        assert (await one.play(run("touch x"), approval_policy="untrusted")).status is TurnStatus.COMPLETED
        assert "The person has not allowed it" in one.texts()[-1]
        assert one.texts()[-1].endswith("\n\nVerified by the bridge: ran `touch x` (not run: declined).")
        assert not (one.workspace / "x").exists()

    play(test)


# Judging answers ------------------------------------------------------------------------------------


def answer(dialect: BridgeTools, text: str, finish: str = "stop") -> tuple[str, Any]:
    reader = dialect.reader()
    shown = "".join(reader.feed(ChatDelta(piece)) for piece in text)
    shown += reader.feed(ChatDelta(finish_reason=finish))
    rest, reply = reader.end()
    return shown + rest, reply


@pytest.mark.parametrize(
    "text",
    [
        LIE, "I've now updated the page.", "I changed it.", "We have successfully created all files.", "The file has been updated.",
        "The tests were successfully run.", "a.txt is now fixed.", "Ich habe die Datei a.txt ge\u00e4ndert.", "Die Datei wurde angelegt.",
        "J'ai modifi\u00e9 le fichier.", "He creado el archivo.", NOTHING.replace("no file", "a file"),
    ],
)  # fmt: skip
def test_a_claim_is_heard(text: str) -> None:
    dialect = BridgeTools()
    shown, reply = answer(dialect, text)
    assert shown == text
    assert "nothing was changed" in reply.problem
    assert answer(dialect, text)[1].problem is None, "it is asked once"
    assert dialect.closing([]) == NOTHING


def test_a_claim_in_other_words_is_not_the_last_word() -> None:
    dialect = BridgeTools()
    assert answer(dialect, LIE)[1].problem is not None
    assert answer(dialect, "Really, I did edit it.")[1].problem is None
    assert dialect.closing([]) == NOTHING


@pytest.mark.parametrize(
    "text",
    [
        "Hello.", "You could change a.txt.", "I have not changed anything.", "I would have changed it.", "I can run the tests if you like.",
        "I haven't updated it.", "Shall I edit it?", "The file says: old.", "Dazu wurde nichts gesagt.", "I will have it fixed.", "I see you changed it.",
    ],
)  # fmt: skip
def test_what_is_no_claim_is_left_alone(text: str) -> None:
    dialect = BridgeTools()
    assert answer(dialect, text)[1].problem is None
    assert dialect.closing([]) == ""


def test_after_a_change_a_claim_is_fine() -> None:
    dialect = BridgeTools()
    files = [{"path": "a.txt", "action": "update", "sha256": ""}]
    done = (ToolCall("1", "apply_patch", {"patch": ""}), ToolResult({"files": files}))
    dialect.results([done])
    assert answer(dialect, LIE)[1].problem is None
    assert dialect.closing([done]) == "Verified by the bridge: changed `a.txt`."


def test_what_a_file_says_was_done_is_no_claim() -> None:
    dialect = BridgeTools()
    dialect.results([(ToolCall("1", "read_file", {"path": "a.txt"}), ToolResult({}))])
    text = "It says that the page has been updated."
    assert answer(dialect, text)[1].problem is None
    assert dialect.closing([]) == NOTHING
    assert answer(dialect, LIE)[1].problem is not None


def test_all_that_was_done_is_told() -> None:
    def change(path: str, action: str, **move: str) -> dict[str, Any]:
        return {"path": path, "action": action, "sha256": "", **move}

    def ran(command: str, result: ToolResult) -> tuple[ToolCall, ToolResult]:
        return ToolCall("1", "run_command", {"command": command}), result

    edit = ToolCall("1", "apply_patch", {"patch": ""})
    changes = (
        change("a", "add"),
        change("b", "delete"),
        change("c", "update"),
        change("d", "update", move_path="e"),
    )
    done = [
        (ToolCall("1", "read_file", {}), ToolResult({})),
        (edit, ToolResult({"files": changes})),
        (edit, ToolResult({"files": changes[:1]})),
        (edit, refusal("conflict", "No.")),
        ran("make\n test", ToolResult({"exit_code": 2})),
        ran("x" * 100, ToolResult({"exit_code": None, "timed_out": True})),
        ran("touch y", refusal("declined", "No.")),
    ]
    assert BridgeTools().closing(done) == (
        "Verified by the bridge: added `a`; deleted `b`; changed `c`; moved `d` to `e`; an edit was not made (conflict); "
        f"ran `make test` (exit code 2); ran `{'x' * 80}...` (its time ran out); ran `touch y` (not run: declined)."
    )
    many = [ran(f"echo {number}", ToolResult({"exit_code": 0})) for number in range(30)]
    assert BridgeTools().closing(many).endswith("ran `echo 19` (exit code 0); and 10 more.")


def test_a_repair_is_asked_for_once() -> None:
    dialect = BridgeTools()
    _, reply = answer(dialect, "```tool\n{\n```")
    assert "line 1: expected" in reply.problem
    correction = dialect.correction(reply.problem)["content"]
    assert reply.problem in correction
    assert '{"tool": "read_file", "input": {"path": "src/app.py"}}' in correction
    with pytest.raises(Exception, match="was asked to repair its answer") as caught:
        answer(dialect, "```tool\n{\n```")
    assert caught.value.code == "model_misbehaved"  # type: ignore[attr-defined]


def test_a_repair_that_works_allows_another() -> None:
    dialect = BridgeTools()
    for _ in range(3):
        assert answer(dialect, "```tool\n{\n```")[1].problem
        assert answer(dialect, '```tool\n{"tool": "list_files"}\n```')[1].calls


def test_of_several_calls_the_good_ones_are_made() -> None:
    text = '```tool\n{"tool": "list_files"}\n```\n```tool\n{"tool": "open_all"}\n```'
    _, reply = answer(BridgeTools(), text)
    assert [(call.name, call.problem is None) for call in reply.calls] == [
        ("list_files", True),
        ("open_all", False),
    ]
    assert reply.problem is None


@pytest.mark.parametrize(("finish", "told"), [("stop", "empty"), ("length", "cut off")])
def test_an_answer_without_a_word_is_sent_back(finish: str, told: str) -> None:
    for text in ("", " \n"):
        _, reply = answer(BridgeTools(), text, finish)
        assert told in reply.problem
        assert reply.message["content"].strip()


def test_what_looks_like_a_call_is_asked_about_once() -> None:
    dialect = BridgeTools()
    text = '```json\n{"tool": "read_file", "input": {"path": "a"}}\n```\nLike this.'
    shown, reply = answer(dialect, text)
    assert shown == text
    assert "taken for an example" in reply.problem
    _, again = answer(dialect, text)
    assert (again.problem, again.calls) == (None, ())


def test_white_space_before_a_block_is_not_shown() -> None:
    text = 'One. \n\n```tool\n{"tool": "list_files"}\n```\n\n\nTwo.\n\n'
    shown, _ = answer(BridgeTools(), text)
    assert shown == "One. \n\n\n\nTwo."
    assert answer(BridgeTools(), text.partition("\n\n\n")[0])[0] == "One."
