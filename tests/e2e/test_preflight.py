"""Preflight: what is looked at before a turn, told by `/runtime/info` and by `doctor`; no turn without a sandbox."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from codex_bridge.limits import RECHECK_S
from tests.conftest import BridgeFactory, settings_for
from tests.support import no_namespaces
from tests.support.bridge import REPOSITORY, Bridge, Directories, bridge_command
from tests.support.codex import codex_binary
from tests.support.fake_codex import FakeCodex
from tests.support.upstream import Upstream, rounds, run, say
from tests.support.waiting import BOUND_S, wait_until

Doctor = Callable[..., "subprocess.CompletedProcess[str]"]


def checks_of(one: Bridge) -> dict[str, dict[str, str]]:
    """Return the checks by name, once none of them is open."""

    def look() -> dict[str, dict[str, str]] | None:
        checks = one.get("/runtime/info").json["preflight"]["checks"]
        found = {check["name"]: check for check in checks}
        return found if all(check["status"] != "unknown" for check in checks) else None

    return wait_until(look, "all checks")


@pytest.fixture
def caged_codex(tmp_path: Path) -> Path:
    """The real Codex where its sandbox cannot start."""
    path = tmp_path / "caged-codex"
    path.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" "{no_namespaces.__file__}" "{codex_binary()}" "$@"\n'
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def doctor(request: pytest.FixtureRequest, upstream: Upstream, directories: Directories) -> Doctor:
    """Run `doctor` with a bridge's environment."""

    def look(
        *arguments: str, does: str = "doctor", shell: str = "", **overrides: object
    ) -> "subprocess.CompletedProcess[str]":
        places = {
            "HOME": directories.home, "CODEX_HOME": directories.codex_home,
            "CODEX_WORKSPACE_ROOT": directories.workspace, "PYTHONPATH": REPOSITORY, "PATH": os.environ["PATH"],
        }  # fmt: skip
        command = [*bridge_command(request.config.getoption("--bridge")), does, *arguments]
        return subprocess.run(
            ["sh", "-c", f"exec {shlex.join(command)} {shell}"],
            env={
                **{name: str(value) for name, value in places.items()},
                **settings_for(upstream.base_url, overrides),
            },
            cwd=directories.root,
            capture_output=True,
            text=True,
            timeout=3 * BOUND_S,
            check=False,
        )

    return look


@pytest.mark.codex
@pytest.mark.smoke
def test_all_is_well(bridge: BridgeFactory, upstream: Upstream) -> None:
    begun = time.monotonic()
    one = bridge()
    checks = checks_of(one)
    assert {name: check["status"] for name, check in checks.items()} == {
        "codex": "ok", "version": "ok", "protocol": "ok", "sandbox": "ok", "sign_in": "skipped", "upstream": "ok",
    }  # fmt: skip
    assert checks["codex"]["message"] == str(codex_binary())
    assert upstream.base_url.removesuffix("/v1") in checks["upstream"]["message"]
    preflight = one.get("/runtime/info").json["preflight"]
    assert (preflight["ok"], preflight["problem"], preflight["known_version"]) == (True, None, True)
    most = 1 + (time.monotonic() - begun) / RECHECK_S
    assert set(upstream.looks) == {"/v1/models"}
    assert len(upstream.looks) <= most, "a host that polls must not burden the upstream"


@pytest.mark.codex
def test_the_probe_leaves_nothing(bridge: BridgeFactory, upstream: Upstream, tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    one = bridge(TMPDIR=temporary)
    assert checks_of(one)["sandbox"]["status"] == "ok"
    (scratch,) = temporary.iterdir()
    assert not list(scratch.glob("schema*"))
    one.stop()
    assert not list(temporary.iterdir())
    assert not [path for path in one.workspace.iterdir() if path.name != ".git"]


def tidy_away(directory: Path) -> bool:
    """Remove a directory, whatever Codex still does in it; tell whether it is gone."""
    shutil.rmtree(directory, ignore_errors=True)
    return not directory.exists()


@pytest.mark.codex
@pytest.mark.parametrize("kind", ["app_server_adapter", "exec"])
def test_a_scratch_directory_that_was_tidied_away_is_made_again(
    bridge: BridgeFactory, upstream: Upstream, tmp_path: Path, kind: str
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    upstream.script = rounds(run("echo kept > kept.txt; mktemp"), say("Done."))
    one = bridge(TMPDIR=temporary, CODEX_RUNTIME_KIND=kind)
    for _ in range(2):
        session_id = one.create_session()
        one.send(session_id, "Work")
        assert one.settled(session_id)["status"] == "idle"
        assert (one.workspace / "kept.txt").read_text() == "kept\n", upstream.requests[-1].outputs
        (one.workspace / "kept.txt").unlink()
        (scratch,) = temporary.iterdir()
        wait_until(partial(tidy_away, scratch), "its end")


@pytest.mark.codex
def test_the_users_configuration_opens_no_sandbox(
    bridge: BridgeFactory, upstream: Upstream, directories: Directories, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (directories.codex_home / "config.toml").write_text(
        f'[sandbox_workspace_write]\nwritable_roots = ["{outside}"]\nnetwork_access = true\n'
    )
    connect = (
        f"import socket; socket.create_connection(('127.0.0.1', {upstream.base_url.split(':')[2][:-3]}), 5)"
    )
    upstream.script = rounds(
        run(f'echo x > {outside}/x; {sys.executable} -c "{connect}" && echo reached; true'), say("Done.")
    )
    one = bridge()
    session_id = one.create_session()
    one.send(session_id, "Leave")
    assert one.settled(session_id)["status"] == "idle"
    assert not (outside / "x").exists()
    assert "reached" not in str(upstream.requests[-1].outputs)


@pytest.mark.codex
def test_without_a_working_sandbox_no_turn_runs(
    bridge: BridgeFactory, upstream: Upstream, caged_codex: Path
) -> None:
    upstream.script = rounds(run("echo free > free.txt"), say("Done."))
    one = bridge(CODEX_BIN=caged_codex)
    session_id = one.create_session()
    one.send(session_id, "Do something")
    session = one.settled(session_id)
    assert (session["status"], session["last_error_code"]) == ("error", "sandbox_unavailable")
    assert "namespace" in session["last_error"], "Codex's own words say what to mend"
    assert not upstream.requests
    assert not (one.workspace / "free.txt").exists()
    assert checks_of(one)["sandbox"]["status"] == "failed"
    assert one.get("/runtime/info").json["preflight"]["ok"] is False


@pytest.mark.codex
def test_full_access_asked_for_by_name_needs_no_sandbox(
    bridge: BridgeFactory, upstream: Upstream, caged_codex: Path
) -> None:
    upstream.script = rounds(run("echo free > free.txt"), say("Done."))
    one = bridge(CODEX_BIN=caged_codex, CODEX_SANDBOX_MODE="danger-full-access")
    session_id = one.create_session()
    one.send(session_id, "Do something")
    assert one.settled(session_id)["status"] == "idle"
    assert (one.workspace / "free.txt").read_text() == "free\n"
    check = checks_of(one)["sandbox"]
    assert (check["status"], "danger-full-access" in check["message"]) == ("warning", True)


@pytest.mark.parametrize("sandbox", ["open", "broken"])
def test_a_sandbox_that_does_not_hold_is_not_believed(
    bridge: BridgeFactory, fake_codex: Callable[..., FakeCodex], sandbox: str
) -> None:
    codex = fake_codex(sandbox=sandbox)
    one = bridge(CODEX_BIN=codex)
    session_id = one.create_session()
    one.send(session_id, "say never")
    assert one.settled(session_id)["last_error_code"] == "sandbox_unavailable"
    assert not codex.received("turn/start")
    one.wait_log("No turns are run")


def test_an_interrupt_need_not_wait_for_the_verdict(
    bridge: BridgeFactory, fake_codex: Callable[..., FakeCodex]
) -> None:
    one = bridge(CODEX_BIN=fake_codex(sandbox="hangs"))
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "say never")
    stream.until("session.running")
    assert one.interrupt(session_id).status == 200
    assert stream.until("session.interrupted").data["session"]["status"] == "idle"
    assert one.get("/health").json["bridge_load"]["active_turns"] == 0


def test_an_interrupt_that_comes_with_the_message(
    bridge: BridgeFactory, fake_codex: Callable[..., FakeCodex]
) -> None:
    one = bridge(CODEX_BIN=fake_codex(sandbox="hangs"))
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    requests = b"".join(
        f"POST /chat/sessions/{session_id}/{name} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        for name, body in (("messages", '{"message": "say never"}'), ("interrupt", "{}"))
    )
    with socket.create_connection(("127.0.0.1", one.port), BOUND_S) as client:
        client.sendall(requests)  # in one piece: the turn's own task has not begun when the second is read
        stream.until("session.interrupted")
    assert one.get("/health").json["bridge_load"]["active_turns"] == 0


def test_a_codex_that_cannot_be_asked_is_told_as_that(
    bridge: BridgeFactory, fake_codex: Callable[..., FakeCodex]
) -> None:
    one = bridge(CODEX_BIN=fake_codex(fail_starts=100))
    session_id = one.create_session()
    one.send(session_id, "say never")
    assert one.settled(session_id)["last_error_code"] == "codex_unavailable"


@pytest.mark.codex
def test_doctor_finds_all_well(doctor: Doctor, directories: Directories) -> None:
    done = doctor()
    assert done.returncode == 0, done
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    assert [(status, name) for status, name, _ in lines] == [
        ("ok", "codex"), ("ok", "version"), ("ok", "protocol"), ("ok", "sandbox"), ("skipped", "sign_in"), ("ok", "upstream"),
    ]  # fmt: skip
    assert done.stderr == ""
    assert not (directories.codex_home / "config.toml").exists()
    assert list(directories.state.iterdir()) == [], "it needs no state, and works beside a bridge that runs"


@pytest.mark.codex
def test_doctor_tells_what_is_wrong(doctor: Doctor, upstream: Upstream, caged_codex: Path) -> None:
    done = doctor("--json", CODEX_BIN=caged_codex, CODEX_PROVIDER_API_BASE_URL="http://127.0.0.1:1/v1")
    assert done.returncode == 1
    found: dict[str, dict[str, Any]] = {check["name"]: check for check in json.loads(done.stdout)}
    assert {name: check["status"] for name, check in found.items()} == {
        "codex": "ok", "version": "ok", "protocol": "ok", "sandbox": "failed", "sign_in": "skipped", "upstream": "failed",
    }  # fmt: skip
    assert "127.0.0.1:1" in found["upstream"]["message"]


@pytest.mark.codex
def test_doctor_tells_that_nobody_is_signed_in(doctor: Doctor) -> None:
    unset = dict.fromkeys(("CODEX_PROVIDER_API_BASE_URL", "CODEX_PROVIDER_API_KEY"))
    done = doctor("--json", CODEX_RUNTIME_PROVIDER="openai", **unset)
    assert done.returncode == 1
    found = {check["name"]: check for check in json.loads(done.stdout)}
    assert (found["sign_in"]["status"], found["upstream"]["status"]) == ("failed", "skipped")
    assert "/auth/device" in found["sign_in"]["message"]


@pytest.mark.codex
def test_doctor_tells_a_codex_that_does_not_start(doctor: Doctor) -> None:
    done = doctor(CODEX_HOME="/no/such/home")
    assert done.returncode == 1
    assert "failed   sandbox" in done.stdout


@pytest.mark.codex
@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_standard_files_may_be_closed(doctor: Doctor, tmp_path: Path, closed: str) -> None:
    done = doctor(shell=closed)
    assert (done.returncode, done.stdout.count("\nok ")) == (0, 4), done


@pytest.mark.parametrize("does", ["doctor", "verify"])
def test_what_is_found_cannot_be_written(doctor: Doctor, does: str) -> None:
    done = doctor(does=does, shell="> /dev/full", CODEX_BIN="/bin/true")
    assert done.returncode == 1
    assert done.stderr == "codex-bridge: the answer cannot be written: No space left on device\n"


def test_doctor_refuses_settings_that_cannot_be_used(doctor: Doctor) -> None:
    done = doctor(CODEX_BRIDGE_PORT="abc", CODEX_BIN="/bin/true")
    assert (done.returncode, done.stdout) == (2, "")
    assert "CODEX_BRIDGE_PORT=abc" in done.stderr


def test_doctor_tells_a_program_that_is_not_codex(doctor: Doctor) -> None:
    done = doctor(CODEX_BIN="/bin/true")
    assert done.returncode == 1
    assert "may not be Codex" in done.stdout
    assert "Traceback" not in done.stderr
