"""What a service manager hears, and the sockets that it hands over: real sockets, no systemd."""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from codex_bridge.adapters import systemd
from codex_bridge.errors import ConfigError


@contextlib.contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    """A service manager's socket, for what comes at once."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as hears:
        hears.settimeout(30)
        hears.bind(address)
        yield hears


def test_a_path(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with manager(address) as hears:
        systemd.notify(address, "READY=1", "STATUS=No turn runs. \u2713")
        assert hears.recv(1000).decode() == "READY=1\nSTATUS=No turn runs. \u2713"


def test_an_abstract_name() -> None:
    name = f"codex-bridge-test-{os.getpid()}"
    with manager(f"\0{name}") as hears:
        systemd.notify(f"@{name}", "WATCHDOG=1")
        assert hears.recv(1000) == b"WATCHDOG=1"


def test_nobody_there_is_told_and_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    systemd.notify(str(tmp_path / "gone"), "READY=1")
    (line,) = capsys.readouterr().err.splitlines()
    assert f"NOTIFY_SOCKET={tmp_path}/gone" in line


def test_a_manager_that_does_not_read_does_not_hold_the_bridge(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = str(tmp_path / "notify")
    with manager(address):
        while "timed out" not in capsys.readouterr().err:
            systemd.notify(address, "X" * 1000)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[socket.socket], int]]:
    """Put a socket where sockets are handed over, among those of the test's own process."""
    copies: list[int] = []

    def hand_over(one: socket.socket) -> int:
        copies.append(os.dup(one.fileno()))
        os.set_inheritable(copies[-1], True)
        monkeypatch.setattr(systemd, "_FIRST_DESCRIPTOR", copies[-1])
        return copies[-1]

    yield hand_over
    for copy in copies:
        with contextlib.suppress(OSError):  # closed with the socket that was made of it
            os.close(copy)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_a_listening_socket_is_taken_and_kept_from_children(
    given: Callable[[socket.socket], int], tmp_path: Path, family: socket.AddressFamily
) -> None:
    address = {socket.AF_INET: ("127.0.0.1", 0), socket.AF_INET6: ("::1", 0)}.get(family, str(tmp_path / "s"))
    with socket.socket(family) as listener:
        listener.bind(address)
        listener.listen()
        descriptor = given(listener)
        (taken,) = systemd.take_sockets(1)
        with taken:
            assert (taken.fileno(), taken.family) == (descriptor, family)
            assert taken.getsockname() == listener.getsockname()
            assert not os.get_inheritable(descriptor)
            assert not taken.getblocking()


def test_none_is_none() -> None:
    assert systemd.take_sockets(0) == []


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "does not listen"),
        (lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM), "does not listen"),
        (lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), "does not listen"),
    ],
)
def test_what_is_no_listening_socket_is_refused(
    given: Callable[[socket.socket], int], make: Callable[[], socket.socket], reason: str
) -> None:
    with make() as other:
        descriptor = given(other)
        with pytest.raises(ConfigError, match=f"LISTEN_FDS: expected .* descriptor {descriptor}, .*{reason}"):
            systemd.take_sockets(1)


def test_what_is_no_socket_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        monkeypatch.setattr(systemd, "_FIRST_DESCRIPTOR", file.fileno())
        with pytest.raises(ConfigError, match="LISTEN_FDS: expected"):
            systemd.take_sockets(1)


def test_a_closed_descriptor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "_FIRST_DESCRIPTOR", 100_000)
    with pytest.raises(ConfigError, match="LISTEN_FDS: expected"):
        systemd.take_sockets(1)
