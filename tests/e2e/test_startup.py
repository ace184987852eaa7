"""The command line and the settings: what starts, what does not, and the one line that says why."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import BridgeFactory
from tests.support.bridge import REPOSITORY, bridge_command
from tests.support.fake_codex import FakeCodex
from tests.support.raw_http import RawConnection, get, post
from tests.support.waiting import BOUND_S

FakeFactory = Callable[..., FakeCodex]
Runner = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_bridge(request: pytest.FixtureRequest, tmp_path: Path) -> Runner:
    """Run the bridge's command to its end."""
    command = bridge_command(request.config.getoption("--bridge"))

    def run(*arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
        places = {"HOME": str(tmp_path), "CODEX_HOME": str(tmp_path), "CODEX_BRIDGE_STATE_DIR": str(tmp_path)}
        base = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "CODEX_BRIDGE_PORT": "0", **places}
        return subprocess.run(
            [*command, *arguments],
            env={**base, **settings},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CODEX_BRIDGE_PORT", "abc"),
        ("CODEX_BRIDGE_PORT", "70000"),
        ("CODEX_BRIDGE_PORT", "-1"),
        ("CODEX_MAX_CONCURRENT_TURNS", "0"),
        ("CODEX_MAX_CONCURRENT_TURNS", "many"),
        ("CODEX_MAX_QUEUED_TURNS", "-1"),
        ("CODEX_CHAT_TURN_TIMEOUT_MS", "soon"),
        ("CODEX_CHAT_TURN_TIMEOUT_MS", "0"),
        ("CODEX_SANDBOX_MODE", "none"),
        ("CODEX_RUNTIME_KIND", "telepathy"),
        ("CODEX_RUNTIME_PROVIDER", "nobody"),
        ("CODEX_AUTH_MODE", "handshake"),
        ("CODEX_WORKSPACE_ROOT", "/no/such/directory"),
        ("CODEX_PROVIDER_API_BASE_URL", "ftp://example.org"),
        ("CODEX_PROVIDER_API_BASE_URL", "not a url"),
        ("CODEX_BRIDGE_ALLOWED_ORIGINS", "*"),
        ("CODEX_BRIDGE_TOKEN_FILE", "/no/such/file"),
        ("CODEX_BIN", "/no/such/codex"),
        ("HTTPS_PROXY", "socks5://proxy.example:1080"),
        ("http_proxy", "proxy.example:3128"),
    ],
)
def test_a_bad_setting_stops_the_start(run_bridge: Runner, name: str, value: str) -> None:
    done = run_bridge("serve", **{name: value})
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert name in line
    assert value in line


def test_a_setting_does_not_show_its_secret(run_bridge: Runner) -> None:
    done = run_bridge(
        "serve", CODEX_BRIDGE_TOKEN="bad token\nwith a line", CODEX_PROVIDER_API_KEY="key\nwith a line"
    )
    assert "with a line" not in done.stderr
    assert done.returncode == 2
    done = run_bridge("serve", HTTPS_PROXY="socks5://me:the-password@proxy.example:1080")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "codex-bridge: HTTPS_PROXY=socks5://proxy.example:1080: expected http://[user:"
    )
    assert "the-password" not in done.stderr


def test_help_and_version(run_bridge: Runner) -> None:
    version = run_bridge("version")
    assert (version.returncode, version.stderr) == (0, "")
    assert any(character.isdigit() for character in version.stdout)
    for arguments in (["--help"], ["serve", "--help"], ["demo", "--help"]):
        helped = run_bridge(*arguments)
        assert (helped.returncode, helped.stderr) == (0, "")
        assert "serve" in helped.stdout or "usage" in helped.stdout.lower()


def test_an_unknown_command_is_a_usage_error(run_bridge: Runner) -> None:
    done = run_bridge("frobnicate")
    assert (done.returncode, done.stdout) == (2, "")
    assert "frobnicate" in done.stderr


def test_a_taken_port_is_told(run_bridge: Runner) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run_bridge("serve", CODEX_BRIDGE_PORT=port)
    assert done.returncode in (1, 2)
    assert port in done.stderr
    assert "Traceback" not in done.stderr


def test_a_codex_that_went_away_is_told_to_the_session(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    fake = fake_codex()
    one = bridge(CODEX_BIN=fake)
    fake.path.unlink()
    session_id = one.create_session()
    one.send(session_id, "say hello")
    failed = one.settled(session_id)
    assert (failed["status"], failed["last_error_code"]) == ("error", "codex_unavailable")
    assert str(fake.path) in failed["last_error"]
    assert one.get("/health").status == 200


def test_the_log_is_quiet_and_single_lined(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    one = bridge(CODEX_BIN=fake_codex())
    session_id = one.create_session()
    one.send(session_id, "say hello")
    assert one.settled(session_id)["status"] == "idle"
    one.get("/nothing%0Ainjected%0D%0Aline")
    one.stop()
    assert not [line for line in one.log if line.startswith(("injected", "line"))]
    assert all(line.strip() for line in one.log)


def test_a_unix_socket_in_place_of_a_port(
    bridge: BridgeFactory, fake_codex: FakeFactory, tmp_path: Path
) -> None:
    path = tmp_path / "bridge.sock"
    one = bridge(CODEX_BRIDGE_SOCKET=path, CODEX_BIN=fake_codex())
    assert path.stat().st_mode & 0o077 == 0, "others could speak to it"
    assert ask_unix(path).startswith(b"HTTP/1.1 200 ")
    one.stop()
    assert not path.exists()


def test_a_unix_socket_that_nobody_serves_is_replaced(
    bridge: BridgeFactory, fake_codex: FakeFactory, tmp_path: Path
) -> None:
    path = tmp_path / "bridge.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    bridge(CODEX_BRIDGE_SOCKET=path, CODEX_BIN=fake_codex())
    assert ask_unix(path).startswith(b"HTTP/1.1 200 ")


def ask_unix(path: Path) -> bytes:
    """GET /health over a unix socket; return the whole answer."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(BOUND_S)
        sock.connect(str(path))
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return b"".join(iter(lambda: sock.recv(4096), b""))


@pytest.mark.parametrize("part", [b"", b"GET /health HTTP/1.1\r\n", post(b'{"mode": "entity"}')[:-4]])
def test_open_connections_do_not_hold_up_the_end(
    bridge: BridgeFactory, fake_codex: FakeFactory, part: bytes
) -> None:
    one = bridge(CODEX_BIN=fake_codex())
    with RawConnection(one.port) as connection:
        connection.send(get())
        assert connection.reply().status == 200
        connection.send(part)
        one.stop()


def test_a_workspace_that_holds_the_program_is_warned_of(
    bridge: BridgeFactory, fake_codex: FakeFactory
) -> None:
    fake = fake_codex()
    own = "holds the bridge's own program"
    first = bridge(CODEX_BIN=fake, CODEX_WORKSPACE_ROOT=REPOSITORY)
    assert str(REPOSITORY) in first.wait_log(own)
    first.stop()
    read_only = bridge(CODEX_BIN=fake, CODEX_WORKSPACE_ROOT=REPOSITORY, CODEX_SANDBOX_MODE="read-only")
    read_only.stop()
    elsewhere = bridge(CODEX_BIN=fake)
    elsewhere.stop()
    assert own not in read_only.log_text + elsewhere.log_text
