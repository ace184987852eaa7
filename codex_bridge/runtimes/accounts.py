"""Codex's own sign-in, spoken of with the app-server.

Codex keeps its tokens itself, in a file that nothing here reads. A running Codex never looks whether another
program (`codex login`, `codex logout`) has changed that file; so the file's date is looked at, and a Codex
that others have left behind is replaced.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from .. import log
from ..errors import CodexFailed
from ..limits import ACCOUNT_CALL_TIMEOUT_S
from ..protocol import codex
from ..runtime import Account, AccountEvent, CodexLost, LoginEnded, LoginStarted
from .app_server import AppServerRuntime

Result = TypeVar("Result")
# What tells one state of a file from another.
_Stamp = tuple[int, int, int]


class AppServerAccounts:
    """Implements the `Accounts` port. `environ` is Codex's own: it tells where Codex keeps its files."""

    def __init__(self, runtime: AppServerRuntime, environ: Mapping[str, str]) -> None:
        self._runtime = runtime
        self._path = codex.auth_file(environ)
        # The file as it was when Codex last agreed with it, or was replaced for it.
        self._known = _stamp(self._path)
        self._login_id: str | None = None
        self._tell: Callable[[AccountEvent], None] = lambda event: None
        runtime.follow_account(self._on_event, lambda: self._login_id is not None)

    def follow(self, on_event: Callable[[AccountEvent], None]) -> None:
        """Tell all events to `on_event`; see `Accounts`."""
        self._tell = on_event

    async def read(self) -> Account:
        """Ask who is signed in; see `Accounts`."""
        account = await self._read()
        # A login that is under way would end with the Codex that has begun it.
        if self._login_id is None and self._is_outdated(account):
            log.info("another program has changed Codex's sign-in; Codex is started anew")
            self._runtime.replace_child()
            account = await self._read()
        return account

    async def start_device_login(self) -> None:
        """Begin a device login; see `Accounts`."""

        def on_result(result: dict[str, Any]) -> None:
            self._on_event(codex.parse_device_login(result))

        await self._call("account/login/start", codex.DEVICE_LOGIN_PARAMS, on_result)

    async def cancel_device_login(self, login_id: str) -> None:
        """Give a device login up; see `Accounts`."""
        await self._call("account/login/cancel", {"loginId": login_id}, lambda result: None)

    async def sign_out(self) -> None:
        """Make Codex forget its sign-in; see `Accounts`."""
        await self._call("account/logout", {}, lambda result: None)
        self._login_id = None  # it is given up with it

    async def _read(self) -> Account:
        try:
            return await self._call("account/read", codex.READ_PARAMS, codex.parse_account)
        except CodexFailed as problem:
            if problem.code != "codex_failed":
                raise
            refusal = problem
        if codex.is_refused_sign_in(refusal.message):
            return Account(None, doubt=refusal.message)
        try:
            return await self._call(
                codex.STORED_SIGN_IN,
                codex.STORED_SIGN_IN_PARAMS,
                lambda result: codex.parse_stored_sign_in(result, refusal.message),
            )
        except CodexFailed:
            raise refusal from None  # it says more than that the second question was not understood

    async def _call(
        self, method: str, params: dict[str, Any], parse: Callable[[dict[str, Any]], Result]
    ) -> Result:
        """Call a method; replace a Codex that does not answer, and ask again when it was found dead."""
        found: list[Result] = []

        def on_result(result: dict[str, Any]) -> None:
            found.append(parse(result))

        async def ask() -> None:
            await self._runtime.call(method, params, on_result=on_result, timeout_s=ACCOUNT_CALL_TIMEOUT_S)

        try:
            try:
                await ask()
            except CodexFailed as problem:
                if problem.code != "codex_exited":
                    raise
                await ask()
        except CodexFailed as problem:
            if problem.code == "codex_stuck":
                log.warning("%s Another one is started for what is new.", problem.message)
                self._runtime.replace_child()
            raise
        return found[-1]

    def _on_event(self, event: AccountEvent) -> None:
        if isinstance(event, LoginStarted):
            self._login_id = event.login_id
        elif isinstance(event, CodexLost) or (
            isinstance(event, LoginEnded) and event.login_id == self._login_id
        ):
            self._login_id = None
        self._tell(event)

    def _is_outdated(self, account: Account) -> bool:
        """Say whether the file has changed since, and Codex does not know: the one has a sign-in, the other none."""
        stamp, known = _stamp(self._path), self._known
        self._known = stamp
        return (account.kind is None) != (stamp is None) and stamp != known


def _stamp(path: str) -> _Stamp | None:
    """Return what identifies a file's state, None when there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
