"""The offline demo model: a scripted upstream that speaks `/v1/responses` on loopback.

It does not think. It plays one scene, the hero section, and says of itself that it is a script. It is here so
that the bridge can be tried without a key or an account, against the real Codex.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

from ..adapters.http_server import HttpServer, Request, Response, Stream, StreamResponse
from ..api import replies
from ..errors import NotFound
from ..limits import MAX_GATEWAY_BODY_BYTES
from ..protocol import json_codec

MODEL_NAME = "offline-demo"
# About the pace of a real model, so that one can see it stream.
_WORD_DELAY_S = 0.02

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>Hero section</title>
  <style>
    .hero { display: grid; gap: 1.5rem; place-items: center;
            padding: 6rem 1.5rem; text-align: center; font-family: sans-serif;
            color: #fff; background: linear-gradient(135deg, #1e3a8a, #0f766e); }
    .hero h1 { margin: 0; font-size: clamp(2rem, 6vw, 4rem); }
    .hero a { padding: .9rem 2rem; border-radius: 2rem; text-decoration: none;
              color: #1e3a8a; background: #fff; }
  </style>
</head>
<body>
  <section class="hero">
    <h1>Build something people come back to</h1>
    <p>A page made by the offline demo model of Codex Bridge.</p>
    <a href="#start">Get started</a>
  </section>
</body>
</html>
"""

_LOOK_FIRST = "I am the offline demo model, a script without a network. Let me look at the workspace first."
_WRITE_NEXT = "Now I write the hero section."
_DONE = (
    "Done. `{name}` holds a hero section with a heading, a line of text and a call-to-action button. "
    "Codex made the edit in its sandbox and reported it as a verified file change."
)
_ANYTHING_ELSE = (
    "I am the offline demo model, a script: I know one scene. Ask me to create a hero section, "
    "or point the bridge at a real provider with CODEX_PROVIDER_API_BASE_URL and CODEX_PROVIDER_API_KEY."
)


def create_server() -> HttpServer:
    """Return the upstream's server, not listening yet."""
    return HttpServer(_handle, replies.failure)


async def _handle(request: Request) -> Response | StreamResponse:
    if (request.method, request.path) == ("GET", "/v1/models"):
        return replies.ok(data=[{"id": MODEL_NAME}])
    if (request.method, request.path) != ("POST", "/v1/responses"):
        raise NotFound("The offline demo model answers GET /v1/models and POST /v1/responses alone.")
    body = json_codec.decode(await request.read_body(MAX_GATEWAY_BODY_BYTES))
    scene = _choose_scene(body["input"])

    async def run(stream: Stream) -> None:
        async for event in scene:
            await stream.write(
                b"event: %b\ndata: %b\n\n" % (event["type"].encode(), json_codec.encode(event))
            )

    return StreamResponse(200, (("Content-Type", "text/event-stream"),), run)


def _choose_scene(items: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """Return the next answer: what was asked, and how many tool results of this turn have come back."""
    asked = ""
    outputs: list[str] = []
    for item in items:
        if item["type"] == "message" and item["role"] == "user":
            asked = " ".join(str(part.get("text", "")) for part in item["content"])
            outputs = []
        elif item["type"].endswith("_output"):
            outputs.append(json_codec.encode(item["output"]).decode())
    if "hero" not in asked.lower():
        return _answer(_ANYTHING_ELSE)
    if not outputs:
        return _answer(_LOOK_FIRST, "git status --short --branch && ls")
    name = _free_name(outputs[0])
    if len(outputs) == 1:
        added = "\n".join("+" + line for line in _PAGE.splitlines())
        patch = f"*** Begin Patch\n*** Add File: {name}\n{added}\n*** End Patch"
        return _answer(_WRITE_NEXT, f"apply_patch <<'EOF'\n{patch}\nEOF")
    return _answer(_DONE.format(name=name))


def _free_name(listing: str) -> str:
    """Return the first of hero.html, hero-2.html ... that the listing of the workspace does not show."""
    taken = set(re.findall(r"hero[-0-9]*\.html", listing))
    names = ["hero.html", *(f"hero-{number}.html" for number in range(2, len(taken) + 2))]
    return next(name for name in names if name not in taken)


async def _answer(text: str, command: str | None = None) -> AsyncIterator[dict[str, Any]]:
    """Yield the events of one answer: a text, word by word, and a command for Codex to run."""
    yield {"type": "response.created", "response": {"id": "demo"}}
    message: dict[str, Any] = {
        "type": "message",
        "role": "assistant",
        "id": f"m{abs(hash(text))}",
        "content": [],
    }
    yield {"type": "response.output_item.added", "output_index": 0, "item": message}
    for word in re.findall(r"\S+\s*", text):
        yield {
            "type": "response.output_text.delta",
            "item_id": message["id"],
            "output_index": 0,
            "delta": word,
        }
        await asyncio.sleep(_WORD_DELAY_S)
    content = [{"type": "output_text", "text": text}]
    yield {"type": "response.output_item.done", "output_index": 0, "item": {**message, "content": content}}
    if command is not None:
        call = {
            "type": "function_call", "name": "exec_command", "call_id": f"c{abs(hash(command))}",
            "arguments": json_codec.encode({"cmd": command}).decode(),
        }  # fmt: skip
        yield {"type": "response.output_item.done", "output_index": 1, "item": call}
    words = len(text.split())
    usage = {
        "input_tokens": 100, "input_tokens_details": None, "output_tokens": words,
        "output_tokens_details": None, "total_tokens": 100 + words,
    }  # fmt: skip
    yield {"type": "response.completed", "response": {"id": "demo", "usage": usage}}
