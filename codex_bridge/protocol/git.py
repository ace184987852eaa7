"""git's command lines and what git prints: argument lists in, meaning out. No I/O.

A repository's own configuration may name programs: hooks, a file system monitor, external diffs, text conversions,
filters, a pager, ssh. Every command line here takes them away; the filters' names have to be asked for before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

# Each wins over all files of configuration. `protocol` and the transports are for a repository that fetches lazily.
_NEUTRAL = (
    "core.fsmonitor=false", "core.hooksPath=/dev/null", "core.pager=cat", "core.sshCommand=false", "core.askPass=",
    "core.quotePath=true", "credential.helper=", "diff.external=", "log.showSignature=false", "gpg.program=false",
    "protocol.allow=never", "safe.bareRepository=explicit", "submodule.recurse=false", "color.ui=false",
)  # fmt: skip
# The work tree is the workspace whatever the configuration says. The locale makes errors readable to this module.
_ENVIRONMENT = {
    "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "GIT_LITERAL_PATHSPECS": "1",
    "GIT_ALLOW_PROTOCOL": "", "GIT_NO_LAZY_FETCH": "1", "GIT_ATTR_NOSYSTEM": "1", "GIT_PAGER": "cat",
}  # fmt: skip
_FILTER_KEYS = ("clean", "smudge", "process")
# Sources of configuration that belong to the repository, and not to the user or the machine.
_REPOSITORY_SCOPES = ("local", "worktree")
_RECORD = "\0"
# Each field ends as a record does: nothing else is sure to be in no name.
_LOG_FIELDS = ("%H", "%an", "%ae", "%at", "%s")
_LOG_FORMAT = "%x00".join(_LOG_FIELDS)

_STATES = {
    "M": "modified", "T": "type_changed", "A": "added", "D": "deleted", "R": "renamed", "C": "copied",
    "U": "unmerged", ".": None,
}  # fmt: skip

# What git says when it cannot, each with the code and the sentence that a host is told.
_REFUSALS = (
    (
        "dubious ownership",
        "dubious_ownership",
        "git does not trust the repository: it belongs to another user. git config --global --add safe.directory, "
        "by the user that the bridge runs as, would say that it is fine.",
    ),
    ("not a git repository", "not_a_repository", "The workspace is not a git repository."),
    # So `git diff` begins, before its usage.
    ("Not a git repository", "not_a_repository", "The workspace is not a git repository."),
    ("safe.bareRepository", "not_a_repository", "The workspace is a bare repository, without files."),
    ("unknown repository extension", "git_failed", "This git is too old for the repository."),
)
_NO_COMMITS = ("does not have any commits yet", "bad default revision")


def environment(root: str, parent: str) -> dict[str, str | None]:
    """Return what git's environment has besides the usual: a repository above `root` is not looked for."""
    return {**_ENVIRONMENT, "GIT_WORK_TREE": root, "GIT_CEILING_DIRECTORIES": parent}


def filters_arguments(git: str) -> list[str]:
    """Return the command line that prints which filters are configured, and where."""
    keys = "|".join(_FILTER_KEYS)
    return [
        *_git(git, ()), "config", "--show-scope", "--name-only", "-z", "--get-regexp", rf"^filter\..*\.({keys})$",
    ]  # fmt: skip


def parse_filters(output: str) -> list[str]:
    """Return the names of the filters that the repository itself configures."""
    parts = output.split(_RECORD)
    keys = [key for scope, key in zip(parts[::2], parts[1::2], strict=False) if scope in _REPOSITORY_SCOPES]
    return list(dict.fromkeys(key.removeprefix("filter.").rpartition(".")[0] for key in keys))


def status_arguments(git: str, filters: list[str]) -> list[str]:
    return [
        *_git(git, filters), "status", "--porcelain=v2", "-z", "--branch", "--untracked-files=normal",
        "--ignore-submodules=dirty", "--ahead-behind", "--find-renames",
    ]  # fmt: skip


def log_arguments(git: str, filters: list[str], limit: int, path: str | None) -> list[str]:
    return [
        *_git(git, filters), "log", "-z", f"--max-count={limit}", f"--format={_LOG_FORMAT}", "--encoding=UTF-8",
        "--no-show-signature", "--no-patch", "--no-ext-diff", "--no-textconv", *_only(path),
    ]  # fmt: skip


def diff_arguments(git: str, filters: list[str], staged: bool, path: str | None) -> list[str]:
    return [
        *_git(git, filters), "diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-relative", "--patch",
        "--src-prefix=a/", "--dst-prefix=b/", "--unified=3", "--submodule=short", "--ignore-submodules=dirty",
        *(("--cached",) if staged else ()), *_only(path),
    ]  # fmt: skip


def _git(git: str, filters: list[str] | tuple[str, ...]) -> list[str]:
    settings = list(_NEUTRAL)
    for name in filters:
        settings += [f"filter.{name}.{key}=" for key in _FILTER_KEYS] + [f"filter.{name}.required=false"]
    return [git, "--no-pager", *(part for setting in settings for part in ("-c", setting))]


def _only(path: str | None) -> list[str]:
    return ["--"] if path is None else ["--", path]


def parse_status(output: str) -> Json:
    """Read `git status --porcelain=v2 -z --branch`; a last record that is cut short is left out."""
    branch: Json = {"head": None, "commit": None, "upstream": None, "ahead": None, "behind": None}
    files: list[Json] = []
    records = iter(output.split(_RECORD)[:-1])
    for record in records:
        kind, _, rest = record.partition(" ")
        if kind == "#":
            _note_branch(branch, rest)
        elif kind == "?":
            files.append({"path": rest, "staged": None, "unstaged": "untracked"})
        elif kind in ("1", "2", "u"):
            found = _parse_file(kind, rest, records)
            if found is not None:
                files.append(found)
    return {"branch": branch, "files": files}


def _note_branch(branch: Json, header: str) -> None:
    name, _, value = header.partition(" ")
    if name == "branch.oid":
        branch["commit"] = None if value == "(initial)" else value
    elif name == "branch.head":
        branch["head"] = None if value == "(detached)" else value
    elif name == "branch.upstream":
        branch["upstream"] = value
    elif name == "branch.ab":
        ahead, behind = value.split(" ")
        branch["ahead"], branch["behind"] = int(ahead), -int(behind)


def _parse_file(kind: str, rest: str, records: Iterator[str]) -> Json | None:
    # XY sub mH mI mW hH hI path, with a score before the path of a rename, and one mode and hash more in a conflict
    fields = rest.split(" ", {"1": 7, "2": 8, "u": 9}[kind])
    staged, unstaged = (_STATES.get(letter, letter) for letter in fields[0])
    found: Json = {"path": fields[-1], "staged": staged, "unstaged": unstaged}
    if kind == "2":
        before = next(records, None)
        if before is None:
            return None
        found["from"] = before
    if kind == "u":
        found["conflict"] = True
    return found


def parse_log(output: str) -> list[Json]:
    """Read what `log_arguments` makes git print; a last commit that is cut short is left out.

    The time of a damaged commit is None.
    """
    parts = output.split(_RECORD)[:-1]
    columns = (parts[start :: len(_LOG_FIELDS)] for start in range(len(_LOG_FIELDS)))
    return [
        {
            "hash": hash_, "author": author, "email": email, "time_ms": int(seconds) * 1000 if seconds else None,
            "subject": subject,
        }
        for hash_, author, email, seconds, subject in zip(*columns, strict=False)
    ]  # fmt: skip


def is_without_commits(stderr: str) -> bool:
    """Say whether git failed because the branch has no commit yet."""
    return any(words in stderr for words in _NO_COMMITS)


def parse_refusal(stderr: str) -> tuple[str, str]:
    """Return the code and the sentence for a git that failed."""
    for words, code, message in _REFUSALS:
        if words in stderr:
            return code, message
    said = stderr.strip().splitlines()[-1:] or ["nothing"]
    return "git_failed", f"git failed. It said: {said[0][:300]}"
