"""Fixtures of the whole suite. See `tests/support` for what stands behind them."""

import gc
import socket
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.bridge import API_KEY, Bridge, Directories, bridge_command
from tests.support.codex import codex_binary
from tests.support.fake_codex import FakeCodex
from tests.support.openai_upstream import OpenAIUpstream
from tests.support.upstream import Upstream

_BRIDGES = pytest.StashKey[list[Bridge]]()

BridgeFactory = Callable[..., Bridge]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the end-to-end tests run against any build of the bridge, and the random ones as long as one likes."""
    parser.addoption(
        "--bridge", default=None, help='command of the bridge, such as "python3 -I -S dist/codex-bridge.pyz"'
    )
    parser.addoption("--kills", type=int, default=8, help="how many random kills test_nothing_is_lost makes")
    parser.addoption("--seed", type=int, default=None, help="the random seed of test_nothing_is_lost")


def pytest_collection_finish() -> None:
    """Let the garbage collector look no more at what is there before the first test.

    Most unit tests have it look for what they left, and thousands of collected tests are a tenth of a second each time.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """Show the bridges' logs with a failure."""
    report: Any = yield
    if report.failed:
        for bridge in item.stash.get(_BRIDGES, []):
            report.sections.append((f"stderr of the bridge {bridge.pid}", "\n".join(bridge.log[-200:])))
    return report


def _serve_upstream() -> Iterator[Upstream]:
    """Run a scripted upstream; a script that raised fails the test."""
    server = Upstream()
    try:
        yield server
    finally:
        server.stop()
    assert not server.errors, server.errors


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    """A scripted upstream."""
    yield from _serve_upstream()


@pytest.fixture
def other_upstream() -> Iterator[Upstream]:
    """A second scripted upstream, to change to."""
    yield from _serve_upstream()


@pytest.fixture(params=["responses", "chat_completions"])
def each_api(request: pytest.FixtureRequest, upstream: Upstream) -> None:
    """Run a test twice: on an upstream with Responses, and on one that has Chat Completions alone."""
    if request.param == "chat_completions":
        upstream.apis = ("/chat/completions",)


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    """The private places of this test's bridge; the workspace is a git repository."""
    places = Directories(tmp_path)
    places.create()
    return places


@pytest.fixture
def workspace(directories: Directories) -> Path:
    """The workspace of this test's bridge."""
    return directories.workspace


def settings_for(base_url: str, overrides: dict[str, object]) -> dict[str, str]:
    """Return a bridge's environment: the scripted upstream, and the real Codex unless another is named."""
    settings: dict[str, object] = {
        "CODEX_RUNTIME_PROVIDER": "openai_compatible",
        "CODEX_PROVIDER_API_BASE_URL": base_url,
        "CODEX_PROVIDER_API_KEY": API_KEY,
        "CODEX_DEFAULT_MODEL": "demo",
        # A test that ends a bridge in mid-turn means it. What a drain is has tests of its own.
        "CODEX_BRIDGE_DRAIN_TIMEOUT_MS": 0,
        **overrides,
    }
    if "CODEX_BIN" not in settings:
        settings["CODEX_BIN"] = codex_binary()
    return {name: str(value) for name, value in settings.items() if value is not None}


@pytest.fixture
def bridge(
    request: pytest.FixtureRequest, upstream: Upstream, directories: Directories
) -> Iterator[BridgeFactory]:
    """A factory of running bridges: `bridge(CODEX_MAX_CONCURRENT_TURNS=2)`. None takes a setting away.

    `sockets` are handed over to it as systemd does.
    """
    command = bridge_command(request.config.getoption("--bridge"))
    started: list[Bridge] = request.node.stash.setdefault(_BRIDGES, [])

    def start(sockets: Sequence[socket.socket] = (), **overrides: object) -> Bridge:
        one = Bridge(command, directories, settings_for(upstream.base_url, overrides), sockets)
        started.append(one)
        one.wait_ready()
        return one

    try:
        yield start
        for one in started:
            if one.is_running:
                one.stop()
    finally:
        for one in started:
            one.discard()


@pytest.fixture
def fake_codex(tmp_path: Path) -> Callable[..., FakeCodex]:
    """A factory of scripted app-servers: `fake_codex(fail_starts=2)`."""

    def make(**options: object) -> FakeCodex:
        return FakeCodex(tmp_path / "fake-codex", options)

    return make


@contextmanager
def turnless_bridge(
    request: pytest.FixtureRequest, root: Path, base_url: str, **overrides: object
) -> Iterator[Bridge]:
    """A bridge for a whole file of tests that never run a turn."""
    places = Directories(root)
    places.create()
    codex = FakeCodex(root / "fake-codex", {}).path
    settings = settings_for(base_url, {"CODEX_BIN": codex, **overrides})
    one = Bridge(bridge_command(request.config.getoption("--bridge")), places, settings)
    try:
        one.wait_ready()
        yield one
        one.stop()
    finally:
        one.discard()


@pytest.fixture(scope="module")
def idle_bridge(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    """One bridge for a whole file of tests that never run a turn."""
    server = Upstream()
    try:
        with turnless_bridge(request, tmp_path_factory.mktemp("idle"), server.base_url) as one:
            yield one
    finally:
        server.stop()


@dataclass(frozen=True, slots=True)
class OpenAIPair:
    """A bridge with a token, and the scripted OpenAI API behind it."""

    bridge: Bridge
    upstream: OpenAIUpstream
    token: str

    @property
    def base_url(self) -> str:
        """What a client of the OpenAI API is given as its base URL."""
        return f"http://127.0.0.1:{self.bridge.port}/v1"


@pytest.fixture(scope="module")
def openai_pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OpenAIPair]:
    """One bridge and its upstream for a whole file of tests; `openai` clears the upstream for each."""
    token = "the-hosts-token-for-the-bridge-52c1"
    server = OpenAIUpstream()
    root = tmp_path_factory.mktemp("openai")
    try:
        with turnless_bridge(request, root, server.base_url, CODEX_BRIDGE_TOKEN=token) as one:
            yield OpenAIPair(one, server, token)
    finally:
        server.stop()


@pytest.fixture
def openai(openai_pair: OpenAIPair) -> Iterator[OpenAIPair]:
    """The pair, for one test. Whatever it does, the upstream may see the provider's key and never the host's."""
    upstream, token = openai_pair.upstream, openai_pair.token
    try:
        yield openai_pair
        for seen in upstream.requests:
            head = f"{seen.method} {seen.target}\n{seen.raw_headers}"
            assert seen.headers["authorization"] == f"Bearer {API_KEY}", head
            assert token not in head
            assert token.encode() not in seen.body, head
        assert not upstream.errors, upstream.errors
    finally:
        upstream.clear()
