"""Another program where the running Codex was started from: what is new goes to it. On the real Codex."""

import os
from pathlib import Path

import pytest

from tests.conftest import BridgeFactory
from tests.support.bridge import Bridge, Json
from tests.support.codex import codex_binary
from tests.support.turns import open_session, play
from tests.support.upstream import Answer, Request, Upstream, run, say
from tests.support.waiting import wait_until

pytestmark = pytest.mark.codex


class Installed:
    """A `codex` in a directory, as a package manager keeps it: a link that is moved on."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "codex"
        self.path.symlink_to(codex_binary())

    def replace(self, program: str) -> None:
        """Put another program in its place."""
        file = self.directory / f"codex-{os.urandom(4).hex()}"
        file.write_text(program)
        file.chmod(0o755)
        link = self.directory / "codex.new"
        link.symlink_to(file)
        link.rename(self.path)

    def upgrade(self) -> None:
        """Put the same Codex in its place, in other clothes."""
        self.replace(f'#!/bin/sh\nexec "{codex_binary()}" "$@"\n')


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    (tmp_path / "bin").mkdir()
    return Installed(tmp_path / "bin")


def children(one: Bridge) -> list[Json]:
    found: list[Json] = one.get("/runtime/info").json["codex_process"]["children"]
    return found


def test_new_turns_go_to_the_new_one_and_running_ones_finish(
    bridge: BridgeFactory, upstream: Upstream, installed: Installed
) -> None:
    gate = upstream.gate()

    def script(request: Request) -> Answer:
        return say("half ", gate, "whole") if request.user_text == "hold" else say(request.user_text)

    upstream.script = script
    one = bridge(CODEX_BIN=installed.path)
    moved_id, moved = play(one, "remember blue")
    held_id, held = open_session(one)
    one.send(held_id, "hold")
    gate.wait()
    installed.upgrade()

    # A thread that rests in the old one moves on to the new one, with its memory.
    one.send(moved_id, "and green")
    moved.until("session.completed")
    assert "remember blue" in upstream.requests[-1].conversation
    play(one, "something else")
    assert [child["is_current"] for child in children(one)] == [False, True]
    assert len(one.codex_pids()) == 2

    gate.release()
    held.until("session.completed")
    assert one.session(held_id)["messages"][-1]["text"] == "half whole"
    wait_until(lambda: len(one.codex_pids()) == 1, "the end of the old one")
    one.send(held_id, "go on")
    held.until("session.completed")
    assert "half whole" in upstream.requests[-1].conversation
    for stream in (moved, held):
        opened = [event.runtime["resumed"] for event in stream.events if event.kind == "thread.started"]
        assert opened == [False, True]
        assert not [e for e in stream.events if e.kind == "warning" and "code" in e.runtime]


@pytest.mark.parametrize(
    "program",
    [
        "#!/bin/sh\necho 'wrong machine' >&2\nexit 126\n",
        "#!/bin/sh\nexit 0\n",
        "#!/no/such/program\n",
        "\x7fELF",
    ],
)
def test_a_new_one_that_does_not_start(
    bridge: BridgeFactory, upstream: Upstream, installed: Installed, program: str
) -> None:
    one = bridge(CODEX_BIN=installed.path)
    session_id, stream = play(one, "before")
    before = one.codex_pid()
    installed.replace(program)
    one.send(session_id, "after")
    stream.until("session.completed")
    assert "before" in upstream.requests[-1].conversation
    assert one.codex_pid() == before
    assert "no other one starts" in one.get("/runtime/info").json["codex_process"]["problem"]
    installed.upgrade()
    one.send(session_id, "at last")
    stream.until("session.completed")
    assert one.codex_pid() != before


def test_a_background_command_ends_with_the_child_that_began_it(
    bridge: BridgeFactory, upstream: Upstream, installed: Installed
) -> None:
    command = run("exec sleep 4711", yield_time_ms=250)

    def script(request: Request) -> Answer:
        return say("Fine.") if request.outputs or request.user_text == "again" else command

    upstream.script = script
    one = bridge(CODEX_BIN=installed.path)
    session_id, stream = play(one, "Sleep")
    old = one.codex_pid()
    installed.upgrade()
    one.send(session_id, "again")
    stream.until("session.completed")
    wait_until(lambda: old not in one.codex_pids(), "the end of the old one")
    wait_until(lambda: one.leftovers() == sorted([one.pid, one.codex_pid()]), "the end of its command")
