"""The tools `list_files` and `read_file`: pages of directories and of files, whatever their size."""

from __future__ import annotations

import codecs
import hashlib
import heapq
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from ..limits import (
    FILE_TOOL_S,
    LIST_BATCH,
    MAX_HASHED_BYTES,
    MAX_LIST_DEPTH,
    MAX_READ_BYTES,
    MAX_READ_LINE_CHARACTERS,
    SCAN_BYTES,
    SNIFFED_BYTES,
)
from ..protocol.tools import ToolResult, limit_hit
from .globs import Matches, compile_glob, is_excluding
from .jail import Jail, Parts, is_utf8, refuse, shown, told
from .place import Place, Refused, Watch, off_loop

Json = dict[str, Any]


async def list_files(arguments: Json, place: Place) -> ToolResult:
    """List a directory of the workspace: a page of entries, sorted by path, and the cursor of the next one.

    Links are told with what they say and never followed below. A name that is no UTF-8 is told with \\xNN in it and
    `undecodable`; no tool can open it.
    """
    return await off_loop(lambda watch: _list(arguments, place, watch), FILE_TOOL_S)


async def read_file(arguments: Json, place: Place) -> ToolResult:
    """Read lines of a text file of the workspace."""
    return await off_loop(lambda watch: _read(arguments, place, watch), FILE_TOOL_S)


# list_files ---------------------------------------------------------------------------------------


def _list(arguments: Json, place: Place, watch: Watch) -> ToolResult:
    with Jail(place.root) as jail:
        parts = jail.find_directory(arguments["path"])
        cursor = _read_cursor(arguments.get("cursor"))
        lister = Lister(jail, watch, is_recursive=arguments["recursive"], glob=arguments.get("pattern"))
        entries: list[Json] = []
        last, is_more = "", False
        for name, path, directory_parts in lister.entries(parts, cursor):
            if len(entries) == arguments["limit"]:
                is_more = True
                break
            entry = _entry(jail, path, name, directory_parts)
            if entry is not None:
                entries.append(entry)
                last = path
    if lister.stopped_at is not None and not is_more:
        last, is_more = max(last, lister.stopped_at), True
        if last <= cursor:
            watch.check()
    data: Json = {"path": shown("/".join(parts)) or ".", "entries": entries}
    if is_more:
        data["next_cursor"] = quote_from_bytes(os.fsencode(last), safe="/ ")
    return ToolResult(data=data, limits=tuple(lister.limits(arguments["limit"] if is_more else None)))


def _read_cursor(cursor: str | None) -> str:
    if cursor is None:
        return ""
    return os.fsdecode(unquote_to_bytes(cursor))


def _entry(jail: Jail, path: str, name: str, directory: Parts) -> Json | None:
    """Return what is told of an entry; None when it is gone by now."""
    try:
        with jail.directory(directory) as opened:
            info = os.stat(name, dir_fd=opened, follow_symlinks=False)
            target = os.readlink(name, dir_fd=opened) if stat.S_ISLNK(info.st_mode) else None
    except OSError:
        return None
    entry: Json = {"path": shown(path), "kind": "other"}
    if stat.S_ISREG(info.st_mode):
        entry |= {"kind": "file", "size": info.st_size}
    elif stat.S_ISDIR(info.st_mode):
        entry["kind"] = "directory"
    elif target is not None:
        entry |= {"kind": "link", "target": shown(target)}
    if not is_utf8(path):
        entry["undecodable"] = True
    return entry


@dataclass(slots=True)
class Lister:
    """Goes through directories in the order of their paths, as texts: `a`, `a.b`, `a/c`.

    A directory is read again for each batch of its names, so that one of millions takes neither memory nor a sort of all of them.
    """

    jail: Jail
    watch: Watch
    is_recursive: bool
    glob: str | None = None
    # Where the time was over; None when all was seen.
    stopped_at: str | None = None
    is_too_deep: bool = False
    unreadable: int = 0
    _matches: Matches = field(init=False, default=bool)
    _enters: Matches = field(init=False, default=bool)

    def __post_init__(self) -> None:
        if self.glob:
            self._matches = compile_glob(self.glob)
            if is_excluding(self.glob):
                self._enters = self._matches

    def entries(self, parts: Parts, cursor: str) -> Iterator[tuple[str, str, Parts]]:
        """Yield the name, the path and the directory of each entry behind the path `cursor`."""
        prefix = "".join(f"{part}/" for part in parts)
        # What was gone through here: a path, or with a / at its end all below a directory.
        done = ""
        while True:
            batch = self._batch(parts, prefix, cursor, done)
            for key in batch:
                if self._is_over(max(cursor, _behind(done))):
                    return
                if not key.endswith("/"):
                    yield key[len(prefix) :], key, parts
                elif len(parts) >= MAX_LIST_DEPTH:
                    self.is_too_deep = True
                else:
                    yield from self.entries((*parts, key[len(prefix) : -1]), cursor)
                if self.stopped_at is not None:
                    return
                done = key
            if len(batch) < LIST_BATCH:
                return

    def limits(self, most: int | None) -> Iterator[Json]:
        """Yield what cut the list short; `most` is the number of entries when that did."""
        if self.stopped_at is not None:
            message = "The time was over; next_cursor goes on from there."
            yield limit_hit("seconds", int(self.watch.seconds), message)
        elif most is not None:
            yield limit_hit("entries", most, "There are more; next_cursor gets them.")
        if self.is_too_deep:
            yield limit_hit(
                "depth", MAX_LIST_DEPTH, "Directories below that depth were left out; name one as path."
            )
        if self.unreadable:
            message = f"{self.unreadable} directories could not be read and were left out."
            yield limit_hit("unreadable", 0, message)

    def _is_over(self, position: str) -> bool:
        if self.stopped_at is None and self.watch.is_over:
            self.stopped_at = position
        return self.stopped_at is not None

    def _batch(self, parts: Parts, prefix: str, cursor: str, done: str) -> list[str]:
        """Return the next paths of one directory, in order. One to be entered has a / at its end."""
        try:
            with self.jail.directory(parts, to_list=True) as directory, os.scandir(directory) as found:
                return heapq.nsmallest(LIST_BATCH, self._keys(found, prefix, cursor, done))
        except OSError:
            self.unreadable += 1
            return []

    def _keys(self, found: Iterator[os.DirEntry[str]], prefix: str, cursor: str, done: str) -> Iterator[str]:
        matches, is_recursive = self._matches, self.is_recursive
        for number, entry in enumerate(found):
            if number % 1000 == 999 and self._is_over(max(cursor, _behind(done))):
                return
            path = prefix + entry.name
            if is_recursive and entry.name == ".git":
                continue
            if path > cursor and path > done and matches(path):
                yield path
            if is_recursive and self._enters(path) and entry.is_dir(follow_symlinks=False):
                below = path + "/"
                # Its paths all begin so: they lie behind the cursor, or the cursor lies among them.
                if below > done and (below > cursor or cursor.startswith(below)):
                    yield below


def _behind(done: str) -> str:
    """Return a path that lies behind all that was gone through."""
    return done + "\U0010ffff" if done.endswith("/") else done


# read_file ----------------------------------------------------------------------------------------


def _read(arguments: Json, place: Place, watch: Watch) -> ToolResult:
    path = arguments["path"]
    with Jail(place.root) as jail:
        opened, parts = jail.open_file(path)
        try:
            reader = _Reader(opened, arguments["start_line"], arguments["limit"], watch)
            reader.read(path)
        except OSError as error:
            refuse(error, path)
        finally:
            os.close(opened)
    return reader.result("/".join(parts))


class _Reader:
    """Streams a file: counts lines up to those that are wanted, keeps those, and hashes all where that is not too much."""

    def __init__(self, opened: int, start: int, count: int, watch: Watch) -> None:
        self._opened = opened
        self._start = start
        self._count = count
        self._watch = watch
        self._size = os.fstat(opened).st_size
        self._hash = hashlib.sha256() if self._size <= MAX_HASHED_BYTES else None
        # The line at hand, from 1, its bytes so far, and whether some were left out.
        self._line = 1
        self._held = bytearray()
        self._has_bytes = False
        self._kept: list[str] = []
        self._kept_bytes = 0
        self._cut_lines = 0
        self._is_full = False
        self._is_whole = False
        self._read_bytes = 0

    def read(self, path: str) -> None:
        """Read as far as is needed; raise `Refused` for what is no text."""
        while block := os.read(self._opened, SCAN_BYTES):
            self._watch.check()
            if not self._read_bytes:
                self._check_begin(block, path)
            self._read_bytes += len(block)
            if self._hash is not None:
                self._hash.update(block)
            self._take(block, path)
            if self._is_full and self._hash is None:
                return
        self._is_whole = True
        if self._has_bytes:
            if not self._is_full and self._line >= self._start:
                self._keep(path, b"")
            self._line += 1

    def result(self, path: str) -> ToolResult:
        total = self._line - 1 if self._is_whole else None
        end = self._start + len(self._kept) - 1
        data: Json = {
            "path": shown(path),
            "text": "".join(self._kept),
            "start_line": self._start,
            "end_line": end,
            "has_more": end < total if total is not None else True,
            "total_lines": total,
            "size": self._size,
            "sha256": self._hash.hexdigest() if self._hash is not None and self._is_whole else None,
        }
        return ToolResult(data=data, limits=tuple(self._limits(data["has_more"])))

    def _limits(self, has_more: bool) -> Iterator[Json]:
        if has_more and len(self._kept) >= self._count:
            yield limit_hit("lines", self._count, "There are more lines; read on with start_line.")
        elif has_more:
            yield limit_hit("bytes", MAX_READ_BYTES, "There are more lines; read on with start_line.")
        if self._cut_lines:
            message = f"{self._cut_lines} longer lines were cut there."
            yield limit_hit("line_characters", MAX_READ_LINE_CHARACTERS, message)
        if self._hash is None:
            message = "The file is larger: its sha256 was not computed, and its lines not all counted."
            yield limit_hit("hashed_bytes", MAX_HASHED_BYTES, message)

    def _check_begin(self, block: bytes, path: str) -> None:
        begin = block[:SNIFFED_BYTES]
        try:
            # A character may be cut at the end.
            codecs.getincrementaldecoder("utf-8")().decode(begin, final=len(block) <= SNIFFED_BYTES)
        except UnicodeDecodeError:
            self._refuse_binary(path)
        if b"\0" in begin:
            self._refuse_binary(path)

    def _refuse_binary(self, path: str) -> None:
        message = f"{told(path)}: expected text in UTF-8; it is a binary file of {self._size} bytes."
        raise Refused("not_text", message, size=self._size)

    def _take(self, block: bytes, path: str) -> None:
        """Go on by a block of the file."""
        if self._is_full or (skips := self._start - self._line) > block.count(b"\n"):
            self._skip(block)
            return
        position = 0
        for _ in range(skips):
            position = block.index(b"\n", position) + 1
        if skips > 0:
            self._line += skips
        while not self._is_full:
            end = block.find(b"\n", position)
            if end < 0:
                self._hold(block[position:])
                return
            self._hold(block[position:end])
            self._keep(path, b"\n")
            self._line += 1
            position = end + 1
        self._skip(block[position:])

    def _skip(self, block: bytes) -> None:
        lines = block.count(b"\n")
        self._line += lines
        if block:
            self._has_bytes = not block.endswith(b"\n")

    def _hold(self, piece: bytes) -> None:
        """Keep the begin of a line; four bytes are the longest character."""
        self._has_bytes = self._has_bytes or bool(piece)
        self._held += piece[: max(4 * (MAX_READ_LINE_CHARACTERS + 1) - len(self._held), 0)]

    def _keep(self, path: str, ending: bytes) -> None:
        """Tell the line that is held."""
        held, self._held = bytes(self._held), bytearray()
        self._has_bytes = False
        is_cut = len(held) >= 4 * (MAX_READ_LINE_CHARACTERS + 1)
        try:
            text = codecs.getincrementaldecoder("utf-8")().decode(held, final=not is_cut)
        except UnicodeDecodeError:
            self._refuse_binary(path)
        if "\0" in text:
            self._refuse_binary(path)
        if len(text) > MAX_READ_LINE_CHARACTERS:
            self._cut_lines += 1
            text = text[:MAX_READ_LINE_CHARACTERS]
        size = len(text.encode()) + len(ending)
        if self._kept and self._kept_bytes + size > MAX_READ_BYTES:
            self._is_full = True
            return
        self._kept.append(text + ending.decode())
        self._kept_bytes += size
        self._is_full = len(self._kept) >= self._count
