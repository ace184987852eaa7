"""The bridge as a process of its own, and a small client for it.

The command comes from pytest's `--bridge`, so the same tests run from a checkout and against the one-file
build. Each bridge has a HOME, a CODEX_HOME, a state directory, a TMPDIR and a workspace of its own; every process
that it starts carries these directories in its environment, which is how leftovers are found.
"""

import http.client
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals
from typing import Any

from tests.support import processes
from tests.support.sse import Stream
from tests.support.waiting import BOUND_S, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
API_KEY = "sk-the-providers-real-key-4f1d9c"
"""The provider's key of every test: nothing but the upstream's Authorization header may ever show it."""

_HAND_OVER = Path(__file__).with_name("hand_over.py")
_LISTENING = re.compile(r"listening on (?:http://([^\s/]+):(\d+)|\S+)")
_TROUBLE = (
    "Traceback (most recent call last)",
    "was never awaited",
    "was destroyed but it is pending",
    "never retrieved",
)

Json = dict[str, Any]


def bridge_command(option: str | None) -> list[str]:
    """Return the command of `--bridge` with its files made absolute, or the checkout's own."""
    if not option:
        return [sys.executable, "-m", "codex_bridge"]
    return [str(Path(part).absolute()) if Path(part).is_file() else part for part in shlex.split(option)]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the bridge. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        """The body as JSON."""
        decoded: Json = json.loads(self.body)
        return decoded


class Directories:
    """The places of one bridge, under one directory of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.codex_home = root / "codex-home"
        self.state = root / "state"
        self.workspace = root / "workspace"
        # A bridge clears away what killed ones have left beside its temporary files, so it has them to itself.
        self.temporary = root / "tmp"

    def create(self) -> None:
        """Make the directories; the workspace is a git repository."""
        for path in (self.home, self.codex_home, self.state, self.workspace, self.temporary):
            path.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "init", "--quiet", str(self.workspace)], check=True)


class Bridge:
    """One bridge process. `get` and the rest speak to it; `stop` ends it and looks for what it left."""

    def __init__(
        self,
        command: list[str],
        directories: Directories,
        settings: Mapping[str, str],
        sockets: Sequence[socket.socket] = (),
    ) -> None:
        """Start the process; `sockets` are handed over to it as systemd does."""
        self.directories = directories
        self.workspace = directories.workspace
        self.settings = dict(settings)
        self.port = 0
        self.log: list[str] = []
        self._log_over = False
        self._streams: list[Stream] = []
        self._log_seen = threading.Condition()
        given = [one.fileno() for one in sockets]
        if given:
            command = [sys.executable, "-I", str(_HAND_OVER), ",".join(map(str, given)), *command]
        self._process = subprocess.Popen(
            [*command, "serve"],
            pass_fds=given,
            env=self._environment(),
            cwd=directories.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            process_group=0,
        )
        self._log_thread = threading.Thread(target=self._read_log, name="bridge log")
        self._log_thread.start()

    def _environment(self) -> dict[str, str]:
        places = {
            "HOME": self.directories.home,
            "CODEX_HOME": self.directories.codex_home,
            "CODEX_WORKSPACE_ROOT": self.directories.workspace,
            "CODEX_BRIDGE_STATE_DIR": self.directories.state,
            "TMPDIR": self.directories.temporary,
            "PYTHONPATH": REPOSITORY,
        }
        base = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "CODEX_BRIDGE_PORT": "0"}
        return {**base, **{name: str(path) for name, path in places.items()}, **self.settings}

    def _read_log(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._log_seen:
                self.log.append(line.decode(errors="replace").rstrip("\n"))
                self._log_seen.notify_all()
        with self._log_seen:
            self._log_over = True
            self._log_seen.notify_all()

    def wait_ready(self) -> None:
        """Return when the bridge says that it listens; fail when it ends instead."""
        with self._log_seen:
            self._log_seen.wait_for(lambda: self._match_listening() or self._log_over, BOUND_S)
            found = self._match_listening()
        if found is None:
            self.wait_exit()
            raise AssertionError(
                f"the bridge did not start: exit code {self._process.poll()}\n{self.log_text}"
            )
        if found.group(2):  # else a unix socket, which the client methods do not speak to
            self.port = int(found.group(2))

    def _match_listening(self) -> re.Match[str] | None:
        return next((found for line in self.log if (found := _LISTENING.search(line))), None)

    def wait_log(self, pattern: str) -> str:
        """Return the first log line in which the pattern is found."""
        with self._log_seen:
            self._log_seen.wait_for(lambda: self._search_log(pattern) or self._log_over, BOUND_S)
            found = self._search_log(pattern)
        assert found, f"no {pattern!r} in the log:\n{self.log_text}"
        return found[0]

    def _search_log(self, pattern: str) -> list[str]:
        return [line for line in self.log if re.search(pattern, line)]

    @property
    def log_text(self) -> str:
        """Everything the bridge wrote to stderr so far."""
        return "\n".join(self.log)

    @property
    def pid(self) -> int:
        """The bridge's process id, which is its process group too."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Tell whether the process is still there."""
        return self._process.poll() is None

    def codex_pids(self) -> list[int]:
        """Return the app-server and exec processes below the bridge, but for one that only prints the protocol."""
        commands = {pid: set(processes.cmdline(pid)) for pid in processes.descendants(self.pid)}
        return [
            pid
            for pid, words in commands.items()
            if words & {"app-server", "exec"} and "generate-json-schema" not in words
        ]

    def codex_pid(self) -> int:
        """Return the one Codex process; wait for the end of one that was replaced."""

        def only_one() -> int | None:
            found = self.codex_pids()
            return found[0] if len(found) == 1 else None

        return wait_until(only_one, "one Codex child, and no other")

    def leftovers(self) -> list[int]:
        """Return what lives of the bridge and of all that it started."""
        return sorted({*processes.marked(str(self.directories.codex_home)), *processes.in_group(self.pid)})

    def signal(self, number: Signals) -> None:
        """Send a signal to the bridge itself, not to its group."""
        self._process.send_signal(number)

    def wait_exit(self, bound_s: float = BOUND_S) -> int:
        """Return the exit code; fail when there is none in time."""
        try:
            code = self._process.wait(bound_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the bridge still runs after {bound_s:g} s\n{self.log_text}") from None
        self._log_thread.join(BOUND_S)
        return code

    def stop(self, number: Signals = Signals.SIGTERM) -> None:
        """End the bridge as an operator does: exit code 0, nothing left over, no traceback in the log."""
        self.signal(number)
        code = self.wait_exit()
        assert code == 0, f"exit code {code}\n{self.log_text}"
        wait_until(lambda: not self.leftovers(), f"the end of all children: {self._name_leftovers()}")
        trouble = [line for line in self.log if any(word in line for word in _TROUBLE)]
        assert not trouble, f"the log holds trouble:\n{self.log_text}"

    def kill(self) -> None:
        """End the bridge as a crash does: with SIGKILL, and nothing else of it."""
        self.signal(Signals.SIGKILL)
        self.wait_exit()

    def _name_leftovers(self) -> list[str]:
        return [f"{pid} {' '.join(processes.cmdline(pid))[:120]}" for pid in self.leftovers()]

    def discard(self) -> None:
        """End whatever is left, by force, and give every resource back."""
        for stream in self._streams:
            stream.close()
        if self.is_running:
            self._process.kill()
        for pid in self.leftovers():
            processes.kill(pid)
        self._process.wait(BOUND_S)
        self._log_thread.join(BOUND_S)
        if self._process.stderr is not None:
            self._process.stderr.close()

    def request(self, method: str, path: str, body: bytes | None = None, /, **headers: str) -> Reply:
        """Send one request; `_` in a header's name stands for `-`."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=4 * BOUND_S)
        try:
            connection.request(
                method, path, body, {name.replace("_", "-"): value for name, value in headers.items()}
            )
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, found, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        """GET a path."""
        return self.request("GET", path, None, **headers)

    def post(self, path: str, body: object = None, **headers: str) -> Reply:
        """POST a JSON body (an empty object when none is given)."""
        encoded = json.dumps({} if body is None else body).encode()
        return self.request("POST", path, encoded, **{"Content_Type": "application/json", **headers})

    def delete(self, path: str, **headers: str) -> Reply:
        """DELETE a path."""
        return self.request("DELETE", path, None, **headers)

    def create_session(self, **body: Any) -> str:
        """Create a session and return its id."""
        reply = self.post("/chat/sessions", body)
        assert reply.status == 201, reply
        return str(reply.json["session"]["id"])

    def session(self, session_id: str) -> Json:
        """Return a session, whole."""
        reply = self.get(f"/chat/sessions/{session_id}")
        assert reply.status == 200, reply
        found: Json = reply.json["session"]
        return found

    def post_message(self, session_id: str, message: str, **body: Any) -> Reply:
        """Send a message and return the reply, whatever it is."""
        return self.post(f"/chat/sessions/{session_id}/messages", {"message": message, **body})

    def send(self, session_id: str, message: str, **body: Any) -> Json:
        """Send a message that has to be accepted; return the answer."""
        reply = self.post_message(session_id, message, **body)
        assert reply.status == 202, reply
        return reply.json

    def interrupt(self, session_id: str) -> Reply:
        """Stop the session's turn."""
        return self.post(f"/chat/sessions/{session_id}/interrupt")

    def approvals(self, session_id: str) -> list[Json]:
        """Return what is pending."""
        reply = self.get(f"/chat/sessions/{session_id}/approvals")
        assert reply.status == 200, reply
        found: list[Json] = reply.json["approvals"]
        return found

    def decide(self, session_id: str, decision: str, request_id: str | None = None, **body: Any) -> Reply:
        """Answer an approval, the only one by default."""
        named = {} if request_id is None else {"request_id": request_id}
        answer = {"decision": decision, **named, **body}
        return self.post(f"/chat/sessions/{session_id}/approvals", answer)

    def stream(self, session_id: str, *, after: str | None = None, query: str = "", **headers: str) -> Stream:
        """Open the event stream, fresh or after the event with the given id."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if after is not None:
            sent["Last-Event-ID"] = after
        stream = Stream(self.port, f"/chat/sessions/{session_id}/stream{query}", sent)
        self._streams.append(stream)
        return stream

    def post_stream(self, path: str, body: object = None) -> Stream:
        """POST a JSON body, and read the answer as an event stream."""
        encoded = json.dumps({} if body is None else body).encode()
        stream = Stream(self.port, path, {"Content-Type": "application/json"}, encoded)
        self._streams.append(stream)
        return stream

    def ready_stream(self, session_id: str) -> Stream:
        """Open a fresh stream and wait for its `session.ready`."""
        stream = self.stream(session_id)
        assert stream.until(lambda event: True).name == "session.ready"
        return stream

    def settled(self, session_id: str, bound_s: float = BOUND_S) -> Json:
        """Return the session once no turn of it runs or waits."""

        def look() -> Json | None:
            session = self.session(session_id)
            return session if session["status"] not in ("running", "queued") else None

        return wait_until(look, f"the end of the turn of {session_id}", bound_s)
