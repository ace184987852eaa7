"""The scratch directory: where Codex and its commands put temporary files, since /tmp is read-only to them.

Its name holds the process id of its bridge, so that a later start finds and removes what a killed one left.
"""

from __future__ import annotations

import contextlib
import os
import re

_PREFIX = "codex-bridge-scratch"
_NAME = re.compile(rf"{_PREFIX}-(\d+)-[0-9a-f]+")


def create_scratch(parent: str) -> str:
    """Make a directory in `parent` for this user alone and return its path; raise OSError."""
    path = os.path.join(parent, f"{_PREFIX}-{os.getpid()}-{os.urandom(8).hex()}")
    os.mkdir(path, 0o700)
    return path


def link_into(scratch: str, path: str) -> str:
    """Make a link to a file in a scratch directory, under a plain name with the file's ending; raise OSError."""
    link = os.path.join(scratch, os.urandom(8).hex() + os.path.splitext(path)[1])
    os.symlink(path, link)
    return link


def keep_scratch(path: str) -> None:
    """Make the directory again if somebody has tidied it away, and touch it against those who tidy by age."""
    with contextlib.suppress(OSError):  # whoever needs it tells
        os.makedirs(path, 0o700, exist_ok=True)
        os.utime(path)


def remove_scratch(path: str) -> None:
    """Remove a scratch directory with all that is in it."""
    # Imported late, like all that a start does not need: it counts in milliseconds.
    import shutil

    shutil.rmtree(path, ignore_errors=True)


def remove_stale_scratches(parent: str) -> None:
    """Remove what bridges of this user left in `parent` when they were killed."""
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match and entry.is_dir(follow_symlinks=False) and not _is_alive(int(match[1])):
                remove_scratch(entry.path)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass  # somebody else's: not ours to judge
    return True
