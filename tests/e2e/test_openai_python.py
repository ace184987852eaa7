"""`/v1/*` under OpenAI's own Python client, against an upstream that answers in the API's shapes."""

import asyncio
import hashlib
import io
import random
from collections.abc import Iterator
from typing import Any

import openai as sdk
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.conftest import BridgeFactory, OpenAIPair
from tests.support.bridge import API_KEY
from tests.support.openai_upstream import MODELS, OpenAIUpstream, embedding_of, words_of
from tests.support.upstream import Failure
from tests.support.waiting import BOUND_S

PROMPT = "Grüße, Zürich 🌍 and a line\nmore"
SAID = "".join(words_of(PROMPT))
ASKED: Any = {"model": MODELS[0], "messages": [{"role": "user", "content": PROMPT}]}


def options(pair: OpenAIPair, **more: Any) -> dict[str, Any]:
    """Return what a client is made with; it tries once unless a test says otherwise."""
    return {"base_url": pair.base_url, "api_key": pair.token, "max_retries": 0, "timeout": BOUND_S, **more}


@pytest.fixture(autouse=True)
def without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client would take this machine's, even to loopback."""
    for name in ("NO_PROXY", "no_proxy"):  # the latter is heeded before the former
        monkeypatch.setenv(name, "127.0.0.1")


@pytest.fixture
def client(openai: OpenAIPair) -> Iterator[OpenAI]:
    with OpenAI(**options(openai)) as one:
        yield one


def some_bytes(count: int) -> bytes:
    """Return bytes without a pattern, the same each time."""
    return random.Random(count).randbytes(count)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == list(MODELS)
    assert client.models.retrieve(MODELS[1]).owned_by == "the-script"


def test_a_chat_completion(client: OpenAI) -> None:
    answer = client.chat.completions.create(**ASKED)
    assert answer.choices[0].message.content == SAID
    assert answer.usage is not None and answer.usage.prompt_tokens == 10


def test_a_streamed_chat_completion_comes_piece_by_piece(client: OpenAI, openai: OpenAIPair) -> None:
    gate = openai.upstream.held = openai.upstream.gate()
    with client.chat.completions.create(**ASKED, stream=True) as stream:
        first = next(stream)  # while the upstream waits at its gate
        gate.wait()
        gate.release()
        pieces = [first.choices[0].delta.content, *(chunk.choices[0].delta.content for chunk in stream)]
    assert [piece for piece in pieces if piece] == words_of(PROMPT)


def test_a_response(client: OpenAI) -> None:
    answer = client.responses.create(model=MODELS[0], input=PROMPT)
    assert (answer.status, answer.output_text) == ("completed", SAID)


def test_a_streamed_response_comes_event_by_event(client: OpenAI, openai: OpenAIPair) -> None:
    gate = openai.upstream.held = openai.upstream.gate()
    with client.responses.stream(model=MODELS[0], input=PROMPT) as stream:
        events = iter(stream)
        assert next(events).type == "response.created"
        gate.wait()
        gate.release()
        said = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert said == words_of(PROMPT)
        assert stream.get_final_response().output_text == SAID


def test_embeddings_in_both_encodings(client: OpenAI, openai: OpenAIPair) -> None:
    texts = [PROMPT, "another"]
    for encoding, more in (("base64", {}), ("float", {"encoding_format": "float"})):
        answer = client.embeddings.create(model=MODELS[2], input=texts, **more)  # type: ignore[arg-type]
        assert [item.embedding for item in answer.data] == [embedding_of(text) for text in texts]
        assert openai.upstream.requests[-1].json["encoding_format"] == encoding


def test_a_large_answer_in_json(client: OpenAI) -> None:
    texts = [str(number) for number in range(300)]
    raw = client.embeddings.with_raw_response.create(model=MODELS[2], input=texts, encoding_format="float")
    assert len(raw.content) > 4_000_000
    assert [item.embedding for item in raw.parse().data] == [embedding_of(text) for text in texts]


@pytest.mark.parametrize("size", [0, 1, 7_000_000])
def test_an_uploaded_file_and_its_content(client: OpenAI, openai: OpenAIPair, size: int) -> None:
    content = some_bytes(size)
    made = client.files.create(file=("Grüße und mehr.bin", io.BytesIO(content)), purpose="assistants")
    assert (made.bytes, made.purpose) == (size, "assistants")
    assert sha256(openai.upstream.files[made.id].content) == sha256(content)
    assert sha256(client.files.content(made.id).read()) == sha256(content)
    with client.files.with_streaming_response.content(made.id) as answer:
        assert sha256(b"".join(answer.iter_bytes(4096))) == sha256(content)


def test_pages_of_files_and_deleting_one(client: OpenAI, openai: OpenAIPair) -> None:
    ids = [client.files.create(file=b"{}", purpose="batch").id for _ in range(7)]
    openai.upstream.requests.clear()
    assert [stored.id for stored in client.files.list(limit=3, order="asc")] == ids
    queries = [seen.query for seen in openai.upstream.requests]
    assert [query.get("after") for query in queries] == [None, ids[2], ids[5]]
    assert all((query["limit"], query["order"]) == ("3", "asc") for query in queries)
    assert client.files.delete(ids[0]).deleted
    with pytest.raises(sdk.NotFoundError, match="No such File object"):
        client.files.retrieve(ids[0])


def test_headers_and_query_of_ones_own(client: OpenAI, openai: OpenAIPair) -> None:
    raw = client.models.with_raw_response.list(
        extra_headers={"X-Mine": "kept", "OpenAI-Project": "proj_1"},
        extra_query={"q": "a b&c", "list": [1, 2]},
    )
    seen = openai.upstream.requests[-1]
    assert raw.headers["x-request-id"] == raw.parse()._request_id == "req_1"
    assert raw.headers["x-ratelimit-remaining-requests"] == "9999"
    assert (seen.headers["x-mine"], seen.headers["openai-project"]) == ("kept", "proj_1")
    assert seen.headers["x-stainless-lang"] == "python"
    assert seen.target == "/v1/models?q=a+b%26c&list%5B%5D=1&list%5B%5D=2"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, sdk.BadRequestError),
        (401, sdk.AuthenticationError),
        (403, sdk.PermissionDeniedError),
        (404, sdk.NotFoundError),
        (409, sdk.ConflictError),
        (422, sdk.UnprocessableEntityError),
        (429, sdk.RateLimitError),
        (500, sdk.InternalServerError),
        (503, sdk.InternalServerError),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_errors_of_the_upstream_are_the_clients_own(
    client: OpenAI, openai: OpenAIPair, status: int, kind: type[sdk.APIStatusError], streamed: bool
) -> None:
    openai.upstream.refuse(Failure(status, f"refused by the script: {status}", "some_code"))
    with pytest.raises(kind, match=f"refused by the script: {status}") as caught:
        client.chat.completions.create(**ASKED, stream=streamed)
    error = caught.value
    assert (type(error), error.status_code, error.code) == (kind, status, "some_code")
    assert error.request_id == "req_1"


def test_a_rate_limit_is_waited_for(openai: OpenAIPair) -> None:
    # Without the header the client waits at most half a second before its second try.
    openai.upstream.refuse(Failure(429, "slow down", headers={"retry-after": "1"}))
    with OpenAI(**options(openai, max_retries=2)) as client:
        assert client.chat.completions.create(**ASKED).choices[0].message.content == SAID
    first, second = openai.upstream.requests
    assert second.at - first.at >= 0.99
    assert first.body == second.body


def test_the_client_tries_again(openai: OpenAIPair) -> None:
    openai.upstream.refuse(Failure(500, "not now", headers={"retry-after-ms": "1"}))
    openai.upstream.refuse(Failure(503, "not yet", headers={"retry-after-ms": "1"}))
    with OpenAI(**options(openai, max_retries=2)) as client:
        assert client.chat.completions.create(**ASKED).choices[0].message.content == SAID
    tries = [seen.headers["x-stainless-retry-count"] for seen in openai.upstream.requests]
    assert tries == ["0", "1", "2"]


def test_an_answer_that_says_not_to_try_again(openai: OpenAIPair) -> None:
    openai.upstream.refuse(Failure(500, "never", headers={"x-should-retry": "false"}))
    with OpenAI(**options(openai, max_retries=2)) as client, pytest.raises(sdk.InternalServerError):
        client.models.list()
    assert len(openai.upstream.requests) == 1


def test_a_stream_that_is_left_stops_the_upstream(client: OpenAI, openai: OpenAIPair) -> None:
    gate = openai.upstream.held = openai.upstream.gate()
    stream = client.chat.completions.create(**ASKED, stream=True)
    next(stream)
    gate.wait()
    stream.close()
    assert openai.upstream.requests[0].abandoned.wait(BOUND_S)


def test_a_client_that_runs_out_of_time_stops_the_upstream(openai: OpenAIPair) -> None:
    gate = openai.upstream.held_head = openai.upstream.gate()
    with OpenAI(**options(openai, timeout=4)) as client, pytest.raises(sdk.APITimeoutError):
        client.chat.completions.create(**ASKED)
    gate.wait()
    assert openai.upstream.requests[0].abandoned.wait(BOUND_S)


def test_a_stream_that_breaks_off_does_not_look_whole(client: OpenAI, openai: OpenAIPair) -> None:
    openai.upstream.cuts_streams = True
    stream = client.chat.completions.create(**ASKED, stream=True)
    with pytest.raises(sdk.APIConnectionError):
        list(stream)


def test_many_requests_at_once_of_the_async_client(openai: OpenAIPair) -> None:
    async def ask(client: AsyncOpenAI, number: int) -> str:
        asked: Any = {"model": MODELS[0], "messages": [{"role": "user", "content": f"number {number}"}]}
        if number % 2:
            return (await client.chat.completions.create(**asked)).choices[0].message.content or ""
        stream = await client.chat.completions.create(**asked, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def ask_all() -> list[str]:
        async with AsyncOpenAI(**options(openai)) as client:
            return await asyncio.gather(*(ask(client, number) for number in range(100)))

    assert asyncio.run(ask_all()) == ["".join(words_of(f"number {number}")) for number in range(100)]


def test_a_cancelled_task_of_the_async_client_stops_the_upstream(openai: OpenAIPair) -> None:
    gate = openai.upstream.held = openai.upstream.gate()

    async def leave() -> None:
        async with AsyncOpenAI(**options(openai)) as client:
            first = asyncio.Event()

            async def read() -> None:
                async for _ in await client.responses.create(model=MODELS[0], input=PROMPT, stream=True):
                    first.set()

            reading = asyncio.create_task(read())
            await first.wait()
            reading.cancel()
            await asyncio.wait([reading])
            assert reading.cancelled()

    asyncio.run(leave())
    gate.wait()
    assert openai.upstream.requests[0].abandoned.wait(BOUND_S)


def test_a_wrong_token_is_refused_by_the_bridge(openai: OpenAIPair) -> None:
    refused = pytest.raises(sdk.AuthenticationError, match="This bridge needs its token")
    with OpenAI(**options(openai, api_key=API_KEY)) as client, refused as caught:
        client.models.list()
    assert caught.value.code == "unauthorized"
    assert openai.upstream.requests == []


@pytest.fixture
def bare() -> Iterator[OpenAIUpstream]:
    server = OpenAIUpstream()
    yield server
    server.stop()


def test_without_a_token_any_key_of_the_client_does(bridge: BridgeFactory, bare: OpenAIUpstream) -> None:
    one = bridge(CODEX_PROVIDER_API_BASE_URL=bare.base_url)
    with OpenAI(base_url=f"http://127.0.0.1:{one.port}/v1", api_key="whatever-it-likes") as client:
        assert len(list(client.models.list())) == len(MODELS)
    assert "whatever-it-likes" not in bare.requests[0].raw_headers


def test_a_provider_without_a_key_is_sent_none(bridge: BridgeFactory, bare: OpenAIUpstream) -> None:
    bare.expected_authorization = None
    one = bridge(
        CODEX_RUNTIME_PROVIDER="ollama",
        CODEX_PROVIDER_API_BASE_URL=bare.base_url,
        CODEX_PROVIDER_API_KEY=None,
    )
    with OpenAI(base_url=f"http://127.0.0.1:{one.port}/v1", api_key="ollama") as client:
        assert client.chat.completions.create(**ASKED).choices[0].message.content == SAID
    assert "ollama" not in bare.requests[0].raw_headers


def test_an_upstream_that_is_not_there_is_told_by_name(bridge: BridgeFactory) -> None:
    one = bridge(CODEX_PROVIDER_API_BASE_URL="http://127.0.0.1:9/v1")
    client = OpenAI(base_url=f"http://127.0.0.1:{one.port}/v1", api_key="x", max_retries=0)
    refused = pytest.raises(sdk.InternalServerError, match=r"127\.0\.0\.1:9 cannot be reached")
    with client, refused as caught:
        client.models.list()
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_unreachable")
