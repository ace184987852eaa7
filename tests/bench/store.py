"""The store by itself, a program of its own: `python -m tests.bench.store COMMAND PATH ...` prints one JSON line.

It drives the bridge's own database and rows, without the bridge around them: this is the one part of the benchmark
that imports the bridge, in a process of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time

from codex_bridge.adapters.database import Database, Write
from codex_bridge.model import Message, Role, new_id, now_ms
from codex_bridge.protocol import json_codec, sse
from codex_bridge.store import events, items, messages, sessions, turns
from codex_bridge.store.schema import MIGRATIONS

# Sessions whose turns run at once; each posts a chunk when some events have come together.
AT_ONCE = 40
CHUNK_EVENTS = 5
EVENTS_OF_A_TURN = 100
# Turns of different content; more would only take time to make.
SCRIPTS = 200
# Rounds of chunks that may wait before the filler waits for the disk.
ROUNDS = 20


class Words:
    """Texts that deflate about as well as a model's, the same in each run."""

    def __init__(self) -> None:
        self._random = random.Random(4)
        letters = "eeeetttaaooiinnsshhrrddlluucmfwypvbgk"
        common = ["the", "a", "of", "to", "and", "in", "file", "function", "return", "test", "is", "for"] * 50
        rare = ["".join(self._random.choices(letters, k=self._random.randint(2, 9))) for _ in range(3000)]
        self._words = common + rare

    def say(self, count: int) -> str:
        """Return some words."""
        return " ".join(self._random.choices(self._words, k=count))


def session_json(session_id: str, turn_id: str, words: Words) -> dict[str, object]:
    """Return a session as its events carry it, and about as it is stored."""
    message = {"id": new_id("m"), "role": "user", "text": words.say(30), "attachments": []}
    return {
        "id": session_id, "thread_id": f"0198{turn_id}", "status": "running", "mode": "workspace", "context": {},
        "messages": [message | {"created_at": now_ms(), "turn_id": turn_id}], "message_count": 1, "events": [],
        "running": True, "pending_approval": None, "last_error": None, "last_error_code": None, "assistant_draft": "",
        "workspace_root": "/srv/site", "active_turn_id": turn_id, "queue_position": None, "usage": None,
        "runtime": {"runtime_provider": "openai", "default_model": "gpt-5"}, "created_at": now_ms(), "updated_at": now_ms(),
    }  # fmt: skip


def make_turn(words: Words, epoch: str) -> list[bytes]:
    """Return the encoded events of a turn: deltas for the most part, some items, a few sessions."""
    session_id, turn_id, item_id = new_id("s"), new_id("t"), f"msg_{os.urandom(25).hex()}"
    encoded = []
    for seq in range(1, EVENTS_OF_A_TURN + 1):
        name, event = "session.event", {"item_id": item_id, "delta": words.say(random.randint(1, 4))}
        data: dict[str, object] = {"session_id": session_id, "turn_id": turn_id}
        data["event"] = {"type": "item.agent_message.delta"} | event
        if seq % 20 == 5:
            data["event"] = {"type": "item.completed", "item": make_item(words)}
        if seq in (1, 2, EVENTS_OF_A_TURN):
            name, data = "session.running", {"session": session_json(session_id, turn_id, words)}
        encoded.append(sse.encode_event(epoch, seq, name, json_codec.encode(data)))
    return encoded


def make_item(words: Words) -> dict[str, object]:
    """Return a command that ran."""
    return {
        "id": f"call_{os.urandom(12).hex()}", "type": "commandExecution", "command": "/bin/bash -lc 'make test'",
        "cwd": "/srv/site", "status": "completed", "exitCode": 0, "aggregatedOutput": words.say(80),
    }  # fmt: skip


def beginning(key: int, words: Words) -> list[Write]:
    """Return what is stored when a session gets its first message, and at the end of its turn."""
    turn_id, now = new_id("t"), now_ms()
    state = session_json(new_id("s"), turn_id, words)
    request = {"message": words.say(30), "attachments": [], "context": {}}
    question = Message(new_id("m"), Role.USER, words.say(30), turn_id, now)
    answer = Message(new_id("m"), Role.ASSISTANT, words.say(200), turn_id, now)
    return [
        sessions.insert(sessions.SessionRow(key, f"s_{key}", "e1", EVENTS_OF_A_TURN, now, now + key, state)),
        messages.insert(key, 0, question),
        turns.insert(turns.TurnRow(turn_id, key, "queued", request, now)),
        messages.insert(key, 1, answer),
        *(items.insert(key, turn_id, make_item(words), now) for _ in range(5)),
        turns.update(turn_id, "completed", ended_at=now),
    ]


async def fill(path: str, count: int) -> dict[str, float]:
    """Store sessions of a turn each; return the seconds, and those that their events took."""
    words = Words()
    scripts = [make_turn(words, "e1") for _ in range(SCRIPTS)]
    database = Database(path, MIGRATIONS)
    await database.open()
    started = time.perf_counter()
    spent = 0.0
    for base in range(1, count + 1, AT_ONCE):
        keys = range(base, min(base + AT_ONCE, count + 1))
        await database.commit(*(write for key in keys for write in beginning(key, words)), sync=False)
        began = time.perf_counter()
        for first in range(0, EVENTS_OF_A_TURN, CHUNK_EVENTS):
            for key in keys:
                entries = scripts[key % SCRIPTS][first : first + CHUNK_EVENTS]
                database.post(events.insert_chunk(key, "e1", first + 1, entries))
            await database.commit(sync=False)
        await database.commit(sync=False)
        spent += time.perf_counter() - began
    seconds = time.perf_counter() - started
    await database.close()
    return {
        "seconds": seconds,
        "events": count * EVENTS_OF_A_TURN,
        "event_seconds": spent,
        "event_bytes": count * sum(len(entry) for script in scripts for entry in script) / SCRIPTS,
        "bytes": os.stat(path).st_size,
    }


async def commits(path: str, count: int) -> dict[str, list[float]]:
    """Store messages one by one as a 202 waits for it; return the seconds of each, and of a bare fdatasync."""
    words = Words()
    database = Database(path, MIGRATIONS)
    await database.open()
    times: list[float] = []
    events_times: list[float] = []
    bare: list[float] = []
    entries = make_turn(words, "e2")
    key = await database.read(sessions.last_key()) + 1
    await database.commit(*beginning(key, words))
    descriptor = os.open(f"{path}-bare", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for number in range(count):
        writes = beginning(key + 1 + number, words)[:3]
        started = time.perf_counter()
        await database.commit(*writes)
        times.append(time.perf_counter() - started)
        chunk = events.insert_chunk(key, "e2", number + 1, entries[3:4])
        started = time.perf_counter()
        await database.commit(chunk)
        events_times.append(time.perf_counter() - started)
        started = time.perf_counter()
        os.write(descriptor, bytes(4096))
        os.fdatasync(descriptor)
        bare.append(time.perf_counter() - started)
    os.close(descriptor)
    os.unlink(f"{path}-bare")
    await database.close()
    return {"message": times, "event": events_times, "fdatasync": bare}


async def load(path: str, key: int) -> dict[str, float]:
    """Open the database and read a session with what belongs to it; return the seconds of both."""
    started = time.perf_counter()
    database = Database(path, MIGRATIONS)
    await database.open()
    opened = time.perf_counter() - started
    row = await database.read(sessions.select(f"s_{key}"))
    assert row is not None
    found = await database.read(messages.select(row.key))
    newest = await database.read(events.select_newest(row.key, 40))
    loaded = time.perf_counter() - started - opened
    assert len(found) == 2
    assert len(newest) == 40
    await database.close()
    return {"open": opened, "load": loaded}


def main() -> None:
    """Run one command."""
    command, path, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
    run = {"fill": fill, "commits": commits, "load": load}[command]
    print(json.dumps(asyncio.run(run(path, number))))


if __name__ == "__main__":
    main()
