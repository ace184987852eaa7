"""Configuration: one table of settings, read once from the environment. Nothing else reads `os.environ`.

The table renders its own documentation (`codex-bridge serve --help`, docs/settings.md). A value that cannot
be used raises `ConfigError` with one line that names the variable, the value and what was expected.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .errors import ConfigError
from .limits import MAX_GIVEN_SOCKETS
from .log import LEVELS, printable
from .providers import PROVIDERS, AuthMode, WireApi
from .runtime import ExecutionClass
from .values import value

if TYPE_CHECKING:
    from .proxies import Proxy, ProxyRules

# From the strictest to the loosest: by what a command may touch, and by what runs without a person being asked.
SANDBOX_MODES = ("read-only", "workspace-write", "danger-full-access")
APPROVAL_POLICIES = ("untrusted", "on-request", "never")
RUNTIME_KINDS = ("app_server_adapter", "exec")
PROVIDER_NAMES = tuple(PROVIDERS)
AUTH_MODES = tuple(AuthMode)
EXECUTION_CLASSES = ("auto", *ExecutionClass)
# Which API Codex's model requests are put into; auto asks the provider.
WIRE_APIS = ("auto", *WireApi)

# What Codex and its commands may see of the bridge's environment. Everything else may be a secret.
_PASSED_ON = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TERM", "CODEX_HOME",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "XDG_RUNTIME_DIR", "CODEX_APP_SERVER_LOGIN_ISSUER",
})  # fmt: skip
# Never passed on, whoever asks for it: secrets, and what a service manager says to the bridge alone. A command that
# could speak to the manager's socket could pass for the bridge.
_OWN_VARIABLES = frozenset({
    "CODEX_BRIDGE_TOKEN", "CODEX_PROVIDER_API_KEY", "OPENAI_API_KEY", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET",
    "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES",
})  # fmt: skip
# How directories of the Node.js world call the machines.
_NODE_MACHINES = {"x86_64": "x64", "aarch64": "arm64"}
# Codex itself calls out through these. They may hold a password: `protocol.codex` keeps them from its commands.
_PROXY_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
# Where Codex finds the bridge's gateway.
_NEVER_PROXIED = "127.0.0.1,localhost"
# Where systemd's LoadCredential= puts the token.
_TOKEN_CREDENTIAL = "codex_bridge_token"


@value
class Config:
    """All settings, judged one by one. The fields are those of the table below."""

    host: str
    port: int
    socket: str | None
    token: str | None
    allowed_origins: frozenset[str]
    allowed_hosts: frozenset[str]
    runtime_kind: str
    codex_bin: str | None
    workspace_root: str
    workspace_roots: tuple[str, ...]
    sandbox_mode: str
    approval_policy: str
    approval_timeout_ms: int
    max_concurrent_turns: int
    max_queued_turns: int
    turn_timeout_ms: int
    provider: str
    auth_mode: str | None
    base_url: str | None
    api_key: str | None
    default_model: str | None
    execution_class: str
    wire_api: str
    upstream_connect_timeout_ms: int
    upstream_first_byte_timeout_ms: int
    upstream_idle_timeout_ms: int
    https_proxy: Proxy | None
    http_proxy: Proxy | None
    no_proxy: tuple[str, ...]
    device_login_timeout_ms: int
    drain_timeout_ms: int
    interrupt_grace_ms: int
    shutdown_timeout_ms: int
    codex_environment: tuple[str, ...]
    temporary_directory: str
    state_dir: str
    keep_sessions: int
    keep_days: int
    keep_events: int
    keep_event_days: int
    log_level: str


@value
class Manager:
    """What a service manager such as systemd has told this process: sd_notify(3), sd_listen_fds(3).

    `notify_address` is where it wants to hear; `watchdog_s` how often at least, None when it does not watch;
    `sockets` how many listening sockets it hands over.
    """

    notify_address: str | None = None
    watchdog_s: float | None = None
    sockets: int = 0


Parse = Callable[[str], Any]


@value
class Setting:
    """One row of the table. The first of `variables` that is set counts; `parse` raises ValueError.

    `show` returns what an error may show of the value: of a secret nothing, unless it says otherwise.
    """

    field: str
    variables: tuple[str, ...]
    default: str | None
    expected: str
    help: str
    parse: Parse = str
    flag: str | None = None
    is_secret: bool = False
    show: Callable[[str], str] | None = None


def _whole_number(least: int, most: int) -> Parse:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise ValueError
        return int(text)

    return parse


def _choice(allowed: tuple[str, ...]) -> Parse:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError
        return text

    return parse


def _name_set(text: str) -> frozenset[str]:
    return frozenset(part.strip() for part in text.split(",") if part.strip())


def _origins(text: str) -> frozenset[str]:
    origins = _name_set(text)
    for origin in origins:
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s]+", origin):
            raise ValueError
    return origins


def _credential(text: str) -> str:
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError
    return text


def _variable_names(text: str) -> tuple[str, ...]:
    names = _name_set(text)
    if names & _OWN_VARIABLES:
        raise ValueError
    return tuple(sorted(names))


def _word(text: str) -> str:
    if not text or not text.isprintable() or " " in text:
        raise ValueError
    return text


def _proxy(text: str) -> Proxy:
    from .proxies import parse_proxy  # late, as in all that is for a proxy: few starts need it

    return parse_proxy(text)


def _shown_proxy(text: str) -> str:
    from .proxies import without_password

    return without_password(text)


def _no_proxy(text: str) -> tuple[str, ...]:
    return tuple(text.lower().replace(",", " ").split())


def _directory(text: str) -> str:
    path = os.path.realpath(os.path.expanduser(text))
    if not os.path.isdir(path) or not path.isprintable():
        raise ValueError
    return path


def _directories(text: str) -> tuple[str, ...]:
    return tuple(_directory(part) for part in text.split(os.pathsep) if part)


def _path(text: str) -> str:
    return os.path.realpath(os.path.expanduser(text))


def _which(name: str, path: str | None) -> str | None:
    import shutil  # late: seldom needed, and it takes a start milliseconds

    return shutil.which(name, path=path)


def _executable(text: str) -> str:
    path = _which(os.path.expanduser(text), None)
    if path is None:
        raise ValueError
    return os.path.abspath(path)


_DAY_MS = 24 * 3600 * 1000
_MILLISECONDS = "a number of milliseconds from 1 to 86400000"
_DAYS = "a number of days from 1 to 36500"
_PROXY_URL = "http://[user:password@]host[:port]"

SETTINGS: tuple[Setting, ...] = (
    Setting("host", ("CODEX_BRIDGE_HOST",), "127.0.0.1", "a host name or address",
            "Address to listen on. Anything but loopback needs a token.", _word, flag="--host"),
    Setting("port", ("CODEX_BRIDGE_PORT",), "4399", "a port number from 0 to 65535",
            "Port to listen on; 0 picks a free one.", _whole_number(0, 65535), flag="--port"),
    Setting("socket", ("CODEX_BRIDGE_SOCKET",), None, "a path",
            "Listen on this unix socket instead of a port.", flag="--socket"),
    Setting("token", ("CODEX_BRIDGE_TOKEN",), None, "printable ASCII characters without spaces",
            "Token that every request but GET /health must bring as Authorization: Bearer. Also read from the file "
            "in CODEX_BRIDGE_TOKEN_FILE, or from the systemd credential codex_bridge_token.", is_secret=True),
    Setting("allowed_origins", ("CODEX_BRIDGE_ALLOWED_ORIGINS",), "", "origins such as https://cms.example, by comma",
            "Web pages that may call the bridge from a browser, exact matches.", _origins),
    Setting("allowed_hosts", ("CODEX_BRIDGE_ALLOWED_HOSTS",), "", "host names, by comma",
            "Further names by which clients may call the bridge, such as that of a proxy in front.", _name_set),
    Setting("runtime_kind", ("CODEX_RUNTIME_KIND",), "app_server_adapter", " or ".join(RUNTIME_KINDS),
            "How Codex is driven: one app-server for all turns, or a codex exec for each.", _choice(RUNTIME_KINDS)),
    Setting("codex_bin", ("CODEX_BIN",), None, "the path of an executable file",
            "The Codex program. Default: tools/codex-runtime/<platform>/codex beside the bridge, the Python package "
            "openai-codex-cli-bin, or codex on PATH, whichever comes first.", _executable),
    Setting("workspace_root", ("CODEX_WORKSPACE_ROOT",), ".", "an existing directory",
            "Where sessions work. Default: the working directory.", _directory, flag="--workspace"),
    Setting("workspace_roots", ("CODEX_WORKSPACE_ROOTS",), "", "existing directories, by colon",
            "Directories in which sessions may choose their own workspace_root. Default: CODEX_WORKSPACE_ROOT alone.",
            _directories),
    Setting("sandbox_mode", ("CODEX_SANDBOX_MODE",), "workspace-write", ", ".join(SANDBOX_MODES),
            "What commands of the model may do. danger-full-access runs them without a sandbox. A session may choose a "
            "stricter one.", _choice(SANDBOX_MODES)),
    Setting("approval_policy", ("CODEX_APPROVAL_POLICY",), "on-request", ", ".join(APPROVAL_POLICIES),
            "When a host is asked: untrusted, before every command and every edit; on-request, when the model wants more than "
            "the sandbox gives, or has a question; never. With on-request a session may choose untrusted. With exec nobody can be asked, "
            "and on-request means never.", _choice(APPROVAL_POLICIES)),
    Setting("approval_timeout_ms", ("CODEX_BRIDGE_APPROVAL_TIMEOUT_MS",), "600000", _MILLISECONDS,
            "Time to answer an approval; then it is declined.", _whole_number(1, _DAY_MS)),
    Setting("max_concurrent_turns", ("CODEX_MAX_CONCURRENT_TURNS",), "4", "a whole number from 1 to 1000",
            "Turns that run at once.", _whole_number(1, 1000)),
    Setting("max_queued_turns", ("CODEX_MAX_QUEUED_TURNS",), "40", "a whole number from 0 to 10000",
            "Turns that wait for a slot; the next one is refused with 503.", _whole_number(0, 10_000)),
    Setting("turn_timeout_ms", ("CODEX_CHAT_TURN_TIMEOUT_MS",), "1800000", _MILLISECONDS,
            "Time for one turn; then it is interrupted. Time spent waiting for a person is not counted.", _whole_number(1, _DAY_MS)),
    Setting("provider", ("CODEX_RUNTIME_PROVIDER",), "openai", ", ".join(PROVIDER_NAMES),
            "The kind of model provider.", _choice(PROVIDER_NAMES)),
    Setting("auth_mode", ("CODEX_AUTH_MODE",), None, ", ".join(AUTH_MODES),
            "How the provider is signed in to. Default: api_key where a key is given, else the provider's first mode.",
            _choice(AUTH_MODES)),
    Setting("base_url", ("CODEX_PROVIDER_API_BASE_URL",), None, "http(s)://host[:port][/path]",
            "Base URL of the provider's API. Default: the provider's own, where it has one."),
    Setting("api_key", ("CODEX_PROVIDER_API_KEY", "OPENAI_API_KEY"), None, "printable ASCII characters without spaces",
            "The provider's key. It never leaves the bridge but to the provider.", _credential, is_secret=True),
    Setting("default_model", ("CODEX_DEFAULT_MODEL",), None, "a model name",
            "The model. Default: Codex's own default.", _word),
    Setting("execution_class", ("CODEX_EXECUTION_CLASS",), "auto", " or ".join(EXECUTION_CLASSES),
            "How workspace actions become real: by Codex's own tools, by tool calls of a chat model, or by what a model writes. "
            "auto takes the best that a verification has found, and native_tools before there was one.", _choice(EXECUTION_CLASSES)),
    Setting("wire_api", ("CODEX_PROVIDER_WIRE_API",), "auto", " or ".join(WIRE_APIS),
            "The API by which Codex's model requests reach the provider. With chat_completions they are translated; auto does so where the "
            "provider has no /responses.", _choice(WIRE_APIS)),
    Setting("upstream_connect_timeout_ms", ("CODEX_UPSTREAM_CONNECT_TIMEOUT_MS",), "10000", _MILLISECONDS,
            "Time for a connection to the provider, with TLS and a proxy's tunnel.", _whole_number(1, _DAY_MS)),
    Setting("upstream_first_byte_timeout_ms", ("CODEX_UPSTREAM_FIRST_BYTE_TIMEOUT_MS",), "300000", _MILLISECONDS,
            "Time from a request sent to the first byte of the provider's answer.", _whole_number(1, _DAY_MS)),
    Setting("upstream_idle_timeout_ms", ("CODEX_UPSTREAM_IDLE_TIMEOUT_MS",), "300000", _MILLISECONDS,
            "Silence of the provider in the middle of an answer after which a request fails.", _whole_number(1, _DAY_MS)),
    Setting("https_proxy", ("https_proxy", "HTTPS_PROXY"), None, _PROXY_URL,
            "Proxy for https providers, by a CONNECT tunnel. The user and the password are percent-encoded; the default port is 80.",
            _proxy, is_secret=True, show=_shown_proxy),
    Setting("http_proxy", ("http_proxy", "HTTP_PROXY"), None, _PROXY_URL,
            "Proxy for http providers.", _proxy, is_secret=True, show=_shown_proxy),
    Setting("no_proxy", ("no_proxy", "NO_PROXY"), "", "host names, addresses and networks, by comma",
            "Providers that are reached without a proxy: `example.com` is also all below it, `10.0.0.0/8` a network, `*` all; "
            "each may end in a `:port`. Loopback is never proxied.", _no_proxy),
    Setting("device_login_timeout_ms", ("CODEX_DEVICE_LOGIN_TIMEOUT_MS",), "900000", _MILLISECONDS,
            "Time to enter the code of a sign-in with ChatGPT. Codex itself waits 15 minutes at most.",
            _whole_number(1, _DAY_MS)),
    Setting("drain_timeout_ms", ("CODEX_BRIDGE_DRAIN_TIMEOUT_MS",), "30000", "a number of milliseconds from 0 to 86400000",
            "Time that running turns get to end by themselves when the bridge is told to stop; then they are interrupted.",
            _whole_number(0, _DAY_MS)),
    Setting("interrupt_grace_ms", ("CODEX_BRIDGE_INTERRUPT_GRACE_MS",), "10000", _MILLISECONDS,
            "Time that an interrupted turn gets to end; then its Codex is killed, with what else runs on it.",
            _whole_number(1, _DAY_MS)),
    Setting("shutdown_timeout_ms", ("CODEX_BRIDGE_SHUTDOWN_TIMEOUT_MS",), "10000", _MILLISECONDS,
            "Time that interrupted turns get to end when the bridge stops.", _whole_number(1, _DAY_MS)),
    Setting("codex_environment", ("CODEX_BRIDGE_PASS_ENVIRONMENT",), "", "names of variables that are not for the bridge alone, by comma",
            "Variables that Codex and its commands may see besides PATH, HOME, LANG and their like.",
            _variable_names),
    Setting("temporary_directory", ("TMPDIR",), "/tmp", "an existing directory that can be written",
            "Where the bridge makes its scratch directory for Codex's temporary files.", _directory),
    Setting("state_dir", ("CODEX_BRIDGE_STATE_DIR",), None, "a path",
            "Directory of the bridge's database, one for each bridge. Default: $STATE_DIRECTORY (systemd), else "
            "codex-bridge in $XDG_STATE_HOME, else ~/.local/state/codex-bridge.", _path),
    Setting("keep_sessions", ("CODEX_BRIDGE_KEEP_SESSIONS",), "10000", "a whole number from 1 to 1000000",
            "Sessions that are kept; the idle ones beyond that were used longest ago are deleted.",
            _whole_number(1, 1_000_000)),
    Setting("keep_days", ("CODEX_BRIDGE_KEEP_DAYS",), "90", _DAYS,
            "Days after which a session that nobody used is deleted.", _whole_number(1, 36500)),
    Setting("keep_events", ("CODEX_BRIDGE_KEEP_EVENTS",), "10000", "a whole number from 1 to 10000000",
            "Stream events that are kept of one session, for clients that come back.",
            _whole_number(1, 10_000_000)),
    Setting("keep_event_days", ("CODEX_BRIDGE_KEEP_EVENT_DAYS",), "7", _DAYS,
            "Days for which they are kept; a session's messages and items stay as long as the session.",
            _whole_number(1, 36500)),
    Setting("log_level", ("CODEX_BRIDGE_LOG_LEVEL",), "info", ", ".join(LEVELS),
            "The least important lines to log.", _choice(tuple(LEVELS))),
)  # fmt: skip


def load(environ: Mapping[str, str] = os.environ, flags: Mapping[str, str] | None = None) -> Config:
    """Read all settings; `flags` maps fields to values that override the environment."""
    values = {
        setting.field: _read(setting, environ, (flags or {}).get(setting.field)) for setting in SETTINGS
    }
    values["token"] = _read_token(environ, values["token"])
    root, roots = values["workspace_root"], values["workspace_roots"]
    if roots and not any(root == each or root.startswith(each.rstrip("/") + "/") for each in roots):
        raise ConfigError(
            f"CODEX_WORKSPACE_ROOT={printable(root)}: expected a directory in CODEX_WORKSPACE_ROOTS."
        )
    values["workspace_roots"] = roots or (root,)
    if values["runtime_kind"] == "exec":
        # It would mean less than what was asked for, and nobody would notice.
        if values["approval_policy"] == "untrusted":
            raise ConfigError(
                "CODEX_APPROVAL_POLICY=untrusted: with CODEX_RUNTIME_KIND=exec nobody can be asked; expected never."
            )
        values["approval_policy"] = "never"
    if values["codex_bin"] is None:
        values["codex_bin"] = find_codex(environ)
    if values["state_dir"] is None:
        values["state_dir"] = _default_state_dir(environ)
    return Config(**values)


def load_manager(environ: Mapping[str, str] = os.environ) -> Manager:
    """Read the variables of a service manager. Those that name another process are not meant for this one."""
    address = environ.get("NOTIFY_SOCKET") or None
    if address is not None and (address[0] not in "/@" or len(address) == 1):
        raise ConfigError(
            f"NOTIFY_SOCKET={printable(address)}: expected an absolute path, or an @ and a name."
        )
    us = str(os.getpid())
    watchdog_us = listeners = 0
    if (environ.get("WATCHDOG_PID") or us) == us:
        watchdog_us = _managers_number(environ, "WATCHDOG_USEC", 1000 * _DAY_MS, "microseconds")
    if environ.get("LISTEN_PID") == us:
        listeners = _managers_number(environ, "LISTEN_FDS", MAX_GIVEN_SOCKETS, "sockets")
    return Manager(address, watchdog_us / 1_000_000 or None, listeners)


def _managers_number(environ: Mapping[str, str], name: str, most: int, of_what: str) -> int:
    text = environ.get(name) or "0"
    try:
        return int(_whole_number(0, most)(text))
    except ValueError:
        raise ConfigError(
            f"{name}={printable(text)}: expected a number of {of_what} from 0 to {most}."
        ) from None


def _read(setting: Setting, environ: Mapping[str, str], flag_value: str | None) -> Any:
    """Return the parsed value of one setting. An empty variable counts as not set, as systemd makes them."""
    name, text = setting.flag or "", flag_value
    if text is None:
        name = next((v for v in setting.variables if environ.get(v)), setting.variables[0])
        text = environ.get(name) or setting.default
    if text is None or (text == "" and setting.default is None):
        return None
    try:
        return setting.parse(text)
    except ValueError:
        show = setting.show or (lambda text: "[hidden]" if setting.is_secret else text)
        raise ConfigError(f"{name}={printable(show(text))}: expected {setting.expected}.") from None


def _read_token(environ: Mapping[str, str], token: str | None) -> str | None:
    name = "CODEX_BRIDGE_TOKEN"
    if token is None:
        path = environ.get("CODEX_BRIDGE_TOKEN_FILE")
        credentials = None if path else environ.get("CREDENTIALS_DIRECTORY")
        name = f"CODEX_BRIDGE_TOKEN_FILE={printable(path or '')}"
        if credentials:
            path = os.path.join(credentials, _TOKEN_CREDENTIAL)
            name = printable(path)
        if not path:
            return None
        try:
            with open(path, encoding="utf-8") as file:
                token = file.read().strip()
        except (OSError, UnicodeError) as problem:
            # There may be other credentials alone; one that cannot be read is no such case.
            if credentials and isinstance(problem, FileNotFoundError):
                return None
            reason = getattr(problem, "strerror", None) or "it is not text"
            raise ConfigError(f"{name}: expected a file with the token, but {reason}.") from None
    try:
        return _credential(token)
    except ValueError:
        raise ConfigError(f"{name}: expected printable ASCII characters without spaces.") from None


def _default_state_dir(environ: Mapping[str, str]) -> str:
    # systemd may name several directories; relative XDG paths do not count, says their specification.
    given = (environ.get("STATE_DIRECTORY") or "").partition(":")[0]
    if given:
        return _path(given)
    home = environ.get("XDG_STATE_HOME") or ""
    if not os.path.isabs(home):
        home = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".local", "state")
    return _path(os.path.join(home, "codex-bridge"))


def find_codex(environ: Mapping[str, str]) -> str | None:
    """Return the first Codex there is: beside the bridge, from the Python package, on PATH."""
    # Beside the bridge, and never in the working directory: that may be a workspace, where a model could have
    # put a program of its own.
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if os.path.isfile(here):
        here = os.path.dirname(here)  # the single-file program
    machine = os.uname().machine
    for platform in (f"{sys.platform}-{machine}", f"{sys.platform}-{_NODE_MACHINES.get(machine, machine)}"):
        path = os.path.join(here, "tools", "codex-runtime", platform, "codex")
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    packaged = _packaged_codex()
    return packaged or _which("codex", environ.get("PATH"))


def _packaged_codex() -> str | None:
    # Found without importing: the package lies in one of the import path's directories.
    for base in sys.path:
        path = os.path.join(base, "codex_cli_bin", "bin", "codex")
        if os.access(path, os.X_OK):
            return path
    return None


def proxy_rules(config: Config) -> ProxyRules | None:
    """Return which upstream is reached through which proxy, None where no proxy is set."""
    if config.https_proxy is None and config.http_proxy is None:
        return None
    from .proxies import ProxyRules

    return ProxyRules(config.https_proxy, config.http_proxy, config.no_proxy)


def child_environment(config: Config) -> dict[str, str]:
    """Return the environment for Codex: an allow-list."""
    names = _PASSED_ON | set(config.codex_environment)
    passed = {name: value for name, value in os.environ.items() if name in names or name.startswith("LC_")}
    proxies = {name: os.environ.get(name.lower()) or os.environ.get(name, "") for name in _PROXY_VARIABLES}
    if any(proxies.values()):
        proxies["NO_PROXY"] = ",".join(filter(None, (proxies["NO_PROXY"], _NEVER_PROXIED)))
        for name, value in proxies.items():
            # Both spellings: whichever Codex prefers, it does as the bridge does.
            passed |= {name: value, name.lower(): value} if value else {}
    return passed


_SETTINGS_PAGE = """\
# Settings

Settings come from the environment; a variable that is set but empty counts as not set. Where a flag is named, `codex-bridge serve` takes it
too, and it wins. A value that cannot be used stops the start with one line that names the variable, the value and what was expected.

{table}

`CODEX_HOME` is Codex's own: where it keeps its sign-in and its threads. It is passed on to it, as are `PATH`, `HOME`, `USER`, `LOGNAME`, `SHELL`,
`LANG`, `LC_*`, `TZ`, `TERM`, `SSL_CERT_FILE`, `SSL_CERT_DIR`, `XDG_RUNTIME_DIR` and
`CODEX_APP_SERVER_LOGIN_ISSUER` (where Codex signs in, for tests). The proxy variables (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, in
upper or lower case) are passed on to Codex itself, with loopback in `NO_PROXY`; the commands that it runs find them empty. `ALL_PROXY` is Codex's alone: the
bridge does not go by it.

A service manager such as systemd says in `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` where it wants to hear how the bridge is, and in `LISTEN_FDS` and
`LISTEN_PID` which sockets it has opened, which are served in place of the address above. These are for the bridge alone, as is `CREDENTIALS_DIRECTORY`: Codex never sees them.

TLS is verified with the system's certificates; `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.

This page is written by `python3 -m codex_bridge.config`.
"""


def render_settings() -> str:
    """Return docs/settings.md, the table of settings as Markdown."""
    lines = ["| variable | default | expected | |", "|---|---|---|---|"]
    for setting in SETTINGS:
        names = " or ".join(f"`{name}`" for name in setting.variables)
        flag = f", `{setting.flag}`" if setting.flag else ""
        default = f"`{setting.default}`" if setting.default else ""
        lines.append(f"| {names}{flag} | {default} | {setting.expected} | {setting.help} |")
    return _SETTINGS_PAGE.format(table="\n".join(lines))


if __name__ == "__main__":
    print(render_settings(), end="")
