"""Blocking work on files, off the event loop.

Each piece has a thread of its own. In the loop's own executor, which has a handful, work that takes long would hold up all others, the
look-up of an upstream's name among them; and one that a hung disk holds for ever would keep the process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from ..errors import Unavailable
from ..limits import BUSY_RETRY_AFTER_S, MAX_THREADS

T = TypeVar("T")


def in_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run `work` in a thread; the future has what it returns or raises. To cancel that does not end the thread.

    Raises `Unavailable` when there are too many: of those that nobody waits for any more, some hang.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return  # whoever waited has left
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as caught:  # noqa: BLE001 - it belongs to who waits for the result
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    try:
        if threading.active_count() >= MAX_THREADS:
            raise RuntimeError(f"{MAX_THREADS} threads run")
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as problem:  # the system's own limit, too
        retry_after = (("Retry-After", str(BUSY_RETRY_AFTER_S)),)
        message = f"The bridge is busy: {problem}; a disk may hang. Try again later."
        raise Unavailable(message, code="busy", headers=retry_after) from None
    return future
