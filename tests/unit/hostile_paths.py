"""The table of hostile paths: a workspace full of traps, and what each tool must answer to each path.

Beside the workspace `ws` lies `ws-evil`, and in `outside` is what must never be told: the text `SECRET`, and files whose names have it.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

SECRET = "the-secret-outside-7f31"


def build(parent: Path) -> Path:
    """Make the workspace in a directory and return its path."""
    root, outside, evil = parent / "ws", parent / "outside", parent / "ws-evil"
    for directory in (root / "sub" / "deep", root / ".git", outside / SECRET, evil):
        directory.mkdir(parents=True)
    for file in (outside / "secret.txt", evil / "secret.txt"):
        file.write_text(SECRET + "\n")
    (root / "file.txt").write_text("inside\n")
    (root / "sub" / "file.txt").write_text("inside\n")
    (root / ".git" / "config").write_text("inside\n")
    (root / "new\nline.txt").write_text("inside\n")
    (root / "ü—名.txt").write_text("inside\n")
    with open(os.fsencode(root) + b"/caf\xe9.txt", "w") as latin:
        latin.write("inside\n")
    links = {
        "in": "file.txt", "in-dir": "sub", "in-absolute": f"{root}/file.txt", "in-over": "sub/../file.txt",
        "in-chain": "in-dir/../in", "out": "../outside/secret.txt", "out-dir": "../outside", "out-absolute": f"{outside}/secret.txt",
        "out-chain": "out-dir/secret.txt", "out-over": f"{root}/../outside/secret.txt", "evil": f"{evil}/secret.txt", "slash": "/",
        "proc": "/proc/self/root", "proc-cwd": "/proc/self/cwd", "loop": "loop", "loop-a": "loop-b", "loop-b": "loop-a",
        "dangling": "missing.txt", "dangling-out": "../outside/new.txt", "git": ".git", "null": "/dev/null",
        "sub/up": "..", "sub/up-out": "../../outside/secret.txt", "long": "x" * 300,
    }  # fmt: skip
    for name, target in links.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(".", os.O_RDONLY)
        try:
            os.chdir(root)  # a socket's path is short
            server.bind("socket")
        finally:
            os.fchdir(here)
            os.close(here)
    return root


@dataclass(frozen=True)
class Case:
    """A path ({root} and {parent} stand for directories), and the codes of the tools' answers; "" where they succeed.

    `edit` is of an update of the file, `make` of a new file there.
    """

    path: str
    read: str
    list: str
    edit: str
    make: str


FINE = ("", "not_a_directory", "", "already_exists")
OUT = ("outside_workspace",) * 4
BAD = ("invalid_path",) * 4
DIRECTORY = ("not_a_file", "", "not_a_file", "not_a_file")
OTHER = ("not_a_file", "not_a_directory", "not_a_file", "not_a_file")
MISSING = ("not_found", "not_found", "not_found", "")
NOWHERE = ("not_found",) * 4

HOSTILE = [
    Case("file.txt", *FINE),
    Case("./sub/.././/file.txt", *FINE),
    Case("sub/deep/../../file.txt", *FINE),
    Case("{root}/file.txt", *FINE),
    Case("{root}//sub/../file.txt", *FINE),
    Case("in", *FINE),
    Case("in-dir/file.txt", *FINE),
    Case("in-absolute", *FINE),
    Case("in-over", *FINE),
    Case("in-chain", *FINE),
    Case("sub/up/file.txt", *FINE),
    Case("new\nline.txt", *FINE),
    Case("ü—名.txt", *FINE),
    Case(".", *DIRECTORY),
    Case("{root}", *DIRECTORY),
    Case("sub/", *DIRECTORY),
    Case("in-dir", *DIRECTORY),
    Case("sub/up", *DIRECTORY),
    Case("sub/..", *DIRECTORY),
    Case("..", *OUT),
    Case("../outside/secret.txt", *OUT),
    Case("sub/../../outside/secret.txt", *OUT),
    Case("{root}/../outside/secret.txt", *OUT),
    Case("../ws/file.txt", *OUT),
    Case("{parent}/outside/secret.txt", *OUT),
    Case("{root}-evil/secret.txt", *OUT),
    Case("/", *OUT),
    Case("/etc/passwd", *OUT),
    Case("/proc/self/root/etc/passwd", *OUT),
    Case("/proc/self/cwd", *OUT),
    Case("/dev/null", *OUT),
    Case("//etc/passwd", *OUT),
    Case("out", *OUT),
    Case("out-dir", *OUT),
    Case("out-dir/secret.txt", *OUT),
    Case("out-absolute", *OUT),
    Case("out-chain", *OUT),
    Case("out-over", *OUT),
    Case("evil", *OUT),
    Case("slash", *OUT),
    Case("slash/etc/passwd", *OUT),
    Case("proc", *OUT),
    Case("proc/etc/passwd", *OUT),
    Case("proc-cwd/x", *OUT),
    Case("null", *OUT),
    Case("sub/up-out", *OUT),
    Case("in-dir/up/../outside/secret.txt", *OUT),
    Case("dangling-out", *OUT),
    Case("loop", *OUT),
    Case("loop-a", *OUT),
    Case("loop-a/x", *OUT),
    Case("missing.txt", *MISSING),
    Case("missing/deeper/file.txt", *MISSING),
    Case("dangling", *MISSING),
    Case("~/file.txt", *MISSING),
    Case("%2e%2e/outside/secret.txt", *MISSING),
    Case("...", *MISSING),
    Case("missing/../file.txt", *NOWHERE),
    Case("missing/", *NOWHERE),
    Case("file.txt/", *(["not_a_directory"] * 4)),
    Case("file.txt/x", *(["not_a_directory"] * 4)),
    Case("file.txt/..", *(["not_a_directory"] * 4)),
    Case("fifo", *OTHER),
    Case("socket", *OTHER),
    Case("caf\udce9.txt", "invalid_path", "invalid_path", "patch_invalid", "patch_invalid"),
    Case("file.txt\0", *BAD),
    Case("\0", *BAD),
    Case(" ", *BAD),
    Case("C:\\Windows\\win.ini", *BAD),
    Case("c:/Windows/win.ini", *BAD),
    Case("C:", *BAD),
    Case("\\\\host\\share", *BAD),
    Case("..\\outside\\secret.txt", *BAD),
    Case("sub\\file.txt", *BAD),
    Case("file:///etc/passwd", *BAD),
    Case("FILE:file.txt", *BAD),
    Case("x" * 300, *BAD),
    Case("long", *BAD),
    Case("../" * 1000 + "etc/passwd", *OUT),
    Case("sub/../" * 500 + "file.txt", *FINE),
    Case("sub/deep/../../" * 270 + "../x", *OUT),
    Case(".git/config", "", "not_a_directory", "protected", "protected"),
    Case("git/config", "", "not_a_directory", "protected", "protected"),
    Case(".git", "not_a_file", "", "protected", "protected"),
    Case(".git/hooks/pre-commit", "not_found", "not_found", "protected", "protected"),
    Case(".GIT/config", "not_found", "not_found", "protected", "protected"),
    Case("sub/.git/config", "not_found", "not_found", "protected", "protected"),
    Case(".codex/config.toml", "not_found", "not_found", "protected", "protected"),
    Case(".agents/x", "not_found", "not_found", "protected", "protected"),
    Case("sub/../.codex/x", "not_found", "not_found", "protected", "protected"),
    Case(".gitignore", *MISSING),
    Case("sub/.codex/x", *MISSING),
]
