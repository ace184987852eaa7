"""The dialect of models that only write text: tools are explained in the prompt, and called by blocks in the answer.

What a model writes about its work is no truth about the workspace. One that claims a change where there was none is told so once,
and below the last answer of such a turn stands a line of the bridge that says what was really done.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..errors import UpstreamFailed
from ..limits import MAX_TOLD_ACTIONS, MAX_TOLD_COMMAND_CHARACTERS
from ..model import new_id
from ..protocol import json_codec
from ..protocol.chat import ChatDelta
from ..protocol.intent import Intent, IntentReader
from ..protocol.tools import ToolResult, ToolSpec
from ..protocol.wishes import Wish
from .dialect import CUT, FROM_BRIDGE, NOTHING_SAID, OFFERED, AnswerReader, Reply, ToolCall, result_text

Json = dict[str, Any]

_INSTRUCTIONS = """\
You have no tool interface here: you call a tool by a block in your answer. The block begins and ends on lines of its own:

```tool
{{"tool": "read_file", "input": {{"path": "src/app.py"}}}}
```

Change files with a patch; the lines around a change show where it belongs:

```patch
*** Begin Patch
*** Update File: src/app.py
@@
 def main():
-    return 1
+    return 2
*** Add File: notes.txt
+one line
*** Delete File: old.txt
*** End Patch
```

* A `tool` block holds one JSON object with "tool" and "input". In a text, write \\n for a line break and \\" for a quote.
* An answer may have several blocks; they are carried out in order. End your answer behind the last one: the results come with the \
next message, in `result` blocks. Never write a result yourself.
* Only these blocks do something. A `sh` block and all other code is just read by the person; to show a call, put it in a `text` block \
and write on behind it.
* When nothing is left to do, answer in plain words without such a block.

The tools, with the fields of their input (* must be given):

{tools}
"""
_EXAMPLE = """\
A tool call looks like this:

```tool
{"tool": "read_file", "input": {"path": "src/app.py"}}
```

A change of files is a ```patch block from *** Begin Patch to *** End Patch. If you want no tool, answer in plain words."""
_RESULTS = f"{FROM_BRIDGE} What came of your tool calls:"
_EMPTY = "Your answer was empty."
_MEANT = "Nothing was carried out. If you meant it, write it again as a `tool` or `patch` block; else just give your answer again."
_NOTHING_DONE = (
    "Your answer says that something was done, but in this turn nothing was changed and no command was run: only a `tool` or "
    "`patch` block does something. Do it now by such a block, or say plainly that it was not done."
)
_VERIFIED = "Verified by the bridge:"
_NOTHING = f"{_VERIFIED} in this turn no file was changed and no command was run."

_DONE = (
    "changed|edited|updated|modified|created|added|wrote|written|deleted|removed|renamed|moved|replaced|fixed|implemented|applied|saved|"
    "rewrote|rewritten|inserted|corrected|adjusted|patched|committed|executed|ran|run"
)
_NOT = r"(?:not|never|no|n['\u2019]t|would|could|can|cannot|will|should|must|may|might|if|you|they|he|she|it|that|who)"
_ELSEWHERE = (
    r"\bich habe\b[^\n]{0,120}\b(?:ge\u00e4ndert|bearbeitet|aktualisiert|erstellt|angelegt|geschrieben|gel\u00f6scht|entfernt|"
    r"hinzugef\u00fcgt|umbenannt|ersetzt|behoben|ausgef\u00fchrt)\b"
    r"|\bwurden?\b[^\n]{0,80}\b(?:ge\u00e4ndert|aktualisiert|erstellt|angelegt|gel\u00f6scht|entfernt|hinzugef\u00fcgt|ersetzt|behoben)\b"
    r"|\bj['\u2019]ai (?:bien )?(?:modifi\u00e9|cr\u00e9\u00e9|ajout\u00e9|supprim\u00e9|mis \u00e0 jour|corrig\u00e9|remplac\u00e9)"
    r"|\bhe (?:modificado|creado|a\u00f1adido|eliminado|actualizado|corregido|cambiado)\b"
)
# What reads as if the model had done something, and, in the passive voice, as if something were done: of that, a file may be the subject
# that was read.
_OWN_CLAIM = re.compile(
    rf"\b(?:I|we)(?:['\u2019]ve| have)?(?: (?!{_NOT}\b)\w{{1,20}}){{0,3}} (?:{_DONE})\b|{_ELSEWHERE}|{_VERIFIED}",
    re.IGNORECASE,
)
_CLAIM = re.compile(
    rf"{_OWN_CLAIM.pattern}"
    rf"|\b(?:has|have) (?:now |just |also |successfully )*been (?:now |successfully )?(?:{_DONE})\b"
    rf"|\b(?:is|are|was|were) (?:now |successfully )(?:been )?(?:{_DONE})\b|\bsuccessfully (?:{_DONE})\b",
    re.IGNORECASE,
)
_ALL_DONE = re.compile(
    r"\A\W*(?:(?:all )?done|finished|completed|fixed|erledigt|fertig|listo|hecho|fait|termin\u00e9)\b",
    re.IGNORECASE,
)
_KINDS = {"add": "added", "delete": "deleted", "update": "changed"}


class BridgeTools:
    """Implements the `Dialect` port for one turn."""

    def __init__(self) -> None:
        self._has_called = self._has_changed = False
        self._is_repaired = True
        self._asked: set[str] = set()
        self._last_text = ""

    def instructions(self) -> str:
        """Explain the blocks and the tools."""
        return _INSTRUCTIONS.format(tools="\n".join(map(_describe, OFFERED.values())))

    def request_fields(self) -> Json:
        """Return nothing: all is in the text."""
        return {}

    def reader(self) -> AnswerReader:
        """Return what reads the next answer."""
        return _Reader(self)

    def results(self, done: Sequence[tuple[ToolCall, ToolResult]]) -> list[Json]:
        """Return one message with a `result` block for each call."""
        self._has_called = True
        for call, result in done:
            if result.is_ok and call.name in OFFERED and OFFERED[call.name].is_mutating:
                self._has_changed = True
        told = [
            f"{call.name or 'unreadable'}:\n```result\n{result_text(result)}\n```" for call, result in done
        ]
        return [{"role": "user", "content": "\n\n".join([_RESULTS, *told])}]

    def correction(self, problem: str) -> Json:
        """Return the message that says what was wrong, with an example."""
        return {"role": "user", "content": f"{FROM_BRIDGE} {problem}\n\n{_EXAMPLE}"}

    def closing(self, done: Sequence[tuple[ToolCall, ToolResult]]) -> str:
        """Return what was really done, when something was or the model has said so; who was told that it is not true may find other words."""
        acted = [(call, result) for call, result in done if OFFERED[call.name].is_mutating]
        if acted:
            return _tell(acted)
        has_claimed = (
            "claim" in self._asked or _CLAIM.search(self._last_text) or _ALL_DONE.search(self._last_text)
        )
        return _NOTHING if has_claimed else ""

    def judge(self, text: str, intent: Intent, is_cut: bool) -> Reply:
        """Return an answer as the loop takes it; raise `UpstreamFailed` when a repair was asked for and is none."""
        self._last_text = text
        message = {"role": "assistant", "content": intent.content.strip() or NOTHING_SAID}
        broken = [wish.problem for wish in intent.wishes if wish.problem is not None]
        if len(broken) < len(intent.wishes):
            self._is_repaired = True
            return Reply(tuple(map(_to_call, intent.wishes)), message)
        if broken or not text:
            problem = broken[0] if broken else CUT if is_cut else _EMPTY
            self._ask_for_repair(f"{problem} {CUT}" if broken and is_cut else problem)
            return Reply((), message, problem)
        self._is_repaired = True
        return Reply((), message, self._doubt(text, intent.hint))

    def _ask_for_repair(self, problem: str) -> None:
        if not self._is_repaired:
            told = f"The model was asked to repair its answer, and the next one could not be used either: {problem}"
            raise UpstreamFailed(told, code="model_misbehaved")
        self._is_repaired = False

    def _doubt(self, text: str, hint: str | None) -> str | None:
        """Return what the model is asked, once in a turn, before its answer is taken as the last."""
        if hint is not None and "hint" not in self._asked:
            self._asked.add("hint")
            return f"{hint} {_MEANT}"
        claim = _OWN_CLAIM if self._has_called else _CLAIM
        if not self._has_changed and "claim" not in self._asked and claim.search(text):
            self._asked.add("claim")
            return _NOTHING_DONE
        return None


class _Reader:
    """Reads one answer; white space at its end is not shown, as it may stand before a block."""

    def __init__(self, turn: BridgeTools) -> None:
        self._turn = turn
        self._intent = IntentReader(OFFERED)
        self._shown: list[str] = []
        self._blank: list[str] = []
        self._finish = ""

    def feed(self, delta: ChatDelta) -> str:
        """Take the next delta; return the text of it that is no block."""
        self._finish = delta.finish_reason or self._finish
        return self._show(self._intent.feed(delta.text))

    def end(self) -> tuple[str, Reply]:
        """Return the answer."""
        rest, intent = self._intent.end()
        rest = self._show(rest)
        return rest, self._turn.judge("".join(self._shown).strip(), intent, self._finish == "length")

    def _show(self, text: str) -> str:
        stripped = text.rstrip()
        if not stripped:
            self._blank.append(text)
            return ""
        shown = "".join([*self._blank, stripped])
        self._blank = [text[len(stripped) :]]
        self._shown.append(shown)
        return shown


def _describe(spec: ToolSpec) -> str:
    fields = [
        f"  {name}{'*' if name in spec.required else ''} ({_type(schema)}): {schema['description']}"
        for name, schema in spec.properties.items()
    ]
    return "\n".join([f"{spec.name}: {spec.description}", *fields])


def _type(schema: Json) -> str:
    default = json_codec.encode(schema["default"]).decode() if "default" in schema else ""
    return f"{schema['type']}, {default} by default" if default else str(schema["type"])


def _to_call(wish: Wish) -> ToolCall:
    return ToolCall(new_id("call"), wish.name, wish.arguments, wish.problem)


def _tell(acted: Sequence[tuple[ToolCall, ToolResult]]) -> str:
    told = list(dict.fromkeys(each for call, result in acted for each in _tell_one(call, result)))
    more = len(told) - MAX_TOLD_ACTIONS
    told[MAX_TOLD_ACTIONS:] = [f"and {more} more"] if more > 0 else []
    return f"{_VERIFIED} {'; '.join(told)}."


def _tell_one(call: ToolCall, result: ToolResult) -> list[str]:
    """Return what came of a call that may change something, in words."""
    if call.name == "run_command":
        command = " ".join(str(call.arguments.get("command")).split())
        if len(command) > MAX_TOLD_COMMAND_CHARACTERS:
            command = f"{command[:MAX_TOLD_COMMAND_CHARACTERS]}..."
        return [f"ran `{command}` ({_outcome(result)})"]
    if not result.is_ok:
        return [f"an edit was not made ({(result.error or {}).get('code')})"]
    return [_tell_change(file) for file in (result.data or {})["files"]] or ["an edit changed nothing"]


def _tell_change(file: Json) -> str:
    if "move_path" in file:
        return f"moved `{file['path']}` to `{file['move_path']}`"
    return f"{_KINDS[file['action']]} `{file['path']}`"


def _outcome(result: ToolResult) -> str:
    if result.error is not None:
        return f"not run: {result.error.get('code')}"
    exit_code = (result.data or {}).get("exit_code")
    return "its time ran out" if exit_code is None else f"exit code {exit_code}"
