"""The diff of a turn: edits put together, in the form that the real Codex gives it, and git takes."""

import subprocess
from pathlib import Path

import pytest

from codex_bridge.protocol import turn_diff
from codex_bridge.protocol.turn_diff import TurnDiff

Note = tuple[str, str | None, str | None] | tuple[str, str | None, str | None, str]

# As the real Codex 0.163 told it.
OF_CODEX = """\
diff --git a/d.txt b/d.txt
deleted file mode 100644
index 286c5f5776916d7d7d5849988ca9d83e722cf9c2..0000000000000000000000000000000000000000
--- a/d.txt
+++ /dev/null
@@ -1 +0,0 @@
-gone
diff --git a/mv.txt b/moved.txt
index de980441c3ab03a8c07dda1ad27b8a11f39deb1e..502fdbb956ae965d88d1655ce480502673d776b3
--- a/mv.txt
+++ b/moved.txt
@@ -1,3 +1,3 @@
 a
-b
+BB
 c
diff --git a/u.txt b/u.txt
index de980441c3ab03a8c07dda1ad27b8a11f39deb1e..7be73ce3c1b1cdaea86e8168dfee8575175953bf
--- a/u.txt
+++ b/u.txt
@@ -1,3 +1,3 @@
 a
-b
+B
 c
"""


def diff_of(*notes: Note) -> str:
    diff = TurnDiff()
    for note in notes:
        diff.note(*note)
    return diff.render()


def test_it_is_what_codex_tells() -> None:
    told = diff_of(
        ("u.txt", "a\nb\nc\n", "a\nB\nc\n"),
        ("d.txt", "gone\n", None),
        ("mv.txt", "a\nb\nc\n", "a\nBB\nc\n", "moved.txt"),
    )
    assert told == OF_CODEX


@pytest.mark.parametrize(
    "notes",
    [
        [("a", None, "x\n"), ("a", "x\n", None)],
        [("a", "x\n", "y\n"), ("a", "y\n", "x\n")],
        [("a", "x\n", None), ("a", None, "x\n")],
        [("a", "x\n", "x\n", "b"), ("b", "x\n", "x\n", "a")],
        [("a", None, "x\n"), ("a", "x\n", "y\n", "b"), ("b", "y\n", None)],
    ],
)
def test_what_undoes_itself_is_nothing(notes: list[Note]) -> None:
    assert diff_of(*notes) == ""


@pytest.mark.parametrize(
    ("notes", "once"),
    [
        ([("a", "1\n", "2\n"), ("a", "2\n", "3\n")], ("a", "1\n", "3\n")),
        ([("a", None, "1\n"), ("a", "1\n", "2\n")], ("a", None, "2\n")),
        ([("a", "1\n", "2\n"), ("a", "2\n", None)], ("a", "1\n", None)),
        ([("a", "1\n", None), ("a", None, "2\n")], ("a", "1\n", "2\n")),
        ([("a", "1\n", "2\n"), ("a", "2\n", "2\n", "b")], ("a", "1\n", "2\n", "b")),
        ([("a", "1\n", "1\n", "b"), ("b", "1\n", "2\n", "c")], ("a", "1\n", "2\n", "c")),
        ([("b", "0\n", None), ("a", None, "1\n"), ("a", "1\n", "1\n", "b")], ("b", "0\n", "1\n")),
    ],
)
def test_edits_of_one_file_are_one(notes: list[Note], once: Note) -> None:
    assert diff_of(*notes) == diff_of(once)


def test_git_takes_it(tmp_path: Path) -> None:
    before = {"a b.txt": "1\n2\n", "gone": "x", "umlaut-\xe4": "old\r\n"}
    after = {"a b.txt": "1\n2\n3", "new": "n\n", "umlaut-\xe4": "new\r\n"}
    for name, text in before.items():
        (tmp_path / name).write_bytes(text.encode())
    told = diff_of(*((name, before.get(name), after.get(name)) for name in {**before, **after}))
    apply = ["git", "-C", str(tmp_path), "apply", "-"]
    subprocess.run(
        apply, input=told.encode(), check=True, env={"GIT_CEILING_DIRECTORIES": "/", "PATH": "/usr/bin"}
    )
    assert {path.name: path.read_bytes().decode() for path in tmp_path.iterdir()} == after


def test_files_beyond_the_limit_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_diff, "MAX_TURN_DIFF_CHARACTERS", 10)
    diff = TurnDiff()
    diff.note("a", None, "1234\n")
    diff.note("b", None, "123456\n")
    diff.note("a", "1234\n", "5\n")
    assert [line for line in diff.render().splitlines() if line[0] in "+-"] == [
        "--- /dev/null",
        "+++ b/a",
        "+5",
    ]
