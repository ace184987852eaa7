"""Finds the real Codex. A suite without it proves nothing, so its absence is a failure and never a skip."""

import os
import shutil
from pathlib import Path

import pytest


def find_codex() -> Path | None:
    """Return the Codex binary: `CODEX_BIN`, the package `openai-codex-cli-bin`, or `codex` on `PATH`."""
    if named := os.environ.get("CODEX_BIN"):
        return Path(named)
    try:
        from codex_cli_bin import bundled_codex_path  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        found = shutil.which("codex")
        return Path(found) if found else None
    return Path(bundled_codex_path())


def codex_binary() -> Path:
    """Return the Codex binary, or fail the test with the way to get one."""
    found = find_codex()
    if found is None or not os.access(found, os.X_OK):
        pytest.fail(
            f"no real Codex ({found}): pip install openai-codex-cli-bin, or set CODEX_BIN", pytrace=False
        )
    return found
