"""Codex's own sign-in: what is known of it, and the device login that is under way.

Codex keeps the tokens; none is ever seen here. A device login is in one of these states, and leaves the first one once:

    pending -> completed    Codex is signed in
            -> failed       the issuer refused it, or Codex died
            -> expired      nobody entered the code in time
            -> cancelled    somebody signed out, or began another one

What is `known` of the account (`KnownAccount`) is told anew by Codex's notifications.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from .. import log
from ..errors import CodexFailed
from ..model import now_ms
from ..providers import AuthMode
from ..runtime import (
    Account,
    AccountChanged,
    AccountEvent,
    Accounts,
    CodexLost,
    Failure,
    LoginEnded,
    LoginStarted,
)
from .account import KnownAccount

HOW_TO_SIGN_IN = "GET /auth/device, or `codex login` in a terminal, begins a sign-in with ChatGPT; a provider with a key needs none."


class LoginStatus(StrEnum):
    """What /health tells in a word."""

    LOGGED_IN = "logged_in"
    LOGGED_OUT = "logged_out"
    PENDING = "pending"
    UNKNOWN = "unknown"
    NOT_REQUIRED = "not_required"


class DeviceLoginStatus(StrEnum):
    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class DeviceLogin:
    """One device login. The code is good for `lifetime_s` seconds from `issued_at`, in milliseconds since the epoch."""

    started: LoginStarted
    lifetime_s: float
    issued_at: int = field(default_factory=now_ms)
    status: DeviceLoginStatus = DeviceLoginStatus.PENDING
    error: str | None = None

    @property
    def is_pending(self) -> bool:
        return self.status is DeviceLoginStatus.PENDING

    def end(self, status: DeviceLoginStatus, error: str | None = None) -> bool:
        """Leave `pending`; False for a login that is over already, and stays as it is."""
        if not self.is_pending or status is DeviceLoginStatus.PENDING:
            return False
        self.status, self.error = status, error
        return True

    def to_json(self) -> dict[str, Any]:
        """Return all that may be told: not the id, and no code that is of no use any more."""
        return {
            "status": self.status,
            "verification_url": self.started.verification_url if self.is_pending else None,
            "user_code": self.started.user_code if self.is_pending else None,
            "issued_at": self.issued_at,
            "expires_in_minutes": math.ceil(self.lifetime_s / 60),
        }


class DeviceAuth:
    """Knows whether Codex is signed in, and signs it in and out.

    `auth_state` returns the auth mode in force and whether there is a provider's key.
    """

    def __init__(
        self, accounts: Accounts, auth_state: Callable[[], tuple[str, bool]], lifetime_s: float
    ) -> None:
        self._accounts = accounts
        self._auth_state = auth_state
        self._lifetime_s = lifetime_s
        self.login: DeviceLogin | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._starting: asyncio.Task[None] | None = None
        self.known = KnownAccount(accounts)
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        accounts.follow(self._on_event)

    @property
    def auth_mode(self) -> str:
        return self._auth_state()[0]

    @property
    def has_key(self) -> bool:
        return self._auth_state()[1]

    @property
    def is_used(self) -> bool:
        """Whether model requests go out with Codex's own sign-in."""
        return self.auth_mode == AuthMode.CHATGPT

    @property
    def is_pending(self) -> bool:
        """Whether a device login waits for its code to be entered."""
        return self.login is not None and self.login.is_pending

    def status(self) -> LoginStatus:
        """Return what is known now."""
        if not self.is_used:
            return LoginStatus.NOT_REQUIRED
        if self.known.is_ready:
            return LoginStatus.LOGGED_IN
        if self.is_pending:
            return LoginStatus.PENDING
        return LoginStatus.UNKNOWN if self.known.account is None else LoginStatus.LOGGED_OUT

    async def status_for_health(self) -> LoginStatus:
        """Return what is known, asking in the background; wait a moment only while nothing is."""
        if self.is_used:
            await self.known.glance()
        return self.status()

    async def find_obstacle(self) -> Failure | None:
        """Return why a turn with Codex's own sign-in cannot succeed, None when it may."""
        if not self.known.is_ready:
            await self.known.look()
        account = self.known.account
        if account is None or account.is_ready:
            return None
        reason = (
            f"Codex's sign-in is not taken any more: {account.doubt}."
            if account.doubt
            else "Codex is not signed in."
        )
        return Failure(f"{reason} {HOW_TO_SIGN_IN}", "sign_in_required")

    def explain(self, failure: Failure) -> Failure:
        """Return why a turn failed, in words that say what to do where the sign-in was not taken."""
        if failure.code != "unauthorized":
            return failure
        self.known.account = None  # whatever was known: the next turn asks first
        self._on_changed()
        return Failure(
            "Codex's sign-in is not taken any more; POST /auth/logout, then GET /auth/device for a new one. "
            f"Codex says: {failure.message}",
            "sign_in_required",
        )

    async def begin(self) -> DeviceLogin | None:
        """Return the pending device login, begun by the first of all who ask; None when Codex is signed in.

        Raises `CodexFailed` with the code `sign_in_failed`.
        """
        if not self.is_pending and self._starting is None:
            await self.known.look()
        if self.known.is_ready:
            return None
        if not self.is_pending:
            if self.known.problem is not None and self.known.problem.code != "codex_failed":
                raise _not_begun(self.known.problem.message)  # there is no Codex that could
            if self._starting is None:
                self._starting = self._spawn(self._start(), "start of a device login")
                self._starting.add_done_callback(self._on_start_done)
            # Shielded: one client that leaves must not take the start away from the others.
            await asyncio.shield(self._starting)
        login = self.login
        if login is not None and login.is_pending:
            return login
        if login is not None and login.status is DeviceLoginStatus.COMPLETED:
            return None
        # It was over before anybody could be shown its code.
        ended = f"{login.status} ({login.error})" if login is not None else "lost"
        raise CodexFailed(f"The sign-in has begun, but is {ended}.", code="sign_in_failed")

    async def sign_out(self) -> None:
        """Give a pending login up and make Codex forget its sign-in; raise `CodexFailed`."""
        if self._starting is not None:
            await asyncio.wait([self._starting])
        if not self._end_login(DeviceLoginStatus.CANCELLED):
            self.login = None  # how that one ended says nothing any more
        try:
            await self._accounts.sign_out()
        except CodexFailed as problem:
            raise CodexFailed(f"Codex did not sign out: {problem.message}", code="sign_out_failed") from None
        self.known.account = Account(None)
        self._on_changed()
        log.info("signed out of Codex's own account")

    async def stop(self) -> None:
        """Give up what is under way."""
        self._stopping = True
        self._end_login(DeviceLoginStatus.CANCELLED)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self.known.stop()

    # Events ---------------------------------------------------------------------------------------

    def _on_event(self, event: AccountEvent) -> None:
        match event:
            case LoginStarted():
                self._on_started(event)
            case LoginEnded(login_id, error):
                if self.login is not None and self.login.started.login_id == login_id:
                    self._on_login_ended(error)
            case AccountChanged():
                self._on_changed()
            case CodexLost(reason):
                self._end_login(DeviceLoginStatus.FAILED, reason)
                self.known.expire()  # the next Codex reads its files anew

    def _on_started(self, event: LoginStarted) -> None:
        self._end_login(DeviceLoginStatus.CANCELLED)
        login = self.login = DeviceLogin(event, self._lifetime_s)
        self._timer = asyncio.get_running_loop().call_later(self._lifetime_s, self._on_expired, login)
        log.info("a sign-in with ChatGPT has begun and waits for its code to be entered")

    def _on_login_ended(self, error: str | None) -> None:
        if error is None:
            self._end_login(DeviceLoginStatus.COMPLETED)
            # True from this moment; the details follow.
            self.known.account = Account("chatgpt")
        else:
            self._end_login(DeviceLoginStatus.FAILED, error)
        self._on_changed()

    def _on_expired(self, login: DeviceLogin) -> None:
        if login is self.login and self._end_login(DeviceLoginStatus.EXPIRED):
            self._spawn(self._cancel(login.started.login_id), "end of a device login")

    def _end_login(self, status: DeviceLoginStatus, error: str | None = None) -> bool:
        if self.login is None or not self.login.end(status, error):
            return False
        if self._timer is not None:
            self._timer.cancel()
        log.info("the sign-in with ChatGPT is over: %s%s", status, f" ({error})" if error else "")
        return True

    def _on_changed(self) -> None:
        """Ask Codex anew."""
        self.known.note_change()
        if self.is_used and not self._stopping:
            self.known.ask()

    # Codex ----------------------------------------------------------------------------------------

    async def _start(self) -> None:
        try:
            await self._accounts.start_device_login()
        except CodexFailed as problem:
            raise _not_begun(problem.message) from None

    def _on_start_done(self, task: asyncio.Task[None]) -> None:
        self._starting = None
        if not task.cancelled() and task.exception() is not None:
            log.warning("%s", task.exception())

    async def _cancel(self, login_id: str) -> None:
        try:
            await self._accounts.cancel_device_login(login_id)
        except CodexFailed:
            log.warning("Codex did not give up a sign-in whose time was over; it ends by itself")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _not_begun(reason: str) -> CodexFailed:
    return CodexFailed(f"Codex could not begin the sign-in: {reason}", code="sign_in_failed")
