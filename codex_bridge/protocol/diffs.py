"""Diffs, rendered: a file's two texts become a unified diff, with the edits between them, so that large files cost nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from ..limits import DIFF_CONTEXT_LINES, MAX_DIFFED_LINES, MAX_DIFFED_PAIRS
from .hunks import Edit, Lines
from .unified import quote_path


def render_hunks(old: str, new: str, edits: Sequence[Edit] | None = None) -> str:
    """Return the hunks of a unified diff. `edits` are what was replaced in `old`; None where only the texts are known."""
    before = Lines(old).whole()
    if edits is None:
        edits = [Edit(0, len(before), tuple(Lines(new).whole()))]
    changes = list(_changes(before, edits))
    told: list[str] = []
    shift = 0
    for group in _groups(changes):
        begin = max(group[0].start - DIFF_CONTEXT_LINES, 0)
        end = min(group[-1].end + DIFF_CONTEXT_LINES, len(before))
        removed, added = sum(edit.count for edit in group), sum(len(edit.new) for edit in group)
        count = end - begin
        told.append(f"@@ -{_range(begin, count)} +{_range(begin + shift, count - removed + added)} @@\n")
        position = begin
        for edit in group:
            told += [_line(" ", text) for text in before[position : edit.start]]
            told += [_line("-", text) for text in before[edit.start : edit.end]]
            told += [_line("+", text) for text in edit.new]
            position = edit.end
        told += [_line(" ", text) for text in before[position:end]]
        shift += added - removed
    return "".join(told)


def render_file(
    old_path: str | None, new_path: str | None, hunks: str, old_mode: int = 0, new_mode: int = 0
) -> str:
    """Return git's diff of one file: its header and `hunks`. A path is None where the file is not there; so is a mode 0."""
    old, new = old_path or new_path or "", new_path or old_path or ""
    told = [f"diff --git {quote_path(f'a/{old}')} {quote_path(f'b/{new}')}\n"]
    if old_path is None:
        told.append(f"new file mode {new_mode or 0o100644:o}\n")
    elif new_path is None:
        told.append(f"deleted file mode {old_mode or 0o100644:o}\n")
    elif old_mode != new_mode:
        told.append(f"old mode {old_mode:o}\nnew mode {new_mode:o}\n")
    if old_path is not None and new_path is not None and old_path != new_path:
        told.append(f"rename from {quote_path(old)}\nrename to {quote_path(new)}\n")
    if hunks:
        told.append(f"--- {_name('a', old_path)}\n+++ {_name('b', new_path)}\n")
    return "".join([*told, hunks])


def _name(prefix: str, path: str | None) -> str:
    # The tab tells where a name with a space ends.
    return "/dev/null" if path is None else quote_path(f"{prefix}/{path}") + ("\t" if " " in path else "")


def _range(begin: int, count: int) -> str:
    """Return where a hunk is, in a header's words: lines count from 1, and no lines lie behind the one before them."""
    if count == 1:
        return str(begin + 1)
    return f"{begin + 1 if count else begin},{count}"


def _line(sign: str, text: str) -> str:
    return f"{sign}{text}" if text.endswith("\n") else f"{sign}{text}\n\\ No newline at end of file\n"


def _changes(before: Sequence[str], edits: Sequence[Edit]) -> Iterator[Edit]:
    """Yield what edits really change. Many lines are only narrowed at their ends: to compare each with each takes minutes."""
    left = MAX_DIFFED_PAIRS
    for edit in edits:
        narrow = _narrow(before, edit)
        left -= narrow.count * len(narrow.new)
        if narrow.count + len(narrow.new) <= MAX_DIFFED_LINES and left >= 0:
            yield from _compare(before, narrow)
        elif narrow.count or narrow.new:
            yield narrow


def _narrow(before: Sequence[str], edit: Edit) -> Edit:
    """Return an edit without the lines at its begin and its end that stay."""
    start, end, first, last = edit.start, edit.end, 0, len(edit.new)
    while start < end and first < last and before[start] == edit.new[first]:
        start, first = start + 1, first + 1
    while start < end and first < last and before[end - 1] == edit.new[last - 1]:
        end, last = end - 1, last - 1
    return Edit(start, end - start, edit.new[first:last])


def _compare(before: Sequence[str], edit: Edit) -> Iterator[Edit]:
    """Yield an edit as the smaller ones that it is made of."""
    matcher = difflib.SequenceMatcher(None, before[edit.start : edit.end], edit.new, autojunk=False)
    for tag, old_from, old_to, new_from, new_to in matcher.get_opcodes():
        if tag != "equal":
            yield Edit(edit.start + old_from, old_to - old_from, edit.new[new_from:new_to])


def _groups(changes: Sequence[Edit]) -> Iterator[list[Edit]]:
    """Yield changes that are so near to each other that their context meets."""
    group: list[Edit] = []
    for change in changes:
        if group and change.start - group[-1].end > 2 * DIFF_CONTEXT_LINES:
            yield group
            group = []
        group.append(change)
    if group:
        yield group
