"""Codex's requests in the words of chat: a table of conversations, one of tools, and one of options.

The shapes of tools and items are those that Codex 0.163 and 0.169 send.
"""

from typing import Any

import pytest

from codex_bridge.limits import MAX_TOOL_NAME_CHARACTERS
from codex_bridge.protocol import json_codec
from codex_bridge.protocol.chat_request import ToolBook, to_chat

Json = dict[str, Any]


def text(role: str, *parts: str) -> Json:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": part} for part in parts]}


def fc(call_id: str, name: str = "run", arguments: str = "{}", **more: str) -> Json:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, **more}


def out(call_id: str, output: Any = "done") -> Json:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def called(call_id: str, name: str = "run", arguments: str = "{}") -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def asks(*calls: Json, said: str | None = None, **more: str) -> Json:
    return {"role": "assistant", "content": said, "tool_calls": list(calls), **more}


def told(call_id: str, content: str = "done") -> Json:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


USER: Json = {"role": "user", "content": "go"}
PNG = "data:image/png;base64,AAAA"
IMAGE: Json = {"type": "image_url", "image_url": {"url": PNG}}
NO_RESULT = "There is no result: the call was interrupted."

CONVERSATIONS: dict[str, tuple[list[Json], list[Json]]] = {
    "plain": ([text("user", "go"), text("assistant", "went")], [USER, {"role": "assistant", "content": "went"}]),
    "a text as content": ([{"role": "user", "content": "go"}], [USER]),
    "the beginning is one system message": (
        [text("developer", "be kind"), text("system", "be brief"), text("user", "go")],
        [{"role": "system", "content": "be kind\n\nbe brief"}, USER],
    ),
    "later instructions are the user's": (
        [text("user", "go"), text("assistant", "went"), text("developer", "be kind"), text("user", "again")],
        [USER, {"role": "assistant", "content": "went"}, {"role": "user", "content": "be kind\n\nagain"}],
    ),
    "neighbours of one role are one": (
        [text("user", "a", "b"), text("user", "c")],
        [{"role": "user", "content": "a\n\nb\n\nc"}],
    ),
    "images": (
        [text("user", "go"), {"type": "message", "role": "user", "content": [
            {"type": "input_image", "image_url": PNG, "detail": "high"}, {"type": "input_text", "text": "see"},
            {"type": "input_image", "image_url": PNG, "detail": "original"}]}],
        [{"role": "user", "content": [
            {"type": "text", "text": "go"}, {"type": "image_url", "image_url": {"url": PNG, "detail": "high"}},
            {"type": "text", "text": "see"}, IMAGE]}],
    ),
    "a call": ([text("user", "go"), fc("1"), out("1")], [USER, asks(called("1")), told("1")]),
    "a call with words before it": (
        [text("user", "go"), text("assistant", "I look."), fc("1"), out("1")],
        [USER, asks(called("1"), said="I look."), told("1")],
    ),
    "parallel calls, results out of order": (
        [text("user", "go"), fc("1"), fc("2"), out("2", "two"), out("1", "one")],
        [USER, asks(called("1"), called("2")), told("1", "one"), told("2", "two")],
    ),
    "calls and results that alternate": (
        [text("user", "go"), fc("1"), out("1", "one"), fc("2"), out("2", "two")],
        [USER, asks(called("1")), told("1", "one"), asks(called("2")), told("2", "two")],
    ),
    "a word of the user between a call and its result": (
        [text("user", "go"), fc("1"), text("user", "faster"), out("1")],
        [USER, asks(called("1")), told("1"), {"role": "user", "content": "faster"}],
    ),
    "words behind calls are the next answer": (
        [text("user", "go"), fc("1"), text("assistant", "Done."), out("1")],
        [USER, asks(called("1")), told("1"), {"role": "assistant", "content": "Done."}],
    ),
    "a call without a result": (
        [text("user", "go"), fc("1"), text("user", "well?")],
        [USER, asks(called("1")), told("1", NO_RESULT), {"role": "user", "content": "well?"}],
    ),
    "a result without a call": ([text("user", "go"), out("9")], [USER]),
    "an empty answer": ([text("user", "go"), text("assistant", ""), text("user", "go")], [
        {"role": "user", "content": "go\n\ngo"}]),
    "broken arguments": (
        [text("user", "go"), fc("1", arguments='{"a": '), out("1")],
        [USER, asks(called("1", arguments='{"arguments":"{\\"a\\": "}')), told("1")],
    ),
    "a freeform call": (
        [text("user", "go"), {"type": "custom_tool_call", "call_id": "1", "name": "apply_patch", "input": "*** \"x\""},
         {"type": "custom_tool_call_output", "call_id": "1", "output": "done"}],
        [USER, asks(called("1", "apply_patch", '{"input":"*** \\"x\\""}')), told("1")],
    ),
    "a call in a namespace": (
        [text("user", "go"), fc("1", "spawn", namespace="agents"), out("1")],
        [USER, asks(called("1", "agents__spawn")), told("1")],
    ),
    "an old shell call": (
        [text("user", "go"), {"type": "local_shell_call", "call_id": "1", "status": "completed",
                              "action": {"type": "exec", "command": ["ls"]}}, out("1")],
        [USER, asks(called("1", "local_shell", '{"type":"exec","command":["ls"]}')), told("1")],
    ),
    "a result in parts": (
        [text("user", "go"), fc("1"), out("1", [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}])],
        [USER, asks(called("1")), told("1", "a\nb")],
    ),
    "images in results come behind them": (
        [text("user", "go"), fc("1"), fc("2"), out("1", [{"type": "input_image", "image_url": PNG}]), out("2")],
        [USER, asks(called("1"), called("2")), told("1", "The images are in the next message."), told("2"),
         {"role": "user", "content": [{"type": "text", "text": "Images of the results above:"}, IMAGE]}],
    ),
    "a word between agents": (
        [{"type": "agent_message", "author": "/root", "recipient": "/root/a", "content": [{"type": "input_text", "text": "hi"}]}],
        [{"role": "user", "content": "/root to /root/a: hi"}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_conversation(name: str) -> None:
    items, messages = CONVERSATIONS[name]
    asked = to_chat({"model": "m", "input": items})
    assert asked.body["messages"] == messages
    assert asked.left_out == ()


def test_the_instructions_come_first() -> None:
    asked = to_chat({"instructions": "be kind", "input": [text("developer", "be brief"), text("user", "go")]})
    assert asked.body["messages"] == [{"role": "system", "content": "be kind\n\nbe brief"}, USER]


def thought(text: str) -> Json:
    return {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": text}]}


def test_reasoning_of_this_turn_goes_back_where_it_came_from() -> None:
    items = [
        text("user", "go"), thought("old"), text("assistant", "went"),
        text("user", "go"), thought("new"), fc("1"), out("1"), thought("newer"), fc("2"), out("2"),
    ]  # fmt: skip
    with_field = to_chat({"input": items}, "reasoning_content").body["messages"]
    assert with_field == [
        USER, {"role": "assistant", "content": "went"}, USER,
        asks(called("1"), reasoning_content="new"), told("1"), asks(called("2"), reasoning_content="newer"), told("2"),
    ]  # fmt: skip
    without = to_chat({"input": items}).body["messages"]
    assert without == [
        {key: value for key, value in message.items() if key != "reasoning_content"} for message in with_field
    ]


def test_reasoning_of_an_answer_that_broke_off_is_nobodys() -> None:
    items = [text("user", "go"), thought("lost"), text("developer", "be kind"), fc("1"), out("1")]
    messages = to_chat({"input": items}, "reasoning").body["messages"]
    assert messages == [{"role": "user", "content": "go\n\nbe kind"}, asks(called("1")), told("1")]


def function(name: str, **more: Any) -> Json:
    return {"type": "function", "name": name, "description": "d", "strict": False, "parameters": {"type": "object"}, **more}  # fmt: skip


def space(name: str, *tools: Json) -> Json:
    return {"type": "namespace", "name": name, "description": "n", "tools": list(tools)}


PATCH: Json = {
    "type": "custom", "name": "apply_patch", "description": "Edit files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: hunk+"},
}  # fmt: skip
SEARCH: Json = {
    "type": "tool_search",
    "execution": "client",
    "description": "s",
    "parameters": {"type": "object"},
}
LONG = "x" * 80

NAMES: dict[str, tuple[list[Json], list[str]]] = {
    "a function": ([function("run")], ["run"]),
    "a namespace": ([space("agents", function("spawn"), function("wait"))], ["agents__spawn", "agents__wait"]),
    "the models' own namespace": ([space("functions", PATCH, function("wait"))], ["apply_patch", "wait"]),
    "an MCP server": ([space("mcp__docs__", function("search"))], ["mcp__docs__search"]),
    "names that meet": ([function("a__b"), space("a", function("b"))], ["a__b", "a__b_2"]),
    "names that meet when cleaned": ([function("a.b"), function("a b"), function("a/b")], ["a_b", "a_b_2", "a_b_3"]),
    "a tool twice": ([function("run"), function("run")], ["run"]),
    "other letters": ([function("größe")], ["gr__e"]),
    "no name at all": ([function("")], ["tool"]),
    "tool search": ([SEARCH], ["tool_search"]),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_names_of_tools(name: str) -> None:
    tools, names = NAMES[name]
    body = to_chat({"input": [], "tools": tools}).body
    assert [tool["function"]["name"] for tool in body["tools"]] == names


def test_long_names_are_cut_and_stay_apart() -> None:
    tools = [
        function(LONG + "a"),
        function(LONG + "b"),
        space(LONG, function("a")),
        space(LONG, function("b")),
    ]
    there, back = (to_chat({"input": [], "tools": order}).body["tools"] for order in (tools, tools[::-1]))
    names = [tool["function"]["name"] for tool in there]
    assert len(set(names)) == 4
    assert all(len(name) == MAX_TOOL_NAME_CHARACTERS for name in names)
    assert [tool["function"]["name"] for tool in back] == names[::-1]


def test_a_tool_becomes_a_function() -> None:
    strict = function("run", strict=True)
    body = to_chat({"input": [], "tools": [function("look"), strict, PATCH, {"type": "web_search"}]}).body
    look, run, patch = (tool["function"] for tool in body["tools"])
    assert look == {"name": "look", "description": "d", "parameters": {"type": "object"}}
    assert run["strict"] is True
    assert patch["parameters"]["required"] == ["input"]
    assert "Edit files." in patch["description"]
    assert "start: hunk+" in patch["description"]
    assert {tool["type"] for tool in body["tools"]} == {"function"}


def test_tools_that_stand_in_the_conversation_are_offered() -> None:
    items = [
        {"type": "additional_tools", "role": "developer", "tools": [space("functions", PATCH), SEARCH]},
        text("user", "go"),
        {"type": "tool_search_call", "call_id": "1", "execution": "client", "arguments": {"query": "q"}},
        {"type": "tool_search_output", "call_id": "1", "status": "completed", "execution": "client",
         "tools": [space("agents", function("spawn"))]},
    ]  # fmt: skip
    asked = to_chat({"input": items})
    names = [tool["function"]["name"] for tool in asked.body["tools"]]
    assert names == ["apply_patch", "tool_search", "agents__spawn"]
    assert asked.body["messages"] == [
        USER,
        asks(called("1", "tool_search", '{"query":"q"}')),
        told("1", '{"tools":["agents__spawn"]}'),
    ]
    item = asked.tools.to_item("agents__spawn", "{}", "2")
    assert (item["namespace"], item["name"]) == ("agents", "spawn")


def test_what_has_no_counterpart_is_named_once() -> None:
    items = [
        {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio_url": "data:"}] * 2},
        {"type": "compaction", "encrypted_content": "x"},
        {"type": "web_search_call", "status": "completed"},
    ]
    tools = [{"type": "web_search"}, {"type": "image_generation"}, {"type": "web_search"}, function("run")]
    asked = to_chat({"input": items, "tools": tools, "store": False, "include": ["x"]})
    assert asked.left_out == ("web_search", "image_generation", "input_audio", "compaction")
    assert asked.body["messages"] == []
    assert "web_search" not in json_codec.encode(asked.body).decode()


CODEX_OWN = {
    "store": False, "include": ["reasoning.encrypted_content"], "prompt_cache_key": "k", "client_metadata": {"a": "b"},
    "tool_choice": "auto", "parallel_tool_calls": True, "reasoning": {"summary": "auto", "context": "all_turns"},
    "text": {"verbosity": "low"}, "service_tier": "priority", "previous_response_id": None,
}  # fmt: skip
SCHEMA = {"type": "object", "properties": {}}

OPTIONS: dict[str, tuple[Json, Json]] = {
    "nothing": ({}, {}),
    "what Codex says for the service behind it": (CODEX_OWN, {}),
    "effort": ({"reasoning": {"effort": "high", "summary": "auto"}}, {"reasoning_effort": "high"}),
    "no reasoning": ({"reasoning": None, "text": None}, {}),
    "size": ({"max_output_tokens": 7, "temperature": 0, "top_p": 0.5}, {"max_tokens": 7, "temperature": 0, "top_p": 0.5}),
    "one call at a time": ({"parallel_tool_calls": False}, {"parallel_tool_calls": False}),
    "no calls": ({"tool_choice": "none"}, {"tool_choice": "none"}),
    "some call": ({"tool_choice": "required"}, {"tool_choice": "required"}),
    "this call": (
        {"tool_choice": {"type": "function", "name": "run"}},
        {"tool_choice": {"type": "function", "function": {"name": "run"}}},
    ),
    "a schema": (
        {"text": {"format": {"type": "json_schema", "name": "answer", "strict": True, "schema": SCHEMA}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}},
    ),
    "any object": ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
    "any text": ({"text": {"format": {"type": "text"}}}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name: str) -> None:
    given, expected = OPTIONS[name]
    body = to_chat({"model": "m", "input": [], "tools": [function("run")], **given}).body
    always = {"model": "m", "messages": [], "stream": True, "stream_options": {"include_usage": True}}
    assert {key: value for key, value in body.items() if key != "tools"} == {**always, **expected}


def test_without_tools_nothing_is_said_of_them() -> None:
    body = to_chat({"input": [], "tools": [], "tool_choice": "none", "parallel_tool_calls": False}).body
    assert not {"tools", "tool_choice", "parallel_tool_calls"} & set(body)


BOOK = [function("run"), PATCH, SEARCH, space("agents", function("spawn"), function("wait")), space("clock", function("wait"))]  # fmt: skip

ITEMS: dict[str, tuple[str, str, Json]] = {
    "a function": ("run", '{"a":1}', {"type": "function_call", "name": "run", "arguments": '{"a":1}'}),
    "no arguments": ("run", "", {"type": "function_call", "name": "run", "arguments": "{}"}),
    "broken arguments are Codex's to refuse": ("run", "{", {"type": "function_call", "name": "run", "arguments": "{"}),
    "in a namespace": (
        "agents__spawn", "{}", {"type": "function_call", "name": "spawn", "namespace": "agents", "arguments": "{}"}),
    "the namespace left away": (
        "spawn", "{}", {"type": "function_call", "name": "spawn", "namespace": "agents", "arguments": "{}"}),
    "the models' own namespace": ("functions.run", "{}", {"type": "function_call", "name": "run", "arguments": "{}"}),
    "left away where two have the name": ("wait", "{}", {"type": "function_call", "name": "wait", "arguments": "{}"}),
    "unknown": ("fly", "{}", {"type": "function_call", "name": "fly", "arguments": "{}"}),
    "freeform": ("apply_patch", '{"input":"x\\n"}', {"type": "custom_tool_call", "name": "apply_patch", "input": "x\n"}),
    "freeform under another name": (
        "apply_patch", '{"patch":"x"}', {"type": "custom_tool_call", "name": "apply_patch", "input": "x"}),
    "freeform with more": (
        "apply_patch", '{"input":"x","why":"y"}', {"type": "custom_tool_call", "name": "apply_patch", "input": "x"}),
    "freeform as a JSON text": ("apply_patch", '"x"', {"type": "custom_tool_call", "name": "apply_patch", "input": "x"}),
    "freeform as it is": ("apply_patch", "*** x", {"type": "custom_tool_call", "name": "apply_patch", "input": "*** x"}),
    "freeform that is JSON itself": (
        "apply_patch", '{"a":1}', {"type": "custom_tool_call", "name": "apply_patch", "input": '{"a":1}'}),
    "search": ("tool_search", '{"query":"q"}', {
        "type": "tool_search_call", "execution": "client", "arguments": {"query": "q"}}),
    "a broken search": ("tool_search", "q", {"type": "tool_search_call", "execution": "client", "arguments": {}}),
}  # fmt: skip


@pytest.mark.parametrize("name", ITEMS)
def test_a_call_of_the_model_is_what_codex_understands(name: str) -> None:
    called_as, arguments, item = ITEMS[name]
    book = ToolBook()
    book.add(BOOK)
    assert book.to_item(called_as, arguments, "c") == {**item, "call_id": "c"}
