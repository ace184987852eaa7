"""A scripted `codex app-server` and `codex exec`: real processes that do what the real ones do on a bad day only.

`FakeCodex(directory, options)` writes a small executable for `CODEX_BIN`. What a turn does is said by the
first word of the message that starts it; the rest of the message is its argument:

    say TEXT            the message, one delta for each word
    big BYTES           one delta, one item, and so two lines of that many bytes
    burst COUNT         that many deltas, numbered
    flood MEGABYTES     that many megabytes in deltas of 50,000 bytes
    stay                one delta, then nothing until an interrupt comes
    late                one delta, then nothing until an interrupt comes; it is refused, and the turn completes
    lazy                begins a moment after `turn/start`, refuses interrupts until then, and waits for one
    vanish TEXT         the first process ends at once, before it begins; a later one says TEXT
    deaf                one delta, then nothing, and an interrupt is never answered
    quit                one delta, then it is interrupted without anybody's asking
    hang                `turn/start` is never answered
    die TEXT            one delta, TEXT on stderr, and the process ends with code 7
    listen              one delta, then nothing until a text steers it; that is put into the conversation, and said
    brink               the same, but the turn is completed without another word
    ask METHOD          a server request with id 0 for that method; says the answer it got
    asks JSON           a list of server requests, `id`, `method` and `params`, all at once; says how many were
                        answered. One with an `item` tells that before; one with a `resolve` is resolved, unanswered, when
                        the test calls `release`; the answer to one with a `forget` is not waited for
    garbage             lines that are no JSON-RPC between the deltas

With `codex exec` the prompt says it, and these beside `say`, `big`, `die` and `garbage`:

    stay                begins, then nothing until SIGINT comes: exit code 1
    deaf                begins, then nothing, whatever comes
    mute                nothing at all, not even its thread
    unborn              its thread, and nothing more
    linger TEXT         says TEXT, ends the turn, and never exits
    refuse TEXT         its thread, then "Error: TEXT" on stderr and exit code 1
    silent              begins, and exits with code 0 without another word
    elsewhere TEXT      says TEXT in another thread than it was asked to resume

Options (about the process): `fail_starts` (so many starts end at once with code 3), `fail_execs` (so many of an exec), `ignore_term`
(SIGTERM and the end of stdin are ignored), `grandchild` (a child of its own keeps stdout open), `silent`
(`initialize` is never answered), `sandbox` (`open`: commands may write anywhere; `broken`: none starts; `hangs`: none ends; `leaves`: each is ended by force, and goes on; its output is its process id), `version` (which one it says it is), `mute` (methods that
are never answered), `held` (a method whose first call is answered when the test calls `release`), `account` (true: signed in), `login` (what a
device login does: `waits`; `refused`, at once; `garbled`, its answer; `dies`, the process).
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

if __name__ != "__main__":  # the process is run alone, without the suite
    from tests.support.waiting import wait_until

Json: TypeAlias = dict[str, Any]


GARBAGE = (
    b"not json",
    b"",
    b"[1, 2]",
    b"17",
    b"null",
    b'"text"',
    b"\xff\xfe\x00",
    b"{}",
    b'{"id": 99999, "result": 1}',
    b'{"method": 5}',
    b'{"method": "turn/completed"}',
    b'{"method": "no/such/thing", "params": {}}',
)

EXEC_GARBAGE = (
    *GARBAGE,
    b'{"type": 5}',
    b'{"type": ["turn.completed"]}',
    b'{"type": "no.such.thing"}',
    b'{"type": "turn.completed"}',
    b'{"type": "turn.failed", "error": "text"}',
    b'{"type": "item.completed", "item": {"type": "command_execution"}}',
    b'{"type": "item.completed", "item": {"type": 5, "id": 6}}',
    b'{"type": "error", "message": null}',
    b'{"type": "item.started", "item": ' + b"[" * 5000 + b"]" * 5000 + b"}",
)


class FakeCodex:
    """The test's side: the executable, and what the processes noted."""

    def __init__(self, directory: Path, options: Json) -> None:
        directory.mkdir(parents=True)
        self.directory = directory
        self.path = directory / "codex"
        self._write_options(options)
        os.mkfifo(directory / "gate")
        self._write_program()

    def __str__(self) -> str:
        return str(self.path)

    def _write_options(self, options: Json) -> None:
        """Write them at once: a process may be reading them."""
        draft = self.directory / "options.new"
        draft.write_text(json.dumps(options))
        draft.rename(self.directory / "options.json")

    def _write_program(self) -> None:
        program = f'#!/bin/sh\nexec "{sys.executable}" -I "{__file__}" "{self.directory}" "$@"\n'
        draft = self.directory / "codex.new"
        draft.write_text(program)
        draft.chmod(0o755)
        draft.rename(self.path)

    def upgrade(self, **options: object) -> None:
        """Put another program at the same place; it has these options, and the same threads."""
        self._write_options(options)
        self._write_program()

    def starts(self) -> list[Json]:
        """Return each start of an app-server or exec: pid, arguments, environment; of an exec, its prompt too."""
        return _read_notes(self.directory / "starts.jsonl")

    def execs(self) -> list[Json]:
        """Return each start of an exec: the turns, and not the app-server that looks at the sandbox."""
        return [start for start in self.starts() if start["arguments"][0] == "exec"]

    def logins(self) -> list[str]:
        """Return the ids of all device logins."""
        return [note["id"] for note in _read_notes(self.directory / "logins.jsonl")]

    def received(self, method: str | None = None) -> list[Json]:
        """Return what the bridge wrote, by method; without one, the answers to server requests."""
        return [note for note in self.received_any() if note.get("method") == method]

    def received_any(self) -> list[Json]:
        """Return all that the bridge wrote, to whichever process, in its order."""
        return _read_notes(self.directory / "received.jsonl")

    def release(self) -> None:
        """Let the held call be answered; it has to come."""

        def look() -> int | None:
            try:
                return os.open(self.directory / "gate", os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody waits at it yet
                return None

        os.close(wait_until(look, "a call that is held"))


def _read_notes(path: Path) -> list[Json]:
    # The last line may be one that is being written.
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


class AppServer:
    """The process's side: a reader of stdin and one thread for each turn."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.options: Json = json.loads((directory / "options.json").read_text())
        self.lock = threading.Lock()
        self.interrupts: dict[str, threading.Event] = {}
        self.steers: dict[str, queue.SimpleQueue[Json]] = {}
        self.refusing: set[str] = set()
        self.closing: set[str] = set()
        self.unbegun: set[str] = set()
        self.answered = threading.Condition()
        self.answers: list[Json] = []
        self.next_turn: threading.Thread | None = None
        self.held = self.options.get("held")
        # What is written in one breath with the next answer.
        self.after: list[Json] = []

    def note(self, name: str, entry: Json) -> int:
        """Append one line to a file of notes; return how many it has."""
        path = self.directory / name
        # In one piece, since other processes write their lines into it as well.
        with self.lock, path.open("ab", buffering=0) as notes:
            notes.write(json.dumps(entry).encode() + b"\n")
        return len(path.read_text().splitlines())

    def write(self, message: Json) -> None:
        """Write one line to the bridge."""
        self.write_raw(json.dumps(message).encode() + b"\n")

    def write_raw(self, line: bytes) -> None:
        """Write bytes to the bridge as they are."""
        with self.lock:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()

    def tell(self, method: str, thread: str, **params: object) -> None:
        """Send one notification of a thread."""
        self.write({"method": method, "params": {"threadId": thread, **params}})

    def serve(self, arguments: list[str]) -> int:
        """Run until stdin ends."""
        entry = {"pid": os.getpid(), "arguments": arguments, "environment": dict(os.environ)}
        if self.note("starts.jsonl", entry) <= self.options.get("fail_starts", 0):
            print("the fake Codex refuses to start", file=sys.stderr, flush=True)
            return 3
        if self.options.get("ignore_term"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.options.get("grandchild"):
            subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL)
        for line in sys.stdin.buffer:
            self.take(json.loads(line))
        while self.options.get("ignore_term"):
            time.sleep(60)
        return 0

    def take(self, message: Json) -> None:
        """Note one message of the bridge, and handle it now or later."""
        self.note("received.jsonl", message)
        if self.held is not None and message.get("method") == self.held:
            self.held = None
            threading.Thread(target=self.hold, args=(message,), daemon=True).start()
        else:
            self.handle(message)

    def hold(self, message: Json) -> None:
        """Handle a message once the test opens the gate."""
        (self.directory / "gate").read_bytes()
        self.handle(message)

    def handle(self, message: Json) -> None:
        """Answer one message."""
        method = message.get("method")
        if method is None:
            with self.answered:
                self.answers.append(message)
                self.answered.notify_all()
        elif "id" in message and method not in self.options.get("mute", []):
            reply = self.METHODS.get(method, AppServer.unknown)(self, message.get("params") or {})
            if reply is not None:
                lines = [{"id": message["id"], **reply}, *self.after]
                self.write_raw(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
                self.after.clear()
            if self.next_turn is not None:  # after the answer, as the real one does
                self.next_turn.start()
                self.next_turn = None

    def unknown(self, params: Json) -> Json:
        """Refuse a method that the real one may have and this one has not."""
        return {"error": {"code": -32601, "message": "the fake Codex has no such method"}}

    def initialize(self, params: Json) -> Json | None:
        """Answer the first request."""
        if self.options.get("silent"):
            return None
        agent = f"fake/{self.options.get('version', '0.163.0')} (test)"
        return {"result": {"userAgent": agent, "codexHome": "/", "platformFamily": "unix"}}

    def starts(self) -> list[Json]:
        """Return the starts that were noted so far."""
        return _read_notes(self.directory / "starts.jsonl")

    def threads(self) -> list[str]:
        """Return the threads of this and of earlier processes."""
        return [note["id"] for note in _read_notes(self.directory / "threads.jsonl")]

    def start_thread(self, params: Json) -> Json:
        """Make a thread; it outlives the process, as the real one's does."""
        thread = f"thread-{os.getpid()}-{time.monotonic_ns()}"
        self.note("threads.jsonl", {"id": thread})
        return {"result": {"thread": {"id": thread, "turns": []}, "model": "demo", "cwd": params.get("cwd")}}

    def resume_thread(self, params: Json) -> Json:
        """Find a thread of an earlier process."""
        if params["threadId"] in self.closing:
            message = (
                f"thread {params['threadId']} is closing; retry thread/resume after the thread is closed"
            )
            return {"error": {"code": -32600, "message": message}}
        if params["threadId"] not in self.threads():
            message = f"no rollout found for thread id {params['threadId']}"
            return {"error": {"code": -32600, "message": message}}
        return {"result": {"thread": {"id": params["threadId"], "turns": []}, "model": "demo"}}

    def inject_items(self, params: Json) -> Json:
        """Take what was said elsewhere; the scripted Codex remembers nothing."""
        return {"result": {}}

    def unsubscribe(self, params: Json) -> Json:
        """Close a thread, a moment later."""
        thread = params["threadId"]
        self.closing.add(thread)

        def close() -> None:
            self.closing.discard(thread)
            self.tell("thread/closed", thread)

        threading.Timer(0.1, close).start()
        return {"result": {"status": "unsubscribed"}}

    def exec_command(self, params: Json) -> Json | None:
        """Run a command in what passes for a sandbox: its last argument, a path, is made one that cannot be written.

        In a read-only sandbox so is the path before it.
        """
        sandbox = self.options.get("sandbox", "holds")
        if sandbox == "hangs":
            return None
        if sandbox == "broken":
            return {"result": {"exitCode": 1, "stdout": "", "stderr": "the fake sandbox does not start"}}
        command = list(params["command"])
        if sandbox == "leaves":
            environ = {name: value for name, value in params["env"].items() if value is not None}
            left = subprocess.Popen(command, env=environ, start_new_session=True)
            return {"result": {"exitCode": 137, "stdout": str(left.pid), "stderr": ""}}
        if sandbox == "holds":
            command[-1] = "/proc/no/such/place"
        if sandbox == "holds" and params["sandboxPolicy"]["type"] == "readOnly":
            command[-2] = "/proc/no/such/place"
        done = subprocess.run(command, cwd=params["cwd"], capture_output=True, text=True)
        return {"result": {"exitCode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}}

    def read_account(self, params: Json) -> Json:
        """Tell who is signed in."""
        ann = {"type": "chatgpt", "email": "ann@example.com", "planType": "plus"}
        account = ann if self.options.get("account") else None
        return {"result": {"account": account, "requiresOpenaiAuth": True}}

    def start_login(self, params: Json) -> Json:
        """Begin a device login."""
        how = self.options.get("login", "waits")
        if how == "dies":
            os._exit(9)
        if how == "garbled":
            return {"result": {"type": "chatgptDeviceCode", "verificationUrl": 7}}
        login = f"login-{time.monotonic_ns()}"
        self.note("logins.jsonl", {"id": login})
        if how == "refused":
            self.after.append(_login_ended(login, "the fake issuer refuses"))
        code = {"loginId": login, "verificationUrl": "http://issuer.example/device", "userCode": "FAKE-CODE"}
        return {"result": {"type": "chatgptDeviceCode", **code}}

    def cancel_login(self, params: Json) -> Json:
        """Give a device login up."""
        self.after.append(_login_ended(params["loginId"], "Login was not completed"))
        return {"result": {"status": "canceled"}}

    def log_out(self, params: Json) -> Json:
        """Forget the account."""
        self.options["account"] = False
        return {"result": {}}

    def start_turn(self, params: Json) -> Json | None:
        """Start what the message's first word says."""
        text = "".join(part.get("text", "") for part in params["input"])
        verb, _, argument = text.partition(" ")
        if verb == "hang":
            return None
        turn = f"turn-{time.monotonic_ns()}"
        self.interrupts[turn] = threading.Event()
        self.steers[turn] = queue.SimpleQueue()
        if verb == "vanish" and len(_read_notes(self.directory / "starts.jsonl")) == 1:
            os._exit(9)
        if verb in ("late", "lazy"):
            self.refusing.add(turn)
        if verb == "lazy":
            self.unbegun.add(turn)
        if verb == "deaf":
            self.interrupts.pop(turn)
            self.steers.pop(turn)
        play = Turn(self, params["threadId"], turn)
        self.next_turn = threading.Thread(target=Turn.PLAYS[verb], args=(play, argument), daemon=True)
        return {"result": {"turn": _turn(turn, "inProgress")}}

    def interrupt(self, params: Json) -> Json | None:
        """Interrupt a turn; a deaf one never hears of it."""
        interrupted = self.interrupts.get(params["turnId"])
        if interrupted is None:
            return None
        if params["turnId"] not in self.unbegun:
            interrupted.set()
        if params["turnId"] in self.refusing:
            return {"error": {"code": -32600, "message": "no active turn to interrupt"}}
        return {"result": {}}

    def steer(self, params: Json) -> Json:
        """Give a turn more to read; it may be one that never looks."""
        turn = params["expectedTurnId"]
        if turn not in self.steers:
            return {"error": {"code": -32600, "message": "no active turn to steer"}}
        self.steers[turn].put(params)
        return {"result": {"turnId": turn}}

    METHODS: ClassVar[dict[str, Callable[["AppServer", Json], Json | None]]] = {
        "initialize": initialize,
        "thread/start": start_thread,
        "thread/resume": resume_thread,
        "thread/inject_items": inject_items,
        "thread/unsubscribe": unsubscribe,
        "command/exec": exec_command,
        "account/read": read_account,
        "account/login/start": start_login,
        "account/login/cancel": cancel_login,
        "account/logout": log_out,
        "turn/start": start_turn,
        "turn/interrupt": interrupt,
        "turn/steer": steer,
    }


def _login_ended(login: str, error: str) -> Json:
    params = {"loginId": login, "success": False, "error": error}
    return {"method": "account/login/completed", "params": params}


def _turn(turn: str, status: str) -> Json:
    return {"id": turn, "items": [], "status": status, "error": None}


class Turn:
    """One turn of the fake: begins, plays, ends."""

    def __init__(self, server: AppServer, thread: str, turn: str) -> None:
        self.server = server
        self.thread = thread
        self.turn = turn
        self.item = f"item-{turn}"
        self.spoken: list[str] = []

    def tell(self, method: str, **params: object) -> None:
        """Send one notification of this turn."""
        self.server.tell(method, self.thread, turnId=self.turn, **params)

    def begin(self) -> None:
        """Open the turn and its message."""
        self.server.tell("turn/started", self.thread, turn=_turn(self.turn, "inProgress"))
        self.tell("item/started", item={"type": "agentMessage", "id": self.item, "text": ""})

    def delta(self, text: str) -> None:
        """Say a part of the message."""
        self.spoken.append(text)
        self.tell("item/agentMessage/delta", itemId=self.item, delta=text)

    def hear(self) -> str:
        """Wait for a text that steers the turn, put it into the conversation, and begin another message."""
        params = self.server.steers[self.turn].get()
        item = {"type": "userMessage", "id": "item-user", "clientId": params["clientUserMessageId"]}
        self.tell("item/started", item=item)
        self.tell("item/completed", item=item)
        return "".join(part.get("text", "") for part in params["input"])

    def listen(self, _: str) -> None:
        """Say what it is steered with."""
        self.begin()
        self.delta("listening")
        text = self.hear()
        self.item = f"{self.item}-2"
        self.spoken.clear()
        self.tell("item/started", item={"type": "agentMessage", "id": self.item, "text": ""})
        self.delta(text)
        self.end()

    def brink(self, _: str) -> None:
        """Be steered in the very last moment."""
        self.begin()
        self.delta("listening")
        self.hear()
        self.server.tell("turn/completed", self.thread, turn=_turn(self.turn, "completed"))

    def end(self, status: str = "completed") -> None:
        """Close the message and the turn."""
        self.server.steers.pop(self.turn, None)
        if status == "completed":
            item = {"type": "agentMessage", "id": self.item, "text": "".join(self.spoken)}
            self.tell("item/completed", item=item)
        self.server.tell("turn/completed", self.thread, turn=_turn(self.turn, status))

    def say(self, text: str) -> None:
        """Say the words of a text."""
        self.begin()
        for index, word in enumerate(text.split(" ")):
            self.delta(word if index == 0 else f" {word}")
        self.end()

    def big(self, size: str) -> None:
        """Write two lines of that many bytes."""
        self.begin()
        self.delta("x" * int(size))
        self.end()

    def burst(self, count: str) -> None:
        """Say that many deltas, numbered."""
        self.begin()
        for number in range(int(count)):
            self.delta(f"{number},")
        self.end()

    def flood(self, megabytes: str) -> None:
        """Say so many megabytes in large deltas."""
        self.begin()
        for _ in range(int(megabytes) * 20):
            self.delta("x" * 50_000)
        self.end()

    def stay(self, _: str) -> None:
        """Wait for an interrupt."""
        self.begin()
        self.delta("staying")
        self.server.interrupts[self.turn].wait()
        self.end("interrupted")

    def lazy(self, _: str) -> None:
        """Begin late, then wait for an interrupt."""
        time.sleep(0.3)
        self.server.refusing.discard(self.turn)
        self.server.unbegun.discard(self.turn)
        self.stay("")

    def late(self, _: str) -> None:
        """End just when an interrupt comes."""
        self.begin()
        self.delta("late")
        self.server.interrupts[self.turn].wait()
        self.end()

    def deaf(self, _: str) -> None:
        """Never end, whatever comes."""
        self.begin()
        self.delta("deaf")

    def quit(self, _: str) -> None:
        """Interrupt itself."""
        self.begin()
        self.delta("quitting")
        self.end("interrupted")

    def die(self, words: str) -> None:
        """End the whole process in mid-turn."""
        self.begin()
        self.delta("last words")
        print(words, file=sys.stderr, flush=True)
        os._exit(7)

    def ask(self, method: str) -> None:
        """Send a server request whose id is 0, and say what was answered."""
        self.begin()
        (answer,) = self.request([{"id": 0, "method": method, "params": {"command": "true"}}])
        self.delta(json.dumps(answer))
        self.end()

    def asks(self, requests: str) -> None:
        """Send server requests, and say how many were answered."""
        self.begin()
        self.delta(f"{len(self.request(json.loads(requests)))} answers")
        self.end()

    def request(self, requests: list[Json]) -> list[Json]:
        """Send server requests; return the answers in the order in which they came."""
        for request in requests:
            if "item" in request:
                self.tell("item/started", item=request["item"])
            params = {"threadId": self.thread, "turnId": self.turn, "itemId": "item-0", **request["params"]}
            self.server.write({"id": request["id"], "method": request["method"], "params": params})
        resolved = [request["id"] for request in requests if request.get("resolve")]
        if resolved:
            (self.server.directory / "gate").read_bytes()
        for each in resolved:
            self.server.tell("serverRequest/resolved", self.thread, requestId=each)
        wanted = [each["id"] for each in requests if not each.get("resolve") and not each.get("forget")]
        with self.server.answered:
            self.server.answered.wait_for(lambda: len(self.answers(wanted)) == len(wanted))
            return self.answers(wanted)

    def answers(self, wanted: list[Any]) -> list[Json]:
        """Return the answers that have come."""
        return [answer for answer in self.server.answers if answer["id"] in wanted]

    def garbage(self, _: str) -> None:
        """Write what is no JSON-RPC between two deltas."""
        self.begin()
        self.delta("before ")
        for line in GARBAGE:
            self.server.write_raw(line + b"\n")
        self.tell("item/agentMessage/delta", unknownField=[1])
        self.delta("after")
        self.end()

    PLAYS: ClassVar[dict[str, Callable[["Turn", str], None]]] = {
        "say": say,
        "big": big,
        "burst": burst,
        "flood": flood,
        "stay": stay,
        "late": late,
        "lazy": lazy,
        "vanish": say,
        "deaf": deaf,
        "quit": quit,
        "die": die,
        "ask": ask,
        "asks": asks,
        "garbage": garbage,
        "listen": listen,
        "brink": brink,
    }


class Exec:
    """One `codex exec`: reads its prompt, plays what its first word says, exits."""

    def __init__(self, server: AppServer, arguments: list[str]) -> None:
        self.server = server
        self.arguments = arguments
        self.thread = f"thread-{os.getpid()}-{time.monotonic_ns()}"

    def serve(self) -> int:
        """Play one turn; return the exit code."""
        entry = {"pid": os.getpid(), "arguments": self.arguments, "environment": dict(os.environ)}
        starts = self.server.starts()
        execs = sum(start["arguments"][0] == "exec" for start in starts)
        options = self.server.options
        if len(starts) < options.get("fail_starts", 0) or execs < options.get("fail_execs", 0):
            self.server.note("starts.jsonl", entry)
            print("the fake Codex refuses to start", file=sys.stderr, flush=True)
            return 3
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self.server.options.get("ignore_term"):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.server.options.get("grandchild"):
            subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL, start_new_session=True)
        prompt = sys.stdin.buffer.read().decode("utf-8-sig")
        self.server.note("starts.jsonl", {**entry, "prompt": prompt})
        message = prompt.rpartition("</earlier_conversation>\n\n")[2]
        verb, _, argument = message.partition(" ")
        return self.PLAYS[verb](self, argument)

    def begin(self, thread: str = "") -> int:
        """Name the thread and open the turn; the exit code when that thread is not known."""
        code = self.open_thread(thread)
        if not code:
            self.server.write({"type": "turn.started"})
        return code

    def open_thread(self, thread: str = "") -> int:
        """Name the thread, which outlives the process, as the real one's does."""
        if "resume" in self.arguments and not thread:
            thread = self.arguments[-2]
            if thread not in self.server.threads():
                message = f"no rollout found for thread id {thread} (code -32600)"
                print(f"Error: thread/resume: thread/resume failed: {message}", file=sys.stderr)
                return 1
        thread = thread or self.thread
        self.server.note("threads.jsonl", {"id": thread})
        self.server.write({"type": "thread.started", "thread_id": thread})
        return 0

    def speak(self, text: str) -> None:
        """Say a message."""
        self.server.write(
            {"type": "item.completed", "item": {"id": "item_0", "type": "agent_message", "text": text}}
        )

    def end(self) -> int:
        """Complete the turn."""
        self.server.write({"type": "turn.completed", "usage": {"input_tokens": 10, "output_tokens": 5}})
        return 0

    def say(self, text: str) -> int:
        """Say a text."""
        code = self.begin()
        if not code:
            self.speak(text)
            self.end()
        return code

    def big(self, size: str) -> int:
        """Say so many bytes on one line."""
        return self.say("x" * int(size))

    def die(self, words: str) -> int:
        """End in mid-turn."""
        self.begin()
        self.server.write({"type": "item.started", "item": {
            "id": "item_0", "type": "command_execution", "command": "ls", "aggregated_output": "", "exit_code": None,
            "status": "in_progress",
        }})  # fmt: skip
        print(words, file=sys.stderr, flush=True)
        return 7

    def garbage(self, _: str) -> int:
        """Write what is no event around a message."""
        self.begin()
        for line in EXEC_GARBAGE:
            self.server.write_raw(line + b"\n")
        self.speak("before and after")
        return self.end()

    def stay(self, _: str) -> int:
        """Wait for SIGINT."""
        interrupted = threading.Event()
        signal.signal(signal.SIGINT, lambda *_: interrupted.set())
        self.begin()
        interrupted.wait()
        return 1

    def deaf(self, _: str) -> int:
        """Never end, whatever comes."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.begin()
        while True:
            time.sleep(60)

    def mute(self, _: str) -> int:
        """Be deaf, and say nothing."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while True:
            time.sleep(60)

    def unborn(self, _: str) -> int:
        """Have a thread and no turn."""
        self.open_thread()
        return self.mute("")

    def linger(self, text: str) -> int:
        """Stay when all is said."""
        self.say(text)
        return self.mute("")

    def refuse(self, text: str) -> int:
        """Refuse the turn."""
        self.open_thread()
        print(f"Error: {text}", file=sys.stderr, flush=True)
        return 1

    def silent(self, _: str) -> int:
        """Leave without a word about the turn."""
        return self.begin()

    def elsewhere(self, text: str) -> int:
        """Answer in a new thread."""
        self.begin(self.thread)
        self.speak(text)
        return self.end()

    PLAYS: ClassVar[dict[str, Callable[["Exec", str], int]]] = {
        "say": say,
        "big": big,
        "die": die,
        "garbage": garbage,
        "stay": stay,
        "deaf": deaf,
        "mute": mute,
        "unborn": unborn,
        "linger": linger,
        "refuse": refuse,
        "silent": silent,
        "elsewhere": elsewhere,
    }


def main(directory: Path, arguments: list[str]) -> int:
    """Be `codex`: print a version, be the app-server, or be one exec."""
    server = AppServer(directory)
    if "--version" in arguments:
        print(f"codex-cli {server.options.get('version', '0.163.0')}")
        return 0
    if arguments[:1] == ["exec"]:
        return Exec(server, arguments).serve()
    if "app-server" not in arguments:
        print(f"the fake Codex has no command {arguments}", file=sys.stderr)
        return 2
    return server.serve(arguments)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
