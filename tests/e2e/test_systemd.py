"""The bridge as a service manager's child: what it is told and when, and the sockets that it hands over."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import Signals

import pytest

from tests.conftest import BridgeFactory, settings_for
from tests.support import hand_over, processes
from tests.support.bridge import REPOSITORY, bridge_command
from tests.support.fake_codex import FakeCodex
from tests.support.raw_http import RawConnection, get
from tests.support.waiting import BOUND_S, wait_until

FakeFactory = Callable[..., FakeCodex]
OF_THE_MANAGER = {
    "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "CREDENTIALS_DIRECTORY",
}  # fmt: skip
TOKEN = "the-hosts-token-for-the-bridge-77aa"


class Manager:
    """The socket on which a service manager hears."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(BOUND_S)
        self._socket.bind(str(path))

    def next(self) -> list[str]:
        """Return the lines of the next message."""
        return self._socket.recv(4096).decode().split("\n")

    def until(self, line: str) -> list[str]:
        """Return the messages up to the one with this line, as lines."""
        seen: list[str] = []
        while line not in seen:
            seen += self.next()
        return seen

    def rest(self) -> list[str]:
        """Return what has come and was not read yet, as lines."""
        self._socket.setblocking(False)
        seen: list[str] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                seen += self.next()
        self._socket.settimeout(BOUND_S)
        return seen

    def is_silent_for(self, seconds: float) -> bool:
        """Tell whether nothing comes."""
        self._socket.settimeout(seconds)
        try:
            self._socket.recv(4096)
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(BOUND_S)
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """A service manager, before it starts the bridge."""
    one = Manager(tmp_path / "notify")
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that somebody else has opened, on loopback."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def ask_unix(path: Path) -> bytes:
    """GET /health over a unix socket; return the status line."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(BOUND_S)
        sock.connect(str(path))
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return b"".join(iter(lambda: sock.recv(4096), b"")).partition(b"\r\n")[0]


def start_in_vain(
    request: pytest.FixtureRequest, directory: Path, sockets: list[socket.socket], **settings: object
) -> "subprocess.CompletedProcess[str]":
    """Run a bridge that cannot start, to its end."""
    given = [one.fileno() for one in sockets]
    command = bridge_command(request.config.getoption("--bridge"))
    if given:
        command = [sys.executable, "-I", hand_over.__file__, ",".join(map(str, given)), *command]
    base = {"PATH": os.environ["PATH"], "HOME": str(directory), "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        command,
        env={**base, **settings_for("http://127.0.0.1:9/v1", {"CODEX_BIN": "/bin/true", **settings})},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
        pass_fds=given,
    )


def test_a_life_as_it_is_told(
    bridge: BridgeFactory, fake_codex: FakeFactory, manager: Manager, tmp_path: Path
) -> None:
    fake = fake_codex()
    path = tmp_path / "bridge.sock"
    # LISTEN_FDS is meant for another process, the watchdog for any.
    others = {"LISTEN_FDS": 1, "LISTEN_PID": 1, "LISTEN_FDNAMES": "x", "CREDENTIALS_DIRECTORY": tmp_path}
    one = bridge(
        CODEX_BIN=fake, NOTIFY_SOCKET=manager.path, CODEX_BRIDGE_SOCKET=path, WATCHDOG_USEC=10**9, **others
    )
    assert manager.next() == ["READY=1", "STATUS=Ready: no turn runs."]
    assert ask_unix(path) == b"HTTP/1.1 200 OK"
    one.signal(Signals.SIGTERM)
    told = manager.next()
    assert told[0] == "STOPPING=1"
    (extension,) = [line for line in told if line.startswith("EXTEND_TIMEOUT_USEC=")]
    assert int(extension.partition("=")[2]) >= 2 * 10_000_000
    assert told[-1] == "STATUS=Draining: no turn runs."
    assert one.wait_exit() == 0
    assert manager.rest() == ["STATUS=Stopping: no turn runs."]


def test_the_status_follows_the_turns(
    bridge: BridgeFactory, fake_codex: FakeFactory, manager: Manager
) -> None:
    one = bridge(
        CODEX_BIN=fake_codex(),
        NOTIFY_SOCKET=manager.path,
        CODEX_MAX_CONCURRENT_TURNS=1,
        CODEX_BRIDGE_DRAIN_TIMEOUT_MS=3_600_000,
    )
    sessions = [one.create_session() for _ in range(2)]
    for session_id in sessions:
        one.send(session_id, "stay")
    manager.until("STATUS=Ready: 1 turn runs, 1 waits.")
    one.signal(Signals.SIGTERM)
    assert "STOPPING=1" in manager.until("STATUS=Draining: 1 turn runs, 1 waits.")
    one.interrupt(sessions[0])
    manager.until("STATUS=Stopping: no turn runs, 1 waits.")
    assert one.wait_exit() == 0


def test_a_start_that_fails_is_never_ready(
    request: pytest.FixtureRequest, listener: socket.socket, manager: Manager, tmp_path: Path
) -> None:
    taken = {"CODEX_BRIDGE_PORT": port_of(listener), "NOTIFY_SOCKET": manager.path}
    assert start_in_vain(request, tmp_path, [], **taken).returncode == 1
    assert "READY=1" not in manager.rest()


def test_the_watchdog_is_fed_while_the_bridge_lives(
    bridge: BridgeFactory, fake_codex: FakeFactory, manager: Manager
) -> None:
    one = bridge(CODEX_BIN=fake_codex(), NOTIFY_SOCKET=manager.path, WATCHDOG_USEC=100_000)
    for _ in range(3):
        manager.until("WATCHDOG=1")
    one.signal(Signals.SIGSTOP)
    wait_until(lambda: processes.is_stopped(one.pid), "the bridge to stand still")
    manager.rest()
    assert manager.is_silent_for(1.0)
    one.signal(Signals.SIGCONT)
    for _ in range(3):
        manager.until("WATCHDOG=1")


def test_a_watchdog_of_another_process_is_not_fed(
    bridge: BridgeFactory, fake_codex: FakeFactory, manager: Manager
) -> None:
    one = bridge(
        CODEX_BIN=fake_codex(), NOTIFY_SOCKET=manager.path, WATCHDOG_USEC=2_000, WATCHDOG_PID=os.getpid()
    )
    one.send(one.create_session(), "stay")
    assert "WATCHDOG=1" not in manager.until("STATUS=Ready: 1 turn runs.")


def test_codex_hears_nothing_of_the_manager(
    bridge: BridgeFactory, fake_codex: FakeFactory, manager: Manager, listener: socket.socket, tmp_path: Path
) -> None:
    fake = fake_codex()
    told = {"WATCHDOG_USEC": 10**9, "LISTEN_FDNAMES": "x", "CREDENTIALS_DIRECTORY": tmp_path}
    one = bridge([listener], CODEX_BIN=fake, NOTIFY_SOCKET=manager.path, **told)
    session_id = one.create_session()
    one.send(session_id, "stay")
    (start,) = wait_until(fake.starts, "a start of Codex")
    assert not OF_THE_MANAGER & set(start["environment"])
    inode = os.fstat(listener.fileno()).st_ino
    assert f"socket:[{inode}]" in descriptors(one.pid)
    # One that is being started has it until it becomes its program.
    wait_until(
        lambda: not [p for p in processes.descendants(one.pid) if f"socket:[{inode}]" in descriptors(p)],
        "no child with the socket",
    )
    assert processes.is_alive(start["pid"])


def descriptors(pid: int) -> set[str]:
    """Return what a process holds open."""
    found = set()
    with contextlib.suppress(OSError):  # it has ended since it was listed
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed between the listing and the look
                found.add(os.readlink(descriptor))
    return found


def test_sockets_that_are_handed_over(
    bridge: BridgeFactory, fake_codex: FakeFactory, listener: socket.socket, tmp_path: Path
) -> None:
    path = tmp_path / "given.sock"
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))
        unix.listen()
        fake = fake_codex()
        one = bridge([listener, unix], CODEX_BIN=fake, CODEX_BRIDGE_PORT=1, CODEX_BRIDGE_SOCKET=path)
        assert one.wait_log("listening on").endswith(
            f"listening on http://127.0.0.1:{port_of(listener)} and unix:{path}"
        )
        assert one.wait_log("CODEX_BRIDGE_SOCKET is not used")
        assert one.get("/health").json["state"] == "ready"
        assert ask_unix(path) == b"HTTP/1.1 200 OK"
        # The Host rules are those of every address.
        assert one.get("/health", Host="evil.example").status == 403
        one.stop()

        # The sockets stay, and who comes between two bridges is answered by the next.
        with RawConnection(port_of(listener)) as early:
            early.send(get())
            again = bridge([listener, unix], CODEX_BIN=fake)
            assert early.reply().status == 200
        assert ask_unix(path) == b"HTTP/1.1 200 OK"
        again.stop()
        assert path.exists()


def test_sockets_for_another_process_are_left_alone(
    bridge: BridgeFactory, fake_codex: FakeFactory, listener: socket.socket
) -> None:
    one = bridge([listener], CODEX_BIN=fake_codex(), LISTEN_PID=1)
    assert one.port != port_of(listener)
    assert one.get("/health").status == 200


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")])
def test_without_a_token_only_loopback_is_served(
    request: pytest.FixtureRequest, tmp_path: Path, family: socket.AddressFamily, host: str
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as loopback,
        socket.create_server((host, 0), family=family) as everywhere,
    ):
        done = start_in_vain(request, tmp_path, [loopback, everywhere])
        shown = f"[{host}]" if ":" in host else host
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert f"LISTEN_FDS: http://{shown}:{port_of(everywhere)}: without CODEX_BRIDGE_TOKEN" in line


def test_with_a_token_any_address_is_served(bridge: BridgeFactory, fake_codex: FakeFactory) -> None:
    with socket.create_server(("0.0.0.0", 0)) as everywhere:
        one = bridge([everywhere], CODEX_BIN=fake_codex(), CODEX_BRIDGE_TOKEN=TOKEN)
        with RawConnection(port_of(everywhere)) as connection:
            connection.send(get())
            assert connection.reply().status == 200
            connection.send(get("/chat/sessions"))
            assert connection.reply().status == 401
        one.stop()


def test_a_socket_that_does_not_listen_stops_the_start(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        done = start_in_vain(request, tmp_path, [datagrams])
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "LISTEN_FDS: expected a listening TCP or unix socket as descriptor 3" in line
