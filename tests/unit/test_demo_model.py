"""The demo's model, as the bridge's look at its provider sees it."""

import asyncio
import json
from urllib.request import ProxyHandler, build_opener

from codex_bridge.demo import model
from tests.unit.loop import BOUND_S, on_loop


@on_loop
async def test_it_lists_itself() -> None:
    server = model.create_server()
    host, port = await server.listen_tcp("127.0.0.1", 0)

    def ask() -> bytes:
        straight = build_opener(ProxyHandler({}))
        with straight.open(f"http://{host}:{port}/v1/models", timeout=BOUND_S) as answer:
            told: bytes = answer.read()
            return told

    try:
        told = json.loads(await asyncio.to_thread(ask))
    finally:
        await server.stop(0)
    assert [row["id"] for row in told["data"]] == [model.MODEL_NAME]
