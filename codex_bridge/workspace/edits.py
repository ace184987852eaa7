"""The tool `apply_patch`: a patch is planned on what the files hold, and written only when all of it fits.

A file is written beside itself and renamed into its place, so that a reader sees the old or the new one. Just before that it is
looked at again: one that somebody else has changed since is not overwritten. When a later file fails, those before it are put back, and
the answer says whether that went well. One patch of this process at a time: two on the same file would each undo the other.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..limits import (
    FILE_TOOL_S,
    MAX_DIFF_CHARACTERS,
    MAX_LIST_DEPTH,
    MAX_PATCHED_BYTES,
    MAX_PATCHED_FILE_BYTES,
    MAX_PATCHED_FILES,
    MAX_PATCHED_LINES,
    PATCH_WAIT_S,
)
from ..protocol.diffs import render_file, render_hunks
from ..protocol.hunks import Action, Edit, FilePatch, PatchInvalid, PatchMismatch, apply_hunks
from ..protocol.patch import parse_patch
from ..protocol.tools import FileEdit, ToolResult, limit_hit
from .jail import Jail, Parts, Spot, kind_of, refuse, told
from .place import Place, Refused, Watch, off_loop

Json = dict[str, Any]

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Codex's sandbox lets nobody write there either: what lies there is run, or obeyed, by others.
_PROTECTED_AT_ROOT = (".codex", ".agents")


class Edits:
    """Applies patches, one after another."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def apply(self, arguments: Json, place: Place) -> ToolResult:
        """Change files as a patch says, all or none."""
        return await self._run(arguments, place, is_preview=False)

    async def preview(self, arguments: Json, place: Place) -> ToolResult:
        """Return what a patch would change, and change nothing."""
        return await self._run(arguments, place, is_preview=True)

    async def _run(self, arguments: Json, place: Place, *, is_preview: bool) -> ToolResult:
        if place.sandbox_mode == "read-only":
            raise Refused("read_only", "This session may only read its workspace.")
        try:
            async with asyncio.timeout(PATCH_WAIT_S) as waiting, self._lock:
                waiting.reschedule(None)
                return await off_loop(lambda watch: _apply(arguments, place, watch, is_preview), FILE_TOOL_S)
        except TimeoutError:
            raise Refused("timed_out", "Other patches took too long; try again.") from None


def _apply(arguments: Json, place: Place, watch: Watch, is_preview: bool) -> ToolResult:
    try:
        # A text that is no UTF-8 could not be written, nor told in an error.
        arguments["patch"].encode()
        patches = parse_patch(arguments["patch"])
    except UnicodeEncodeError as error:
        raise Refused("patch_invalid", "The patch cannot be read: expected text in UTF-8.") from error
    except PatchInvalid as error:
        raise Refused("patch_invalid", f"The patch cannot be read: {error}") from error
    if len(patches) > MAX_PATCHED_FILES:
        raise Refused("too_large", f"A patch changes {MAX_PATCHED_FILES} files at most; {len(patches)} came.")
    with Jail(place.root) as jail:
        plan = _Plan(jail, watch)
        plan.check_hashes(arguments.get("expected_sha256") or {})
        for patch in patches:
            watch.check()
            plan.add(patch)
        changes = plan.changes()
        if not is_preview:
            watch.check()
            _Writer(jail, changes).write()
    return _result(place.root, changes)


# What is to be done -------------------------------------------------------------------------------


@dataclass(slots=True)
class _Content:
    """What a file holds, and what tells that it is still the same."""

    text: str
    data: bytes
    info: os.stat_result

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(slots=True)
class _State:
    """A file as it is and as it shall be; None where there is none. `came_from` is the file that was moved here."""

    parts: Parts
    before: _Content | None
    text: str | None
    mode: int | None
    edits: list[Edit] | None = field(default_factory=list)
    came_from: _State | None = None
    is_moved: bool = False

    @property
    def path(self) -> str:
        return "/".join(self.parts)

    @property
    def is_changed(self) -> bool:
        if self.before is None or self.text is None:
            return self.text is not None or self.before is not None
        return self.text != self.before.text or self.mode != stat.S_IMODE(self.before.info.st_mode)


def _is_move(origin: _State, state: _State) -> bool:
    is_gone = origin.text is None and origin.before is not None and not origin.is_moved
    return is_gone and state.text is not None and state.before is None


class _Plan:
    """The files of a patch, by their real paths; a second change of a file builds on the first."""

    def __init__(self, jail: Jail, watch: Watch) -> None:
        self._jail = jail
        self._watch = watch
        self._states: dict[Parts, _State] = {}
        self._bytes = 0
        self._git = _git_directories(jail)

    def check_hashes(self, expected: dict[str, str]) -> None:
        """Refuse when a file has changed since somebody read it."""
        for path, wanted in expected.items():
            self._watch.check()
            before = self._state(path).before
            found = before.sha256 if before is not None else None
            if found != wanted.strip().lower():
                what = f"has changed: its sha256 is {found}" if found else "is not there any more"
                raise Refused(
                    "changed_meanwhile", f"{told(path)} {what}; nothing was written.", path=path, sha256=found
                )

    def add(self, patch: FilePatch) -> None:
        """Take what is to be done to one file."""
        is_removed = patch.action is Action.DELETE or patch.move_path is not None
        state = self._state(patch.path, is_written=True, is_removed=is_removed)
        if patch.action is Action.ADD or (patch.is_creation and state.text is None):
            content = patch.content or "".join(text + "\n" for hunk in patch.hunks for text in hunk.new)
            self._create(state, content, patch)
            return
        if state.text is None:
            raise Refused("not_found", f"{told(patch.path)}: there is no such file to change.")
        text, edits = self._fit(state.text, patch)
        if patch.action is Action.DELETE:
            if patch.is_unified and text:
                raise Refused(
                    "patch_mismatch", f"{told(patch.path)}: the diff does not remove all of the file."
                )
            state.text, state.edits = None, None
            return
        is_first = state.before is not None and state.text == state.before.text
        state.text, state.edits = text, edits if is_first else None
        self._check_size(text, patch.path)
        if patch.is_executable is not None and state.mode is not None:
            state.mode = state.mode | 0o111 if patch.is_executable else state.mode & ~0o111
        if patch.move_path is not None:
            self._move(state, patch.move_path)

    def changes(self) -> list[_State]:
        """Return the files that really change, in the patch's order; one that was moved is told by where it is now."""
        for state in self._states.values():
            origin = state.came_from
            # Only a move when nothing came in its place, and nothing was there.
            if origin is not None and _is_move(origin, state):
                origin.is_moved = True
            else:
                state.came_from = None
        return [state for state in self._states.values() if state.is_changed]

    def _fit(self, text: str, patch: FilePatch) -> tuple[str, list[Edit]]:
        try:
            return apply_hunks(text, patch, self._watch.check)
        except PatchMismatch as error:
            message = f"{told(patch.path)}: the patch does not fit, so nothing was written; read the file again. {error}"
            raise Refused("patch_mismatch", message, path=patch.path) from error

    def _create(self, state: _State, content: str, patch: FilePatch) -> None:
        if state.text is not None:
            raise Refused(
                "already_exists", f"{told(patch.path)} exists; expected an update of it, or another path."
            )
        self._check_size(content, patch.path)
        self._check_nested(state, patch.path)
        state.text, state.edits = content, None
        state.mode = 0o777 if patch.is_executable else None
        if state.before is not None:
            state.mode = stat.S_IMODE(state.before.info.st_mode)

    def _move(self, source: _State, path: str) -> None:
        target = self._state(path, is_written=True)
        if target is source:
            return
        if target.text is not None:
            raise Refused("already_exists", f"{told(path)} exists; a file cannot be moved there.")
        self._check_nested(target, path)
        target.text, target.mode, target.edits = source.text, source.mode, source.edits
        target.came_from = source.came_from or source
        if target.came_from is not source:
            target.edits = None
        source.text, source.edits = None, None

    def _check_nested(self, state: _State, path: str) -> None:
        """Refuse a new file that another one of the patch would have to be a directory for, or the other way round."""
        for other in self._states.values():
            if other.text is not None and other is not state:
                common = min(len(other.parts), len(state.parts))
                if other.parts[:common] == state.parts[:common]:
                    raise Refused(
                        "not_a_directory", f"{told(path)}: {told(other.path)} cannot be there as well."
                    )

    def _state(self, path: str, *, is_written: bool = False, is_removed: bool = False) -> _State:
        """Return the state of the file that a path leads to."""
        with self._jail.find(path) as spot:
            if is_removed and spot.is_linked:
                raise Refused(
                    "not_a_file", f"{told(path)}: it is a link; only the file it leads to can be removed."
                )
            if is_written:
                self._check_free(spot, path)
            state = self._states.get(spot.parts)
            if state is None:
                before = self._read(spot, path) if spot.info is not None else None
                mode = stat.S_IMODE(before.info.st_mode) if before is not None else None
                state = _State(spot.parts, before, before.text if before is not None else None, mode)
                self._states[spot.parts] = state
            return state

    def _check_free(self, spot: Spot, path: str) -> None:
        """Refuse what nobody may change here."""
        names = {name.lower() for name in (*spot.parts, *spot.crossed)}
        if ".git" in names or (spot.parts and spot.parts[0] in _PROTECTED_AT_ROOT) or self._is_in_git(spot):
            raise Refused(
                "protected", f"{told(path)}: .git, .codex and .agents may be read here, but not changed."
            )
        if spot.info is None and len(spot.parts) > MAX_LIST_DEPTH:
            # Each step of the writer goes all the way from the root.
            raise Refused(
                "invalid_path", f"{told(path)}: expected at most {MAX_LIST_DEPTH} names in a new path."
            )
        if spot.info is not None and not spot.info.st_mode & 0o222:
            raise Refused("read_only", f"{told(path)}: the file is write-protected.")

    def _is_in_git(self, spot: Spot) -> bool:
        """Say whether a path leads into what `.git` is, under whatever name."""
        known = spot.parts[: len(spot.parts) - max(len(spot.missing), 1)]
        return any(known[: len(each)] == each for each in self._git)

    def _read(self, spot: Spot, path: str) -> _Content:
        if not spot.name or spot.info is None or not stat.S_ISREG(spot.info.st_mode):
            kind = kind_of(spot.info) if spot.info is not None else "directory"
            raise Refused("not_a_file", f"{told(path)}: expected a file; it is a {kind}.")
        try:
            opened = self._jail.open_file_parts(spot.parts)
        except OSError as error:
            refuse(error, path)
        try:
            info = os.fstat(opened)
            self._check_size(None, path, info.st_size)
            data = _read_all(opened, self._watch)
        except OSError as error:
            refuse(error, path)
        finally:
            os.close(opened)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            message = f"{told(path)}: expected text in UTF-8; it is a binary file of {len(data)} bytes."
            raise Refused("not_text", message, size=len(data))
        if text.count("\n") > MAX_PATCHED_LINES:
            raise Refused(
                "too_large",
                f"{told(path)}: a patch takes files of {MAX_PATCHED_LINES} lines at most.",
                size=len(data),
            )
        return _Content(text, data, info)

    def _check_size(self, text: str | None, path: str, size: int = 0) -> None:
        """Count what is held in memory."""
        if text is not None:
            size = len(text.encode())
        self._bytes += size
        if size > MAX_PATCHED_FILE_BYTES or self._bytes > MAX_PATCHED_BYTES:
            raise Refused(
                "too_large",
                f"{told(path)}: a patch takes files of {MAX_PATCHED_FILE_BYTES} bytes at most.",
                size=size,
            )


def _read_all(opened: int, watch: Watch) -> bytes:
    data = bytearray()
    # One byte more than is taken: a file may grow while it is read.
    while len(data) <= MAX_PATCHED_FILE_BYTES:
        watch.check()
        block = os.read(opened, MAX_PATCHED_FILE_BYTES + 1 - len(data))
        if not block:
            break
        data += block
    return bytes(data)


def _git_directories(jail: Jail) -> list[Parts]:
    """Return where `.git` is in truth, when it is a link, or a file that names a directory in the workspace."""
    with suppress(Refused, OSError), jail.find(".git") as spot:
        if not spot.name:
            return [spot.parts]
        opened = jail.open_file_parts(spot.parts)
        try:
            named = os.read(opened, 4096).decode(errors="replace").strip().removeprefix("gitdir:").strip()
        finally:
            os.close(opened)
        with jail.find(named) as other:
            return [spot.parts, other.parts]
    return []


# Writing it ---------------------------------------------------------------------------------------


class _Writer:
    """Writes what was planned. Nothing is open between two steps: each goes its way from the root again, and follows no link."""

    def __init__(self, jail: Jail, changes: list[_State]) -> None:
        self._jail = jail
        self._changes = changes
        self._temporary: dict[Parts, str] = {}
        self._made: list[Parts] = []
        self._undo: list[tuple[str, Callable[[], None]]] = []

    def write(self) -> None:
        """Write all, or put back what was written and raise `Refused`."""
        state = None
        try:
            for state in self._changes:
                if state.text is not None:
                    self._stage(state)
            for state in self._changes:
                self._check_unchanged(state)
            # Files that come first: a failure then costs no file.
            for state in sorted(self._changes, key=lambda each: each.text is None):
                self._check_unchanged(state)
                self._commit(state)
        except (OSError, Refused) as error:
            lost = self._roll_back()
            raise self._failed(error, state, lost) from error
        finally:
            self._sweep()

    def _stage(self, state: _State) -> None:
        """Write a file's new text beside it, with its mode and owner."""
        assert state.text is not None
        self._make_directories(state.parts[:-1])
        source = state.before or (state.came_from.before if state.came_from is not None else None)
        name = f".codex-bridge-{os.urandom(8).hex()}.tmp"
        directory = self._jail.open_parts(state.parts[:-1])
        try:
            opened = os.open(name, _WRITE, 0o600 if source else 0o666, dir_fd=directory)
        finally:
            os.close(directory)
        self._temporary[state.parts] = name
        try:
            _write_all(opened, state.text.encode())
            if source is not None:
                with suppress(OSError):  # only root may give files away; the mode is kept in any case
                    os.fchown(opened, source.info.st_uid, source.info.st_gid)
                os.fchmod(opened, state.mode if state.mode is not None else stat.S_IMODE(source.info.st_mode))
            elif state.mode is not None and state.mode & 0o100:
                readable = stat.S_IMODE(os.fstat(opened).st_mode)
                os.fchmod(opened, readable | (readable & 0o444) >> 2)
        finally:
            os.close(opened)

    def _make_directories(self, parts: Parts) -> None:
        for length in range(1, len(parts) + 1):
            directory = self._jail.open_parts(parts[: length - 1])
            try:
                os.mkdir(parts[length - 1], dir_fd=directory)
                self._made.append(parts[:length])
            except FileExistsError:
                pass  # a link there is refused by the next step
            finally:
                os.close(directory)

    def _check_unchanged(self, state: _State) -> None:
        """Refuse when a file is not the one any more that the patch was fitted to."""
        info = None
        with suppress(FileNotFoundError):
            directory = self._jail.open_parts(state.parts[:-1])
            try:
                info = os.stat(state.parts[-1], dir_fd=directory, follow_symlinks=False)
            finally:
                os.close(directory)
        if _stamp(info) != _stamp(state.before.info if state.before is not None else None):
            raise Refused("changed_meanwhile", f"{told(state.path)} was changed by somebody else meanwhile.")

    def _commit(self, state: _State) -> None:
        directory = self._jail.open_parts(state.parts[:-1])
        name = state.parts[-1]
        try:
            if state.text is None:
                os.unlink(name, dir_fd=directory)
            elif state.before is not None:
                os.rename(self._temporary[state.parts], name, src_dir_fd=directory, dst_dir_fd=directory)
                del self._temporary[state.parts]
            else:
                self._commit_new(state.parts, directory)
        finally:
            os.close(directory)
        before = state.before
        if before is None:
            self._undo.append((state.path, lambda: self._remove(state.parts)))
        else:
            self._undo.append((state.path, lambda: self._restore(state.parts, before)))

    def _commit_new(self, parts: Parts, directory: int) -> None:
        """Give a new file its name, unless somebody else has taken that."""
        temporary, name = self._temporary[parts], parts[-1]
        try:
            os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            # Not every file system has hard links.
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            del self._temporary[parts]

    def _roll_back(self) -> list[str]:
        """Put back what was written, the newest first; return the paths that could not be."""
        lost = []
        for path, undo in reversed(self._undo):
            try:
                undo()
            except OSError:
                lost.append(path)
        return lost

    def _remove(self, parts: Parts) -> None:
        directory = self._jail.open_parts(parts[:-1])
        try:
            os.unlink(parts[-1], dir_fd=directory)
        finally:
            os.close(directory)

    def _restore(self, parts: Parts, before: _Content) -> None:
        state = _State(parts, before, before.text, stat.S_IMODE(before.info.st_mode))
        self._stage(state)
        directory = self._jail.open_parts(parts[:-1])
        try:
            os.rename(self._temporary[parts], parts[-1], src_dir_fd=directory, dst_dir_fd=directory)
            del self._temporary[parts]
        finally:
            os.close(directory)

    def _sweep(self) -> None:
        """Remove what is left of the way: temporary files, and directories that were made for nothing."""
        for parts, name in self._temporary.items():
            with suppress(OSError):
                self._remove((*parts[:-1], name))
        if len(self._undo) < len(self._changes):
            for parts in reversed(self._made):
                with suppress(OSError):
                    directory = self._jail.open_parts(parts[:-1])
                    try:
                        os.rmdir(parts[-1], dir_fd=directory)
                    finally:
                        os.close(directory)

    def _failed(self, error: OSError | Refused, state: _State | None, lost: list[str]) -> Refused:
        """Say what went wrong, and what became of the files before."""
        if isinstance(error, OSError):
            try:
                refuse(error, state.path if state is not None else "")
            except Refused as refused:
                error = refused
        if lost:
            paths = ", ".join(told(path) for path in lost)
            message = f"{error.message} These files had been written and could not be put back: {paths}."
            return Refused(error.code, message, not_restored=lost)
        return Refused(error.code, f"{error.message} Nothing was changed.", **error.details)


def _write_all(opened: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(opened, view) :]


def _stamp(info: os.stat_result | None) -> tuple[int, ...] | None:
    """Return what tells one state of a file from another. A change of mode or links changes the last as well."""
    if info is None:
        return None
    return (info.st_dev, info.st_ino, info.st_mode, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


# Telling it ---------------------------------------------------------------------------------------


def _result(root: str, changes: list[_State]) -> ToolResult:
    """Tell the changes: for hosts in Codex's shape, whole; in the data as one diff, in git's."""
    files: list[Json] = []
    diffs: list[Json] = []
    texts: list[str] = []
    for state in changes:
        if state.is_moved:
            continue
        file, change, text = _tell(root, state)
        files.append(file)
        diffs.append(change)
        texts.append(text)
    diff = "".join(texts)
    limits: tuple[Json, ...] = ()
    if len(diff) > MAX_DIFF_CHARACTERS:
        diff = diff[:MAX_DIFF_CHARACTERS]
        limits = (
            limit_hit("diff_characters", MAX_DIFF_CHARACTERS, "The diff was cut there; all of it was done."),
        )
    edits = tuple(_edit(state) for state in changes if not state.is_moved)
    return ToolResult(data={"files": files, "diff": diff}, limits=limits, diffs=tuple(diffs), edits=edits)


def _edit(state: _State) -> FileEdit:
    """Return a change with its whole texts, of which the diff of a turn is made."""
    origin = state.came_from
    if origin is None:
        return FileEdit(state.path, state.before.text if state.before else None, state.text)
    return FileEdit(origin.path, origin.before.text if origin.before else None, state.text, state.path)


def _tell(root: str, state: _State) -> tuple[Json, Json, str]:
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
    sha256 = hashlib.sha256(state.text.encode()).hexdigest() if state.text is not None else None
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
