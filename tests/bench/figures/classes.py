"""Which model succeeds in which execution class, and what a turn costs in each; scripted models, which take no time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import models
from tests.support.upstream import Script, Upstream

from ..bridge import Bridge, messages_path
from ..context import Bench
from ..report import Row
from ..sse_client import Stream

CLASSES = ("native_tools", "model_tools", "bridge_tools")
TEXT = "one\nold\nthree\n"
HOW_TIME = "message sent to session.completed seen, for a turn that reads a file and changes a line of it, warm bridge"


@dataclass(frozen=True, slots=True)
class Task:
    """What a person asks for, and how it is seen that it was done: by the workspace, and the last words."""

    name: str
    message: str
    is_done: Callable[[Path, str], bool]


TASKS = (
    Task("read", models.read("hello.txt"), lambda _, said: "old" in said and "three" in said),
    Task("search", models.search("needle"), lambda _, said: "notes.md" in said),
    Task("edit", models.edit("hello.txt", "old", "new"), lambda root, _: "new" in (root / "hello.txt").read_text()),
    Task("write", models.write("word", "made.txt"), lambda root, _: (root / "made.txt").exists()),
    Task("run", models.run("exit 3"), lambda _, said: "exit code 3" in said),
    Task("refuse", models.write("word", "../out.txt"),
         lambda root, said: "could not" in said and not (root / "../out.txt").exists()),
)  # fmt: skip
HOW_TASKS = (
    f"tasks done, of {len(TASKS)}: {', '.join(task.name for task in TASKS)}; judged by the workspace and the last answer. "
    "The models are described in tests/support/models.py"
)


def measure(bench: Bench) -> list[Row]:
    """Let each model do the tasks in each class, then time the edit."""
    with serving() as upstream:
        base_url = upstream.base_url
        with Bridge(bench, CODEX_PROVIDER_API_BASE_URL=base_url, CODEX_APPROVAL_POLICY="never") as bridge:
            rows = [row for model in models.MODELS for row in measure_model(bench, bridge, upstream, model)]
            upstream.script = models.perfect
            return rows + measure_time(bench, bridge)


@contextlib.contextmanager
def serving() -> Iterator[Upstream]:
    """Run the scripted upstream."""
    upstream = Upstream()
    try:
        yield upstream
    finally:
        upstream.stop()


def measure_model(bench: Bench, bridge: Bridge, upstream: Upstream, name: str) -> list[Row]:
    """Count the tasks that a model does in each class."""
    bench.say(f"{name} model")
    script: Script = models.MODELS[name]
    upstream.script = script
    return [
        Row(f"{name} model, {each}", "", [sum(try_task(bridge, each, task) for task in TASKS)], HOW_TASKS)
        for each in CLASSES
    ]


def measure_time(bench: Bench, bridge: Bridge) -> list[Row]:
    """Time the edit in each class, in turn."""
    edit = next(task for task in TASKS if task.name == "edit")
    times: dict[str, list[float]] = {each: [] for each in CLASSES}

    def one(execution_class: str) -> Callable[[], None]:
        return lambda: times[execution_class].append(play(bridge, execution_class, edit)[1])

    bench.alternate(bench.runs(15, 4), "edit", *(one(each) for each in CLASSES))
    native = times[CLASSES[0]]
    return [
        Row("edit, native_tools", "ms", native, HOW_TIME),
        *(Row(f"edit, {each}", "ms", times[each], HOW_TIME, CLASSES[0], native) for each in CLASSES[1:]),
    ]


def try_task(bridge: Bridge, execution_class: str, task: Task) -> bool:
    """Have a task done; a turn that fails has not done it."""
    try:
        said, _ = play(bridge, execution_class, task)
    except RuntimeError:
        return False
    return task.is_done(workspace(bridge), said)


def play(bridge: Bridge, execution_class: str, task: Task) -> tuple[str, float]:
    """Play a task in a fresh session and workspace; return the last words, and the ms that it took."""
    root = workspace(bridge)
    (root / "hello.txt").write_text(TEXT)
    (root / "notes.md").write_text("the needle is here\n")
    (root / "made.txt").unlink(missing_ok=True)
    made = bridge.connection.call("POST", "/chat/sessions", {"runtime": {"execution_class": execution_class}})
    session: str = made["session"]["id"]
    with Stream(bridge.port, session) as stream:
        started = time.perf_counter()
        bridge.connection.call("POST", messages_path(session), {"message": task.message})
        took_ms = stream.read_turn(started).whole * 1000
    told = bridge.connection.call("GET", f"/chat/sessions/{session}")
    return str(told["session"]["messages"][-1]["text"]), took_ms


def workspace(bridge: Bridge) -> Path:
    """Return where the bridge's sessions work."""
    return Path(bridge.env["CODEX_WORKSPACE_ROOT"])
