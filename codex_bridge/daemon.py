"""The life of the program: from its start to the signal that ends it, and what a service manager hears of it.

The first SIGINT or SIGTERM drains the bridge: it takes no new work, and what runs may end. A second one, or the end of
the drain's time, interrupts what is left.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
from collections.abc import Awaitable, Callable

from . import __version__, log
from .app import Bridge, as_task
from .config import Config, Manager
from .limits import STATUS_INTERVAL_S, STOP_MARGIN_S


async def serve(
    config: Config, manager: Manager | None = None, during: Callable[[str], Awaitable[bool]] | None = None
) -> bool:
    """Run a bridge until SIGINT or SIGTERM, as `manager` asks for it.

    `during(address)` runs beside it; when it returns False the bridge stops as well, and so does this with
    False.
    """
    manager = manager or Manager()
    signals = _Signals()
    bridge = Bridge(config, _take_sockets(manager))
    reporter = Reporter(manager, bridge.describe_work, lambda: bridge.is_well)
    try:
        addresses = await bridge.start()
        log.info("codex-bridge %s listening on %s", __version__, " and ".join(addresses))
        # What the start made lives as long as the process: the collector need not look at it again.
        gc.freeze()
        gc.enable()
        reporter.enter("Ready", "READY=1")
        goes_on = await _wait(signals.first, during(addresses[0]) if during is not None else None)
        if signals.first.is_set():
            drain_s, stop_s = config.drain_timeout_ms / 1000, 2 * config.shutdown_timeout_ms / 1000
            extension_us = int((drain_s + stop_s + STOP_MARGIN_S) * 1_000_000)
            reporter.enter("Draining", "STOPPING=1", f"EXTEND_TIMEOUT_USEC={extension_us}")
            await _drain(bridge, drain_s, signals)
            reporter.enter("Stopping")
        return goes_on
    finally:
        await bridge.stop()
        reporter.stop()


def _take_sockets(manager: Manager) -> list[socket.socket]:
    if not manager.sockets:
        return []
    from .adapters import systemd  # late, here and below: few starts need it

    return systemd.take_sockets(manager.sockets)


async def _drain(bridge: Bridge, seconds: float, signals: _Signals) -> None:
    """Let what runs end, for `seconds` or until the second signal."""
    draining = asyncio.create_task(bridge.drain(), name="drain")
    hurry = asyncio.create_task(signals.second.wait(), name="second signal")
    if bridge.is_busy:
        work = bridge.describe_work()
        log.warning("draining for up to %g s: %s; %s stops it now", seconds, work, signals.again)
    try:
        await asyncio.wait((draining, hurry), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if draining.done():
            draining.result()
            log.info("drained: %s", bridge.describe_work())
        else:
            why = "the drain is cut short" if hurry.done() else f"the drain's {seconds:g} s are over"
            log.warning("%s: %s", why, bridge.describe_work())
    finally:
        for task in (draining, hurry):
            task.cancel()
        await asyncio.wait((draining, hurry))


class _Signals:
    """SIGINT and SIGTERM. `again` says to a person how to bring about the second."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self.again = ""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._on_signal, "Ctrl-C again")
        loop.add_signal_handler(signal.SIGTERM, self._on_signal, "another SIGTERM")

    def _on_signal(self, again: str) -> None:
        if self.first.is_set():
            self.second.set()
        else:
            self.again = again
            self.first.set()


class Reporter:
    """Tells a service manager how the bridge is. Without one it does nothing.

    `describe_work` says what is under way; while `is_well` says no, the manager's watchdog is not fed.
    """

    def __init__(
        self, manager: Manager, describe_work: Callable[[], str], is_well: Callable[[], bool]
    ) -> None:
        self._manager = manager
        self._describe_work = describe_work
        self._is_well = is_well
        self._phase = ""
        self._status = ""
        self._tasks: list[asyncio.Task[None]] = []

    def enter(self, phase: str, *lines: str) -> None:
        """Tell `lines` and the status, from now on that of a new phase."""
        if self._manager.notify_address is None:
            return
        self._phase = phase
        self._tell(*lines)
        if not self._tasks:
            self._tasks.append(asyncio.create_task(self._follow(), name="status for the manager"))
            if self._manager.watchdog_s is not None:
                # Half of what it asks for: one late ping is no reason to be killed.
                ping = self._ping(self._manager.watchdog_s / 2)
                self._tasks.append(asyncio.create_task(ping, name="watchdog"))

    def stop(self) -> None:
        """Tell nothing more."""
        for task in self._tasks:
            task.cancel()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(STATUS_INTERVAL_S)
            self._tell()

    async def _ping(self, interval_s: float) -> None:
        """Feed the watchdog. That this is reached shows that the event loop turns."""
        while True:
            await asyncio.sleep(interval_s)
            if self._is_well():
                self._notify("WATCHDOG=1")
            else:
                log.error("the bridge is not well; the service manager is not told that it is alive")

    def _tell(self, *lines: str) -> None:
        status = f"{self._phase}: {self._describe_work()}."
        if status != self._status:
            self._status = status
            lines = (*lines, f"STATUS={status}")
        if lines:
            self._notify(*lines)

    def _notify(self, *lines: str) -> None:
        from .adapters import systemd

        assert self._manager.notify_address is not None
        systemd.notify(self._manager.notify_address, *lines)


async def _wait(stopping: asyncio.Event, beside: Awaitable[bool] | None) -> bool:
    """Return True once `stopping` is set, False when `beside` says so before."""
    waited: set[asyncio.Task[bool]] = {asyncio.create_task(stopping.wait(), name="signals")}
    if beside is not None:
        waited.add(asyncio.create_task(as_task(beside), name="beside the bridge"))
    goes_on = True
    try:
        while goes_on and not stopping.is_set():
            done, waited = await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            goes_on = all(task.result() for task in done)
    finally:
        for task in waited:
            task.cancel()
    return goes_on
