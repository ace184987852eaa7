"""A Responses request of Codex, said again as Chat Completions. No I/O.

Most has a counterpart. What differs:

* Chat knows functions alone. Freeform tools become functions of one text, `input`; tools in a namespace get its name in
  front of their own; so does Codex's tool search, and the tools that it has found are offered from then on. `ToolBook`
  has the names, and turns a call of one back into the item that Codex understands.
* The instructions of Codex stand in several messages of the role `developer`, which few know. Those before the first other
  message become one of the role `system`, later ones are the user's: the templates of many models take a system message
  at the beginning alone. Messages of one role that follow each other become one, since others insist on turns.
* The calls of one answer belong into one message, and their results right behind it, in their order, each exactly once.
* A tool's result is text; images in it come behind the results, as the user's.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any

from ..errors import BridgeError, InvalidJson
from ..limits import MAX_TOOL_NAME_CHARACTERS
from ..values import value
from . import json_codec

Json = dict[str, Any]

# Fields that both APIs have, under the same name.
_KEPT = ("model", "temperature", "top_p")
_DETAILS = frozenset({"auto", "low", "high"})
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_-]")
# The namespace in which models believe all their tools to be.
_OWN_NAMESPACE = "functions"
_SYSTEM_ROLES = frozenset({"system", "developer"})
_CALLS = frozenset({"function_call", "custom_tool_call", "local_shell_call", "tool_search_call"})
_OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output", "tool_search_output"})
# Tools are offered, not said; a search of the web was the upstream's own before, and its outcome is in the answer.
_UNSAID = frozenset({"additional_tools", "web_search_call"})
_NO_RESULT = "There is no result: the call was interrupted."
_SEE_IMAGES = "The images are in the next message."
_IMAGES = "Images of the results above:"
_FREEFORM = "Put the whole text for this tool into `input`, as it is, without any wrapping of its own."


class ToolKind(StrEnum):
    """What Codex calls a tool, and so which item a call of it is."""

    FUNCTION = "function"
    CUSTOM = "custom"
    TOOL_SEARCH = "tool_search"


@value
class Tool:
    """A tool under Codex's name of it."""

    kind: ToolKind
    name: str
    namespace: str | None = None


class ToolBook:
    """The tools of one request: the functions that the upstream is offered, and what a call of one means to Codex."""

    def __init__(self) -> None:
        self.functions: list[Json] = []
        self.left_out: list[str] = []
        self._tools: dict[str, Tool] = {}
        self._names: dict[tuple[str | None, str], str] = {}
        self._taken: set[str] = set()
        # By Codex's bare name: models leave a namespace away. None where two tools have it.
        self._bare: dict[str, Tool | None] = {}

    def add(self, tools: Iterable[Any], namespace: str | None = None) -> list[str]:
        """Offer tools as Codex declares them; return their names upstream. One that is known already is not added twice."""
        names = []
        for declared in tools:
            kind = declared.get("type") if isinstance(declared, dict) else None
            if kind == "namespace":
                names += self.add(declared.get("tools") or (), str(declared.get("name")))
            elif kind == ToolKind.TOOL_SEARCH and declared.get("execution") == "client":
                names.append(self._offer(Tool(ToolKind.TOOL_SEARCH, kind), declared))
            elif kind in (ToolKind.FUNCTION, ToolKind.CUSTOM):
                tool = Tool(ToolKind(kind), str(declared.get("name")), namespace)
                names.append(self._offer(tool, declared))
            else:
                self.left_out.append(str(kind))
        return names

    def name_of(self, name: str, namespace: str | None = None) -> str:
        """Return the name upstream of a tool, also of one that is not offered any more."""
        found = self._names.get((namespace, name))
        if found is None:
            prefix = "" if namespace in (None, _OWN_NAMESPACE) else f"{str(namespace).rstrip('_')}__"
            found = self._names[namespace, name] = _unique(prefix + name, self._taken)
            self._taken.add(found)
        return found

    def to_item(self, name: str, arguments: str, call_id: str) -> Json:
        """Return the item for Codex of a call that the model has made."""
        tool = self._tools.get(name) or self._bare.get(name.rpartition(".")[2])
        if tool is None:  # Codex tells the model that there is none
            tool = Tool(ToolKind.FUNCTION, name)
        item: Json = {"type": f"{tool.kind}_call", "call_id": call_id}
        if tool.kind is ToolKind.TOOL_SEARCH:
            return {**item, "execution": "client", "arguments": _read_object(arguments) or {}}
        item["name"] = tool.name
        if tool.namespace is not None:
            item["namespace"] = tool.namespace
        if tool.kind is ToolKind.CUSTOM:
            return {**item, "type": "custom_tool_call", "input": _read_freeform(arguments)}
        return {**item, "arguments": arguments or "{}"}

    def _offer(self, tool: Tool, declared: Json) -> str:
        name = self.name_of(tool.name, tool.namespace)
        if name not in self._tools:
            self._tools[name] = tool
            self._bare[tool.name] = None if tool.name in self._bare else tool
            self.functions.append({"type": "function", "function": _function(name, tool, declared)})
        return name


@value
class ChatRequest:
    """What goes upstream, how its tools are called here and there, and the names of what has no counterpart."""

    body: Json
    tools: ToolBook
    left_out: tuple[str, ...]


def to_chat(request: Json, reasoning_field: str | None = None) -> ChatRequest:
    """Translate a request. `reasoning_field` is where this upstream tells its reasoning, and wants it back."""
    items = [item for item in request.get("input") or () if isinstance(item, dict)]
    tools = ToolBook()
    tools.add(request.get("tools") or ())
    for item in items:
        if item.get("type") == "additional_tools":
            tools.add(item.get("tools") or ())
    conversation = _Conversation(items, tools, reasoning_field)
    conversation.write(request.get("instructions"))
    body: Json = {name: request[name] for name in _KEPT if request.get(name) is not None}
    body["messages"] = conversation.messages
    if tools.functions:
        body["tools"] = tools.functions
        body.update(_tool_options(request, tools))
    body.update(_options(request))
    body["stream"] = True
    body["stream_options"] = {"include_usage": True}
    left_out = dict.fromkeys([*tools.left_out, *conversation.left_out])
    return ChatRequest(body, tools, tuple(left_out))


# Tools --------------------------------------------------------------------------------------------


def _function(name: str, tool: Tool, declared: Json) -> Json:
    description = declared.get("description") or ""
    if tool.kind is ToolKind.CUSTOM:
        return {
            "name": name,
            "description": "\n\n".join(
                part for part in (description, _FREEFORM, _grammar(declared.get("format"))) if part
            ),
            "parameters": {
                "type": "object",
                "properties": {"input": {"type": "string"}},
                "required": ["input"],
                "additionalProperties": False,
            },
        }
    parameters = declared.get("parameters") or {"type": "object", "properties": {}}
    made = {"name": name, "description": description, "parameters": parameters}
    return {**made, "strict": True} if declared.get("strict") is True else made


def _grammar(form: Any) -> str:
    """Return what the text must be like: chat cannot hold the model to it, so the model is told."""
    if not isinstance(form, dict) or not form.get("definition"):
        return ""
    return f"The text must match this {form.get('syntax', '')} grammar:\n{form['definition']}"


def _unique(wanted: str, taken: set[str]) -> str:
    """Return a name that chat takes and that nobody has, the same for the same tools."""
    name = _NOT_IN_A_NAME.sub("_", wanted) or "tool"
    if len(name) > MAX_TOOL_NAME_CHARACTERS:
        checksum = binascii.crc32(wanted.encode(errors="replace"))
        name = f"{name[: MAX_TOOL_NAME_CHARACTERS - 9]}_{checksum:08x}"
    number, base = 1, name
    while name in taken:
        number += 1
        name = f"{base[: MAX_TOOL_NAME_CHARACTERS - 1 - len(str(number))]}_{number}"
    return name


def _tool_options(request: Json, tools: ToolBook) -> Json:
    """Return what is said of tools where it differs from what chat takes for granted."""
    options: Json = {}
    choice = request.get("tool_choice")
    if isinstance(choice, dict) and choice.get("name"):
        name = tools.name_of(str(choice["name"]), choice.get("namespace"))
        options["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif choice in ("none", "required"):
        options["tool_choice"] = choice
    if request.get("parallel_tool_calls") is False:
        options["parallel_tool_calls"] = False
    return options


def _options(request: Json) -> Json:
    options: Json = {}
    effort = (request.get("reasoning") or {}).get("effort")
    # Codex names one where it knows the model as one that reasons, or was told to.
    if effort is not None:
        options["reasoning_effort"] = effort
    if request.get("max_output_tokens") is not None:
        options["max_tokens"] = request["max_output_tokens"]
    form = (request.get("text") or {}).get("format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        schema = {name: form[name] for name in ("name", "description", "schema", "strict") if name in form}
        options["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif isinstance(form, dict) and form.get("type") == "json_object":
        options["response_format"] = {"type": "json_object"}
    return options


# Calls --------------------------------------------------------------------------------------------


def _read_object(text: str) -> Json | None:
    try:
        value = json_codec.decode(text.encode(errors="replace"))
    except BridgeError:
        return None
    return value if isinstance(value, dict) else None


def _read_freeform(arguments: str) -> str:
    """Return the text for a freeform tool; a model that did not wrap it, or not as it was told, is understood too."""
    try:
        value = json_codec.decode(arguments.encode(errors="replace"))
    except InvalidJson:
        return arguments
    if isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    elif isinstance(value, dict) and "input" in value:
        value = value["input"]
    return value if isinstance(value, str) else arguments


def _to_call(item: Json, tools: ToolBook) -> Json:
    """Return a call of an earlier answer as the upstream has made it, or would have."""
    kind, name = item["type"], str(item.get("name"))
    if kind == "custom_tool_call":
        arguments = _as_text({"input": item.get("input")})
    elif kind == "local_shell_call":
        name, arguments = "local_shell", _as_text(item.get("action") or {})
    elif kind == "tool_search_call":
        name, arguments = ToolKind.TOOL_SEARCH, _as_text(item.get("arguments") or {})
    else:
        # Templates of many models take arguments apart, and fail where a model had broken them.
        text = str(item.get("arguments") or "{}")
        arguments = text if _read_object(text) is not None else _as_text({"arguments": text})
    function = {"name": tools.name_of(name, item.get("namespace")), "arguments": arguments}
    return {"id": str(item.get("call_id")), "type": "function", "function": function}


def _as_text(value: Any) -> str:
    return json_codec.encode(value).decode()


# The conversation ---------------------------------------------------------------------------------


class _Conversation:
    """Writes the items of a conversation as messages; `left_out` names what could not be said."""

    def __init__(self, items: list[Json], tools: ToolBook, reasoning_field: str | None) -> None:
        self.messages: list[Json] = []
        self.left_out: list[str] = []
        self._items = items
        self._tools = tools
        self._field = reasoning_field
        self._results = {item.get("call_id"): item for item in items if item.get("type") in _OUTPUTS}
        # Reasoning belongs to the turn that goes on; of earlier ones upstreams want none.
        spoken = (at for at, item in enumerate(items) if item.get("role") == "user")
        self._turn_begins = max(spoken, default=0)
        # The answer of the model that is being put together.
        self._said: list[str] = []
        self._thought: list[str] = []
        self._calls: list[Json] = []

    def write(self, instructions: Any) -> None:
        """Write everything, `instructions` first."""
        if instructions:
            self._add("system", [_text_part(str(instructions))])
        for at, item in enumerate(self._items):
            self._take(item, is_now=at > self._turn_begins)
        self._end_answer()

    def _take(self, item: Json, is_now: bool) -> None:
        kind = str(item.get("type", "message"))
        if kind == "message" and item.get("role") == "assistant":
            if self._calls:  # what is said after calls is the next answer
                self._end_answer()
            self._said.append("".join(_texts(item.get("content"))))
        elif kind in _CALLS:
            self._calls.append(_to_call(item, self._tools))
        elif kind == "reasoning":
            if self._calls:
                self._end_answer()
            if is_now and self._field is not None:
                self._thought += _texts(item.get("summary"))
        elif kind == "message":
            self._add_message(item)
        elif kind == "agent_message":
            self._end_answer()
            text = "".join(_texts(item.get("content")))
            self._add("user", [_text_part(f"{item.get('author')} to {item.get('recipient')}: {text}")])
        elif kind in _OUTPUTS:
            self._end_answer()  # which writes the result, once
        elif kind not in _UNSAID:
            self.left_out.append(kind)

    def _add_message(self, item: Json) -> None:
        self._end_answer()
        is_beginning = all(message["role"] == "system" for message in self.messages)
        role = "system" if item.get("role") in _SYSTEM_ROLES and is_beginning else "user"
        self._add(role, list(self._parts(item.get("content"))))

    def _add(self, role: str, parts: list[Json]) -> None:
        if not parts:
            return
        last = self.messages[-1] if self.messages else None
        if last is not None and last["role"] == role:
            parts = [*_as_parts(last["content"]), *parts]
            last["content"] = _content(parts)
        else:
            self.messages.append({"role": role, "content": _content(parts)})

    def _end_answer(self) -> None:
        """Write the model's answer and the results of its calls."""
        text = "\n\n".join(said for said in self._said if said)
        if not (text or self._calls):
            self._thought, self._said = [], []  # of an answer that broke off
            return
        message: Json = {"role": "assistant", "content": text or None}
        if self._calls:
            message["tool_calls"] = self._calls
        if self._field is not None and self._thought:
            message[self._field] = "\n\n".join(self._thought)
        self.messages.append(message)
        images: list[Json] = []
        for call in self._calls:
            images += self._add_result(call["id"])
        if images:
            self._add("user", [_text_part(_IMAGES), *images])
        self._said, self._thought, self._calls = [], [], []

    def _add_result(self, call_id: str) -> list[Json]:
        """Write the result of a call; return the images in it."""
        item = self._results.get(call_id)
        if item is None:
            parts = [_text_part(_NO_RESULT)]
        elif item["type"] == "tool_search_output":
            parts = [_text_part(_as_text({"tools": self._tools.add(item.get("tools") or ())}))]
        else:
            parts = list(self._parts(item.get("output")))
        images = [part for part in parts if part["type"] != "text"]
        text = "\n".join(part["text"] for part in parts if part["type"] == "text")
        content = text or (_SEE_IMAGES if images else "")
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": content})
        return images

    def _parts(self, content: Any) -> Iterator[Json]:
        if isinstance(content, str):
            yield _text_part(content)
            return
        for part in content if isinstance(content, list) else ():
            kind = part.get("type")
            if isinstance(part.get("text"), str):
                yield _text_part(part["text"])
            elif kind == "input_image" and part.get("image_url"):
                detail = part.get("detail")
                image = {"url": part["image_url"], **({"detail": detail} if detail in _DETAILS else {})}
                yield {"type": "image_url", "image_url": image}
            else:
                self.left_out.append(str(kind))


def _texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else ()
    return [part["text"] for part in parts if isinstance(part.get("text"), str)]


def _text_part(text: str) -> Json:
    return {"type": "text", "text": text}


def _as_parts(content: str | list[Json]) -> list[Json]:
    return [_text_part(content)] if isinstance(content, str) else content


def _content(parts: list[Json]) -> str | list[Json]:
    """Return text alone as a text, which every upstream takes."""
    if all(part["type"] == "text" for part in parts):
        return "\n\n".join(part["text"] for part in parts)
    return parts
