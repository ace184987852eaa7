"""Waits for something another process does, under a bound."""

import time
from collections.abc import Callable
from typing import TypeVar

BOUND_S = 30.0
"""How long a test waits for anything at most. Generous: a verdict of "never", no measure of speed."""

_STEP_S = 0.01

Found = TypeVar("Found")


def wait_until(look: Callable[[], Found | None], what: str, bound_s: float = BOUND_S) -> Found:
    """Return the first truthy answer of `look`; fail with `what` when the bound passes."""
    deadline = time.monotonic() + bound_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not seen within {bound_s:g} s: {what} (last look: {found!r})")
        time.sleep(_STEP_S)
