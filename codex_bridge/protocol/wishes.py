"""What a model that writes text wants done: the tool calls in a block of its answer, in the spellings that models use. No I/O."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InvalidField, InvalidJson
from . import loose_json
from .patch import BEGIN, END
from .tools import TOOLS, ToolSpec, check_input

Json = dict[str, Any]

NAME_KEYS = ("tool", "name", "tool_name", "function", "function_name", "action")
_ARGUMENT_KEYS = ("input", "arguments", "args", "parameters", "params", "tool_input", "action_input")
_LIST_KEYS = ("tool_calls", "calls", "actions")
CALL_KEYS = frozenset(
    {*NAME_KEYS, *_ARGUMENT_KEYS, *_LIST_KEYS, "function_call", "tool_call", "type", "id", *TOOLS}
)
# What stands beside a call's own fields and is none.
_BESIDE = frozenset({*NAME_KEYS, "type", "id", "call_id", "thought", "reasoning", "explanation"})
# Other words for a field, where the tool has no field of that name.
_OTHER_WORDS = {
    "path": ("file", "filename", "file_name", "file_path", "filepath", "dir", "directory"),
    "query": ("text", "search", "q", "keyword", "term"),
    "command": ("cmd", "script", "shell"),
    "patch": ("diff", "content"),
    "cwd": ("workdir", "working_directory"),
}
_FILE_MARKS = ("*** Add File:", "*** Update File:", "*** Delete File:")
_STARTS = (BEGIN, "diff --git ", "--- ", "apply_patch", *_FILE_MARKS)
_OPENING = re.compile(r"<(?:function|parameter)=([\w.-]{1,80})>\n?")
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Wish:
    """A tool call that was read from a text. `problem`: it cannot be made, and this says why, to the model."""

    name: str
    arguments: Json = field(default_factory=dict)
    problem: str | None = None


def find_flaw(wishes: list[Wish], tools: Mapping[str, ToolSpec]) -> str | None:
    """Return why these are not all calls of tools with fields that fit; None when they are."""
    try:
        for wish in wishes:
            if wish.problem is not None:
                return wish.problem
            check_input(tools[wish.name], wish.arguments)
    except InvalidField as error:
        return error.message
    return None if wishes else "There is nothing in it."


def read_calls(text: str, tool: str = "") -> list[Wish]:
    """Return the calls in a block: JSON, Qwen's `<function=...>`, or a patch. `tool` is what the block itself names.

    What cannot be read is a wish with a problem.
    """
    body = text.strip()
    if is_patch(body) and tool in ("", "apply_patch"):
        return read_patches(body)
    if body.startswith("<function="):
        return [_tagged_call(name, inner) for name, inner in _tagged(body, "</function>")] or [
            Wish("", problem="A <function=...> is not closed with </function>.")
        ]
    if tool == "run_command" and body and not body.startswith(("{", "[")):
        return [Wish(tool, {"command": body})]
    try:
        values = loose_json.decode_all(body)
    except InvalidJson as error:
        return [Wish(tool, problem=f"The JSON of a tool call cannot be read: {error.message}")]
    return [wish for value in values for wish in _from_value(value, tool)]


def is_patch(text: str) -> bool:
    """Say whether a text begins as a patch does, or with Codex's command that makes one."""
    return text.lstrip().startswith(_STARTS)


def may_be_patch(start: str) -> bool:
    """Say whether this may be the begin of a patch."""
    return any(one.startswith(start) for one in _STARTS)


def read_patches(text: str, is_whole: bool = True) -> list[Wish]:
    """Return a wish for each patch in a text; a Codex patch without its last line is taken only when the text is whole."""
    wishes: list[Wish] = []
    lines: list[str] | None = None
    for line in text.split("\n"):
        if line.rstrip() == BEGIN:
            lines = []
        elif line.rstrip() == END and lines is not None:
            wishes.append(_codex_patch(lines))
            lines = None
        elif lines is not None:
            lines.append(line)
    if lines is not None:
        wishes.append(
            _codex_patch(lines) if is_whole else Wish("apply_patch", problem=f"A patch has no {END}.")
        )
    return wishes or [_bare_patch(text, is_whole)]


def _bare_patch(text: str, is_whole: bool) -> Wish:
    body = text.strip("\r\n")
    if not is_whole:
        return Wish("apply_patch", problem="The answer breaks off inside of a patch.")
    if body.startswith(_FILE_MARKS):
        return _codex_patch(body.removesuffix(END).rstrip("\r\n").split("\n"))
    if re.search(r"^(--- |diff --git )", body, re.MULTILINE) is None:
        told = f"A patch is neither in Codex's grammar ({BEGIN}) nor a unified diff (--- and +++ before @@)."
        return Wish("apply_patch", problem=told)
    return Wish("apply_patch", {"patch": body + "\n"})


def _codex_patch(lines: list[str]) -> Wish:
    return Wish("apply_patch", {"patch": "\n".join([BEGIN, *lines, END]) + "\n"})


def _from_value(value: Any, tool: str) -> Iterator[Wish]:
    if isinstance(value, list):
        for each in value:
            yield from _from_value(each, tool)
    elif isinstance(value, dict):
        inner = next((value[key] for key in _LIST_KEYS if isinstance(value.get(key), list)), None)
        if inner is not None:
            yield from _from_value(inner, tool)
        else:
            yield _from_object(value, tool)
    else:
        yield Wish(tool, problem="A tool call is a JSON object with the fields tool and input.")


def _from_object(value: Json, tool: str) -> Wish:
    for outer in ("function", "function_call", "tool_call"):  # OpenAI's own shape
        if isinstance(value.get(outer), dict):
            value = value[outer]
    if len(value) == 1 and (only := next(iter(value))) in TOOLS and isinstance(value[only], dict):
        return _call(only, value[only])
    naming = [key for key in (*NAME_KEYS, "type") if isinstance(value.get(key), str)]
    known = (key for key in naming if _tool_name(value[key]) in TOOLS)
    key = next(known, naming[0] if naming else None)
    if tool and (key is None or _tool_name(value[key]) not in TOOLS):
        return _call(tool, value)
    if key is None:
        return Wish("", problem='A tool call has no "tool", the name of the tool.')
    given = next((value[key] for key in _ARGUMENT_KEYS if key in value), None)
    if given is None:
        given = {
            name: each for name, each in value.items() if name not in _BESIDE and name not in _ARGUMENT_KEYS
        }
    return _call(value[key], given)


def _tool_name(text: str) -> str:
    return text.strip().removesuffix("()").rpartition(".")[2].replace("-", "_").lower()


def _call(name: str, given: Any) -> Wish:
    spec = TOOLS.get(_tool_name(name))
    if spec is None:
        known = ", ".join(TOOLS)
        return Wish(name[:_SHOWN], problem=f"There is no tool {name[:_SHOWN]!r}. The tools are: {known}.")
    if isinstance(given, str):
        given = _from_text(spec, given)
    if not isinstance(given, dict):
        return Wish(spec.name, problem=f'The "input" of {spec.name} is not a JSON object.')
    return Wish(spec.name, _with_known_names(spec, given))


def _from_text(spec: ToolSpec, text: str) -> Any:
    """Read arguments that came as a text: JSON, or the one field that a tool needs."""
    if text.lstrip().startswith("{"):
        try:
            return loose_json.decode_all(text)[0]
        except InvalidJson:
            return None
    return {spec.required[0]: text} if len(spec.required) == 1 else None


def _with_known_names(spec: ToolSpec, given: Json) -> Json:
    arguments = dict(given)
    for name, words in _OTHER_WORDS.items():
        if name in spec.properties and name not in arguments:
            word = next((word for word in words if word in arguments and word not in spec.properties), None)
            if word is not None:
                arguments[name] = arguments.pop(word)
    command = arguments.get("command")
    if (
        spec.name == "run_command"
        and isinstance(command, list)
        and all(isinstance(one, str) for one in command)
    ):
        arguments["command"] = shlex.join(command)
    return arguments


def _tagged_call(name: str, body: str) -> Wish:
    """Read a call whose fields have tags of their own, or are one JSON object."""
    if body.strip().startswith("{"):
        return _call(name, body)
    spec = TOOLS.get(_tool_name(name))
    fields = {key: text.removesuffix("\n") for key, text in _tagged(body, "</parameter>")}
    return _call(
        name, fields if spec is None else {key: _typed(spec, key, text) for key, text in fields.items()}
    )


def _tagged(text: str, end: str) -> Iterator[tuple[str, str]]:
    """Yield the names of tags such as `<function=name>`, and what stands in each."""
    for part in text.split(end)[:-1]:
        if (found := _OPENING.search(part)) is not None:
            yield found[1], part[found.end() :]


def _typed(spec: ToolSpec, name: str, text: str) -> Any:
    if spec.properties.get(name, {}).get("type") in (None, "string"):
        return text
    try:
        return loose_json.decode_all(text)[0]
    except InvalidJson:
        return text
