"""The tool `apply_patch`: a patch is planned on what the files hold (`edit_plan`), and written only when all of it fits (`edit_writer`).

One patch of this process at a time: two on the same file would each undo the other.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from ..limits import FILE_TOOL_S, MAX_DIFF_CHARACTERS, MAX_PATCHED_FILES, PATCH_WAIT_S
from ..protocol.diffs import render_file, render_hunks
from ..protocol.hunks import Action, FilePatch, PatchInvalid
from ..protocol.patch import parse_patch
from ..protocol.tools import FileEdit, ToolResult, limit_hit
from .edit_plan import FileState, Plan, hash_text
from .edit_writer import Writer
from .jail import Jail, is_utf8
from .place import Place, Refused, Watch, off_loop

Json = dict[str, Any]

_CHANGED = (
    "The files have changed since the patch was shown, so that it would do something else now; nothing was done. "
    "Read them again."
)


class Edits:
    """Applies patches, one after another."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def apply(self, arguments: Json, place: Place, shown: ToolResult | None = None) -> ToolResult:
        """Change files as a patch says, all or none; where somebody was `shown` a preview, as that has said or not at all."""
        return await self._run(arguments, place, is_preview=False, shown=shown)

    async def preview(self, arguments: Json, place: Place) -> ToolResult:
        """Return what a patch would change, and change nothing."""
        return await self._run(arguments, place, is_preview=True)

    async def _run(
        self, arguments: Json, place: Place, *, is_preview: bool, shown: ToolResult | None = None
    ) -> ToolResult:
        if place.sandbox_mode == "read-only":
            raise Refused("read_only", "This session may only read its workspace.")
        try:
            async with asyncio.timeout(PATCH_WAIT_S) as waiting, self._lock:
                waiting.reschedule(None)
                return await off_loop(
                    lambda watch: _apply(arguments, place, watch, is_preview, shown), FILE_TOOL_S
                )
        except TimeoutError:
            raise Refused("timed_out", "Other patches took too long; try again.") from None


def _apply(
    arguments: Json, place: Place, watch: Watch, is_preview: bool, shown: ToolResult | None = None
) -> ToolResult:
    patches = _parse(arguments["patch"])
    with Jail(place.root) as jail:
        plan = Plan(jail, watch)
        plan.check_hashes(arguments.get("expected_sha256") or {})
        for patch in patches:
            watch.check()
            plan.add(patch)
        changes = plan.changes()
        # Told before it is done: the diffs may take longer than there is time.
        result = _result(place.root, changes, watch)
        if shown is not None and result.diffs != shown.diffs:
            raise Refused("changed_meanwhile", _CHANGED)
        if not is_preview:
            watch.check()
            Writer(jail, changes).write()
    return result


def _parse(text: str) -> tuple[FilePatch, ...]:
    if not is_utf8(text):  # it could not be written, nor told in an error
        raise Refused("patch_invalid", "The patch cannot be read: expected text in UTF-8.")
    try:
        patches = parse_patch(text)
    except PatchInvalid as error:
        raise Refused("patch_invalid", f"The patch cannot be read: {error}") from error
    if len(patches) > MAX_PATCHED_FILES:
        raise Refused("too_large", f"A patch changes {MAX_PATCHED_FILES} files at most; {len(patches)} came.")
    return patches


# Telling it ---------------------------------------------------------------------------------------


def _result(root: str, changes: list[FileState], watch: Watch) -> ToolResult:
    """Tell the changes: for hosts in Codex's shape, whole; in the data as one diff, in git's."""
    files: list[Json] = []
    diffs: list[Json] = []
    texts: list[str] = []
    edits: list[FileEdit] = []
    for state in changes:
        watch.check()
        if state.is_moved:
            continue
        file, change, text = _tell(root, state)
        files.append(file)
        diffs.append(change)
        texts.append(text)
        edits.append(_edit(state))
    diff = "".join(texts)
    limits: tuple[Json, ...] = ()
    if len(diff) > MAX_DIFF_CHARACTERS:
        diff = diff[:MAX_DIFF_CHARACTERS]
        limits = (
            limit_hit("diff_characters", MAX_DIFF_CHARACTERS, "The diff was cut there; all of it was done."),
        )
    return ToolResult(
        data={"files": files, "diff": diff}, limits=limits, diffs=tuple(diffs), edits=tuple(edits)
    )


def _edit(state: FileState) -> FileEdit:
    """Return a change with its whole texts, of which the diff of a turn is made."""
    origin = state.came_from
    if origin is None:
        return FileEdit(state.path, state.before.text if state.before else None, state.text)
    return FileEdit(origin.path, origin.before.text if origin.before else None, state.text, state.path)


def _tell(root: str, state: FileState) -> tuple[Json, Json, str]:
    """Return a change in three ways: briefly, as Codex tells it, and as git's diff."""
    origin = state.came_from
    before = origin.before if origin is not None else state.before
    old_path = (origin.path if origin is not None else state.path) if before is not None else None
    new_path = state.path if state.text is not None else None
    path = old_path or state.path
    hunks = render_hunks(before.text if before else "", state.text or "", state.edits if before else None)
    old_mode = _git_mode(before.info.st_mode) if before else 0
    new_mode = _git_mode(state.mode) if state.mode is not None else 0o100644
    action = Action.ADD if before is None else Action.DELETE if state.text is None else Action.UPDATE
    sha256 = hash_text(state.text) if state.text is not None else None
    file: Json = {"path": path, "action": action.value, "sha256": sha256}
    kind: Json = {"type": action.value}
    if action is Action.UPDATE:
        kind["move_path"] = None
    if origin is not None:
        file["move_path"] = state.path
        kind["move_path"] = os.path.join(root, state.path)
    content = {Action.ADD: state.text, Action.DELETE: before.text if before else ""}.get(action, hunks)
    change: Json = {"path": os.path.join(root, path), "kind": kind, "diff": content}
    return file, change, render_file(old_path, new_path, hunks, old_mode, new_mode)


def _git_mode(mode: int) -> int:
    return 0o100755 if mode & 0o100 else 0o100644
