"""One `codex app-server` child as a JSON-RPC peer.

Owns the child, the pending calls, and the reading of its lines. When the child ends, every pending call
fails at once with what it said on stderr, and `on_exit` is called once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from .. import __version__, log
from ..adapters.process import ChildProcess
from ..errors import BridgeError, CodexFailed
from ..limits import CALL_TIMEOUT_S, HANDSHAKE_TIMEOUT_S
from ..protocol import codex, codex_requests, json_codec, jsonrpc
from ..workspace.scratch import mark_of

Result = dict[str, Any]
RequestId = int | str
# Takes a server request, to answer it some time, or returns False.
OnRequest = Callable[[RequestId, str, dict[str, Any]], bool]


class AppServerClient:
    """Talks to one child. `on_notification(method, params)` is called for each notification, in order."""

    def __init__(
        self,
        on_notification: Callable[[str, dict[str, Any]], None],
        on_request: OnRequest,
        on_exit: Callable[[CodexFailed], None],
    ) -> None:
        self._on_notification = on_notification
        self._on_request = on_request
        self._on_exit = on_exit
        self._child: ChildProcess | None = None
        self._reader: asyncio.Task[None] | None = None
        self._last_id = 0
        self._pending: dict[int, tuple[asyncio.Future[Result], Callable[[Result], None] | None]] = {}
        self._failure: CodexFailed | None = None
        self.user_agent = ""

    @property
    def is_alive(self) -> bool:
        return self._child is not None and self._failure is None

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    async def start(self, command: str, environ: Mapping[str, str]) -> None:
        """Start the child and shake hands; raise `CodexFailed`."""
        try:
            # Its own directory is writable to commands, and could hold a configuration: it is the scratch directory.
            scratch = environ["TMPDIR"]
            arguments = codex.app_server_arguments(command)
            self._child = await ChildProcess.start(arguments, environ, scratch, mark=mark_of(scratch))
        except OSError as problem:
            raise CodexFailed(
                f"Codex cannot be started from {command}: {problem.strerror}.", code="codex_unavailable"
            ) from None
        self._reader = asyncio.create_task(self._read(self._child), name=f"codex {self._child.pid}")
        try:
            answer = await self.call(
                "initialize", codex.initialize_params(__version__), timeout_s=HANDSHAKE_TIMEOUT_S
            )
        except CodexFailed as problem:
            await self.stop()
            raise CodexFailed(f"Codex did not start: {problem.message}", code="codex_unavailable") from None
        if self._failure is not None:
            raise CodexFailed(f"Codex did not start: {self._failure.message}", code="codex_unavailable")
        self.user_agent = str(answer.get("userAgent", ""))
        self._child.write(jsonrpc.encode_notification("initialized"))

    async def call(
        self,
        method: str,
        params: dict[str, Any],
        *,
        on_result: Callable[[Result], None] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Result:
        """Call a method and return its result; raise `CodexFailed`.

        `on_result` runs before the next line is read: what it registers sees the notifications that follow.
        """
        if self._failure or self._child is None:
            raise self._failure or CodexFailed("Codex is not running.", code="codex_exited")
        self._last_id += 1
        request_id = self._last_id
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._pending[request_id] = (future, on_result)
        self._child.write(jsonrpc.encode_request(request_id, method, params))
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise CodexFailed(
                f"Codex did not answer {method} within {timeout_s:g} s.", code="codex_stuck"
            ) from None
        finally:
            # An answer that comes too late is still told to `on_result`: it may have opened something.
            if on_result is None or (future.done() and not future.cancelled()):
                self._pending.pop(request_id, None)

    def send(self, method: str, params: dict[str, Any]) -> None:
        """Call a method whose answer nobody waits for."""
        if self.is_alive and self._child is not None:
            self._last_id += 1
            self._child.write(jsonrpc.encode_request(self._last_id, method, params))

    def answer(self, request_id: RequestId, result: Result) -> None:
        """Answer a request of the child."""
        if self.is_alive and self._child is not None:
            self._child.write(jsonrpc.encode_result(request_id, result))

    def kill(self) -> None:
        """End a wedged child at once, with its group. What waits for it fails, whoever still holds its pipes."""
        if self._child is not None and self._reader is not None:
            self._child.kill()
            self._reader.cancel()

    async def stop(self) -> None:
        """End the child and its group, and wait for it."""
        if self._child is not None:
            await self._child.stop()
        if self._reader is not None:
            await asyncio.wait([self._reader])

    async def _read(self, child: ChildProcess) -> None:
        splitter = jsonrpc.LineSplitter()
        failure: CodexFailed | None = None
        try:
            async for chunk in child.read_chunks():
                for line in splitter.feed(chunk):
                    self._dispatch(line)
        except CodexFailed as problem:
            failure = problem
        finally:
            status = await child.exit_status()
            # Also one that only closed its output: nobody could speak with it any more.
            child.kill()
            tail = child.stderr_tail
            said = f" It said: {log.redact(tail)[-600:]}" if tail else ""
            self._failure = failure or CodexFailed(f"Codex {status}.{said}", code="codex_exited")
            for future, _ in self._pending.values():
                if not future.done():
                    future.set_exception(self._failure)
            self._on_exit(self._failure)

    def _dispatch(self, line: bytes) -> None:
        """Handle one line. A line that cannot be understood is logged and skipped: the next one may be fine."""
        try:
            message = json_codec.decode(line)
            method = message.get("method")
            if method is None:
                self._settle(message)
            elif "id" in message:
                self._take_request(message["id"], method, message.get("params") or {})
            else:
                self._on_notification(method, message.get("params") or {})
        except (BridgeError, AttributeError, KeyError, TypeError, ValueError, RecursionError) as problem:
            log.warning("skipped a line from Codex (%s: %s): %s", type(problem).__name__, problem, line[:200])

    def _settle(self, message: dict[str, Any]) -> None:
        future, on_result = self._pending.pop(message["id"], (None, None))
        if future is None:
            return
        failure: CodexFailed | None = None
        if "error" in message:
            failure = CodexFailed(str(message["error"].get("message", message["error"])))
        elif on_result is not None:
            try:
                on_result(message["result"])
            except (AttributeError, KeyError, TypeError) as problem:
                failure = CodexFailed(f"Codex's answer cannot be read: {problem!r} is missing or wrong.")
        if future.done():
            return  # it was given up meanwhile
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(message["result"])

    def _take_request(self, request_id: RequestId, method: str, params: dict[str, Any]) -> None:
        """Pass on what Codex asks; say no to what nobody takes or understands: it waits for ever."""
        assert self._child is not None
        try:
            if self._on_request(request_id, method, params):
                return
        except (AttributeError, KeyError, TypeError, ValueError) as problem:
            log.warning("Codex's request %s cannot be read: %r is missing or wrong", method, problem)
        result = codex_requests.encode_refusal(method, params)
        if result is not None:
            self.answer(request_id, result)
        else:
            self._child.write(jsonrpc.encode_error(request_id, -32601, f"{method} is not supported"))
        log.warning("declined Codex's request %s", method)
