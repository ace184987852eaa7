"""A scripted upstream: a real HTTP server on loopback that speaks `POST /v1/responses` and `POST /v1/chat/completions`.

A test gives it a script, a callable that takes one parsed request and returns what to answer:

    upstream.script = rounds(run("echo hi"), patch(add("hero.html", "<h1>Hi</h1>")), say("Done."))
    upstream.script = lambda request: say("You said ", request.user_text)

    gate = upstream.gate()
    upstream.script = rounds(say("first half ", gate, "second half"))
    gate.wait()     # a stream has come to the gate: "first half " is on its way, nothing more
    gate.release()

The same script answers both APIs, each in its own words; `upstream.apis` are those that it has. A request for another
is refused with `upstream.stray`, and its path kept in `upstream.strays`.
Every other request is kept (`upstream.requests`), but GETs, with which the bridge looks whether anybody answers (`upstream.looks`). A stream at a gate notices when its peer leaves
(`request.abandoned`).
"""

import itertools
import json
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.waiting import BOUND_S

Json = dict[str, Any]
_ids = itertools.count(1)

USAGE: Json = {
    "input_tokens": 10,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 15,
}
"""What every model call is said to have used."""


class Gate:
    """Holds every stream that comes to it until it is released."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._arrived = 0
        self._watched, self._opener = socket.socketpair()

    def wait(self, streams: int = 1, bound_s: float = BOUND_S) -> None:
        """Return when this many streams have come to the gate in all."""
        with self._condition:
            if not self._condition.wait_for(lambda: self._arrived >= streams, bound_s):
                raise AssertionError(f"{self._arrived} of {streams} streams came to the gate")

    @property
    def arrived(self) -> int:
        """How many streams have come so far."""
        return self._arrived

    def release(self) -> None:
        """Let everything pass, now and later."""
        self._opener.send(b".")

    def hold(self, peer: socket.socket) -> bool:
        """Wait at the gate; False when the peer went away first."""
        with self._condition:
            self._arrived += 1
            self._condition.notify_all()
        poller = select.poll()
        poller.register(self._watched, select.POLLIN)
        poller.register(peer, select.POLLRDHUP)
        ready = dict(poller.poll(4 * BOUND_S * 1000))
        if not ready:
            raise AssertionError("a stream was held at a gate that nobody released")
        return self._watched.fileno() in ready

    def close(self) -> None:
        """Give the sockets back."""
        self._watched.close()
        self._opener.close()


class Abort:
    """A step that closes the connection where it stands: no end of the stream, no last chunk."""


ABORT = Abort()
Step = Json | Gate | Abort
Part = str | Gate | Abort


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer as server-sent events; `steps` makes them anew for each request, with ids of their own."""

    steps: Callable[[], Iterable[Step]]


@dataclass(frozen=True, slots=True)
class Failure:
    """An answer with an error status and OpenAI's error body."""

    status: int
    message: str = "the scripted upstream refuses"
    code: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Hangup:
    """An answer that is none: the connection is closed without a byte."""


Answer = Stream | Failure | Hangup | Gate
"""A gate as an answer holds the request before its status line, and hangs up when it opens."""


def _created() -> Json:
    return {"type": "response.created", "response": {"id": f"resp_{next(_ids)}"}}


def _completed(usage: Json = USAGE) -> Json:
    return {"type": "response.completed", "response": {"id": f"resp_{next(_ids)}", "usage": usage}}


def _message(parts: Iterable[Part]) -> Iterator[Step]:
    item: Json = {"type": "message", "role": "assistant", "id": f"msg_{next(_ids)}", "content": []}
    yield {"type": "response.output_item.added", "output_index": 0, "item": item}
    said = []
    for part in parts:
        if isinstance(part, str):
            said.append(part)
            delta = {"item_id": item["id"], "output_index": 0, "content_index": 0, "delta": part}
            yield {"type": "response.output_text.delta", **delta}
        else:
            yield part
    whole = {**item, "content": [{"type": "output_text", "text": "".join(said)}]}
    yield {"type": "response.output_item.done", "output_index": 0, "item": whole}


def think(text: str, then: Stream) -> Stream:
    """Have the model think before it answers."""

    def steps() -> Iterator[Step]:
        item: Json = {"type": "reasoning", "id": f"rs_{next(_ids)}", "summary": []}
        place = {"item_id": item["id"], "output_index": 0, "summary_index": 0}
        part = {"type": "summary_text", "text": ""}
        first, *others = then.steps()
        yield first
        yield {"type": "response.output_item.added", "output_index": 0, "item": item}
        yield {"type": "response.reasoning_summary_part.added", **place, "part": part}
        yield {"type": "response.reasoning_summary_text.delta", **place, "delta": text}
        whole = {**item, "summary": [{"type": "summary_text", "text": text}]}
        yield {"type": "response.output_item.done", "output_index": 0, "item": whole}
        yield from others

    return Stream(steps)


def crowded(answer: Stream) -> Stream:
    """Say an answer, and that the conversation now fills more than any model can hold: Codex sums it up then."""
    size = {"input_tokens": 9_000_000, "total_tokens": 9_000_005}
    return Stream(lambda: [*list(answer.steps())[:-1], _completed({**USAGE, **size})])


def _call(name: str, arguments: Json, **more: str) -> Step:
    item = {
        "type": "function_call",
        "name": name,
        "arguments": json.dumps(arguments),
        "call_id": f"call_{next(_ids)}",
        **more,
    }
    return {"type": "response.output_item.done", "output_index": 1, "item": item}


def say(*parts: Part) -> Stream:
    """Answer with one message; each string is a delta, a gate holds the stream, ABORT breaks it off."""
    return Stream(lambda: [_created(), *_message(parts), _completed()])


def run(command: str, *, before: str = "", **arguments: Any) -> Stream:
    """Have Codex run a shell command; `before` is a message said in the same breath."""

    def steps() -> Iterator[Step]:
        yield _created()
        if before:
            yield from _message([before])
        yield _call("exec_command", {"cmd": command, **arguments})
        yield _completed()

    return Stream(steps)


def call(name: str, arguments: Json, **more: str) -> Stream:
    """Have Codex use a tool; `more` are further fields of the call, such as its namespace."""
    return Stream(lambda: [_created(), _call(name, arguments, **more), _completed()])


def calls(*wanted: tuple[str, Json | str], before: str = "") -> Stream:
    """Have several tools used in one answer; arguments that are a text are sent as it is, JSON or not."""

    def steps() -> Iterator[Step]:
        yield _created()
        if before:
            yield from _message([before])
        for name, arguments in wanted:
            step = _call(name, {})
            assert isinstance(step, dict)
            step["item"]["arguments"] = arguments if isinstance(arguments, str) else json.dumps(arguments)
            yield step
        yield _completed()

    return Stream(steps)


def escalate(*commands: str) -> Stream:
    """Have Codex run commands outside of the sandbox, all at once: each asks for an approval."""

    def steps() -> Iterator[Step]:
        yield _created()
        for command in commands:
            asked = {"sandbox_permissions": "require_escalated", "justification": f"May I {command}?"}
            yield _call("exec_command", {"cmd": command, **asked})
        yield _completed()

    return Stream(steps)


def patch(*files: str) -> Stream:
    """Have Codex edit files; see `add`, `change` and `remove`."""
    body = "".join(files)
    return run(f"apply_patch <<'EOF'\n*** Begin Patch\n{body}*** End Patch\nEOF\n")


def add(path: str, text: str) -> str:
    """One part of `patch`: a new file."""
    return f"*** Add File: {path}\n" + "".join(f"+{line}\n" for line in text.splitlines())


def change(path: str, old: str, new: str) -> str:
    """One part of `patch`: one line of a file replaced."""
    return f"*** Update File: {path}\n@@\n-{old}\n+{new}\n"


def remove(path: str) -> str:
    """One part of `patch`: a file deleted."""
    return f"*** Delete File: {path}\n"


@dataclass(eq=False, slots=True)
class Request:
    """One request as it came over the wire. Header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    body: Json
    abandoned: threading.Event = field(default_factory=threading.Event)

    @property
    def input(self) -> list[Json]:
        """The conversation so far: items of a Responses request, messages of a chat request."""
        items: list[Json] = self.body.get("input", self.body.get("messages", []))
        return items

    @property
    def is_chat(self) -> bool:
        return self.path.endswith("/chat/completions")

    @property
    def _last_user(self) -> int:
        return max((i for i, item in enumerate(self.input) if item.get("role") == "user"), default=-1)

    @property
    def user_text(self) -> str:
        """The text of the newest user message."""
        if self._last_user < 0:
            return ""
        content = self.input[self._last_user]["content"]
        if not isinstance(content, str):
            return "".join(part.get("text", "") for part in content)
        # In a chat request Codex's own words are in the same message.
        return content.rpartition("</environment_context>\n\n")[2]

    @property
    def outputs(self) -> list[Any]:
        """The tools' results of this turn, oldest first."""
        newer = self.input[self._last_user + 1 :]
        if self.is_chat:
            return [message["content"] for message in newer if message["role"] == "tool"]
        return [item["output"] for item in newer if item["type"].endswith("_output")]

    @property
    def conversation(self) -> str:
        """The whole input as one text to look things up in."""
        return json.dumps(self.input, ensure_ascii=False)


class ChatWords:
    """Says the steps of an answer as the chunks of a chat completion; a tool call comes in pieces."""

    def __init__(self) -> None:
        self._calls = 0

    def encode(self, step: Json) -> bytes:
        """Return the chunks of one step."""
        return b"".join(f"data: {json.dumps(chunk)}\n\n".encode() for chunk in self._chunks(step)) + (
            b"data: [DONE]\n\n" if step["type"] == "response.completed" else b""
        )

    def _chunks(self, step: Json) -> Iterator[Json]:
        item = step.get("item", {})
        if step["type"] == "response.output_text.delta":
            yield self._chunk({"content": step["delta"]})
        elif step["type"] == "response.reasoning_summary_text.delta":
            yield self._chunk({"reasoning_content": step["delta"]})
        elif step["type"] == "response.output_item.done" and item["type"] == "function_call":
            index, self._calls = self._calls, self._calls + 1
            named = {"name": item["name"], "arguments": ""}
            yield self._chunk(
                {
                    "tool_calls": [
                        {"index": index, "id": item["call_id"], "type": "function", "function": named}
                    ]
                }
            )
            text = item["arguments"]
            for piece in (text[: len(text) // 2], text[len(text) // 2 :]):
                yield self._chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        elif step["type"] == "response.completed":
            yield self._chunk({}, "tool_calls" if self._calls else "stop")
            used = step["response"]["usage"]
            usage = {
                "prompt_tokens": used["input_tokens"],
                "prompt_tokens_details": used["input_tokens_details"],
                "completion_tokens": used["output_tokens"],
                "completion_tokens_details": used["output_tokens_details"],
                "total_tokens": used["total_tokens"],
            }
            yield {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [], "usage": usage}

    @staticmethod
    def _chunk(delta: Json, finish: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]}


Script = Callable[[Request], Answer]


def rounds(*answers: Answer) -> Script:
    """Answer the first call of a turn with the first answer, the one after a tool result with the next..."""
    return lambda request: answers[min(len(request.outputs), len(answers) - 1)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 4 * BOUND_S
    server: "ScriptedServer"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what came is in `upstream.requests`."""

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def do_GET(self) -> None:
        self.server.upstream.looks.append(self.path)
        if self.headers.get("upgrade") is not None:  # Codex with its own sign-in tries a WebSocket first
            self._fail(Failure(426, "no WebSocket here"))
        elif self.path.endswith("/models"):
            data = [{"id": name, "object": "model"} for name in self.server.upstream.models]
            self._answer(200, {"object": "list", "data": data}, {})
        else:
            self._fail(Failure(404, "nothing here"))

    def do_POST(self) -> None:
        request = self._take()
        if not request.path.endswith(self.server.upstream.apis):
            self.server.upstream.strays.append(request.path)
            return self._fail(self.server.upstream.stray)
        self.server.upstream.keep(request)
        answer = self.server.upstream.script(request)
        if isinstance(answer, Gate):
            if not answer.hold(self.connection):
                request.abandoned.set()
            self._hang_up()
        elif isinstance(answer, Hangup):
            self._hang_up()
        elif isinstance(answer, Failure):
            self._fail(answer)
        else:
            try:
                self._stream(answer, request)
            except OSError:  # the peer closed while it was being written to: an interrupt does that
                request.abandoned.set()
                self.close_connection = True

    def _take(self) -> Request:
        raw = self._read_body()
        body = json.loads(raw) if raw else {}
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Request(self.command, self.path, headers, raw, body)

    def _read_body(self) -> bytes:
        if self.headers.get("transfer-encoding") is None:
            return self.rfile.read(int(self.headers.get("content-length", "0")))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):  # the peer was faster
            self.connection.shutdown(socket.SHUT_RDWR)

    def _fail(self, failure: Failure) -> None:
        error = {"message": failure.message, "type": "scripted", "code": failure.code}
        self._answer(failure.status, {"error": error}, failure.headers)

    def _answer(self, status: int, value: Json, headers: Mapping[str, str]) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"content-type": "application/json", **headers}.items():
            self.send_header(name, text)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, answer: Stream, request: Request) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        chat = ChatWords() if request.is_chat else None
        for step in answer.steps():
            if isinstance(step, Abort):
                return self._hang_up()
            if isinstance(step, Gate):
                if not step.hold(self.connection):
                    raise ConnectionResetError("the peer left a stream that was held")
                continue
            event = f"event: {step['type']}\ndata: {json.dumps(step)}\n\n".encode()
            if chat is not None:
                event = chat.encode(step)
            if event:  # an empty chunk would be the last
                self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")


class ScriptedServer(ThreadingHTTPServer):
    """A server whose handlers find `upstream`, and whose connections can be ended; it notes what they raise."""

    daemon_threads = False
    request_queue_size = 256

    def __init__(self, handler: type[BaseHTTPRequestHandler], upstream: Any) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.upstream = upstream
        self.connections: set[socket.socket] = set()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.upstream.errors.append(error)


class Upstream:
    """The server and what it has seen. `errors` holds what scripts raised; the fixture fails on any."""

    def __init__(self) -> None:
        self.script: Script = rounds(say("Hello."))
        self.apis: tuple[str, ...] = ("/responses", "/responses/compact", "/chat/completions")
        self.models: list[str] = []
        self.stray = Failure(404, "there is no such address here")
        self.strays: list[str] = []
        self.requests: list[Request] = []
        self.looks: list[str] = []
        self.errors: list[BaseException | None] = []
        self._condition = threading.Condition()
        self._gates: list[Gate] = []
        self._server = ScriptedServer(_Handler, self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="upstream")
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.server_port

    @property
    def base_url(self) -> str:
        """What `CODEX_PROVIDER_API_BASE_URL` has to be."""
        return f"http://127.0.0.1:{self.port}/v1"

    def gate(self) -> Gate:
        """Make a gate; it opens by itself when the upstream stops."""
        gate = Gate()
        self._gates.append(gate)
        return gate

    def keep(self, request: Request) -> None:
        """Note a request (called by the server)."""
        with self._condition:
            self.requests.append(request)
            self._condition.notify_all()

    def wait_for(self, count: int, bound_s: float = BOUND_S) -> Request:
        """Return the request with this number (the first is 1) as soon as it has come."""
        with self._condition:
            if not self._condition.wait_for(lambda: len(self.requests) >= count, bound_s):
                raise AssertionError(f"{len(self.requests)} of {count} requests came in {bound_s:g} s")
            return self.requests[count - 1]

    def stop(self) -> None:
        """Open the gates, close what is open and join every thread."""
        for gate in self._gates:
            gate.release()
        self._server.shutdown()
        for connection in list(self._server.connections):
            with suppress(OSError):  # closed by the peer in this moment
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join(BOUND_S)
        for gate in self._gates:
            gate.close()
