"""The command line, as a process: what it prints where, and its exit status."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from codex_bridge import __version__
from codex_bridge.cli import _HEADINGS, _tell_step
from codex_bridge.config import SETTINGS

REPOSITORY = Path(__file__).resolve().parents[2]
BOUND_S = 30


def run(
    *arguments: str, command: tuple[str, ...] = (sys.executable, "-m", "codex_bridge"), **environ: str
) -> subprocess.CompletedProcess[str]:
    base = {
        "PATH": os.environ["PATH"],
        "HOME": "/proc/nowhere",
        "PYTHONPATH": str(REPOSITORY),
        "COLUMNS": "100",
    }
    return subprocess.run(
        [*command, *arguments], env={**base, **environ}, capture_output=True, text=True, timeout=BOUND_S, check=False
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [("version",), ("--version",), ("serve", "--version")])
def test_the_version(arguments: tuple[str, ...]) -> None:
    if arguments[0] == "serve":
        assert run(*arguments).returncode == 2  # it is no option of serve
        return
    done = run(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"codex-bridge {__version__}\n", "")


def test_the_checkouts_own_program_is_the_same() -> None:
    done = run("version", command=(str(REPOSITORY / "bin" / "codex-bridge"),))
    assert (done.returncode, done.stdout) == (0, f"codex-bridge {__version__}\n")


@pytest.mark.parametrize("argument", ["--help", "-h"])
def test_help_names_the_commands(argument: str) -> None:
    done = run(argument)
    assert (done.returncode, done.stderr) == (0, "")
    for command in ("serve", "demo", "version"):
        assert command in done.stdout


@pytest.mark.parametrize("command", ["serve", "demo", "version"])
def test_each_command_has_help(command: str) -> None:
    done = run(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert command in done.stdout


def test_help_of_serve_tells_every_setting() -> None:
    text = run("serve", "--help").stdout
    words = " ".join(text.split())
    for setting in SETTINGS:
        for name in (*setting.variables, *([setting.flag] if setting.flag else [])):
            assert name in text
        assert setting.expected in words
    assert "CODEX_BRIDGE_TOKEN_FILE" in text


def test_help_of_serve_is_wrapped_and_in_groups() -> None:
    lines = run("serve", "--help").stdout.splitlines()
    assert not [line for line in lines if len(line) > 100]
    headings = [line for line in lines if line in {f"{heading}:" for heading in _HEADINGS.values()}]
    assert headings == [f"{heading}:" for heading in _HEADINGS.values()]
    assert next(iter(_HEADINGS)) == SETTINGS[0].field, "a setting without a heading above it"


@pytest.mark.parametrize("arguments", [("nonsense",), ("serve", "--nonsense"), ("version", "x"), ("--port",)])
def test_wrong_use_is_status_2(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: codex-bridge" in done.stderr


SECRET = "sk-secret-0123456789"


@pytest.mark.parametrize(
    ("environ", "arguments", "parts"),
    [
        ({"CODEX_BRIDGE_PORT": "abc"}, (), ("CODEX_BRIDGE_PORT=abc", "a port number from 0 to 65535")),
        ({"CODEX_BRIDGE_PORT": "abc"}, ("serve",), ("CODEX_BRIDGE_PORT=abc", "a port number from 0 to 65535")),
        ({}, ("--port", "abc"), ("--port=abc", "a port number")),
        ({}, ("serve", "--port=-1"), ("--port=-1", "a port number")),
        ({"CODEX_BRIDGE_PORT": "a\nb"}, (), ("CODEX_BRIDGE_PORT=", "a port number")),
        ({"CODEX_SANDBOX_MODE": "off"}, (), ("CODEX_SANDBOX_MODE=off", "read-only")),
        ({"CODEX_WORKSPACE_ROOT": "/nonexistent"}, (), ("CODEX_WORKSPACE_ROOT=/nonexistent", "an existing directory")),
        ({"CODEX_BIN": "/nonexistent"}, (), ("CODEX_BIN=/nonexistent", "executable")),
        ({"CODEX_BRIDGE_HOST": "0.0.0.0"}, (), ("CODEX_BRIDGE_HOST=0.0.0.0", "CODEX_BRIDGE_TOKEN")),
        ({"CODEX_BRIDGE_HOST": "a..b"}, (), ("CODEX_BRIDGE_HOST=a..b",)),
        ({"CODEX_BRIDGE_HOST": "x" * 70}, (), ("CODEX_BRIDGE_HOST=xxx",)),
        ({"CODEX_PROVIDER_API_KEY": SECRET + " "}, (), ("CODEX_PROVIDER_API_KEY", "expected")),
        ({"CODEX_BRIDGE_TOKEN": SECRET + " x"}, (), ("CODEX_BRIDGE_TOKEN", "expected")),
        ({"CODEX_RUNTIME_PROVIDER": "ollama", "CODEX_AUTH_MODE": "chatgpt"}, (), ("CODEX_AUTH_MODE=chatgpt", "ollama")),
        ({"CODEX_AUTH_MODE": "api_key"}, (), ("CODEX_AUTH_MODE=api_key", "CODEX_PROVIDER_API_KEY")),
        ({"CODEX_RUNTIME_PROVIDER": "vllm"}, (), ("CODEX_PROVIDER_API_BASE_URL", "vllm")),
        (
            {"CODEX_RUNTIME_PROVIDER": "vllm", "CODEX_PROVIDER_API_BASE_URL": f"http://u:{SECRET}@h/v1"}, (),
            ("CODEX_PROVIDER_API_BASE_URL", "expected"),
        ),
        (
            {"CODEX_RUNTIME_PROVIDER": "vllm", "CODEX_PROVIDER_API_BASE_URL": "http://[::1/v1"}, (),
            ("CODEX_PROVIDER_API_BASE_URL", "expected"),
        ),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_used_stops_the_start_with_one_line(
    environ: dict[str, str], arguments: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    done = run(*arguments, **{"CODEX_BRIDGE_PORT": "0", **environ})
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    lines = [line for line in done.stderr.splitlines() if " warning " not in line]
    assert len(lines) == 1, done.stderr
    for part in parts:
        assert part in lines[0]
    assert SECRET not in done.stderr


@pytest.mark.parametrize(
    ("environ", "part"),
    [
        ({"CODEX_BRIDGE_SOCKET": "/nonexistent/dir/x.sock"}, "/nonexistent/dir/x.sock"),
        ({"CODEX_BRIDGE_SOCKET": "/tmp/" + "x" * 200}, "CODEX_BRIDGE_SOCKET"),
        ({"CODEX_BRIDGE_HOST": "127.0.0.1", "CODEX_BRIDGE_PORT": "{taken}"}, "{taken}"),
    ],
)
def test_an_address_that_cannot_be_had_is_status_1_with_one_line(
    tmp_path: Path, environ: dict[str, str], part: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        told = {name: value.format(taken=port) for name, value in environ.items()}
        done = run(CODEX_BRIDGE_STATE_DIR=str(tmp_path), TMPDIR=str(tmp_path), **told)
    assert (done.returncode, done.stdout) == (1, "")
    lines = [line for line in done.stderr.splitlines() if " warning " not in line]
    assert len(lines) == 1, done.stderr
    assert part.format(taken=port) in lines[0]


def test_what_a_model_says_does_not_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    said = "ready \x1b]0;title\x07\x1b[2J\r\u202e\x9b31m"
    _tell_step({"step": "chat", "status": "ok", "evidence": f"It said: {said}", "duration_ms": 1})
    assert r"It said: ready \x1b]0;title\x07\x1b[2J\r\u202e\x9b31m" in capsys.readouterr().out
