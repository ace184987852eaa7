"""The turn service on a real store, as far as no turn is begun."""

import asyncio
from pathlib import Path
from typing import Any, cast

from codex_bridge.errors import Conflict
from codex_bridge.model import Message, Role, new_id, now_ms
from codex_bridge.services.backend import ProviderSettings, resolve_backend
from codex_bridge.services.executor import TurnExecutor
from codex_bridge.services.transcript import Transcript
from codex_bridge.services.turn_player import Prompt
from codex_bridge.services.turns import NewMessage, TurnService, WhenBusy
from codex_bridge.store import sessions as rows
from tests.unit.loop import on_loop
from tests.unit.store import held
from tests.unit.stored import Stored, stored

BACKEND = resolve_backend(ProviderSettings("ollama", None, None, None, "m", "codex_agent"))


def waiting_turns(one: Stored) -> TurnService:
    """Return a service whose turns all wait: it needs nothing that runs one."""
    nobody = cast(Any, None)
    transcript, executor = Transcript(one.recorder), TurnExecutor(0, 9)
    return TurnService(
        one.sessions, executor, nobody, nobody, nobody, transcript, one.recorder, lambda live: BACKEND
    )


@on_loop
async def test_a_session_whose_message_is_being_stored_is_in_use(tmp_path: Path) -> None:
    async with stored(tmp_path) as one:
        [live] = await one.create(1)
        service = waiting_turns(one)
        with held() as hold:
            one.database.post(hold)
            message = NewMessage("x", Prompt("x", (), {}))
            sending = asyncio.create_task(service.submit(live, message, lambda taken, after: ()))
            await asyncio.sleep(0)  # it is on its way
            deleting = asyncio.create_task(service.delete_unused_session(live.session.id))
            await asyncio.sleep(0)
        await asyncio.wait([sending, deleting])
        assert isinstance(deleting.exception(), Conflict)
        assert sending.result().queued
        assert live.session.active_turn_id == sending.result().turn_id
        assert await one.database.read(rows.count()) == 1


@on_loop
async def test_a_message_that_is_overtaken_while_it_is_stored_stays_behind_after_a_restart(
    tmp_path: Path,
) -> None:
    async with stored(tmp_path) as one:
        [live] = await one.create(1)
        service = waiting_turns(one)
        with held() as hold:
            one.database.post(hold)
            sent = [
                asyncio.create_task(
                    service.submit(
                        live,
                        NewMessage(text, Prompt(text, (), {}), (), WhenBusy.QUEUE),
                        lambda taken, after: (),
                    )
                )
                for text in ("first", "second")
            ]
            await asyncio.sleep(0)  # they are on their way
            answer = Message(new_id("m"), Role.ASSISTANT, "answer", "t_before", now_ms())
            Transcript(one.recorder).add_message(live, answer)
        await asyncio.gather(*sent)
        shown = [message.text for message in live.session.messages]
        assert shown == ["answer", "first", "second"]
        session_id = live.session.id
    async with stored(tmp_path) as one:
        live = await one.sessions.get(session_id)
        assert [message.text for message in live.session.messages] == shown
