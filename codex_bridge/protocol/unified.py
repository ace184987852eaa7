"""Unified diffs, read: plain ones, and git's with new, deleted, renamed files and modes.

Models count badly. Where the counts of a hunk's header fit what follows, they hold, as with git; else a hunk goes on as long as its
lines look like one. `@@` without numbers is taken as well. Copies and binary patches are refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from .hunks import Action, FilePatch, Hunk, PatchInvalid

_HUNK = re.compile(r"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@")
_NO_NEWLINE = "\\"
_NOWHERE = "/dev/null"
# What git puts before the two names, in all its settings.
_PREFIXES = {("a/", "b/"), ("i/", "w/"), ("c/", "i/"), ("c/", "w/"), ("o/", "w/")}
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\([0-7]{3}|.)")
_ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}
_ESCAPED = {value: name for name, value in _ESCAPES.items()}


def is_unified(lines: list[str]) -> bool:
    """Say whether lines look like a unified diff."""
    return any(
        line.startswith("diff --git ") or _begins_file(lines, number) for number, line in enumerate(lines)
    )


def parse_unified(lines: list[str]) -> tuple[FilePatch, ...]:
    """Return what a diff does, file by file; raise `PatchInvalid`. What stands between the files is passed over."""
    return _Reader(lines).read()


def quote_path(path: str) -> str:
    """Return a path as git writes it in a diff: in quotes when it could be read as more than a path."""
    if path.isprintable() and not set('"\\') & set(path):
        return path
    escaped = "".join(map(_escape, path.encode("utf-8", "surrogateescape")))
    return f'"{escaped}"'


def _escape(octet: int) -> str:
    if octet in _ESCAPED:
        return f"\\{_ESCAPED[octet]}"
    return chr(octet) if 32 <= octet < 127 else f"\\{octet:03o}"


@dataclass(slots=True)
class _Section:
    """What was read of one file so far. A name that is None is /dev/null."""

    old: str | None = ""
    new: str | None = ""
    is_new: bool = False
    is_deleted: bool = False
    is_rename: bool = False
    is_executable: bool | None = None
    hunks: list[Hunk] = field(default_factory=list)

    def to_patch(self) -> FilePatch:
        old, new, hunks = self.old, self.new, tuple(self.hunks)
        if old is not None and (self.is_deleted or new is None):
            return FilePatch(Action.DELETE, old, hunks, is_unified=True)
        if new is not None and (self.is_new or old is None):
            if any(hunk.old for hunk in hunks):
                raise PatchInvalid(f"the new file {new[:200]!r} has no lines to keep or to remove.")
            return FilePatch(Action.ADD, new, hunks, is_unified=True, is_executable=self.is_executable)
        if old is None or new is None:
            raise PatchInvalid("a file is neither here nor there: both names are /dev/null.")
        if not hunks and old == new and self.is_executable is None:
            raise PatchInvalid(f"there is no hunk for {old[:200]!r}; expected a line that begins with @@.")
        move_path = new if new != old else None
        return FilePatch(
            Action.UPDATE, old, hunks, move_path, is_unified=True, is_executable=self.is_executable
        )


class _Reader:
    """Goes through the lines of a diff."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._at = 0

    def read(self) -> tuple[FilePatch, ...]:
        patches = []
        while self._at < len(self._lines):
            line = self._lines[self._at]
            if line.startswith("diff --git ") or _begins_file(self._lines, self._at):
                patches.append(self._read_file().to_patch())
            elif line.startswith("@@ "):
                raise self._invalid("a hunk, before the file was named by lines with --- and +++.")
            else:
                self._at += 1
        return tuple(patches)

    def _invalid(self, message: str) -> PatchInvalid:
        return PatchInvalid(f"line {self._at + 1}: {message}")

    def _read_file(self) -> _Section:
        section = _Section()
        is_git = self._lines[self._at].startswith("diff --git ")
        if is_git:
            section.old = section.new = _common_name(self._lines[self._at][len("diff --git ") :])
            self._at += 1
            while self._at < len(self._lines) and self._read_header(section):
                self._at += 1
        if self._at < len(self._lines) and _begins_file(self._lines, self._at):
            names = self._lines[self._at][4:], self._lines[self._at + 1][4:]
            old, new = _names(*names)
            # Beside /dev/null a prefix cannot be told from a directory; in git's own line it can.
            known = section.new if is_git and (old is None or new is None) else None
            if known and any(_name(name).endswith(known) for name in names):
                section.old, section.new = (known if old else None), (known if new else None)
            elif not section.is_rename:
                section.old, section.new = old, new
            self._at += 2
        while self._at < len(self._lines) and self._lines[self._at].startswith("@@"):
            section.hunks.append(self._read_hunk())
        if section.old == "" or section.new == "":
            raise self._invalid("expected lines with --- and +++ that name the file.")
        return section

    def _read_header(self, section: _Section) -> bool:
        """Take one of git's header lines; say whether it was one."""
        line = self._lines[self._at]
        if line.startswith(("copy ", "GIT binary patch", "Binary files ")):
            raise self._invalid(f"{line[:80]!r} cannot be applied: neither copies nor binary files.")
        if line.startswith("rename from "):
            section.old, section.is_rename = _unquote(line[len("rename from ") :]), True
        elif line.startswith("rename to "):
            section.new, section.is_rename = _unquote(line[len("rename to ") :]), True
        elif line.startswith(("new file mode ", "new mode ")):
            mode = line.rpartition(" ")[2]
            if mode not in ("100644", "100755"):
                raise self._invalid(
                    f"a file of mode {mode[:20]!r} cannot be made; expected 100644 or 100755."
                )
            section.is_new |= line.startswith("new file ")
            section.is_executable = mode == "100755"
        elif line.startswith("deleted file mode "):
            section.is_deleted = True
        else:
            return line.startswith(("index ", "old mode ", "similarity index ", "dissimilarity index "))
        return True

    def _read_hunk(self) -> Hunk:
        header = self._lines[self._at]
        numbers = _HUNK.match(header)
        if numbers is None and header.strip("@ .") and header.startswith("@@ -"):
            raise self._invalid(f"expected '@@ -LINE,COUNT +LINE,COUNT @@'; {header[:80]!r} came.")
        self._at += 1
        begin = self._at
        old, new = (int(numbers[2] or 1), int(numbers[4] or 1)) if numbers else (0, 0)
        if numbers is None or not self._skip_counted(old, new):
            self._at = begin
            self._skip_hunk_lines()
        lines = self._lines[begin : self._at]
        if not any(line and line[0] in "+-" for line in lines) and numbers is None:
            raise self._invalid("a hunk changes nothing; expected lines that begin with - or +.")
        return _hunk(lines, int(numbers[1]) if numbers else None)

    def _skip_counted(self, old: int, new: int) -> bool:
        """Go behind so many lines; say whether they were there, and no more of them follow."""
        while old > 0 or new > 0:
            if self._at >= len(self._lines):
                return False
            # An editor may have taken the space of an empty line of context away.
            sign = self._lines[self._at][:1] or " "
            if sign not in " +-\\":
                return False
            old -= sign in " -"
            new -= sign in " +"
            self._at += 1
        if self._at < len(self._lines) and self._lines[self._at].startswith(_NO_NEWLINE):
            self._at += 1
        return old == 0 and new == 0 and not self._is_hunk_line()

    def _skip_hunk_lines(self) -> None:
        """Go behind all lines that look like those of a hunk."""
        last = self._at
        while self._at < len(self._lines):
            if self._is_hunk_line() or self._lines[self._at].startswith(_NO_NEWLINE):
                last = self._at + 1
            elif self._lines[self._at]:
                break
            self._at += 1
        # Empty lines at the end belong to what follows.
        self._at = last

    def _is_hunk_line(self) -> bool:
        """Say whether the line at hand can be one of a hunk; the signature of a mail, `-- `, and a file's names are not."""
        if self._at >= len(self._lines):
            return False
        line = self._lines[self._at]
        return bool(line) and line[0] in " +-" and line != "-- " and not _begins_file(self._lines, self._at)


def _hunk(lines: list[str], line: int | None) -> Hunk:
    """Return the hunk of its lines; a backslash says that the line before it has no newline."""
    body: list[tuple[str, str]] = []
    bare = {" ": False, "-": False, "+": False}
    for each in lines:
        if each.startswith(_NO_NEWLINE):
            bare[body[-1][0] if body else " "] = True
        else:
            body.append((each[:1] or " ", each[1:]))
    return Hunk(
        tuple(body), line=line, is_old_bare=bare[" "] or bare["-"], is_new_bare=bare[" "] or bare["+"]
    )


def _begins_file(lines: list[str], at: int) -> bool:
    """Say whether a file's two names begin here. A removed line `-- x` in front of an added one `++ y` looks the same; git says so too."""
    return lines[at].startswith("--- ") and at + 1 < len(lines) and lines[at + 1].startswith("+++ ")


def _names(old: str, new: str) -> tuple[str | None, str | None]:
    """Return the two names of a file without git's prefixes, None for /dev/null."""
    first, second = _name(old), _name(new)
    if first == _NOWHERE:
        return None, None if second == _NOWHERE else second.removeprefix("b/")
    if second == _NOWHERE:
        return first.removeprefix("a/"), None
    has_prefixes = any(first.startswith(one) and second.startswith(other) for one, other in _PREFIXES)
    return (first[2:], second[2:]) if has_prefixes else (first, second)


def _name(text: str) -> str:
    """Return the name in a line of --- or +++; behind a tab there is a time."""
    return _unquote(text) if text.startswith('"') else text.partition("\t")[0].rstrip()


def _common_name(text: str) -> str:
    """Return the name in `a/NAME b/NAME`, "" where the two differ: then other lines tell them."""
    quoted = _QUOTED.match(text)
    if quoted:
        first, second = _unquote(quoted[0]), _unquote(text[quoted.end() :].strip())
    else:
        half = len(text) // 2
        first, second = text[:half], text[half + 1 :]
    old, new = _names(first, second)
    return old if old is not None and old == new else ""


def _unquote(text: str) -> str:
    """Return a name that may be in C's quotes, as git writes those with unusual characters."""
    quoted = _QUOTED.match(text)
    if not quoted:
        return text
    octets = bytearray()
    position = 0
    for match in _ESCAPE.finditer(quoted[1]):
        octets += quoted[1][position : match.start()].encode()
        code = match[1]
        octets.append(int(code, 8) & 255 if len(code) == 3 else _ESCAPES.get(code, ord(code) & 127))
        position = match.end()
    octets += quoted[1][position:].encode()
    return octets.decode("utf-8", "surrogateescape")
