"""Patches: a text becomes what is to be done to files. Codex's own grammar here, unified diffs in `unified`.

Read as Codex 0.163 reads its grammar, whitespace around the markers and a here-document's `<<EOF` included. A patch is taken more
freely in one place: `*** Move to:` needs no change beside it.
"""

from __future__ import annotations

from .hunks import Action, FilePatch, Hunk, PatchInvalid, trim
from .unified import is_unified, parse_unified

BEGIN, END = "*** Begin Patch", "*** End Patch"
_END_OF_FILE = "*** End of File"
_MOVE = "*** Move to: "
_ACTIONS = {
    "*** Add File: ": Action.ADD,
    "*** Delete File: ": Action.DELETE,
    "*** Update File: ": Action.UPDATE,
}
_HEREDOCS = ("<<EOF", "<<'EOF'", '<<"EOF"')


def parse_patch(text: str) -> tuple[FilePatch, ...]:
    """Return what a patch does, file by file, in its order; raise `PatchInvalid`."""
    lines = _lines(trim(text))
    if len(lines) > 2 and lines[0].startswith("```") and lines[-1] == "```":
        lines = lines[1:-1]
    elif trim(lines[0]) != BEGIN and is_unified(lines):
        # Not trimmed: an empty line of context may be its last.
        lines = _lines(text.removesuffix("\n"))
    if len(lines) > 3 and lines[0] in _HEREDOCS and lines[-1].endswith("EOF"):
        lines = lines[1:-1]
    if trim(lines[0]) != BEGIN and is_unified(lines):
        return parse_unified(lines)
    if trim(lines[0]) != BEGIN:
        raise PatchInvalid(f"the first line must be '{BEGIN}', or it must be a unified diff.")
    if trim(lines[-1]) != END:
        raise PatchInvalid(f"the last line must be '{END}'.")
    patches = _Reader(lines).read()
    if not patches:
        raise PatchInvalid("it changes no file.")
    return patches


def _lines(text: str) -> list[str]:
    return [line.removesuffix("\r") for line in text.split("\n")]


class _Reader:
    """Goes through the lines of a patch in Codex's grammar."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._at = 1
        self._end = len(lines) - 1

    def read(self) -> tuple[FilePatch, ...]:
        patches = []
        while self._at < self._end:
            patches.append(self._read_file())
        return tuple(patches)

    @property
    def _line(self) -> str:
        return self._lines[self._at]

    def _invalid(self, message: str) -> PatchInvalid:
        return PatchInvalid(f"line {self._at + 1}: {message}")

    def _read_file(self) -> FilePatch:
        header = trim(self._line)
        marker = next((each for each in _ACTIONS if header.startswith(each)), None)
        if marker is None:
            expected = ", ".join(f"'{each}PATH'" for each in _ACTIONS)
            raise self._invalid(f"expected one of {expected}; {header[:200]!r} came.")
        action, path = _ACTIONS[marker], header[len(marker) :]
        self._at += 1
        if action is Action.ADD:
            return FilePatch(action, path, self._read_added())
        return FilePatch(action, path) if action is Action.DELETE else self._read_update(path)

    def _read_added(self) -> tuple[Hunk, ...]:
        begin = self._at
        while self._at < self._end and self._line.startswith("+"):
            self._at += 1
        return (Hunk(tuple(("+", line[1:]) for line in self._lines[begin : self._at])),)

    def _read_update(self, path: str) -> FilePatch:
        move_path = None
        if self._at < self._end and self._line.startswith(_MOVE):
            move_path = self._line[len(_MOVE) :]
            self._at += 1
        hunks: list[Hunk] = []
        while self._at < self._end:
            if (hunks[-1].is_at_end and not trim(self._line)) if hunks else self._line == _END_OF_FILE:
                self._at += 1
            elif self._line.startswith("***"):
                break
            else:
                hunks.append(self._read_hunk(is_first=not hunks))
        if not hunks and move_path is None:
            raise self._invalid(f"the update of {path[:200]!r} has no lines that begin with a space, - or +.")
        return FilePatch(Action.UPDATE, path, tuple(hunks), move_path)

    def _read_hunk(self, *, is_first: bool) -> Hunk:
        context = None
        if trim(self._line) == "@@" or self._line.startswith("@@ "):
            context = trim(self._line)[3:] or None
            self._at += 1
        elif not is_first:
            raise self._invalid(f"expected a line that begins with @@; {self._line[:200]!r} came.")
        body: list[tuple[str, str]] = []
        is_at_end = False
        while self._at < self._end and not is_at_end:
            line = self._line
            if body and line == _END_OF_FILE:
                is_at_end = True
            elif not line or line[0] in " +-":
                body.append((line[:1] or " ", line[1:]))
            elif body:
                break
            else:
                raise self._invalid(f"expected a space, - or + at the line's begin; {line[:200]!r} came.")
            self._at += 1
        if not body:
            raise self._invalid("a hunk has no lines.")
        return Hunk(tuple(body), context, is_at_end)
