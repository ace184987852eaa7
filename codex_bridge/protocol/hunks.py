"""Hunks, and where they fit: a text and the hunks of a patch go in, the changed text comes out.

Two ways to find a hunk's place. Codex's grammar has no line numbers: lines are looked for from the end of the hunk before,
exactly first, then with ever more leniency (see `_EASES`, which is Codex's own). A unified diff names a line: the match nearest
to it counts, as with `git apply`, and what git would refuse is then tried with Codex's leniencies.

Lines end with what their file's first line ends with. A file without a newline at its end keeps that, unless a unified diff says
otherwise; Codex's own tool adds one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import groupby

from ..limits import MAX_TOLD_HUNK_CHARACTERS
from ..values import value

# Called inside of loops; raises when the time for them is over.
Look = Callable[[], None]


class PatchInvalid(Exception):
    """A text that is no patch; the message says what was expected and in which line of it."""


class PatchMismatch(Exception):
    """A patch that does not fit its file."""


class Action(StrEnum):
    ADD = "add"
    UPDATE = "update"
    DELETE = "delete"


@value
class Hunk:
    """Lines with their signs (space, - or +). `line` is where a unified diff puts it, from 1, None where it does not say.

    `context` is a line of Codex's `@@` behind which to look; `is_at_end` says that the lines are the file's last. `is_old_bare` and
    `is_new_bare`: the last line has no newline, before and after.
    """

    body: tuple[tuple[str, str], ...]
    context: str | None = None
    is_at_end: bool = False
    line: int | None = None
    is_old_bare: bool = False
    is_new_bare: bool = False

    @property
    def old(self) -> list[str]:
        return [text for sign, text in self.body if sign != "+"]

    @property
    def new(self) -> list[str]:
        return [text for sign, text in self.body if sign != "-"]


@value
class FilePatch:
    """What a patch does to one file. `is_executable` None leaves the mode as it is."""

    action: Action
    path: str
    hunks: tuple[Hunk, ...] = ()
    move_path: str | None = None
    is_unified: bool = False
    is_executable: bool | None = None

    @property
    def content(self) -> str:
        """What a new file of it holds."""
        text = "".join(f"{line}\n" for hunk in self.hunks for line in hunk.new)
        return text[:-1] if self.hunks and self.hunks[-1].is_new_bare else text

    @property
    def is_creation(self) -> bool:
        """Whether it could only fit a file that is not there: some write new files so."""
        return self.is_unified and bool(self.hunks) and all(not hunk.old for hunk in self.hunks)


@value
class Edit:
    """Lines of the old text, from `start` (from 0), that others take the place of; those have their endings."""

    start: int
    count: int
    new: tuple[str, ...]

    @property
    def end(self) -> int:
        return self.start + self.count


class Lines:
    """A text in lines: their texts, and what each ends with ("" for a last one without newline)."""

    def __init__(self, text: str) -> None:
        parts = text.split("\n")
        last = parts.pop()
        self.endings = ["\r\n" if part.endswith("\r") else "\n" for part in parts]
        self.texts = [part[:-1] if part.endswith("\r") else part for part in parts]
        if last:
            self.texts.append(last)
            self.endings.append("")
        # As Codex decides it: what the first line ends with.
        self.ending = (self.endings[0] if self.endings else "") or "\n"

    @property
    def is_bare(self) -> bool:
        """Whether the last line has no newline."""
        return bool(self.endings) and not self.endings[-1]

    def whole(self) -> list[str]:
        """Return the lines with their endings."""
        return [text + ending for text, ending in zip(self.texts, self.endings, strict=True)]


def apply_hunks(text: str, patch: FilePatch, look: Look) -> tuple[str, list[Edit]]:
    """Return the text that comes out, and what was replaced; raise `PatchMismatch`."""
    lines = Lines(text)
    finder = _Finder(lines.texts, look)
    edits = _place_unified(lines, patch, finder) if patch.is_unified else _place(lines, patch, finder)
    whole = lines.whole()
    pieces: list[str] = []
    position = 0
    for edit in edits:
        pieces += whole[position : edit.start]
        pieces += edit.new
        position = edit.end
    pieces += whole[position:]
    return "".join(pieces), edits


# What Rust calls white space, which Codex trims: Python's strip() would take more.
_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
# Typographic dashes, quotes and spaces, and what models write in their place.
_PLAIN = {
    **dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"), "-"),
    **dict.fromkeys(map(ord, "\u2018\u2019\u201a\u201b"), "'"),
    **dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f"), '"'),
    **dict.fromkeys(
        map(ord, "\xa0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"), " "
    ),
}


def trim(text: str) -> str:
    """Return a text without the white space around it, as Codex trims."""
    return text.strip(_SPACE)


_EASES: tuple[Callable[[str], str], ...] = (
    lambda text: text,
    lambda text: text.rstrip(_SPACE),
    trim,
    lambda text: trim(text).translate(_PLAIN),
)


class _Finder:
    """Finds lines in a file. With each ease the file's lines are prepared once, so that a search is a search in a list."""

    def __init__(self, texts: list[str], look: Look) -> None:
        self._eased: dict[int, list[str]] = {0: texts}
        self._counts: dict[int, Counter[str]] = {}
        self._look = look
        self.count = len(texts)

    def find(self, wanted: Sequence[str], start: int, is_at_end: bool = False) -> int | None:
        """Return the first place from `start` on, with the least ease that finds one; None where none does."""
        if not wanted:
            return start
        first = max(self.count - len(wanted), start) if is_at_end else start
        for ease in range(len(_EASES)):
            for found in self.places(wanted, ease, first):
                return found
        return None

    def is_at(self, at: int, wanted: list[str]) -> bool:
        """Say whether lines lie at a place, to the letter."""
        self._look()
        return at >= 0 and self._eased[0][at : at + len(wanted)] == wanted

    def places(self, wanted: Sequence[str], ease: int, start: int = 0) -> _Places:
        """Return all places from `start` on, in order, found one by one."""
        if ease not in self._eased:
            self._eased[ease] = [_EASES[ease](text) for text in self._eased[0]]
        if ease not in self._counts:
            self._counts[ease] = Counter(self._eased[ease])
        counts, eased = self._counts[ease], [_EASES[ease](text) for text in wanted]
        # The rarest line is looked for: files have thousands of empty lines and closing brackets.
        rarest = min(range(len(eased)), key=lambda at: counts[eased[at]])
        return _Places(self._eased[ease], eased, rarest, start, self._look)


class _Places:
    """The places at which some lines lie in others."""

    def __init__(self, lines: list[str], wanted: list[str], rarest: int, start: int, look: Look) -> None:
        self._lines = lines
        self._wanted = wanted
        self._rarest = rarest
        self._next = max(start, 0)
        self._look = look

    def __iter__(self) -> _Places:
        return self

    def __next__(self) -> int:
        lines, wanted, rarest = self._lines, self._wanted, self._rarest
        behind = len(lines) - len(wanted) + 1
        while self._next < behind:
            self._look()
            try:
                at = lines.index(wanted[rarest], self._next + rarest, behind + rarest) - rarest
            except ValueError:
                break
            self._next = at + 1
            if all(lines[at + step] == wanted[step] for step in range(len(wanted))):
                return at
        self._next = behind
        raise StopIteration


def _place(lines: Lines, patch: FilePatch, finder: _Finder) -> list[Edit]:
    """Find the hunks of Codex's grammar, one behind the other."""
    edits: list[Edit] = []
    cursor = 0
    for number, hunk in enumerate(patch.hunks, 1):
        if hunk.context is not None:
            found = finder.find([hunk.context], cursor)
            if found is None:
                raise PatchMismatch(
                    f"hunk {number}: there is no line {_told([hunk.context])!r} to look behind."
                )
            cursor = found + 1
        body, old = hunk.body, hunk.old
        if not old:
            # Without a line to hold on to, lines go to the end of the file, as Codex has it.
            edits += _edits_at(finder.count, body, lines)
            continue
        found = finder.find(old, cursor, hunk.is_at_end)
        if found is None and not old[-1]:
            # An empty last line stands for the newline before it.
            body, old = _without_last(body), old[:-1]
            found = finder.find(old, cursor, hunk.is_at_end)
        if found is None:
            raise _lost(number, hunk)
        edits += _edits_at(found, body, lines)
        cursor = found + len(old)
    return _finish(lines, edits, keep_bare=True)


def _place_unified(lines: Lines, patch: FilePatch, finder: _Finder) -> list[Edit]:
    """Find the hunks of a unified diff, each near its line and where no other is."""
    edits: list[Edit] = []
    taken: list[Edit] = []
    keep_bare, cursor = True, 0
    for number, hunk in enumerate(patch.hunks, 1):
        found = _nearest(hunk, finder, taken, cursor)
        if found is None:
            raise _lost(number, hunk)
        taken.append(Edit(found, len(hunk.old), ()))
        cursor = max(cursor, taken[-1].end)
        edits += _edits_at(found, hunk.body, lines)
        if taken[-1].end == finder.count and (hunk.is_old_bare or hunk.is_new_bare):
            keep_bare = hunk.is_new_bare
            if keep_bare and edits and edits[-1].end == finder.count:
                edits[-1] = Edit(edits[-1].start, edits[-1].count, _bare(edits[-1].new))
    return _finish(lines, edits, keep_bare)


def _nearest(hunk: Hunk, finder: _Finder, taken: list[Edit], cursor: int) -> int | None:
    """Return where a hunk fits, nearest to its line; forward before backward, as git looks. Behind `cursor` all is free."""
    old = hunk.old
    if not old:
        at = finder.count if hunk.line is None else hunk.line
        # Before the first line of a file means that the file is empty.
        fits = at <= finder.count and (at > 0 or not finder.count)
        is_inside = at < cursor and any(edit.start < at < edit.end for edit in taken)
        return at if fits and not is_inside else None
    expected = cursor if hunk.line is None else hunk.line - 1
    # A diff has no context on one side where its file begins or ends, and on neither where nobody asked for any (-U0).
    has_context = hunk.line is not None and any(sign == " " for sign, _ in hunk.body)
    is_first = has_context and expected <= 0
    is_last = hunk.is_old_bare or (has_context and hunk.body[-1][0] != " ")

    def is_free(at: int) -> bool:
        return at >= cursor or not any(at < edit.end and edit.start < at + len(old) for edit in taken)

    def is_anchored(at: int) -> bool:
        return (not is_first or at == 0) and (not is_last or at + len(old) == finder.count)

    start = cursor if hunk.line is None else 0
    # Where it is said to be, mostly: then no other place need be looked at, and a file may have thousands.
    ends = (0, finder.count - len(old)) if is_first or is_last else ()
    for at in (*filter(is_anchored, ends), expected):
        if at >= start and finder.is_at(at, old) and is_free(at):
            return at
    for ease in range(len(_EASES)):
        free = [at for at in finder.places(old, ease, start) if is_free(at)]
        anchored = [at for at in free if is_anchored(at)]
        if anchored or free:
            return min(anchored or free, key=lambda at: (abs(at - expected), -at))
    return None


def _edits_at(at: int, body: Sequence[tuple[str, str]], lines: Lines) -> list[Edit]:
    """Return what a hunk changes at a place; what it keeps stays as the file has it, also where it was found with ease."""
    edits: list[Edit] = []
    position = at
    for is_kept, run in groupby(body, key=lambda line: line[0] == " "):
        changed = list(run)
        if is_kept:
            position += len(changed)
            continue
        new = tuple(text + lines.ending for sign, text in changed if sign == "+")
        edits.append(Edit(position, len(changed) - len(new), new))
        position = edits[-1].end
    return edits


def _without_last(body: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Return a hunk's lines without the empty last one, before and after."""
    kept = list(body)
    last = max(at for at, (sign, _) in enumerate(kept) if sign != "+")
    sign, _ = kept.pop(last)
    if sign == "-":
        # The empty line goes from what comes out as well, whether it was added or kept.
        added = [at for at, (each, _) in enumerate(kept) if each != "-"]
        if added and kept[added[-1]] == ("+", ""):
            del kept[added[-1]]
        elif added and kept[added[-1]] == (" ", ""):
            kept[added[-1]] = ("-", "")
    elif last != len(kept):
        # It was kept in the midst: what follows it is added behind a line of its own.
        kept.insert(last, ("+", ""))
        if kept[-1] == ("+", ""):
            kept.pop()
    return tuple(kept)


def _finish(lines: Lines, edits: list[Edit], keep_bare: bool) -> list[Edit]:
    """Return edits in order, those that touch joined into one, and with the right end of the file."""
    runs: list[list[Edit]] = []
    for edit in sorted(edits, key=lambda edit: edit.start):
        end = runs[-1][-1].end if runs else -1
        if edit.start < end:
            raise PatchMismatch("two of its hunks change the same lines.")
        if edit.start == end:
            runs[-1].append(edit)
        else:
            runs.append([edit])
    joined = [_join(run) for run in runs]
    if not joined or not lines.is_bare or joined[-1].end < len(lines.texts):
        return joined
    last = joined.pop()
    if not last.count and last.new:
        # What was the last line gets a newline, since others follow now.
        last = Edit(last.start - 1, 1, (lines.texts[-1] + lines.ending, *last.new))
    return [*joined, Edit(last.start, last.count, _bare(last.new)) if keep_bare else last]


def _join(run: list[Edit]) -> Edit:
    """Return edits that touch as one."""
    new = tuple(text for edit in run for text in edit.new)
    return Edit(run[0].start, sum(edit.count for edit in run), new)


def _bare(new: tuple[str, ...]) -> tuple[str, ...]:
    """Return lines of which the last has no newline."""
    return (*new[:-1], new[-1].rstrip("\r\n")) if new else new


def _lost(number: int, hunk: Hunk) -> PatchMismatch:
    where = "at the end of the file" if hunk.is_at_end else "in the file"
    return PatchMismatch(f"hunk {number}: these lines are not {where}:\n{_told(hunk.old)}")


def _told(texts: list[str]) -> str:
    """Return lines for a message, which has to stay readable."""
    told = "\n".join(texts)
    return told if len(told) <= MAX_TOLD_HUNK_CHARACTERS else told[:MAX_TOLD_HUNK_CHARACTERS] + "..."
