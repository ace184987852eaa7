"""Child processes that do not behave: deaf ones, ones with grandchildren, loud ones."""

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from codex_bridge.adapters import process
from codex_bridge.adapters.process import ChildProcess
from codex_bridge.limits import STDERR_TAIL_BYTES
from codex_bridge.protocol.jsonrpc import LineSplitter
from tests.support import processes
from tests.support.waiting import wait_until
from tests.unit.loop import on_loop

ENVIRON = {"PATH": os.environ["PATH"]}


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "CHILD_STOP_STEP_S", 0.3)


async def start(script: str, *arguments: str) -> ChildProcess:
    return await ChildProcess.start([sys.executable, "-c", script, *arguments], ENVIRON)


async def first_line(child: ChildProcess) -> bytes:
    """Return the first line: the child is ready then."""
    splitter = LineSplitter()
    async for chunk in child.read_chunks():
        if lines := splitter.feed(chunk):
            return lines[0]
    raise AssertionError(f"the child ended: {child.stderr_tail}")


@on_loop
async def test_a_child_speaks_and_hears() -> None:
    child = await start("import sys\nfor line in sys.stdin: print('got', line, end='', flush=True)")
    child.write(b"one\n")
    assert await first_line(child) == b"got one"
    await child.stop()
    assert not processes.is_alive(child.pid)


@on_loop
async def test_a_child_sees_exactly_the_environment_it_is_given() -> None:
    child = await ChildProcess.start(
        [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)), os.getcwd())"],
        {**ENVIRON, "A": "b c"},
        cwd="/",
    )
    seen, _, cwd = (await first_line(child)).decode().rpartition(" ")
    await child.stop()
    found = json.loads(seen)
    found.pop("LC_CTYPE", None)  # Python's own doing
    assert found == {**ENVIRON, "A": "b c"}
    assert cwd == "/"


@on_loop
async def test_a_child_that_ends_with_its_stdin_keeps_its_last_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "CHILD_STOP_STEP_S", 20.0)  # it has time to write
    target = tmp_path / "written"
    child = await start(
        "import sys, pathlib\nprint('ready', flush=True)\n"
        "text = sys.stdin.read()\npathlib.Path(sys.argv[1]).write_text(text)",
        str(target),
    )
    await first_line(child)
    child.write(b"x" * 1_000_000)
    await child.stop()
    assert target.read_text() == "x" * 1_000_000


@on_loop
async def test_a_child_that_ignores_the_end_of_stdin_and_term_is_killed() -> None:
    child = await start(
        "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('ready', flush=True)\n"
        "while True: signal.pause()"
    )
    await first_line(child)
    await child.stop()
    assert not processes.is_alive(child.pid)
    assert await child.exit_status() == "was ended by signal 9"


GRANDCHILD = (
    "import subprocess, sys\n"
    "grandchild = subprocess.Popen(['sleep', '600'], start_new_session=sys.argv[1] == 'away')\n"
    "print(grandchild.pid, flush=True)\n"
    "if sys.argv[2] == 'stay': sys.stdin.read()\n"
)


@pytest.mark.parametrize("after", ["stay", "leave"])
@on_loop
async def test_a_grandchild_that_holds_the_pipes_goes_with_its_group(after: str) -> None:
    child = await start(GRANDCHILD, "here", after)
    grandchild = int(await first_line(child))
    assert processes.is_alive(grandchild)
    await child.stop()
    wait_until(lambda: not processes.in_group(child.pid), "the end of the group")
    assert [chunk async for chunk in child.read_chunks()] == []


@on_loop
async def test_a_grandchild_of_another_session_does_not_hold_the_bridge() -> None:
    child = await start(GRANDCHILD, "away", "leave")
    grandchild = int(await first_line(child))
    try:
        await child.stop()
        assert not processes.is_alive(child.pid)
        try:
            async with asyncio.timeout(10):
                async for _ in child.read_chunks():
                    pass
        except TimeoutError:
            pytest.fail("the child is gone, and its reader still waits for the pipe")
    finally:
        os.kill(grandchild, signal.SIGKILL)
        async for _ in child.read_chunks():
            pass


@on_loop
async def test_kill_ends_the_whole_group_at_once() -> None:
    child = await start(GRANDCHILD, "here", "stay")
    grandchild = int(await first_line(child))
    child.kill()
    assert [chunk async for chunk in child.read_chunks()] == []
    assert await child.exit_status() == "was ended by signal 9"
    await child.stop()
    wait_until(lambda: not processes.is_alive(grandchild), "the end of the grandchild")
    child.kill()  # nobody is left: fine


@on_loop
async def test_only_the_end_of_stderr_is_kept() -> None:
    child = await start(
        "import sys\nfor n in range(20000): print('line', n, file=sys.stderr)\nprint('x', flush=True)\n"
    )
    async for _ in child.read_chunks():
        pass
    await child.exit_status()
    await child.stop()
    tail = child.stderr_tail
    assert len(tail) <= STDERR_TAIL_BYTES
    assert len(tail) > STDERR_TAIL_BYTES // 2
    assert tail.endswith("line 19999")


@on_loop
async def test_stderr_of_any_bytes_is_text() -> None:
    child = await start("import os\nos.write(2, b'\\xff\\xc3 broken \\xe2\\x82')")
    async for _ in child.read_chunks():
        pass
    await child.exit_status()
    await child.stop()
    assert "broken" in child.stderr_tail


@on_loop
async def test_a_line_of_5_megabytes_comes_whole() -> None:
    child = await start("import sys\nsys.stdout.write('x' * 5_000_000 + '\\nnext\\n')")
    splitter = LineSplitter()
    lines = [line async for chunk in child.read_chunks() for line in splitter.feed(chunk)]
    await child.stop()
    assert [len(line) for line in lines] == [5_000_000, 4]
    assert lines[1] == b"next"


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("", "exited with status 0"),
        ("import sys; sys.exit(3)", "exited with status 3"),
        ("import os; os.kill(os.getpid(), 15)", "was ended by signal 15"),
    ],
)
@on_loop
async def test_how_a_child_ended(script: str, status: str) -> None:
    child = await start(script)
    async for _ in child.read_chunks():
        pass
    assert await child.exit_status() == status
    await child.stop()


@on_loop
async def test_writing_to_a_dead_child_is_silent() -> None:
    child = await start("")
    async for _ in child.read_chunks():
        pass
    await child.exit_status()
    for _ in range(10):
        child.write(b"x" * 100_000)
    await child.stop()
    child.write(b"x")


@pytest.mark.parametrize("command", ["/nonexistent", "/etc/passwd"])
@on_loop
async def test_what_cannot_be_run(command: str) -> None:
    with pytest.raises(OSError, match="Errno"):
        await ChildProcess.start([command], ENVIRON)


@on_loop
async def test_a_child_leads_a_group_of_its_own() -> None:
    child = await start("import sys; print('ready', flush=True); sys.stdin.read()")
    await first_line(child)
    assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
    await child.stop()


@on_loop
async def test_the_end_of_input_comes_behind_all_that_was_written() -> None:
    child = await start("import sys; text = sys.stdin.read(); print(len(text), text[-3:], flush=True)")
    child.write(b"x" * 1_000_000 + b"end")
    child.end_input()
    assert await first_line(child) == b"1000003 end"
    child.end_input()  # again, and after its death: fine
    assert await child.exit_status() == "exited with status 0"
    child.end_input()
    await child.stop()


@on_loop
async def test_input_that_nobody_reads_is_silent() -> None:
    child = await start("import os; os.close(0); print('closed', flush=True)")
    child.write(b"x" * 1_000_000)
    child.end_input()
    assert await first_line(child) == b"closed"
    await child.exit_status()
    await child.stop()


@on_loop
async def test_an_interrupt_reaches_the_group() -> None:
    child = await start(
        "import signal, subprocess, sys\n"
        "signal.signal(signal.SIGINT, lambda *_: print('heard', flush=True))\n"
        "shell = 'trap \"echo interrupted; exit 7\" INT; echo ready; while true; do sleep 0.01; done'\n"
        "sys.exit(subprocess.Popen(['sh', '-c', shell]).wait())\n"
    )
    assert await first_line(child) == b"ready"
    child.interrupt()
    said = b"".join([chunk async for chunk in child.read_chunks()])
    assert sorted(said.split()) == [b"heard", b"interrupted"]
    assert await child.exit_status() == "exited with status 7"
    child.interrupt()  # nobody is left: fine
    await child.stop()


@on_loop
async def test_last_words_are_whole() -> None:
    for _ in range(20):
        child = await start("import sys; sys.stderr.write('word ' * 200 + 'last')")
        assert await child.exit_status() == "exited with status 0"
        assert (await child.last_words()).endswith("last")
        await child.stop()


@on_loop
async def test_last_words_do_not_wait_for_a_grandchild() -> None:
    child = await start(GRANDCHILD, "away", "leave")
    grandchild = int(await first_line(child))
    try:
        assert await child.last_words() == ""
    finally:
        os.kill(grandchild, signal.SIGKILL)
        async for _ in child.read_chunks():
            pass
        await child.stop()


PARENT = """
import asyncio, os, signal, sys
from codex_bridge.adapters.process import ChildProcess
async def main():
    # One long sleep would sleep through a signal that comes in the moment before it.
    script = "import time; print('up', flush=True)\\nwhile True: time.sleep(0.1)"
    child = await ChildProcess.start([sys.executable, "-c", script], os.environ, orphan_signal=signal.SIGINT)
    async for chunk in child.read_chunks():
        print(child.pid, flush=True)
    await asyncio.sleep(600)
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a script starts what runs in the background
loop = __import__(sys.argv[1]).new_event_loop()
loop.run_until_complete(main())
"""


@pytest.mark.parametrize("loop", [name for name in ("asyncio", "uvloop") if importlib.util.find_spec(name)])
def test_a_child_does_not_outlive_a_parent_that_was_killed(loop: str) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, loop], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert processes.is_alive(child)
        parent.kill()
    wait_until(lambda: not processes.is_alive(child), "the end of the orphan")
