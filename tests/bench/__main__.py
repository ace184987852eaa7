"""The command: `python -m tests.bench`. Progress on stderr, tables on stdout, everything it started ended."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from .context import Bench, find_codex, find_node
from .figures import KINDS, Kind
from .processes import Processes
from .report import Row, as_json, render

LOG_TAIL = 3000
# Run by the interpreter that runs the bridge: its version and the accelerators it has.
LOOK = """
import sys, importlib.util as util
print(sys.version.split()[0], *[name for name in ("uvloop", "orjson") if util.find_spec(name)])
"""


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    names = [kind.name for kind in KINDS]
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME", help=f"only this kind: {', '.join(names)}"
    )
    parser.add_argument("--runs", type=positive, metavar="N", help="how often each figure is measured")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter measurements")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the samples as JSON, too")
    parser.add_argument("--list", action="store_true", help="list the kinds of figures and end")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that runs the bridge")
    return parser.parse_args(argv)


def positive(text: str) -> int:
    """Parse a number of runs."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return value


class TooLongError(Exception):
    """A kind of figures used up its time."""


@contextlib.contextmanager
def bounded(seconds: int) -> Iterator[None]:
    """Raise TooLongError in the block when it takes longer."""

    def give_up(*_: object) -> None:
        raise TooLongError(f"not done after {seconds} s")

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def measure(kind: Kind, bench: Bench) -> list[Row] | None:
    """Measure one kind; tell on stderr and return None when that fails: the others are still measured."""
    print(f"{kind.title} ({kind.name})", file=sys.stderr, flush=True)
    started = time.monotonic()
    try:
        with bounded(kind.bound_seconds):
            rows = kind.measure(bench)
    except (TooLongError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        print(f"  FAILED: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        print(bench.processes.log.read_text(errors="replace")[-LOG_TAIL:], file=sys.stderr, flush=True)
        return None
    bench.say(f"done in {time.monotonic() - started:.0f} s")
    return rows


def describe(bench: Bench) -> dict[str, str]:
    """Tell what was measured on what."""
    version = subprocess.run(
        [bench.python, "-c", LOOK], capture_output=True, text=True, check=True
    ).stdout.strip()
    return {
        "bridge": f"Python {version}",
        "codex": output_of(bench.codex, "--version"),
        "node": output_of(bench.node, "--version"),
        "machine": f"{platform.system()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start",
        "at": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def output_of(*argv: str) -> str:
    """Return what a program prints."""
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def run(options: argparse.Namespace, directory: Path) -> int:
    """Measure what was asked for, print each table as soon as it is there, and return the exit code."""
    processes = Processes(directory / "log")
    processes.log.touch()
    bench = Bench(
        directory, processes, options.python, find_codex(), find_node(), options.runs, options.quick
    )
    about = describe(bench)
    print("\n".join(f"{name:8} {text}" for name, text in about.items()), end="\n\n", flush=True)
    results: list[dict[str, object]] = []
    failed = 0
    try:
        for kind in KINDS:
            if options.only and kind.name not in options.only:
                continue
            rows = measure(kind, bench)
            if rows is None:
                failed += 1
                continue
            print(render(kind.title, rows), end="\n\n", flush=True)
            results += as_json(kind.name, rows)
    finally:
        # A second Ctrl-C must not keep the processes from being ended; each end is bounded.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        processes.stop_all()
    if options.json:
        options.json.write_text(json.dumps({"about": about, "rows": results}, indent=1) + "\n")
    return 1 if failed else 0


def main(argv: Sequence[str]) -> int:
    """Run the command; Ctrl-C and SIGTERM end everything that was started."""
    options = parse_options(argv)
    if options.list:
        print("\n".join(f"{kind.name:12} {kind.title}" for kind in KINDS))
        return 0
    # A shell lets its background jobs ignore Ctrl-C; what runs here must be ended all the same.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 16384)), hard))
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as directory:
        try:
            return run(options, Path(directory))
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
