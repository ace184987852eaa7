"""The state directory: what a bridge keeps from one start to the next. One bridge works in it at a time.

One that the bridge makes is for this user alone; one that is there keeps its mode, which is the affair of who made it: what
the bridge keeps in it nobody else can read. In it are the database; `lock`, held by the bridge as long as it lives, with its process
id for people to read; and `scratch`, the path of its scratch directory, by which the next start finds what a killed
bridge has left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from ..errors import StartFailed

_VARIABLE = "CODEX_BRIDGE_STATE_DIR"
_LOCK = "lock"
_SCRATCH = "scratch"
_PATH_BYTES = 4096


class StateDirectory:
    """An open state directory. `scratch_before` is that of a bridge which was killed, None where none was."""

    def __init__(self, path: str, lock: int) -> None:
        self.path = path
        self._lock = lock
        self.scratch_before = self._read_scratch()

    @classmethod
    def open(cls, path: str) -> StateDirectory:
        """Make the directory where it is missing, and take its lock; raise `StartFailed`."""
        try:
            with contextlib.suppress(FileExistsError):
                os.makedirs(path, 0o700)
            lock = os.open(os.path.join(path, _LOCK), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as problem:
            raise StartFailed(
                f"{_VARIABLE}={path}: expected a directory that can be written: {problem.strerror}."
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(
                OSError
            ):  # it is for people to read; a full disk is told of by who needs it
                os.ftruncate(lock, 0)
                os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            holder = os.pread(lock, _PATH_BYTES, 0).decode(errors="replace").strip() or "?"
            os.close(lock)
            raise StartFailed(
                f"{_VARIABLE}={path}: another bridge, process {holder}, works in this directory; each needs one of its own."
            ) from None
        except OSError as problem:
            os.close(lock)
            raise StartFailed(f"{_VARIABLE}={path}: it cannot be locked: {problem.strerror}.") from None
        return cls(path, lock)

    def remember_scratch(self, scratch: str) -> None:
        """Note the scratch directory of this bridge for the next start; raise `StartFailed`."""
        draft = os.path.join(self.path, f"{_SCRATCH}.new")
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(draft)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(scratch)
            os.replace(draft, os.path.join(self.path, _SCRATCH))
        except OSError as problem:
            raise StartFailed(f"{_VARIABLE}={self.path}: it cannot be written: {problem.strerror}.") from None

    def close(self) -> None:
        """Leave the directory to the next bridge, which finds nothing to clear away."""
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.path, _SCRATCH))
        with contextlib.suppress(OSError):
            os.ftruncate(self._lock, 0)
        os.close(self._lock)

    def _read_scratch(self) -> str | None:
        try:
            with open(os.path.join(self.path, _SCRATCH), encoding="utf-8") as file:
                # What it names is cleared away: that is not for others to say who can write here.
                is_own = os.fstat(file.fileno()).st_uid == os.geteuid()
                return (file.read(_PATH_BYTES) or None) if is_own else None
        except (OSError, UnicodeError):
            return None
