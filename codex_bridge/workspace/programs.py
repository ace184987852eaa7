"""Finds the programs that tools use: ripgrep and git."""

from __future__ import annotations

import os
from collections.abc import Mapping

# Beside the directory of Codex's own binary lies one with the programs that it brings.
_BROUGHT = "codex-path"


def find_programs(environ: Mapping[str, str], codex: str | None) -> dict[str, str | None]:
    """Return the paths of `ripgrep` and `git`, None for what is not there; Codex brings a ripgrep of its own."""
    directories = [path for path in environ.get("PATH", "").split(os.pathsep) if os.path.isabs(path)]
    brought = []
    if codex is not None:
        brought = [os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(codex))), _BROUGHT)]
    return {"ripgrep": _find("rg", directories + brought), "git": _find("git", directories)}


def _find(name: str, directories: list[str]) -> str | None:
    paths = (os.path.join(directory, name) for directory in directories)
    return next((path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)), None)
