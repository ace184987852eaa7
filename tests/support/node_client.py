"""OpenAI's Node client as a process: `tests/clients/openai_node.mjs` runs one scenario and prints lines of JSON."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.waiting import BOUND_S

_CLIENTS = Path(__file__).resolve().parents[1] / "clients"


def node_binary() -> str:
    """Return the Node that runs the client; fail when it or the client is not there."""
    node = shutil.which("node")
    assert node, "no node on the PATH: the tests of OpenAI's Node client need Node 20 or newer"
    assert (_CLIENTS / "node_modules" / "openai").is_dir(), f"no Node client: run npm install in {_CLIENTS}"
    return node


class NodeClient:
    """One run of a scenario; `line` reads its results one by one, `rest` those up to its end."""

    def __init__(self, base_url: str, token: str, scenario: str, given: dict[str, Any]) -> None:
        environment = {
            "PATH": os.environ["PATH"], "OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": token,
        }  # fmt: skip
        self._process = subprocess.Popen(
            [node_binary(), str(_CLIENTS / "openai_node.mjs"), scenario, json.dumps(given)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> "NodeClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        with self._process:
            self._process.kill()

    def line(self) -> Any:
        """Return the next result."""
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        return json.loads(text) if text else self.rest()

    def go_on(self) -> None:
        """Let a scenario that waits for it go on."""
        assert self._process.stdin is not None
        self._process.stdin.write("go on\n")
        self._process.stdin.flush()

    def rest(self) -> list[Any]:
        """Return the results up to the end of the scenario, which has to be a good one."""
        said, complaint = self._process.communicate(timeout=4 * BOUND_S)
        assert self._process.returncode == 0, complaint
        return [json.loads(text) for text in said.splitlines()]
