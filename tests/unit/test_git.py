"""What git prints, and what is made of it; what of a command's output is shown."""

import pytest

from codex_bridge.protocol import git
from codex_bridge.workspace.commands import Excerpt
from codex_bridge.workspace.programs import find_programs

STATUS = "\0".join(
    (
        "# branch.oid (initial)",
        "# branch.head (detached)",
        "# branch.upstream origin/main",
        "# branch.ab +2 -3",
        "1 .M N... 100644 100644 100644 aaa bbb a b.txt",
        "2 R. N... 100644 100644 100644 aaa bbb R100 new name",
        "old name",
        "u UU N... 100644 100644 100644 100644 aaa bbb ccc both",
        "? un tracked",
        "! ignored",
        "",
    )
)


def test_a_status() -> None:
    assert git.parse_status(STATUS) == {
        "branch": {"head": None, "commit": None, "upstream": "origin/main", "ahead": 2, "behind": 3},
        "files": [
            {"path": "a b.txt", "staged": None, "unstaged": "modified"},
            {"path": "new name", "staged": "renamed", "unstaged": None, "from": "old name"},
            {"path": "both", "staged": "unmerged", "unstaged": "unmerged", "conflict": True},
            {"path": "un tracked", "staged": None, "unstaged": "untracked"},
        ],
    }


def test_a_status_cut_anywhere_has_only_whole_files() -> None:
    whole = git.parse_status(STATUS)["files"]
    for end in range(len(STATUS)):
        files = git.parse_status(STATUS[:end])["files"]
        assert files == whole[: len(files)]


def test_a_log_cut_anywhere_has_only_commits_that_can_be_read() -> None:
    output = "".join(f"h{i}\0Ann\x1fB\0a@b\0{'17' * i}\0subject\x1f{i}\0" for i in range(3))
    commits = git.parse_log(output)
    assert [(each["hash"], each["author"], each["time_ms"], each["subject"]) for each in commits] == [
        ("h0", "Ann\x1fB", None, "subject\x1f0"),
        ("h1", "Ann\x1fB", 17_000, "subject\x1f1"),
        ("h2", "Ann\x1fB", 1717_000, "subject\x1f2"),
    ]
    for end in range(len(output)):
        found = git.parse_log(output[:end])
        assert found == commits[: len(found)]


def test_filters_are_those_of_the_repository() -> None:
    output = "\0".join(
        (
            "system", "filter.lfs.clean", "local", "filter.a.b.clean", "local", "filter.a.b.process",
            "worktree", "filter.c.smudge", "global", "filter.d.clean", "",
        )
    )  # fmt: skip
    assert git.parse_filters(output) == ["a.b", "c"]
    argv = git.status_arguments("git", ["a.b"])
    for key in ("clean=", "smudge=", "process=", "required=false"):
        assert argv[argv.index(f"filter.a.b.{key}") - 1] == "-c"


@pytest.mark.parametrize(
    ("stderr", "code"),
    [
        ("fatal: not a git repository (or any of the parent directories): .git\n", "not_a_repository"),
        (
            "warning: Not a git repository. Use --no-index to compare two paths outside a working tree\nusage: git diff\n",
            "not_a_repository",
        ),
        ("fatal: detected dubious ownership in repository at '/w'\nTo add\n", "dubious_ownership"),
        ("fatal: cannot use bare repository '/w' (safe.bareRepository is 'explicit')\n", "not_a_repository"),
        ("fatal: bad config line 1 in file .git/config\n", "git_failed"),
        ("", "git_failed"),
    ],
)
def test_why_git_failed(stderr: str, code: str) -> None:
    found, message = git.parse_refusal(stderr)
    assert found == code
    assert message.endswith((".", "config", "nothing"))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_excerpt_is_the_begin_and_the_end(size: int) -> None:
    text = "".join(chr(0x100 + i) for i in range(1000))
    excerpt = Excerpt(90)
    for start in range(0, len(text), size):
        excerpt.add(text[start : start + size])
    assert excerpt.text == text[:30] + "\n[... 910 characters are left out here ...]\n" + text[-60:]
    assert excerpt.left_out == 910


@pytest.mark.parametrize("length", [0, 1, 30, 31, 89, 90])
def test_an_excerpt_of_a_short_text_is_the_text(length: int) -> None:
    excerpt = Excerpt(90)
    for _ in range(length):
        excerpt.add("x")
    assert excerpt.text == "x" * length
    assert excerpt.left_out == 0


def test_programs_are_looked_for_in_absolute_directories_alone(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path_factory.mktemp("programs")
    for place in ("bin", "codex-path", "other"):
        (root / place).mkdir()
    for path in ("bin/codex", "codex-path/rg", "other/git", "other/rg"):
        (root / path).write_text("")
        (root / path).chmod(0o755)
    (root / "bin" / "git").write_text("")  # no program
    codex = str(root / "bin" / "codex")
    path = f"relative::{root}/bin:{root}/other"
    assert find_programs({"PATH": path}, codex) == {
        "ripgrep": f"{root}/other/rg", "git": f"{root}/other/git",
    }  # fmt: skip
    assert find_programs({"PATH": "other"}, codex) == {"ripgrep": f"{root}/codex-path/rg", "git": None}
    assert find_programs({}, None) == {"ripgrep": None, "git": None}
