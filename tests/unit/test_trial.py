"""The trial of an execution class: what a model leaves in its workspace does no harm to the bridge that looks at it."""

import os
from pathlib import Path
from typing import Any

from codex_bridge.runtime import Ask, Emit, ExecutionClass, TurnOutcome, TurnRequest, TurnStatus
from codex_bridge.services.trial import Trial
from tests.unit.loop import on_loop

SAID = b"Hello, nobody!\n" * 100


class MakesFifo:
    """A runtime whose model puts a FIFO in the file's place."""

    def __init__(self) -> None:
        self.fifo = -1

    async def run_turn(self, request: TurnRequest, emit: Emit, ask: Ask) -> TurnOutcome:
        path = os.path.join(request.workspace_root, "greeting.txt")
        os.unlink(path)
        os.mkfifo(path)
        # Held open and filled, so that who reads it comes back.
        self.fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        os.write(self.fifo, SAID)
        return TurnOutcome(TurnStatus.COMPLETED)


@on_loop
async def test_a_fifo_in_the_files_place_is_not_read(tmp_path: Path) -> None:
    runtime: Any = MakesFifo()
    trial = Trial(runtime, str(tmp_path), "verify_1", "workspace-write")
    result = await trial.play(ExecutionClass.NATIVE_TOOLS, "demo", None)
    try:
        assert os.read(runtime.fifo, len(SAID) + 1) == SAID
    finally:
        os.close(runtime.fifo)
    assert not result.finding.is_ok
    assert os.listdir(tmp_path) == []
