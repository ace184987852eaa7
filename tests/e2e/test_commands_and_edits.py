"""A turn that works: commands and edits are in the workspace, their truth is on the stream, the sandbox holds. On both APIs."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import BridgeFactory
from tests.support.bridge import Bridge
from tests.support.sse import Event, Stream
from tests.support.upstream import Upstream, add, change, patch, remove, rounds, run, say

pytestmark = [pytest.mark.codex, pytest.mark.smoke, pytest.mark.usefixtures("each_api")]


def play(one: Bridge, message: str = "Do it") -> Stream:
    """Run one turn to its end and return its stream."""
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, message)
    stream.until(lambda event: event.name in ("session.completed", "session.error"))
    assert stream.events[-1].name == "session.completed", stream.events[-1].data["session"]["last_error"]
    return stream


def items(events: list[Event], kind: str) -> list[dict[str, Any]]:
    """Return the completed items of a type."""
    found = [event.runtime["item"] for event in events if event.kind == "item.completed"]
    return [item for item in found if item["type"] == kind]


def test_a_command_and_an_edit(bridge: BridgeFactory, upstream: Upstream) -> None:
    page = "<section>\n  <h1>Hello</h1>\n</section>"
    upstream.script = rounds(run("echo from the command; ls"), patch(add("hero.html", page)), say("Done."))
    one = bridge()
    stream = play(one)

    assert (one.workspace / "hero.html").read_text() == page + "\n"
    (command,) = items(stream.events, "commandExecution")
    assert (command["exitCode"], command["status"]) == (0, "completed")
    assert "from the command" in command["aggregatedOutput"]
    (edit,) = items(stream.events, "fileChange")
    assert edit["status"] == "completed"
    assert [(Path(c["path"]).name, c["kind"]["type"]) for c in edit["changes"]] == [("hero.html", "add")]
    diffs = [event.runtime["diff"] for event in stream.events if event.kind == "turn.diff.updated"]
    assert "+++ b/hero.html" in diffs[-1]
    assert "+  <h1>Hello</h1>" in diffs[-1]
    assert len(diffs) == len(set(diffs)), "a diff that has not changed is not told again"
    assert "from the command" in str(upstream.requests[1].outputs)


def test_output_streams_while_the_command_runs(bridge: BridgeFactory, upstream: Upstream) -> None:
    steps = "for f in one two; do for i in $(seq 3000); do [ -e $f ] && break; sleep 0.01; done; echo saw $f; done"
    upstream.script = rounds(run(steps, yield_time_ms=30000), say("Done."))
    one = bridge()
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, "Run it")

    stream.until(
        lambda event: event.kind == "item.started" and event.runtime["item"]["type"] == "commandExecution"
    )
    (one.workspace / "one").touch()
    early = stream.until("command.execution.output")
    assert early.runtime["delta"] == "saw one\n"
    (one.workspace / "two").touch()
    stream.until("session.completed")
    (command,) = items(stream.events, "commandExecution")
    assert early.runtime["item_id"] == command["id"]
    output = "".join(e.runtime["delta"] for e in stream.events if e.kind == "command.execution.output")
    assert output == "saw one\nsaw two\n"
    assert command["aggregatedOutput"].endswith(output)


def test_edits_change_and_remove_files(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(patch(change("kept.txt", "two", "2"), remove("gone.txt")), say("Done."))
    one = bridge()
    (one.workspace / "kept.txt").write_text("one\ntwo\n")
    (one.workspace / "gone.txt").write_text("x\n")
    stream = play(one)

    assert (one.workspace / "kept.txt").read_text() == "one\n2\n"
    assert not (one.workspace / "gone.txt").exists()
    (edit,) = items(stream.events, "fileChange")
    assert sorted(change["kind"]["type"] for change in edit["changes"]) == ["delete", "update"]
    diff = [event.runtime["diff"] for event in stream.events if event.kind == "turn.diff.updated"][-1]
    assert "-two\n+2\n" in diff


def test_a_command_cannot_write_outside_the_workspace(
    bridge: BridgeFactory, upstream: Upstream, tmp_path: Path
) -> None:
    one_home = tmp_path / "home"
    places = [
        tmp_path / "outside.txt",
        one_home / "outside.txt",
        Path("/tmp") / f"{tmp_path.name}-outside.txt",
    ]
    writes = "; ".join(f"echo x > {place}" for place in places)
    link = f"ln -s {tmp_path} way-out && echo x > way-out/outside.txt"
    upstream.script = rounds(run(f"{writes}; {link}; echo x > inside.txt; echo y > $TMPDIR/z"), say("Done."))
    one = bridge()
    stream = play(one)

    (command,) = items(stream.events, "commandExecution")
    assert command["aggregatedOutput"].count("Read-only file system") == 4
    assert not any(place.exists() for place in places)
    assert (one.workspace / "inside.txt").exists()


def test_an_edit_cannot_leave_the_workspace(
    bridge: BridgeFactory, upstream: Upstream, tmp_path: Path
) -> None:
    upstream.script = rounds(
        patch(add("../outside.txt", "x")), patch(add(f"{tmp_path}/outside.txt", "x")), say("I could not.")
    )
    stream = play(bridge(CODEX_APPROVAL_POLICY="never"))
    assert not (tmp_path / "outside.txt").exists()
    assert len(upstream.requests) == 3
    assert not [item for item in items(stream.events, "fileChange") if item["status"] == "completed"]


def test_a_failing_command_is_told_as_it_is(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(run("echo so sad; exit 3"), say("It worked!"))
    stream = play(bridge())
    (command,) = items(stream.events, "commandExecution")
    assert (command["exitCode"], command["status"]) == (3, "failed")


def test_the_read_only_sandbox_writes_nothing(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(run("echo x > inside.txt; cat readable.txt"), say("Done."))
    one = bridge(CODEX_SANDBOX_MODE="read-only")
    (one.workspace / "readable.txt").write_text("can be read")
    stream = play(one)
    assert not (one.workspace / "inside.txt").exists()
    (command,) = items(stream.events, "commandExecution")
    assert "can be read" in command["aggregatedOutput"]


def test_a_session_works_in_its_own_root(bridge: BridgeFactory, upstream: Upstream, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    upstream.script = rounds(run("pwd; echo x > here.txt"), say("Done."))
    one = bridge(CODEX_WORKSPACE_ROOTS=f"{tmp_path / 'workspace'}:{other}")
    session_id = one.create_session(workspace_root=str(other))
    stream = one.ready_stream(session_id)
    one.send(session_id, "Where are you?")
    stream.until("session.completed")
    assert (other / "here.txt").exists()
    assert not (one.workspace / "here.txt").exists()
    assert one.session(session_id)["workspace_root"] == str(other)
