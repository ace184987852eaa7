"""`CODEX_RUNTIME_KIND=exec` alone: its children on bad days, played by a scripted one, and what only it does."""

import re
from pathlib import Path
from signal import Signals

import pytest

from codex_bridge.limits import MAX_QUICK_EXITS
from tests.conftest import BridgeFactory
from tests.support import processes
from tests.support.bridge import Bridge
from tests.support.sse import Stream, kinds
from tests.support.turns import FakeFactory, open_session, play
from tests.support.upstream import Answer, Request, Upstream, rounds, run, say
from tests.support.waiting import wait_until


def failure(stream: Stream) -> tuple[str, str]:
    """Return code and sentence of the failure at the stream's end."""
    session = stream.events[-1].data["session"]
    assert session["status"] == "error"
    return session["last_error_code"], session["last_error"]


def last_text(one: Bridge, session_id: str) -> str:
    return str(one.session(session_id)["messages"][-1]["text"])


def process_info(one: Bridge) -> object:
    info = one.get("/runtime/info").json["codex_process"]
    return {name: info[name] for name in ("state", "processes")}


def test_a_turn_is_a_process(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake, CODEX_RUNTIME_KIND="exec")
    assert process_info(one) == {"state": "stopped", "processes": 0}
    session_id, stream = play(one, "say hello there")
    thread_id = one.session(session_id)["thread_id"]
    one.send(session_id, "say hello again")
    stream.until("session.completed")
    assert [m["text"] for m in one.session(session_id)["messages"][1::2]] == ["hello there", "hello again"]
    first, second = fake.execs()
    assert first["arguments"][0] == "exec"
    assert second["arguments"][:2] == ["exec", "resume"]
    assert second["arguments"][-2:] == [thread_id, "-"]
    assert second["prompt"] == "say hello again"
    assert not [word for word in [*first["arguments"], *second["arguments"]] if "hello" in word]
    assert process_info(one) == {"state": "stopped", "processes": 0}


def test_the_gateways_token_is_in_no_argument(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    play(bridge(CODEX_BIN=fake, CODEX_RUNTIME_KIND="exec"), "say hello")
    (start,) = fake.execs()
    (name,) = re.findall(r'"env_key"="(\w+)"', " ".join(start["arguments"]))
    token = start["environment"][name]
    assert len(token) > 30
    assert not [word for word in start["arguments"] if token in word]


@pytest.mark.parametrize("megabytes", [5, 20])
def test_a_very_long_line(bridge: BridgeFactory, fake_codex: FakeFactory, megabytes: int) -> None:
    one = bridge(CODEX_BIN=fake_codex(), CODEX_RUNTIME_KIND="exec")
    session_id, _ = play(one, f"big {megabytes * 1_000_000}")
    assert last_text(one, session_id) == "x" * megabytes * 1_000_000


def test_garbage_between_the_lines(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    one = bridge(CODEX_BIN=fake_codex(), CODEX_RUNTIME_KIND="exec")
    session_id, stream = play(one, "garbage")
    assert stream.events[-1].name == "session.completed"
    assert last_text(one, session_id) == "before and after"
    one.wait_log("skipped a line")


def test_a_death_in_mid_turn(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake, CODEX_RUNTIME_KIND="exec")
    session_id, stream = play(one, "die out of cheese")
    code, sentence = failure(stream)
    assert code == "codex_exited"
    assert "exited with status 7" in sentence
    assert "out of cheese" in sentence
    ended = [event.runtime["item"] for event in stream.events if event.kind == "item.completed"]
    assert [(item["type"], item["status"]) for item in ended] == [("commandExecution", "failed")]
    one.send(session_id, "say back again")
    stream.until("session.completed")
    assert fake.execs()[1]["arguments"][1] == "resume"


@pytest.mark.parametrize(
    ("prompt", "code", "words"),
    [
        ("refuse thread/whatever: no", "codex_failed", "thread/whatever: no"),
        ("silent", "codex_exited", "exited with status 0"),
        ("big 70000000", "codex_failed", "a line longer than"),
    ],
)
def test_an_end_without_an_outcome(
    bridge: BridgeFactory, fake_codex: FakeFactory, prompt: str, code: str, words: str
) -> None:
    one = bridge(CODEX_BIN=fake_codex(), CODEX_RUNTIME_KIND="exec")
    session_id, stream = play(one, prompt)
    assert failure(stream)[0] == code
    assert words in failure(stream)[1]
    assert not one.codex_pids()
    one.send(session_id, "say on")
    stream.until("session.completed")


def test_a_start_that_fails_reads_no_prompt(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    one = bridge(CODEX_BIN=fake_codex(fail_execs=1), CODEX_RUNTIME_KIND="exec")
    session_id, stream = play(one, "say " + "x" * 900_000)
    code, sentence = failure(stream)
    assert code == "codex_unavailable"
    assert "refuses to start" in sentence
    assert one.get("/runtime/info").json["codex_process"]["quick_exits"] == 1
    one.send(session_id, "say at last")
    stream.until("session.completed")
    assert one.get("/runtime/info").json["codex_process"]["quick_exits"] == 0


def test_a_program_that_cannot_be_run(bridge: BridgeFactory, tmp_path: Path) -> None:
    program = tmp_path / "codex"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    _, stream = play(bridge(CODEX_BIN=program, CODEX_RUNTIME_KIND="exec"), "hello")
    assert failure(stream)[0] == "codex_unavailable"


def test_a_thread_that_is_gone(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake, CODEX_RUNTIME_KIND="exec")
    session_id, stream = play(one, "say one")
    (fake.directory / "threads.jsonl").unlink()
    one.send(session_id, "say two")
    stream.until("session.completed")
    warnings = [event.runtime for event in stream.events if event.kind == "warning"]
    assert [warning["code"] for warning in warnings] == ["thread_not_resumed"]
    opened = [event.runtime["resumed"] for event in stream.events if event.kind == "thread.started"]
    assert opened == [False, False]
    assert last_text(one, session_id) == "two"


def test_a_thread_that_became_another(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    one = bridge(CODEX_BIN=fake_codex(), CODEX_RUNTIME_KIND="exec")
    session_id, stream = play(one, "say one")
    before = one.session(session_id)["thread_id"]
    one.send(session_id, "elsewhere two")
    stream.until("session.completed")
    assert one.session(session_id)["thread_id"] != before
    assert [e.runtime["code"] for e in stream.events if e.kind == "warning"] == ["thread_not_resumed"]


def test_an_obedient_interrupt(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    one = bridge(CODEX_BIN=fake_codex(), CODEX_RUNTIME_KIND="exec")
    session_id, stream = open_session(one)
    one.send(session_id, "stay")
    stream.until("turn.started")
    assert process_info(one) == {"state": "running", "processes": 1}
    one.interrupt(session_id)
    stream.until("session.interrupted")
    one.send(session_id, "say more")
    stream.until("session.completed")
    assert "session.error" not in kinds(stream.events)
    assert "did not stop" not in one.log_text


def test_an_interrupt_that_codex_does_not_hear(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    settings = {"CODEX_RUNTIME_KIND": "exec", "CODEX_BRIDGE_INTERRUPT_GRACE_MS": 300}
    one = bridge(CODEX_BIN=fake_codex(ignore_term=True), **settings)
    session_id, stream = open_session(one)
    one.send(session_id, "deaf")
    stream.until("turn.started")
    one.interrupt(session_id)
    stream.until("session.interrupted")
    one.wait_log("did not stop")
    assert not one.codex_pids()
    one.send(session_id, "say I hear you")
    stream.until("session.completed")


@pytest.mark.parametrize("prompt", ["mute", "unborn"])
def test_an_interrupt_before_the_turn_begins(
    bridge: BridgeFactory, fake_codex: FakeFactory, prompt: str
) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake, CODEX_RUNTIME_KIND="exec")
    session_id, stream = open_session(one)
    one.send(session_id, prompt)
    wait_until(fake.execs, "the process")
    one.interrupt(session_id)
    stream.until("session.interrupted")
    assert "did not stop" not in one.log_text, "it was given time for nothing"
    # What never had a turn cannot be resumed, so nobody was told of it.
    assert one.session(session_id)["thread_id"] is None
    one.send(session_id, "say free")
    stream.until("session.completed")
    assert "warning" not in kinds(stream.events)


def test_a_process_that_does_not_leave(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    one = bridge(CODEX_BIN=fake_codex(ignore_term=True), CODEX_RUNTIME_KIND="exec")
    session_id, stream = play(one, "linger for tea")
    assert stream.events[-1].name == "session.completed"
    assert last_text(one, session_id) == "for tea"
    assert not one.codex_pids()


def test_a_grandchild_that_holds_the_pipes(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    one = bridge(CODEX_BIN=fake_codex(grandchild=True), CODEX_RUNTIME_KIND="exec")
    _, stream = play(one, "say and leave a child")
    assert stream.events[-1].name == "session.completed"
    wait_until(lambda: one.leftovers() == [one.pid], "the end of the grandchild")
    _, stream = play(one, "die and leave a child")
    assert failure(stream)[0] == "codex_exited"
    wait_until(lambda: one.leftovers() == [one.pid], "the end of the grandchild")


def test_a_death_is_its_own_turns_alone(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake, CODEX_RUNTIME_KIND="exec")
    bystander, others = open_session(one)
    one.send(bystander, "stay")
    others.until("turn.started")
    session_id, stream = open_session(one)
    one.send(session_id, "deaf")
    stream.until("turn.started")
    assert process_info(one) == {"state": "running", "processes": 2}
    processes.kill(next(start["pid"] for start in fake.execs() if start["prompt"] == "deaf"))
    stream.until("session.error")
    assert failure(stream)[0] == "codex_exited"
    assert one.session(bystander)["running"]
    one.interrupt(bystander)
    others.until("session.interrupted")


@pytest.mark.parametrize("number", [Signals.SIGTERM, Signals.SIGINT])
def test_the_end_of_the_bridge_ends_every_child(
    bridge: BridgeFactory, fake_codex: FakeFactory, number: Signals
) -> None:
    fake = fake_codex(ignore_term=True)
    one = bridge(CODEX_BIN=fake, CODEX_RUNTIME_KIND="exec", CODEX_BRIDGE_SHUTDOWN_TIMEOUT_MS=500)
    for prompt in ("deaf", "mute", "stay"):
        one.send(one.create_session(), prompt)
    wait_until(lambda: len(fake.execs()) == 3, "three processes")
    one.stop(number)
    assert not [start for start in fake.execs() if processes.is_alive(start["pid"])]


@pytest.mark.codex
def test_kill_9_of_one_real_child(bridge: BridgeFactory, upstream: Upstream) -> None:
    gate = upstream.gate()

    def script(request: Request) -> Answer:
        return say(gate, "freed") if request.user_text == "hold" else say(f"You said {request.user_text}.")

    upstream.script = script
    one = bridge(CODEX_RUNTIME_KIND="exec")
    session_id, stream = play(one, "remember blue")
    one.send(session_id, "hold")
    gate.wait()
    (killed,) = one.codex_pids()
    bystander, others = open_session(one)
    one.send(bystander, "hold")
    gate.wait(2)
    processes.kill(killed)
    stream.until("session.error")
    assert failure(stream)[0] == "codex_exited"
    one.send(session_id, "go on")
    stream.until("session.completed")
    assert "remember blue" in upstream.requests[-1].conversation
    assert one.session(bystander)["running"]
    gate.release()
    others.until("session.completed")


@pytest.mark.codex
def test_what_the_user_hides_from_commands_stays_hidden(
    bridge: BridgeFactory, upstream: Upstream, workspace: Path
) -> None:
    config = workspace.parent / "codex-home" / "config.toml"
    config.write_text('[shell_environment_policy]\nexclude = ["HIDDEN"]\nset = {GIVEN = "by the user"}\n')
    upstream.script = rounds(run('echo "[$HIDDEN] [$SEEN] [$GIVEN] [$BRIDGE_GATEWAY_TOKEN]"'), say("Done."))
    names = {"HIDDEN": "h", "SEEN": "s", "CODEX_BRIDGE_PASS_ENVIRONMENT": "HIDDEN,SEEN"}
    one = bridge(CODEX_RUNTIME_KIND="exec", **names)
    play(one, "Tell")
    assert "[] [s] [by the user] []" in str(upstream.requests[-1].outputs)


def test_one_that_never_starts_is_given_up(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    fake = fake_codex(fail_starts=1000)
    one = bridge(CODEX_BIN=fake, CODEX_RUNTIME_KIND="exec", CODEX_SANDBOX_MODE="danger-full-access")
    session_id, stream = open_session(one)
    for _ in range(MAX_QUICK_EXITS):
        one.send(session_id, "say something")
        stream.until("session.error")
        assert failure(stream)[0] == "codex_unavailable"
        assert "refuses to start" in failure(stream)[1]
    assert one.get("/health").json["codex"] == {"state": "given_up"}
    one.send(session_id, "say something")
    stream.until("session.error")
    code, sentence = failure(stream)
    assert code == "codex_unavailable"
    for word in (f"{MAX_QUICK_EXITS} times", "refuses to start", str(fake), "doctor"):
        assert word in sentence
    assert len(fake.execs()) == MAX_QUICK_EXITS
    info = one.get("/runtime/info").json["codex_process"]
    assert (info["state"], info["quick_exits"], info["problem"]) == ("given_up", MAX_QUICK_EXITS, sentence)
    assert "refuses to start" in info["last_exit"]["reason"]
    fake.upgrade()
    one.send(session_id, "say at last")
    stream.until("session.completed")
    assert one.get("/health").json["codex"] == {"state": "stopped"}
