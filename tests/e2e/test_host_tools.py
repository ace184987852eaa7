"""Tools that a host runs: in the real Codex's sandbox, over the real routes."""

import http.client
import json
import subprocess
import threading
from pathlib import Path
from signal import Signals
from typing import Any

import pytest

from codex_bridge.limits import MAX_HOST_TOOLS
from codex_bridge.protocol.tools import TOOLS
from tests.conftest import BridgeFactory
from tests.support import processes
from tests.support.bridge import API_KEY, Bridge, Directories, Reply
from tests.support.upstream import Upstream, rounds, run, say
from tests.support.waiting import wait_until

pytestmark = pytest.mark.codex

TOKEN = "a-token-that-only-hosts-know"
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "the-aws-secret", "GITHUB_TOKEN": "the-github-token", "CODEX_BRIDGE_TOKEN": TOKEN,
    "HTTPS_PROXY": "http://ann:the-proxy-password@127.0.0.1:9",
}  # fmt: skip
SHOW = "env; for p in /proc/[0-9]*; do tr '\\0' '\\n' < $p/environ; tr '\\0' ' ' < $p/cmdline; done 2>&1; echo shown"
# It leaves its process group and hears nothing but KILL.
STUBBORN = "trap '' TERM INT HUP; (setsid sleep {0} &); echo begun; while :; do sleep {0}; done"


def path_of(session_id: str, name: str) -> str:
    return f"/chat/sessions/{session_id}/tools/{name}"


def run_tool(one: Bridge, session_id: str, name: str, /, **arguments: Any) -> dict[str, Any]:
    reply = one.post(path_of(session_id, name), arguments)
    assert reply.status == 200, reply
    found: dict[str, Any] = reply.json["result"]
    return found


def output_of(one: Bridge, session_id: str, command: str) -> str:
    result = run_tool(one, session_id, "run_command", command=command)
    assert result["ok"], result
    return str(result["data"]["output"])


def sleepers(one: Bridge, seconds: str) -> list[int]:
    marked = processes.marked(str(one.directories.codex_home))
    return [pid for pid in marked if processes.cmdline(pid) == ["sleep", seconds]]


def commit(workspace: Path, message: str) -> None:
    author = ["-c", "user.name=Ann", "-c", "user.email=ann@example.com"]
    subprocess.run(["git", "add", "--all"], cwd=workspace, check=True)
    subprocess.run(["git", *author, "commit", "--quiet", "-m", message], cwd=workspace, check=True)


def test_the_tools_are_told(bridge: BridgeFactory) -> None:
    told = bridge().get("/runtime/tools").json
    assert [tool["name"] for tool in told["tools"]] == list(TOOLS)
    assert told["tools"][0]["input_schema"]["type"] == "object"
    assert set(told["programs"]) == {"ripgrep", "git"}
    assert told["programs"]["git"].startswith("/")
    assert told["limits"]["tools_at_once"] == MAX_HOST_TOOLS


@pytest.mark.smoke
def test_a_command_answers_with_its_output(bridge: BridgeFactory) -> None:
    one = bridge()
    (one.workspace / "below").mkdir()
    session_id = one.create_session()
    result = run_tool(one, session_id, "run_command", command="pwd; echo é >&2; exit 3", cwd="below")
    data = result["data"]
    assert isinstance(data.pop("duration_ms"), int)
    assert data.pop("output") == f"{one.workspace}/below\né\n"
    assert result == {"ok": True, "data": {"exit_code": 3, "timed_out": False}}


def test_no_secret_no_network_and_no_write_outside(bridge: BridgeFactory) -> None:
    one = bridge(**SECRETS)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    session = one.post("/chat/sessions", {}, **headers).json["session"]["id"]

    def output(command: str) -> str:
        reply = one.post(path_of(session, "run_command"), {"command": command}, **headers)
        return str(reply.json["result"]["data"]["output"])

    seen = output(SHOW)
    assert "shown" in seen
    assert "HOME=" in seen
    for secret in (*SECRETS.values(), API_KEY, "the-proxy-password", "codex_bridge_token"):
        assert secret not in seen
    assert "not connected" in output(f"exec 3<>/dev/tcp/127.0.0.1/{one.port} || echo not connected")
    outside = one.directories.root / "outside"
    assert "refused" in output(f"echo x > {outside} || echo refused")
    assert not outside.exists()
    assert output("echo x > inside; cat inside") == "x\n"


def test_a_read_only_session_changes_nothing(bridge: BridgeFactory) -> None:
    one = bridge()
    session_id = one.create_session(sandbox_mode="read-only")
    assert "refused" in output_of(one, session_id, "echo x > inside || echo refused")
    assert not (one.workspace / "inside").exists()
    assert run_tool(one, session_id, "git_status")["ok"]


def test_a_time_out_ends_all_of_a_command(bridge: BridgeFactory) -> None:
    one = bridge()
    session_id = one.create_session()
    command = STUBBORN.format("600.25")
    result = run_tool(one, session_id, "run_command", command=command, timeout_ms=2500)
    assert result["data"]["timed_out"]
    assert result["data"]["exit_code"] is None
    assert result["data"]["output"] == "begun\n"
    assert [limit["limit"] for limit in result["limits"]] == ["timeout_ms"]
    assert not sleepers(one, "600.25")


def test_begin_and_end_of_long_output_are_kept(bridge: BridgeFactory) -> None:
    one = bridge()
    session_id = one.create_session()
    result = run_tool(one, session_id, "run_command", command="seq 1 100000; echo at last >&2; echo --")
    output = result["data"]["output"]
    assert output.startswith("1\n2\n3\n")
    assert output.endswith("\n100000\nat last\n--\n")
    assert "left out here" in output
    assert [limit["limit"] for limit in result["limits"]] == ["output_characters"]
    flood = run_tool(one, session_id, "run_command", command="head -c 20000000 /dev/zero")
    assert [limit["limit"] for limit in flood["limits"]] == ["output_bytes", "output_characters"]


def test_output_streams_as_it_comes(bridge: BridgeFactory) -> None:
    one = bridge()
    session_id = one.create_session()
    command = "echo begun; while [ ! -e go ]; do sleep 0.01; done; echo done; exit 4"
    stream = one.post_stream(path_of(session_id, "run_command"), {"command": command})
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert stream.until("tool.output").data == {"text": "begun\n", "skipped_characters": 0}
    (one.workspace / "go").touch()
    result = stream.until("tool.result").data["result"]
    assert result["data"]["output"] == "begun\ndone\n"
    assert result["data"]["exit_code"] == 4
    stream.until_over()
    assert "".join(event.data["text"] for event in stream.events[:-1]) == "begun\ndone\n"


def test_a_refusal_is_no_stream(bridge: BridgeFactory) -> None:
    one = bridge()
    session_id = one.create_session()
    missing = one.post_stream(path_of("nobody", "run_command"), {"command": "true"})
    assert missing.status == 404
    for name, body, status, code in (
        ("run_command", {}, 422, "invalid_field"),
        ("run_command", {"command": "true", "cmd": "true"}, 422, "invalid_field"),
        ("run_command", {"command": 5}, 422, "invalid_field"),
        ("run_commands", {}, 404, "unknown_tool"),
    ):
        for accept in ("application/json", "text/event-stream"):
            reply = one.post(path_of(session_id, name), body, Accept=accept)
            assert (reply.status, reply.json["code"]) == (status, code)


@pytest.mark.parametrize("accept", ["text/event-stream", "application/json"])
def test_a_client_that_leaves_ends_its_command(bridge: BridgeFactory, accept: str) -> None:
    one = bridge()
    session_id = one.create_session()
    command = {"command": STUBBORN.format("600.75")}
    if accept == "application/json":
        connection = http.client.HTTPConnection("127.0.0.1", one.port)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", path_of(session_id, "run_command"), json.dumps(command), headers)
        leave = connection.close
    else:
        leave = one.post_stream(path_of(session_id, "run_command"), command).close
    wait_until(lambda: len(sleepers(one, "600.75")) == 2, "the command's processes")
    leave()
    wait_until(lambda: not sleepers(one, "600.75"), "the end of the command")
    assert output_of(one, session_id, "echo fine") == "fine\n"


def in_background(one: Bridge, session_id: str, command: str) -> tuple[threading.Thread, list[Reply]]:
    replies: list[Reply] = []
    body = {"command": command}
    thread = threading.Thread(
        target=lambda: replies.append(one.post(path_of(session_id, "run_command"), body))
    )
    thread.start()
    return thread, replies


@pytest.mark.parametrize("ending", ["delete", "delete all", "stop"])
def test_a_tool_ends_with_its_session_and_with_the_bridge(bridge: BridgeFactory, ending: str) -> None:
    one = bridge()
    session_id = one.create_session()
    stream = one.post_stream(path_of(session_id, "run_command"), {"command": "echo begun; sleep 600.125"})
    stream.until("tool.output")
    thread, replies = in_background(one, session_id, "sleep 600.125")
    wait_until(lambda: len(sleepers(one, "600.125")) == 2, "both commands")
    if ending == "stop":
        one.stop()
    else:
        path = "/chat/sessions" if ending == "delete all" else f"/chat/sessions/{session_id}"
        assert one.delete(path).status == 200
    code = "draining" if ending == "stop" else "session_not_found"
    assert stream.until("tool.error").data["code"] == code
    thread.join()
    assert replies[0].json["code"] == code
    wait_until(lambda: not sleepers(one, "600.125"), "the end of the commands")


def test_so_many_tools_at_once_and_no_more(bridge: BridgeFactory) -> None:
    one = bridge()
    session_id = one.create_session()
    command = {"command": "echo begun; while [ ! -e go ]; do sleep 0.05; done"}
    streams = [one.post_stream(path_of(session_id, "run_command"), command) for _ in range(MAX_HOST_TOOLS)]
    for stream in streams:
        stream.until("tool.output")
    refused = one.post(path_of(session_id, "list_files"), {})
    assert (refused.status, refused.json["code"]) == (503, "busy")
    assert int(refused.headers["retry-after"]) > 0
    (one.workspace / "go").touch()
    for stream in streams:
        assert stream.until("tool.result").data["result"]["data"]["exit_code"] == 0
    assert output_of(one, session_id, "echo fine") == "fine\n"


def test_a_drain_waits_for_tools_and_takes_no_more(bridge: BridgeFactory) -> None:
    one = bridge(CODEX_BRIDGE_DRAIN_TIMEOUT_MS=60000)
    session_id = one.create_session()
    command = {"command": "echo begun; while [ ! -e go ]; do sleep 0.05; done; echo done"}
    stream = one.post_stream(path_of(session_id, "run_command"), command)
    stream.until("tool.output")
    one.signal(Signals.SIGTERM)
    one.wait_log("draining")
    refused = one.post(path_of(session_id, "run_command"), {"command": "true"})
    assert (refused.status, refused.json["code"]) == (503, "draining")
    (one.workspace / "go").touch()
    assert stream.until("tool.result").data["result"]["data"]["output"] == "begun\ndone\n"
    assert one.wait_exit() == 0


def test_tools_run_beside_a_turn(bridge: BridgeFactory, upstream: Upstream) -> None:
    wait = "echo waiting > waits; while [ ! -e go ]; do sleep 0.05; done; cat go"
    upstream.script = rounds(run(wait, yield_time_ms=30000), say("Done."))
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Run it")
    wait_until((one.workspace / "waits").exists, "the turn's command")
    assert output_of(one, session_id, "cat waits") == "waiting\n"
    status = run_tool(one, session_id, "git_status")["data"]
    assert {"path": "waits", "staged": None, "unstaged": "untracked"} in status["files"]
    assert output_of(one, session_id, "echo from the host > go") == ""
    stream.until("session.completed")
    assert "from the host" in str(upstream.requests[-1].outputs)


def test_a_workspace_that_has_moved(bridge: BridgeFactory) -> None:
    one = bridge()
    below = one.workspace / "below"
    below.mkdir()
    session_id = one.create_session(workspace_root=str(below))
    below.rmdir()
    below.symlink_to("/")
    for name in ("list_files", "git_status"):
        reply = one.post(path_of(session_id, name), {})
        assert (reply.status, reply.json["code"]) == (409, "workspace_moved")


def test_where_the_sandbox_does_not_hold_no_command_runs(bridge: BridgeFactory, fake_codex: Any) -> None:
    one = bridge(CODEX_BIN=fake_codex(sandbox="open"))
    session_id = one.create_session()
    for accept in ("application/json", "text/event-stream"):
        reply = one.post(path_of(session_id, "run_command"), {"command": "true"}, Accept=accept)
        assert (reply.status, reply.json["code"]) == (503, "sandbox_unavailable")
        reply = one.post(path_of(session_id, "git_status"), {}, Accept=accept)
        assert (reply.status, reply.json["code"]) == (503, "sandbox_unavailable")


def test_under_codex_exec_tools_run_as_well(bridge: BridgeFactory) -> None:
    one = bridge(CODEX_RUNTIME_KIND="exec")
    session_id = one.create_session()
    assert output_of(one, session_id, "echo fine") == "fine\n"
    assert run_tool(one, session_id, "git_log")["data"] == {"commits": []}


def test_git_tells_of_the_workspace(bridge: BridgeFactory) -> None:
    one = bridge()
    workspace = one.workspace
    subprocess.run(["git", "checkout", "--quiet", "-b", "work"], cwd=workspace, check=True)
    (workspace / "a.txt").write_text("one\n" * 9)
    (workspace / "b.txt").write_text("b\n")
    commit(workspace, "First\n\nWith a body.")
    (workspace / "b.txt").write_text("changed\n")
    subprocess.run(["git", "mv", "a.txt", "c d.txt"], cwd=workspace, check=True)
    (workspace / "new").write_text("new\n")
    session_id = one.create_session()

    status = run_tool(one, session_id, "git_status")["data"]
    assert status["branch"]["head"] == "work"
    assert len(status["branch"]["commit"]) == 40
    assert status["files"] == [
        {"path": "b.txt", "staged": None, "unstaged": "modified"},
        {"path": "c d.txt", "staged": "renamed", "unstaged": None, "from": "a.txt"},
        {"path": "new", "staged": None, "unstaged": "untracked"},
    ]
    log = run_tool(one, session_id, "git_log")["data"]["commits"]
    assert [(each["author"], each["subject"]) for each in log] == [("Ann", "First")]
    assert run_tool(one, session_id, "git_log", path="new")["data"] == {"commits": []}
    diff = run_tool(one, session_id, "git_diff")["data"]["diff"]
    assert "-b\n+changed\n" in diff
    assert "rename" not in diff
    staged = run_tool(one, session_id, "git_diff", staged=True)["data"]["diff"]
    assert "rename from a.txt\nrename to c d.txt\n" in staged
    assert run_tool(one, session_id, "git_diff", path="new")["data"]["diff"] == ""
    commit(workspace, "Second")
    result = run_tool(one, session_id, "git_log", limit=1)
    assert [each["subject"] for each in result["data"]["commits"]] == ["Second"]
    assert [limit["limit"] for limit in result["limits"]] == ["limit"]


def test_a_command_does_not_begin_with_the_users_bashrc(
    bridge: BridgeFactory, directories: Directories
) -> None:
    """bash runs it where it cannot tell what its standard input is, as in the sandbox: its exports would be in each command."""
    directories.home.mkdir(parents=True, exist_ok=True)
    (directories.home / ".bashrc").write_text("export KEY_OF_THE_USER=1; echo begun\n")
    one = bridge()
    assert output_of(one, one.create_session(), "echo ${KEY_OF_THE_USER-none}; cat") == "none\n"
