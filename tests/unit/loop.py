"""Runs a test's coroutine as the bridge runs: on uvloop when it is installed, on asyncio otherwise."""

import asyncio
import functools
import gc
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

BOUND_S = 20.0
"""How long a test may take at most: a verdict of "never", no measure of speed."""

P = ParamSpec("P")
T = TypeVar("T")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def run(main: Callable[[], Coroutine[Any, Any, T]], bound_s: float = BOUND_S) -> T:
    """Run `main` under the bound; fail on a task it leaves and on an exception that nobody took."""
    troubles: list[dict[str, Any]] = []

    async def bounded() -> T:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: troubles.append(context))
        async with asyncio.timeout(bound_s):
            result = await main()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            _, left = await asyncio.wait(left, timeout=BOUND_S)
        assert not left, f"tasks were left: {left}"
        return result

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        result = runner.run(bounded())
    gc.collect()
    assert not troubles, f"the loop was told of trouble: {troubles}"
    return result


def on_loop(test: Callable[P, Coroutine[Any, Any, None]], bound_s: float = BOUND_S) -> Callable[P, None]:
    """Make a plain test function of a coroutine function."""

    @functools.wraps(test)
    def plain(*args: P.args, **kwargs: P.kwargs) -> None:
        run(lambda: test(*args, **kwargs), bound_s)

    return plain


def on_loop_with_codex(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Do the same for a test in which the real Codex works, which may take long on a busy machine."""
    return on_loop(test, 6 * BOUND_S)
