"""The dialect of models that call tools: answers put together from pieces, as upstreams cut them."""

from typing import Any

import pytest

from codex_bridge.errors import UpstreamFailed
from codex_bridge.limits import MAX_TURN_CALLS
from codex_bridge.protocol.chat import CallPiece, ChatDelta
from codex_bridge.protocol.tools import ToolResult
from codex_bridge.runtimes.dialect import Reply, ToolCall
from codex_bridge.runtimes.model_tools import ModelTools


def read(*deltas: ChatDelta) -> Reply:
    reader = ModelTools().reader()
    shown = [reader.feed(delta) for delta in deltas]
    rest, reply = reader.end()
    assert "".join([*shown, rest]) == "".join(delta.text for delta in deltas)
    return reply


def of(*pieces: CallPiece, finish: str | None = None) -> ChatDelta:
    return ChatDelta(calls=pieces, finish_reason=finish)


def told(reply: Reply) -> list[tuple[str, str, dict[str, Any]]]:
    return [(call.id, call.name, call.arguments) for call in reply.calls]


A = ("a", "read_file", {"path": "x"})
B: tuple[str, str, dict[str, Any]] = ("b", "list_files", {})


@pytest.mark.parametrize(
    "deltas",
    [
        [of(CallPiece(0, "a", "read_file", '{"path": "x"}'), CallPiece(1, "b", "list_files", "{}"))],
        # In pieces, and mixed.
        [
            of(CallPiece(0, "a", "read_file")), of(CallPiece(1, "b", "list_files")), of(CallPiece(0, "", "", '{"pa')),
            of(CallPiece(1, "", "", "{}")), of(CallPiece(0, "", "", 'th": "x"}')),
        ],
        # Id and name with each piece.
        [
            of(CallPiece(0, "a", "read_file", '{"path"')), of(CallPiece(0, "a", "read_file", ': "x"}')),
            of(CallPiece(1, "b", "list_files", "")),
        ],
        # The name in pieces of its own.
        [
            of(CallPiece(0, "a", "read")), of(CallPiece(0, "", "_fi")), of(CallPiece(0, "a", "le", '{"path": "x"}')),
            of(CallPiece(1, "b", "list_"), CallPiece(1, "b", "files")),
        ],
        # The same index for all.
        [of(CallPiece(0, "a", "read_file", '{"path": "x"}')), of(CallPiece(0, "b", "list_files", "{}"))],
        # The same index for all, and mixed.
        [
            of(CallPiece(0, "a", "read_file", '{"pa')), of(CallPiece(0, "b", "list_files", "{")), of(CallPiece(0, "a", "", 'th": "x"}')),
            of(CallPiece(0, "b", "", "}")),
        ],
        # Neither an id nor an index of its own.
        [of(CallPiece(0, "", "read_file", '{"path": "x"}')), of(CallPiece(0, "", "list_files", "{}"))],
        # Encoded twice.
        [of(CallPiece(0, "a", "read_file", r'"{\"path\": \"x\"}"'), CallPiece(1, "b", "list_files", "  "))],
    ],
)  # fmt: skip
def test_calls_come_in_pieces(deltas: list[ChatDelta]) -> None:
    reply = read(*deltas)
    assert [one[1:] for one in told(reply)] == [A[1:], B[1:]]
    assert [call.problem for call in reply.calls] == [None, None]
    ids = [call.id for call in reply.calls]
    assert [call["id"] for call in reply.message["tool_calls"]] == ids
    if any(piece.id for delta in deltas for piece in delta.calls):
        assert ids == ["a", "b"]


def test_each_call_has_an_id_of_its_own() -> None:
    reply = read(of(CallPiece(0, "", "list_files"), CallPiece(1, "", "list_files"), CallPiece(2, "a", "list_files"),
                    CallPiece(3, "a", "list_files")))  # fmt: skip
    ids = [call.id for call in reply.calls]
    assert len(set(ids)) == len(ids)
    assert all(ids)


@pytest.mark.parametrize("broken", ['{"path"', "[]", "7", '"x"', '"\\"x\\""', "{'path': 'x'}"])
def test_broken_arguments_are_told_and_not_sent_back(broken: str) -> None:
    (call,) = (reply := read(of(CallPiece(0, "a", "read_file", broken)))).calls
    assert call.problem is not None
    assert reply.message["tool_calls"][0]["function"]["arguments"] == "{}"


def test_one_that_was_cut_off_is_told_so() -> None:
    (call,) = read(of(CallPiece(0, "a", "read_file", '{"path"'), finish="length")).calls
    assert "cut off" in str(call.problem)
    assert "cut off" in str(read(ChatDelta(finish_reason="length")).problem)


@pytest.mark.parametrize(
    ("text", "is_fine"),
    [
        ("All done.", True),
        ('The file says {"name": "demo", "arguments": 1}.', True),
        ("Call run_command with care.", True),
        ("", False),
        (" \n", False),
        ('[TOOL_CALLS] [{"name": "x"}]', False),
        ('{"name": "apply_patch", "parameters": {}}', False),
        ("<function=read_file>", False),
    ],
)
def test_text_is_an_answer_unless_it_is_empty_or_a_call(text: str, is_fine: bool) -> None:
    reply = read(ChatDelta(text))
    assert (reply.problem is None) is is_fine
    assert reply.calls == ()
    assert reply.message["content"]  # an empty one is refused by some upstreams


def test_results_name_their_calls() -> None:
    dialect = ModelTools()
    (message,) = dialect.results([(ToolCall("a", "list_files", {}), ToolResult({"entries": []}))])
    assert message == {"role": "tool", "tool_call_id": "a", "content": '{"ok":true,"data":{"entries":[]}}'}


@pytest.mark.parametrize("step", [0, 1])
def test_more_calls_than_a_turn_may_make_are_refused(step: int) -> None:
    """Each at one index, and each at its own."""
    pieces = [CallPiece(step * at, f"c{at}", "list_files") for at in range(MAX_TURN_CALLS + 1)]
    assert len(read(of(*pieces[1:])).calls) == MAX_TURN_CALLS
    with pytest.raises(UpstreamFailed, match="more than 500 tool calls") as failed:
        read(of(*pieces))
    assert not failed.value.passes
