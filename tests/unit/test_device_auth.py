"""Sign-in: the states of a device login, what is known of the account, and what a turn is told."""

import asyncio
import itertools
from collections.abc import Callable

import pytest

from codex_bridge.errors import CodexFailed
from codex_bridge.runtime import (
    Account,
    AccountChanged,
    AccountEvent,
    CodexLost,
    Failure,
    LoginEnded,
    LoginStarted,
)
from codex_bridge.services import account
from codex_bridge.services.device_auth import DeviceAuth, DeviceLogin, DeviceLoginStatus, LoginStatus
from tests.unit.loop import on_loop

ANN = Account("chatgpt", "ann@example.com", "plus")
NOBODY = Account(None)
PENDING, COMPLETED, FAILED, EXPIRED, CANCELLED = DeviceLoginStatus


class Codex:
    """A Codex that says what the test lets it say. `held` keeps an answer back until it is released."""

    def __init__(self, account: Account = NOBODY) -> None:
        self.account: Account | CodexFailed = account
        self.calls: list[str] = []
        self.held: dict[str, asyncio.Event] = {}
        self.asked: dict[str, asyncio.Event] = {}
        self.refusal: CodexFailed | None = None
        self.tell: Callable[[AccountEvent], None] = lambda event: None
        self._numbers = itertools.count(1)

    def follow(self, on_event: Callable[[AccountEvent], None]) -> None:
        self.tell = on_event

    async def read(self) -> Account:
        answer = self.account
        await self._note("read")
        if isinstance(answer, CodexFailed):
            raise answer
        return answer

    async def start_device_login(self) -> None:
        await self._note("start")
        if self.refusal is not None:
            raise self.refusal
        number = next(self._numbers)
        self.tell(LoginStarted(f"id-{number}", "http://issuer.example/device", f"CODE-{number}"))

    async def cancel_device_login(self, login_id: str) -> None:
        await self._note(f"cancel {login_id}")

    async def sign_out(self) -> None:
        await self._note("sign_out")
        self.account = NOBODY

    async def _note(self, call: str) -> None:
        self.calls.append(call)
        self.asked.setdefault(call, asyncio.Event()).set()
        if call in self.held:
            await self.held[call].wait()


def auth_with(
    codex: Codex, mode: str = "chatgpt", has_key: bool = False, lifetime_s: float = 900
) -> DeviceAuth:
    return DeviceAuth(codex, lambda: (mode, has_key), lifetime_s)


def pending_login(lifetime_s: float = 900) -> DeviceLogin:
    return DeviceLogin(LoginStarted("id-0", "http://issuer.example/device", "CODE-0"), lifetime_s)


@pytest.mark.parametrize("first", DeviceLoginStatus)
@pytest.mark.parametrize("second", DeviceLoginStatus)
def test_a_login_ends_once(first: DeviceLoginStatus, second: DeviceLoginStatus) -> None:
    login = pending_login()
    assert login.end(first, "why") is (first is not PENDING)
    before = (login.status, login.error)
    assert login.end(second, "again") is (first is PENDING and second is not PENDING)
    assert (login.status, login.error) == ((second, "again") if login.status is not before[0] else before)


@pytest.mark.parametrize("status", DeviceLoginStatus)
def test_a_code_is_shown_only_while_it_is_good(status: DeviceLoginStatus) -> None:
    login = pending_login()
    login.end(status)
    told = login.to_json()
    shown = ("http://issuer.example/device", "CODE-0") if status is PENDING else (None, None)
    assert (told["status"], told["verification_url"], told["user_code"]) == (status, *shown)
    assert "id-0" not in str(told)


@pytest.mark.parametrize(
    ("lifetime_s", "minutes"), [(0.001, 1), (59, 1), (60, 1), (60.5, 2), (900, 15), (86_400, 1440)]
)
def test_minutes_are_rounded_up(lifetime_s: float, minutes: int) -> None:
    assert pending_login(lifetime_s).to_json()["expires_in_minutes"] == minutes


@on_loop
async def test_all_share_one_start_and_one_that_leaves_does_not_end_it() -> None:
    codex = Codex()
    codex.held["start"] = asyncio.Event()
    auth = auth_with(codex)
    asking = [asyncio.create_task(auth.begin()) for _ in range(5)]
    codex.asked["start"] = asyncio.Event()
    await codex.asked["start"].wait()
    asking[0].cancel()
    codex.held["start"].set()
    logins = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(logins[0], asyncio.CancelledError)
    assert logins[1:] == [auth.login] * 4
    assert auth.is_pending
    assert await auth.begin() is auth.login
    assert codex.calls.count("start") == 1
    await auth.stop()


@on_loop
async def test_a_start_that_fails_may_be_tried_again() -> None:
    codex = Codex()
    codex.refusal = CodexFailed("no way to the issuer")
    auth = auth_with(codex)
    with pytest.raises(CodexFailed, match="no way to the issuer") as refused:
        await auth.begin()
    assert (refused.value.status, refused.value.code) == (502, "sign_in_failed")
    assert auth.login is None
    codex.refusal = None
    login = await auth.begin()
    assert login is not None
    await auth.stop()


@on_loop
async def test_none_is_begun_where_there_is_no_codex() -> None:
    codex = Codex()
    codex.account = CodexFailed("it is not there", code="codex_unavailable")
    auth = auth_with(codex)
    with pytest.raises(CodexFailed, match="it is not there"):
        await auth.begin()
    assert auth.status() is LoginStatus.UNKNOWN
    # What it refuses to tell it may still do.
    codex.account = CodexFailed("that is not told")
    assert await auth.begin() is not None
    assert codex.calls.count("start") == 1
    await auth.stop()


@on_loop
async def test_none_is_begun_for_who_is_signed_in() -> None:
    codex = Codex(ANN)
    auth = auth_with(codex)
    assert await auth.begin() is None
    assert (auth.status(), codex.calls) == (LoginStatus.LOGGED_IN, ["read"])


@on_loop
async def test_success_is_known_from_the_moment_it_is_told() -> None:
    codex = Codex()
    auth = auth_with(codex)
    await auth.begin()
    assert auth.status() is LoginStatus.PENDING
    codex.account = ANN
    codex.tell(LoginEnded("id-1", None))
    assert auth.login is not None
    assert (auth.status(), auth.login.status) == (LoginStatus.LOGGED_IN, COMPLETED)
    await auth.known.look()
    assert auth.known.account == ANN


@on_loop
async def test_the_end_of_another_login_is_not_taken_for_this_one() -> None:
    codex = Codex()
    auth = auth_with(codex)
    await auth.begin()
    codex.tell(LoginEnded("id-of-another", "refused"))
    codex.tell(LoginEnded("id-of-another", None))
    assert auth.status() is LoginStatus.PENDING
    first = auth.login
    codex.tell(LoginStarted("id-9", "http://issuer.example/device", "CODE-9"))
    codex.tell(LoginEnded("id-1", "Login was not completed"))
    assert first is not None
    assert (first.status, first.error, auth.is_pending) == (CANCELLED, None, True)
    await auth.stop()


@on_loop
async def test_a_login_that_expires_is_given_up_in_codex() -> None:
    codex = Codex()
    codex.asked["cancel id-1"] = asyncio.Event()
    auth = auth_with(codex, lifetime_s=0.05)
    codex.tell(LoginStarted("id-1", "http://issuer.example/device", "CODE-1"))
    login = auth.login
    assert login is not None
    await codex.asked["cancel id-1"].wait()
    assert login.status is EXPIRED
    # The person was a moment too late for the bridge, but not for Codex.
    codex.account = ANN
    codex.tell(LoginEnded("id-1", None))
    assert (login.status, auth.status()) == (EXPIRED, LoginStatus.LOGGED_IN)
    await auth.known.look()


@on_loop
async def test_the_death_of_codex_ends_a_login() -> None:
    codex = Codex()
    auth = auth_with(codex)
    login = await auth.begin()
    codex.tell(CodexLost("Codex exited with status 9."))
    assert login is not None
    assert (login.status, login.error) == (FAILED, "Codex exited with status 9.")
    assert auth.status() is LoginStatus.LOGGED_OUT
    assert await auth.begin() is not login
    await auth.stop()


@on_loop
async def test_signing_out_waits_for_a_start_that_is_under_way() -> None:
    codex = Codex()
    codex.held["start"] = asyncio.Event()
    codex.asked["start"] = asyncio.Event()
    auth = auth_with(codex)
    beginning = asyncio.create_task(auth.begin())
    await codex.asked["start"].wait()
    ending = asyncio.create_task(auth.sign_out())
    codex.held["start"].set()
    await ending
    login = await beginning if not beginning.cancelled() else None
    assert auth.login is not None
    assert auth.login.status is CANCELLED
    assert login is auth.login
    assert codex.calls.index("sign_out") > codex.calls.index("start")
    await auth.stop()


@on_loop
async def test_a_sign_out_is_known_from_the_moment_it_is_done() -> None:
    codex = Codex(ANN)
    auth = auth_with(codex)
    await auth.known.look()
    codex.held["read"] = asyncio.Event()
    await auth.sign_out()
    assert (auth.status(), auth.login) == (LoginStatus.LOGGED_OUT, None)
    await auth.stop()


@on_loop
async def test_a_sign_out_that_fails() -> None:
    codex = Codex(ANN)
    auth = auth_with(codex)
    await auth.known.look()

    async def refuse() -> None:
        raise CodexFailed("it does not want to")

    codex.sign_out = refuse  # type: ignore[method-assign]
    with pytest.raises(CodexFailed, match="does not want to") as failed:
        await auth.sign_out()
    assert failed.value.code == "sign_out_failed"
    assert auth.status() is LoginStatus.LOGGED_IN


@on_loop
async def test_an_answer_that_is_old_when_it_comes_is_not_believed() -> None:
    codex = Codex()
    codex.held["read"] = asyncio.Event()
    codex.asked["read"] = asyncio.Event()
    auth = auth_with(codex)
    looking = asyncio.create_task(auth.known.look())
    await codex.asked["read"].wait()
    codex.account = ANN
    codex.tell(AccountChanged())
    codex.held["read"].set()
    await looking
    assert auth.known.account == ANN
    assert codex.calls == ["read", "read"]


@on_loop
async def test_health_asks_again_when_its_knowledge_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    codex = Codex()
    auth = auth_with(codex)
    assert [await auth.status_for_health() for _ in range(3)] == [LoginStatus.LOGGED_OUT] * 3
    assert codex.calls == ["read"]
    monkeypatch.setattr(account, "ACCOUNT_RECHECK_S", -1.0)
    codex.account = ANN
    assert await auth.status_for_health() is LoginStatus.LOGGED_OUT  # asks, and does not wait
    await auth.known.look()
    assert codex.calls == ["read", "read"]
    assert auth.status() is LoginStatus.LOGGED_IN


@on_loop
async def test_health_learns_of_a_change_and_of_a_death() -> None:
    codex = Codex()
    auth = auth_with(codex)
    await auth.status_for_health()
    codex.account = ANN
    codex.tell(AccountChanged())
    await auth.known.look()
    assert auth.status() is LoginStatus.LOGGED_IN
    codex.tell(CodexLost("Codex exited with status 9."))
    codex.account = CodexFailed("none starts", code="codex_unavailable")
    assert await auth.status_for_health() is LoginStatus.LOGGED_IN
    await auth.known.look()
    assert await auth.status_for_health() is LoginStatus.UNKNOWN


@pytest.mark.parametrize("mode", ["api_key", "none"])
def test_other_auth_modes_ask_nobody(mode: str) -> None:
    @on_loop
    async def check() -> None:
        codex = Codex()
        auth = auth_with(codex, mode, has_key=True)
        assert await auth.status_for_health() is LoginStatus.NOT_REQUIRED
        codex.tell(AccountChanged())
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert codex.calls == []

    check()


@on_loop
async def test_who_is_signed_in_may_run_turns_unasked() -> None:
    codex = Codex(ANN)
    auth = auth_with(codex)
    assert [await auth.find_obstacle() for _ in range(3)] == [None] * 3
    assert codex.calls == ["read"]
    codex.account = CodexFailed("no answer")
    codex.tell(AccountChanged())
    await auth.known.look()
    assert await auth.find_obstacle() is None  # nobody knows: let it be tried


@on_loop
async def test_who_is_signed_out_is_asked_before_each_turn() -> None:
    codex = Codex()
    auth = auth_with(codex)
    for _ in range(2):
        obstacle = await auth.find_obstacle()
        assert obstacle is not None
        assert obstacle.code == "sign_in_required"
        assert "GET /auth/device" in obstacle.message
    codex.account = Account(None, doubt="unauthorized (401)")
    obstacle = await auth.find_obstacle()
    assert obstacle is not None
    assert "unauthorized (401)" in obstacle.message
    for able in (ANN, Account("apikey"), Account(None, is_needed=False)):
        codex.account = NOBODY
        codex.tell(AccountChanged())
        await auth.known.look()
        codex.account = able
        assert await auth.find_obstacle() is None


@on_loop
async def test_a_refused_sign_in_says_what_to_do() -> None:
    codex = Codex(ANN)
    auth = auth_with(codex)
    await auth.known.look()
    other = Failure("too much", "usage_limit_exceeded")
    assert auth.explain(other) is other
    codex.account = NOBODY
    told = auth.explain(Failure("the token was taken back", "unauthorized"))
    assert told.code == "sign_in_required"
    assert "the token was taken back" in told.message
    assert auth.status() is LoginStatus.UNKNOWN
    await auth.known.look()
    assert auth.status() is LoginStatus.LOGGED_OUT


@on_loop
async def test_nothing_goes_on_after_the_stop() -> None:
    codex = Codex()
    auth = auth_with(codex, lifetime_s=0.02)
    codex.tell(LoginStarted("id-1", "http://issuer.example/device", "CODE-1"))
    codex.held["read"] = asyncio.Event()
    codex.tell(AccountChanged())
    await auth.stop()
    codex.tell(CodexLost("Codex exited with status 0."))
    codex.tell(AccountChanged())
    assert [call for call in codex.calls if call.startswith("cancel")] == []
