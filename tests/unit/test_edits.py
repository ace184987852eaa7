"""apply_patch: all of a patch or nothing, and files keep what the patch does not speak of."""

import asyncio
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codex_bridge.limits import MAX_LIST_DEPTH, MAX_PATCHED_FILE_BYTES, MAX_PATCHED_LINES
from codex_bridge.protocol.hunks import apply_hunks
from codex_bridge.protocol.patch import parse_patch
from codex_bridge.protocol.tools import TOOLS, ToolResult, check_input
from codex_bridge.workspace import edits
from codex_bridge.workspace.edit_writer import Writer
from codex_bridge.workspace.place import Place, Refused, Watch
from codex_bridge.workspace.tools import Tools
from tests.unit.loop import on_loop, run
from tests.unit.tooling import NoSandbox, add, answer, call, code, data, delete, place, update

pytestmark = pytest.mark.once


def tree(root: Path) -> dict[str, str]:
    """Return all files below a directory with what they hold."""
    return {
        str(path.relative_to(root)): path.read_bytes().decode()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def together(*parts: str) -> str:
    """Return several patches as one."""
    bodies = [part.removeprefix("*** Begin Patch\n").removesuffix("*** End Patch\n") for part in parts]
    return "*** Begin Patch\n" + "".join(bodies) + "*** End Patch\n"


def move(path: str, to: str, body: str = "") -> str:
    return f"*** Begin Patch\n*** Update File: {path}\n*** Move to: {to}\n{body}*** End Patch\n"


def patch(root: Path, text: str, **more: Any) -> ToolResult:
    return call(Tools(NoSandbox()), root, "apply_patch", patch=text, **more)


def test_a_patch_of_all_kinds(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("a\nb\nc\n")
    (tmp_path / "gone").write_text("x\n")
    (tmp_path / "here").write_text("1\n2\n")
    body = "@@\n a\n-b\n+B\n"
    done = patch(
        tmp_path,
        together(
            add("new/deep/n", "n"),
            move("old", "there/moved", body),
            delete("gone"),
            update("here", "2", "two"),
        ),
    )
    assert done.is_ok, done
    assert tree(tmp_path) == {"here": "1\ntwo\n", "new/deep/n": "n\n", "there/moved": "a\nB\nc\n"}
    assert done.data is not None
    assert done.data["files"] == [
        {"path": "new/deep/n", "action": "add", "sha256": sha("n\n")},
        {"path": "old", "action": "update", "sha256": sha("a\nB\nc\n"), "move_path": "there/moved"},
        {"path": "gone", "action": "delete", "sha256": None},
        {"path": "here", "action": "update", "sha256": sha("1\ntwo\n")},
    ]
    assert list(done.diffs) == [
        {"path": f"{tmp_path}/new/deep/n", "kind": {"type": "add"}, "diff": "n\n"},
        {
            "path": f"{tmp_path}/old",
            "kind": {"type": "update", "move_path": f"{tmp_path}/there/moved"},
            "diff": "@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n",
        },
        {"path": f"{tmp_path}/gone", "kind": {"type": "delete"}, "diff": "x\n"},
        {
            "path": f"{tmp_path}/here",
            "kind": {"type": "update", "move_path": None},
            "diff": "@@ -1,2 +1,2 @@\n 1\n-2\n+two\n",
        },
    ]
    assert "rename from old\nrename to there/moved\n--- a/old\n+++ b/there/moved\n" in done.data["diff"]


def test_the_diff_it_tells_is_a_patch_that_undoes_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a\r\nb\r\nc")
    told = data(tmp_path, "apply_patch", patch=update("f", "b", "B"))
    (tmp_path / "f").write_bytes(b"a\r\nb\r\nc")
    assert data(tmp_path, "apply_patch", patch=told["diff"]) == told
    assert (tmp_path / "f").read_bytes() == b"a\r\nB\r\nc"


def test_a_preview_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a\n")
    tools, text = Tools(NoSandbox()), together(update("f", "a", "b"), add("n", "n"))
    shown = run(lambda: tools.preview_patch({"patch": text}, place(tmp_path)))
    assert tree(tmp_path) == {"f": "a\n"}
    assert shown == patch(tmp_path, text)
    again = run(lambda: tools.preview_patch({"patch": text}, place(tmp_path)))
    assert again.error is not None
    assert again.error["code"] == "patch_mismatch"


def test_only_what_was_shown_is_written(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a\n")
    tools, arguments = Tools(NoSandbox()), {"patch": update("f", "a", "b")}
    shown = run(lambda: tools.preview_patch(arguments, place(tmp_path)))
    (tmp_path / "f").write_text("before\na\n")
    told = run(lambda: tools.apply_patch(arguments, place(tmp_path), shown))
    assert told.error is not None
    assert told.error["code"] == "changed_meanwhile"
    assert tree(tmp_path) == {"f": "before\na\n"}
    (tmp_path / "f").write_text("a\n")
    assert run(lambda: tools.apply_patch(arguments, place(tmp_path), shown)) == shown
    assert tree(tmp_path) == {"f": "b\n"}


FIRST = together(update("f", "a", "b"), add("new/n", "n"))


@pytest.mark.parametrize(
    ("second", "wanted"),
    [
        (update("missing", "a", "b"), "not_found"),
        (delete("missing"), "not_found"),
        (update("g", "no", "b"), "patch_mismatch"),
        (add("g", "x"), "already_exists"),
        (add("dir", "x"), "not_a_file"),
        (delete("dir"), "not_a_file"),
        (move("g", "f"), "already_exists"),
        (move("g", "dir"), "not_a_file"),
        (move("g", "../out"), "outside_workspace"),
        (update("binary", "a", "b"), "not_text"),
        (update("latin", "a", "b"), "not_text"),
        (delete("binary"), "not_text"),
        (update("large", "a", "b"), "too_large"),
        (update("locked", "a", "b"), "read_only"),
        (add("f/x", "x"), "not_a_directory"),
        (add("new/n", "x"), "already_exists"),
        (add("new/n/x", "x"), "not_a_directory"),
        (add(".git/hooks/x", "x"), "protected"),
        (move("g", ".git/x"), "protected"),
        (delete("link"), "not_a_file"),
        (add("../x", "x"), "outside_workspace"),
        ("*** Begin Patch\n*** Update File: g\n*** End Patch\n", "patch_invalid"),
        (add("n\udce9", "x"), "patch_invalid"),
        (add("ok", "x\udce9"), "patch_invalid"),
        (update("g", "x\udce9", "x"), "patch_invalid"),
    ],
)  # fmt: skip
def test_all_or_nothing(tmp_path: Path, second: str, wanted: str) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "f").write_text("a\n")
    (tmp_path / "g").write_text("a\n")
    (tmp_path / "link").symlink_to("g")
    (tmp_path / "locked").write_text("a\n")
    (tmp_path / "locked").chmod(0o444)
    (tmp_path / "binary").write_bytes(b"a\n\0")
    (tmp_path / "latin").write_bytes(b"a\n\xe9\n")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(MAX_PATCHED_FILE_BYTES + 1)
    before = state(tmp_path)
    assert code(tmp_path, "apply_patch", patch=together(FIRST, second)) == wanted
    assert state(tmp_path) == before


def state(root: Path) -> dict[str, tuple[int, ...]]:
    """Return what writing would change of everything under a directory; reading changes the access time alone."""
    found = {}
    for path in root.rglob("*"):
        info = path.lstat()
        found[path.name] = (
            info.st_ino,
            info.st_mode,
            info.st_nlink,
            info.st_size,
            info.st_mtime_ns,
            info.st_ctime_ns,
        )
    return found


def test_several_changes_of_one_file_build_on_each_other(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a\nb\n")
    done = patch(
        tmp_path,
        together(update("f", "a", "A"), update("./f", "b", "B"), move("f", "g"), update("g", "A", "1")),
    )
    assert tree(tmp_path) == {"g": "1\nB\n"}
    assert [(d["path"], d["kind"]["move_path"], d["diff"]) for d in done.diffs] == [
        (f"{tmp_path}/f", f"{tmp_path}/g", "@@ -1,2 +1,2 @@\n-a\n-b\n+1\n+B\n")
    ]
    patch(tmp_path, together(delete("g"), add("g", "new")))
    assert tree(tmp_path) == {"g": "new\n"}
    nothing = patch(tmp_path, together(add("x", "x"), delete("x")))
    assert (nothing.data, nothing.diffs) == ({"files": [], "diff": ""}, ())
    patch(tmp_path, together(move("g", "h"), add("g", "again")))
    assert tree(tmp_path) == {"g": "again\n", "h": "new\n"}
    assert patch(tmp_path, move("g", "./g")).is_ok
    assert tree(tmp_path) == {"g": "again\n", "h": "new\n"}


@pytest.mark.parametrize("make", [add, lambda path, _: move("f", path)])
def test_new_files_lie_no_deeper_than_lists_go(tmp_path: Path, make: Callable[[str, str], str]) -> None:
    (tmp_path / "f").write_text("a\n")
    assert code(tmp_path, "apply_patch", patch=make("d/" * MAX_LIST_DEPTH + "x", "x")) == "invalid_path"
    assert os.listdir(tmp_path) == ["f"]
    assert patch(tmp_path, make("d/" * (MAX_LIST_DEPTH - 1) + "x", "x")).is_ok


@pytest.mark.parametrize("mode", [0o644, 0o755, 0o600, 0o640])
def test_the_mode_stays(tmp_path: Path, mode: int) -> None:
    (tmp_path / "f").write_text("a\n")
    (tmp_path / "f").chmod(mode)
    patch(tmp_path, update("f", "a", "b"))
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == mode
    patch(tmp_path, move("f", "g", "@@\n-b\n+c\n"))
    assert stat.S_IMODE((tmp_path / "g").stat().st_mode) == mode


def test_the_mode_of_new_files(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        patch(tmp_path, add("plain", "x"))
        patch(
            tmp_path,
            "diff --git a/run b/run\nnew file mode 100755\n--- /dev/null\n+++ b/run\n@@ -0,0 +1 @@\n+x\n",
        )
        patch(tmp_path, "diff --git a/plain b/plain\nold mode 100644\nnew mode 100755\n")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == 0o751


def test_a_link_stays_one_and_its_file_is_changed(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a\n")
    (tmp_path / "link").symlink_to("f")
    (tmp_path / "dangling").symlink_to("sub/made")
    told = data(tmp_path, "apply_patch", patch=together(update("link", "a", "b"), add("dangling", "made")))
    assert [file["path"] for file in told["files"]] == ["f", "sub/made"]
    assert (tmp_path / "link").is_symlink()
    assert tree(tmp_path)["f"] == "b\n"
    assert (tmp_path / "sub" / "made").read_text() == "made\n"


def test_who_reads_a_file_sees_the_old_or_the_new(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a\n")
    with open(tmp_path / "f") as reader:
        patch(tmp_path, update("f", "a", "b"))
        assert reader.read() == "a\n"
    assert os.listdir(tmp_path) == ["f"]


def test_read_only_sessions(tmp_path: Path) -> None:
    tools = Tools(NoSandbox())
    told = run(lambda: tools.run("apply_patch", {"patch": add("x", "y")}, Place(str(tmp_path), "read-only")))
    assert told.error is not None
    assert told.error["code"] == "read_only"
    assert tree(tmp_path) == {}


def test_expected_hashes(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a\n")
    (tmp_path / "g").write_text("g\n")
    text = update("f", "a", "b")
    told = answer(tmp_path, "apply_patch", patch=text, expected_sha256={"f": sha("other\n")})
    assert told["error"]["code"] == "changed_meanwhile"
    assert (told["error"]["path"], told["error"]["sha256"]) == ("f", sha("a\n"))
    # Also of a file that the patch does not touch, or that is not there.
    assert code(tmp_path, "apply_patch", patch=text, expected_sha256={"g": sha("x")}) == "changed_meanwhile"
    assert code(tmp_path, "apply_patch", patch=text, expected_sha256={"h": sha("x")}) == "changed_meanwhile"
    assert tree(tmp_path) == {"f": "a\n", "g": "g\n"}
    assert answer(
        tmp_path, "apply_patch", patch=text, expected_sha256={"./f": sha("a\n").upper(), "g": sha("g\n")}
    )["ok"]


def test_a_failure_in_the_midst_puts_all_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last step of each patch fails as a full or broken disk would: what was written before is as it was."""
    (tmp_path / "f").write_bytes(b"a\r\nkeep")
    (tmp_path / "f").chmod(0o751)
    (tmp_path / "g").write_text("g\n")
    before = tree(tmp_path)
    text = together(update("f", "a", "b"), add("new/deep/n", "n"), delete("g"))
    for broken in ("rename", "link", "unlink"):
        real: Any = getattr(os, broken)
        failed: list[bool] = []

        def fail(*given: Any, real: Any = real, failed: list[bool] = failed, **more: Any) -> None:
            if not failed and given[0] != "f":
                failed.append(True)
                raise OSError(28, "No space left on device")
            real(*given, **more)

        with monkeypatch.context() as patched:
            patched.setattr(os, broken, fail)
            told = answer(tmp_path, "apply_patch", patch=text)
        assert failed
        assert told["error"]["code"] == "io_error"
        assert "Nothing was changed" in told["error"]["message"]
        assert tree(tmp_path) == before
        assert sorted(os.listdir(tmp_path)) == ["f", "g"]
        assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o751


def test_what_cannot_be_put_back_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_text("a\n")
    (tmp_path / "g").write_text("g\n")

    def fail(*given: Any, **more: Any) -> None:
        monkeypatch.setattr(os, "open", fail)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "unlink", fail)
    told = answer(tmp_path, "apply_patch", patch=together(update("f", "a", "b"), delete("g")))
    monkeypatch.undo()
    assert told["error"]["code"] == "io_error"
    assert told["error"]["not_restored"] == ["f"]


def test_a_file_that_changes_after_the_plan_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_text("a\n")
    real = Writer.write

    def later(self: Any) -> None:
        (tmp_path / "f").write_text("A\n")
        real(self)

    monkeypatch.setattr(Writer, "write", later)
    assert (
        code(tmp_path, "apply_patch", patch=together(update("f", "a", "b"), add("n", "n")))
        == "changed_meanwhile"
    )
    assert tree(tmp_path) == {"f": "A\n"}
    monkeypatch.setattr(Writer, "write", real)

    def appears(self: Any) -> None:
        (tmp_path / "n").write_text("theirs\n")
        real(self)

    monkeypatch.setattr(Writer, "write", appears)
    assert code(tmp_path, "apply_patch", patch=add("n", "ours")) == "changed_meanwhile"
    assert tree(tmp_path) == {"f": "A\n", "n": "theirs\n"}


@on_loop
async def test_patches_at_the_same_time_lose_nothing() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "f").write_text("".join(f"line {n}\n" for n in range(40)))
        tools = Tools(NoSandbox())
        calls = [
            tools.run("apply_patch", {"patch": update("f", f"line {n}", f"done {n}")}, place(root))
            for n in range(40)
        ]
        assert all(result.is_ok for result in await asyncio.gather(*calls))
        assert (root / "f").read_text() == "".join(f"done {n}\n" for n in range(40))


@on_loop
async def test_who_is_cancelled_waits_for_the_end_of_the_writing() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        tools = Tools(NoSandbox())
        for number in range(20):
            task = asyncio.create_task(
                tools.run(
                    "apply_patch",
                    check_input(TOOLS["apply_patch"], {"patch": add(f"n{number}", "x")}),
                    place(root),
                )
            )
            for _ in range(number % 5):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            before = sorted(os.listdir(root))
            assert not [name for name in before if name.endswith(".tmp")]
        # And nothing holds the next one up.
        assert (await tools.run("apply_patch", {"patch": add("last", "x")}, place(root))).is_ok


def test_git_under_another_name_is_protected(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "config").write_text("a\n")
    (tmp_path / ".git").symlink_to("data")
    assert code(tmp_path, "apply_patch", patch=update("data/config", "a", "b")) == "protected"
    assert code(tmp_path, "apply_patch", patch=add("data/hooks/pre-commit", "x")) == "protected"
    (tmp_path / ".git").unlink()
    (tmp_path / ".git").write_text(f"gitdir: {tmp_path.resolve()}/data\n")
    assert code(tmp_path, "apply_patch", patch=update("data/config", "a", "b")) == "protected"
    assert code(tmp_path, "apply_patch", patch=update(".git", "a", "b")) == "protected"
    (tmp_path / ".git").unlink()
    assert answer(tmp_path, "apply_patch", patch=update("data/config", "a", "b"))["ok"]


def test_a_plan_looks_at_the_time(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a\n")
    watch = Watch(10)
    watch.stop()
    with pytest.raises(Refused, match="not done within"):
        edits._apply({"patch": update("f", "a", "b")}, place(tmp_path), watch, False)
    assert tree(tmp_path) == {"f": "a\n"}


def test_diffs_are_made_in_time_and_before_anything_is_written(tmp_path: Path) -> None:
    class LateWatch(Watch):
        """Its time is over when all is planned, and the second of two files is to be told."""

        looks = 0

        def check(self) -> None:
            self.looks += 1
            if self.looks == most:
                self.stop()
            super().check()

    for name in "fg":
        (tmp_path / name).write_text("a\n")
    arguments = {"patch": together(update("f", "a", "b"), update("g", "a", "b"))}
    most = 0
    watch = LateWatch(10)
    edits._apply(arguments, place(tmp_path), watch, is_preview=True)
    most = watch.looks  # the last look is at the second file
    with pytest.raises(Refused, match="not done within"):
        edits._apply(arguments, place(tmp_path), LateWatch(10), is_preview=False)
    assert tree(tmp_path) == {"f": "a\n", "g": "a\n"}


def test_a_long_diff_is_cut_in_the_data_and_whole_for_the_host(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("some line\n" * 100_000)
    done = patch(tmp_path, delete("f"))
    assert [limit["limit"] for limit in done.limits] == ["diff_characters"]
    assert done.diffs[0]["diff"] == "some line\n" * 100_000


def test_a_new_file_of_a_diff_without_its_header(tmp_path: Path) -> None:
    assert answer(tmp_path, "apply_patch", patch="--- a/n\n+++ b/n\n@@ -0,0 +1 @@\n+x\n")["ok"]
    bare = "--- a/m\n+++ b/m\n@@ -0,0 +1 @@\n+x\n\\ No newline at end of file\n"
    assert answer(tmp_path, "apply_patch", patch=bare)["ok"]
    assert tree(tmp_path) == {"m": "x", "n": "x\n"}


def test_a_diff_that_does_not_remove_all_does_not_delete(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a\nb\n")
    text = "--- a/f\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n"
    assert code(tmp_path, "apply_patch", patch=text) == "patch_mismatch"
    assert answer(tmp_path, "apply_patch", patch=text.replace("-a\n", "-a\n-b\n").replace("-1 ", "-1,2 "))[
        "ok"
    ]
    assert tree(tmp_path) == {}


def test_answers_are_plain_json(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("a\n")
    assert json.dumps(answer(tmp_path, "apply_patch", patch=update("f", "a", "b")))
    (one,) = parse_patch(update("f", "b", "c"))
    assert apply_hunks("b\n", one, lambda: None)[0] == "c\n"


def test_a_file_of_too_many_lines(tmp_path: Path) -> None:
    """Each line is an object: of a file of empty ones they would take a hundred times as much as the file."""
    (tmp_path / "f").write_text("a\n" + "\n" * MAX_PATCHED_LINES)
    assert code(tmp_path, "apply_patch", patch=update("f", "a", "b")) == "too_large"
    (tmp_path / "f").write_text("a\n" + "\n" * (MAX_PATCHED_LINES - 1))
    assert data(tmp_path, "apply_patch", patch=update("f", "a", "b"))["files"][0]["path"] == "f"
