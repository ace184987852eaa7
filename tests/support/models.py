"""Scripted chat models of different quality: scripts for `tests.support.upstream` that do the same tasks in every class.

    upstream.script = models.perfect
    bridge.send(session, models.edit("hello.txt", "old", "new"))

Each sees what a real model would see, the messages and the tools of the request, and answers by that alone: a person's words tell
it the task, the results and corrections behind them how far it is. It speaks Codex's tools, those of `model_tools`, or writes
text, whichever it is offered.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.upstream import Answer, Request, Script, add, calls, change, say

Json = dict[str, Any]
Form = str
NATIVE, TOOLS, TEXT = "native", "tools", "text"

_BRIDGE = "[This is the bridge, not the person.]"
_RESULT = re.compile(r"^```result\n(.*)\n```$", re.MULTILINE)
# What the person, or the tools, say of a call that had the wrong form.
_FORM_ERRORS = ("invalid_call", "unknown_tool", "invalid_arguments")
_CODEX_FORM_ERRORS = ("failed to parse function arguments", "unsupported call")


# Tasks, in a person's words -----------------------------------------------------------------------


def read(path: str) -> str:
    """Ask for what a file says."""
    return f"What is written in {path}?"


def search(word: str) -> str:
    """Ask for the file with a word in it."""
    return f"Which file mentions {word}?"


def edit(path: str, old: str, new: str) -> str:
    """Ask for an edit; `old` is a line of the file."""
    return f"In {path}, replace {old} with {new}."


def write(word: str, path: str) -> str:
    """Ask for a new file."""
    return f"Write {word} into {path}."


def run(command: str) -> str:
    """Ask for a command to be run."""
    return f"Run this: {command}"


# What a model sees ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What a call came to."""

    text: str
    code: str | None = None

    @property
    def is_form_error(self) -> bool:
        return self.code in _FORM_ERRORS or any(words in self.text for words in _CODEX_FORM_ERRORS)

    @property
    def exit_code(self) -> str | None:
        found = re.search(r'exited with code (\d+)|"exit_code": ?(\d+)', self.text)
        return found and (found[1] or found[2])

    @property
    def has_failed(self) -> bool:
        return self.code is not None or self.exit_code not in (None, "0") or "rejected" in self.text


@dataclass(frozen=True)
class Seen:
    """A request as a model reads it. `slips` are the calls and answers of this turn that were of no use."""

    form: Form
    task: str
    results: tuple[Result, ...]
    slips: int


def see(request: Request) -> Seen:
    """Read a request."""
    names = {tool.get("function", tool).get("name") for tool in request.body.get("tools", [])}
    form = TOOLS if "read_file" in names else NATIVE if names else TEXT
    start = max(at for at, item in enumerate(request.input) if _is_persons(item))
    found: list[Result] = []
    corrections = 0
    for item in request.input[start + 1 :]:
        text = _text(item)
        if item.get("role") == "tool" or str(item.get("type")).endswith("_output"):
            found.append(_to_result(text))
        elif item.get("role") == "user" and "```result" in text:
            found += map(_to_result, _RESULT.findall(text))
        elif item.get("role") == "user":
            corrections += 1
    good = tuple(result for result in found if not result.is_form_error)
    return Seen(form, _text(request.input[start]), good, corrections + len(found) - len(good))


def _is_persons(item: Json) -> bool:
    return item.get("role") == "user" and not _text(item).startswith(_BRIDGE)


def _text(item: Json) -> str:
    content = item.get("content", item.get("output"))
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content if isinstance(content, str) else json.dumps(content)


def _to_result(text: str) -> Result:
    try:
        value = json.loads(text)
    except ValueError:
        return Result(text)
    if isinstance(value, dict) and isinstance(value.get("error"), dict):
        return Result(str(value["error"].get("message")), value["error"].get("code"))
    return Result(text)


# What it wants --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Wish:
    """A step of a task: a tool of the bridge's with its input, and the command that does the same under Codex."""

    tool: str
    input: Json
    command: str


def wish_read(path: str) -> Wish:
    return Wish("read_file", {"path": path}, f"cat {path}")


def wish_patch(*files: str) -> Wish:
    patch = f"*** Begin Patch\n{''.join(files)}*** End Patch\n"
    return Wish("apply_patch", {"patch": patch}, f"apply_patch <<'EOF'\n{patch}EOF\n")


def wish_run(command: str) -> Wish:
    return Wish("run_command", {"command": command}, command)


def plan(task: str, results: tuple[Result, ...]) -> Wish | str:
    """Return the next step of a task, or the last words."""
    if found := re.search(r"written in (\S+)\?", task):
        return f"It says: {results[0].text}" if results else wish_read(found[1])
    if found := re.search(r"mentions (\w+)\?", task):
        looked = Wish("search_text", {"query": found[1]}, f"grep -rn {found[1]} .")
        return f"It is {_find_path(results[0].text)}." if results else looked
    if found := re.search(r"In (\S+), replace (.+) with (.+)\.", task):
        return _plan_edit(found[1], found[2], found[3], results)
    if found := re.search(r"Write (\w+) into (\S+)\.$", task):
        if not results:
            return wish_patch(add(found[2], found[1]))
        return f"I could not write it: {results[0].text}" if results[0].has_failed else "I have written it."
    if found := re.search(r"Run this: (.+)", task, re.DOTALL):
        return _tell_run(results[0]) if results else wish_run(found[1])
    return "Hello."


def _plan_edit(path: str, old: str, new: str, results: tuple[Result, ...]) -> Wish | str:
    if not results:
        return wish_read(path)
    if old not in results[0].text:
        return f"There is no {old} in {path}."
    if len(results) == 1:
        return wish_patch(change(path, old, new))
    if results[1].has_failed:
        return f"I could not change it: {results[1].text}"
    return f"I have changed {path}."


def _tell_run(result: Result) -> str:
    if result.exit_code is None:
        return f"It was not run: {result.text}"
    cut = (
        " Its output was too long to see all of it."
        if re.search(r"truncated|limits|cut here", result.text)
        else ""
    )
    return f"It ended with exit code {result.exit_code}.{cut}"


def _find_path(text: str) -> str:
    found = re.search(r"[\w./-]+\.[a-z]+\b", text)
    return found[0].removeprefix("./") if found else "nowhere"


# How it says so -------------------------------------------------------------------------------------


def in_pieces(text: str) -> Answer:
    """Say a text in small deltas, as models do."""
    return say(*(text[at : at + 9] for at in range(0, len(text), 9)))


def express(form: Form, wishes: list[Wish], before: str = "", after: str = "") -> Answer:
    """Ask for what is wanted, in the words of a class."""
    if form == NATIVE:
        return calls(*(("exec_command", _command(wish)) for wish in wishes), before=before)
    if form == TOOLS:
        return calls(*((wish.tool, wish.input) for wish in wishes), before=before)
    return in_pieces(f"{before}{''.join(map(_block, wishes))}{after}")


def _command(wish: Wish) -> Json:
    return {"cmd": wish.command, "yield_time_ms": 30_000}


def _block(wish: Wish) -> str:
    if wish.tool == "apply_patch":
        return f"```patch\n{wish.input['patch']}```\n"
    return f"```tool\n{json.dumps({'tool': wish.tool, 'input': wish.input})}\n```\n"


def express_badly(form: Form, wish: Wish) -> Answer:
    """Ask for it in JSON that is broken."""
    broken = json.dumps(_command(wish) if form == NATIVE else wish.input)[:-1]
    if form == NATIVE:
        return calls(("exec_command", broken))
    if form == TOOLS:
        return calls((wish.tool, broken))
    return in_pieces(f'```tool\n{{"tool": "{wish.tool}" "input": {broken}\n```\n')


def express_wrongly(form: Form, wish: Wish) -> Answer:
    """Ask for it with a field that there is not."""
    if form == NATIVE:
        return calls(("exec_command", {"line": wish.command}))
    wrong = {"what": "this", **wish.input}
    if form == TOOLS:
        return calls((wish.tool, wrong))
    return in_pieces(
        _block(Wish("", {}, "")).replace(
            '"tool": "", "input": {}', f'"name": "{wish.tool}", "args": {json.dumps(wrong)}'
        )
    )


# The models -----------------------------------------------------------------------------------------


def _do(seen: Seen) -> Answer:
    step = plan(seen.task, seen.results)
    return in_pieces(step) if isinstance(step, str) else express(seen.form, [step])


def perfect(request: Request) -> Answer:
    """Do what is to be done, in the right form."""
    return _do(see(request))


def sloppy(request: Request) -> Answer:
    """Break the JSON first, then name a field wrongly, then do as it was told."""
    seen = see(request)
    step = plan(seen.task, seen.results)
    if isinstance(step, str) or seen.results or seen.slips > 1:
        return _do(seen)
    return express_wrongly(seen.form, step) if seen.slips else express_badly(seen.form, step)


def chatty(request: Request) -> Answer:
    """Talk before and behind, show an example that is none, and look around with every step."""
    seen = see(request)
    # Each answer has two calls; the second one is what it looks at.
    step = plan(seen.task, seen.results[::2])
    if isinstance(step, str):
        return in_pieces(f"Well!\n\n{step}\n\n```sh\nrm -rf .\n```\n\nNever do that.")
    look = Wish("list_files", {}, "ls")
    return express(
        seen.form, [step, look], "Sure, I will look into it.\n\n", "\nLet us see what comes of it."
    )


def confused(request: Request) -> Answer:
    """Call a tool that there is not, then write a call into the text, then say nothing, then do it."""
    seen = see(request)
    step = plan(seen.task, seen.results)
    if isinstance(step, str) or seen.results or seen.slips > 2:
        return _do(seen)
    if seen.slips == 0:
        wrong = {"target": "all"}
        return (
            calls(("open_everything", wrong))
            if seen.form != TEXT
            else in_pieces(_block(Wish("open_everything", wrong, "")))
        )
    said = json.dumps({"name": step.tool, "arguments": step.input})
    return in_pieces(f"I call it now: <tool_call>{said}</tool_call>") if seen.slips == 1 else say("")


def liar(request: Request) -> Answer:
    """Do nothing, and claim that it is done."""
    return in_pieces(
        f"I have done it! The file was successfully changed, and I ran all tests. ({see(request).task})"
    )


def hopeless(request: Request) -> Answer:
    """Never follow: the same program in a language of its own, whatever it is told."""
    return in_pieces(f"```tool_code\nprint(do({see(request).task!r}))\n```")


MODELS: dict[str, Script] = {
    model.__name__: model for model in (perfect, sloppy, chatty, confused, liar, hopeless)
}
Model = Callable[[Request], Answer]
