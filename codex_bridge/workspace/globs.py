"""Globs over paths, as gitignore and ripgrep read them.

`*` and `?` stop at a `/`, `**` between two of them stands for any directories; `[a-z]`, `[!a-z]` and `{a,b}` are known. A glob without `/` is
for names in any directory, one with it for whole paths; one with `!` in front is for all but what the rest matches, and what lies below that. Matching takes no longer than the texts are long, whatever the glob: it
happens while others wait.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator
from itertools import accumulate

from ..limits import MAX_GLOB_VARIANTS

Matches = Callable[[str], bool]
Segments = list[re.Pattern[str] | None]


def compile_glob(glob: str) -> Matches:
    """Return what tells whether a path matches. No glob is wrong: what is not closed stands for itself."""
    matchers = [_compile(each) for each in _variants(glob.removeprefix("!").removeprefix("./"))]
    if is_excluding(glob):
        return lambda path: not any(matches(way) for way in _ways(path) for matches in matchers)
    return lambda path: any(matches(path) for matches in matchers)


def is_excluding(glob: str) -> bool:
    """Say whether a glob names what does not match; a directory that does not need not be entered then."""
    return glob.startswith("!")


def _ways(path: str) -> Iterator[str]:
    """Yield the directories that a path goes through, and the path."""
    return accumulate(path.split("/"), "{}/{}".format)


def _variants(glob: str) -> list[str]:
    """Return the globs that a glob with {a,b} stands for; where there were too many, it stands for itself."""
    done: list[str] = []
    waiting = [glob]
    while waiting:
        if len(done) + len(waiting) > MAX_GLOB_VARIANTS:
            return [glob]
        each = waiting.pop()
        # The innermost first.
        found = re.search(r"\{([^{}]*)\}", each)
        if found is None:
            done.append(each)
        else:
            waiting += [each[: found.start()] + one + each[found.end() :] for one in found[1].split(",")]
    return done


def _compile(glob: str) -> Matches:
    is_anchored = "/" in glob.rstrip("/")
    # None is any number of directories. fnmatch makes expressions that never go back.
    segments: Segments = [
        None if part == "**" else re.compile(fnmatch.translate(part)) for part in glob.strip("/").split("/")
    ]
    last = segments[-1]
    if not is_anchored and last is not None:
        return lambda path: last.match(path.rpartition("/")[2]) is not None
    return lambda path: _fits(segments, path.split("/"))


def _fits(segments: Segments, parts: list[str]) -> bool:
    """Match part by part. After a mismatch only the newest ** takes one part more: an older one need never change."""
    at = position = 0
    retry: tuple[int, int] | None = None
    while position < len(parts):
        segment = segments[at] if at < len(segments) else None
        if at < len(segments) and segment is None:
            at += 1
            retry = (at, position)
        elif segment is not None and segment.match(parts[position]):
            at, position = at + 1, position + 1
        elif retry is not None:
            at, position = retry[0], retry[1] + 1
            retry = (at, position)
        else:
            return False
    return all(segment is None for segment in segments[at:])
