"""The units and what is written of them fit the program: its settings, its times, its way to stop."""

import re
from pathlib import Path

import pytest

from codex_bridge import config
from codex_bridge.limits import STOP_MARGIN_S

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "packaging" / "systemd"
PAPERS = [UNITS / "codex-bridge.service", UNITS / "codex-bridge.socket", ROOT / "docs" / "install.md"]
PAGE = config.render_settings()


def options(name: str) -> dict[str, list[str]]:
    """Return all values of each option of a unit; a line that is neither an option nor a comment fails."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            option, sign, value = line.partition("=")
            assert sign, line
            found.setdefault(option, []).append(value)
    return found


SERVICE = options("codex-bridge.service")


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.name)
def test_every_variable_that_is_named_exists(paper: Path) -> None:
    names = set(re.findall(r"\b(?:CODEX|OPENAI)_[A-Z_]+\b", paper.read_text()))
    assert names
    known = set(re.findall(r"\b(?:CODEX|OPENAI)_[A-Z_]+\b", PAGE))
    assert names <= known


def test_the_environment_can_be_used() -> None:
    for line in SERVICE["Environment"]:
        name, _, value = line.partition("=")
        assert name in PAGE
        assert value.startswith(("/srv/codex-bridge", "%S/codex-bridge"))


def test_the_service_is_told_what_it_is_told() -> None:
    assert SERVICE["Type"] == ["notify"]
    assert SERVICE["NotifyAccess"] == ["main"]
    assert int(SERVICE["WatchdogSec"][0]) > 0
    assert SERVICE["RestartPreventExitStatus"] == ["2"]  # what cli.main returns for a setting


def test_the_end_has_its_time() -> None:
    default = config.load({"CODEX_WORKSPACE_ROOT": "/"})
    needed_s = (default.drain_timeout_ms + 2 * default.shutdown_timeout_ms) / 1000 + STOP_MARGIN_S
    assert int(SERVICE["TimeoutStopSec"][0]) >= needed_s
    assert SERVICE["KillMode"] == ["mixed"]


def test_nothing_forbids_codex_its_sandbox() -> None:
    forbidden = {
        "RestrictNamespaces", "SystemCallFilter", "ProtectKernelTunables", "ProtectKernelLogs", "ProtectProc", "ProcSubset",
    }  # fmt: skip
    assert not forbidden & set(SERVICE)


def test_every_line_of_the_service_has_its_reason() -> None:
    text = (UNITS / "codex-bridge.service").read_text()
    service = text.partition("[Service]\n")[2].partition("\n[Install]")[0]
    assert {block.lstrip("\n")[:1] for block in service.split("\n\n")} == {"#"}


def test_the_socket_is_where_the_bridge_would_listen() -> None:
    default = config.load({"CODEX_WORKSPACE_ROOT": "/"})
    assert options("codex-bridge.socket")["ListenStream"] == [f"{default.host}:{default.port}"]
