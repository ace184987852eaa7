"""Proxies: their URLs, what of them may be shown, and which upstream is reached through which."""

import base64

import pytest

from codex_bridge.proxies import Proxy, ProxyRules, parse_proxy, without_password


def basic(credentials: str) -> str:
    return "Basic " + base64.b64encode(credentials.encode()).decode()


@pytest.mark.parametrize(
    ("url", "host", "port", "authorization"),
    [
        ("http://proxy.example:3128", "proxy.example", 3128, None),
        ("http://proxy.example", "proxy.example", 80, None),
        ("HTTP://Proxy.Example:3128/", "proxy.example", 3128, None),
        ("http://10.0.0.1:1", "10.0.0.1", 1, None),
        ("http://[fd00::1]:3128", "fd00::1", 3128, None),
        ("http://@p", "p", 80, None),
        ("http://me:secret@p:1", "p", 1, basic("me:secret")),
        ("http://me@p:1", "p", 1, basic("me:")),
        ("http://:secret@p:1", "p", 1, basic(":secret")),
        ("http://me:a%40b%3Ac%2F%C3%A9@p:1", "p", 1, basic("me:a@b:c/\u00e9")),
        ("http://me:a@b:c@p:1", "p", 1, basic("me:a@b:c")),
        ("http://me:\u00e9@p:1", "p", 1, basic("me:\u00e9")),
    ],
)
def test_a_url(url: str, host: str, port: int, authorization: str | None) -> None:
    proxy = parse_proxy(url)
    assert (proxy.host, proxy.port, proxy.authorization) == (host, port, authorization)


BAD = [
    ("socks5://me:secret@p:1080", "socks5://p:1080"), ("https://me:secret@p", "https://p"), ("p:3128", "p:3128"), ("p", "p"),
    ("http://", "http://"), ("http://me:secret@", "http://"), ("http://p:0", "http://p:0"), ("http://p:65536", "http://p:65536"),
    ("http://p:1/path", "http://p:1/path"), ("http://p q", "http://p q"), ("http://p:", "http://p:[hidden]"),
    ("http://me:secret", "http://me:[hidden]"), ("http://me:12secret", "http://me:[hidden]"), ("me:secret", "me:[hidden]"),
    ("http://me:se/secret@p:1", "http://p:1"), ("http://me:se#secret@p:x", "http://p:[hidden]"),
    ("http://me:sec\nret@p:x\ny", "http://p:[hidden]"), ("http://[::1", "http://[:[hidden]"), ("http://p\u00e9:1", "http://p\u00e9:1"),
    ("http://me:\udcff-secret@p:1", "http://p:1"), ("", ""), ("@", ""),
]  # fmt: skip


@pytest.mark.parametrize(("url", "shown"), BAD)
def test_a_bad_url_and_what_is_shown_of_it(url: str, shown: str) -> None:
    with pytest.raises(ValueError):
        parse_proxy(url)
    assert without_password(url) == shown
    assert "secret" not in shown


def test_no_text_shows_a_password() -> None:
    proxy = parse_proxy("http://me:the%2Dsecret@p:1")
    assert proxy.authorization is not None
    assert set(proxy.secrets) == {"the%2Dsecret", "the-secret", proxy.authorization.removeprefix("Basic ")}
    assert "secret" not in f"{proxy} {proxy!r}"
    assert proxy.authorization not in f"{proxy} {proxy!r}"
    assert str(proxy) == "http://p:1"
    assert str(parse_proxy("http://[fd00::1]:2")) == "http://[fd00::1]:2"


ONE, OTHER = Proxy("one", 1), Proxy("other", 2)


def test_each_scheme_has_its_own_proxy() -> None:
    both = ProxyRules(ONE, OTHER, ())
    assert both.choose("https", "a.example", 443) is ONE
    assert both.choose("http", "a.example", 80) is OTHER
    assert ProxyRules(ONE, None, ()).choose("http", "a.example", 80) is None
    assert ProxyRules(None, OTHER, ()).choose("https", "a.example", 443) is None


def test_the_secrets_of_both_are_told() -> None:
    rules = ProxyRules(parse_proxy("http://a:first@p"), parse_proxy("http://b:second@p"), ())
    assert {"first", "second"} <= set(rules.secrets)
    assert ProxyRules(ONE, None, ()).secrets == ()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.10", "::1", "0:0:0:0:0:0:0:1"])
def test_loopback_is_never_proxied(host: str) -> None:
    assert ProxyRules(ONE, ONE, ()).choose("http", host, 80) is None


@pytest.mark.parametrize(
    "host", ["localhost.example", "127.example", "128.0.0.1", "::2", "host.127", "1.2.3.4.5"]
)
def test_what_only_looks_like_loopback_is_proxied(host: str) -> None:
    assert ProxyRules(ONE, ONE, ()).choose("http", host, 80) is ONE


@pytest.mark.parametrize(
    ("entry", "covered", "others"),
    [
        ("*", ["a.example", "10.0.0.1", "fd00::1"], []),
        ("a.example", ["a.example", "b.a.example", "c.b.a.example"], ["example", "xa.example", "a.example.org"]),
        (".a.example", ["a.example", "b.a.example"], ["xa.example"]),
        ("*.a.example", ["a.example", "b.a.example"], ["xa.example"]),
        ("a.example.", ["a.example"], ["b.example"]),
        ("a.example:81", [], ["a.example"]),
        ("a.example:80", ["a.example", "b.a.example"], []),
        ("*:81", [], ["a.example"]),
        ("10.0.0.1", ["10.0.0.1"], ["10.0.0.2", "110.0.0.1", "x.10.0.0.1.example"]),
        ("0.0.1", [], ["10.0.0.1"]),
        (".1", [], ["10.0.0.1"]),
        ("10.0.0.1:80", ["10.0.0.1"], ["10.0.0.2"]),
        ("10.0.0.1:81", [], ["10.0.0.1"]),
        ("10.0.0.0/8", ["10.0.0.1", "10.255.0.1"], ["11.0.0.1", "a.example"]),
        ("10.1.2.3/8", ["10.0.0.1"], ["11.0.0.1"]),
        ("fd00::1", ["fd00::1", "fd00:0::0:1"], ["fd00::2", "10.0.0.1"]),
        ("[fd00::1]", ["fd00::1"], ["fd00::2"]),
        ("[fd00::1]:80", ["fd00::1"], []),
        ("[fd00::1]:81", [], ["fd00::1"]),
        ("fd00::/16", ["fd00::1"], ["fd01::1", "10.0.0.1"]),
        ("10.0.0.0/99", [], ["10.0.0.1"]),
        ("a.example:99999999999", [], ["a.example"]),
        ("gpu1", ["gpu1", "x.gpu1"], ["gpu11"]),
        (".", [], ["a.example"]),
        ("*.", [], ["a.example"]),
        ("://", [], ["a.example"]),
    ],
)  # fmt: skip
def test_an_entry_of_no_proxy(entry: str, covered: list[str], others: list[str]) -> None:
    rules = ProxyRules(None, ONE, ("first.example", entry, "last.example"))
    assert [host for host in covered if rules.choose("http", host, 80) is not None] == []
    assert [host for host in others if rules.choose("http", host, 80) is None] == []
