"""The jail: the table of hostile paths, and links that change while tools work."""

import ctypes
import gc
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from codex_bridge.workspace.jail import Jail
from codex_bridge.workspace.place import Refused
from codex_bridge.workspace.tools import Tools
from tests.unit.hostile_paths import HOSTILE, SECRET, Case, build
from tests.unit.loop import run
from tests.unit.tooling import (
    Call,
    NoSandbox,
    add,
    answers,
    code,
    data,
    delete,
    place,
    ripgrep,
    update,
)

pytestmark = pytest.mark.once


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return build(tmp_path.resolve())


def outcome(told: dict[str, object]) -> str:
    """Return the code of an answer, which tells nothing of what lies outside; "" of a success."""
    assert SECRET not in json.dumps(told)
    error = told.get("error")
    assert told["ok"] == (error is None)
    return error["code"] if isinstance(error, dict) else ""


def outside(root: Path) -> list[str]:
    """Return all that lies outside, with what it holds."""
    found = []
    for directory in (root.parent / "outside", root.parent / "ws-evil"):
        for path in sorted(directory.rglob("*")):
            found.append(f"{path} {path.read_text() if path.is_file() else ''}")
    return found


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: ascii(case.path[:60]))
def test_hostile_paths(root: Path, case: Case) -> None:
    path = case.path.format(root=root, parent=root.parent)
    before = outside(root)
    search: Call = ("search_text", {"query": "e", "path": path})
    calls: list[Call] = [("read_file", {"path": path}), ("list_files", {"path": path}), search]
    # Both a file and a directory can be searched in.
    wanted = [case.read, case.list, "" if "" in (case.read, case.list) else case.read]
    # Codex's grammar takes the spaces around a path away, and has one line for it.
    if "\n" not in path and path.strip():
        calls.append(("apply_patch", {"patch": update(path, "inside", "changed")}))
        calls.append(("apply_patch", {"patch": add(path, "made")}))
        wanted += [case.edit, case.make]
    assert [outcome(told) for told in answers(root, [search], ripgrep())] == wanted[2:3]
    assert [outcome(told) for told in answers(root, calls)] == wanted
    assert outside(root) == before


@pytest.mark.parametrize("path", [case.path for case in HOSTILE if case.edit == "outside_workspace"])
def test_nothing_outside_is_removed_or_moved_or_hashed(root: Path, path: str) -> None:
    path = path.format(root=root, parent=root.parent)
    before = outside(root)
    move = "*** Begin Patch\n*** Update File: {}\n*** Move to: {}\n*** End Patch\n"
    patches = (delete(path), move.format("file.txt", path), move.format(path, "mine.txt"))
    calls: list[Call] = [("apply_patch", {"patch": patch}) for patch in patches]
    calls.append(("apply_patch", {"patch": add("x", "y"), "expected_sha256": {path: "0" * 64}}))
    assert {outcome(told) for told in answers(root, calls)} == {"outside_workspace"}
    assert outside(root) == before
    assert not (root / "x").exists()
    assert not (root / "mine.txt").exists()


def test_the_root_may_not_become_a_link(root: Path) -> None:
    """A session keeps its root's real path; what lies there later may be something else."""
    at_first = place(root)
    root.rename(root.parent / "was")
    root.symlink_to(root.parent / "outside")
    told = run(
        lambda: Tools(NoSandbox()).run("list_files", {"path": ".", "recursive": False, "limit": 5}, at_first)
    )
    assert told.error is not None
    assert told.error["code"] == "not_found"


def test_a_jail_leaves_no_descriptor_open(root: Path) -> None:
    gc.collect()  # what other tests have left open
    before = len(os.listdir("/proc/self/fd"))
    for case in HOSTILE:
        with Jail(str(root)) as jail:
            try:
                opened, _ = jail.open_file(case.path.format(root=root, parent=root.parent))
                os.close(opened)
            except Refused:
                pass
    assert len(os.listdir("/proc/self/fd")) == before


_EXCHANGE = 2  # RENAME_EXCHANGE of <linux/fs.h>
_HERE = -100  # AT_FDCWD


@contextmanager
def swapping(place: Path, link: Path, target: Path) -> Iterator[None]:
    """Let a file or directory and a link to `target` change places, again and again, as fast as it goes."""
    stop = threading.Event()
    rename = ctypes.CDLL(None).renameat2
    fresh = link.with_name(link.name + "-fresh")

    def swap() -> None:
        while not stop.is_set():
            if not place.is_symlink() and not link.is_symlink():
                # A patch has replaced the link by a file of the workspace, as it may.
                fresh.symlink_to(target)
                fresh.rename(link)
            rename(_HERE, os.fsencode(place), _HERE, os.fsencode(link), _EXCHANGE)

    link.symlink_to(target)
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def swapped(root: Path) -> Iterator[Path]:
    """A workspace in which `dir` and `leaf.txt` are its own at one moment, and links to outside at the next."""
    (root / "dir").mkdir()
    (root / "dir" / "secret.txt").write_text("inside\n")
    (root / "leaf.txt").write_text("inside\n")
    there = root.parent / "outside"
    with (
        swapping(root / "dir", root / "other-dir", there),
        swapping(root / "leaf.txt", root / "other-leaf", there / "secret.txt"),
    ):
        yield root


ALLOWED = {
    "", "outside_workspace", "not_found", "changed_meanwhile", "not_a_directory", "not_a_file", "already_exists", "patch_mismatch",
}  # fmt: skip


def test_links_that_are_swapped_in_lead_nowhere(swapped: Path) -> None:
    """Whatever a tool meets, it tells and writes nothing of what lies outside."""
    before = outside(swapped)
    calls: list[Call] = []
    for number in range(60):
        for path in ("dir/secret.txt", "leaf.txt"):
            calls.append(("read_file", {"path": path}))
            calls.append(("apply_patch", {"patch": update(path, "inside", "mine")}))
            calls.append(("apply_patch", {"patch": update(path, "mine", "inside")}))
        calls.append(("list_files", {"path": "dir"}))
        calls.append(("list_files", {"recursive": True}))
        calls.append(("search_text", {"query": "secret", "path": "dir"}))
        calls.append(("search_text", {"query": "secret"}))
        calls.append(("apply_patch", {"patch": add(f"dir/new-{number}", "mine")}))
        calls.append(("apply_patch", {"patch": delete(f"dir/new-{number}")}))
    assert {outcome(told) for told in answers(swapped, calls)} <= ALLOWED
    assert outside(swapped) == before


def test_ripgrep_cannot_be_led_out(swapped: Path) -> None:
    calls: list[Call] = [("search_text", {"query": query, "path": path}) for query in ("secret", "inside") for path in (".", "dir")]  # fmt: skip
    assert {outcome(told) for told in answers(swapped, calls * 15, ripgrep())} <= ALLOWED


def test_what_ripgrep_finds_outside_is_not_told(root: Path, tmp_path: Path) -> None:
    """A ripgrep that was led out, for sure: it reports a line of another file under a name in the workspace."""
    line = {"text": SECRET + "\n"}
    match = {
        "path": {"text": "./file.txt"},
        "lines": line,
        "absolute_offset": 0,
        "line_number": 1,
        "submatches": [],
    }
    linked = {**match, "path": {"text": "./out-dir/secret.txt"}}
    over = {**match, "path": {"text": "../outside/secret.txt"}}
    true = {**match, "lines": {"text": "inside\n"}, "line_number": 99}
    told = "\n".join(json.dumps({"type": "match", "data": each}) for each in (match, linked, over, true))
    liar = tmp_path / "rg"
    liar.write_text(f"#!/bin/sh\ncat <<'END'\n{told}\nEND\n")
    liar.chmod(0o755)
    found = data(root, "search_text", str(liar), query="e")
    assert found["matches"] == [{"path": "file.txt", "line": 1, "column": 1, "text": "inside"}]


def test_a_name_in_another_encoding_is_listed(root: Path) -> None:
    (entry,) = [each for each in data(root, "list_files")["entries"] if each["path"].startswith("caf")]
    assert entry == {"path": "caf\\xe9.txt", "kind": "file", "size": 7, "undecodable": True}
    assert code(root, "read_file", path=entry["path"]) == "invalid_path"


def test_links_are_listed_with_what_they_say(root: Path) -> None:
    entries = {each["path"]: each for each in data(root, "list_files")["entries"]}
    assert entries["out"] == {"path": "out", "kind": "link", "target": "../outside/secret.txt"}
    assert entries["fifo"] == {"path": "fifo", "kind": "other"}
    assert entries["new\nline.txt"]["kind"] == "file"
    below = [each["path"] for each in data(root, "list_files", recursive=True)["entries"]]
    assert not [path for path in below if path.startswith(("out-dir/", "in-dir/", "slash/", ".git"))]
    assert "sub/deep" in below
