"""An upstream that answers in the shapes of the OpenAI API, for tests with OpenAI's own clients.

    upstream.refuse(Failure(429, "slow down", headers={"retry-after": "1"}), times=2)   # the next two requests
    upstream.held = upstream.gate()      # every stream stops there behind its first event

It takes the provider's key alone, keeps every request with the digest of its body, and is strict where the
API is: what it does not understand is a 4xx in the API's own words.
"""

import base64
import hashlib
import itertools
import json
import re
import socket
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.support.bridge import API_KEY
from tests.support.upstream import Failure, Gate, ScriptedServer
from tests.support.waiting import BOUND_S

Json = dict[str, Any]

CREATED = 1_750_000_000
MODELS = ("gpt-scripted", "gpt-scripted-mini", "text-embedding-scripted")
DIMENSIONS = 1536
PAGE = 20


def embedding_of(text: str) -> list[float]:
    """Return the vector of a text; its numbers are the same in JSON, in single and in double precision."""
    seed = int(hashlib.sha256(text.encode()).hexdigest()[:4], 16)
    return [((seed * 31 + index * 17) % 2048 - 1024) / 1024 for index in range(DIMENSIONS)]


def words_of(prompt: str) -> list[str]:
    """Return the pieces in which a prompt is answered."""
    return ["You ", "said: ", *re.findall(r"\S+\s*", prompt), " ✓"]


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it came. `abandoned` is set when its peer leaves a held answer."""

    method: str
    target: str
    headers: Json
    raw_headers: str
    body: bytes
    at: float
    abandoned: threading.Event = field(default_factory=threading.Event)

    @property
    def path(self) -> str:
        """The target without its query."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        """The query's values."""
        return dict(parse_qsl(urlsplit(self.target).query))

    @property
    def json(self) -> Json:
        """The body as JSON."""
        decoded: Json = json.loads(self.body)
        return decoded


@dataclass(frozen=True, slots=True)
class StoredFile:
    """What `POST /v1/files` brought."""

    id: str
    name: str
    purpose: str
    content: bytes

    @property
    def json(self) -> Json:
        """The API's file object."""
        return {
            "id": self.id, "object": "file", "bytes": len(self.content), "created_at": CREATED,
            "filename": self.name, "purpose": self.purpose, "status": "processed",
        }  # fmt: skip


def not_found(message: str, code: str | None = None) -> Failure:
    """Return the API's 404."""
    return Failure(404, message, code)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 4 * BOUND_S
    server: ScriptedServer
    seen: Seen

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what came is in `upstream.requests`."""

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def finish(self) -> None:
        self.server.connections.discard(self.connection)
        super().finish()

    def do_any(self) -> None:
        """Take a request and answer it."""
        upstream = self.server.upstream
        headers = {name.lower(): value for name, value in self.headers.items()}
        at = time.monotonic()
        self.seen = Seen(self.command, self.path, headers, str(self.headers), self._read_body(), at)
        failure = upstream.take(self.seen)
        if failure is None and headers.get("authorization") != upstream.expected_authorization:
            failure = Failure(401, "Incorrect API key provided.", "invalid_api_key")
        try:
            if failure is not None:
                return self._fail(failure)
            if upstream.held_head is not None and not upstream.held_head.hold(self.connection):
                raise ConnectionResetError("the peer left before the answer")
            self._route()
        except OSError:  # the peer left
            self.seen.abandoned.set()
            self.close_connection = True

    do_GET = do_POST = do_DELETE = do_any

    def _route(self) -> None:
        words = [self.command, *self.seen.path.removeprefix("/v1/").split("/")]
        match words:
            case ["GET", "models"]:
                self._answer({"object": "list", "data": [_model(name) for name in MODELS]})
            case ["GET", "models", name] if name in MODELS:
                self._answer(_model(name))
            case ["GET", "models", name]:
                self._fail(not_found(f"The model '{name}' does not exist", "model_not_found"))
            case ["POST", "chat", "completions"]:
                self._answer_chat(self.seen.json)
            case ["POST", "responses"]:
                self._answer_response(self.seen.json)
            case ["POST", "embeddings"]:
                self._answer(_embeddings(self.seen.json))
            case [_, "files", *_]:
                self._route_file(words)
            case _:
                self._fail(not_found(f"Invalid URL ({self.command} {self.path})"))

    def _route_file(self, words: list[str]) -> None:
        files = self.server.upstream.files
        stored = files.get(words[2]) if len(words) > 2 else None
        match words:
            case ["POST", "files"]:
                self._answer(self.server.upstream.store(self.seen).json)
            case ["GET", "files"]:
                self._answer(_page(list(files.values()), self.seen.query))
            case ["GET", "files", _] if stored:
                self._answer(stored.json)
            case ["GET", "files", _, "content"] if stored:
                self._send(200, {"content-type": "application/octet-stream"}, stored.content)
            case ["DELETE", "files", _] if stored:
                del files[stored.id]
                self._answer({"id": stored.id, "object": "file", "deleted": True})
            case _:
                self._fail(not_found(f"No such File object: {words[2:]}"))

    def _answer_chat(self, asked: Json) -> None:
        pieces = words_of(asked["messages"][-1]["content"])
        base = {"id": f"chatcmpl-{self._request_id}", "created": CREATED, "model": asked["model"]}
        usage = {"prompt_tokens": 10, "completion_tokens": len(pieces), "total_tokens": 10 + len(pieces)}
        if not asked.get("stream"):
            message = {"role": "assistant", "content": "".join(pieces), "refusal": None}
            choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
            return self._answer({**base, "object": "chat.completion", "choices": [choice], "usage": usage})

        def chunk(delta: Json, finish: str | None = None) -> str:
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            return f"data: {json.dumps({**base, 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"

        first = chunk({"role": "assistant", "content": pieces[0]})
        rest = [chunk({"content": piece}) for piece in pieces[1:]]
        self._stream([first, *rest, chunk({}, "stop"), "data: [DONE]\n\n"])

    def _answer_response(self, asked: Json) -> None:
        pieces = words_of(asked["input"])
        item_id, response_id = f"msg_{self._request_id}", f"resp_{self._request_id}"
        part = {"type": "output_text", "text": "".join(pieces), "annotations": [], "logprobs": []}
        item: Json = {"id": item_id, "type": "message", "role": "assistant", "status": "completed"}
        item["content"] = [part]
        whole = {
            "id": response_id, "object": "response", "created_at": CREATED, "status": "completed", "error": None,
            "incomplete_details": None, "instructions": None, "metadata": {}, "model": asked["model"],
            "output": [item], "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto",
            "tools": [], "top_p": 1.0, "usage": {
                "input_tokens": 10, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 15,
            },
        }  # fmt: skip
        if not asked.get("stream"):
            return self._answer(whole)
        numbers = itertools.count()

        def event(kind: str, **fields: Any) -> str:
            data = json.dumps({"type": kind, "sequence_number": next(numbers), **fields})
            return f"event: {kind}\ndata: {data}\n\n"

        begun = {**item, "status": "in_progress", "content": []}
        place = {"item_id": item_id, "output_index": 0, "content_index": 0}
        self._stream([
            event("response.created", response={**whole, "status": "in_progress", "output": []}),
            event("response.output_item.added", output_index=0, item=begun),
            event("response.content_part.added", **place, part={**part, "text": ""}),
            *(event("response.output_text.delta", **place, delta=piece, logprobs=[]) for piece in pieces),
            event("response.output_text.done", **place, text=part["text"], logprobs=[]),
            event("response.content_part.done", **place, part=part),
            event("response.output_item.done", output_index=0, item=item),
            event("response.completed", response=whole),
        ])  # fmt: skip

    def _stream(self, events: list[str]) -> None:
        """Send events, each in a chunk of its own; the first, and the rest behind the gate when there is one."""
        upstream = self.server.upstream
        self._start(200, {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"})
        for number, text in enumerate(events):
            if number == 1 and upstream.held is not None and not upstream.held.hold(self.connection):
                raise ConnectionResetError("the peer left a stream that was held")
            if number == 2 and upstream.cuts_streams:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            data = text.encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")

    def _answer(self, value: Json) -> None:
        self._send(200, {"content-type": "application/json"}, json.dumps(value, indent=2).encode())

    def _fail(self, failure: Failure) -> None:
        kind = "server_error" if failure.status >= 500 else "invalid_request_error"
        error = {"message": failure.message, "type": kind, "param": None, "code": failure.code}
        body = json.dumps({"error": error}).encode()
        self._send(failure.status, {"content-type": "application/json", **failure.headers}, body)

    def _send(self, status: int, headers: Json, body: bytes) -> None:
        self._start(status, {**headers, "content-length": str(len(body))})
        self.wfile.write(body)

    def _start(self, status: int, headers: Json) -> None:
        self.send_response(status)
        ours = {
            "x-request-id": f"req_{self._request_id}", "openai-version": "2020-10-01",
            "openai-processing-ms": "7", "x-ratelimit-remaining-requests": "9999",
        }  # fmt: skip
        for name, value in {**ours, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    @property
    def _request_id(self) -> str:
        return f"{self.server.upstream.requests.index(self.seen) + 1}"

    def _read_body(self) -> bytes:
        if self.headers.get("transfer-encoding") is None:
            return self.rfile.read(int(self.headers.get("content-length", "0")))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)


def _model(name: str) -> Json:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "the-script"}


def _embeddings(asked: Json) -> Json:
    texts = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
    encode: Callable[[list[float]], Any] = list
    if asked.get("encoding_format") == "base64":

        def encode(vector: list[float]) -> str:
            return base64.b64encode(array("f", vector).tobytes()).decode()

    data = [
        {"object": "embedding", "index": index, "embedding": encode(embedding_of(text))}
        for index, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return {"object": "list", "data": data, "model": asked["model"], "usage": usage}


def _page(files: list[StoredFile], query: dict[str, str]) -> Json:
    ids = [stored.id for stored in files]
    start = ids.index(query["after"]) + 1 if "after" in query else 0
    shown = files[start : start + int(query.get("limit", PAGE))]
    return {
        "object": "list", "data": [stored.json for stored in shown], "has_more": start + len(shown) < len(files),
        "first_id": shown[0].id if shown else None, "last_id": shown[-1].id if shown else None,
    }  # fmt: skip


def _form(seen: Seen) -> Iterator[tuple[str, str | None, bytes]]:
    """Yield name, file name and content of the parts of a multipart/form-data body."""
    boundary = re.search(r'boundary="?([^";]+)', seen.headers["content-type"])
    assert boundary is not None, seen.headers["content-type"]
    mark = b"--" + boundary[1].encode()
    first, *parts, last = seen.body.split(mark)
    assert (first, last.strip()) == (b"", b"--"), "not a whole multipart body"
    for part in parts:
        head, _, content = part.partition(b"\r\n\r\n")
        text = head.decode()
        name, file_name = re.search(r'[; ]name="([^"]*)"', text), re.search(r'filename="([^"]*)"', text)
        assert name is not None, text
        yield name[1], file_name[1] if file_name else None, content.removesuffix(b"\r\n")


class OpenAIUpstream:
    """The server and what it has seen. `errors` holds what went wrong inside it; the fixture fails on any."""

    def __init__(self) -> None:
        self.expected_authorization: str | None = f"Bearer {API_KEY}"
        self.requests: list[Seen] = []
        self.files: dict[str, StoredFile] = {}
        self.errors: list[BaseException | None] = []
        self.held: Gate | None = None
        self.held_head: Gate | None = None
        self.cuts_streams = False
        self._ids = itertools.count(1)
        self._failures: list[Failure] = []
        self._gates: list[Gate] = []
        self._condition = threading.Condition()
        self._server = ScriptedServer(_Handler, self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), name="openai upstream"
        )
        self._thread.start()

    @property
    def base_url(self) -> str:
        """What `CODEX_PROVIDER_API_BASE_URL` has to be."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def gate(self) -> Gate:
        """Make a gate; it opens by itself when the upstream is cleared."""
        gate = Gate()
        self._gates.append(gate)
        return gate

    def refuse(self, failure: Failure, times: int = 1) -> None:
        """Answer the next requests with a failure."""
        self._failures += [failure] * times

    def take(self, seen: Seen) -> Failure | None:
        """Note a request and return the failure that is due (called by the server)."""
        with self._condition:
            self.requests.append(seen)
            self._condition.notify_all()
            return self._failures.pop(0) if self._failures else None

    def store(self, seen: Seen) -> StoredFile:
        """Keep an uploaded file (called by the server)."""
        fields = {name: (file_name, content) for name, file_name, content in _form(seen)}
        name, content = fields["file"]
        stored = StoredFile(f"file-{next(self._ids)}", name or "", fields["purpose"][1].decode(), content)
        self.files[stored.id] = stored
        return stored

    def wait_for(self, count: int, bound_s: float = BOUND_S) -> Seen:
        """Return the request with this number (the first is 1) as soon as it has come."""
        with self._condition:
            if not self._condition.wait_for(lambda: len(self.requests) >= count, bound_s):
                raise AssertionError(f"{len(self.requests)} of {count} requests came in {bound_s:g} s")
            return self.requests[count - 1]

    def clear(self) -> None:
        """Be as new for the next test."""
        for gate in self._gates:
            gate.release()
        self.held = self.held_head = None
        self.cuts_streams = False
        self.requests.clear()
        self.files.clear()
        self._failures.clear()

    def stop(self) -> None:
        """Open the gates, close what is open and join every thread."""
        self.clear()
        self._server.shutdown()
        for connection in list(self._server.connections):
            with suppress(OSError):  # closed by the peer in this moment
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join(BOUND_S)
        for gate in self._gates:
            gate.close()
