"""The demo: a bridge with the offline demo model, and one turn played through the public API as a host would.

The player speaks HTTP with the standard library alone, from a thread of its own: it knows nothing of the bridge's
inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from .. import app, config, daemon, log
from ..errors import BridgeError, StartFailed
from ..protocol import codex
from . import model

PROMPT = "Create a hero section with a call-to-action."
# The whole turn takes two seconds; a machine under load may need many more.
_TURN_TIMEOUT_S = 180

_STYLES = {"dim": "2", "bold": "1", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def run(flags: dict[str, str], *, color: bool, stay: bool) -> int:
    """Play the demo; return the exit status. With `stay` the bridge is up until Ctrl-C."""
    scratch = tempfile.mkdtemp(prefix="codex-bridge-demo-")
    workspace = os.path.join(scratch, "workspace")
    codex_home = os.path.join(scratch, "codex-home")
    state = os.path.join(scratch, "state")
    os.mkdir(workspace)
    os.mkdir(codex_home)
    _create_repository(workspace)
    try:
        return 0 if app.run(lambda: _run(flags, workspace, codex_home, state, _Screen(color), stay)) else 1
    except BridgeError:
        shutil.rmtree(workspace)
        raise
    finally:
        # The workspace stays: it holds what the demo made.
        shutil.rmtree(codex_home, ignore_errors=True)
        shutil.rmtree(state, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.rmdir(scratch)


def _create_repository(workspace: str) -> None:
    if shutil.which("git") is not None:
        subprocess.run(["git", "init", "--quiet", workspace], check=False)


async def _run(
    flags: dict[str, str], workspace: str, codex_home: str, state: str, screen: _Screen, stay: bool
) -> bool:
    upstream = model.create_server()
    host, port = await upstream.listen_tcp("127.0.0.1", 0)
    # The child environment is read from the process's own: the demo leaves the user's Codex alone.
    os.environ["CODEX_HOME"] = codex_home
    environ = {name: value for name, value in os.environ.items() if name in ("PATH", "CODEX_BIN", "TMPDIR")}
    environ |= {
        "CODEX_BRIDGE_LOG_LEVEL": os.environ.get("CODEX_BRIDGE_LOG_LEVEL", "warning"),
        "CODEX_BRIDGE_PORT": os.environ.get("CODEX_BRIDGE_PORT", ""),
        "CODEX_WORKSPACE_ROOT": workspace,
        "CODEX_BRIDGE_STATE_DIR": state,
        "CODEX_RUNTIME_PROVIDER": "openai_compatible",
        "CODEX_AUTH_MODE": "none",
        "CODEX_PROVIDER_API_BASE_URL": f"http://{host}:{port}/v1",
        "CODEX_DEFAULT_MODEL": model.MODEL_NAME,
        "CODEX_CHAT_TURN_TIMEOUT_MS": str(_TURN_TIMEOUT_S * 1000),
    }
    loaded = config.load(environ, flags)
    log.set_level(loaded.log_level)
    if loaded.codex_bin is None:
        raise StartFailed(codex.NOT_FOUND)

    async def during(address: str) -> bool:
        played = await asyncio.to_thread(_play, address, workspace, screen, stay)
        if played and stay:
            screen.say("The bridge stays up. Ctrl-C ends it.", "bold")
            return True
        finished.append(played)
        return False

    finished: list[bool] = []
    try:
        goes_on = await daemon.serve(loaded, during=during)
    finally:
        await upstream.stop(1)
    # Without `stay` the player ends the bridge; what counts is then whether its turn was played.
    return finished[0] if finished else goes_on


def _play(address: str, workspace: str, screen: _Screen, stay: bool) -> bool:
    """Play one turn as a host would; return whether it was completed."""
    screen.say(f"Codex Bridge is up at {address}", "bold")
    screen.say("The model is the OFFLINE DEMO MODEL: a script, no key, no account, no network.", "yellow")
    client = _Client(address)
    try:
        session_id = client.call("POST", "/chat/sessions", {})["session"]["id"]
        screen.request(f"POST /chat/sessions -> {session_id}")
        screen.request(f"GET  /chat/sessions/{session_id}/stream")
        events = client.stream(f"/chat/sessions/{session_id}/stream")
        next(events)
        screen.request(f"POST /chat/sessions/{session_id}/messages  {json.dumps({'message': PROMPT})}")
        client.call("POST", f"/chat/sessions/{session_id}/messages", {"message": PROMPT})
        completed, files = _follow(events, screen)
    except BrokenPipeError:
        raise  # nobody reads the screen any more
    except (OSError, http.client.HTTPException, RuntimeError, StopIteration) as problem:
        screen.say(f"The demo failed: {str(problem) or type(problem).__name__}", "red")
        return False
    if completed:
        screen.say("")
        for path in files:
            screen.say(f"The file landed in {path}", "green")
        screen.say(f"The scratch workspace is {workspace}")
        _say_how_to_go_on(screen, address, session_id, stay)
    return completed


def _follow(events: Iterator[tuple[str, dict[str, Any]]], screen: _Screen) -> tuple[bool, list[str]]:
    """Show events up to the turn's end; return whether it completed, and the files that were changed."""
    files: list[str] = []
    for name, data in events:
        if name == "session.event":
            event = data["event"]
            screen.event(event)
            item = event.get("item", {})
            if event["type"] == "item.completed" and item["type"] == "fileChange":
                files += [change["path"] for change in item["changes"]]
        elif name in ("session.running", "session.queued", "session.completed", "session.interrupted"):
            screen.mark(name)
        elif name == "session.error":
            screen.say(f"session.error: {data['session']['last_error']}", "red")
        if name in ("session.completed", "session.interrupted", "session.error"):
            return name == "session.completed" and bool(files), files
    return False, files


def _say_how_to_go_on(screen: _Screen, address: str, session_id: str, stay: bool) -> None:
    screen.say("")
    if not stay:
        screen.say("Run the demo in a terminal: then the bridge stays up, to go on by hand with curl.")
        return
    screen.say("Go on by hand, in another terminal:", "bold")
    screen.say(f"  curl -s {address}/health")
    screen.say(f"  curl -s {address}/chat/sessions/{session_id}")
    screen.say(f"  curl -sN {address}/chat/sessions/{session_id}/stream &")
    screen.say(f"  curl -s {address}/chat/sessions/{session_id}/messages \\")
    screen.say("       -H 'Content-Type: application/json' \\")
    screen.say('       -d \'{"message": "Create another hero section."}\'')
    screen.say("")


class _Client:
    """The little of HTTP that a host needs."""

    def __init__(self, address: str) -> None:
        self._netloc = urlsplit(address).netloc

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call a route; return its answer, raise RuntimeError with its error."""
        connection = http.client.HTTPConnection(self._netloc, timeout=_TURN_TIMEOUT_S)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if not answer["ok"]:
            raise RuntimeError(answer["error"])
        return answer

    def stream(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (name, data) of a stream's events."""
        connection = http.client.HTTPConnection(self._netloc, timeout=_TURN_TIMEOUT_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            name = ""
            for line in response:
                field, _, value = line.decode().rstrip("\n").partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield name, json.loads(value)
        finally:
            connection.close()


class _Screen:
    """Writes to the terminal, coloured where it can show colours."""

    def __init__(self, color: bool) -> None:
        self._color = color and "NO_COLOR" not in os.environ
        self._in_text = False

    def say(self, text: str, style: str | None = None) -> None:
        self._end_text()
        print(self._styled(text, style), flush=True)

    def request(self, text: str) -> None:
        self.say(f"> {text}", "cyan")

    def mark(self, text: str) -> None:
        self.say(f"· {text}", "dim")

    def event(self, event: dict[str, Any]) -> None:
        """Show one runtime event."""
        kind, item = event["type"], event.get("item", {})
        if kind == "item.agent_message.delta":
            print(event["delta"], end="", flush=True)
            self._in_text = True
        elif kind == "item.started" and item["type"] == "commandExecution":
            self.say(f"$ {item['command']}", "bold")
        elif kind == "item.completed" and item["type"] == "commandExecution":
            self.say(_indented(item["aggregatedOutput"] or "") + f"\n  exit status {item['exitCode']}", "dim")
        elif kind == "item.completed" and item["type"] == "fileChange":
            for change in item["changes"]:
                self.say(f"{change['kind']['type']} {change['path']}", "bold")
        elif kind == "turn.diff.updated":
            for line in event["diff"].splitlines():
                self.say("  " + line, _diff_style(line))
        elif kind == "warning":
            # That Codex does not know the demo's model is no fault.
            expected = " (as expected)" if model.MODEL_NAME in event["message"] else ""
            self.mark(f"warning{expected}: {event['message']}")
        elif kind in ("thread.started", "turn.started"):
            self.mark(kind)

    def _end_text(self) -> None:
        if self._in_text:
            print()
            self._in_text = False

    def _styled(self, text: str, style: str | None) -> str:
        if not self._color or style is None or not text:
            return text
        return f"\033[{_STYLES[style]}m{text}\033[0m"


def _indented(text: str) -> str:
    return "\n".join("  " + line for line in text.rstrip().splitlines())


def _diff_style(line: str) -> str | None:
    if line.startswith(("+++", "---", "diff ", "index ", "new file")):
        return "bold"
    return {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
