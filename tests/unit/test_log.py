"""Log lines: one line each, no secret, nothing forged."""

import pytest

from codex_bridge import log
from codex_bridge.model import new_id


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_secrets", {})
    monkeypatch.setattr(log, "_threshold", log.LEVELS["info"])


def test_a_secret_is_hidden_in_message_and_values(capsys: pytest.CaptureFixture[str]) -> None:
    log.hide("sk-123456")
    log.info("a sk-123456 b %s c %s", "xsk-123456x", ValueError("sk-123456"))
    line = capsys.readouterr().err
    assert "sk-123456" not in line
    assert line.count("[hidden]") == 3


def test_secrets_that_hold_each_other_leave_no_rest() -> None:
    pairs = [(f"secret-{n}", f"secret-{n}-and-its-long-tail") for n in range(100, 140)]
    for short, long in pairs:
        log.hide(short)
        log.hide(long)
    for _, long in pairs:
        assert log.redact(f"a {long} b") == "a [hidden] b"


def test_a_secret_is_hidden_as_long_as_anybody_holds_it() -> None:
    log.hide("sk-123456")
    log.hide("sk-123456")
    log.forget("sk-123456")
    assert log.redact("sk-123456") == "[hidden]"
    log.forget("sk-123456")
    assert log.redact("sk-123456") == "sk-123456"
    log.forget("sk-123456")
    log.forget(None)


def test_a_token_of_the_gateway_is_known_by_its_shape() -> None:
    token = new_id("gw") + new_id("gw")
    assert log.redact(f"Bearer {token}.") == "Bearer [hidden]."


@pytest.mark.parametrize("secret", [None, ""])
def test_no_secret_hides_nothing(secret: str | None) -> None:
    log.hide(secret)
    assert log.redact("abc") == "abc"


def test_a_short_secret_does_not_blank_out_words() -> None:
    log.hide("a")
    assert log.redact("a cat") == "a cat"


@pytest.mark.parametrize(
    "text",
    ["a\nb", "a\r\nb", "a\x1b[31mb", "a\x00b", "a\u2028b", "a\x85b", "a\udc80b", "tab\tb", "bell\x07"],
)
def test_a_line_stays_one_line_and_plain(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    log.warning("%s", text)
    line = capsys.readouterr().err
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert " warning " in line


def test_a_percent_sign_without_values_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    log.info("100% of %s")
    assert "100% of %s" in capsys.readouterr().err


@pytest.mark.parametrize("level", list(log.LEVELS))
def test_levels(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    log.set_level(level)
    for name in log.LEVELS:
        getattr(log, name)("line of %s", name)
    shown = [line.split()[-1] for line in capsys.readouterr().err.splitlines()]
    assert shown == list(log.LEVELS)[list(log.LEVELS).index(level) :]


def test_values_of_a_hidden_level_are_not_rendered() -> None:
    class Costly:
        def __str__(self) -> str:
            raise AssertionError("rendered for a line that nobody sees")

    log.debug("%s", Costly())


def test_a_closed_stderr_does_not_stop_the_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import sys

    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    log.error("nobody reads this")
