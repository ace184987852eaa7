"""Upstreams behind a proxy: turns and /v1 reach them, Codex's way to the gateway stays straight, no password shows."""

import json
import os
from collections.abc import Iterator

import pytest

from tests.conftest import BridgeFactory
from tests.e2e.test_secrets import SNOOP, files_with, open_for_writing
from tests.support import processes
from tests.support.any_upstream import AnyUpstream
from tests.support.bridge import API_KEY
from tests.support.proxy import ForwardProxy
from tests.support.tls import Authority
from tests.support.upstream import Upstream, rounds, run, say
from tests.support.waiting import wait_until

USER = "me:pass%40word-9c2e@"
PASSWORDS = ("pass%40word-9c2e", "pass@word-9c2e")
# Nobody listens there: what goes through it fails.
DEAD = "http://me:dead-password-7f@127.0.0.1:9"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def secure(authority: Authority) -> Iterator[AnyUpstream]:
    server = AnyUpstream(authority.server_context("models.test"))
    yield server
    server.stop()


@pytest.fixture
def proxy(upstream: Upstream, secure: AnyUpstream) -> Iterator[ForwardProxy]:
    """A proxy that alone knows the host models.test, and wants a password."""
    hosts = {"models.test:80": upstream.port, "models.test:443": secure.port}
    server = ForwardProxy(hosts, f"me:{PASSWORDS[1]}")
    yield server
    server.stop()


@pytest.mark.codex
def test_a_turn_through_a_proxy(bridge: BridgeFactory, upstream: Upstream, proxy: ForwardProxy) -> None:
    upstream.script = rounds(run(SNOOP, max_output_tokens=100000), say("Done."))
    one = bridge(CODEX_PROVIDER_API_BASE_URL="http://models.test/v1", HTTP_PROXY=proxy.url(USER))
    session_id = one.create_session()
    one.send(session_id, "Tell me your secrets")
    assert one.settled(session_id)["messages"][-1]["text"] == "Done."
    assert set(proxy.targets) == {"POST http://models.test/v1/responses"}
    for request in upstream.requests:
        assert request.headers["host"] == "models.test"
        assert request.headers["authorization"] == f"Bearer {API_KEY}"

    output = str(upstream.requests[-1].outputs)
    assert "snooped" in output
    assert "CODEX_HOME=" in output, "the environment was not printed"
    assert "HTTP_PROXY=" in output, "the variable was not emptied but lost, or never there"
    assert "proxy=http" not in output.lower()
    told = one.get(f"/chat/sessions/{session_id}").body.decode() + one.get("/runtime/info").body.decode()
    one.stop()
    assert not [word for word in PASSWORDS if word in output + told + one.log_text]
    assert not [word for word in PASSWORDS if files_with(word, one.directories.root)]


@pytest.mark.codex
def test_the_gateway_is_not_asked_through_a_proxy(bridge: BridgeFactory, upstream: Upstream) -> None:
    upstream.script = rounds(run("echo hi"), say("Done."))
    one = bridge(**dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), DEAD), NO_PROXY="x.example")
    session_id = one.create_session()
    one.send(session_id, "Go")
    assert one.settled(session_id)["messages"][-1]["text"] == "Done."


@pytest.mark.codex
@pytest.mark.parametrize("mode", ["workspace-write", "read-only"])
def test_codex_knows_the_proxy_and_its_commands_do_not(
    bridge: BridgeFactory, upstream: Upstream, mode: str
) -> None:
    upstream.script = rounds(run("read line < fifo; echo got $line", yield_time_ms=30000), say("Done."))
    one = bridge(https_proxy=DEAD, CODEX_SANDBOX_MODE=mode)
    fifo = one.workspace / "fifo"
    os.mkfifo(fifo)
    session_id = one.create_session()
    one.send(session_id, "Run it")
    writer = wait_until(lambda: open_for_writing(fifo), "the command that reads the FIFO")

    def informed() -> set[int]:
        return {pid for pid in processes.descendants(one.pid) if DEAD.encode() in processes.environ(pid)}

    # The Codex that was asked for its version may still be there.
    wait_until(lambda: informed() == {one.codex_pid()}, "Codex alone to know the proxy")
    assert b"NO_PROXY=127.0.0.1,localhost\0" in processes.environ(one.codex_pid())
    os.write(writer, b"go\n")
    os.close(writer)
    assert one.settled(session_id)["messages"][-1]["text"] == "Done."


def test_https_through_a_tunnel(bridge: BridgeFactory, proxy: ForwardProxy, authority: Authority) -> None:
    one = bridge(
        CODEX_PROVIDER_API_BASE_URL="https://models.test/v1",
        HTTPS_PROXY=proxy.url(USER),
        HTTP_PROXY=DEAD,
        SSL_CERT_FILE=authority.path,
    )
    for _ in range(2):
        seen = one.get("/v1/models").json
        assert (seen["method"], seen["path"]) == ("GET", "/v1/models")
        assert seen["headers"]["authorization"] == f"Bearer {API_KEY}"
        assert not [word for word in PASSWORDS if word in json.dumps(seen)]
        assert "proxy-authorization" not in seen["headers"]
    assert proxy.targets == ["CONNECT models.test:443"]


def test_an_upstream_whose_certificate_nobody_knows(bridge: BridgeFactory, proxy: ForwardProxy) -> None:
    one = bridge(CODEX_PROVIDER_API_BASE_URL="https://models.test/v1", HTTPS_PROXY=proxy.url(USER))
    reply = one.get("/v1/models")
    assert (reply.status, reply.json["code"]) == (502, "upstream_unreachable")
    assert "certificate" in reply.json["error"]


@pytest.mark.codex
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_is_told_from_the_upstream(
    bridge: BridgeFactory, proxy: ForwardProxy, scheme: str
) -> None:
    url = proxy.url("me:wrong-password-1b@")
    one = bridge(CODEX_PROVIDER_API_BASE_URL=f"{scheme}://models.test/v1", HTTP_PROXY=url, HTTPS_PROXY=url)
    reply = one.get("/v1/models")
    assert (reply.status, reply.json["code"]) == (502, "upstream_unreachable")
    session_id = one.create_session()
    one.send(session_id, "Go")
    failed = one.settled(session_id)
    assert failed["last_error_code"] == "upstream_unreachable"
    for told in (reply.json["error"], failed["last_error"]):
        assert told.startswith(
            f"The proxy {proxy.url()} refused to connect to {scheme}://models.test: it answered 407"
        )
    one.stop()
    assert "wrong-password" not in one.log_text + str(reply) + str(failed)


def test_a_proxy_that_is_not_there(bridge: BridgeFactory) -> None:
    one = bridge(CODEX_PROVIDER_API_BASE_URL="https://models.test/v1", HTTPS_PROXY=DEAD)
    reply = one.get("/v1/models")
    assert (reply.status, reply.json["code"]) == (502, "upstream_unreachable")
    assert reply.json["error"].startswith("The proxy http://127.0.0.1:9 cannot be reached: ")
