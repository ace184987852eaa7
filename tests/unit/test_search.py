"""search_text: with ripgrep and with Python, which find the same."""

import os
from pathlib import Path
from typing import Any

import pytest

from codex_bridge.limits import MAX_MATCH_CHARACTERS, MAX_SEARCHED_FILE_BYTES
from tests.unit.tooling import answer, code, data, ripgrep

pytestmark = pytest.mark.once


@pytest.fixture(params=["python", "ripgrep"])
def rg(request: pytest.FixtureRequest) -> str | None:
    """Both ways to search."""
    return ripgrep() if request.param == "ripgrep" else None


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "a.txt": "one\ntwo Two\r\nthree", "b/c.py": "x = 'two'\n\ntwo = 2\n", "b.c": "two\n", ".hidden": "two\n", "ignored.log": "two\n",
        ".gitignore": "*.log\n", ".ignore": "*.log\n", ".git/config": "two\n", "b/.git/x": "two\n", "-e": "two\n", "ü\n.txt": "ä two\n",
        "binary": "two\n\0", "dots": "t.o\n",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    (tmp_path / "link").symlink_to("a.txt")
    (tmp_path / "latin").write_bytes(b"\xe9 two\n")
    (tmp_path / "utf16").write_bytes("two\n".encode("utf-16"))
    os.mkfifo(tmp_path / "fifo")
    return tmp_path


def places(root: Path, rg: str | None, **arguments: Any) -> list[tuple[str, int]]:
    return [(match["path"], match["line"]) for match in data(root, "search_text", rg, **arguments)["matches"]]


def test_a_plain_text(tree: Path, rg: str | None) -> None:
    """Hidden and ignored files too; no links, nothing of git's, no binary files."""
    found = places(tree, rg, query="two")
    # The two have `b.c` and `b/c.py` in different orders.
    assert sorted(found) == [
        ("-e", 1), (".hidden", 1), ("a.txt", 2), ("b.c", 1), ("b/c.py", 1), ("b/c.py", 3), ("ignored.log", 1), ("latin", 1), ("ü\n.txt", 1),
    ]  # fmt: skip


def test_a_match_is_told_with_its_line(tree: Path, rg: str | None) -> None:
    found = data(tree, "search_text", rg, query="two", path="b")
    assert found == {
        "matches": [
            {"path": "b/c.py", "line": 1, "column": 6, "text": "x = 'two'"},
            {"path": "b/c.py", "line": 3, "column": 1, "text": "two = 2"},
        ],
        "has_more": False,
    }
    (match,) = data(tree, "search_text", rg, query="two", path="ü\n.txt")["matches"]
    assert (match["column"], match["text"]) == (3, "ä two")
    (match,) = data(tree, "search_text", rg, query="Two")["matches"]
    assert match == {"path": "a.txt", "line": 2, "column": 5, "text": "two Two"}


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ({"query": "t.o"}, [("dots", 1)]),
        ({"query": "TWO"}, []),
        ({"query": "TWO", "ignore_case": True, "path": "b"}, [("b/c.py", 1), ("b/c.py", 3)]),
        ({"query": "Ä", "ignore_case": True}, [("ü\n.txt", 1)]),
        ({"query": "two", "pattern": "*.py"}, [("b/c.py", 1), ("b/c.py", 3)]),
        ({"query": "two", "pattern": "b/**/*.{py,c}"}, [("b/c.py", 1), ("b/c.py", 3)]),
        ({"query": "two", "pattern": "!b"}, [
            ("-e", 1), (".hidden", 1), ("a.txt", 2), ("b.c", 1), ("ignored.log", 1), ("latin", 1), ("ü\n.txt", 1),
        ]),
        ({"query": "two", "pattern": "!{b/**,-*,.*,*.{c,log},ü*,latin}"}, [("a.txt", 2)]),
        ({"query": "two", "path": "b", "pattern": "!b"}, []),
        ({"query": "two", "path": "link"}, [("a.txt", 2)]),
        ({"query": "two", "path": "-e"}, [("-e", 1)]),
        ({"query": "-e"}, []),
        ({"query": "--files"}, []),
        ({"query": "\\"}, []),
        ({"query": "[("}, []),
        ({"query": "three"}, [("a.txt", 3)]),
        ({"query": "two", "path": "a.txt", "pattern": "*.py"}, []),
    ],
)  # fmt: skip
def test_queries(
    tree: Path, rg: str | None, arguments: dict[str, Any], wanted: list[tuple[str, int]]
) -> None:
    assert places(tree, rg, **arguments) == wanted


def test_a_limit_is_told(tree: Path, rg: str | None) -> None:
    told = answer(tree, "search_text", rg, query="two", path="b", limit=1)
    assert len(told["data"]["matches"]) == 1
    assert told["data"]["has_more"]
    assert told["limits"][0]["limit"] == "matches"
    assert "limits" not in answer(tree, "search_text", rg, query="two", path="b", limit=2)


def test_long_lines_are_cut_around_the_match(tmp_path: Path, rg: str | None) -> None:
    (tmp_path / "f").write_text("é" * 100_000 + "needle" + "x" * 100_000)
    (match,) = data(tmp_path, "search_text", rg, query="needle")["matches"]
    assert "needle" in match["text"]
    assert (len(match["text"]), match["column"], match["is_cut"]) == (MAX_MATCH_CHARACTERS, 100_001, True)


def test_very_large_files_are_passed_over(tmp_path: Path, rg: str | None) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.write(b"two\n")
        file.truncate(MAX_SEARCHED_FILE_BYTES + 1)
    with open(tmp_path / "holes", "wb") as file:
        file.truncate(5 << 30)
    (tmp_path / "f").write_text("two\n")
    assert places(tmp_path, rg, query="two") == [("f", 1)]


@pytest.mark.parametrize("query", ["a\nb", "a\rb", "a\0b", "a\udce9"])
def test_what_is_no_query(tree: Path, rg: str | None, query: str) -> None:
    assert code(tree, "search_text", rg, query=query) == "invalid_query"


def test_regular_expressions(tree: Path) -> None:
    assert places(tree, ripgrep(), query=r"^t.o", regex=True, path="b") == [("b/c.py", 3)]
    assert places(tree, ripgrep(), query=r"two$", regex=True, path="b.c") == [("b.c", 1)]
    assert code(tree, "search_text", ripgrep(), query="(", regex=True) == "invalid_query"
    assert code(tree, "search_text", query="x", regex=True) == "not_supported"


def test_a_catastrophic_expression_is_nothing_to_ripgrep(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a" * 50_000 + "\n")
    assert places(tmp_path, ripgrep(), query=r"(a+)+$b", regex=True) == []


def test_a_ripgrep_that_is_none(tree: Path, tmp_path: Path) -> None:
    assert code(tree, "search_text", str(tmp_path / "nothing"), query="x") == "io_error"
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho nonsense\n")
    program.chmod(0o755)
    assert code(tree, "search_text", str(program), query="x") == "io_error"


def test_a_line_of_ripgrep_that_is_too_long_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("\x01" * 2_000_000 + "needle\n")
    (tmp_path / "b").write_text("needle\n")
    told = answer(tmp_path, "search_text", ripgrep(), query="needle")
    assert [match["path"] for match in told["data"]["matches"]] == ["b"]
    assert [limit["limit"] for limit in told["limits"]] == ["line_bytes"]


def test_a_query_that_nearly_matches_everywhere_takes_no_longer(tmp_path: Path, rg: str | None) -> None:
    """All of the file is searched: with its time over, there would be more. Nothing ends such a search from outside."""
    (tmp_path / "f").write_text("a" * (MAX_SEARCHED_FILE_BYTES - 1))
    found = data(tmp_path, "search_text", rg, query="A" * 999 + "b", ignore_case=True)
    assert found == {"matches": [], "has_more": False}


@pytest.mark.parametrize(
    ("query", "text"),
    [("stra\xdfe", "STRA\u1e9eE"), ("\u03bf\u03c3", "\u039f\u03a3"), ("\u039f\u03a3", "\u03bf\u03c2"), ("K", "\u212a")],
)  # fmt: skip
def test_case_is_ignored_character_by_character(
    tmp_path: Path, rg: str | None, query: str, text: str
) -> None:
    """A capital I with a dot becomes two characters: what stands behind it keeps its column."""
    (tmp_path / "f").write_text(f"\u0130 {text}\n")
    (match,) = data(tmp_path, "search_text", rg, query=query, ignore_case=True)["matches"]
    assert match["column"] == 3


def test_a_line_with_too_many_matches_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("needle\n")
    (tmp_path / "b").write_text("x" * 12_000_000)
    told = answer(tmp_path, "search_text", ripgrep(), query="x")
    assert (told["data"], [limit["limit"] for limit in told["limits"]]) == (
        {"matches": [], "has_more": True},
        ["memory_bytes"],
    )
