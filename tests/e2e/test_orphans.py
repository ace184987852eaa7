"""What a command leaves behind to outlive its Codex, or the bridge: nothing of it does. On the real Codex."""

from pathlib import Path
from signal import Signals

import pytest

from codex_bridge.model import new_id
from tests.conftest import BridgeFactory
from tests.support import processes
from tests.support.bridge import Bridge
from tests.support.upstream import Upstream, rounds, run, say
from tests.support.waiting import wait_until

pytestmark = pytest.mark.codex


class Fugitives:
    """A command whose processes do what they can to stay, and how to find them: by a number in their arguments."""

    def __init__(self) -> None:
        self.mark = f"600.{int.from_bytes(new_id('f').encode()[-6:]):015}"
        sleep = f"sleep {self.mark}"
        detach = (
            "import os,sys; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); os.chdir('/')"
        )
        become = f"os.execve('/bin/sleep', ['sleep', '{self.mark}'], {{}})"
        self.command = "; ".join([
            f"setsid {sleep} &",
            f"nohup {sleep} >/dev/null 2>&1 &",
            f"env -i setsid {sleep} </dev/null >/dev/null 2>&1 &",
            f'python3 -c "{detach}; {become}" </dev/null >/dev/null 2>&1',
            f"exec {sleep}",
        ]).replace("&;", "&")  # fmt: skip
        self.count = 5

    def pids(self) -> list[int]:
        """Return those that sleep."""
        found = processes.marked(self.mark)
        return [pid for pid in found if processes.cmdline(pid) == ["sleep", self.mark]]

    def wait(self) -> None:
        """Return when all of them are there."""
        wait_until(lambda: len(self.pids()) == self.count, f"{self.count} fugitives")

    def assert_gone(self) -> None:
        """Fail when one stays."""
        wait_until(lambda: not processes.marked(self.mark), "the end of all of them")


@pytest.fixture
def fugitives() -> Fugitives:
    return Fugitives()


@pytest.fixture(params=["workspace-write", "danger-full-access"])
def sandbox_mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def begin(one: Bridge, upstream: Upstream, fugitives: Fugitives) -> str:
    """Start a turn with the command; return its session."""
    upstream.script = rounds(run(fugitives.command, yield_time_ms=30_000), say("Never."))
    session_id = one.create_session()
    one.send(session_id, "Go")
    fugitives.wait()
    return session_id


@pytest.mark.parametrize("kind", ["app_server_adapter", "exec"])
def test_the_end_of_the_bridge(
    bridge: BridgeFactory, upstream: Upstream, fugitives: Fugitives, sandbox_mode: str, kind: str
) -> None:
    one = bridge(CODEX_SANDBOX_MODE=sandbox_mode, CODEX_RUNTIME_KIND=kind)
    begin(one, upstream, fugitives)
    one.stop()
    assert processes.marked(fugitives.mark) == []


@pytest.mark.parametrize("kind", ["app_server_adapter", "exec"])
def test_the_death_of_codex(
    bridge: BridgeFactory, upstream: Upstream, fugitives: Fugitives, sandbox_mode: str, kind: str
) -> None:
    one = bridge(CODEX_SANDBOX_MODE=sandbox_mode, CODEX_RUNTIME_KIND=kind)
    session_id = begin(one, upstream, fugitives)
    for pid in one.codex_pids():
        processes.kill(pid)
    assert one.settled(session_id)["last_error_code"] == "codex_exited"
    fugitives.assert_gone()
    assert one.is_running


@pytest.mark.parametrize("kind", ["app_server_adapter", "exec"])
def test_the_death_of_the_bridge(
    bridge: BridgeFactory, upstream: Upstream, fugitives: Fugitives, sandbox_mode: str, kind: str
) -> None:
    one = bridge(CODEX_SANDBOX_MODE=sandbox_mode, CODEX_RUNTIME_KIND=kind)
    begin(one, upstream, fugitives)
    one.signal(Signals.SIGKILL)
    one.wait_exit()
    # Outside of the sandbox some live on, until the next start.
    assert bool(fugitives.pids()) >= (sandbox_mode == "danger-full-access")
    two = bridge(CODEX_SANDBOX_MODE=sandbox_mode, CODEX_RUNTIME_KIND=kind)
    fugitives.assert_gone()
    two.stop()


def test_a_stopped_codex_of_a_killed_bridge(bridge: BridgeFactory, upstream: Upstream) -> None:
    """It does not notice that its bridge is gone, and holds its threads: Codex lets no other open them."""
    gate = upstream.gate()
    upstream.script = rounds(say("half ", gate, "never"))
    one = bridge()
    one.send(one.create_session(), "Go on")
    gate.wait()
    codex = one.codex_pid()
    processes.send(codex, Signals.SIGSTOP)
    one.signal(Signals.SIGKILL)
    one.wait_exit()
    assert processes.is_alive(codex)
    two = bridge()
    assert not processes.is_alive(codex), "ended before anybody could ask"
    two.wait_log("of a bridge that was killed")


def test_one_session_ends_nothing_of_another(
    bridge: BridgeFactory, upstream: Upstream, fugitives: Fugitives
) -> None:
    """With exec each turn has a child of its own; the end of one is not the end of what another's left."""
    one = bridge(CODEX_SANDBOX_MODE="danger-full-access", CODEX_RUNTIME_KIND="exec")
    first = begin(one, upstream, fugitives)
    others = Fugitives()
    second = begin(one, upstream, others)
    one.interrupt(second)
    one.settled(second)
    others.assert_gone()
    assert len(fugitives.pids()) == fugitives.count
    one.interrupt(first)
    one.settled(first)
    fugitives.assert_gone()


def test_a_second_bridge_in_the_same_state_directory(
    bridge: BridgeFactory, upstream: Upstream, fugitives: Fugitives
) -> None:
    one = bridge(CODEX_SANDBOX_MODE="danger-full-access")
    session_id = begin(one, upstream, fugitives)
    with pytest.raises(AssertionError, match="exit code 1") as refused:
        bridge()
    for word in ("CODEX_BRIDGE_STATE_DIR", str(one.directories.state), f"process {one.pid}"):
        assert word in str(refused.value)
    assert "Traceback" not in str(refused.value)
    assert len(fugitives.pids()) == fugitives.count
    assert one.session(session_id)["running"]


def test_a_state_directory_that_cannot_be(bridge: BridgeFactory) -> None:
    with pytest.raises(AssertionError, match="exit code 1") as refused:
        bridge(CODEX_BRIDGE_STATE_DIR="/proc/nowhere")
    assert "CODEX_BRIDGE_STATE_DIR=/proc/nowhere: expected a directory" in str(refused.value)
    assert "Traceback" not in str(refused.value)


def test_a_clean_end_leaves_nothing_to_clear_away(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge()
    state = one.directories.state
    scratch = (state / "scratch").read_text()
    assert Path(scratch).is_dir()
    one.stop()
    assert not Path(scratch).exists()
    assert not (state / "scratch").exists()
    assert (state / "lock").read_text() == ""
    two = bridge()
    assert "was killed" not in two.log_text
