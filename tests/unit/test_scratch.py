"""The scratch directory: made for one user, removed, and found again after a kill."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from codex_bridge.workspace.scratch import (
    create_scratch,
    link_into,
    remove_scratch,
    remove_stale_scratches,
)


def test_it_is_for_this_user_alone_and_goes_with_all_in_it(tmp_path: Path) -> None:
    path = Path(create_scratch(str(tmp_path)))
    assert path.stat().st_mode & 0o777 == 0o700
    (path / "deep").mkdir()
    (path / "deep" / "file").write_text("x")
    remove_scratch(str(path))
    assert list(tmp_path.iterdir()) == []


def test_two_do_not_meet(tmp_path: Path) -> None:
    assert create_scratch(str(tmp_path)) != create_scratch(str(tmp_path))


def test_a_link_has_a_plain_name_and_leads_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "one, two.png"
    file.write_text("x")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    links = {link_into(str(scratch), str(file)) for _ in range(2)}
    assert len(links) == 2
    assert {Path(link).resolve() for link in links} == {file}
    assert all(link.removeprefix(f"{scratch}/").removesuffix(".png").isalnum() for link in links)


def test_a_parent_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        create_scratch(str(tmp_path / "missing"))


def test_only_what_dead_bridges_left_is_removed(tmp_path: Path) -> None:
    code = "import sys; from codex_bridge.workspace.scratch import *; print(create_scratch(sys.argv[1]))"
    left = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True
    )
    dead = Path(left.stdout.strip())
    assert dead.is_dir()
    mine = Path(create_scratch(str(tmp_path)))
    others = [tmp_path / "codex-bridge-scratch-x-00", tmp_path / "something-else"]
    for other in others:
        other.mkdir()
    link = tmp_path / dead.name.replace(dead.name[-4:], "beef")
    link.symlink_to(mine)
    remove_stale_scratches(str(tmp_path))
    assert not dead.exists()
    assert mine.is_dir()
    assert all(other.is_dir() for other in others)
    assert os.path.islink(link)
