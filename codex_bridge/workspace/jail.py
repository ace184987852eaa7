"""The jail: files and directories below a root are opened so that no path leads out of it, whoever changes links meanwhile.

A path is walked name by name. Each name is looked up in a directory that is open already, and opened without following a link;
where it is a link, its text is read and walked on here, from the same directory, and never by the kernel. So there is no moment
between a check and a use: what was opened is inside, and what was opened is what is read. `..` goes back to the directory
before, and above the root it is refused. Absolute paths count where they are spelled as lying in the root; so do those in links.

What it does not see: hard links and mounts inside of the root. Both need rights that a command in the sandbox does not have
outside, or lead to what it may read anyway.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from ..limits import MAX_LINK_HOPS, MAX_PATH_STEPS
from .place import Refused

Parts = tuple[str, ...]

# A directory that is only passed through needs no right to be read.
_PASS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Not blocking: what was a file when it was looked at may be a FIFO by now.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_WINDOWS = re.compile(r"[A-Za-z]:([\\/]|$)|\\\\")
_KINDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}
_CODES = {
    errno.ENOENT: ("not_found", "there is no such file or directory"),
    errno.ENOTDIR: ("not_a_directory", "a part of it is no directory"),
    errno.ENAMETOOLONG: ("invalid_path", "a name in it is too long"),
    # Only what changed after it was looked at is met so.
    errno.ELOOP: ("changed_meanwhile", "it became a link meanwhile"),
    errno.EINVAL: ("changed_meanwhile", "it was a link a moment ago"),
    errno.EEXIST: ("already_exists", "it exists by now"),
    errno.EACCES: ("io_error", "permission denied"),
    errno.ENOSPC: ("io_error", "the disk is full"),
}


@dataclass(slots=True)
class Spot:
    """Where a path leads: an open directory, and a name in it that is no link, or "" for the directory itself.

    `parts` are the names from the root on, without links; those in `missing` are not there, and the first of them is `name`.
    `crossed` are all names that were gone through, those of links too; `is_linked` says that the path's last name is a link.
    """

    directory: int
    name: str
    parts: Parts
    info: os.stat_result | None
    missing: Parts
    crossed: frozenset[str]
    is_linked: bool

    def __enter__(self) -> Spot:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.directory)


class Jail:
    """The files below `root`, a real path. Its directory is held open while the jail is entered."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._directory = -1

    def __enter__(self) -> Jail:
        self._directory = self._open_root()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._directory)

    def find(self, path: str) -> Spot:
        """Walk a path that somebody gave, and the links in it; raise `Refused`. What it leads to may be missing."""
        return _Walk(self, path).go()

    def open_file(self, path: str) -> tuple[int, Parts]:
        """Open a regular file to read, and return its real parts too; raise `Refused`."""
        with self.find(path) as spot:
            if spot.info is None:
                raise Refused("not_found", f"{told(path)}: there is no such file.")
            return _open_regular(spot.directory, spot.name, spot.info, path), spot.parts

    def find_directory(self, path: str) -> Parts:
        """Return the real parts of a directory that can be listed; raise `Refused`."""
        with self.find(path) as spot:
            if spot.info is None:
                raise Refused("not_found", f"{told(path)}: there is no such directory.")
            if spot.name:
                raise Refused(
                    "not_a_directory", f"{told(path)}: expected a directory; it is a {kind_of(spot.info)}."
                )
            try:
                os.close(os.open(".", _LIST, dir_fd=spot.directory))
            except OSError as error:
                refuse(error, path)
            return spot.parts

    @contextmanager
    def directory(self, parts: Sequence[str], *, to_list: bool = False) -> Iterator[int]:
        """Hold a directory open by its real parts, see `open_parts`."""
        opened = self.open_parts(parts, to_list=to_list)
        try:
            yield opened
        finally:
            os.close(opened)

    def open_parts(self, parts: Sequence[str], *, to_list: bool = False) -> int:
        """Open a directory by its real parts, none of which may be a link by now; raise OSError or `Refused`."""
        if not {"", ".", ".."}.isdisjoint(parts):
            raise Refused("outside_workspace", f"{told('/'.join(parts))}: expected names without '..'.")
        last = _LIST if to_list else _PASS
        here = os.open(".", _PASS if parts else last, dir_fd=self._directory)
        return _descend(here, parts, last)

    def open_file_parts(self, parts: Sequence[str]) -> int:
        """Open a regular file by its real parts, none of which may be a link by now; raise OSError or `Refused`."""
        if not parts or parts[-1] in ("", ".", ".."):
            raise Refused("not_a_file", f"{told('/'.join(parts))}: expected a file's name.")
        with self.directory(parts[:-1]) as directory:
            info = os.stat(parts[-1], dir_fd=directory, follow_symlinks=False)
            return _open_regular(directory, parts[-1], info, "/".join(parts))

    def inside(self, path: str) -> str | None:
        """Return an absolute path as one below the root, None where it is not spelled as lying there."""
        root = self.root.rstrip("/")
        if path == root or path.startswith(root + "/"):
            return path[len(root) :].lstrip("/")
        return None

    def _open_root(self) -> int:
        """Open the root itself, whose path was resolved before: a link in it came later."""
        try:
            return _descend(os.open("/", _PASS), [name for name in self.root.split("/") if name])
        except OSError as error:
            raise Refused(
                "not_found", "The workspace is not there any more, or a link took its place."
            ) from error


def _descend(here: int, names: Sequence[str], last: int = _PASS) -> int:
    """Go down from an open directory, which is closed, and open the `last` one with these flags; raise OSError."""
    for number, name in enumerate(names, 1):
        try:
            below = os.open(name, last if number == len(names) else _PASS, dir_fd=here)
        finally:
            os.close(here)
        here = below
    return here


class _Walk:
    """One walk. Only the directory it is in is open; for `..` it goes there from the root again."""

    def __init__(self, jail: Jail, path: str) -> None:
        self._jail = jail
        self._path = path
        self._parts: list[str] = []
        self._crossed: set[str] = set()
        self._hops = 0
        self._steps = 0
        self._is_linked = False
        self._here = -1
        check_path(path)
        self._pending = self._relative(path)
        # `file/` means a directory, and so does `file/.`.
        self._wants_directory = path.endswith(("/", "/.")) or path == "."

    def go(self) -> Spot:
        try:
            self._here = self._jail.open_parts(())
            return self._go()
        except (OSError, Refused) as error:
            if self._here >= 0:
                os.close(self._here)
            if isinstance(error, OSError):
                refuse(error, self._path)
            raise

    def _go(self) -> Spot:
        while self._pending:
            self._steps += 1
            if self._steps > MAX_PATH_STEPS:
                raise Refused("invalid_path", f"{told(self._path)}: it has too many parts.")
            name = self._pending.pop()
            if name == "..":
                self._go_back()
                continue
            self._crossed.add(name)
            try:
                info = os.stat(name, dir_fd=self._here, follow_symlinks=False)
            except FileNotFoundError:
                return self._missing(name)
            if stat.S_ISLNK(info.st_mode):
                self._go_along(name)
            elif stat.S_ISDIR(info.st_mode):
                self._enter(os.open(name, _PASS, dir_fd=self._here), [*self._parts, name])
            elif self._pending or self._wants_directory:
                raise Refused("not_a_directory", f"{told(self._path)}: {shown(name)} is no directory.")
            else:
                return self._spot(name, (*self._parts, name), info)
        return self._spot("", tuple(self._parts), os.fstat(self._here))

    def _enter(self, directory: int, parts: list[str]) -> None:
        os.close(self._here)
        self._here, self._parts = directory, parts

    def _go_back(self) -> None:
        if not self._parts:
            raise self._outside()
        parts = self._parts[:-1]
        self._steps += len(parts)
        self._enter(self._jail.open_parts(parts), parts)

    def _go_along(self, name: str) -> None:
        self._hops += 1
        if self._hops > MAX_LINK_HOPS:
            raise Refused(
                "outside_workspace", f"{told(self._path)}: its links go on for ever, or for too long."
            )
        self._is_linked = self._is_linked or not self._pending
        text = os.readlink(name, dir_fd=self._here)
        if text.startswith("/"):
            self._enter(self._jail.open_parts(()), [])
        self._pending += self._relative(text)

    def _relative(self, text: str) -> list[str]:
        """Return the names of a path from the last to the first."""
        inside = self._jail.inside(text) if text.startswith("/") else text
        if inside is None:
            raise self._outside()
        return [name for name in reversed(inside.split("/")) if name not in ("", ".")]

    def _missing(self, name: str) -> Spot:
        missing = (name, *reversed(self._pending))
        if ".." in missing or self._wants_directory:
            raise Refused("not_found", f"{told(self._path)}: there is no {shown(name)}.")
        return self._spot(name, (*self._parts, *missing), None, missing)

    def _spot(self, name: str, parts: Parts, info: os.stat_result | None, missing: Parts = ()) -> Spot:
        return Spot(self._here, name, parts, info, missing, frozenset(self._crossed), self._is_linked)

    def _outside(self) -> Refused:
        return Refused(
            "outside_workspace",
            f"{told(self._path)}: it leads out of the workspace; expected a path inside, relative to its root.",
        )


def check_path(path: str) -> None:
    """Refuse what is no path here: other systems' spellings, and what no file's name can be."""
    if "\0" in path:
        raise Refused("invalid_path", "A path has no NUL.")
    if not is_utf8(path):
        raise Refused(
            "invalid_path", f"{told(path)}: expected a path in UTF-8; other names can only be listed."
        )
    if path[:5].lower() == "file:":
        raise Refused("invalid_path", f"{told(path)}: expected a path, not a URL, such as src/main.py.")
    if _WINDOWS.match(path) or "\\" in path:
        raise Refused(
            "invalid_path", f"{told(path)}: expected / between names, and no drive, such as src/main.py."
        )
    if not path.strip():
        raise Refused("invalid_path", "Expected a path; '.' is the workspace itself.")


def is_utf8(text: str) -> bool:
    """Say whether a text has a form in UTF-8: what stands for other bytes, and an unpaired surrogate, has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def kind_of(info: os.stat_result) -> str:
    """Say what a name stands for."""
    return _KINDS.get(stat.S_IFMT(info.st_mode), "file")


def shown(name: str) -> str:
    r"""Return a name as text that every encoder takes: bytes that are no UTF-8 as \xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def told(path: str) -> str:
    """Return a path for a message, short and on one line."""
    return ascii(path[:200]) if not path.isprintable() else path[:200]


def refuse(error: OSError, path: str) -> NoReturn:
    """Raise `Refused` with what the system said about a path."""
    code, words = _CODES.get(error.errno or 0, ("io_error", error.strerror or "it cannot be read or written"))
    raise Refused(code, f"{told(path)}: {words}.") from error


def _open_regular(directory: int, name: str, info: os.stat_result, path: str) -> int:
    """Open a file to read, and judge what was opened: nothing else tells what it is."""
    # Looked at before as well: to open a device may do something.
    if not name or not stat.S_ISREG(info.st_mode):
        raise Refused("not_a_file", f"{told(path)}: expected a file; it is a {kind_of(info)}.")
    try:
        opened = os.open(name, _READ, dir_fd=directory)
    except OSError as error:
        refuse(error, path)
    info = os.fstat(opened)
    if not stat.S_ISREG(info.st_mode):
        os.close(opened)
        raise Refused("not_a_file", f"{told(path)}: expected a file; it is a {kind_of(info)}.")
    return opened
