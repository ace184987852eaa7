"""Marks: whatever a child's commands do to get away, they are found, and nobody else is."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from codex_bridge.adapters import marks
from codex_bridge.adapters.marks import child_mark, end_marked, new_mark
from codex_bridge.adapters.process import ChildProcess
from codex_bridge.protocol.jsonrpc import LineSplitter
from tests.support import processes
from tests.support.waiting import wait_until
from tests.unit.loop import on_loop

# Prints its process id once it is where it wants to be, then stays.
STAY = "print(os.getpid(), flush=True); time.sleep(600)"
# The child itself stays until the end of its stdin; its own child goes away.
FORK = "os.fork() and (sys.stdin.read(), os._exit(0)); os.setsid()"
AWAY: dict[str, str] = {
    "another session": FORK,
    "a double fork": f"{FORK}; os.fork() and os._exit(0)",
    "another directory": f"{FORK}; os.chdir('/')",
    "deaf": f"{FORK}; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]",
    "another environment": FORK,
}


def program(how: str) -> list[str]:
    """Return a command that leaves a process which has got away as `how` says."""
    script = f"import os, signal, sys, time; {AWAY[how]}; {STAY}"
    if how == "another environment":
        return ["env", "-i", sys.executable, "-c", script]
    return [sys.executable, "-c", script]


async def start(command: list[str], mark: str | None, **environ: str) -> tuple[ChildProcess, int]:
    """Start a child; return it and the process id that was printed."""
    child = await ChildProcess.start(command, {"PATH": os.environ["PATH"], **environ}, mark=mark)
    splitter = LineSplitter()
    async for chunk in child.read_chunks():
        if lines := splitter.feed(chunk):
            return child, int(lines[0])
    raise AssertionError(f"the child ended: {child.stderr_tail}")


@pytest.mark.parametrize("how", AWAY)
@on_loop
async def test_what_a_child_leaves_behind_is_ended_with_it(how: str) -> None:
    child, left = await start(program(how), new_mark())
    await child.stop()
    assert not processes.is_alive(left)


@on_loop
async def test_it_is_ended_after_a_death_as_well() -> None:
    child, left = await start(program("a double fork"), new_mark())
    processes.kill(child.pid)
    await child.buried()
    assert not processes.is_alive(left)
    await child.stop()


@on_loop
async def test_other_children_of_the_same_bridge_are_left_alone() -> None:
    mark = new_mark()
    one, _ = await start([sys.executable, "-c", f"import os, time; {STAY}"], mark)
    two, left = await start(program("a double fork"), mark)
    await two.stop()
    assert not processes.is_alive(left)
    assert processes.is_alive(one.pid)
    assert await asyncio.to_thread(end_marked, mark) == 1
    assert not processes.is_alive(one.pid)
    await one.stop()


@on_loop
async def test_the_burial_of_a_child_is_left_to_the_loop() -> None:
    """A child that somebody else has buried never ends for the loop, whose own end it then keeps waiting (on uvloop for ever)."""
    mark = new_mark()
    child, _ = await start([sys.executable, "-c", f"import os, time; {STAY}"], mark)
    assert end_marked(mark) == 1, "on the loop's own thread: the loop cannot be faster"
    assert await child.exit_status() == "was ended by signal 9"
    await child.stop()


@on_loop
async def test_other_bridges_are_left_alone() -> None:
    child, _ = await start([sys.executable, "-c", f"import os, time; {STAY}"], new_mark())
    unmarked, _ = await start([sys.executable, "-c", f"import os, time; {STAY}"], None)
    assert await asyncio.to_thread(end_marked, new_mark()) == 0
    assert processes.is_alive(child.pid)
    assert processes.is_alive(unmarked.pid)
    for each in (child, unmarked):
        each.kill()
        await each.stop()


@on_loop
async def test_where_limits_cannot_be_set_the_environment_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    no_marker: Callable[[str], None] = lambda mark: None  # noqa: E731
    monkeypatch.setattr("codex_bridge.adapters.process.marker", no_marker)
    mark = new_mark()
    child, left = await start(program("a double fork"), mark, TMPDIR=f"/tmp/codex-bridge-scratch-{mark}")
    await child.stop()
    assert processes.is_alive(left)
    assert await asyncio.to_thread(end_marked, mark) == 1
    assert not processes.is_alive(left)


def test_a_dead_one_that_nobody_has_buried_does_not_count() -> None:
    mark = new_mark()
    marker = marks.marker(child_mark(mark))
    done = subprocess.Popen(["true"], preexec_fn=marker)
    wait_until(lambda: not processes.is_alive(done.pid), "its end")
    assert end_marked(mark) == 0
    assert done.pid not in processes.pids(), "it has become ours to bury"
    done.returncode = 0  # there is nothing left for it to wait for


def test_this_process_itself_is_never_ended(tmp_path: Path) -> None:
    mark = new_mark()
    code = (
        "import sys; from codex_bridge.adapters import marks\n"
        "mark = sys.argv[1]; marks.marker(marks.child_mark(mark))(); print(marks.end_marked(mark))"
    )
    done = subprocess.run([sys.executable, "-c", code, mark], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_marks_differ() -> None:
    mark = new_mark()
    assert mark != new_mark()
    assert len(mark) == 13
    assert mark.isdigit()
    first, second = child_mark(mark), child_mark(mark)
    assert first != second
    assert {first[:13], second[:13]} == {mark}
    assert {len(first), len(second)} == {18}


def test_one_that_is_just_becoming_its_program_is_found() -> None:
    """For some milliseconds, on a busy machine for hundreds, it has no environment to show."""
    for _ in range(100):
        child = subprocess.Popen(["/bin/sleep", "600"], env={"MARK": "m"})
        try:
            assert marks._bears(child.pid, b"m", re.compile(b"^no limit$"))
        finally:
            child.kill()
            child.wait()
