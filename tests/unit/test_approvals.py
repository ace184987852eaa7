"""The approval service: what a host is told, what it may answer, and how an approval ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from codex_bridge.errors import Conflict, InvalidField
from codex_bridge.limits import MAX_ANSWER_CHARACTERS, MAX_BRIEF_DIFF_CHARACTERS
from codex_bridge.model import new_id
from codex_bridge.protocol import json_codec, sse
from codex_bridge.runtime import ApprovalAnswer, ApprovalKind, ApprovalRequest, Decision, Question, Withdrawn
from codex_bridge.services import approvals as approvals_module
from codex_bridge.services.approvals import Approvals, Reason
from codex_bridge.services.live import LiveSession
from codex_bridge.services.recorder import Recorder
from codex_bridge.services.transcript import Transcript
from tests.unit.loop import on_loop
from tests.unit.stored import stored

ALL = tuple(Decision)
COMMAND = ApprovalRequest(
    ApprovalKind.COMMAND, "i", (Decision.ACCEPT, Decision.DECLINE, Decision.CANCEL),
    {"command": "ls", "cwd": "/w", "reason": "why"},
)  # fmt: skip
COLORS = ({"label": "Red", "description": "r"}, {"label": "Blue", "description": "b"})
QUESTIONS = ApprovalRequest(
    ApprovalKind.QUESTION, "q", (Decision.ACCEPT, Decision.DECLINE, Decision.CANCEL), {"reason": None},
    (
        Question("color", "Color", "Which?", COLORS),
        Question("other", "Other", "Which?", COLORS, is_other=True),
        Question("pin", "Pin", "What?", is_secret=True),
    ),
)  # fmt: skip
TURN = "t_1"
NEVER_S = 3600.0


@dataclass
class House:
    """The service, and a session whose runtime events it tells."""

    service: Approvals
    live: LiveSession
    other: LiveSession
    recorder: Recorder

    async def ask(self, request: ApprovalRequest = COMMAND, live: LiveSession | None = None) -> Any:
        """Begin to ask; return the task once the approval is told."""
        live = live or self.live
        before = len(live.session.pending_approvals)
        task = asyncio.create_task(self.service.ask(live, TURN, request))
        await asyncio.sleep(0)  # its first step
        assert len(live.session.pending_approvals) == before + 1
        return task

    @property
    def pending(self) -> list[str]:
        return [approval.id for approval in self.live.session.pending_approvals]

    async def told(self, *names: str) -> list[dict[str, Any]]:
        """Return the data of the session's events with these names, runtime events by their type."""
        await self.recorder.settle()
        found = self.live.log.replay(0, 1 << 30)
        assert found is not None
        data = []
        for frame in found[0].split(b"\n\n")[:-1]:
            name, text = sse.decode_event(frame + b"\n\n")
            value = json_codec.decode(text)
            if name in names or (name == "session.event" and value["event"]["type"] in names):
                data.append(value)
        return data


@asynccontextmanager
async def house(directory: Path, timeout_s: float = NEVER_S) -> AsyncIterator[House]:
    async with stored(directory) as store:
        live, other = await store.create(2)
        transcript = Transcript(store.recorder)
        service = Approvals(store.database, store.recorder, transcript, timeout_s)
        yield House(service, live, other, store.recorder)
        await store.recorder.settle()


async def refused(
    service: Approvals, live: LiveSession, *args: Any, code: str = "approval_not_pending"
) -> Conflict:
    with pytest.raises(Conflict) as caught:
        await service.answer(live, *args)
    assert caught.value.code == code
    return caught.value


def test_what_a_host_is_told(tmp_path: Path) -> None:
    @on_loop
    async def main() -> None:
        async with house(tmp_path) as one:
            task = await one.ask()
            (approval,) = one.live.session.pending_approvals
            shown = approval.to_json()
            assert shown == {
                "request_id": approval.id, "session_id": one.live.session.id, "turn_id": TURN, "kind": "command",
                "item_id": "i", "status": "pending", "decisions": ["accept", "decline", "cancel"], "command": "ls",
                "cwd": "/w", "reason": "why", "created_at": approval.created_at,
                "expires_at": approval.created_at + int(NEVER_S * 1000),
            }  # fmt: skip
            (requested,) = await one.told("approval.requested")
            (required,) = await one.told("session.approval.required")
            assert requested["event"] == {"type": "approval.requested", "approval": shown}
            assert (requested["turn_id"], required["approval"]) == (TURN, shown)
            assert required["session"]["pending_approval"] == shown
            assert required["session"]["pending_approvals"] == 1

            settled = await one.service.answer(one.live, None, "decline", None)
            assert await task == ApprovalAnswer(Decision.DECLINE)
            assert settled is approval
            assert (approval.status, approval.settled_reason) == ("declined", "host")
            (responded,) = await one.told("approval.responded")
            assert responded["event"] == {
                "type": "approval.responded", "request_id": approval.id, "kind": "command", "item_id": "i",
                "status": "declined", "decision": "decline", "settled_reason": "host",
                "settled_at": approval.settled_at,
            }  # fmt: skip
            (updated,) = await one.told("session.updated")
            assert updated["session"]["pending_approval"] is None
            assert updated["session"]["pending_approvals"] == 0

    main()


@pytest.mark.parametrize(
    ("word", "decision", "status"),
    [
        ("accept", Decision.ACCEPT, "accepted"),
        ("allow", Decision.ACCEPT, "accepted"),
        ("accept_for_session", Decision.ACCEPT_FOR_SESSION, "accepted"),
        ("decline", Decision.DECLINE, "declined"),
        ("deny", Decision.DECLINE, "declined"),
        ("cancel", Decision.CANCEL, "cancelled"),
    ],
)
def test_each_decision(tmp_path: Path, word: str, decision: Decision, status: str) -> None:
    @on_loop
    async def main() -> None:
        async with house(tmp_path) as one:
            request = ApprovalRequest(ApprovalKind.FILE_CHANGE, "i", ALL, {"changes": []})
            task = await one.ask(request)
            approval = await one.service.answer(one.live, one.pending[0], word, None)
            assert (approval.decision, approval.status) == (decision, status)
            assert await task == ApprovalAnswer(decision)

    main()


@pytest.mark.parametrize("word", ["accept_for_session", "acceptForSession", "maybe", "", "ACCEPT", "pending"])
def test_only_what_was_offered_is_taken(tmp_path: Path, word: str) -> None:
    @on_loop
    async def main() -> None:
        async with house(tmp_path) as one:
            task = await one.ask()
            with pytest.raises(InvalidField) as caught:
                await one.service.answer(one.live, None, word, None)
            assert caught.value.details == {
                "field": "decision", "decisions": ["accept", "decline", "cancel"],
            }  # fmt: skip
            assert "accept, decline, cancel" in caught.value.message
            assert len(one.pending) == 1
            await one.service.answer(one.live, None, "accept", None)
            await task

    main()


def test_several_are_answered_by_name_in_any_order(tmp_path: Path) -> None:
    @on_loop
    async def main() -> None:
        async with house(tmp_path) as one:
            tasks = [await one.ask() for _ in range(3)]
            ids = one.pending
            with pytest.raises(InvalidField) as caught:
                await one.service.answer(one.live, None, "accept", None)
            assert caught.value.details == {"field": "request_id", "pending": ids}
            assert one.live.session.to_brief_json()["pending_approval"]["request_id"] == ids[0]
            await one.service.answer(one.live, ids[1], "accept", None)
            assert await tasks[1] == ApprovalAnswer(Decision.ACCEPT)
            assert one.pending == [ids[0], ids[2]]
            await one.service.answer(one.live, ids[0], "decline", None)
            # Now there is but one.
            await one.service.answer(one.live, None, "cancel", None)
            answers = [await task for task in tasks]
            assert [answer.decision for answer in answers] == ["decline", "accept", "cancel"]

    main()


def test_one_that_is_not_pending(tmp_path: Path) -> None:
    @on_loop
    async def main() -> None:
        async with house(tmp_path) as one:
            await refused(one.service, one.live, None, "accept", None)
            task = await one.ask()
            (request_id,) = one.pending
            unknown = await refused(one.service, one.live, new_id("a"), "accept", None)
            assert unknown.details == {}
            await refused(one.service, one.other, request_id, "accept", None)
            approval = await one.service.answer(one.live, request_id, "accept", None)
            await task
            second = await refused(one.service, one.live, request_id, "decline", None)
            assert second.details["approval"] == {
                "request_id": request_id, "status": "accepted", "decision": "accept", "settled_reason": "host",
                "settled_at": approval.settled_at,
            }  # fmt: skip
            foreign = await refused(one.service, one.other, request_id, "accept", None)
            assert foreign.details == {}

    main()


def test_one_that_was_settled_long_ago_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals_module, "MAX_SETTLED_APPROVALS", 0)

    @on_loop
    async def main() -> None:
        async with house(tmp_path) as one:
            task = await one.ask()
            (request_id,) = one.pending
            approval = await one.service.answer(one.live, request_id, "accept", None)
            await task
            late = await refused(one.service, one.live, request_id, "accept", None)
            assert late.details["approval"] == {
                "request_id": request_id, "status": "accepted", "decision": "accept", "settled_reason": "host",
                "settled_at": approval.settled_at,
            }  # fmt: skip

    main()


def test_nobody_answers(tmp_path: Path) -> None:
    @on_loop
    async def main() -> None:
        async with house(tmp_path, timeout_s=0.2) as one:
            task = await one.ask()
            (request_id,) = one.pending
            assert await task == ApprovalAnswer(Decision.DECLINE)
            late = await refused(one.service, one.live, request_id, "accept", None)
            told = late.details["approval"]
            assert (told["status"], told["decision"], told["settled_reason"]) == (
                "expired", "decline", "expired",
            )  # fmt: skip
            (responded,) = await one.told("approval.responded")
            assert (responded["event"]["status"], responded["event"]["decision"]) == ("expired", "decline")

    main()


@pytest.mark.parametrize("reason", Withdrawn)
def test_a_runtime_that_does_not_wait_any_longer(tmp_path: Path, reason: Withdrawn) -> None:
    @on_loop
    async def main() -> None:
        async with house(tmp_path) as one:
            request = replace(COMMAND)
            task = await one.ask(request)
            (request_id,) = one.pending
            request.withdrawn = reason
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            late = await refused(one.service, one.live, request_id, "accept", None)
            told = late.details["approval"]
            assert (told["status"], told["decision"], told["settled_reason"]) == ("cancelled", None, reason)

    main()


def test_a_turn_that_is_stopped(tmp_path: Path) -> None:
    @on_loop
    async def main() -> None:
        async with house(tmp_path) as one:
            tasks = [await one.ask(), await one.ask(QUESTIONS)]
            bystander = await one.ask(live=one.other)
            one.service.cancel(one.live, "t_other", Reason.INTERRUPTED)
            assert len(one.pending) == 2
            one.service.cancel(one.live, TURN, Reason.INTERRUPTED)
            assert one.pending == []
            await asyncio.wait(tasks)
            assert all(task.cancelled() for task in tasks)
            told = [event["event"] for event in await one.told("approval.responded")]
            assert [(event["status"], event["settled_reason"]) for event in told] == [
                ("cancelled", "interrupted")
            ] * 2
            assert not bystander.done()
            await one.service.answer(one.other, None, "accept", None)
            await bystander

    main()


def test_an_answer_and_a_withdrawal_at_once_settle_it_once(tmp_path: Path) -> None:
    @on_loop
    async def main() -> None:
        async with house(tmp_path) as one:
            task = await one.ask()
            answering = asyncio.create_task(one.service.answer(one.live, None, "accept", None))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task, answering])
            assert len(await one.told("approval.responded")) == 1
            assert answering.result().settled_reason == "host"

    main()


def test_what_a_bridge_has_left_is_cancelled_by_the_next(tmp_path: Path) -> None:
    @on_loop
    async def main() -> None:
        async with stored(tmp_path) as store:
            (live,) = await store.create(1)
            service = Approvals(store.database, store.recorder, Transcript(store.recorder), NEVER_S)
            one = House(service, live, live, store.recorder)
            left = await one.ask()
            (request_id,) = one.pending
            await store.recorder.settle()

            after = Approvals(store.database, store.recorder, Transcript(store.recorder), NEVER_S)
            await after.cancel_left(live, "t_other")
            assert await one.told("approval.responded") == []
            await after.cancel_left(live, TURN)
            await store.recorder.settle()
            (responded,) = await one.told("approval.responded")
            told = responded["event"]
            assert (told["request_id"], told["kind"], told["status"]) == (request_id, "command", "cancelled")
            late = await refused(after, live, request_id, "accept", None)
            assert late.details["approval"]["settled_reason"] == "bridge_restarted"
            await after.cancel_left(live, TURN)
            assert len(await one.told("approval.responded")) == 1
            left.cancel()
            await asyncio.wait([left])

    main()


# Questions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ({"color": "Red"}, {"color": ("Red",)}),
        ({"color": ["Red", "Blue"]}, {"color": ("Red", "Blue")}),
        ({"other": "Green"}, {"other": ("Green",)}),
        ({"color": [], "other": ""}, {"color": (), "other": ("",)}),
        ({"pin": "1234", "color": "Blue"}, {"pin": ("1234",), "color": ("Blue",)}),
    ],
)
def test_questions_are_answered(tmp_path: Path, answers: Any, told: dict[str, tuple[str, ...]]) -> None:
    @on_loop
    async def main() -> None:
        async with house(tmp_path) as one:
            task = await one.ask(QUESTIONS)
            (approval,) = one.live.session.pending_approvals
            assert [question["id"] for question in approval.to_json()["questions"]] == [
                "color", "other", "pin",
            ]  # fmt: skip
            await one.service.answer(one.live, None, "accept", answers)
            assert await task == ApprovalAnswer(Decision.ACCEPT, told)
            shown = {name: list(texts) for name, texts in told.items() if name != "pin"}
            assert approval.to_json()["answers"] == shown
            assert (await one.told("approval.responded"))[0]["event"]["answers"] == shown

    main()


def test_a_secret_answer_is_nowhere(tmp_path: Path) -> None:
    secret = "the-secret-answer-81b3"

    @on_loop
    async def main() -> None:
        async with house(tmp_path) as one:
            task = await one.ask(QUESTIONS)
            approval = await one.service.answer(one.live, None, "accept", {"pin": secret})
            assert (await task).answers == {"pin": (secret,)}
            shown = [approval.to_json(), one.live.session.to_json(), repr(approval), repr(task.result())]
            assert secret not in str(shown)
            await one.recorder.settle()
            found = one.live.log.replay(0, 1 << 30)
            assert found is not None
            assert secret.encode() not in found[0]

    main()
    assert all(secret.encode() not in path.read_bytes() for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("answers", "field"),
    [
        (None, "answers"),
        ({}, "answers"),
        ([], "answers"),
        ("Red", "answers"),
        ({"nonsense": "Red"}, "answers.nonsense"),
        ({"color": "Green"}, "answers.color"),
        ({"color": ["Red", "Green"]}, "answers.color"),
        ({"other": 7}, "answers.other"),
        ({"other": None}, "answers.other"),
        ({"other": [["Red"]]}, "answers.other"),
        ({"pin": "x" * MAX_ANSWER_CHARACTERS}, "answers.pin"),
        ({"pin": [""] * (MAX_ANSWER_CHARACTERS + 1)}, "answers.pin"),
    ],
)
def test_answers_that_do_not_fit(tmp_path: Path, answers: Any, field: str) -> None:
    @on_loop
    async def main() -> None:
        async with house(tmp_path) as one:
            task = await one.ask(QUESTIONS)
            with pytest.raises(InvalidField) as caught:
                await one.service.answer(one.live, None, "accept", answers)
            assert caught.value.details["field"] == field
            assert len(one.pending) == 1
            await one.service.answer(one.live, None, "decline", None)
            assert await task == ApprovalAnswer(Decision.DECLINE)

    main()


@pytest.mark.parametrize(("request_", "word"), [(COMMAND, "accept"), (QUESTIONS, "decline")])
def test_answers_where_nothing_was_asked(tmp_path: Path, request_: ApprovalRequest, word: str) -> None:
    @on_loop
    async def main() -> None:
        async with house(tmp_path) as one:
            task = await one.ask(request_)
            with pytest.raises(InvalidField) as caught:
                await one.service.answer(one.live, None, word, {"color": "Red"})
            assert caught.value.details == {"field": "answers"}
            await one.service.answer(one.live, None, word, {})
            await task

    main()


# Size -----------------------------------------------------------------------------------------------


def test_a_long_diff_is_cut_where_a_session_is_told(tmp_path: Path) -> None:
    @on_loop
    async def main() -> None:
        async with house(tmp_path) as one:
            long = "x" * (MAX_BRIEF_DIFF_CHARACTERS + 1)
            changes = [
                {"path": "/w/a", "kind": {"type": "add"}, "diff": long},
                {"path": "/w/b", "kind": {"type": "add"}, "diff": "short"},
                {"path": "/w/c", "kind": {"type": "delete"}, "diff": None},
            ]
            request = ApprovalRequest(ApprovalKind.FILE_CHANGE, "i", ALL, {"changes": changes})
            task = await one.ask(request)
            session = one.live.session
            assert session.to_json()["pending_approval"]["changes"] == changes
            assert (await one.told("session.approval.required"))[0]["approval"]["changes"] == changes
            brief = session.to_brief_json()["pending_approval"]["changes"]
            assert len(brief[0]["diff"]) < len(long) + 40
            assert brief[0]["diff"].endswith(f"... [{len(long)} characters]")
            assert brief[1:] == changes[1:]
            await one.service.answer(one.live, None, "accept", None)
            await task

    main()
