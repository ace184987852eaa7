"""The tool `search_text`: ripgrep where there is one, Python otherwise.

All files are searched, hidden and ignored ones too, in the order of their paths, but for .git, files with NUL at their begin and
larger ones than the limit: so both ways find the same. Links are not followed. Python searches for plain text alone: no regular
expression of somebody else is run in this process, since nothing could end it.

What ripgrep reports is not believed: it walks by path, and a link may have led it out. Each match is read again through the jail, and
told only when the same bytes stand at the same place there.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..adapters.process import ChildProcess
from ..limits import (
    FILE_TOOL_S,
    MAX_MATCH_CHARACTERS,
    MAX_SEARCH_LINE_BYTES,
    MAX_SEARCH_MEMORY_BYTES,
    MAX_SEARCHED_FILE_BYTES,
    SCAN_BYTES,
    SNIFFED_BYTES,
)
from ..protocol.tools import ToolResult, limit_hit
from .files import Lister
from .globs import compile_glob
from .jail import Jail, Parts, is_utf8, kind_of, shown, told
from .place import Place, Refused, Watch, off_loop

Json = dict[str, Any]

# Globs that both read alike.
_PLAIN_GLOB = re.compile(r"!?[\w*?./-]+", re.ASCII)


class Search:
    """Searches with ripgrep at the path `rg`; None where there is none."""

    def __init__(self, rg: str | None) -> None:
        self._rg = rg

    async def run(self, arguments: Json, place: Place) -> ToolResult:
        """Find lines in the files of the workspace: a match has `path`, `line`, `text`, and `column` in it, in characters."""
        query = arguments["query"]
        if "\n" in query or "\r" in query or "\0" in query or not is_utf8(query):
            raise Refused("invalid_query", "query: expected one line of text, without NUL.")
        if self._rg is not None:
            return await _Ripgrep(self._rg, arguments, place).run()
        if arguments["regex"]:
            message = "Regular expressions need ripgrep, which is not installed; search for plain text."
            raise Refused("not_supported", message)
        return await off_loop(lambda watch: _search(arguments, place, watch), FILE_TOOL_S)


def _target(jail: Jail, arguments: Json) -> tuple[Parts, bool]:
    """Return the real parts of what is searched, and whether it is one file."""
    path = arguments["path"]
    with jail.find(path) as spot:
        if spot.info is None:
            raise Refused("not_found", f"{told(path)}: there is no such file or directory.")
        if spot.name and kind_of(spot.info) != "file":
            raise Refused("not_a_file", f"{told(path)}: expected a file; it is a {kind_of(spot.info)}.")
        return spot.parts, bool(spot.name)


@dataclass(slots=True)
class _Matches:
    """What was found, up to the limit and one more."""

    limit: int
    found: list[Json] = field(default_factory=list)
    is_over: bool = False
    has_long: bool = False
    is_broken_off: bool = False

    @property
    def is_full(self) -> bool:
        return len(self.found) > self.limit

    def add(self, parts: Parts, line: int, text: bytes, begin: int) -> None:
        """Tell a line, of which a match begins at the byte `begin`; what is far from it is cut off."""
        told_text = text.rstrip(b"\r\n").decode(errors="replace")
        column = len(text[:begin].decode(errors="replace"))
        start = max(0, column - MAX_MATCH_CHARACTERS // 2) if len(told_text) > MAX_MATCH_CHARACTERS else 0
        match: Json = {"path": shown("/".join(parts)), "line": line, "column": column + 1}
        match["text"] = told_text[start : start + MAX_MATCH_CHARACTERS]
        if len(match["text"]) < len(told_text):
            match["is_cut"] = True
        self.found.append(match)

    def result(self, seconds: float) -> ToolResult:
        limits = []
        if self.is_full:
            message = "There are more matches; narrow the query, the path or the pattern."
            limits.append(limit_hit("matches", self.limit, message))
        if self.is_over:
            message = "The time was over before all files were searched; narrow the path or the pattern."
            limits.append(limit_hit("seconds", int(seconds), message))
        if self.has_long:
            message = "A longer line or a file that could not be read was passed over."
            limits.append(limit_hit("line_bytes", MAX_SEARCH_LINE_BYTES, message))
        if self.is_broken_off:
            message = (
                "A line with very many matches took too much memory; what comes behind it was not searched."
            )
            limits.append(limit_hit("memory_bytes", MAX_SEARCH_MEMORY_BYTES, message))
        matches, has_more = self.found[: self.limit], self.is_full or self.is_over or self.is_broken_off
        return ToolResult(data={"matches": matches, "has_more": has_more}, limits=tuple(limits))


# With Python --------------------------------------------------------------------------------------


def _search(arguments: Json, place: Place, watch: Watch) -> ToolResult:
    wanted = _Wanted(arguments["query"], arguments["ignore_case"])
    found = _Matches(arguments["limit"])
    with Jail(place.root) as jail:
        parts, is_file = _target(jail, arguments)
        for each in _files(jail, parts, is_file, arguments.get("pattern"), watch):
            content = _content(jail, each)
            if content is not None:
                _search_in(each, content, wanted, found, watch)
            if found.is_full or watch.is_over:
                break
    found.is_over = watch.is_over and not found.is_full
    return found.result(watch.seconds)


def _files(jail: Jail, parts: Parts, is_file: bool, glob: str | None, watch: Watch) -> Iterator[Parts]:
    if is_file:
        if glob is None or compile_glob(glob)("/".join(parts)):
            yield parts
        return
    for _, path, _ in Lister(jail, watch, is_recursive=True, glob=glob).entries(parts, ""):
        yield tuple(path.split("/"))


def _content(jail: Jail, parts: Parts) -> bytes | None:
    """Return what is in a file of text; None for all else that a name may stand for."""
    try:
        opened = jail.open_file_parts(parts)
    except (OSError, Refused):
        return None
    try:
        if os.fstat(opened).st_size > MAX_SEARCHED_FILE_BYTES:
            return None
        content = os.read(opened, MAX_SEARCHED_FILE_BYTES)
        return None if b"\0" in content[:SNIFFED_BYTES] else content
    except OSError:
        return None
    finally:
        os.close(opened)


class _Wanted:
    """A plain text that is looked for. Not by `re`: where case is ignored, it takes as long as text and query multiplied."""

    def __init__(self, query: str, ignores_case: bool) -> None:
        self._ignores_case = ignores_case
        self._query = _fold(query) if ignores_case else query

    def find(self, text: str) -> int:
        """Return where it begins, -1 where it is not."""
        return (_fold(text) if self._ignores_case else text).find(self._query)


def _fold(text: str) -> str:
    """Return a text without the case of its characters, each of which stays one; piece by piece, as others wait."""
    pieces = (text[at : at + SCAN_BYTES] for at in range(0, len(text), SCAN_BYTES))
    return "".join(map(_fold_piece, pieces))


def _fold_piece(text: str) -> str:
    folded = text.casefold()
    return folded if len(folded) == len(text) else "".join(map(_fold_one, text))


def _fold_one(character: str) -> str:
    forms = (character.casefold(), character.lower(), character)
    return next(form for form in forms if len(form) == 1)


def _search_in(parts: Parts, content: bytes, wanted: _Wanted, found: _Matches, watch: Watch) -> None:
    # Looked at as a whole first: most files have no match. Bytes that are no UTF-8 become characters that no query has.
    if wanted.find(content.decode(errors="surrogateescape")) < 0:
        return
    for number, line in enumerate(content.split(b"\n"), 1):
        text = line.decode(errors="surrogateescape")
        at = wanted.find(text)
        if at >= 0:
            found.add(parts, number, line, len(text[:at].encode(errors="surrogateescape")))
        if found.is_full or (number % 10_000 == 0 and watch.is_over):
            return


# With ripgrep -------------------------------------------------------------------------------------


class _Ripgrep:
    """One run of ripgrep."""

    def __init__(self, rg: str, arguments: Json, place: Place) -> None:
        self._rg = rg
        self._arguments = arguments
        self._place = place
        self._found = _Matches(arguments["limit"])
        self._buffer = bytearray()
        self._is_skipping = False

    async def run(self) -> ToolResult:
        parts, is_file = await off_loop(self._resolve, FILE_TOOL_S)
        glob = self._arguments.get("pattern")
        self._matches = compile_glob(glob) if glob is not None else bool
        command = self._command("/".join((".", *parts)), None if is_file else glob)
        try:
            child = await ChildProcess.start(
                command,
                {"LC_ALL": "C.UTF-8"},
                self._place.root,
                orphan_signal=signal.SIGKILL,
                max_memory_bytes=MAX_SEARCH_MEMORY_BYTES,
            )
        except OSError as error:
            raise Refused("io_error", f"ripgrep cannot be started: {error.strerror}.") from error
        try:
            child.end_input()
            async with asyncio.timeout(FILE_TOOL_S):
                await self._follow(child)
        except TimeoutError:
            self._found.is_over = True
        finally:
            child.kill()
            await child.stop()
        return self._found.result(FILE_TOOL_S)

    def _resolve(self, watch: Watch) -> tuple[Parts, bool]:
        with Jail(self._place.root) as jail:
            return _target(jail, self._arguments)

    def _command(self, path: str, glob: str | None) -> list[str]:
        arguments = self._arguments
        options = [
            "--json", "--no-config", "--no-ignore", "--hidden", "--no-follow", "--no-messages", "--encoding=none", "--sort=path",
            "--color=never", "--no-stats", "--no-pre", "--no-search-zip", "--glob=!.git",
            f"--max-filesize={MAX_SEARCHED_FILE_BYTES}", f"--max-count={arguments['limit'] + 1}",
            "--ignore-case" if arguments["ignore_case"] else "--case-sensitive",
        ]  # fmt: skip
        if glob is not None and _PLAIN_GLOB.fullmatch(glob):
            options.append(f"--glob={glob.removeprefix('./')}")
        options += [] if arguments["regex"] else ["--fixed-strings"]
        return [self._rg, *options, "--", arguments["query"], path]

    async def _follow(self, child: ChildProcess) -> None:
        async for chunk in child.read_chunks():
            lines = self._lines(chunk)
            if lines:
                await off_loop(lambda watch, lines=lines: self._take(lines), FILE_TOOL_S)  # type: ignore[misc]
            if self._found.is_full:
                return
        said = await child.last_words()
        self._found.is_broken_off = "signal" in await child.exit_status()
        if said and not self._found.found and "error" in said:
            raise Refused("invalid_query", f"query: {said[-500:]}")

    def _lines(self, chunk: bytes) -> list[bytes]:
        """Return the lines that are whole by now. One that is too long is passed over as it comes."""
        self._buffer += chunk
        *lines, rest = self._buffer.split(b"\n")
        if self._is_skipping and lines:
            del lines[0]
            self._is_skipping = False
        self._buffer = bytearray() if self._is_skipping else rest
        if len(self._buffer) > MAX_SEARCH_LINE_BYTES:
            self._buffer.clear()
            self._is_skipping = self._found.has_long = True
        return [bytes(line) for line in lines]

    def _take(self, lines: list[bytes]) -> None:
        """Tell the matches among lines of ripgrep's that stand there in truth."""
        file: _File | None = None
        try:
            with Jail(self._place.root) as jail:
                for line in lines:
                    told_line = json.loads(line)
                    if told_line.get("type") != "match" or self._found.is_full:
                        continue
                    match = told_line["data"]
                    parts = tuple(os.fsdecode(_octets(match["path"])).removeprefix("./").split("/"))
                    if not self._matches("/".join(parts)):
                        continue
                    if file is None or file.parts != parts:
                        if file is not None:
                            file.close()
                        file = _File(jail, parts)
                    self._tell(file, match)
        except (ValueError, KeyError, TypeError) as error:
            raise Refused("io_error", "ripgrep answered what was not expected.") from error
        finally:
            if file is not None:
                file.close()

    def _tell(self, file: _File, match: Json) -> None:
        octets, offset = _octets(match["lines"]), match["absolute_offset"]
        number = file.line_of(octets, offset)
        if number is None:
            # It was led elsewhere, or the file has changed since.
            return
        begin = match["submatches"][0]["start"] if match["submatches"] else 0
        self._found.add(file.parts, number, octets, begin)


def _octets(value: Json) -> bytes:
    return value["text"].encode() if "text" in value else base64.b64decode(value["bytes"])


class _File:
    """A file that ripgrep names, opened through the jail; lines are counted on from match to match."""

    def __init__(self, jail: Jail, parts: Parts) -> None:
        self.parts = parts
        self._opened: int | None = None
        self._position = 0
        self._line = 1
        # One that cannot be opened so is none that ripgrep should have read.
        with suppress(OSError, Refused):
            self._opened = jail.open_file_parts(parts)

    def close(self) -> None:
        if self._opened is not None:
            os.close(self._opened)
            self._opened = None

    def line_of(self, octets: bytes, offset: int) -> int | None:
        """Return the number of the line that is `octets` at `offset`; None when another stands there."""
        if self._opened is None:
            return None
        try:
            if os.pread(self._opened, len(octets), offset) != octets:
                return None
            if offset < self._position:
                self._position, self._line = 0, 1
            while self._position < offset:
                block = os.pread(self._opened, min(SCAN_BYTES, offset - self._position), self._position)
                if not block:
                    return None
                self._line += block.count(b"\n")
                self._position += len(block)
        except OSError:
            return None
        return self._line
