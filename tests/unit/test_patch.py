"""Patches as text: what they say, what comes out, and that Codex and git would say the same."""

import os
import random
import subprocess
from pathlib import Path

import pytest

from codex_bridge.limits import MAX_DIFFED_PAIRS
from codex_bridge.protocol.diffs import render_file, render_hunks
from codex_bridge.protocol.hunks import Action, Edit, FilePatch, PatchInvalid, PatchMismatch, apply_hunks
from codex_bridge.protocol.patch import parse_patch
from tests.support.codex import codex_binary

pytestmark = pytest.mark.once

BEGIN, END, UPDATE = "*** Begin Patch\n", "*** End Patch\n", "*** Update File: f\n"
ABC = "a\nb\nc\n"


def nothing() -> None:
    """No time to look at."""


def apply(text: str, patch: str) -> str:
    (one,) = parse_patch(patch)
    return apply_hunks(text, one, nothing)[0]


def codex(body: str) -> str:
    return BEGIN + UPDATE + body + END


def unified(body: str) -> str:
    return "--- a/f\n+++ b/f\n" + body


# In each: the text, the patch's lines, what comes out; None where it does not fit. Codex 0.163 and 0.169 were tried with all of them.
CODEX_CASES = [
    (ABC, "@@\n a\n-b\n+B\n c\n", "a\nB\nc\n"),
    (ABC, " a\n-b\n+B\n", "a\nB\nc\n"),
    (ABC, "@@ a\n-b\n", "a\nc\n"),
    (ABC, "@@ b\n-a\n", None),
    (ABC, "@@  a  \n-b\n", "a\nc\n"),
    (ABC, "@@ no\n-b\n", None),
    (ABC, "@@\n-a\n+A\n@@\n-c\n+C\n", "A\nb\nC\n"),
    (ABC, "@@\n-c\n@@\n-a\n", None),
    (ABC, "@@ a\n+X\n", "a\nb\nc\nX\n"),
    (ABC, "+X\n", "a\nb\nc\nX\n"),
    (ABC, " b\n-c\n+C\n*** End of File\n", "a\nb\nC\n"),
    (ABC, " a\n-b\n*** End of File\n", None),
    ("x\na\nx\n", "-x\n+y\n*** End of File\n", "x\na\ny\n"),
    ("a  \nb\n", " a\n-b\n+B\n", "a  \nB\n"),
    ("  a\nb\n", " a\n-b\n+B\n", "  a\nB\n"),
    ("x \u2013 y\nb\n", " x - y\n-b\n+B\n", "x \u2013 y\nB\n"),
    ("\u201ca\u201d\n", '-"a"\n+a\n', "a\n"),
    (ABC, " a\n-b\n+B\n\n", "a\nB\nc\n"),
    (ABC, "@@ a\n\n+X\n", "a\n\nX\nb\nc\n"),
    ("a\r\nb\r\n", "-b\n+x\n+y\n", "a\r\nx\r\ny\r\n"),
    ("a\r\nb\nc\r\n", "-c\n+d\n", "a\r\nb\nd\r\n"),
    ("a\nb\n\n", "+X\n", "a\nb\n\nX\n"),
    ("", "+X\n", "X\n"),
    ("a\nb\n", "-a\n-b\n", ""),
    ("\n", "-\n+x\n", "x\n"),
    ("a\n\n\n", " \n+x\n \n-\n", "a\n\nx\n"),
    (ABC, "*** End of File\n-b\n", "a\nc\n"),
    (ABC, "-c\n*** End of File\n\n\n", "a\nb\n"),
]


@pytest.mark.parametrize(("text", "body", "wanted"), CODEX_CASES)
def test_codex_grammar(text: str, body: str, wanted: str | None) -> None:
    if wanted is None:
        with pytest.raises(PatchMismatch):
            apply(text, codex(body))
    else:
        assert apply(text, codex(body)) == wanted


@pytest.mark.codex
@pytest.mark.parametrize(("text", "body", "wanted"), CODEX_CASES)
def test_codex_itself_says_so(tmp_path: Path, text: str, body: str, wanted: str | None) -> None:
    program = tmp_path / "apply_patch"
    program.symlink_to(codex_binary())
    file = tmp_path / "f"
    file.write_bytes(text.encode())
    done = subprocess.run(
        [program], input=codex(body).encode(), cwd=tmp_path, capture_output=True, timeout=60
    )
    assert (done.returncode == 0) == (wanted is not None), done.stderr
    assert file.read_bytes().decode() == (text if wanted is None else wanted)


@pytest.mark.parametrize(
    "patch",
    [
        "", "hello", BEGIN, BEGIN + END, END, codex(""), codex("@@\n"), codex("-a\n@@\n"), codex("foo\n"), codex("-a\nfoo\n"),
        codex("@@\n@@\n-a\n"), codex("-a\n*foo\n"), codex("-a\n*** Move to: g\n"), codex("-a\n") + "more\n",
        BEGIN + "\n" + UPDATE + "-a\n" + END, BEGIN + "*** Add File: g\n+x\n\n+y\n" + END, BEGIN + "*** Delete File: f\nfoo\n" + END,
        BEGIN + "*** Rename File: f\n" + END, "x\n" + codex("-a\n"), codex("-a\n*** End of File\n-b\n"),
        "--- a/f\n+++ b/f\n", "diff --git a/f b/f\n", "diff --git a/f b/g\n@@ -1 +1 @@\n-a\n+b\n",
        "diff --git a/f b/f\nGIT binary patch\nliteral 0\n", "diff --git a/f b/f\nnew file mode 120000\n",
        "diff --git a/f b/g\ncopy from f\ncopy to g\n", "--- /dev/null\n+++ /dev/null\n@@ -1 +1 @@\n-a\n+b\n",
        "--- /dev/null\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n", unified("@@ -1 1 @@\n-a\n"), unified("@@\n a\n"),
        "@@ -1 +1 @@\n-a\n+b\n--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n",
    ],
)  # fmt: skip
def test_what_is_no_patch(patch: str) -> None:
    with pytest.raises(PatchInvalid) as caught:
        parse_patch(patch)
    assert str(caught.value)


def test_all_that_codex_grammar_can_do() -> None:
    text = (
        BEGIN + "*** Add File: new dir/a.txt\n+one\n++two\n*** Delete File: b\n*** Update File: c\n*** Move to: d/c\n@@\n-x\n*** Add File: e\n" + END
    )  # fmt: skip
    first, second, third, fourth = parse_patch(text)
    assert (first.action, first.path, first.content) == (Action.ADD, "new dir/a.txt", "one\n+two\n")
    assert (second.action, second.path) == (Action.DELETE, "b")
    assert (third.action, third.path, third.move_path, len(third.hunks)) == (Action.UPDATE, "c", "d/c", 1)
    assert (fourth.path, fourth.content) == ("e", "")


@pytest.mark.parametrize(
    "wrap",
    ["{}", "  {}", "\n\n{}\n\n", "<<'EOF'\n{}EOF\n", "<<EOF\n{} EOF", '<<"EOF"\n{}EOF', "```\n{}```", "```diff\n{}```\n"],
)  # fmt: skip
def test_what_may_stand_around_a_patch(wrap: str) -> None:
    assert apply(ABC, wrap.format(codex("-b\n"))) == "a\nc\n"
    assert apply(ABC, wrap.format(codex("-b\n").replace("\n", "\r\n"))) == "a\nc\n"


def test_a_move_needs_no_change() -> None:
    """Codex wants one; ours takes it without."""
    (patch,) = parse_patch(codex("*** Move to: g\n"))
    assert (patch.move_path, patch.hunks) == ("g", ())


def test_a_file_keeps_having_no_newline_at_its_end() -> None:
    """Codex adds one."""
    assert apply("a\nb", codex("-b\n+c\n")) == "a\nc"
    assert apply("a\nb", codex("+c\n")) == "a\nb\nc"
    assert apply("a\nb\nc", codex("-a\n+A\n@@\n-c\n+x\n+y\n")) == "A\nb\nx\ny"
    assert apply("a\nb", codex("-a\n-b\n")) == ""


UNIFIED_CASES = [
    (ABC, "@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n", "a\nB\nc\n"),
    # Nearest to the line, wherever that is by now.
    ("x\n" * 5 + "a\nx\n" + "x\n" * 5, "@@ -2,2 +2,3 @@\n a\n+b\n x\n", "x\n" * 5 + "a\nb\nx\n" + "x\n" * 5),
    ("a\n1\na\n2\na\n", "@@ -3,2 +3,2 @@\n a\n-2\n+3\n", "a\n1\na\n3\na\n"),
    ("k\nx\nk\nx\nk\nx\nk\n", "@@ -4,2 +4,2 @@\n-x\n+y\n k\n", "k\nx\nk\ny\nk\nx\nk\n"),
    # Wrong counts, no numbers, no context, an editor that took the space of an empty line away.
    (ABC, "@@ -1,9 +1,7 @@\n a\n-b\n+B\n", "a\nB\nc\n"),
    (ABC, "@@ -1 +1 @@\n a\n-b\n+B\n c\n", "a\nB\nc\n"),
    (ABC, "@@\n-b\n+B\n", "a\nB\nc\n"),
    (ABC, "@@ ... @@\n-b\n+B\n", "a\nB\nc\n"),
    (ABC, "@@ -2 +2 @@ def f():\n-b\n+B\n", "a\nB\nc\n"),
    ("a\n\nb\n", "@@ -1,3 +1,3 @@\n a\n\n-b\n+B\n", "a\n\nB\n"),
    # Without context it goes to its line, though it would fit at the end as well.
    ("x\na\nx\na\n", "@@ -2 +2 @@\n-a\n+b\n", "x\nb\nx\na\n"),
    # Insertions without context.
    (ABC, "@@ -1,0 +2 @@\n+x\n", "a\nx\nb\nc\n"),
    (ABC, "@@ -0,0 +1 @@\n+x\n", None),
    ("", "@@ -0,0 +1 @@\n+x\n", "x\n"),
    # The file's own line stays where it was found with leniency.
    ("a \nb\n", "@@ -1,2 +1,2 @@\n a\n-b\n+B\n", "a \nB\n"),
    (ABC, "@@ -1,2 +1,2 @@\n a\n-x\n+B\n", None),
    # Newlines at the end, and without.
    (
        "a\nb",
        "@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n\\ No newline at end of file\n",
        "a\nc",
    ),
    ("a\nb", "@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n", "a\nc\n"),
    ("a\nb\n", "@@ -1,2 +1,2 @@\n a\n-b\n+c\n\\ No newline at end of file\n", "a\nc"),
    ("a\nb", "@@ -1,2 +1,2 @@\n a\n-b\n+c\n", "a\nc"),
    ("a\nb", "@@ -1,2 +1,2 @@\n-a\n+A\n b\n\\ No newline at end of file\n", "A\nb"),
    ("a\r\nb\r\n", "@@ -1,2 +1,2 @@\n a\n-b\n+c\n", "a\r\nc\r\n"),
    # Lines that look like a diff's own.
    ("-- x\nb\n", "@@ -1,2 +1,2 @@\n--- x\n+++ y\n b\n", "++ y\nb\n"),
]


@pytest.mark.parametrize(("text", "body", "wanted"), UNIFIED_CASES)
def test_unified_diffs(text: str, body: str, wanted: str | None) -> None:
    if wanted is None:
        with pytest.raises(PatchMismatch):
            apply(text, unified(body))
    else:
        assert apply(text, unified(body)) == wanted


HUNK = "@@ -1 +1 @@\n-a\n+b\n"


@pytest.mark.parametrize(
    ("head", "action", "path", "move_path"),
    [
        ("--- f\n+++ f\n", "update", "f", None),
        ("--- a/f\n+++ b/f\n", "update", "f", None),
        ("--- a/f\t2020-01-01 00:00:00\n+++ b/f\t2020-01-01 00:00:01\n", "update", "f", None),
        ("--- a/x/f\n+++ a/x/f\n", "update", "a/x/f", None),
        ("--- i/f\n+++ w/f\n", "update", "f", None),
        ("--- a/x y\t\n+++ b/x y\t\n", "update", "x y", None),
        ('--- "a/\\303\\274\\n\\"\\\\"\n+++ "b/\\303\\274\\n\\"\\\\"\n', "update", 'ü\n"\\', None),
        ("diff --git a/f b/f\nindex 1..2 100644\n--- a/f\n+++ b/f\n", "update", "f", None),
        ("Some prose.\n\nIndex: f\n=====\n--- a/f\n+++ b/f\n", "update", "f", None),
        ("diff --git a/f b/g\nsimilarity index 90%\nrename from f\nrename to g\n--- a/f\n+++ b/g\n", "update", "f", "g"),
        ("--- a/f\n+++ b/g\n", "update", "f", "g"),
        ("diff --git a/f b/f\ndeleted file mode 100644\n--- a/f\n+++ /dev/null\n", "delete", "f", None),
        ("--- a/f\n+++ /dev/null\n", "delete", "f", None),
        ("diff --git i/f w/f\nnew file mode 100644\n--- /dev/null\n+++ w/f\n", "add", "f", None),
        ("diff --git b/f b/f\nnew file mode 100644\n--- /dev/null\n+++ b/f\n", "add", "b/f", None),
        ("diff --git c/f i/f\ndeleted file mode 100644\n--- c/f\n+++ /dev/null\n", "delete", "f", None),
        ("diff --git a/f b/f\n--- /dev/null\n+++ b/g\n", "add", "g", None),
    ],
)  # fmt: skip
def test_names_in_unified_diffs(head: str, action: str, path: str, move_path: str | None) -> None:
    (patch,) = parse_patch(head + ("@@ -0,0 +1 @@\n+b\n" if action == "add" else HUNK))
    assert (patch.action, patch.path, patch.move_path) == (action, path, move_path)
    assert len(patch.hunks) == 1


def test_git_headers_without_hunks() -> None:
    text = (
        "diff --git a/empty b/empty\nnew file mode 100755\nindex 0..0\ndiff --git a/old b/new\nsimilarity index 100%\nrename from old\nrename to new\n"
        "diff --git a/run b/run\nold mode 100644\nnew mode 100755\ndiff --git a/gone b/gone\ndeleted file mode 100644\n"
    )  # fmt: skip
    empty, moved, run, gone = parse_patch(text)
    assert (empty.action, empty.content, empty.is_executable) == (Action.ADD, "", True)
    assert (moved.action, moved.path, moved.move_path) == (Action.UPDATE, "old", "new")
    assert (run.action, run.path, run.is_executable) == (Action.UPDATE, "run", True)
    assert (gone.action, gone.path) == (Action.DELETE, "gone")


def test_a_new_file_of_a_unified_diff() -> None:
    (patch,) = parse_patch("--- /dev/null\n+++ b/n\n@@ -0,0 +1,2 @@\n+a\n+b\n\\ No newline at end of file\n")
    assert (patch.action, patch.path, patch.content) == (Action.ADD, "n", "a\nb")


def test_several_files_and_the_signature_of_a_mail() -> None:
    text = "From: x\n\n---\n f | 2 +-\n\n" + unified(HUNK) + "--- a/g\n+++ b/g\n" + HUNK + "-- \n2.39.5\n"
    first, second = parse_patch(text)
    assert [first.path, second.path] == ["f", "g"]
    assert second.hunks[0].body == (("-", "a"), ("+", "b"))


def test_hunks_that_overlap_do_not_fit() -> None:
    with pytest.raises(PatchMismatch):
        apply(ABC, unified("@@ -1,2 +1,2 @@\n a\n-b\n+B\n@@ -2,2 +2,2 @@\n-b\n+X\n c\n"))


def test_a_mismatch_tells_which_hunk_and_what_was_not_found() -> None:
    with pytest.raises(PatchMismatch, match="hunk 2: these lines are not in the file:\nzebra"):
        apply(ABC, codex("-a\n@@\n-zebra\n"))


def test_the_time_is_looked_at() -> None:
    class Over(Exception):
        pass

    def over() -> None:
        raise Over

    (patch,) = parse_patch(codex("-b\n"))
    with pytest.raises(Over):
        apply_hunks(ABC, patch, over)


def test_many_hunks_that_fit_nowhere_do_not_take_for_ever() -> None:
    text = "x\n" * 200_000
    with pytest.raises(PatchMismatch):
        apply(text, codex(" x\n" * 1000 + "-y\n"))


# Rendered ------------------------------------------------------------------------------------------


def test_a_diff_is_as_git_writes_it() -> None:
    old = "".join(f"{n}\n" for n in range(1, 30))
    new = old.replace("5\n", "five\n", 1).replace("28\n", "")
    assert render_hunks(old, new) == (
        "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n@@ -25,5 +25,4 @@\n 25\n 26\n 27\n-28\n 29\n"
    )
    assert render_hunks("", "a\n") == "@@ -0,0 +1 @@\n+a\n"
    assert render_hunks("a", "") == "@@ -1 +0,0 @@\n-a\n\\ No newline at end of file\n"
    assert render_hunks("a\n", "a\n") == ""


def test_a_name_cannot_forge_a_diff() -> None:
    told = render_file("a\n+++ b/evil", "a\n+++ b/evil", "@@ -1 +1 @@\n-x\n+y\n")
    assert '--- "a/a\\n+++ b/evil"\t\n' in told
    (patch,) = parse_patch(told)
    assert patch.path == "a\n+++ b/evil"


def test_a_diff_of_a_large_file_is_quick() -> None:
    old = "".join(f"{n % 7}\n" for n in range(300_000))
    (patch,) = parse_patch(unified("@@ -1,2 +1,2 @@\n 0\n-1\n+x\n"))
    new, edits = apply_hunks(old, patch, nothing)
    assert render_hunks(old, new, edits) == "@@ -1,5 +1,5 @@\n 0\n-1\n+x\n 2\n 3\n 4\n"
    assert render_hunks(old, "".join(f"{n % 5}\n" for n in range(300_000))).startswith("@@ -3,")


# Against git ---------------------------------------------------------------------------------------

WORDS = ["a", "b", "c", "", "d", "e", "f", "--x", "++y", "-- ", "@@ -1 +1 @@", "\\ No", " "]
NAMES = ["f.txt", "a b.txt", "ü.txt", "d/e.txt", 'q"x.txt']


def changed(words: list[str], chance: random.Random) -> list[str]:
    words = list(words)
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(words))
        if chance.random() < 0.5 or not words:
            words.insert(at, chance.choice(WORDS))
        else:
            words.pop(min(at, len(words) - 1))
    return words


def joined(words: list[str], chance: random.Random) -> str:
    return "\n".join(words) + ("\n" if words and chance.random() < 0.8 else "")


def git(directory: Path, *arguments: str, given: str = "") -> tuple[int, str]:
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *arguments], cwd=directory, input=given.encode(), env=environ, capture_output=True, timeout=60
    )
    return done.returncode, done.stdout.decode()


@pytest.mark.parametrize("seed", range(40))
def test_git_says_the_same(tmp_path: Path, seed: int) -> None:
    """What git makes, ours applies as git does; what ours renders, git applies to the same end."""
    chance = random.Random(seed)
    name = chance.choice(NAMES)
    words = [chance.choice(WORDS) for _ in range(chance.randint(1, 25))]
    old, new = joined(words, chance), joined(changed(words, chance), chance)
    for side, text in (("a", old), ("b", new), ("c", old)):
        (tmp_path / side / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / side / name).write_bytes(text.encode())
    _, diff = git(tmp_path, "diff", "--no-index", "--no-prefix", f"-U{chance.randint(0, 3)}", "a", "b")
    if (
        old == new or "@@ -0,0 " in diff
    ):  # what goes before the first line without context is taken for a new file
        return
    (patch,) = parse_patch(diff)
    assert (patch.path, patch.move_path) == (name, None)
    ours, edits = apply_hunks(old, patch, nothing)
    assert ours == new
    for hunks in (render_hunks(old, ours, edits), render_hunks(old, ours)):
        (tmp_path / "c" / name).write_bytes(old.encode())
        assert git(tmp_path / "c", "apply", "-", given=render_file(name, name, hunks))[0] == 0, hunks
        assert (tmp_path / "c" / name).read_bytes().decode() == new


def test_a_creation_is_known_without_its_header() -> None:
    (patch,) = parse_patch(unified("@@ -0,0 +1 @@\n+a\n"))
    assert patch.is_creation
    assert not FilePatch(Action.UPDATE, "f").is_creation


def test_many_hunks_on_equal_lines_are_found_where_they_say() -> None:
    """Not by a look at all places for each: there are as many as hunks."""
    count, looks = 3000, 0

    def look() -> None:
        nonlocal looks
        looks += 1

    text = "".join(f"@@ -{2 * at + 1},2 +{2 * at + 1},2 @@\n-x\n+y\n x\n" for at in range(count))
    (patch,) = parse_patch(unified(text))
    changed, _ = apply_hunks("x\n" * 2 * count, patch, look)
    assert changed == "y\nx\n" * count
    assert looks <= 3 * count


def test_a_hunk_of_half_a_million_lines_takes_no_longer_for_each() -> None:
    """The whole of a patch; in minutes it would be lost on the tool's time."""
    lines = 500_000
    for body in ("@@\n x\n" + "+\n" * lines, "@@\n+\n" * (lines // 5)):
        (patch,) = parse_patch(f"*** Begin Patch\n*** Update File: f\n{body}*** End Patch\n")
        changed, _ = apply_hunks("x\n", patch, lambda: None)
        assert changed == "x\n" + "\n" * body.count("+")


def test_many_long_edits_are_compared_until_it_is_enough() -> None:
    """What stays within one is found out for the first ones; the rest is told as replaced, and is as right."""
    count = 2 * MAX_DIFFED_PAIRS // 100**2
    old = [f"{at} {line}\n" for at in range(count) for line in range(100)]
    new = [line.replace(" ", "-") if at % 100 != 50 else line for at, line in enumerate(old)]
    edits = [Edit(100 * at, 100, tuple(new[100 * at : 100 * at + 100])) for at in range(count)]
    told = render_hunks("".join(old), "".join(new), edits)
    assert "\n 0 50\n" in told
    assert f"\n-{count - 1} 50\n" in told
    assert apply("".join(old), unified(told)) == "".join(new)
