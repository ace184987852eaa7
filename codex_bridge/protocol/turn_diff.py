"""What a turn has changed, as one unified diff, in the form that Codex gives it. No I/O."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from ..limits import MAX_TURN_DIFF_CHARACTERS
from .diffs import render_hunks
from .unified import quote_path

_NO_BLOB = "0" * 40


@dataclass(slots=True)
class _File:
    """A file's path and text before the turn, None where it was not there, and its text now."""

    origin: str | None
    before: str | None
    after: str | None


class TurnDiff:
    """Puts the edits of a turn together. Paths are relative to the workspace. Files beyond the limit are left out."""

    def __init__(self) -> None:
        # By the path where each is now, or was when it was deleted.
        self._files: dict[str, _File] = {}
        self._parts: dict[str, str] = {}
        # How long all texts are together.
        self._size = 0

    def note(self, path: str, before: str | None, after: str | None, new_path: str | None = None) -> None:
        """Take one edit of a file: its texts, None where there is none, and where it was moved."""
        file = self._files.get(path)
        if file is None:
            if self._size + len(before or "") + len(after or "") > MAX_TURN_DIFF_CHARACTERS:
                return
            file = _File(None if before is None else path, before, None)
            self._size += len(before or "")
        self._size += len(after or "") - len(file.after or "")
        self._files.pop(path, None)
        self._parts.pop(path, None)
        file.after = after
        now_at = new_path or path
        replaced = self._files.pop(now_at, None) if now_at != path else None
        if replaced is not None and file.origin is None:
            file.origin, file.before = replaced.origin, replaced.before
        if file.before is not None or after is not None:
            self._files[now_at] = file
            self._parts[now_at] = "".join(_render(file, now_at))

    def render(self) -> str:
        """Return the diff of all edits together; empty when they undo each other."""
        return "".join(self._parts[path] for path in sorted(self._parts))


def _render(file: _File, path: str) -> Iterator[str]:
    if file.before == file.after and file.origin == path:
        return
    old = f"a/{file.origin or path}"
    yield f"diff --git {quote_path(old)} {quote_path(f'b/{path}')}\n"
    if file.before is None:
        yield "new file mode 100644\n"
    elif file.after is None:
        yield "deleted file mode 100644\n"
    yield f"index {_blob(file.before)}..{_blob(file.after)}\n"
    yield f"--- {'/dev/null' if file.before is None else quote_path(old)}\n"
    yield f"+++ {'/dev/null' if file.after is None else quote_path(f'b/{path}')}\n"
    yield render_hunks(file.before or "", file.after or "")


def _blob(text: str | None) -> str:
    """Return git's name of a text."""
    if text is None:
        return _NO_BLOB
    data = text.encode(errors="surrogateescape")
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
