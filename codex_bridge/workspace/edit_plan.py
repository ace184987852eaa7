"""What a patch shall make of the files of a workspace, and whether it may and can. Nothing is written here.

The tool is in `edits`; `edit_writer` writes what is planned.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field

from ..limits import MAX_LIST_DEPTH, MAX_PATCHED_BYTES, MAX_PATCHED_FILE_BYTES, MAX_PATCHED_LINES
from ..protocol.hunks import Action, Edit, FilePatch, PatchMismatch, apply_hunks
from .jail import Jail, Parts, Spot, kind_of, refuse, told
from .place import Refused, Watch

# Codex's sandbox lets nobody write there either: what lies there is run, or obeyed, by others.
_PROTECTED_AT_ROOT = (".codex", ".agents")


@dataclass(slots=True)
class Content:
    """What a file holds, and what tells that it is still the same."""

    text: str
    info: os.stat_result


@dataclass(slots=True)
class FileState:
    """A file as it is and as it shall be; None where there is none. `came_from` is the file that was moved here."""

    parts: Parts
    before: Content | None
    text: str | None
    mode: int | None
    edits: list[Edit] | None = field(default_factory=list)
    came_from: FileState | None = None
    is_moved: bool = False

    @property
    def path(self) -> str:
        return "/".join(self.parts)

    @property
    def is_changed(self) -> bool:
        if self.before is None or self.text is None:
            return self.text is not None or self.before is not None
        return self.text != self.before.text or self.mode != stat.S_IMODE(self.before.info.st_mode)


def _is_move(origin: FileState, state: FileState) -> bool:
    is_gone = origin.text is None and origin.before is not None and not origin.is_moved
    return is_gone and state.text is not None and state.before is None


class Plan:
    """The files of a patch, by their real paths; a second change of a file builds on the first."""

    def __init__(self, jail: Jail, watch: Watch) -> None:
        self._jail = jail
        self._watch = watch
        self._states: dict[Parts, FileState] = {}
        self._bytes = 0
        self._git = _git_directories(jail)

    def check_hashes(self, expected: dict[str, str]) -> None:
        """Refuse when a file has changed since somebody read it."""
        for path, wanted in expected.items():
            self._watch.check()
            before = self._state(path).before
            found = hash_text(before.text) if before is not None else None
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
            self._create(state, patch)
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
        self._check_size(len(text.encode()), patch.path)
        if patch.is_executable is not None and state.mode is not None:
            state.mode = state.mode | 0o111 if patch.is_executable else state.mode & ~0o111
        if patch.move_path is not None:
            self._move(state, patch.move_path)

    def changes(self) -> list[FileState]:
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

    def _create(self, state: FileState, patch: FilePatch) -> None:
        if state.text is not None:
            raise Refused(
                "already_exists", f"{told(patch.path)} exists; expected an update of it, or another path."
            )
        state.text, state.edits = patch.content, None
        self._check_size(len(state.text.encode()), patch.path)
        self._check_nested(state, patch.path)
        state.mode = 0o777 if patch.is_executable else None
        if state.before is not None:
            state.mode = stat.S_IMODE(state.before.info.st_mode)

    def _move(self, source: FileState, path: str) -> None:
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

    def _check_nested(self, state: FileState, path: str) -> None:
        """Refuse a new file that another one of the patch would have to be a directory for, or the other way round."""
        for other in self._states.values():
            if other.text is not None and other is not state:
                common = min(len(other.parts), len(state.parts))
                if other.parts[:common] == state.parts[:common]:
                    raise Refused(
                        "not_a_directory", f"{told(path)}: {told(other.path)} cannot be there as well."
                    )

    def _state(self, path: str, *, is_written: bool = False, is_removed: bool = False) -> FileState:
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
                state = FileState(spot.parts, before, before.text if before is not None else None, mode)
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

    def _read(self, spot: Spot, path: str) -> Content:
        if not spot.name or spot.info is None or not stat.S_ISREG(spot.info.st_mode):
            kind = kind_of(spot.info) if spot.info is not None else "directory"
            raise Refused("not_a_file", f"{told(path)}: expected a file; it is a {kind}.")
        try:
            opened = self._jail.open_file_parts(spot.parts)
        except OSError as error:
            refuse(error, path)
        try:
            info = os.fstat(opened)
            self._check_size(info.st_size, path)
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
        return Content(text, info)

    def _check_size(self, size: int, path: str) -> None:
        """Count what is held in memory."""
        self._bytes += size
        if size > MAX_PATCHED_FILE_BYTES or self._bytes > MAX_PATCHED_BYTES:
            raise Refused(
                "too_large",
                f"{told(path)}: a patch takes files of {MAX_PATCHED_FILE_BYTES} bytes at most.",
                size=size,
            )


def hash_text(text: str) -> str:
    """Return the sha256 of a file that holds a text."""
    return hashlib.sha256(text.encode()).hexdigest()


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
