"""`/auth/device`, `/auth/status` and `/auth/logout`: Codex's own sign-in with ChatGPT."""

from __future__ import annotations

from ..adapters.http_server import Request, Response
from ..providers import AuthMode
from ..runtime import Account
from ..services.device_auth import HOW_TO_SIGN_IN, DeviceAuth, DeviceLogin, DeviceLoginStatus, LoginStatus
from . import fields, replies

_NO_FIELDS: frozenset[str] = frozenset()
_NO_LOGIN = {"verification_url": None, "user_code": None, "issued_at": None, "expires_in_minutes": None}


class AuthRoutes:
    """Tells in words and fields how things stand, and signs in and out."""

    def __init__(self, device_auth: DeviceAuth) -> None:
        self._auth = device_auth

    async def device(self, request: Request) -> Response:
        """Show the code to enter: that of the sign-in which waits for it, or of a new one."""
        if not self._auth.is_used:
            return replies.ok(**_NO_LOGIN, status=LoginStatus.NOT_REQUIRED, message=self._describe_provider())
        login = await self._auth.begin()
        if login is None:
            return replies.ok(**_NO_LOGIN, status=LoginStatus.LOGGED_IN, message=self._describe())
        return replies.ok(**login.to_json(), message=_describe_login(login))

    async def status(self, request: Request) -> Response:
        """Tell whether anything is missing for model requests."""
        auth = self._auth
        if auth.is_used:
            await auth.known.look()
        login = auth.login if auth.is_used else None
        account = auth.known.account if auth.is_used else None
        is_known = account is not None and account.email is not None
        return replies.ok(
            logged_in=self._is_logged_in(),
            auth_mode=auth.auth_mode,
            login_required=auth.is_used and not self._is_logged_in(),
            message=self._describe(),
            account={"email": account.email, "plan": account.plan} if account and is_known else None,
            device_auth={**login.to_json(), "error": login.error} if login else None,
        )

    async def logout(self, request: Request) -> Response:
        """Sign Codex out; where it is not used for model requests nothing is touched."""
        await fields.read_object(request, _NO_FIELDS)
        if not self._auth.is_used:
            message = f"{self._describe_provider()} Nothing was changed."
            return replies.ok(logged_in=self._is_logged_in(), message=message)
        await self._auth.sign_out()
        return replies.ok(logged_in=False, message="Codex is signed out.")

    def _is_logged_in(self) -> bool:
        auth = self._auth
        if auth.is_used:
            return auth.status() is LoginStatus.LOGGED_IN
        return auth.auth_mode == AuthMode.NONE or auth.has_key

    def _describe(self) -> str:
        auth, account = self._auth, self._auth.known.account
        if not auth.is_used:
            return self._describe_provider()
        if account is None and not auth.is_pending:
            reason = auth.known.problem.message if auth.known.problem else "it has not answered yet."
            return f"It is not known whether Codex is signed in: {reason}"
        if account is not None and account.is_ready:
            return _describe_account(account)
        if auth.login is not None and auth.login.status is not DeviceLoginStatus.CANCELLED:
            return _describe_login(auth.login)
        if account is not None and account.doubt:
            return f"Codex's sign-in is not taken any more: {account.doubt}. {HOW_TO_SIGN_IN}"
        return f"Codex is not signed in. {HOW_TO_SIGN_IN}"

    def _describe_provider(self) -> str:
        """Say what is needed where Codex's own sign-in is not."""
        if self._auth.auth_mode == AuthMode.NONE:
            return "The provider needs no sign-in."
        if self._auth.has_key:
            return "Requests go out with the provider's key; no sign-in is needed."
        return (
            "The provider's key is missing: CODEX_PROVIDER_API_KEY or POST /runtime/config gives it. "
            "There is nothing to sign in to."
        )


def _describe_account(account: Account) -> str:
    if account.kind is None:
        return "Codex's own configuration names a model provider that needs no sign-in."
    if account.kind != "chatgpt":
        return "Codex is signed in with a key of its own; POST /auth/logout takes it away."
    who = f" as {account.email}" if account.email else ""
    doubt = f" More is not known: {account.doubt}." if account.doubt else ""
    return f"Codex is signed in with ChatGPT{who}.{doubt}"


def _describe_login(login: DeviceLogin) -> str:
    match login.status:
        case DeviceLoginStatus.PENDING:
            return f"Open {login.started.verification_url} and enter the code {login.started.user_code}."
        case DeviceLoginStatus.EXPIRED:
            return "Nobody entered the code in time. GET /auth/device shows a new one."
        case DeviceLoginStatus.FAILED:
            return f"The sign-in failed: {login.error}. GET /auth/device begins a new one."
        case _:
            return f"Codex is not signed in. {HOW_TO_SIGN_IN}"
