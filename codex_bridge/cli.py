"""The command line: `serve` (the default), `demo`, `doctor`, `verify`, `version`. Logs on stderr, answers on stdout.

Exit status: 0 success, 1 failure, 2 usage or a setting that cannot be used.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING, Any

from . import __version__
from .errors import ConfigError, StartFailed

if TYPE_CHECKING:
    import argparse


_DESCRIPTION = "A sidecar daemon that puts OpenAI's Codex behind a small REST and SSE surface."
_SERVE_DESCRIPTION = (
    "Run the bridge until SIGTERM or Ctrl-C: then it takes no new work and lets running turns end for "
    "CODEX_BRIDGE_DRAIN_TIMEOUT_MS; a second signal stops them at once. Each setting below is an environment variable, "
    "with its default in brackets; a flag wins over it."
)
# What help says above a setting, the first of its group.
_HEADINGS = {
    "host": "Address and access",
    "runtime_kind": "Codex",
    "workspace_root": "What sessions may do",
    "approval_timeout_ms": "Turns",
    "provider": "The model provider",
    "upstream_connect_timeout_ms": "The way to the provider",
    "device_login_timeout_ms": "Signing in, interrupting, stopping",
    "codex_environment": "Environment and files",
    "keep_sessions": "What is kept",
    "log_level": "Log",
}
# Narrower than most terminals; help is read there.
_HELP_COLUMNS = 96
# What a column of text has where the terminal has no room for it.
_NARROWEST_COLUMN = 30


def main(arguments: list[str] | None = None) -> int:
    """Run the program; return its exit status."""
    if arguments is None:
        arguments = sys.argv[1:]
    _open_standard_files()
    try:
        if arguments in ([], ["serve"]):
            return _serve({})  # nothing to parse: the parser alone would take a tenth of the start
        options = _parser().parse_args(_with_default_command(arguments))
        status = int(options.run(options))
        return status if _is_told() else 1
    except (ConfigError, StartFailed) as problem:
        print(f"codex-bridge: {problem.message}", file=sys.stderr)
        return 2 if isinstance(problem, ConfigError) else 1
    except KeyboardInterrupt:
        return 1
    except OSError:
        if _is_told():
            raise  # it is about something else
        return 1


def _is_told() -> bool:
    """Say whether the answers have reached somebody."""
    try:
        sys.stdout.flush()
    except OSError as problem:
        if not isinstance(problem, BrokenPipeError):
            print(f"codex-bridge: the answer cannot be written: {problem.strerror}", file=sys.stderr)
        # The interpreter must not try once more, and complain, when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _open_standard_files() -> None:
    """Put /dev/null where a standard file is closed: a socket or pipe that took its number would be taken for it."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    # Python has left out what it found closed.
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115


def _serve(flags: dict[str, str]) -> int:
    # Nothing that a start makes is garbage, and looking for it takes a tenth of the start. `daemon.serve`
    # turns the collector on again.
    gc.disable()
    from . import app, config, daemon, log

    loaded = config.load(flags=flags)
    manager = config.load_manager()
    log.set_level(loaded.log_level)
    return 0 if app.run(lambda: daemon.serve(loaded, manager)) else 1


def _demo(options: argparse.Namespace) -> int:
    from .demo import play

    return play.run(_flags(options), color=sys.stdout.isatty(), stay=sys.stdout.isatty() and not options.once)


def _doctor(options: argparse.Namespace) -> int:
    from . import app, config, doctor, log

    loaded = config.load(flags=_flags(options))
    log.set_level("error")  # what is found is told below
    checks = app.run(lambda: doctor.examine(loaded))
    if checks is None:
        return 1
    if options.json:
        import json

        print(json.dumps([check.to_json() for check in checks], indent=2))
    else:
        for check in checks:
            print(f"{check.status:<8} {check.name:<9} {log.printable(check.message)}")
    return 1 if any(check.status in ("failed", "unknown") for check in checks) else 0


def _verify(options: argparse.Namespace) -> int:
    from . import app, config, doctor, log

    loaded = config.load(flags=_flags(options))
    log.set_level("error")  # what is found is told below
    tell = (lambda progress: None) if options.json else _tell_step
    report = app.run(lambda: doctor.verify(loaded, tell))
    if report is None:
        return 1
    if options.json:
        import json

        print(json.dumps(report, indent=2))
    else:
        _tell_verdict(report)
    best = report["best_class"]
    return 0 if best is not None and report["classes"][best]["readiness"] == "verified" else 1


def _tell_step(progress: dict[str, Any]) -> None:
    """Print what a verification begins, where somebody watches, and what it has found."""
    from . import log

    name = progress["step"]
    if progress["status"] == "running":
        if sys.stderr.isatty():
            print(f"{'...':<13}{name}", end="\r", file=sys.stderr, flush=True)
        return
    verdict = progress.get("readiness", progress["status"])
    seconds = f"{progress['duration_ms'] / 1000:.1f} s"
    row = f"{verdict:<13}{name:<14}{seconds:>8}  "
    # A model's words, or an upstream's, must not command the terminal.
    print(row + _fold(log.printable(progress["evidence"]), len(row)), flush=True)


def _fold(text: str, indent: int) -> str:
    """Return a text for the right column of a terminal's table; elsewhere it stays one line."""
    if not sys.stdout.isatty():
        return text
    import shutil
    import textwrap

    columns = max(shutil.get_terminal_size().columns - indent, _NARROWEST_COLUMN)
    lines = textwrap.wrap(text, columns, break_long_words=False, break_on_hyphens=False)
    return f"\n{' ' * indent}".join(lines)


def _tell_verdict(report: dict[str, Any]) -> None:
    best = report["best_class"]
    model = f"{report['model'] or 'the default model'} of {report['provider']}"
    if best is None:
        print(f"\nNo execution class works with {model}: the table says why.")
        return
    print(f"\nThe best execution class for {model} is {best} ({report['classes'][best]['readiness']}).")
    if report["not_kept"] is None:
        print("The next bridge uses it, unless CODEX_EXECUTION_CLASS names another.")
    else:
        print(
            f"This is not kept: {report['not_kept']} POST /runtime/verify makes a bridge find out by itself."
        )


def _version(_: argparse.Namespace) -> int:
    print(f"codex-bridge {__version__}")
    return 0


def _with_default_command(arguments: list[str]) -> list[str]:
    """Return `arguments` with `serve` in front when they name no command."""
    if arguments and (not arguments[0].startswith("-") or arguments[0] in ("-h", "--help", "--version")):
        return arguments
    return ["serve", *arguments]


def _flags(options: argparse.Namespace) -> dict[str, str]:
    from . import config

    names = {setting.field for setting in config.SETTINGS if setting.flag}
    return {name: value for name, value in vars(options).items() if name in names and value is not None}


def _parser() -> argparse.ArgumentParser:
    import argparse
    import textwrap

    from . import config

    parser = argparse.ArgumentParser(
        prog="codex-bridge", description=_DESCRIPTION, epilog="`codex-bridge COMMAND --help` says more."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser(
        "serve",
        help="run the bridge until SIGTERM or Ctrl-C (the default)",
        description=textwrap.fill(_SERVE_DESCRIPTION, _HELP_COLUMNS),
        epilog=_settings_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.set_defaults(run=lambda options: _serve(_flags(options)))
    demo = commands.add_parser(
        "demo",
        help="play one turn with the offline demo model, then stay up",
        description="Start the bridge with an offline demo model and play one turn as a host would. Needs no key and "
        "no account. In a terminal the bridge stays up until Ctrl-C.",
    )
    demo.set_defaults(run=_demo)
    demo.add_argument("--once", action="store_true", help="exit after the turn, also in a terminal")
    doctor = commands.add_parser(
        "doctor",
        help="look whether everything that a turn needs is there and works",
        description="Look for Codex, its version and protocol, try its sandbox and ask the model provider, with the same "
        "environment as serve. Exit status: 0 when nothing failed, 1 when something did or gave no answer.",
    )
    doctor.set_defaults(run=_doctor)
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    verify = commands.add_parser(
        "verify",
        help="try the model provider and the model: which execution class works",
        description="Try the configured provider and model, with the same environment as serve: which APIs it speaks, whether the "
        "model calls tools, and one small edit in a scratch workspace for each execution class: `verified`, it was made; "
        "`experimental`, it was not, but the model speaks the class's way; `unsupported`, neither. Costs about ten model requests. "
        "Exit status: 0 when a class is verified, 1 when none is.",
    )
    verify.set_defaults(run=_verify)
    verify.add_argument("--json", action="store_true", help="print the report as JSON")
    for setting in config.SETTINGS:
        if setting.flag:
            serve.add_argument(setting.flag, dest=setting.field, metavar="VALUE", help=setting.help)
            if setting.field == "port":
                demo.add_argument(setting.flag, dest=setting.field, metavar="VALUE", help=setting.help)
    commands.add_parser("version", help="print the version").set_defaults(run=_version)
    parser.add_argument("--version", action="version", version=f"codex-bridge {__version__}")
    return parser


def _settings_text() -> str:
    """Return the table of settings for a terminal, in groups."""
    import textwrap

    from . import config

    lines: list[str] = []
    for setting in config.SETTINGS:
        if setting.field in _HEADINGS:
            lines += ["", f"{_HEADINGS[setting.field]}:"]
        default = f" [{setting.default}]" if setting.default else ""
        lines.append("  " + " or ".join(setting.variables) + default)
        text = f"{setting.help} Expected: {setting.expected}."
        indent = " " * 6
        lines += textwrap.wrap(
            text, _HELP_COLUMNS, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
        )
    return "\n".join(lines[1:])
