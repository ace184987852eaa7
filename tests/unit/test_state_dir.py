"""The state directory: one bridge at a time, and what it tells the next one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from codex_bridge.errors import StartFailed
from codex_bridge.workspace.state_dir import StateDirectory

# Stands for a bridge that works in a state directory until its stdin ends.
BRIDGE = """
import sys
from codex_bridge.workspace.state_dir import StateDirectory
state = StateDirectory.open(sys.argv[1])
state.remember_scratch("/tmp/its-scratch")
print("open", flush=True)
sys.stdin.read()
"""


def test_it_is_made_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state"
    state = StateDirectory.open(str(path))
    assert path.stat().st_mode & 0o777 == 0o700
    assert (path / "lock").read_text() == f"{os.getpid()}\n"
    assert state.scratch_before is None
    state.close()


@pytest.mark.parametrize("mode", [0o755, 0o1777, 0o2770])
def test_one_that_is_there_keeps_its_mode_and_what_is_in_it_is_for_this_user_alone(
    tmp_path: Path, mode: int
) -> None:
    tmp_path.chmod(mode)
    state = StateDirectory.open(str(tmp_path))
    state.remember_scratch("/tmp/mine")
    assert tmp_path.stat().st_mode & 0o7777 == mode
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "lock": 0o600, "scratch": 0o600,
    }  # fmt: skip
    state.close()


def test_what_another_user_says_of_a_scratch_directory_does_not_count(tmp_path: Path) -> None:
    note = tmp_path / "scratch"
    if os.geteuid() == 0:
        note.write_text("/tmp/theirs")
        os.chown(note, 4321, -1)
    else:
        note.symlink_to("/etc/passwd")  # root's
    state = StateDirectory.open(str(tmp_path))
    assert state.scratch_before is None
    state.close()


def test_a_second_bridge_is_refused_and_a_killed_one_tells_of_its_scratch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BRIDGE, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"open\n"
        with pytest.raises(StartFailed) as refused:
            StateDirectory.open(str(tmp_path))
        first.kill()
    for part in ("CODEX_BRIDGE_STATE_DIR", str(tmp_path), str(first.pid)):
        assert part in refused.value.message
    state = StateDirectory.open(str(tmp_path))
    assert state.scratch_before == "/tmp/its-scratch"
    state.close()
    again = StateDirectory.open(str(tmp_path))
    assert again.scratch_before is None
    again.close()


def test_the_refused_one_leaves_no_trace(tmp_path: Path) -> None:
    state = StateDirectory.open(str(tmp_path))
    state.remember_scratch("/tmp/mine")
    with pytest.raises(StartFailed):
        StateDirectory.open(str(tmp_path))
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    assert (tmp_path / "scratch").read_text() == "/tmp/mine"
    state.close()
    assert (tmp_path / "lock").read_text() == ""
    assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("place", ["/proc/nowhere/state", "{file}", "{file}/state", "{long}"])
def test_a_place_where_none_can_be(tmp_path: Path, place: str) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    path = place.format(file=file, long=tmp_path / ("x" * 300))
    with pytest.raises(StartFailed) as failed:
        StateDirectory.open(path)
    assert (
        f"CODEX_BRIDGE_STATE_DIR={path}: expected a directory that can be written: " in failed.value.message
    )
    assert failed.value.message.count(": ") == 2


def test_a_lock_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(StartFailed, match="Is a directory"):
        StateDirectory.open(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe"])
def test_a_note_that_says_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scratch").write_bytes(content)
    state = StateDirectory.open(str(tmp_path))
    assert state.scratch_before is None
    state.close()


def test_a_note_that_cannot_be_written(tmp_path: Path) -> None:
    state = StateDirectory.open(str(tmp_path))
    (tmp_path / "scratch.new").mkdir()
    with pytest.raises(StartFailed, match="CODEX_BRIDGE_STATE_DIR"):
        state.remember_scratch("/tmp/mine")
    state.close()
