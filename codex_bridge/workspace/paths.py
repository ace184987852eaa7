"""Paths of a workspace: which directories a session may work in, which files lie inside one."""

from __future__ import annotations

import errno
import os
import stat

from ..errors import InvalidField


class WorkspaceRoots:
    """The directories in which sessions may work; `default` is that of a session that names none."""

    def __init__(self, default: str, roots: tuple[str, ...]) -> None:
        self.default = default
        self._roots = roots

    def choose(self, wanted: object) -> str:
        """Return the real path of the wanted directory; raise `InvalidField` when it is not inside a root."""
        if wanted is None:
            return self.default
        if not isinstance(wanted, str) or not os.path.isabs(wanted) or "\0" in wanted:
            raise InvalidField("workspace_root", "workspace_root: expected an absolute path.")
        path = os.path.realpath(wanted)
        _check_printable(path, "workspace_root")
        # Judged before it is looked at: the answer must not tell what exists outside.
        if not any(is_inside(path, root) for root in self._roots):
            raise InvalidField(
                "workspace_root", "workspace_root: expected a directory inside one of CODEX_WORKSPACE_ROOTS."
            )
        if not os.path.isdir(path):
            raise InvalidField("workspace_root", f"workspace_root: there is no directory {wanted!r}.")
        return path


def is_inside(path: str, root: str) -> bool:
    """Say whether the real path `path` is `root` or lies below it."""
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def resolve_file(root: str, path: str, field: str) -> str:
    """Return the real path of a file inside `root`; raise `InvalidField` that names `field`."""
    if "\0" in path:
        raise InvalidField(field, f"{field}: a path has no NUL.")
    real = os.path.realpath(os.path.join(root, path))
    if not is_inside(real, root):
        raise InvalidField(field, f"{field}: expected a file inside the workspace.")
    _check_printable(real, field)
    if not os.path.isfile(real):
        raise InvalidField(field, f"{field}: there is no file {path!r} in the workspace.")
    return real


def read_regular(path: str, most: int) -> bytes:
    """Return a file's first `most` bytes; raise OSError, also where it is a link or no file. A FIFO is not waited for."""
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise OSError(errno.EINVAL, "it is no file")
        # Not every file system gives all of it at once.
        with open(opened, "rb", closefd=False) as file:
            return file.read(most)
    finally:
        os.close(opened)


def is_unmoved(root: str) -> bool:
    """Say whether a directory that was resolved before is still itself, and not a link to elsewhere by now."""
    return os.path.realpath(root) == root and os.path.isdir(root)


def _check_printable(path: str, field: str) -> None:
    """Refuse a path that is not text: it could not be told to Codex, or would be read as more than a path."""
    if not path.isprintable():
        raise InvalidField(field, f"{field}: expected a path in printable UTF-8; it leads to {path!a}.")
