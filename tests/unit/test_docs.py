"""The docs say what is there: what the code has and the docs do not tell fails here."""

import re
from pathlib import Path

import pytest

from codex_bridge import __version__, config, errors
from codex_bridge.protocol import codex
from codex_bridge.runtimes.supervisor import TRANSITIONS, State

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "codex_bridge"
API = (ROOT / "docs" / "api.md").read_text()
SOURCES = {path: path.read_text() for path in PACKAGE.rglob("*.py")}
WORDS = {path: set(re.findall(r"\w+", text)) for path, text in SOURCES.items()}
ALL_SOURCE = "\n".join(text for path, text in SOURCES.items() if "demo" not in path.parts)


def found(pattern: str, text: str = ALL_SOURCE) -> set[str]:
    """Return all that the group of `pattern` matches; a pattern that finds nothing is a broken test."""
    names = set(re.findall(pattern, text))
    assert names, pattern
    return names


def test_the_settings_page_is_the_table() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == config.render_settings()


@pytest.mark.parametrize("route", sorted(found(r'Route\("(\w+", "[^"]+)"')))
def test_each_route_is_described(route: str) -> None:
    method, path = route.split('", "')
    assert re.search(rf"`[^`]*{method} {re.escape(path)}[`?, ]", API), f"{method} {path}"


@pytest.mark.parametrize("name", sorted(found(r'"(session\.[a-z.]+|bridge\.stopping)"')))
def test_each_stream_event_is_described(name: str) -> None:
    assert f"`{name}`" in API


def test_each_runtime_event_is_described() -> None:
    types = found(r'"type": "([a-z_]+\.[a-z_.]+|warning)"') | found(r'"((?:item|turn|command)\.[a-z_.]+)"')
    # What a session keeps, and what others send: the gateway to Codex, Codex to the bridge.
    internal = {"usage.updated", "thread.caught_up", "response.failed", "turn.failed", "item.updated"}
    described = {name for name in types if f"`{name}`" in API}
    assert types - internal == described


def test_each_error_code_is_described() -> None:
    codes = found(r'code="([a-z_]+)"') | found(r'    code = "([a-z_]+)"')
    # Never answered: these end the program before it serves, or stand for their subclasses.
    unseen = {"invalid_configuration", "start_failed", "forbidden", "conflict", "unavailable"}
    unseen |= {"store_too_new"}
    assert codes - unseen == {code for code in codes if f"`{code}`" in API}


def test_each_state_of_codex_is_described() -> None:
    assert not [state for state in State if f"`{state}`" not in API]
    architecture = (ROOT / "docs" / "architecture.md").read_text()
    for state, followers in TRANSITIONS.items():
        for follower in followers - {State.STOPPING}:
            lines = re.findall(rf"(?m)^ +{state} +-> .*(?:\n {{20,}}-> .*)*", architecture)
            assert re.search(rf"\b{follower}\b", "\n".join(lines)), f"{state} -> {follower}"


def test_each_error_class_has_a_code_of_its_own() -> None:
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = [kind.code for kind in classes if issubclass(kind, errors.BridgeError)]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize(
    "name", sorted(found(r"(?m)^([A-Z][A-Z_]+) =", (PACKAGE / "limits.py").read_text()) - {"KIB", "MIB"})
)
def test_each_limit_is_used(name: str) -> None:
    users = [path for path, words in WORDS.items() if name in words]
    assert len(users) > 1, f"nothing uses {name}"


def test_the_changelog_knows_this_version() -> None:
    assert f"## {__version__} - " in (ROOT / "CHANGELOG.md").read_text()


def test_links_of_the_papers_lead_somewhere() -> None:
    papers = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    for paper in papers:
        for target in re.findall(r"\]\(([^)#]+)\)", paper.read_text()):
            if "://" not in target:
                assert (paper.parent / target).exists(), f"{paper.name} -> {target}"


def test_the_papers_name_the_oldest_codex() -> None:
    oldest = ".".join(map(str, codex.MINIMUM_VERSION))
    assert oldest in API
