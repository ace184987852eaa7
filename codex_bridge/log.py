"""Logging: one line each on stderr, never a secret.

Secrets are registered once with `hide` and replaced wherever they would show, so that an error text
from elsewhere cannot leak one either. Lines are built only when their level is shown.
"""

from __future__ import annotations

import re
import sys
import time

from .limits import MIN_SECRET_CHARACTERS

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

_threshold = LEVELS["info"]
# Each secret with the number of those who hold it.
_secrets: dict[str, int] = {}
# The gateway's tokens (services.gateway), known by their shape: there is one for each session.
_TOKEN = re.compile(r"gw_[\w-]{22}gw_[\w-]{22}")


def set_level(name: str) -> None:
    """Show lines of this level and above: debug, info, warning or error."""
    global _threshold
    _threshold = LEVELS[name]


def hide(secret: str | None) -> None:
    """Replace `secret` by `[hidden]` in every later line."""
    if secret and len(secret) >= MIN_SECRET_CHARACTERS:
        _secrets[secret] = _secrets.get(secret, 0) + 1


def forget(secret: str | None) -> None:
    """Take one `hide` back: its holder is gone."""
    if secret in _secrets:
        _secrets[secret] -= 1
        if not _secrets[secret]:
            del _secrets[secret]


def redact(text: str) -> str:
    """Return `text` without the registered secrets."""
    # The longest first: one may be the beginning of another.
    for secret in sorted(_secrets, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, "[hidden]")
    return _TOKEN.sub("[hidden]", text)


def printable(text: str) -> str:
    """Return `text` on one line: a newline or an escape sequence from outside must not forge or colour it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def debug(message: str, *values: object) -> None:
    _write("debug", message, values)


def info(message: str, *values: object) -> None:
    _write("info", message, values)


def warning(message: str, *values: object) -> None:
    _write("warning", message, values)


def error(message: str, *values: object) -> None:
    _write("error", message, values)


def _write(level: str, message: str, values: tuple[object, ...]) -> None:
    if LEVELS[level] < _threshold:
        return
    text = redact(message % values if values else message)
    text = printable(text)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
    try:
        sys.stderr.write(f"{stamp} {level:<7} {text}\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass  # nobody reads stderr any more; the bridge goes on
