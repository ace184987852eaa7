"""Workspace paths: hostile paths, links, roots."""

import os
from pathlib import Path

import pytest

from codex_bridge.errors import InvalidField
from codex_bridge.workspace.paths import WorkspaceRoots, is_inside, read_regular, resolve_file


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """A root with files and links, a neighbour whose name begins alike, and a secret outside."""
    root = tmp_path / "root"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "file.txt").write_text("inside")
    (root / "sub" / "-rf").write_text("an odd name")
    (tmp_path / "root-evil").mkdir()
    (tmp_path / "root-evil" / "file.txt").write_text("a neighbour")
    (tmp_path / "secret").write_text("outside")
    (root / "link-in").symlink_to(root / "file.txt")
    (root / "link-out").symlink_to(tmp_path / "secret")
    (root / "sub" / "link-dir-out").symlink_to(tmp_path)
    (root / "link-loop").symlink_to(root / "link-loop")
    (root / "link-dangling").symlink_to(tmp_path / "nothing")
    os.mkfifo(root / "fifo")
    return root


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("file.txt", "file.txt"),
        ("./file.txt", "file.txt"),
        ("sub/../file.txt", "file.txt"),
        ("../root/file.txt", "file.txt"),
        ("sub/-rf", "sub/-rf"),
        ("sub//-rf", "sub/-rf"),
        ("link-in", "file.txt"),
        ("{root}/file.txt", "file.txt"),
    ],
)
def test_a_file_inside_is_found(places: Path, path: str, found: str) -> None:
    assert resolve_file(str(places), path.format(root=places), "f") == str(places / found)


@pytest.mark.parametrize(
    "path",
    [
        "", ".", "..", "/", "sub", "missing", "file.txt/x", "../secret", "../root-evil/file.txt",
        "sub/../../secret", "{parent}/secret", "/etc/passwd", "//etc/passwd", "/proc/self/environ", "link-out",
        "sub/link-dir-out/secret", "sub/link-dir-out", "link-loop", "link-dangling", "fifo", "/dev/null", "file.txt\0",
        "\0", "../root-evil", "~/file.txt", "file.txt ", "x" * 5000, "%2e%2e/secret", "..\\secret",
    ],
)  # fmt: skip
def test_a_hostile_path_is_refused_and_named(places: Path, path: str) -> None:
    with pytest.raises(InvalidField) as caught:
        resolve_file(str(places), path.format(root=places, parent=places.parent), "attachments[0]")
    assert caught.value.status == 422
    assert caught.value.details == {"field": "attachments[0]"}


def test_a_refusal_does_not_tell_what_exists_outside(places: Path) -> None:
    messages = set()
    for path in ("../secret", "../nothing"):
        with pytest.raises(InvalidField) as caught:
            resolve_file(str(places), path, "f")
        messages.add(caught.value.message)
    assert len(messages) == 1


@pytest.mark.parametrize(
    ("path", "root", "inside"),
    [
        ("/a", "/a", True),
        ("/a/b", "/a", True),
        ("/ab", "/a", False),
        ("/", "/a", False),
        ("/a", "/", True),
        ("/", "/", True),
        ("/a/b", "/a/", True),
    ],
)
def test_inside(path: str, root: str, inside: bool) -> None:
    assert is_inside(path, root) is inside


def test_a_session_gets_the_default_root(places: Path) -> None:
    assert WorkspaceRoots(str(places), (str(places),)).choose(None) == str(places)


@pytest.mark.parametrize(
    "wanted", ["{root}", "{root}/sub", "{root}/sub/../sub/deep", "{root}/", "{root}/./sub"]
)
def test_a_session_may_choose_a_directory_inside_a_root(places: Path, wanted: str) -> None:
    wanted = wanted.format(root=places)
    roots = WorkspaceRoots("/elsewhere", ("/elsewhere", str(places)))
    assert roots.choose(wanted) == os.path.realpath(wanted)


@pytest.mark.parametrize(
    "wanted",
    [
        "", "sub", ".", "~", "/", "{root}/..", "{parent}", "{parent}/root-evil", "{root}/missing", "{root}/file.txt",
        "{root}/sub/link-dir-out", "{root}/sub\0", "{root}/link-loop", "/etc", 7, True, [], {}, ["{root}"],
    ],
)  # fmt: skip
def test_a_session_may_not_choose_anything_else(places: Path, wanted: object) -> None:
    if isinstance(wanted, str):
        wanted = wanted.format(root=places, parent=places.parent)
    with pytest.raises(InvalidField) as caught:
        WorkspaceRoots(str(places), (str(places),)).choose(wanted)
    assert caught.value.details == {"field": "workspace_root"}


def test_a_file_is_read_without_waiting_and_nothing_else_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    assert read_regular(str(tmp_path / "file"), 3) == b"tex"
    before = os.listdir("/proc/self/fd")
    for name in ("link", "directory", "fifo", "missing"):
        with pytest.raises(OSError):
            read_regular(str(tmp_path / name), 3)
    assert len(os.listdir("/proc/self/fd")) == len(before)
