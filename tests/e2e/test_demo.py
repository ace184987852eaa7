"""The first command of a newcomer: one real turn with the offline demo model, without key and account."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.bridge import REPOSITORY, bridge_command
from tests.support.codex import codex_binary
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.codex, pytest.mark.smoke]


def test_the_demo_plays_one_turn_and_says_so(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": str(REPOSITORY),
        "CODEX_BIN": str(codex_binary()),
        "CODEX_BRIDGE_PORT": "0",
    }
    done = subprocess.run(
        [*bridge_command(request.config.getoption("--bridge")), "demo"],
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "offline demo model" in done.stdout.lower()
    assert "Create a hero section with a call-to-action." in done.stdout
    assert "\x1b[" not in done.stdout, "colours without a terminal"
    assert "curl" in done.stdout
    assert re.search(r"^ *\+.*<", done.stdout, re.MULTILINE), "no added line of a diff was shown"
    landed = [path for path in tmp_path.rglob("*.html") if path.is_file()]
    assert landed, done.stdout
    assert landed[0].name in done.stdout
    assert (landed[0].parent / ".git").is_dir()
    wait_until(lambda: not processes.marked(str(tmp_path)), "the end of all that it had started")
    left = {path.name for path in (tmp_path, *tmp_path.glob("codex-bridge-*")) for path in path.iterdir()}
    assert not left & {"state", "codex-home", ".local", "bridge.db", "lock"}, (
        "the demo keeps nothing but its workspace"
    )
    assert not [name for name in left if "scratch" in name]
