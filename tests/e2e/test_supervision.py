"""The app-server on bad days, played by a scripted one: what it writes, how it hangs, how it dies."""

import json
import signal

import pytest

from codex_bridge.limits import MAX_LOADED_THREADS
from tests.conftest import BridgeFactory
from tests.support import processes
from tests.support.bridge import Bridge, Json
from tests.support.sse import assert_contiguous, kinds, said
from tests.support.turns import FakeFactory, injected, open_session, play
from tests.support.waiting import wait_until


def assert_says(one: Bridge, text: str) -> None:
    """Fail unless a new session can talk."""
    session_id, stream = play(one, f"say {text}")
    assert stream.events[-1].name == "session.completed", one.session(session_id)["last_error"]
    assert said(stream.events) == text


def test_the_scripted_app_server_talks(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    assert_says(one, "hello there")
    assert_says(one, "hello again")
    assert len(fake.starts()) == 1
    assert len(fake.received("thread/start")) == 2
    assert len(fake.received("initialized")) == 1


def test_shell_snapshots_are_off(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    assert_says(bridge(CODEX_BIN=fake), "hello")
    assert "features.shell_snapshot=false" in fake.starts()[0]["arguments"]


@pytest.mark.parametrize("megabytes", [5, 20])
def test_a_very_long_line(bridge: BridgeFactory, fake_codex: FakeFactory, megabytes: int) -> None:
    one = bridge(CODEX_BIN=fake_codex())
    size = megabytes * 1_000_000
    session_id, stream = play(one, f"big {size}")
    assert stream.events[-1].name == "session.completed"
    assert one.session(session_id)["messages"][-1]["text"] == "x" * size
    assert said(stream.events) == "x" * size
    assert_says(one, "short")


def test_a_burst_of_deltas_arrives_whole(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    one = bridge(CODEX_BIN=fake_codex())
    _, stream = play(one, "burst 5000")
    assert said(stream.events) == "".join(f"{number}," for number in range(5000))
    assert_contiguous(stream.events)


def test_garbage_between_the_lines(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    one = bridge(CODEX_BIN=fake_codex())
    session_id, stream = play(one, "garbage")
    assert stream.events[-1].name == "session.completed"
    assert one.session(session_id)["messages"][-1]["text"] == "before after"
    assert one.is_running


@pytest.mark.parametrize(
    ("method", "result"),
    [
        ("mcpServer/elicitation/request", {"action": "decline", "content": None}),
        ("item/tool/call", {
            "success": False, "contentItems": [{"type": "inputText", "text": "There is no such tool."}],
        }),
        # These do not say what they want.
        ("item/permissions/requestApproval", {"permissions": {}, "scope": "turn"}),
        ("item/tool/requestUserInput", {"answers": {}}),
        ("execCommandApproval", None),
        ("no/such/request", None),
    ],
)  # fmt: skip
def test_an_unexpected_request_is_declined(
    bridge: BridgeFactory, fake_codex: FakeFactory, method: str, result: dict[str, object] | None
) -> None:
    one = bridge(CODEX_BIN=fake_codex())
    session_id, stream = play(one, f"ask {method}")
    assert stream.events[-1].name == "session.completed"
    answer = json.loads(one.session(session_id)["messages"][-1]["text"])
    assert answer["id"] == 0
    assert ("error" in answer) == (result is None)
    assert answer.get("result") == result
    assert "session.approval.required" not in kinds(stream.events)


def test_a_death_in_mid_turn(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    session_id, stream = play(one, "die out of cheese")
    failed = stream.events[-1].data["session"]
    assert (failed["status"], failed["last_error_code"]) == ("error", "codex_exited")
    assert "out of cheese" in failed["last_error"] or one.wait_log("out of cheese")
    last = one.session(session_id)["messages"][-1]
    assert (last["text"], last["incomplete"]) == ("last words", True)

    one.send(session_id, "say back again")
    stream.until("session.completed")
    assert one.session(session_id)["messages"][-1]["text"] == "back again"
    assert len(fake.starts()) == 2
    assert fake.received("thread/resume")[0]["params"]["threadId"] == failed["thread_id"]


def test_a_grandchild_that_holds_the_pipe(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex(grandchild=True)
    one = bridge(CODEX_BIN=fake)
    session_id, stream = play(one, "die and leave a child")
    assert stream.events[-1].data["session"]["last_error_code"] == "codex_exited"
    first = fake.starts()[0]["pid"]
    wait_until(lambda: not processes.in_group(first), "the end of the dead Codex's group")
    one.send(session_id, "say on")
    stream.until("session.completed")
    one.stop()


def test_starts_that_fail_are_tried_again(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex(fail_starts=2)
    one = bridge(CODEX_BIN=fake)

    def works() -> bool:
        session_id, stream = play(one, "say at last")
        end = stream.events[-1]
        assert end.name == "session.completed" or end.data["session"]["last_error_code"] in (
            "codex_unavailable",
            "codex_exited",
        )
        return bool(one.session(session_id)["status"] == "idle")

    wait_until(works, "a start that works")
    assert len(fake.starts()) == 3


def test_a_codex_that_never_starts(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex(fail_starts=1000)
    one = bridge(CODEX_BIN=fake)
    for _ in range(2):
        _, stream = play(one, "say something")
        failed = stream.events[-1].data["session"]
        assert (failed["status"], failed["last_error_code"]) == ("error", "codex_unavailable")
        assert failed["last_error"]
    assert "refuses to start" in failed["last_error"] or one.wait_log("refuses to start")
    assert one.get("/health").status == 200


def test_forty_cold_messages_share_one_start(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake, CODEX_MAX_CONCURRENT_TURNS=40)
    sessions = [one.create_session() for _ in range(40)]
    for number, session_id in enumerate(sessions):
        one.send(session_id, f"say number {number}")
    for number, session_id in enumerate(sessions):
        assert one.settled(session_id)["messages"][-1]["text"] == f"number {number}"
    assert len(fake.starts()) == 1


def test_interrupt_of_a_turn_that_never_began(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake, CODEX_BRIDGE_INTERRUPT_GRACE_MS=300)
    session_id, stream = open_session(one)
    one.send(session_id, "hang")
    wait_until(lambda: fake.received("turn/start"), "turn/start")
    assert one.interrupt(session_id).status == 200
    stream.until("session.interrupted")
    one.send(session_id, "say free again")
    stream.until("session.completed")


def test_interrupt_that_codex_does_not_hear(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake, CODEX_BRIDGE_INTERRUPT_GRACE_MS=300)
    session_id, stream = open_session(one)
    one.send(session_id, "deaf")
    stream.until_text("deaf")
    assert one.interrupt(session_id).status == 200
    stream.until("session.interrupted")
    assert one.get("/runtime/info").json["bridge_load"]["active_turns"] == 0
    one.send(session_id, "say I hear you")
    stream.until("session.completed")
    assert one.session(session_id)["messages"][-1]["text"] == "I hear you"


def test_a_timeout_that_codex_does_not_hear(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    # The next turn, and with it the start of the next Codex, has to be done in that time.
    settings = {"CODEX_CHAT_TURN_TIMEOUT_MS": 4000, "CODEX_BRIDGE_INTERRUPT_GRACE_MS": 300}
    one = bridge(CODEX_BIN=fake_codex(), **settings)
    session_id, stream = play(one, "deaf")
    assert stream.events[-1].data["session"]["last_error_code"] == "turn_timeout"
    one.send(session_id, "say in time")
    stream.until("session.completed")


def test_an_obedient_interrupt(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    session_id, stream = open_session(one)
    one.send(session_id, "stay")
    stream.until_text("staying")
    one.interrupt(session_id)
    stream.until("session.interrupted")
    one.send(session_id, "say more")
    stream.until("session.completed")
    assert len(fake.starts()) == 1
    assert "session.error" not in kinds(stream.events)


def test_an_interrupt_before_the_turn_begins_harms_nobody(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    bystander, others = open_session(one)
    one.send(bystander, "stay")
    others.until_text("staying")
    session_id, stream = open_session(one)
    one.send(session_id, "lazy")
    wait_until(lambda: len(fake.received("turn/start")) == 2, "Codex to be given the turn")
    one.interrupt(session_id)
    stream.until("session.interrupted")
    assert one.session(bystander)["running"]
    one.interrupt(bystander)
    others.until("session.interrupted")
    assert len(fake.starts()) == 1


@pytest.mark.parametrize("earlier", [0, 1])
def test_a_turn_that_a_dying_codex_never_began_is_given_to_the_next(
    bridge: BridgeFactory, fake_codex: FakeFactory, earlier: int
) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    session_id, stream = open_session(one)
    for _ in range(earlier):
        one.send(session_id, "say before")
        stream.until("session.completed")
    one.send(session_id, "vanish here again")
    stream.until(lambda event: event.name in ("session.completed", "session.error"))
    session = one.session(session_id)
    assert (session["status"], session["last_error"]) == ("idle", None)
    assert session["messages"][-1]["text"] == "here again"
    assert len(fake.starts()) == 2


def test_what_a_thread_has_missed_is_told_once(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    """Also when Codex dies between the telling and the turn, and the turn is given to the next one."""
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    session_id, stream = open_session(one)
    one.send(session_id, "say before")
    stream.until("session.completed")
    workspace = one.directories.workspace
    away = workspace.with_name("away")
    workspace.rename(away)
    one.send(session_id, "say lost")
    stream.until("session.error")
    away.rename(workspace)
    one.send(session_id, "vanish here again")
    stream.until("session.completed")
    assert len(fake.starts()) == 2
    assert injected(fake) == ["say lost"]


def test_an_interrupt_that_comes_too_late_harms_nobody(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    bystander, others = open_session(one)
    one.send(bystander, "stay")
    others.until_text("staying")
    session_id, stream = open_session(one)
    one.send(session_id, "late")
    stream.until_text("late")
    one.interrupt(session_id)
    stream.until("session.completed")
    one.send(session_id, "say on")
    stream.until("session.completed")
    assert one.session(bystander)["running"]
    one.interrupt(bystander)
    others.until("session.interrupted")
    assert len(fake.starts()) == 1


def test_a_thread_that_is_being_closed_is_resumed_when_it_is(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    first_id, first = open_session(one)
    one.send(first_id, "say one")
    first.until("session.completed")
    for _ in range(MAX_LOADED_THREADS):
        play(one, "say other")
    wait_until(lambda: fake.received("thread/unsubscribe"), "the first thread to be closed")
    one.send(first_id, "say two")
    first.until("session.completed")
    opened = [event.runtime["resumed"] for event in first.events if event.kind == "thread.started"]
    assert opened == [False, True]
    assert "warning" not in kinds(first.events)


def test_a_codex_that_ignores_sigterm_is_ended(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex(ignore_term=True, grandchild=True)
    one = bridge(CODEX_BIN=fake)
    session_id, stream = open_session(one)
    one.send(session_id, "deaf")
    stream.until_text("deaf")
    one.stop()
    assert not processes.is_alive(fake.starts()[0]["pid"])


def test_the_bridge_ends_while_codex_does_not_start(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex(silent=True)
    one = bridge(CODEX_BIN=fake)
    one.send(one.create_session(), "say nothing")
    wait_until(lambda: fake.received("initialize"), "the first request")
    one.stop()


def test_codex_has_a_group_of_its_own(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    assert_says(one, "hello")
    pid = fake.starts()[0]["pid"]
    assert pid in processes.in_group(pid)
    assert pid not in processes.in_group(one.pid)


def test_a_stopped_codex_does_not_stop_the_bridge(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    assert_says(one, "hello")
    processes.send(fake.starts()[0]["pid"], signal.SIGSTOP)
    session_id = one.create_session()
    one.send(session_id, "say hello")
    assert one.session(session_id)["status"] == "running"
    assert one.get("/health").status == 200
    processes.send(fake.starts()[0]["pid"], signal.SIGCONT)
    assert one.settled(session_id)["messages"][-1]["text"] == "hello"


def process_info(one: Bridge) -> Json:
    info: Json = one.get("/runtime/info").json["codex_process"]
    return info


def test_its_state_is_told(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    assert one.get("/health").json["codex"] == {"state": "stopped"}
    play(one, "die out of cheese")
    assert_says(one, "on")
    assert one.get("/health").json["codex"] == {"state": "running"}
    info = process_info(one)
    assert set(info) == {
        "state", "pid", "version", "restarts", "quick_exits", "last_exit", "problem", "children",
    }  # fmt: skip
    assert (info["pid"], info["version"]) == (fake.starts()[1]["pid"], "0.163.0")
    assert (info["state"], info["restarts"], info["quick_exits"]) == ("running", 1, 0)
    assert "out of cheese" in info["last_exit"]["reason"]
    assert type(info["last_exit"]["at"]) is int
    (child,) = info["children"]
    assert set(child) == {"pid", "version", "turns", "commands", "loaded_threads", "is_current"}


def test_an_upgrade_is_picked_up_by_what_is_new(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    session_id, stream = open_session(one)
    one.send(session_id, "stay")
    stream.until_text("staying")
    assert one.get("/runtime/info").json["codex_version"] == "0.163.0"
    fake.upgrade(version="0.170.1")
    other, others = play(one, "say hello")
    assert others.events[-1].name == "session.completed"
    info = one.get("/runtime/info").json
    assert (info["codex_version"], info["codex_process"]["version"]) == ("0.170.1", "0.170.1")
    assert [child["version"] for child in info["codex_process"]["children"]] == ["0.163.0", "0.170.1"]
    assert one.session(session_id)["running"]
    one.interrupt(session_id)
    stream.until("session.interrupted")
    wait_until(lambda: len(process_info(one)["children"]) == 1, "the end of the old Codex")
    one.send(session_id, "say on")
    stream.until("session.completed")
    opened = [event.runtime["resumed"] for event in stream.events if event.kind == "thread.started"]
    assert opened == [False, True]
    one.send(other, "say on")
    others.until("session.completed")
    assert process_info(one)["restarts"] == 1


def test_an_upgrade_to_what_does_not_start(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    assert_says(one, "before")
    fake.upgrade(fail_starts=1000)
    assert_says(one, "after")
    assert_says(one, "and on")
    info = process_info(one)
    assert (info["state"], info["pid"]) == ("running", fake.starts()[0]["pid"])
    assert "refuses to start" in info["problem"]
    assert "refuses to start" in one.wait_log("It is used on")


def test_an_upgrade_is_looked_at_before_it_is_trusted(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    assert_says(one, "before")
    fake.upgrade(sandbox="open")
    session_id, stream = play(one, "say after")
    assert stream.events[-1].data["session"]["last_error_code"] == "sandbox_unavailable"
    fake.upgrade()
    one.send(session_id, "say after all")
    stream.until("session.completed")


def test_an_upgrade_does_not_end_a_sign_in(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    own = {
        "CODEX_RUNTIME_PROVIDER": "openai",
        "CODEX_PROVIDER_API_BASE_URL": None,
        "CODEX_PROVIDER_API_KEY": None,
    }
    one = bridge(CODEX_BIN=fake, **own)
    assert one.get("/auth/device").json["status"] == "pending"
    fake.upgrade(account=True)
    assert one.get("/auth/device").json["status"] == "pending"
    assert len(fake.starts()) == 1
    assert one.post("/auth/logout").status == 200
    wait_until(lambda: one.get("/auth/status").json["logged_in"], "the new Codex")
    assert len(fake.starts()) == 2


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_one_childs_end_is_not_anothers(
    bridge: BridgeFactory, fake_codex: FakeFactory, number: signal.Signals
) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake, CODEX_BRIDGE_INTERRUPT_GRACE_MS=2000)
    (old_id, old), (new_id, new) = open_session(one), open_session(one)
    one.send(old_id, "stay")
    old.until_text("staying")
    fake.upgrade()
    one.send(new_id, "stay")
    new.until_text("staying")
    processes.send(fake.starts()[0]["pid"], number)
    if number is signal.SIGSTOP:
        one.interrupt(old_id)
        old.until("session.interrupted")
    else:
        assert old.until("session.error").data["session"]["last_error_code"] == "codex_exited"
    assert one.session(new_id)["running"]
    one.interrupt(new_id)
    new.until("session.interrupted")
    one.send(old_id, "say on")
    old.until("session.completed")
    assert len(fake.starts()) == 2
