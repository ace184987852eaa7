"""The server requests of one turn: each is answered once, whoever settles it."""

import asyncio
from typing import Any

from codex_bridge.runtime import ApprovalAnswer, ApprovalRequest, Decision, Withdrawn
from codex_bridge.runtimes.app_server_asks import Asks
from tests.unit.loop import on_loop

COMMAND = "item/commandExecution/requestApproval"
FILE_CHANGE = "item/fileChange/requestApproval"
PERMISSIONS = "item/permissions/requestApproval"
CHANGES = [{"path": "/w/a", "kind": {"type": "add"}, "diff": "x\n"}]


class Child:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.is_alive = True
        self.answers: list[tuple[int | str, dict[str, Any]]] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def answer(self, request_id: int | str, result: dict[str, Any]) -> None:
        self.answers.append((request_id, result))

    def send(self, method: str, params: dict[str, Any]) -> None:
        self.calls.append((method, params))


class Person:
    """Is asked, and answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[ApprovalRequest] = []
        self.answers: list[asyncio.Future[ApprovalAnswer]] = []
        self.withdrawn: list[str] = []
        self.was_asked = asyncio.Event()

    async def ask(self, request: ApprovalRequest) -> ApprovalAnswer:
        answer: asyncio.Future[ApprovalAnswer] = asyncio.get_running_loop().create_future()
        self.asked.append(request)
        self.answers.append(answer)
        self.was_asked.set()
        try:
            return await answer
        except asyncio.CancelledError:
            self.withdrawn.append(request.withdrawn)
            raise

    async def hear(self, count: int) -> None:
        """Wait until that many questions have come."""
        while len(self.asked) < count:
            self.was_asked.clear()
            await self.was_asked.wait()


def params(item: str = "i", **more: Any) -> dict[str, Any]:
    return {"threadId": "T", "turnId": "U", "itemId": item, **more}


async def settled() -> None:
    """Let every task run that can."""
    for _ in range(3):
        await asyncio.sleep(0)


@on_loop
async def test_answers_go_to_the_requests_they_are_for() -> None:
    child, person = Child(), Person()
    asks = Asks(person.ask)
    for request_id in (0, "0", 7):
        assert asks.on_request(child, request_id, COMMAND, params(f"item {request_id!r}"))
    await person.hear(3)
    assert [request.item_id for request in person.asked] == ["item 0", "item '0'", "item 7"]
    for index, decision in ((2, Decision.ACCEPT), (0, Decision.DECLINE), (1, Decision.CANCEL)):
        person.answers[index].set_result(ApprovalAnswer(decision))
        await settled()
    assert child.answers == [
        (7, {"decision": "accept"}), (0, {"decision": "decline"}), ("0", {"decision": "cancel"}),
    ]  # fmt: skip
    assert child.calls == []
    await asks.end()
    assert len(child.answers) == 3


@on_loop
async def test_an_edit_is_told_with_its_changes() -> None:
    child, person = Child(), Person()
    asks = Asks(person.ask)
    edit = {"type": "fileChange", "id": "e", "changes": CHANGES, "status": "inProgress"}
    asks.on_notification("item/started", {"item": edit})
    asks.on_request(child, 1, FILE_CHANGE, params("e"))
    asks.on_notification("item/completed", {"item": edit})
    asks.on_request(child, 2, FILE_CHANGE, params("e"))
    await person.hear(2)
    assert [request.details["changes"] for request in person.asked] == [CHANGES, []]
    await asks.end()


@on_loop
async def test_what_nobody_allowed_in_time_does_not_run() -> None:
    child, person = Child(), Person()
    asks = Asks(person.ask)
    asks.on_request(child, 1, COMMAND, params("allowed"))
    asks.on_request(child, 2, COMMAND, params("resolved"))
    asks.on_request(child, 3, COMMAND, params("open", approvalId=None))
    asks.on_request(child, 4, COMMAND, params("runs", approvalId="a part of it"))
    await person.hear(4)
    person.answers[0].set_result(ApprovalAnswer(Decision.ACCEPT))
    await settled()
    asks.on_notification("serverRequest/resolved", {"requestId": 2})
    await asks.end()
    assert asks.unallowed == {"resolved", "open"}


@on_loop
async def test_what_is_not_asked_of_a_person() -> None:
    asks = Asks(Person().ask)
    assert not asks.on_request(Child(), 1, "item/tool/call", params())
    await asks.end()


@on_loop
async def test_what_codex_resolves_is_withdrawn_and_not_answered() -> None:
    child, person = Child(), Person()
    asks = Asks(person.ask)
    asks.on_request(child, 1, COMMAND, params())
    asks.on_request(child, 2, COMMAND, params())
    await person.hear(2)
    asks.on_notification("serverRequest/resolved", {"threadId": "T", "requestId": 1})
    asks.on_notification("serverRequest/resolved", {"threadId": "T", "requestId": 99})
    await settled()
    assert person.withdrawn == [Withdrawn.BY_CODEX]
    person.answers[1].set_result(ApprovalAnswer(Decision.ACCEPT))
    await settled()
    asks.on_notification("serverRequest/resolved", {"threadId": "T", "requestId": 2})
    await asks.end()
    assert child.answers == [(2, {"decision": "accept"})]


@on_loop
async def test_a_request_that_is_resolved_before_anybody_was_asked() -> None:
    person = Person()
    asks = Asks(person.ask)
    asks.on_request(Child(), 1, COMMAND, params())
    asks.on_notification("serverRequest/resolved", {"threadId": "T", "requestId": 1})
    await asks.end()
    assert person.asked == []


@on_loop
async def test_the_end_of_the_turn_declines_what_is_open() -> None:
    child, person = Child(), Person()
    asks = Asks(person.ask)
    asks.on_request(child, 1, COMMAND, params())
    asks.on_request(child, 2, PERMISSIONS, params(permissions={"network": {"enabled": True}}))
    await person.hear(2)
    await asks.end()
    assert person.withdrawn == [Withdrawn.TURN_ENDED] * 2
    assert child.answers == [(1, {"decision": "decline"}), (2, {"permissions": {}, "scope": "turn"})]
    assert not asks.on_request(child, 3, COMMAND, params()), "nobody would hear of it"


@on_loop
async def test_the_death_of_the_child_is_told_as_such() -> None:
    child, person = Child(), Person()
    asks = Asks(person.ask)
    asks.on_request(child, 1, COMMAND, params())
    await person.hear(1)
    child.is_alive = False
    await asks.end()
    assert person.withdrawn == [Withdrawn.CODEX_EXITED]
    assert child.answers == []


@on_loop
async def test_what_was_settled_without_an_answer_is_declined_at_the_end() -> None:
    child, person = Child(), Person()
    asks = Asks(person.ask)
    asks.on_request(child, 1, COMMAND, params())
    await person.hear(1)
    person.answers[0].cancel("interrupted")
    await settled()
    assert child.answers == []
    await asks.end()
    assert child.answers == [(1, {"decision": "decline"})]


@on_loop
async def test_a_cancel_that_codex_has_no_word_for_interrupts_the_turn() -> None:
    child, person = Child(), Person()
    asks = Asks(person.ask)
    asks.on_request(child, 1, PERMISSIONS, params(permissions={}))
    await person.hear(1)
    person.answers[0].set_result(ApprovalAnswer(Decision.CANCEL))
    await settled()
    assert child.answers == [(1, {"permissions": {}, "scope": "turn"})]
    assert child.calls == [("turn/interrupt", {"threadId": "T", "turnId": "U"})]
    await asks.end()


@on_loop
async def test_a_request_that_nobody_could_be_asked_is_declined() -> None:
    async def fail(request: ApprovalRequest) -> ApprovalAnswer:
        raise ValueError("broken")

    child = Child()
    asks = Asks(fail)
    asks.on_request(child, 1, COMMAND, params())
    await settled()
    assert child.answers == [(1, {"decision": "decline"})]
    await asks.end()


@on_loop
async def test_the_agents_of_a_turn_are_known() -> None:
    asks = Asks(Person().ask)
    item = {"type": "collabAgentToolCall", "id": "c", "tool": "spawnAgent", "receiverThreadIds": []}
    asks.on_notification("item/started", {"item": item})
    asks.on_notification("item/completed", {"item": {**item, "receiverThreadIds": ["A"]}})
    asks.on_notification("item/started", {"item": {**item, "receiverThreadIds": ["A", "B"]}})
    assert asks.agents == {"A", "B"}
    await asks.end()


@on_loop
async def test_odd_notifications_do_no_harm() -> None:
    asks = Asks(Person().ask)
    for item in (None, "text", {}, {"type": "fileChange"}, {"type": "collabAgentToolCall"}):
        asks.on_notification("item/started", {"item": item})
        asks.on_notification("item/completed", {"item": item})
    asks.on_notification("turn/started", {})
    assert asks.agents == set()
    await asks.end()
