"""One turn of a tool loop: the model is asked, what it wants is done, it is told what came of it, until it only answers."""

from __future__ import annotations

import asyncio
from typing import Any

from ..errors import BridgeError, UpstreamFailed
from ..limits import (
    MAX_CONVERSATION_CHARACTERS,
    MAX_CORRECTIONS,
    MAX_HALVINGS,
    MAX_TURN_CALLS,
    MAX_TURN_STEPS,
    MAX_TURN_TOKENS,
    RETRY_DELAY_S,
    STREAM_RETRIES,
)
from ..protocol.chat import is_too_long
from ..protocol.codex import RETRYING
from ..protocol.tools import ToolResult
from ..runtime import Emit, Failure, TurnOutcome, TurnRequest, TurnStatus
from .dialect import Dialect, Reply, ToolCall
from .loop_calls import Accepted, Calls, TurnCancelled
from .loop_conversation import Conversation
from .loop_items import Answer
from .loop_model import Model
from .loop_prompt import system_text, user_message

Json = dict[str, Any]


class Thread:
    """What is remembered of a session between its turns: what a person has accepted, how much its model can read."""

    def __init__(self) -> None:
        self.accepted = Accepted()
        self.budget = MAX_CONVERSATION_CHARACTERS


class LoopTurn:
    """One turn while it runs. Cancel the task that plays it to interrupt it."""

    def __init__(
        self, request: TurnRequest, dialect: Dialect, model: Model, calls: Calls, thread: Thread, emit: Emit
    ) -> None:
        self._request = request
        self._dialect = dialect
        self._model = model
        self._calls = calls
        self._thread = thread
        self._emit = emit
        # What the person has said meanwhile, for the next request.
        self._steers: list[Json] = []
        # The calls that were made, with what came of them.
        self._done: list[tuple[ToolCall, ToolResult]] = []
        self._corrections = 0
        self._tokens = 0
        # Whether what the person says now is still answered.
        self._is_open = True

    async def play(self) -> TurnOutcome:
        """Play it to its end; raises only when cancelled."""
        self._emit({"type": "turn.started"})
        try:
            await self._converse()
        except TurnCancelled:
            return TurnOutcome(TurnStatus.INTERRUPTED)
        except BridgeError as problem:
            return TurnOutcome(TurnStatus.FAILED, Failure(problem.message, problem.code))
        finally:
            self._is_open = False
        return TurnOutcome(TurnStatus.COMPLETED)

    async def steer(self, text: str, images: tuple[str, ...]) -> bool:
        """Take more for the model to read before its next step; False when there is none any more."""
        message = await user_message(text, images, self._emit)
        if self._is_open:
            self._steers.append(message)
        return self._is_open

    async def _converse(self) -> None:
        request = self._request
        user = await user_message(request.text, request.images, self._emit)
        system = system_text(request, self._dialect.instructions())
        conversation = Conversation(system, request.history, user)
        for _ in range(MAX_TURN_STEPS):
            for message in self._steers:
                conversation.add_user(message)
            self._steers.clear()
            answer = await self._ask(conversation)
            reply = answer.end()
            if reply.problem is not None:
                answer.void(f"The model's answer could not be used: {reply.problem}")
                conversation.add_answer(reply.message, [self._dialect.correction(reply.problem)])
                self._count_correction(reply.problem)
            elif reply.calls:
                answer.close()
                await self._make_calls(conversation, reply)
            elif self._steers:
                answer.close()
                conversation.add_answer(reply.message, [])
            else:
                self._is_open = False
                answer.close(self._dialect.closing(self._done))
                return
        raise _limit_reached(f"The model came to no end in {MAX_TURN_STEPS} steps")

    async def _make_calls(self, conversation: Conversation, reply: Reply) -> None:
        """Make the calls of one answer, one after the other, and tell the model what came of them."""
        results: list[tuple[ToolCall, ToolResult]] = []
        made = 0
        for call in reply.calls:
            if len(self._done) == MAX_TURN_CALLS:
                raise _limit_reached(f"The model has made {MAX_TURN_CALLS} calls in one turn")
            result, was_made = await self._calls.make(call)
            results.append((call, result))
            if was_made:
                self._done.append((call, result))
                made += 1
        conversation.add_answer(reply.message, self._dialect.results(results))
        if made:
            self._corrections = 0
        else:
            error = results[-1][1].error or {}
            self._count_correction(str(error.get("message")))

    def _count_correction(self, problem: str) -> None:
        self._corrections += 1
        if self._corrections > MAX_CORRECTIONS:
            raise UpstreamFailed(
                f"The model was corrected {MAX_CORRECTIONS} times in a row, and still did not answer in a way that can be "
                f"used: {problem}",
                code="model_misbehaved",
            )

    async def _ask(self, conversation: Conversation) -> Answer:
        """Return the model's answer to the conversation, tried again where that can help; raise `UpstreamFailed`."""
        tries = halvings = 0
        self._trim(conversation)
        while True:
            answer = Answer(self._emit, self._dialect.reader)
            fields = {"messages": conversation.messages(), **self._dialect.request_fields()}
            try:
                await self._model.ask(fields, answer.take)
            except UpstreamFailed as problem:
                if is_too_long(problem.message) and halvings < MAX_HALVINGS:
                    halvings += 1
                    self._thread.budget = conversation.size // 2
                    if self._trim(conversation):
                        continue
                if not problem.passes or tries == STREAM_RETRIES:
                    raise
                tries += 1
                message = f"Trying again, {tries}/{STREAM_RETRIES}: {problem.message}"
                self._emit({"type": "warning", "message": message, "code": RETRYING})
                await asyncio.sleep(problem.retry_after_s or RETRY_DELAY_S * 2 ** (tries - 1))
            else:
                # Four characters are a token, where nobody counts them.
                self._count_tokens(answer.tokens or conversation.size // 4)
                return answer

    def _trim(self, conversation: Conversation) -> bool:
        """Make a conversation fit; say whether anything had to be left out."""
        is_trimmed = conversation.trim(self._thread.budget)
        if is_trimmed:
            message = "The conversation was longer than the model can read; the oldest of it was left out."
            self._emit({"type": "warning", "message": message, "code": "context_trimmed"})
        return is_trimmed

    def _count_tokens(self, tokens: int) -> None:
        self._tokens += tokens
        if self._tokens > MAX_TURN_TOKENS:
            raise _limit_reached(f"The turn has used more than {MAX_TURN_TOKENS} tokens")


def _limit_reached(message: str) -> UpstreamFailed:
    return UpstreamFailed(
        f"{message}, and was stopped; send another message to go on.", code="turn_limit_reached"
    )
