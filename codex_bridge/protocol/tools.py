"""The local tool protocol: the tools, the JSON schema of each one's input, and the shape of what they answer.

No I/O: `workspace.tools` runs them. The schemas use `type`, `description`, `minimum`, `maximum`, `minLength`, `maxLength`,
`additionalProperties` and `default`, and are judged here by the letter.
"""

from __future__ import annotations

from typing import Any

from ..errors import InvalidField
from ..limits import (
    DEFAULT_COMMAND_TIMEOUT_MS,
    DEFAULT_LIST_ENTRIES,
    DEFAULT_LOG_COMMITS,
    DEFAULT_READ_LINES,
    DEFAULT_SEARCH_MATCHES,
    MAX_COMMAND_CHARACTERS,
    MAX_COMMAND_TIMEOUT_MS,
    MAX_CURSOR_CHARACTERS,
    MAX_LIST_ENTRIES,
    MAX_LOG_COMMITS,
    MAX_PATCH_CHARACTERS,
    MAX_PATH_CHARACTERS,
    MAX_PATTERN_CHARACTERS,
    MAX_READ_LINES,
    MAX_SEARCH_MATCHES,
)
from ..values import value

Json = dict[str, Any]


@value
class ToolSpec:
    """One tool. `is_mutating`: it may change the workspace, so it follows the session's approval policy."""

    name: str
    description: str
    properties: Json
    required: tuple[str, ...] = ()
    is_mutating: bool = False

    @property
    def input_schema(self) -> Json:
        """The JSON schema of its input."""
        return {
            "type": "object",
            "properties": self.properties,
            "required": list(self.required),
            "additionalProperties": False,
        }

    def to_json(self) -> Json:
        return {
            "name": self.name,
            "description": self.description,
            "mutating": self.is_mutating,
            "input_schema": self.input_schema,
        }


@value
class FileEdit:
    """What became of a file's text, None where there is no file, and where it was moved. Paths are relative."""

    path: str
    before: str | None
    after: str | None
    new_path: str | None = None


@value
class ToolResult:
    """What a tool answers: its data, or an error with a code. `limits` are those that cut the data short.

    `diffs` are the changes to files, one for each, in the shape of the `changes` of Codex's item `fileChange`; `edits`
    are the same with the whole texts, of which a turn's diff is made.
    """

    data: Json | None = None
    error: Json | None = None
    limits: tuple[Json, ...] = ()
    diffs: tuple[Json, ...] = ()
    edits: tuple[FileEdit, ...] = ()

    @property
    def is_ok(self) -> bool:
        return self.error is None

    def to_json(self) -> Json:
        """Return `{"ok": true, "data", "limits"?}`, or `{"ok": false, "error": {"code", "message", ...}}`."""
        if self.error is not None:
            return {"ok": False, "error": self.error}
        told: Json = {"ok": True, "data": self.data}
        if self.limits:
            told["limits"] = list(self.limits)
        return told


def limit_hit(name: str, most: int, message: str) -> Json:
    """Return what tells that a limit cut a result short; the message says how to get the rest."""
    return {"limit": name, "value": most, "message": message}


def refusal(code: str, message: str, **details: Any) -> ToolResult:
    """Return the answer of a tool that could not do what it was asked."""
    return ToolResult(error={"code": code, "message": message, **details})


def _text(description: str, most: int) -> Json:
    return {"type": "string", "description": description, "maxLength": most, "minLength": 1}


def _path(description: str) -> Json:
    return _text(description, MAX_PATH_CHARACTERS)


def _number(description: str, default: int, least: int, most: int) -> Json:
    return {
        "type": "integer", "description": description, "minimum": least, "maximum": most, "default": default,
    }  # fmt: skip


def _flag(description: str) -> Json:
    return {"type": "boolean", "description": description, "default": False}


_CURSOR = _text("The `next_cursor` of the page before.", MAX_CURSOR_CHARACTERS)
_DIRECTORY = {**_path("A directory of the workspace."), "default": "."}

TOOLS: dict[str, ToolSpec] = {
    spec.name: spec
    for spec in (
        ToolSpec(
            "list_files",
            "List the files and directories of the workspace, sorted by path. Paths are relative to its root.",
            {
                "path": _DIRECTORY,
                "recursive": _flag("Also what lies below its directories; .git is left out."),
                "pattern": _text(
                    "Only paths that match this glob, such as *.py or src/**/*.ts; all others with ! in front.",
                    MAX_PATTERN_CHARACTERS,
                ),
                "limit": _number("How many entries.", DEFAULT_LIST_ENTRIES, 1, MAX_LIST_ENTRIES),
                "cursor": _CURSOR,
            },
        ),
        ToolSpec(
            "read_file",
            "Read lines of a text file. The answer has the lines, whether there are more, and the sha256 of the file.",
            {
                "path": _path("The file."),
                "start_line": _number("The first line, from 1.", 1, 1, 1 << 31),
                "limit": _number("How many lines.", DEFAULT_READ_LINES, 1, MAX_READ_LINES),
            },
            ("path",),
        ),
        ToolSpec(
            "search_text",
            "Find lines that match a regular expression, or contain a text, in the files of the workspace.",
            {
                "query": _text("What to look for.", MAX_PATTERN_CHARACTERS),
                "regex": _flag("The query is a regular expression, not a plain text."),
                "ignore_case": _flag("Upper and lower case are the same."),
                "path": {**_path("Only in this directory or file."), "default": "."},
                "pattern": _text(
                    "Only in files whose path matches this glob; in all others with ! in front: !node_modules.",
                    MAX_PATTERN_CHARACTERS,
                ),
                "limit": _number("How many matching lines.", DEFAULT_SEARCH_MATCHES, 1, MAX_SEARCH_MATCHES),
            },
            ("query",),
        ),
        ToolSpec(
            "run_command",
            "Run a shell command in the workspace, in a sandbox without network. The answer has its exit code and output.",
            {
                "command": _text(
                    "The command, for bash, or /bin/sh where there is none.", MAX_COMMAND_CHARACTERS
                ),
                "cwd": _DIRECTORY,
                "timeout_ms": _number(
                    "Its time in milliseconds.", DEFAULT_COMMAND_TIMEOUT_MS, 1, MAX_COMMAND_TIMEOUT_MS
                ),
            },
            ("command",),
            is_mutating=True,
        ),
        ToolSpec(
            "git_status", "Tell the branch and the changed files of the workspace's git repository.", {}
        ),
        ToolSpec(
            "git_log",
            "List the newest commits.",
            {
                "path": _path("Only commits that touch this path."),
                "limit": _number("How many commits.", DEFAULT_LOG_COMMITS, 1, MAX_LOG_COMMITS),
            },
        ),
        ToolSpec(
            "git_diff",
            "Show changes as a unified diff: of the working tree, or of what is staged.",
            {
                "path": _path("Only of this path."),
                "staged": _flag("What is staged, against the last commit."),
            },
        ),
        ToolSpec(
            "apply_patch",
            "Change files. The patch is in Codex's grammar, from *** Begin Patch to *** End Patch with *** Add File:, *** Update File:, "
            "*** Move to:, *** Delete File:, @@ and lines that begin with a space, - or +; or it is a unified diff. "
            "Everything is checked before anything is written. The answer has the diff that was made.",
            {
                "patch": _text("The patch.", MAX_PATCH_CHARACTERS),
                "expected_sha256": {
                    "type": "object",
                    "description": "By path, the sha256 that a file must still have; else nothing is written.",
                    "additionalProperties": {"type": "string"},
                },
            },
            ("patch",),
            is_mutating=True,
        ),
    )
}

_TYPES: dict[str, tuple[type, str]] = {
    "string": (str, "a text"),
    "integer": (int, "a whole number"),
    "boolean": (bool, "true or false"),
    "object": (dict, "a JSON object"),
}
_WORDS = {
    **{kind: words for kind, words in _TYPES.values()},
    float: "a number with a fraction",
    list: "a list",
}


def check_input(spec: ToolSpec, value: Json) -> Json:
    """Return a tool's input with the defaults filled in; raise `InvalidField` that names the field."""
    for name in value:
        if name not in spec.properties:
            known = ", ".join(spec.properties) or "none"
            raise InvalidField(name, f"{name[:80]}: {spec.name} has no such field; expected: {known}.")
    checked: Json = {}
    for name, schema in spec.properties.items():
        # Models send null for what they leave out.
        found = value.get(name)
        if found is None:
            if name in spec.required:
                raise InvalidField(
                    name, f"{name}: {spec.name} needs it; expected {_TYPES[schema['type']][1]}."
                )
            found = schema.get("default")
        else:
            _check_value(name, schema, found)
        if found is not None:
            checked[name] = found
    return checked


def _check_value(name: str, schema: Json, value: Any) -> None:
    kind, words = _TYPES[schema["type"]]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidField(name, f"{name}: expected {words}; {_WORDS[type(value)]} came.")
    if isinstance(value, dict) and not all(isinstance(each, str) for each in value.values()):
        raise InvalidField(name, f"{name}: expected texts in it.")
    if isinstance(value, str) and not schema.get("minLength", 0) <= len(value) <= schema["maxLength"]:
        raise InvalidField(
            name, f"{name}: expected 1 to {schema['maxLength']} characters; {len(value)} came."
        )
    if kind is int and not schema["minimum"] <= value <= schema["maximum"]:
        raise InvalidField(
            name,
            f"{name}: expected a number from {schema['minimum']} to {schema['maximum']}; {str(value)[:20]} came.",
        )
