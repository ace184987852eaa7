"""The scratch directory: where Codex and its commands put temporary files, since /tmp is read-only to them.

Its name holds the mark of its bridge, which all processes bear that the bridge starts. The bridge holds a lock on the
directory as long as it lives: so a later start can tell what a killed one has left, and clears it away. Process ids
would not do: in a container every bridge has the same. (systemd-tmpfiles heeds the lock as well.)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re

from .. import log
from ..adapters.marks import end_marked, new_mark

_PREFIX = "codex-bridge-scratch"
_NAME = re.compile(rf"{_PREFIX}-([0-9]{{13}})")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# The locks that this process holds, by directory.
_locks: dict[str, int] = {}


def create_scratch(parent: str) -> str:
    """Make a directory in `parent` for this user alone and return its path; raise OSError."""
    path = os.path.join(parent, f"{_PREFIX}-{new_mark()}")
    _make(path)
    return path


def mark_of(path: str) -> str | None:
    """Return the mark in a scratch directory's name, None where it is another directory."""
    match = _NAME.fullmatch(os.path.basename(path))
    return match[1] if match else None


def link_into(scratch: str, path: str) -> str:
    """Make a link to a file in a scratch directory, under a plain name with the file's ending; raise OSError."""
    link = os.path.join(scratch, os.urandom(8).hex() + os.path.splitext(path)[1])
    os.symlink(path, link)
    return link


def keep_scratch(path: str) -> None:
    """Make the directory again if somebody has tidied it away, and touch it against those who tidy by age."""
    with contextlib.suppress(OSError):  # whoever needs it tells
        if not os.path.isdir(path):
            _make(path)
        elif path in _locks and not os.path.samestat(os.stat(path), os.fstat(_locks[path])):
            _hold(path, _lock(path))
        os.utime(path)


def remove_scratch(path: str) -> None:
    """Remove a scratch directory with all that is in it."""
    remove_tree(path)
    if path in _locks:
        os.close(_locks.pop(path))


def remove_tree(path: str) -> None:
    """Remove a directory with all that is in it, as far as that can be done.

    Each directory is moved to the top before it is emptied. `shutil.rmtree` goes down as deep as it finds directories, and
    fails where a command has made a thousand levels.
    """
    with contextlib.suppress(OSError):
        top = os.open(path, _DIRECTORY)
        try:
            waiting = _clear(top, top)
            while waiting:
                waiting += _remove(waiting.pop(), top)
        finally:
            os.close(top)
        os.rmdir(path)


def _remove(name: str, top: int) -> list[str]:
    """Remove a directory below the top; return the names there of those that were in it."""
    found: list[str] = []
    with contextlib.suppress(OSError):
        directory = os.open(name, _DIRECTORY, dir_fd=top)
        try:
            found = _clear(directory, top)
        finally:
            os.close(directory)
        os.rmdir(name, dir_fd=top)
    return found


def _clear(directory: int, top: int) -> list[str]:
    """Take everything out of a directory: files are removed, directories moved to the top; return their names there."""
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):  # what cannot be removed stays
                name = entry.name
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(name, dir_fd=directory)
                    continue
                if directory != top:
                    name = os.urandom(8).hex()
                    os.rename(entry.name, name, src_dir_fd=directory, dst_dir_fd=top)
                found.append(name)
    return found


def end_processes(path: str) -> int:
    """End all processes that a bridge has started, by its scratch directory; return how many there were."""
    mark = mark_of(path)
    return end_marked(mark) if mark is not None else 0


def clear_after_bridge(path: str) -> None:
    """End the processes of the bridge that had this scratch directory, and remove it. One that lives is left alone."""
    if mark_of(path) is None:
        return
    lock: int | None = None
    try:
        lock = _lock(path)
    except FileNotFoundError:
        pass  # tidied away; its processes may live on
    except OSError:
        return  # held by its bridge, or somebody else's directory
    count = end_processes(path)
    if count:
        log.warning("ended %d processes of a bridge that was killed", count)
    remove_scratch(path)
    if lock is not None:
        os.close(lock)


def clear_after_bridges(parent: str) -> None:
    """Clear away what killed bridges of this user have left in `parent`."""
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                clear_after_bridge(entry.path)


def _make(path: str) -> None:
    """Make the directory so that nobody ever sees it without its lock; raise OSError."""
    draft = f"{path}.new"
    os.makedirs(draft, 0o700)
    lock = _lock(draft)
    os.rename(draft, path)
    _hold(path, lock)


def _hold(path: str, lock: int) -> None:
    if path in _locks:
        os.close(_locks[path])
    _locks[path] = lock


def _lock(path: str) -> int:
    """Return a descriptor that holds the lock of a directory; raise OSError where another process does."""
    descriptor = os.open(path, _DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
