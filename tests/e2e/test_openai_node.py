"""`/v1/*` under OpenAI's own Node client, against an upstream that answers in the API's shapes."""

import hashlib
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import OpenAIPair
from tests.support.node_client import NodeClient
from tests.support.openai_upstream import MODELS, embedding_of, words_of
from tests.support.upstream import Failure
from tests.support.waiting import BOUND_S

PROMPT = "Grüße, Zürich 🌍 and a line\nmore"
SAID = "".join(words_of(PROMPT))
Start = Callable[..., NodeClient]


@pytest.fixture
def start(openai: OpenAIPair) -> Iterator[Start]:
    """A factory of running scenarios: `start("chat", retries=2)`."""
    with ExitStack() as stack:

        def make(scenario: str, token: str = openai.token, **given: Any) -> NodeClient:
            given = {"model": MODELS[0], "prompt": PROMPT, **given}
            return stack.enter_context(NodeClient(openai.base_url, token, scenario, given))

        yield make


def test_models(start: Start) -> None:
    assert start("models").rest() == [list(MODELS), "the-script"]


@pytest.mark.parametrize("scenario", ["chat", "response"])
def test_an_answer(start: Start, scenario: str) -> None:
    assert start(scenario).rest() == [SAID]


def test_a_streamed_chat_completion_comes_piece_by_piece(start: Start, openai: OpenAIPair) -> None:
    gate = openai.upstream.held = openai.upstream.gate()
    client = start("chatStream")
    assert client.line() == "first"  # while the upstream waits at its gate
    gate.wait()
    gate.release()
    client.go_on()
    assert client.rest() == [words_of(PROMPT)]


def test_a_streamed_response_comes_event_by_event(start: Start, openai: OpenAIPair) -> None:
    gate = openai.upstream.held = openai.upstream.gate()
    client = start("responseStream")
    assert client.line() == "response.created"
    gate.wait()
    gate.release()
    client.go_on()
    assert client.rest() == [words_of(PROMPT), SAID]


def test_embeddings_in_both_encodings(start: Start, openai: OpenAIPair) -> None:
    texts = [PROMPT, "another"]
    vectors = [embedding_of(text) for text in texts]
    assert start("embeddings", texts=texts).rest() == [vectors, vectors]
    assert [seen.json["encoding_format"] for seen in openai.upstream.requests] == ["base64", "float"]


def test_a_large_answer_in_json(start: Start) -> None:
    texts = [str(number) for number in range(300)]
    vectors = [embedding_of(text) for text in texts]
    assert start("embeddings", texts=texts).rest() == [vectors, vectors]


@pytest.mark.parametrize("size", [1, 7_000_000])
def test_an_uploaded_file_and_its_content(
    start: Start, openai: OpenAIPair, tmp_path: Path, size: int
) -> None:
    content = random.Random(size).randbytes(size)
    path = tmp_path / "upload.bin"
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    results = start("upload", path=str(path)).rest()
    assert [(made["bytes"], made["sha256"]) for made in results] == [(size, digest)] * 2
    stored = openai.upstream.files
    assert [hashlib.sha256(stored[made["id"]].content).hexdigest() for made in results] == [digest] * 2


def test_pages_of_files_and_deleting_one(start: Start, openai: OpenAIPair) -> None:
    ids, listed, is_deleted, error = start("pages").rest()
    assert (listed, is_deleted, error["kind"]) == (ids, True, "NotFoundError")
    queries = [seen.query for seen in openai.upstream.requests if seen.query]
    assert [query.get("after") for query in queries] == [None, ids[2], ids[5]]


def test_headers_and_query_of_ones_own(start: Start, openai: OpenAIPair) -> None:
    assert start("headers").rest() == [{"request_id": "req_1", "remaining": "9999"}]
    seen = openai.upstream.requests[0]
    assert (seen.headers["x-mine"], seen.query) == ("kept", {"q": "a b&c"})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "BadRequestError"),
        (401, "AuthenticationError"),
        (404, "NotFoundError"),
        (422, "UnprocessableEntityError"),
        (429, "RateLimitError"),
        (500, "InternalServerError"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_of_the_upstream_are_the_clients_own(
    start: Start, openai: OpenAIPair, status: int, kind: str, stream: bool
) -> None:
    openai.upstream.refuse(Failure(status, "refused by the script", "some_code"))
    assert start("failing", stream=stream).rest() == [
        {
            "kind": kind, "is_its_own": True, "status": status, "code": "some_code",
            "message": f"{status} refused by the script", "requestID": "req_1",
        }
    ]  # fmt: skip


def test_a_rate_limit_is_waited_for(start: Start, openai: OpenAIPair) -> None:
    # Without the header the client waits at most half a second before its second try.
    openai.upstream.refuse(Failure(429, "slow down", headers={"retry-after": "1"}))
    assert start("chat", retries=2).rest() == [SAID]
    first, second = openai.upstream.requests
    assert second.at - first.at >= 0.99
    assert first.body == second.body


def test_the_client_tries_again(start: Start, openai: OpenAIPair) -> None:
    openai.upstream.refuse(Failure(500, "not now", headers={"retry-after-ms": "1"}), times=2)
    assert start("chat", retries=2).rest() == [SAID]
    assert [seen.headers["x-stainless-retry-count"] for seen in openai.upstream.requests] == ["0", "1", "2"]


def test_a_stream_that_is_aborted_stops_the_upstream(start: Start, openai: OpenAIPair) -> None:
    gate = openai.upstream.held = openai.upstream.gate()
    client = start("abort")
    assert client.line() == words_of(PROMPT)[0]
    gate.wait()
    client.go_on()
    assert openai.upstream.requests[0].abandoned.wait(BOUND_S)
    assert client.rest() == []


def test_a_client_that_runs_out_of_time_stops_the_upstream(start: Start, openai: OpenAIPair) -> None:
    gate = openai.upstream.held_head = openai.upstream.gate()
    (error,) = start("failing", timeout=4000).rest()
    assert error["kind"] == "APIConnectionTimeoutError"
    gate.wait()
    assert openai.upstream.requests[0].abandoned.wait(BOUND_S)


def test_a_stream_that_breaks_off_does_not_look_whole(start: Start, openai: OpenAIPair) -> None:
    openai.upstream.cuts_streams = True
    (error,) = start("cutStream").rest()
    assert "kind" in error


def test_many_requests_at_once(start: Start) -> None:
    assert start("many", count=100).rest() == [["".join(words_of(f"number {n}")) for n in range(100)]]


def test_a_wrong_token_is_refused_by_the_bridge(start: Start, openai: OpenAIPair) -> None:
    (error,) = start("failing", token="not-the-token").rest()
    assert (error["kind"], error["code"]) == ("AuthenticationError", "unauthorized")
    assert "This bridge needs its token" in error["message"]
    assert openai.upstream.requests == []
