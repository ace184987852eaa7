"""A tool loop on a scripted upstream, through the real gateway: what it tells is kept, and can be waited for."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from codex_bridge.adapters.http_client import HttpClient, Origin
from codex_bridge.protocol.openai import Usage
from codex_bridge.protocol.tools import FileEdit, ToolResult, refusal
from codex_bridge.runtime import (
    ApprovalAnswer,
    ApprovalRequest,
    Command,
    CommandResult,
    Event,
    ExecutionClass,
    OnOutput,
    TurnOutcome,
    TurnRequest,
)
from codex_bridge.runtimes.dialect import Dialect
from codex_bridge.runtimes.tool_loop import ToolLoopRuntime
from codex_bridge.services.backend import Upstream as Backend
from codex_bridge.services.gateway import Gateway
from codex_bridge.workspace.tools import Place, Tools
from tests.unit.wire import serving

Json = dict[str, Any]
BEGIN, END = "*** Begin Patch\n", "*** End Patch\n"


class NoSandbox:
    """Runs nothing."""

    async def run_command(self, command: Command, on_output: OnOutput | None = None) -> CommandResult:
        raise AssertionError(command)


class SmallTools(Tools):
    """Real tools on a real directory, no more than the loop's own tests need.

    `read_file`; `apply_patch` of `*** Add File` and `*** Delete File`; `run_command`, unsandboxed, which notes where it ran.
    """

    def __init__(self) -> None:
        super().__init__(NoSandbox())
        self.ran: list[tuple[str, str]] = []
        self.ended = 0

    async def run(
        self, name: str, arguments: Json, place: Place, on_output: OnOutput | None = None
    ) -> ToolResult:
        if name == "read_file":
            return self._read(arguments["path"], place)
        assert name == "run_command", name
        return await self._run_command(arguments["command"], place, on_output)

    async def preview_patch(self, arguments: Json, place: Place) -> ToolResult:
        return self._patch(arguments["patch"], place, is_real=False)

    async def apply_patch(self, arguments: Json, place: Place, shown: ToolResult) -> ToolResult:
        if self._patch(arguments["patch"], place, is_real=False).diffs != shown.diffs:
            return refusal("changed_meanwhile", "The files have changed.")
        return self._patch(arguments["patch"], place, is_real=True)

    def _read(self, name: str, place: Place) -> ToolResult:
        path = Path(place.root, name)
        if not path.is_file():
            return refusal("not_found", f"There is no file {name!r}.")
        return ToolResult({"path": name, "text": path.read_text(), "has_more": False})

    def _patch(self, patch: str, place: Place, *, is_real: bool) -> ToolResult:
        if not (patch.startswith(BEGIN) and patch.endswith(END)):
            return refusal("invalid_patch", "The patch must begin with *** Begin Patch.")
        edits = []
        for part in patch.removeprefix(BEGIN).removesuffix(END).split("*** ")[1:]:
            head, _, body = part.partition("\n")
            action, path = head.split(" File: ")
            file = Path(place.root, path)
            before = file.read_text() if file.exists() else None
            after = None if action == "Delete" else "".join(f"{line[1:]}\n" for line in body.splitlines())
            edits.append(FileEdit(path, before, after))
            if is_real and after is None:
                file.unlink()
            elif is_real:
                file.write_text(after or "")
        diffs = tuple(
            {
                "path": os.path.join(place.root, edit.path),
                "kind": {"type": "delete" if edit.after is None else "add"},
                "diff": edit.after if edit.after is not None else edit.before,
            }
            for edit in edits
        )
        files = [
            {"path": edit.path, "action": "delete" if edit.after is None else "add", "sha256": None}
            for edit in edits
        ]
        return ToolResult({"files": files}, diffs=diffs, edits=tuple(edits))

    async def _run_command(self, command: str, place: Place, on_output: OnOutput | None) -> ToolResult:
        self.ran.append((command, place.sandbox_mode))
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", command, cwd=place.root, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        heard = []
        try:
            while piece := await process.stdout.read(1000):
                heard.append(piece.decode())
                if on_output is not None:
                    on_output(heard[-1])
        except asyncio.CancelledError:
            process.kill()
            raise
        finally:
            code = await process.wait()
            self.ended += 1
        return ToolResult({"exit_code": code, "stdout": "".join(heard), "stderr": ""})


class Person:
    """Answers what is asked, by a script; the default asks nobody."""

    def __init__(self) -> None:
        self.asked: list[ApprovalRequest] = []
        self.answer: Callable[[ApprovalRequest], ApprovalAnswer | asyncio.Future[ApprovalAnswer]] | None = (
            None
        )

    async def ask(self, request: ApprovalRequest) -> ApprovalAnswer:
        self.asked.append(request)
        assert self.answer is not None, f"asked: {request}"
        answer = self.answer(request)
        return answer if isinstance(answer, ApprovalAnswer) else await answer


class Player:
    """A loop in a workspace of its own. `play` runs a turn, `begin` starts one, `saw` waits for what it tells."""

    def __init__(self, root: Path, runtime: ToolLoopRuntime, tools: Tools, gateway: Gateway) -> None:
        self.workspace = root
        self.runtime = runtime
        self.tools = tools
        self.gateway = gateway
        self.person = Person()
        self.events: list[Event] = []
        self.used: list[Usage] = []
        self.backend: Backend | None = None
        self._told = asyncio.Event()

    def begin(self, text: str = "Go", **more: Any) -> asyncio.Task[TurnOutcome]:
        def emit(event: Event) -> None:
            self.events.append(event)
            self._told.set()

        assert self.backend is not None
        route = self.gateway.open("s", self.backend, self.used.append)
        given: Json = {
            "session_id": "s", "turn_id": "t", "thread_id": None, "workspace_root": str(self.workspace), "text": text,
            "sandbox_mode": "workspace-write", "model": "demo", "route": route,
            "execution_class": ExecutionClass.MODEL_TOOLS, **more,
        }  # fmt: skip
        turn = self.runtime.run_turn(TurnRequest(**given), emit, self.person.ask)
        return asyncio.create_task(turn)

    async def play(self, text: str = "Go", **more: Any) -> TurnOutcome:
        return await self.begin(text, **more)

    async def saw(self, kind: str) -> Event:
        """Return the first event of a type, once it is told."""
        while True:
            for event in self.events:
                if event["type"] == kind:
                    return event
            self._told.clear()
            await self._told.wait()

    def kinds(self) -> list[str]:
        """Return what was told, items with their type, deltas of one item as one."""
        names: list[str] = []
        for event in self.events:
            name = event["type"] + (f" {event['item']['type']}" if "item" in event else "")
            if not (name.endswith(("delta", "output")) and names[-1:] == [name]):
                names.append(name)
        return names

    def items(self, kind: str) -> list[Json]:
        """Return the completed items of a type."""
        ended = [event["item"] for event in self.events if event["type"] == "item.completed"]
        return [item for item in ended if item["type"] == kind]

    def texts(self) -> list[str]:
        return [item["text"] for item in self.items("agentMessage")]

    def warnings(self) -> list[str | None]:
        return [event.get("code") for event in self.events if event["type"] == "warning"]


@asynccontextmanager
async def player(
    root: Path,
    base_url: str,
    dialect: Callable[[], Dialect],
    tools: Tools | None = None,
    idle_timeout_s: float = 20.0,
) -> AsyncIterator[Player]:
    """Run a loop in the directory `root` whose model is the upstream at `base_url`."""
    port = int(base_url.rpartition(":")[2].partition("/")[0])
    to_upstream, to_gateway = HttpClient(20.0, idle_timeout_s, idle_timeout_s), HttpClient(20.0, 60.0, 60.0)
    gateway = Gateway(to_upstream)
    tools = tools or SmallTools()
    runtime = ToolLoopRuntime(dialect, tools, to_gateway)
    try:
        async with serving(gateway.handle) as (_, own_port):
            gateway.base_url = f"http://127.0.0.1:{own_port}"
            made = Player(root, runtime, tools, gateway)
            made.backend = Backend(Origin("http", "127.0.0.1", port), "/v1", "sk-a-key-of-the-upstream")
            try:
                yield made
            finally:
                await runtime.stop()
    finally:
        to_upstream.close()
