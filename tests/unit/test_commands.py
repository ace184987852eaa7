"""The tool `run_command`, as far as no command is needed for it."""

from pathlib import Path

from tests.unit.tooling import code


def test_a_command_that_no_shell_could_be_given(tmp_path: Path) -> None:
    assert code(tmp_path, "run_command", command="echo a\0b") == "invalid_command"
    assert code(tmp_path, "run_command", command="pwd", cwd="..") == "outside_workspace"
