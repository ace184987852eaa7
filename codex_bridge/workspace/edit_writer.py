"""Writes the files of a patch, all or none.

A file is written beside itself and renamed into its place, so that a reader sees the old or the new one. Just before that it is
looked at again: one that somebody else has changed since is not overwritten. When a later file fails, those before it are put back, and
the answer says whether that went well.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from .edit_plan import Content, FileState
from .jail import Jail, Parts, refuse, told
from .place import Refused

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Writer:
    """Writes what was planned. Nothing is open between two steps: each goes its way from the root again, and follows no link."""

    def __init__(self, jail: Jail, changes: list[FileState]) -> None:
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

    def _stage(self, state: FileState) -> None:
        """Write a file's new text beside it, with its mode and owner."""
        assert state.text is not None
        self._make_directories(state.parts[:-1])
        source = state.before or (state.came_from.before if state.came_from is not None else None)
        name = f".codex-bridge-{os.urandom(8).hex()}.tmp"
        with self._jail.directory(state.parts[:-1]) as directory:
            opened = os.open(name, _WRITE, 0o600 if source else 0o666, dir_fd=directory)
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
            # A link in the place of one is refused by the next step.
            with suppress(FileExistsError), self._jail.directory(parts[: length - 1]) as directory:
                os.mkdir(parts[length - 1], dir_fd=directory)
                self._made.append(parts[:length])

    def _check_unchanged(self, state: FileState) -> None:
        """Refuse when a file is not the one any more that the patch was fitted to."""
        info = None
        with suppress(FileNotFoundError), self._jail.directory(state.parts[:-1]) as directory:
            info = os.stat(state.parts[-1], dir_fd=directory, follow_symlinks=False)
        if _stamp(info) != _stamp(state.before.info if state.before is not None else None):
            raise Refused("changed_meanwhile", f"{told(state.path)} was changed by somebody else meanwhile.")

    def _commit(self, state: FileState) -> None:
        parts, before = state.parts, state.before
        if state.text is None:
            self._remove(parts)
        elif before is not None:
            self._rename(parts)
        else:
            self._name_new(parts)
        undo = partial(self._remove, parts) if before is None else partial(self._restore, parts, before)
        self._undo.append((state.path, undo))

    def _rename(self, parts: Parts) -> None:
        """Put what was written beside a file into its place."""
        with self._jail.directory(parts[:-1]) as directory:
            os.rename(self._temporary[parts], parts[-1], src_dir_fd=directory, dst_dir_fd=directory)
        del self._temporary[parts]

    def _name_new(self, parts: Parts) -> None:
        """Give a new file its name, unless somebody else has taken that."""
        try:
            with self._jail.directory(parts[:-1]) as directory:
                name = self._temporary[parts]
                os.link(name, parts[-1], src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            # Not every file system has hard links.
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                raise
            self._rename(parts)

    def _remove(self, parts: Parts) -> None:
        with self._jail.directory(parts[:-1]) as directory:
            os.unlink(parts[-1], dir_fd=directory)

    def _restore(self, parts: Parts, before: Content) -> None:
        self._stage(FileState(parts, before, before.text, stat.S_IMODE(before.info.st_mode)))
        self._rename(parts)

    def _roll_back(self) -> list[str]:
        """Put back what was written, the newest first; return the paths that could not be."""
        lost = []
        for path, undo in reversed(self._undo):
            try:
                undo()
            except OSError:
                lost.append(path)
        return lost

    def _sweep(self) -> None:
        """Remove what is left of the way: temporary files, and directories that were made for nothing."""
        for parts, name in self._temporary.items():
            with suppress(OSError):
                self._remove((*parts[:-1], name))
        if len(self._undo) < len(self._changes):
            for parts in reversed(self._made):
                with suppress(OSError), self._jail.directory(parts[:-1]) as directory:
                    os.rmdir(parts[-1], dir_fd=directory)

    def _failed(self, error: OSError | Refused, state: FileState | None, lost: list[str]) -> Refused:
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
