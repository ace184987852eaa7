"""What a run knows: its options, directories and programs, and the upstream that figures share."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .processes import Processes

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent


@dataclass
class Bench:
    """One run: options, a private directory, the processes."""

    directory: Path
    processes: Processes
    python: str
    codex: str
    node: str
    wanted_runs: int | None
    quick: bool

    def runs(self, usual: int, quick: int) -> int:
        """Return how often to measure: as asked for on the command line, else the figure's own count."""
        if self.wanted_runs is not None:
            return self.wanted_runs
        return quick if self.quick else usual

    def say(self, text: str) -> None:
        """Show progress on stderr."""
        print(f"  {text}", file=sys.stderr, flush=True)

    def alternate(self, runs: int, what: str, *measures: Callable[[], None]) -> None:
        """Run the measures in turn, A B A B, so that a busy machine spoils all of them alike."""
        for number in range(runs):
            self.say(f"{what}, {number + 1} of {runs}")
            for measure in measures if number % 2 == 0 else reversed(measures):
                measure()

    def new_directory(self, name: str) -> Path:
        """Make a fresh private directory."""
        number = sum(1 for _ in self.directory.glob(f"{name}-*"))
        path = self.directory / f"{name}-{number}"
        path.mkdir(mode=0o700)
        return path

    @functools.cached_property
    def upstream_port(self) -> int:
        """Start the scripted upstream at its first use; one serves all figures."""
        script = str(HERE / "upstream.py")
        process = self.processes.spawn([sys.executable, script], self.environment(), CHECKOUT, pipes=True)
        assert process.stdout is not None
        return int(process.stdout.readline())

    def environment(self) -> dict[str, str]:
        """Return the little that every process needs."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.directory), "LANG": "C.UTF-8"}


def find_codex() -> str:
    """Return the path of the real Codex: `CODEX_BIN`, the Python package, or `codex` on PATH."""
    named = os.environ.get("CODEX_BIN")
    package = importlib.util.find_spec("codex_cli_bin")
    if named is None and package is not None and package.origin is not None:
        named = str(Path(package.origin).parent / "bin" / "codex")
    found = shutil.which(named or "codex")
    if found is None:
        raise SystemExit("expected a Codex: install the package openai-codex-cli-bin or set CODEX_BIN")
    return found


def find_node() -> str:
    """Return the path of node, whose plain HTTP server is the comparison."""
    found = shutil.which("node")
    if found is None:
        raise SystemExit("expected `node` on PATH: a plain node:http server is the comparison")
    return found
