"""Which proxy a request to an upstream goes through: the meaning of HTTPS_PROXY, HTTP_PROXY and NO_PROXY.

Imported only where one of them is set, as a start without a proxy needs none of it.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field

from .values import value

_URL = re.compile(
    r"http://(?:([^/?#\s]*)@)?(\[[0-9a-f:.]+\]|[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?)(?::([0-9]{1,5}))?/?",
    re.IGNORECASE | re.ASCII,
)
# The same with any scheme or none, for what may be shown of one that cannot be used.
_SHOWN = re.compile(r"([a-z0-9+.-]+://)?(?:.*@)?(\[[^\]]*\]|[^:/]*)(.*)", re.IGNORECASE | re.DOTALL)
_SHOWN_END = re.compile(r"(?::[0-9]{1,5})?(?:/.*)?", re.DOTALL)
# An entry of NO_PROXY: [address]:port, name:port, or what has no port.
_ENTRY = re.compile(r"\[([^\]]+)\](?::([0-9]{1,5}))?|([^:]+):([0-9]{1,5})|(.+)")


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy. `authorization` is what it is sent as Proxy-Authorization, `secrets` are all forms of that."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


def parse_proxy(url: str) -> Proxy:
    """Read `http://[user:password@]host[:port]`, the former percent-encoded; raise ValueError."""
    match = _URL.fullmatch(url)
    port = int(match[3] or 80) if match else 0
    if match is None or not 1 <= port <= 65535:
        raise ValueError
    host = match[2].strip("[]").lower()
    if not match[1]:
        return Proxy(host, port)
    from urllib.parse import unquote_to_bytes

    user, _, password = match[1].partition(":")
    plain = unquote_to_bytes(password)
    credentials = base64.b64encode(unquote_to_bytes(user) + b":" + plain).decode()
    return Proxy(
        host, port, f"Basic {credentials}", (password, plain.decode("utf-8", "replace"), credentials)
    )


def without_password(url: str) -> str:
    """Return what may be shown of a proxy's URL that cannot be used."""
    match = _SHOWN.fullmatch(url)
    assert match is not None  # it matches any text
    scheme, host, end = match.groups()
    # What follows a colon and is no port may be a password whose host was forgotten.
    return (scheme or "") + host + (end if _SHOWN_END.fullmatch(end) else ":[hidden]")


@value
class ProxyRules:
    """The proxies for each scheme, and the entries of NO_PROXY in lower case."""

    https: Proxy | None
    http: Proxy | None
    exempt: tuple[str, ...]

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no log and no answer may show."""
        return tuple(secret for proxy in (self.https, self.http) if proxy for secret in proxy.secrets)

    def choose(self, scheme: str, host: str, port: int) -> Proxy | None:
        """Return the proxy for this address, None when it is reached directly, as loopback always is."""
        proxy = self.https if scheme == "https" else self.http
        if proxy is None or _is_loopback(host) or any(_covers(entry, host, port) for entry in self.exempt):
            return None
        return proxy


def _covers(entry: str, host: str, port: int) -> bool:
    """Say whether an entry of NO_PROXY means this host: `*`, a name and all below it, an address or a network."""
    match = _ENTRY.fullmatch(entry)
    if match is None:
        return False
    name = match[1] or match[3] or match[5]
    entry_port = match[2] or match[4]
    if entry_port and int(entry_port) != port:
        return False
    if name == "*":
        return True
    if _looks_numeric(host):
        return _is_in_network(host, name)
    name = name.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _looks_numeric(host: str) -> bool:
    """Say whether `host` may be an address; a name's last label is seldom a number."""
    return ":" in host or host.rpartition(".")[2].isdigit()


def _is_in_network(host: str, network: str) -> bool:
    import ipaddress  # late: it takes milliseconds, and most upstreams have a name

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    if not _looks_numeric(host):
        return host == "localhost"
    return _is_in_network(host, "127.0.0.0/8") or _is_in_network(host, "::1")
