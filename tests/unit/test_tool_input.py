"""What a tool's input is refused for: the message names the field, what was expected and what came."""

from typing import Any

import pytest

from codex_bridge.errors import InvalidField
from codex_bridge.protocol.tools import TOOLS, check_input


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("run_command", {}, "command: run_command needs it; expected a text."),
        ("run_command", {"command": 5}, "command: expected a text; a whole number came."),
        ("run_command", {"command": ["ls"]}, "command: expected a text; a list came."),
        ("run_command", {"command": ""}, "command: expected 1 to 32768 characters; 0 came."),
        (
            "run_command",
            {"command": "ls", "timeout_ms": 0},
            "timeout_ms: expected a number from 1 to 600000; 0 came.",
        ),
        ("read_file", {"path": "a", "limit": "5"}, "limit: expected a whole number; a text came."),
        ("read_file", {"path": "a", "limit": True}, "limit: expected a whole number; true or false came."),
        (
            "read_file",
            {"path": "a", "limit": 0.5},
            "limit: expected a whole number; a number with a fraction came.",
        ),
        ("git_diff", {"staged": {}}, "staged: expected true or false; a JSON object came."),
        ("git_status", {"path": "a"}, "path: git_status has no such field; expected: none."),
    ],
)
def test_a_refusal_says_what_was_expected_and_what_came(
    name: str, value: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidField) as raised:
        check_input(TOOLS[name], value)
    assert raised.value.message == message
