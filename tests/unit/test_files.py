"""list_files and read_file: pages of directories and files, also of very large ones."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codex_bridge.limits import MAX_HASHED_BYTES, MAX_READ_BYTES, MAX_READ_LINE_CHARACTERS
from codex_bridge.workspace.globs import compile_glob
from tests.unit.tooling import answer, answers, code, data

pytestmark = pytest.mark.once


def pages(root: Path, **arguments: Any) -> list[str]:
    """Return the paths of all pages of a list."""
    paths: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = data(root, "list_files", **arguments, **cursor)
        assert page["entries"] or "next_cursor" not in page
        paths += [entry["path"] for entry in page["entries"]]
        if "next_cursor" not in page:
            return paths
        cursor = {"cursor": page["next_cursor"]}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "a/b/c.py",
        "a/b.py",
        "a.b",
        "a0",
        "src/x.ts",
        "src/deep/er/y.ts",
        "src/.git/config",
        ".git/config",
        "z",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "empty").mkdir()
    return tmp_path


TREE = [
    "a", "a.b", "a/b", "a/b.py", "a/b/c.py", "a0", "empty", "src", "src/deep", "src/deep/er", "src/deep/er/y.ts", "src/x.ts", "z",
]  # fmt: skip


def test_a_directory_alone(tree: Path) -> None:
    listed = data(tree, "list_files")
    assert listed["path"] == "."
    assert [entry["path"] for entry in listed["entries"]] == [".git", "a", "a.b", "a0", "empty", "src", "z"]
    assert listed["entries"][2] == {"path": "a.b", "kind": "file", "size": 3}
    assert listed["entries"][1] == {"path": "a", "kind": "directory"}
    assert [entry["path"] for entry in data(tree, "list_files", path="src/deep")["entries"]] == [
        "src/deep/er"
    ]


def test_a_tree_sorted_by_path(tree: Path) -> None:
    assert pages(tree, recursive=True) == TREE == sorted(TREE)


@pytest.mark.parametrize("limit", range(1, 15))
def test_pages_make_the_whole(tree: Path, limit: int) -> None:
    assert pages(tree, recursive=True, limit=limit) == TREE


def test_pages_go_on_when_what_the_cursor_names_is_gone(tree: Path) -> None:
    first = data(tree, "list_files", recursive=True, limit=5)
    (tree / "a" / "b" / "c.py").unlink()
    (tree / "a" / "b").rmdir()
    rest = data(tree, "list_files", recursive=True, cursor=first["next_cursor"])
    assert [entry["path"] for entry in rest["entries"]] == TREE[5:]


def test_a_page_tells_that_it_was_cut(tree: Path) -> None:
    told = answer(tree, "list_files", limit=2)
    assert told["limits"][0]["limit"] == "entries"
    assert "limits" not in answer(tree, "list_files")


def test_names_of_all_kinds_on_pages(tmp_path: Path) -> None:
    names = [b"\xe9", "é".encode(), b"a%2f", b"a b", b"\n", b"\\", b"~", "\U0010ffff".encode(), b'"']
    for name in names:
        open(os.fsencode(tmp_path) + b"/" + name, "w").close()
    assert len(pages(tmp_path, limit=1)) == len(names)
    assert pages(tmp_path, limit=1) == pages(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("*.ts", ["src/deep/er/y.ts", "src/x.ts"]),
        ("src/*.ts", ["src/x.ts"]),
        ("src/**/*.ts", ["src/deep/er/y.ts", "src/x.ts"]),
        ("**/y.ts", ["src/deep/er/y.ts"]),
        ("*.{ts,py}", ["a/b.py", "a/b/c.py", "src/deep/er/y.ts", "src/x.ts"]),
        ("[xy].ts", ["src/deep/er/y.ts", "src/x.ts"]),
        ("[!x].ts", ["src/deep/er/y.ts"]),
        ("a?", ["a0"]),
        ("nothing", []),
        ("!src", [path for path in TREE if not path.startswith("src")]),
        ("!src/deep/", [path for path in TREE if not path.startswith("src/deep")]),
        ("!!src", TREE),
        ("../*", []),
        ("[", []),
    ],
)
def test_patterns(tree: Path, pattern: str, wanted: list[str]) -> None:
    assert pages(tree, recursive=True, pattern=pattern) == wanted
    assert pages(tree, recursive=True, pattern=pattern, limit=1) == wanted


def test_no_pattern_takes_long() -> None:
    """Each of these would keep a backtracking matcher busy for years."""
    path = "/".join(["a" * 250] * 15)
    for glob in (
        "*a" * 400 + "b",
        "**/" * 300 + "b",
        "**/a*/" * 150 + "b",
        "{a,b}" * 180,
        "*" * 900 + "b",
        "?*" * 400 + "b/**",
    ):
        assert not compile_glob(glob)(path)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is such a place: a disk takes a minute for what is made here."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path) as path:
        yield Path(path)


def test_a_directory_of_very_many_entries(memory: Path) -> None:
    os.mkdir(memory / "many")
    for number in range(100_000):
        os.mknod(memory / "many" / f"{number:06}")
    first, deep = answers(
        memory,
        [
            ("list_files", {"path": "many", "limit": 3}),
            ("list_files", {"recursive": True, "limit": 2, "cursor": "many/054321"}),
        ],
    )
    assert [entry["path"] for entry in first["data"]["entries"]] == [
        "many/000000",
        "many/000001",
        "many/000002",
    ]
    assert [entry["path"] for entry in deep["data"]["entries"]] == ["many/054322", "many/054323"]
    found = data(memory, "list_files", recursive=True, pattern="*99999")
    assert [entry["path"] for entry in found["entries"]] == ["many/099999"]


def test_a_tree_that_is_too_deep_is_told(tmp_path: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(tmp_path)
        for _ in range(300):  # pytest itself could not clear away a deeper one
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.fchdir(here)
        os.close(here)
    told = answer(tmp_path, "list_files", recursive=True)
    assert told["limits"] == [{"limit": "depth", "value": 100, "message": told["limits"][0]["message"]}]
    deep = "/".join(["d"] * 250)
    assert data(tmp_path, "list_files", path=deep)["entries"][0]["path"] == deep + "/d"


# read_file ------------------------------------------------------------------------------------------


def read(root: Path, content: bytes, **arguments: Any) -> Any:
    (root / "f").write_bytes(content)
    found = data(root, "read_file", path="f", **arguments)
    assert found["sha256"] == hashlib.sha256(content).hexdigest()
    assert found["size"] == len(content)
    return found


@pytest.mark.parametrize(
    ("content", "arguments", "text", "total", "more"),
    [
        (b"", {}, "", 0, False),
        (b"a", {}, "a", 1, False),
        (b"a\n", {}, "a\n", 1, False),
        (b"\n\n", {}, "\n\n", 2, False),
        (b"a\nb\nc", {}, "a\nb\nc", 3, False),
        (b"a\nb\nc", {"limit": 2}, "a\nb\n", 3, True),
        (b"a\nb\nc", {"limit": 3}, "a\nb\nc", 3, False),
        (b"a\nb\nc\n", {"start_line": 2, "limit": 1}, "b\n", 3, True),
        (b"a\nb\nc\n", {"start_line": 3}, "c\n", 3, False),
        (b"a\nb\nc\n", {"start_line": 4}, "", 3, False),
        (b"a\nb\nc", {"start_line": 1 << 31}, "", 3, False),
        (b"a\r\nb\r\n", {}, "a\r\nb\r\n", 2, False),
        ("ü\n名\n".encode(), {"start_line": 2}, "名\n", 2, False),
        (b"\xef\xbb\xbfa\n", {}, "\ufeffa\n", 1, False),
        (b"x\n" * 700_000, {"start_line": 650_001, "limit": 2}, "x\nx\n", 700_000, True),
        (b"x" * 3_000_000 + b"\nlast\n", {"start_line": 2}, "last\n", 2, False),
        (b"a\n" + b"y" * 1_048_574 + b"\nb\n", {"start_line": 3}, "b\n", 3, False),
    ],
)  # fmt: skip
def test_lines(tmp_path: Path, content: bytes, arguments: Any, text: str, total: int, more: bool) -> None:
    found = read(tmp_path, content, **arguments)
    assert (found["text"], found["total_lines"], found["has_more"]) == (text, total, more)
    assert found["end_line"] - found["start_line"] + 1 == len(text.splitlines())


def test_pages_of_lines_make_the_whole(tmp_path: Path) -> None:
    content = "".join(f"line {n} {'é' * (n % 50)}\n" for n in range(20_000)) + "end"
    (tmp_path / "f").write_text(content)
    text, start = "", 1
    while True:
        page = data(tmp_path, "read_file", path="f", start_line=start, limit=4000)
        text += page["text"]
        if not page["has_more"]:
            break
        start = page["end_line"] + 1
    assert text == content


def test_long_lines_and_long_answers_are_cut_and_told(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("é" * 1_000_000 + "\nb\n")
    told = answer(tmp_path, "read_file", path="f")
    assert told["data"]["text"] == "é" * MAX_READ_LINE_CHARACTERS + "\nb\n"
    assert [limit["limit"] for limit in told["limits"]] == ["line_characters"]
    (tmp_path / "f").write_text(("x" * 999 + "\n") * 5000)
    told = answer(tmp_path, "read_file", path="f", limit=5000)
    assert len(told["data"]["text"]) == MAX_READ_BYTES // 1000 * 1000
    assert [limit["limit"] for limit in told["limits"]] == ["bytes"]
    assert told["data"]["has_more"]


@pytest.mark.parametrize(
    "content", [b"\0", b"a\0b", b"\xff\xfe", b"caf\xe9\n", b"\x89PNG\r\n", b"a\n" * 9000 + b"\xe9", b"a\n" * 9000 + b"\0"]
)  # fmt: skip
def test_what_is_no_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "f").write_bytes(content)
    told = answer(tmp_path, "read_file", path="f", start_line=max(content.count(b"\n"), 1))
    assert told["error"]["code"] == "not_text"
    assert told["error"]["size"] == len(content)


def test_a_character_at_the_edge_of_what_is_looked_at(tmp_path: Path) -> None:
    for before in range(7990, 8003):
        assert read(tmp_path, b"a" * before + "名\n".encode() * 3)["total_lines"] == 3


def test_files_of_gigabytes(tmp_path: Path) -> None:
    """One of holes is no text, at once; of one of lines the begin is read, and neither its hash nor all its lines."""
    with open(tmp_path / "holes", "wb") as file:
        file.truncate(1 << 40)
    assert code(tmp_path, "read_file", path="holes") == "not_text"
    block = b"some text that fills a line of a log\n" * 30_000
    with open(tmp_path / "log", "wb") as file:
        for _ in range(MAX_HASHED_BYTES // len(block) + 2):
            file.write(block)
        file.truncate(3 << 30)
    told = answer(tmp_path, "read_file", path="log", start_line=1_500_000, limit=2)
    assert told["data"]["text"] == "some text that fills a line of a log\n" * 2
    assert (told["data"]["sha256"], told["data"]["total_lines"], told["data"]["has_more"]) == (
        None,
        None,
        True,
    )
    assert [limit["limit"] for limit in told["limits"]] == ["lines", "hashed_bytes"]


def test_pages_of_long_paths(tmp_path: Path) -> None:
    """A cursor has three characters for each byte of a name that is not ASCII."""
    directory = tmp_path
    for _ in range(8):
        directory /= "\u4e2d" * 80
    directory.mkdir(parents=True)
    for name in "abc":
        (directory / name).write_text("")
    assert [Path(path).name for path in pages(tmp_path, recursive=True, limit=1)][-3:] == ["a", "b", "c"]
