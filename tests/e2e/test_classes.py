"""The same tasks under every execution class and on both kinds of runtime: a host sees the same, whoever does the work.

The models are those of `tests.support.models`, which are told a task in a person's words.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from codex_bridge.limits import MAX_COMMAND_OUTPUT_BYTES
from tests.conftest import BridgeFactory
from tests.support import models
from tests.support.bridge import Bridge
from tests.support.models import MODELS
from tests.support.sse import Event, Stream, assert_contiguous
from tests.support.upstream import Upstream, say

pytestmark = pytest.mark.codex

NATIVE, TOOLS, TEXT = CLASSES = ("native_tools", "model_tools", "bridge_tools")
APP_SERVER, EXEC = KINDS = ("app_server_adapter", "exec")
END = ("session.completed", "session.interrupted", "session.error")
VERIFIED = "Verified by the bridge:"

every_way = pytest.mark.parametrize(
    ("kind", "execution_class"), [(kind, each) for kind in KINDS for each in CLASSES]
)
every_class = pytest.mark.parametrize("execution_class", CLASSES)


@dataclass(frozen=True)
class Sight:
    """What a host has seen of one turn."""

    end: Event
    events: list[Event]

    @property
    def session(self) -> dict[str, Any]:
        found: dict[str, Any] = self.end.data["session"]
        return found

    @property
    def message(self) -> str:
        """The model's last words."""
        return str(self.session["messages"][-1]["text"])

    def items(self, kind: str) -> list[dict[str, Any]]:
        """The completed items of a type."""
        ended = [event.runtime["item"] for event in self.events if event.kind == "item.completed"]
        return [item for item in ended if item["type"] == kind]

    def command(self) -> dict[str, Any]:
        """The one command that was run."""
        (found,) = self.items("commandExecution")
        return found

    def diff(self) -> str:
        """The diff of the whole turn."""
        return str([event.runtime["diff"] for event in self.events if event.kind == "turn.diff.updated"][-1])


def settings(kind: str, execution_class: str, **more: object) -> dict[str, object]:
    """Return the settings of a bridge that works in one of the ways; the sandbox decides, and nobody is asked."""
    return {
        "CODEX_RUNTIME_KIND": kind,
        "CODEX_EXECUTION_CLASS": execution_class,
        "CODEX_APPROVAL_POLICY": "never",
        **more,
    }


def begin(one: Bridge, task: str) -> tuple[str, Stream]:
    """Start a turn in a new session."""
    session_id = one.create_session()
    stream = one.ready_stream(session_id)
    one.send(session_id, task)
    return session_id, stream


def finish(stream: Stream) -> Sight:
    """Wait for a turn's end; whatever it was, the stream has to be whole."""
    end = stream.until(lambda event: event.name in END)
    assert_contiguous(stream.events)
    started, ended = (_calls_in(stream.events, kind) for kind in ("item.started", "item.completed"))
    assert started == ended
    return Sight(end, stream.events)


def _calls_in(events: list[Event], kind: str) -> list[str]:
    """Name the items of tools that began, or ended."""
    items = [event.runtime["item"] for event in events if event.kind == kind]
    return sorted(
        item["id"] for item in items if item["type"] in ("commandExecution", "fileChange", "dynamicToolCall")
    )


def play(one: Bridge, task: str) -> Sight:
    """Play one turn in a new session to its end."""
    return finish(begin(one, task)[1])


def assert_completed(seen: Sight) -> None:
    assert seen.end.name == "session.completed", seen.session["last_error"]


def assert_edited(one: Bridge, seen: Sight, *, has_diffs: bool = True) -> None:
    """Look at an edit of `hello.txt` as a host does: the file, the item, the diff, the words."""
    assert (one.workspace / "hello.txt").read_text() == "one\nnew\nthree\n"
    (edit,) = seen.items("fileChange")
    (changed,) = edit["changes"]
    assert edit["status"] == "completed"
    assert changed["path"] == str(one.workspace / "hello.txt")
    assert changed["kind"]["type"] == "update"
    if has_diffs:
        assert "-old\n+new\n" in changed["diff"]
        assert "-old\n+new\n" in seen.diff()
        assert "+++ b/hello.txt" in seen.diff()
    assert "I have changed hello.txt." in seen.message


@every_way
def test_the_tasks(bridge: BridgeFactory, upstream: Upstream, kind: str, execution_class: str) -> None:
    upstream.script = models.perfect
    one = bridge(**settings(kind, execution_class))
    (one.workspace / "hello.txt").write_text("one\nold\nthree\n")
    (one.workspace / "notes.md").write_text("the needle is here\n")

    seen = play(one, models.read("notes.md"))
    assert_completed(seen)
    assert "the needle is here" in seen.message
    seen = play(one, models.search("needle"))
    assert_completed(seen)
    assert seen.message == "It is notes.md."

    seen = play(one, models.edit("hello.txt", "old", "new"))
    assert_completed(seen)
    has_diffs = (kind, execution_class) != (EXEC, NATIVE)
    told = one.get("/runtime/info").json["capabilities"]
    assert (told["deltas"], told["diffs"], told["approvals"]) == (has_diffs, has_diffs, kind != EXEC)
    assert_edited(one, seen, has_diffs=has_diffs)

    seen = play(one, models.run("echo said; exit 3"))
    assert_completed(seen)
    command = seen.command()
    assert (command["exitCode"], command["status"], command["aggregatedOutput"]) == (3, "failed", "said\n")
    if (kind, execution_class) != (EXEC, NATIVE):  # which does not tell it
        assert command["cwd"] == str(one.workspace)
    assert "It ended with exit code 3." in seen.message


@every_way
def test_outside_of_the_workspace_nothing_is_written(
    bridge: BridgeFactory, upstream: Upstream, tmp_path: Path, kind: str, execution_class: str
) -> None:
    upstream.script = models.perfect
    one = bridge(**settings(kind, execution_class))
    for path in ("../outside.txt", str(tmp_path / "outside.txt")):
        seen = play(one, models.write("word", path))
        assert_completed(seen)
        assert seen.message.startswith("I could not write it: ")
        assert [item for item in seen.items("fileChange") if item["status"] == "completed"] == []
    # Codex tells no item of a command that its sandbox has made fail as a whole.
    seen = play(one, models.run(f"echo x > {tmp_path}/outside.txt; echo tried"))
    assert "Read-only file system" in seen.command()["aggregatedOutput"]
    assert not (tmp_path / "outside.txt").exists()


@every_way
def test_a_long_output_is_cut_and_the_model_is_told(
    bridge: BridgeFactory, upstream: Upstream, kind: str, execution_class: str
) -> None:
    upstream.script = models.perfect
    one = bridge(**settings(kind, execution_class))
    seen = play(one, models.run("seq 1 900000"))
    assert_completed(seen)
    assert seen.command()["exitCode"] == 0
    assert "It ended with exit code 0. Its output was too long to see all of it." in seen.message
    assert len(upstream.requests[-1].raw) < 300_000
    assert len(seen.command()["aggregatedOutput"]) <= MAX_COMMAND_OUTPUT_BYTES


@every_way
@pytest.mark.parametrize("decision", ["accept", "decline"])
def test_a_person_is_asked(
    bridge: BridgeFactory, upstream: Upstream, kind: str, execution_class: str, decision: str
) -> None:
    upstream.script = models.perfect
    if kind == EXEC:  # it cannot ask, and says so
        one = bridge(**settings(kind, execution_class))
        reply = one.post("/chat/sessions", {"approval_policy": "untrusted"})
        assert (reply.status, reply.json["field"]) == (422, "approval_policy")
        return
    one = bridge(**settings(kind, execution_class, CODEX_APPROVAL_POLICY="untrusted"))
    session_id, stream = begin(one, models.run("touch made.txt"))
    asked = stream.until("session.approval.required").data["approval"]
    assert asked["kind"] == "command"
    assert "touch made.txt" in asked["command"]
    assert asked["decisions"] == ["accept", "accept_for_session", "decline", "cancel"]
    assert not (one.workspace / "made.txt").exists()
    assert one.decide(session_id, decision).status == 200
    seen = finish(stream)
    assert_completed(seen)
    is_accepted = decision == "accept"
    assert (one.workspace / "made.txt").exists() == is_accepted
    command = seen.command()
    assert command["id"] == asked["item_id"]
    assert command["status"] == ("completed" if is_accepted else "declined")
    assert ("exit code 0" in seen.message) == is_accepted


@every_way
def test_a_turn_is_interrupted(
    bridge: BridgeFactory, upstream: Upstream, kind: str, execution_class: str
) -> None:
    upstream.script = models.perfect
    one = bridge(**settings(kind, execution_class))
    session_id, stream = begin(one, models.run("touch begun; sleep 600; touch over"))
    stream.until(
        lambda event: event.kind == "item.started" and event.runtime["item"]["type"] == "commandExecution"
    )
    assert one.interrupt(session_id).status == 200
    seen = finish(stream)
    assert seen.end.name == "session.interrupted"
    assert seen.command()["status"] == "failed"
    seen = play(one, models.run("ls"))
    assert seen.command()["status"] == "completed"
    assert not (one.workspace / "over").exists()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "order", [(NATIVE, TOOLS, TEXT, NATIVE, NATIVE), (TEXT, NATIVE, NATIVE, TOOLS, NATIVE)]
)
def test_a_conversation_survives_a_change_of_class(
    bridge: BridgeFactory, upstream: Upstream, kind: str, order: tuple[str, ...]
) -> None:
    upstream.script = lambda request: say(f"Heard {request.user_text[-1]}.")
    one = bridge(**settings(kind, order[0]))
    session_id = one.create_session()
    for number, execution_class in enumerate(order):
        assert one.post("/runtime/config", {"execution_class": execution_class}).status == 200
        one.send(session_id, f"message {number}")
        session = one.settled(session_id)
        assert session["last_error"] is None
        assert "thread_not_resumed" not in str(session["events"]), "nothing was lost"
        told = upstream.requests[-1].conversation
        for earlier in range(number):
            assert told.count(f"message {earlier}") == told.count(f"Heard {earlier}.") == 1, (
                order,
                number,
                told,
            )


# Quality --------------------------------------------------------------------------------------------

# What becomes of the task to write a file: `made`; `told` that it failed or was not done; `believed`, where nobody notices.
FATES = {
    "perfect": dict.fromkeys(CLASSES, "made"),
    "sloppy": dict.fromkeys(CLASSES, "made"),
    "chatty": dict.fromkeys(CLASSES, "made"),
    "confused": {NATIVE: "believed", TOOLS: "made", TEXT: "made"},
    "liar": {NATIVE: "believed", TOOLS: "believed", TEXT: "told"},
    "hopeless": {NATIVE: "believed", TOOLS: "believed", TEXT: "told"},
}


@every_class
@pytest.mark.parametrize("name", MODELS)
def test_how_good_a_model_must_be(
    bridge: BridgeFactory, upstream: Upstream, execution_class: str, name: str
) -> None:
    upstream.script = MODELS[name]
    one = bridge(**settings(APP_SERVER, execution_class))
    (one.workspace / "hello.txt").write_text("one\nold\nthree\n")
    seen = play(one, models.edit("hello.txt", "old", "new"))
    fate = FATES[name][execution_class]
    if fate == "made":
        assert_completed(seen)
        assert_edited(one, seen)
        return
    assert (one.workspace / "hello.txt").read_text() == "one\nold\nthree\n"
    assert seen.items("fileChange") == []
    if fate == "believed":
        assert_completed(seen)
    elif name == "liar":
        assert_completed(seen)
        assert seen.message.endswith(
            f"\n\n{VERIFIED} in this turn no file was changed and no command was run."
        )
    else:
        assert seen.session["last_error"].startswith("The model was asked to repair its answer")
