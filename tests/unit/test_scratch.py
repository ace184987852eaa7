"""The scratch directory: made for one user, held by a lock, removed, and found again after a kill."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from codex_bridge.adapters import marks
from codex_bridge.workspace.scratch import (
    clear_after_bridge,
    clear_after_bridges,
    create_scratch,
    keep_scratch,
    link_into,
    mark_of,
    remove_scratch,
)
from tests.support import processes

# Stands for a bridge: makes its scratch directory, and stays until its stdin ends. As `keep` it makes the directory
# anew when somebody has removed it.
BRIDGE = """
import shutil, sys
from codex_bridge.workspace.scratch import create_scratch, keep_scratch
path = create_scratch(sys.argv[1])
if sys.argv[2] == "keep":
    shutil.rmtree(path)
    keep_scratch(path)
print(path, flush=True)
sys.stdin.read()
"""


@contextmanager
def other_bridge(parent: Path, how: str = "stay") -> Iterator[Path]:
    """Run another bridge; yield its scratch directory."""
    command = [sys.executable, "-c", BRIDGE, str(parent), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Path(process.stdout.readline().strip())
        finally:
            process.kill()


Leave = Callable[[Path], "subprocess.Popen[bytes]"]


@pytest.fixture
def leave() -> Iterator[Leave]:
    """A factory of processes that bear the mark of the bridge with a scratch directory."""
    started: list[subprocess.Popen[bytes]] = []

    def start(path: Path) -> subprocess.Popen[bytes]:
        mark = mark_of(str(path))
        assert mark is not None
        marker = marks.marker(marks.child_mark(mark))
        process = subprocess.Popen(["sleep", "600"], preexec_fn=marker, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def assert_gone(process: subprocess.Popen[bytes]) -> None:
    """Fail unless a process has been ended."""
    assert not processes.is_alive(process.pid)
    process.wait()  # whoever has buried it


def test_it_is_for_this_user_alone_and_goes_with_all_in_it(tmp_path: Path) -> None:
    path = Path(create_scratch(str(tmp_path)))
    assert path.stat().st_mode & 0o777 == 0o700
    (path / "deep").mkdir()
    (path / "deep" / "file").write_text("x")
    remove_scratch(str(path))
    assert list(tmp_path.iterdir()) == []


def test_two_do_not_meet(tmp_path: Path) -> None:
    paths = [create_scratch(str(tmp_path)) for _ in range(2)]
    assert len({mark_of(path) for path in paths}) == 2
    for path in paths:
        remove_scratch(path)


def test_a_link_has_a_plain_name_and_leads_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "one, two.png"
    file.write_text("x")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    links = {link_into(str(scratch), str(file)) for _ in range(2)}
    assert len(links) == 2
    assert {Path(link).resolve() for link in links} == {file}
    assert all(link.removeprefix(f"{scratch}/").removesuffix(".png").isalnum() for link in links)


def test_a_parent_that_cannot_be_written() -> None:
    with pytest.raises(OSError, match="No such file"):
        create_scratch("/proc/nowhere")


def test_what_a_killed_bridge_left_is_cleared_away(tmp_path: Path, leave: Leave) -> None:
    with other_bridge(tmp_path) as path:
        pass
    assert path.is_dir()
    process = leave(path)
    clear_after_bridges(str(tmp_path))
    assert_gone(process)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["stay", "keep"])
def test_what_a_living_bridge_has_is_left_alone(tmp_path: Path, leave: Leave, how: str) -> None:
    with other_bridge(tmp_path, how) as path:
        process = leave(path)
        clear_after_bridges(str(tmp_path))
        clear_after_bridge(str(path))
        assert path.is_dir()
        assert processes.is_alive(process.pid)
    clear_after_bridge(str(path))
    assert_gone(process)


def test_one_that_was_made_anew_by_others_is_held_as_well(tmp_path: Path) -> None:
    path = create_scratch(str(tmp_path))
    shutil.rmtree(path)
    os.mkdir(path)
    keep_scratch(path)
    code = "import sys; from codex_bridge.workspace.scratch import *; clear_after_bridges(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert os.path.isdir(path)
    remove_scratch(path)


def test_processes_are_ended_also_when_the_directory_is_gone(tmp_path: Path, leave: Leave) -> None:
    with other_bridge(tmp_path) as path:
        pass
    shutil.rmtree(path)
    process = leave(path)
    clear_after_bridge(str(path))
    assert_gone(process)


@pytest.mark.parametrize("name", ["workspace", "codex-bridge-scratch-x", "codex-bridge-scratch-12", ""])
def test_other_directories_are_never_removed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir(exist_ok=True)
    clear_after_bridge(str(tmp_path / name))
    clear_after_bridges(str(tmp_path))
    assert (tmp_path / name).is_dir()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    link = tmp_path / "codex-bridge-scratch-1234567890123"
    link.symlink_to(tmp_path / "precious")
    clear_after_bridge(str(link))
    clear_after_bridges(str(tmp_path))
    assert (tmp_path / "precious").is_dir()
    assert link.is_symlink()


def test_what_a_command_has_made_too_deep_to_walk_goes_with_the_rest(tmp_path: Path) -> None:
    path = create_scratch(str(tmp_path))
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    os.symlink(tmp_path / "precious", os.path.join(path, "link"))
    here = os.open(path, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("level", dir_fd=here)
        below = os.open("level", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT, dir_fd=here))
    os.close(here)
    remove_scratch(path)
    assert [each.name for each in tmp_path.iterdir()] == ["precious"]
    assert (tmp_path / "precious" / "file").exists()
