"""Intent in a model's text: what is a call, what is only shown, whatever pieces the answer comes in."""

import json
import random
from dataclasses import dataclass
from typing import Any

import pytest

from codex_bridge.errors import InvalidJson
from codex_bridge.limits import MAX_ACTION_CHARACTERS, MAX_ACTIONS
from codex_bridge.protocol import loose_json
from codex_bridge.protocol.intent import Intent, IntentReader

pytestmark = pytest.mark.once

Calls = list[tuple[str, dict[str, Any]]]

PATCH = "*** Begin Patch\n*** Update File: a.md\n@@\n ```sh\n-ls\n+ls -l\n ```\n*** End Patch\n"
DIFF = "--- a/a.md\n+++ b/a.md\n@@ -1,3 +1,3 @@\n ```\n-old\n+new\n ```\n"
LIST = ("list_files", {})
READ = ("read_file", {"path": "a.md"})
EDIT = ("apply_patch", {"patch": PATCH})


def fence(language: str, body: str, mark: str = "```") -> str:
    return f"{mark}{language}\n{body.rstrip()}\n{mark}\n"


def call(name: str = "read_file", **arguments: Any) -> str:
    return json.dumps({"tool": name, "input": arguments or {"path": "a.md"}})


def read(text: str, step: int | None = None) -> tuple[str, Intent]:
    """Feed a text in pieces of `step` characters; return what was shown, and the answer."""
    reader = IntentReader()
    pieces = [text] if step is None else [text[at : at + step] for at in range(0, len(text), step)]
    shown = "".join(reader.feed(piece) for piece in pieces)
    rest, intent = reader.end()
    return shown + rest, intent


def calls_of(intent: Intent) -> Calls:
    return [(wish.name, wish.arguments) for wish in intent.wishes if wish.problem is None]


@dataclass(frozen=True)
class Case:
    """An answer, the calls in it, and what is shown (None: all of it)."""

    name: str
    text: str
    calls: tuple[Any, ...] = ()
    shown: str | None = None


MEANT = [
    Case("fence", fence("tool", call()), (READ,), ""),
    Case("prose around", f"I look.\n\n{fence('tool', call())}\nWait.", (READ,), "I look.\n\n\nWait."),
    Case("no line break at the end", "```tool\n" + call() + "\n```", (READ,), ""),
    Case("unfinished fence", "```tool\n" + call(), (READ,), ""),
    Case("glued end", "```tool\n" + call() + "```", (READ,), ""),
    Case("tildes", fence("tool", call(), "~~~"), (READ,), ""),
    Case("long fence", fence("tool", call(), "`````"), (READ,), ""),
    Case("indented", "1. So:\n   ```tool\n   " + call() + "\n   ```\n", (READ,), "1. So:\n"),
    Case("CRLF", fence("tool", call()).replace("\n", "\r\n"), (READ,), ""),
    Case("upper case", fence("Tool", call()), (READ,), ""),
    Case("other names of the fence", fence("tool_call", call()) + fence("function_call", call()), (READ, READ), ""),
    Case("named in the fence", fence("tool read_file", '{"path": "a.md"}'), (READ,), ""),
    Case("the tool's own fence", fence("read_file", '{"path": "a.md"}'), (READ,), ""),
    Case("a command's own fence", fence("run_command", "ls -l\n"), (("run_command", {"command": "ls -l"}),), ""),
    Case("two fences", fence("tool", call("list_files", path=".")) + fence("tool", call()), (("list_files", {"path": "."}), READ), ""),
    Case("a list", fence("tool", f"[{call()}, {call()}]"), (READ, READ), ""),
    Case("one for each line", fence("tool", f"{call()}\n{call()}"), (READ, READ), ""),
    Case("tool_calls", fence("tool", f'{{"tool_calls": [{call()}]}}'), (READ,), ""),
    Case("tag", f"<tool_call>\n{call()}\n</tool_call>", (READ,), ""),
    Case("tag in a line", f"<tool_call>{call()}</tool_call> So.", (READ,), " So."),
    Case("tags in a line", f"<tool_call>{call()}</tool_call><tool_call>{call()}</tool_call>", (READ, READ), ""),
    Case("unfinished tag", f"<tool_call>{call()}", (READ,), ""),
    Case("Mistral", f"[TOOL_CALLS] [{call()}]", (READ,), ""),
    Case("Qwen", "<tool_call>\n<function=read_file>\n<parameter=path>\na.md\n</parameter>\n<parameter=limit>\n3\n</parameter>\n</function>\n</tool_call>",
         (("read_file", {"path": "a.md", "limit": 3}),), ""),
    Case("Llama", '<function=read_file>{"path": "a.md"}</function>', (READ,), ""),
    Case("patch", fence("patch", PATCH), (EDIT,), ""),
    Case("patch in a tool fence", fence("tool", PATCH), (EDIT,), ""),
    Case("patch in its tool's fence", fence("apply_patch", PATCH), (EDIT,), ""),
    Case("bare patch", f"So:\n{PATCH}Done.", (EDIT,), "So:\nDone."),
    Case("bare patch, CRLF", PATCH.replace("\n", "\r\n"), (EDIT,), ""),
    Case("patch without its last line", fence("patch", PATCH.replace("*** End Patch\n", "")), (EDIT,), ""),
    Case("patch without both", fence("patch", PATCH.replace("*** End Patch\n", "").replace("*** Begin Patch\n", "")), (EDIT,), ""),
    Case("two patches", fence("patch", PATCH + PATCH), (EDIT, EDIT), ""),
    Case("unified diff", fence("patch", DIFF), (("apply_patch", {"patch": DIFF}),), ""),
    Case("prose behind a patch", fence("patch", PATCH) + "Done.", (EDIT,), "Done."),
    Case("example, then meant", fence("json", call("list_files", path="x")) + "Like this:\n" + fence("tool", call()), (READ,),
         fence("json", call("list_files", path="x")) + "Like this:\n"),
]  # fmt: skip

AT_THE_END = [
    Case("json fence", f"I look.\n{fence('json', call())}\n", (READ,), "I look.\n\n"),
    Case("nameless fence", fence("", call()), (READ,), ""),
    Case("whole answer", call(), (READ,), ""),
    Case("whole answer, a list", f"[{call()},\n {call()}]", (READ, READ), ""),
    Case("bare behind prose", f"I look.\n{call()}\n", (READ,), "I look.\n"),
    Case("bare, several lines", json.dumps(json.loads(call()), indent=2), (READ,), ""),
    Case("diff fence", fence("diff", DIFF), (("apply_patch", {"patch": DIFF}),), ""),
    Case("patch in a text fence", fence("text", PATCH), (EDIT,), ""),
    Case("Codex's command", fence("bash", f"apply_patch <<'EOF'\n{PATCH}EOF"), (EDIT,), ""),
    Case("followed by what is meant", fence("json", call()) + fence("tool", call()), (READ, READ), ""),
    Case("bare, then a fence", call() + "\n" + fence("json", call()), (READ, READ), ""),
]

SHOWN = [
    Case("prose", "I have edited a.md for you. It is done."),
    Case("empty", ""),
    Case("white space", " \n\t\n"),
    Case("shell", fence("sh", "rm -rf .")),
    Case("bash", fence("bash", "$ apply\n*** Begin Patch")),
    Case("code", fence("python", 'print({"tool": "read_file"})')),
    Case("a file in JSON", fence("json", '{\n  "name": "demo",\n  "version": "1"\n}') + "That is it."),
    Case("a file in JSON at the end", fence("json", '{"name": "demo", "scripts": {"test": "x"}}')),
    Case("JSON of something", '{"a": 1}\n'),
    Case("a list of numbers", "[1, 2]\n"),
    Case("links", "[a](b)\n[ ] todo\n[x] done\n"),
    Case("a rule", "---\nname: x\n---\n"),
    Case("a list in bold", "*** so ***\n* a\n** b\n"),
    Case("a diff between", "I did this:\n" + fence("diff", DIFF) + "All right?"),
    Case("a call between", "You write:\n" + fence("json", call()) + "and wait."),
    Case("a bare call before prose", call() + "\nThat is how."),
    Case("nested", fence("markdown", fence("tool", call()), "````")),
    Case("nested in tildes", fence("", fence("tool", call()), "~~~")),
    Case("within a line", f"Use ```tool or `{call()}` for it, or `<tool_call>{{}}</tool_call>`."),
    Case("quoted", "".join(f"> {line}\n" for line in fence("tool", call()).splitlines())),
    Case("indented code", "".join(f"    {line}\n" for line in fence("tool", call()).splitlines())),
    Case("an indented tag", f"So:\n    <function=read_file>{{}}</function>\n    {call()}\n"),
    Case("a patch that is quoted", "    *** Begin Patch\n> *** Begin Patch\n"),
    Case("an unfinished example", "```sh\nls\n" + fence("python", "x")),
    Case("HTML", "<tool>x</tool>\n<think\n<b>bold</b>"),
    Case("a fence named as it likes", fence("x" * 200, call())),
    Case("a result without a call", fence("result", '{"ok": true}')),
    Case("a lone mark", "`"),
    Case("marks", "``` ``` ```\n~~~ \n"),
    Case("a name that is none", fence("json", '{"tool": "format_disk", "input": {}}')),
    Case("fields that do not fit", fence("json", '{"tool": "read_file", "input": {"lines": [1]}}')),
]


@pytest.mark.parametrize("case", [*MEANT, *AT_THE_END, *SHOWN], ids=lambda case: case.name)
def test_an_answer_is_read_in_any_pieces(case: Case) -> None:
    expected = case.text if case.shown is None else case.shown
    for step in (None, 1, 2, 3, 7, 64):
        shown, intent = read(case.text, step)
        assert calls_of(intent) == list(case.calls), step
        assert shown == expected, step
        assert [wish.problem for wish in intent.wishes if wish.problem] == []
        assert shown == "".join(part.text for part in intent.parts if not part.is_action)
        assert intent.content == case.text


@pytest.mark.parametrize("case", AT_THE_END, ids=lambda case: case.name)
def test_what_stands_before_prose_is_an_example(case: Case) -> None:
    if case.name == "followed by what is meant":
        return
    text = case.text.rstrip("\n") + "\n\nThat is how one does it."
    shown, intent = read(text)
    assert (shown, intent.wishes) == (text, ())
    assert intent.hint is not None


WRITTEN = [
    '{"name": "read_file", "arguments": {"path": "a.md"}}',
    '{"name": "read_file", "arguments": "{\\"path\\": \\"a.md\\"}"}',
    '{"function": "read_file", "args": {"path": "a.md"}}',
    '{"action": "read_file", "action_input": {"path": "a.md"}}',
    '{"tool_name": "read_file", "parameters": {"path": "a.md"}}',
    '{"tool": "read_file", "params": {"path": "a.md"}}',
    '{"tool": "read_file", "input": "a.md"}',
    '{"tool": "read_file", "path": "a.md"}',
    '{"tool": "read_file", "file_path": "a.md", "thought": "so"}',
    '{"tool": "functions.read_file", "input": {"filename": "a.md"}}',
    '{"tool": "read-file()", "input": {"path": "a.md"}}',
    '{"read_file": {"path": "a.md"}}',
    '{"type": "function", "id": "1", "function": {"name": "read_file", "arguments": "{\\"path\\": \\"a.md\\"}"}}',
    '{"type": "read_file", "path": "a.md"}',
    '{"tool_call": {"name": "read_file", "arguments": {"path": "a.md"}}}',
    "{'tool': 'read_file', 'input': {'path': 'a.md',},}",
    '{tool: "read_file", /* this one */ input: {path: "a.md"}} // so',
    '{"tool": "read_file", # a comment\n "input": {"path": "a.md"},}',
]


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("form", ["tool", "json", "tag", "bare"])
def test_a_call_is_written_in_many_ways(written: str, form: str) -> None:
    wrapped = {"tag": f"<tool_call>{written}</tool_call>", "bare": written}
    assert calls_of(read(wrapped.get(form, fence(form, written)))[1]) == [READ]


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('{"tool": "run_command", "input": {"cmd": ["ls", "-l", "a b"]}}', {"command": "ls -l 'a b'"}),
        ('{"tool": "run_command", "input": {"command": "grep \\d+ a"}}', {"command": "grep \\d+ a"}),
        ('{"tool": "run_command", "input": {"command": "echo one\necho two"}}', {"command": "echo one\necho two"}),
        ('{"tool": "run_command", "input": {"command": """say "hi" now"""}}', {"command": 'say "hi" now'}),
        ('{"tool": "run_command", "input": {"command": "\\ud83d\\ude00",}}', {"command": "\U0001f600"}),
        ('{"tool": "search_text", "input": {"text": "x", "regex": True, "path": None}}', {"query": "x", "regex": True, "path": None}),
        ('{"tool": "apply_patch", "diff": "x"}', {"patch": "x"}),
        ('{"tool": "search_text", "query": "x", "pattern": "*.py"}', {"query": "x", "pattern": "*.py"}),
    ],
)  # fmt: skip
def test_what_is_beyond_doubt_is_repaired(written: str, arguments: dict[str, Any]) -> None:
    assert calls_of(read(fence("tool", written))[1])[0][1] == arguments


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        (fence("tool", ""), "", "there is no JSON"),
        (fence("tool", "Please read a.md."), "", "expected a value, but 'Please read a.md.'"),
        (fence("tool", '{"tool": "read_file" "input": {}}'), "", "line 1: expected a comma or }"),
        (fence("tool", '{\n"tool": "read_file",\n"input": {"path": "say "hi""}}'), "", "line 3: expected a comma or }"),
        ('```tool\n{"tool": "read_file", "input": {"pa', "", "expected the end of the text that begins here"),
        ('```tool\n{"tool": "read_file", "input": {"path": "a"}', "", "but it ends there"),
        (fence("tool", '{"tool": "format_disk", "input": {}}'), "format_disk", "There is no tool 'format_disk'. The tools are: list_files"),
        (fence("tool", '{"input": {}}'), "", 'no "tool"'),
        (fence("tool", '{"tool": "read_file", "input": [1]}'), "read_file", "is not a JSON object"),
        (fence("tool", '{"tool": "list_files", "input": "."}'), "list_files", "is not a JSON object"),
        (fence("tool", "7"), "", "is a JSON object with the fields"),
        (fence("tool", "[" * 100 + "]" * 100), "", "nest"),
        (fence("tool", '{"a":' * 100_000), "", "nest"),
        (fence("tool", '{"tool": "read_file", "input": {"path": "a", "limit": 1' + "0" * 5000 + "}}"), "", "expected a value"),
        (fence("tool_code", "print(read_file('a'))"), "", "expected a value"),
        (fence("patch", "change a to b"), "apply_patch", "neither in Codex's grammar"),
        ("```patch\n" + PATCH.replace("*** End Patch\n", ""), "apply_patch", "no *** End Patch"),
        ("```patch\n" + DIFF, "apply_patch", "breaks off"),
        (PATCH.replace("*** End Patch\n", ""), "apply_patch", "no *** End Patch"),
        (fence("tool", f"[{call()}, {call()}]" * 30), "", "Only the first"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told(text: str, name: str, told: str) -> None:
    for step in (None, 1, 10) if len(text) < 1000 else (None, 1000):
        shown, intent = read(text, step)
        bad = [wish for wish in intent.wishes if wish.problem]
        assert [wish.name for wish in bad] == [name]
        assert told in (bad[0].problem or "")
        assert shown == ""
        assert len(intent.wishes) <= MAX_ACTIONS + 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (fence("json", call()) + "So.", "text stands behind it"),
        (fence("json", '{"tool": "read_file", "input": {"lines": 1}}'), "read_file has no such field"),
        (f"So: <tool_call>{call()}</tool_call>", "does not begin at the start of a line"),
        ("- So\n      ```tool\n      " + call(), "does not begin at the start of a line"),
        ("```tool\n" + " " * (MAX_ACTION_CHARACTERS + 1) + call(), "longer than"),
    ],
)
def test_what_only_looks_like_a_call_is_hinted_at(text: str, told: str) -> None:
    shown, intent = read(text)
    assert (shown, intent.wishes) == (text, ())
    assert told in (intent.hint or "")


def test_results_that_a_model_makes_up_are_dropped() -> None:
    lie = (
        fence("result", '{"ok": true}')
        + "The file is empty.\n"
        + fence("tool", call("run_command", command="rm a.md"))
    )
    shown, intent = read(f"I look.\n{fence('tool', call())}{lie}It is gone.")
    assert shown == "I look.\n"
    assert calls_of(intent) == [READ]
    assert "a result that you wrote yourself" in (intent.wishes[1].problem or "")
    assert "rm a.md" not in intent.content


def test_text_is_shown_as_it_comes() -> None:
    reader = IntentReader()
    assert reader.feed("I ") == "I "
    assert reader.feed("look.\nThen") == "look.\nThen"
    assert reader.feed("\n`") == "\n"
    assert reader.feed("a` is") == "`a` is"
    assert reader.feed("\n```") == "\n"
    assert reader.feed("py\nx = [") == "```py\nx = ["
    assert reader.feed("]\n``") == "]\n"
    assert reader.feed("`\n```tool\n") == "```\n"
    assert reader.feed(call() + "\n```") == ""
    assert reader.feed("\n{") == ""
    assert reader.feed('"name') == ""
    assert reader.feed('d": 1}') == '{"named": 1}'
    assert calls_of(reader.end()[1]) == [READ]


BITS = [
    "```", "````", "~~~", "```tool\n", "```json\n", "```\n", "```patch\n", "```diff\n", "```sh\n", "```result\n", "\n", "\r\n", " ", "   ",
    "<tool_call>", "</tool_call>", "<function=read_file>", "</function>", "[TOOL_CALLS]", "*** Begin Patch\n",
    "*** End Patch\n", "*** Add File: a\n", "+x\n", call(), call(), "{", "}", "[", "]", '"', "'", "\\", ",", "//", "/*", "So it is. ", "\u2028",
    '{"tool":', '{"name": "demo"}', DIFF, PATCH, "a", "<tool_response>", "</tool_response>", "`",
]  # fmt: skip


def test_any_text_is_read_the_same_in_any_pieces() -> None:
    source = random.Random(4)
    for _ in range(1500):
        text = "".join(source.choices(BITS, k=source.randint(1, 25)))
        whole = read(text)
        for step in (1, source.randint(2, 30)):
            assert read(text, step) == whole, text
        shown, intent = whole
        assert len(intent.wishes) <= MAX_ACTIONS + 1
        if not any(word in text for word in ("result", "response")):
            assert intent.content == text
            assert shown == "".join(part.text for part in intent.parts if not part.is_action)


LONG = [
    "`", "~", "{", "[", "<", " ", "\n", "a", "\\", '"', "'", "/*", "*** Begin Patch\n", "```tool\n", "```json\n{", "{\"tool\":", "<tool_call>",
    "<function=a>", "<parameter=a>", "[TOOL_CALLS]", "{}\n", call() + "\n", fence("json", call()), "   ```", "```tool\n{\"",
    "<tool_call><function=a>", "</tool_call>", "<tool_call>{}</tool_call>", "diff --git \n", "\\u", "# ", "\n\n    ```tool",
]  # fmt: skip


@pytest.mark.parametrize("bit", LONG)
def test_long_answers_come_to_an_end(bit: str) -> None:
    """Half a million characters in small pieces: a reader whose work grows faster than they do would not get through."""
    text = bit * (500_000 // len(bit))
    shown, intent = read(text, 7)
    assert len(shown) <= len(text) and len(intent.wishes) <= MAX_ACTIONS + 1


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("{} {}", [{}, {}]),
        ("[1, -2.5, 1e3, true, False, null, None,]", [[1, -2.5, 1000.0, True, False, None, None]]),
        ("{'a': 'it\\'s', \"b\": '''x\ny''',}", [{"a": "it's", "b": "x\ny"}]),
        ('{"a": "\\ud800",}', [{"a": "\ufffd"}]),
        ("{a-b: 1}", [{"a-b": 1}]),
    ],
)
def test_loose_json_is_read(text: str, values: list[Any]) -> None:
    assert loose_json.decode_all(text) == values


@pytest.mark.parametrize(
    "text",
    ["", "{", "[1 2]", "{1: 2}", '{"a" 1}', "'a", "/* ", "nope", "{]", "1.2.3", "--1", "{,}", "\ud800"],
)
def test_what_is_in_doubt_is_not_guessed(text: str) -> None:
    with pytest.raises(InvalidJson):
        loose_json.decode_all(text)
