"""Preflight: what must be right before a turn can succeed, looked at in the background and told to whoever asks.

Codex and its version, the protocol that it speaks, its sandbox, its sign-in, and the upstream.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from enum import StrEnum
from typing import Any

from .. import log
from ..adapters.http_client import HttpClient
from ..adapters.process import ChildProcess, Program
from ..errors import UpstreamFailed
from ..limits import CODEX_RECHECK_S, RECHECK_S, UPSTREAM_CHECK_TIMEOUT_S, VERSION_TIMEOUT_S
from ..protocol import codex
from ..values import value
from ..workspace.scratch import keep_scratch, mark_of, remove_scratch
from .backend import Backend
from .device_auth import DeviceAuth
from .sandbox import SandboxCheck


class Status(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"
    UNKNOWN = "unknown"


@value
class Check:
    """One finding: a sentence for a person."""

    name: str
    status: Status
    message: str

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "status": self.status, "message": self.message}


@value
class _Look:
    """A look that is under way or done, and for which backend and which Codex it was begun."""

    task: asyncio.Task[Check]
    begun_at: float
    backend: Backend
    program: Program | None


class Preflight:
    """The findings. `version` is None until the binary has been asked; `backend` returns the one in force."""

    def __init__(
        self,
        command: str | None,
        environ: Mapping[str, str],
        sandbox: SandboxCheck,
        device_auth: DeviceAuth,
        client: HttpClient,
        backend: Callable[[], Backend],
    ) -> None:
        self.command = command
        self.version: str | None = None
        self._environ = environ
        self._sandbox = sandbox
        self._device_auth = device_auth
        self._client = client
        self._backend = backend
        self._directory = ""
        # Each with the seconds for which a good finding is believed, and a bad one.
        self._checks: dict[str, tuple[Callable[[], Coroutine[Any, Any, Check]], float, float]] = {
            "version": (self._check_version, CODEX_RECHECK_S, RECHECK_S),
            "protocol": (self._check_protocol, CODEX_RECHECK_S, RECHECK_S),
            "sandbox": (self._check_sandbox, 0.0, 0.0),
            "sign_in": (self._check_sign_in, 0.0, 0.0),
            "upstream": (self._check_upstream, RECHECK_S, RECHECK_S),
        }
        self._looks: dict[str, _Look] = {}

    def open(self, directory: str) -> None:
        """Use the scratch directory `directory`."""
        self._directory = directory

    def start(self) -> None:
        """Begin to ask for the version, in the background."""
        self._look("version")

    async def examine(self, timeout_s: float) -> list[Check]:
        """Look at everything and wait up to `timeout_s` seconds; what is not known by then is told as unknown."""
        tasks = {name: self._look(name) for name in self._checks}
        await asyncio.wait(tasks.values(), timeout=timeout_s)
        return [self._describe_codex(), *(_finding(name, task) for name, task in tasks.items())]

    def to_json(self, checks: list[Check]) -> dict[str, Any]:
        """Return `preflight` of `/runtime/info`."""
        troubles = [check.message for check in checks if check.status in (Status.FAILED, Status.WARNING)]
        return {
            "ok": not any(check.status is Status.FAILED for check in checks),
            "codex_found": self.command is not None,
            "codex_version": self.version,
            "known_version": self.version is not None and codex.is_known_version(self.version),
            "problem": troubles[0] if troubles else None,
            "checks": [check.to_json() for check in checks],
        }

    async def stop(self) -> None:
        """Give up looking."""
        tasks = [look.task for look in self._looks.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _look(self, name: str) -> asyncio.Task[Check]:
        """Return the look that is under way, or one that is not too old, or begin one."""
        check, good_s, bad_s = self._checks[name]
        now, backend = asyncio.get_running_loop().time(), self._backend()
        program = Program.at(self.command) if self.command is not None else None
        look = self._looks.get(name)
        if look is not None and look.backend is backend and look.program == program:
            if not look.task.done():
                return look.task
            is_good = _finding(name, look.task).status in (Status.OK, Status.SKIPPED)
            if now - look.begun_at < (good_s if is_good else bad_s):
                return look.task
        elif look is not None:
            look.task.cancel()
        task = asyncio.create_task(check(), name=f"check of the {name}")
        self._looks[name] = _Look(task, now, backend, program)
        return task

    def _describe_codex(self) -> Check:
        if self.command is None:
            return Check("codex", Status.FAILED, codex.NOT_FOUND)
        return Check("codex", Status.OK, self.command)

    async def _check_version(self) -> Check:
        check = await self._ask_version()
        if check.status is not Status.OK:
            log.warning("%s", check.message)
        return check

    async def _ask_version(self) -> Check:
        if self.command is None:
            return Check("version", Status.FAILED, codex.NOT_FOUND)
        try:
            output = await self._run([self.command, "--version"])
        except (OSError, TimeoutError) as problem:
            return Check(
                "version", Status.FAILED, f"{self.command} --version failed: {str(problem) or 'no answer'}."
            )
        version = self.version = codex.parse_version(output)
        if version is None:
            return Check(
                "version",
                Status.FAILED,
                f"{self.command} --version does not tell a version; it may not be Codex.",
            )
        oldest = ".".join(map(str, codex.MINIMUM_VERSION))
        if not codex.is_known_version(version):
            message = f"Codex {version} is older than {oldest}, the oldest this bridge was tried with."
            return Check("version", Status.WARNING, message)
        return Check("version", Status.OK, f"Codex {version}; {oldest} or newer is needed.")

    async def _check_protocol(self) -> Check:
        """Compare the protocol that Codex says it speaks with what the bridge says and hears."""
        if self.command is None:
            return Check("protocol", Status.SKIPPED, "There is no Codex to ask.")
        directory = os.path.join(self._directory, f"schema-{os.urandom(4).hex()}")
        try:
            await self._run(codex.schema_arguments(self.command, directory))
            missing = await asyncio.to_thread(codex.find_missing_names, directory)
        except FileNotFoundError:
            return Check("protocol", Status.WARNING, "Codex does not tell its protocol: it wrote no schema.")
        except (OSError, TimeoutError) as problem:
            return Check(
                "protocol",
                Status.WARNING,
                f"Codex does not tell its protocol: {str(problem) or 'no answer'}.",
            )
        finally:
            await asyncio.to_thread(remove_scratch, directory)
        if missing:
            return Check("protocol", Status.FAILED, f"This Codex does not know {', '.join(missing)}.")
        return Check("protocol", Status.OK, f"It knows all {len(codex.NAMES)} names that the bridge uses.")

    async def _check_sandbox(self) -> Check:
        sandbox = self._sandbox
        if not sandbox.is_wanted:
            return Check(
                "sandbox", Status.WARNING, "It is off: CODEX_SANDBOX_MODE=danger-full-access was asked for."
            )
        await sandbox.find_obstacle()
        return Check("sandbox", Status.OK if sandbox.works else Status.FAILED, sandbox.message)

    async def _check_sign_in(self) -> Check:
        auth = self._device_auth
        if not auth.is_used:
            return Check("sign_in", Status.SKIPPED, "Model requests do not use Codex's own sign-in.")
        obstacle = await auth.find_obstacle()
        if obstacle is not None:
            return Check("sign_in", Status.FAILED, obstacle.message)
        if auth.known.account is None:
            problem = auth.known.problem
            message = problem.message if problem else "Codex does not say whether it is signed in."
            return Check("sign_in", Status.UNKNOWN, message)
        return Check("sign_in", Status.OK, "Codex is signed in.")

    async def _check_upstream(self) -> Check:
        upstream = self._backend().route
        if upstream is None:
            return Check(
                "upstream",
                Status.SKIPPED,
                "Codex uses its own service, with its own sign-in.",
            )
        headers = [("Host", upstream.origin.authority), ("Accept", "application/json")]
        if upstream.api_key:
            headers.append(("Authorization", f"Bearer {upstream.api_key}"))
        try:
            async with asyncio.timeout(UPSTREAM_CHECK_TIMEOUT_S):
                target = f"{upstream.path}/models"
                answer = await self._client.request(upstream.origin, "GET", target, tuple(headers), b"")
            answer.close()
        except UpstreamFailed as problem:
            return Check("upstream", Status.FAILED, problem.message)
        except TimeoutError:
            message = f"The upstream {upstream.origin} did not answer within {UPSTREAM_CHECK_TIMEOUT_S:g} s."
            return Check("upstream", Status.FAILED, message)
        status = answer.head.status
        told = f"The upstream {upstream.origin} answered {status} to GET {target}"
        if status in (401, 403):
            return Check("upstream", Status.FAILED, f"{told}: it does not take the key.")
        is_list = status == 200 and not answer.head.headers.get("content-type", "").startswith("text/html")
        if is_list:
            return Check("upstream", Status.OK, f"{told}.")
        return Check("upstream", Status.WARNING, f"{told}, and no list of models; is the base URL right?")

    async def _run(self, arguments: list[str]) -> str:
        """Return what a command prints; raise OSError or TimeoutError."""
        # Not where the bridge was started: that may be a workspace.
        keep_scratch(self._directory)
        child = await ChildProcess.start(
            arguments, self._environ, self._directory, mark=mark_of(self._directory)
        )
        try:
            async with asyncio.timeout(VERSION_TIMEOUT_S):
                return b"".join([chunk async for chunk in child.read_chunks()]).decode(errors="replace")
        finally:
            await child.stop()


def _finding(name: str, task: asyncio.Task[Check]) -> Check:
    """Return what a look has found, or that it has not."""
    if not task.done() or task.cancelled():
        return Check(name, Status.UNKNOWN, "There is no answer yet.")
    problem = task.exception()
    if problem is not None:
        return Check(name, Status.UNKNOWN, f"The look itself failed: {type(problem).__name__}: {problem}.")
    return task.result()
