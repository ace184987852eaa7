"""What is known of Codex's account: asked of Codex by one task that all who wait share, and asked again when it is old."""

from __future__ import annotations

import asyncio

from ..errors import CodexFailed
from ..limits import ACCOUNT_RECHECK_S, ACCOUNT_WAIT_S, HEALTH_ACCOUNT_WAIT_S
from ..runtime import Account, Accounts, Failure


class KnownAccount:
    """What Codex said last: `account` is None when it is not known, and `problem` says why."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self.account: Account | None = None
        self.problem: Failure | None = None
        self._asking: asyncio.Task[None] | None = None
        self._asking_since = 0.0
        self._asked_at: float | None = None
        self._must_ask_again = False

    @property
    def is_ready(self) -> bool:
        """Whether nothing is missing for a model request, as far as is known."""
        return self.account is not None and self.account.is_ready

    async def look(self) -> None:
        """Ask Codex; wait `ACCOUNT_WAIT_S` for its answer."""
        await asyncio.wait([self.ask()], timeout=ACCOUNT_WAIT_S)

    async def glance(self) -> None:
        """Ask in the background where it is old; wait a moment only while nothing is known."""
        now = asyncio.get_running_loop().time()
        if self._asked_at is None or now - self._asked_at > ACCOUNT_RECHECK_S:
            self.ask()
        if self.account is None and self._asking is not None:
            # One that has waited in vain is enough: the others see that it takes long.
            left_s = self._asking_since + HEALTH_ACCOUNT_WAIT_S - now
            if left_s > 0:
                await asyncio.wait([self._asking], timeout=left_s)

    def ask(self) -> asyncio.Task[None]:
        """Begin to ask, where that is not under way; return what to wait for."""
        if self._asking is None:
            self._asking_since = asyncio.get_running_loop().time()
            self.problem = None
            self._asking = asyncio.create_task(self._ask(), name="question for the account")
            self._asking.add_done_callback(self._on_asked)
        return self._asking

    def expire(self) -> None:
        """Count what is known as old."""
        self._asked_at = None

    def note_change(self) -> None:
        """Count what is known as old, and also what Codex answers to a question that is under way."""
        self.expire()
        self._must_ask_again = self._asking is not None

    async def stop(self) -> None:
        """Give up asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    def _on_asked(self, task: asyncio.Task[None]) -> None:
        self._asking = None
        self._asked_at = asyncio.get_running_loop().time()

    async def _ask(self) -> None:
        while True:
            self._must_ask_again = False
            account: Account | None = None
            failure: Failure | None = None
            try:
                account = await self._accounts.read()
            except CodexFailed as problem:
                failure = Failure(problem.message, problem.code)
            if not self._must_ask_again:
                self.account, self.problem = account, failure
                return
