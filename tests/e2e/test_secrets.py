"""The provider's key is in the bridge and in the upstream's Authorization header, and nowhere else."""

import errno
import http.client
import os
from pathlib import Path

import pytest

from tests.conftest import BridgeFactory
from tests.support import processes, stored
from tests.support.bridge import API_KEY, Bridge
from tests.support.upstream import Failure, Upstream, rounds, run, say
from tests.support.waiting import BOUND_S, wait_until

pytestmark = pytest.mark.codex

SNOOP = (
    "env; tr '\\0' '\\n' < /proc/self/environ; "
    "for p in /proc/[0-9]*; do tr '\\0' '\\n' < $p/environ; tr '\\0' ' ' < $p/cmdline; done 2>&1; echo snooped"
)


def files_with(needle: str, *roots: Path) -> list[Path]:
    """Return the files below the roots in which a text is found."""
    found = [path for root in roots for path in root.rglob("*") if path.is_file()]
    return [path for path in found if needle.encode() in path.read_bytes()]


def open_for_writing(fifo: Path) -> int | None:
    """Open a FIFO once somebody reads it; None while nobody does."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


def run_to_end(one: Bridge, session_id: str) -> str:
    """Run one turn; return everything its stream told, as one text."""
    stream = one.ready_stream(session_id)
    one.send(session_id, "Tell me your secrets")
    stream.until("session.completed")
    return "\n".join(str(event) for event in stream.events)


def test_the_model_cannot_find_the_key(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(run(SNOOP, max_output_tokens=100000), say("Nothing there."))
    one = bridge()
    told = run_to_end(one, one.create_session())

    output = str(upstream.requests[-1].outputs)
    assert "snooped" in output
    assert "CODEX_HOME=" in output, "the environment was not printed"
    assert API_KEY not in output
    assert API_KEY not in told
    assert all(API_KEY.encode() not in request.raw for request in upstream.requests)
    assert upstream.requests[0].headers["authorization"] == f"Bearer {API_KEY}"


def test_no_child_holds_the_key_while_a_command_runs(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(run("read line < fifo; echo got $line", yield_time_ms=30000), say("Done."))
    one = bridge()
    fifo = one.workspace / "fifo"
    os.mkfifo(fifo)
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Run it")
    writer = wait_until(lambda: open_for_writing(fifo), "the command that reads the FIFO")

    children = processes.descendants(one.pid)
    commands = {pid: " ".join(processes.cmdline(pid)) for pid in children}
    assert any("app-server" in command for command in commands.values())
    assert any("read line" in command for command in commands.values()), commands
    assert not [pid for pid in children if API_KEY.encode() in processes.environ(pid)]
    assert not [command for command in commands.values() if API_KEY in command]
    assert API_KEY not in " ".join(processes.cmdline(one.pid))
    os.write(writer, b"go\n")
    os.close(writer)
    stream.until("session.completed")
    assert "got go" in str(upstream.requests[-1].outputs)


def test_no_file_no_log_and_no_answer_holds_the_key(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(run("true"), say("Done."))
    one = bridge()
    session_id = one.create_session()
    run_to_end(one, session_id)
    paths = ["/health", "/runtime/info", "/chat/sessions", f"/chat/sessions/{session_id}", "/no/such/path"]
    assert not [path for path in paths if API_KEY.encode() in one.get(path).body]
    one.stop()
    places = one.directories
    assert list(places.codex_home.rglob("*.jsonl")), (
        "Codex wrote no thread: the look below would prove nothing"
    )
    assert not files_with(API_KEY, places.codex_home, places.home, places.state, places.workspace)
    assert b"session.completed" in stored.dump(places.state)
    assert API_KEY.encode() not in stored.dump(places.state)
    assert API_KEY not in one.log_text


def test_an_upstream_that_repeats_the_key_does_not_spread_it(
    bridge: BridgeFactory, upstream: Upstream
) -> None:
    upstream.script = rounds(Failure(401, f"Incorrect API key provided: {API_KEY}."))
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Hello")
    stream.until("session.error")
    assert API_KEY not in "\n".join(str(event) for event in stream.events)
    assert API_KEY not in one.get(f"/chat/sessions/{session_id}").body.decode()
    one.stop()
    assert API_KEY not in one.log_text
    assert not files_with(API_KEY, one.directories.codex_home)


def test_other_secrets_of_the_environment_stay_with_the_bridge(
    bridge: BridgeFactory, upstream: Upstream
) -> None:
    secrets = {
        "OPENAI_API_KEY": "sk-another-key-77",
        "AWS_SECRET_ACCESS_KEY": "aws-secret-77",
        "MY_PASSWORD": "hunter2-77",
        "CODEX_BRIDGE_TOKEN": "bridge-token-77-long-enough",
    }
    upstream.script = rounds(run(SNOOP, max_output_tokens=100000), say("Nothing there."))
    one = bridge(**secrets)
    access = {"Authorization": "Bearer bridge-token-77-long-enough"}
    session_id = one.post("/chat/sessions", **access).json["session"]["id"]
    stream = one.stream(session_id, **access)
    one.post(f"/chat/sessions/{session_id}/messages", {"message": "Tell"}, **access)
    stream.until("session.completed")
    output = str(upstream.requests[-1].outputs)
    assert "snooped" in output
    assert not [name for name, value in secrets.items() if value in output]
    children = b"".join(processes.environ(pid) for pid in processes.descendants(one.pid))
    assert not [name for name, value in secrets.items() if value.encode() in children]


def test_a_variable_is_passed_on_when_it_is_named(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(run("echo a=$PASSED_ON b=$KEPT_BACK."), say("Done."))
    names = {"PASSED_ON": "told", "KEPT_BACK": "untold", "CODEX_BRIDGE_PASS_ENVIRONMENT": "PASSED_ON"}
    one = bridge(**names)
    run_to_end(one, one.create_session())
    assert "a=told b=." in str(upstream.requests[-1].outputs)


def test_the_users_configuration_is_neither_written_nor_trusting(
    bridge: BridgeFactory, upstream: Upstream, workspace: Path
) -> None:
    upstream.script = rounds(run("true"), say("Done."))
    config = workspace.parent / "codex-home" / "config.toml"
    config.write_text('# mine\nmodel_reasoning_effort = "low"\n')
    one = bridge()
    run_to_end(one, one.create_session())
    one.stop()
    assert config.read_text() == '# mine\nmodel_reasoning_effort = "low"\n'


def test_no_configuration_is_made_where_there_was_none(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(run("true"), say("Done."))
    one = bridge()
    run_to_end(one, one.create_session())
    one.stop()
    config = one.directories.codex_home / "config.toml"
    assert not config.exists() or "trust_level" not in config.read_text()


def test_a_workspace_cannot_configure_codex(
    bridge: BridgeFactory, upstream: Upstream, workspace: Path, tmp_path: Path
) -> None:
    evil = tmp_path / "evil"
    (workspace / ".codex").mkdir()
    (workspace / ".codex" / "config.toml").write_text(
        f'model = "evil"\n[mcp_servers.evil]\ncommand = "touch"\nargs = ["{evil}"]\n'
    )
    upstream.script = rounds(run("true"), say("Done."))
    one = bridge()
    run_to_end(one, one.create_session())
    assert not evil.exists()
    assert {request.body["model"] for request in upstream.requests} == {"demo"}


def test_a_command_cannot_reach_the_network(bridge: BridgeFactory, upstream: Upstream) -> None:
    one = bridge()
    connect = f"(exec 3<>/dev/tcp/127.0.0.1/{one.port}) && echo reached || echo not-reached"
    upstream.script = rounds(run(connect), say("Done."))
    run_to_end(one, one.create_session())
    assert "not-reached" in str(upstream.requests[-1].outputs)


def test_the_gateway_wants_its_token(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(say("Done."))
    one = bridge()
    run_to_end(one, one.create_session())
    gateways = processes.listening_ports(one.pid) - {one.port}
    assert gateways, "no gateway found: the look below would prove nothing"
    for port in gateways:
        for headers in ({}, {"Authorization": "Bearer guess"}, {"Authorization": f"Bearer {API_KEY}"}):
            assert post_to(port, "/v1/responses", headers) in (401, 403, 404), headers
            assert post_to(port, "/responses", headers) in (401, 403, 404), headers
    assert len(upstream.requests) == 1


def post_to(port: int, path: str, headers: dict[str, str]) -> int:
    """POST an empty Responses request to a port of loopback; return the status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=BOUND_S)
    try:
        connection.request("POST", path, b"{}", {"Content-Type": "application/json", **headers})
        return connection.getresponse().status
    finally:
        connection.close()
