"""Configuration: each setting by default, by a good and by a bad value; no secret shown; the table is complete."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

from codex_bridge import config
from codex_bridge.config import SETTINGS, Config, Setting
from codex_bridge.errors import ConfigError, InvalidField
from codex_bridge.proxies import Proxy
from codex_bridge.workspace.paths import WorkspaceRoots, is_inside

REPOSITORY = Path(__file__).resolve().parents[2]
BY_FIELD = {setting.field: setting for setting in SETTINGS}

DEFAULTS: dict[str, Any] = {
    "host": "127.0.0.1", "port": 4399, "socket": None, "token": None, "allowed_origins": frozenset(),
    "allowed_hosts": frozenset(), "runtime_kind": "app_server_adapter", "sandbox_mode": "workspace-write",
    "max_concurrent_turns": 4, "max_queued_turns": 40, "turn_timeout_ms": 1_800_000, "provider": "openai",
    "auth_mode": None, "base_url": None, "api_key": None, "default_model": None, "execution_class": "auto", "wire_api": "auto", "upstream_connect_timeout_ms": 10_000,
    "upstream_first_byte_timeout_ms": 300_000, "upstream_idle_timeout_ms": 300_000, "https_proxy": None, "http_proxy": None,
    "no_proxy": (), "drain_timeout_ms": 30_000, "shutdown_timeout_ms": 10_000, "interrupt_grace_ms": 10_000, "device_login_timeout_ms": 900_000, "codex_environment": (), "log_level": "info",
    "keep_sessions": 10_000, "keep_days": 90, "keep_events": 10_000, "keep_event_days": 7,
    "approval_policy": "on-request", "approval_timeout_ms": 600_000,
}  # fmt: skip
# These depend on the machine and have tests of their own.
ELSEWHERE = {"codex_bin", "workspace_root", "workspace_roots", "temporary_directory", "state_dir"}

GOOD: list[tuple[str, str, Any]] = [
    ("host", "0.0.0.0", "0.0.0.0"), ("host", "::1", "::1"), ("port", "0", 0), ("port", "65535", 65535),
    ("socket", "/run/x.sock", "/run/x.sock"), ("token", "0123456789abcdef", "0123456789abcdef"),
    ("allowed_origins", "https://a.example, http://b:1,,", frozenset({"https://a.example", "http://b:1"})),
    ("allowed_origins", "vscode-webview://abc", frozenset({"vscode-webview://abc"})),
    ("allowed_hosts", "a.example,b", frozenset({"a.example", "b"})), ("runtime_kind", "app_server_adapter", "app_server_adapter"),
    ("runtime_kind", "exec", "exec"),
    ("sandbox_mode", "read-only", "read-only"), ("sandbox_mode", "danger-full-access", "danger-full-access"),
    ("max_concurrent_turns", "1", 1), ("max_concurrent_turns", "1000", 1000), ("max_queued_turns", "0", 0),
    ("turn_timeout_ms", "1", 1), ("turn_timeout_ms", "86400000", 86_400_000), ("provider", "vllm", "vllm"),
    ("auth_mode", "none", "none"), ("base_url", "http://h/v1", "http://h/v1"), ("api_key", "sk-1", "sk-1"),
    ("default_model", "m", "m"), ("execution_class", "model_tools", "model_tools"), ("wire_api", "responses", "responses"), ("upstream_connect_timeout_ms", "5", 5), ("upstream_idle_timeout_ms", "6", 6),
    ("upstream_first_byte_timeout_ms", "7", 7), ("https_proxy", "http://p:1", Proxy("p", 1)), ("http_proxy", "http://p", Proxy("p", 80)),
    ("no_proxy", " A.example,.b  10.0.0.0/8,", ("a.example", ".b", "10.0.0.0/8")),
    ("drain_timeout_ms", "0", 0), ("drain_timeout_ms", "86400000", 86_400_000), ("shutdown_timeout_ms", "7", 7), ("interrupt_grace_ms", "9", 9), ("device_login_timeout_ms", "8", 8), ("codex_environment", "B, A,B", ("A", "B")), ("log_level", "debug", "debug"),
    ("keep_sessions", "1", 1), ("keep_days", "36500", 36500), ("keep_events", "10000000", 10_000_000), ("keep_event_days", "1", 1),
    ("approval_policy", "untrusted", "untrusted"), ("approval_policy", "never", "never"), ("approval_timeout_ms", "1", 1),
]  # fmt: skip

BAD = [
    ("port", "abc"), ("port", "-1"), ("port", "65536"), ("port", "+1"), ("port", "1.0"), ("port", " 1"), ("port", "\u0661"),
    ("port", "1_000"), ("port", "9" * 5000), ("allowed_origins", "*"), ("allowed_origins", "a.example"),
    ("allowed_origins", "https://a/"), ("allowed_origins", "https://a/b"), ("allowed_origins", "https://a, nonsense"),
    ("allowed_origins", "null"), ("runtime_kind", "other"), ("codex_bin", "/nonexistent/codex"), ("codex_bin", "/"),
    ("workspace_root", "/nonexistent"), ("workspace_root", "/etc/hostname"), ("workspace_roots", "/tmp:/nonexistent"),
    ("sandbox_mode", "Read-Only"), ("sandbox_mode", "none"), ("max_concurrent_turns", "0"), ("max_concurrent_turns", "1001"),
    ("max_queued_turns", "-1"), ("max_queued_turns", "10001"), ("turn_timeout_ms", "0"), ("turn_timeout_ms", "86400001"),
    ("turn_timeout_ms", "30s"), ("provider", "OpenAI"), ("auth_mode", "key"), ("execution_class", "best"), ("wire_api", "chat"), ("upstream_connect_timeout_ms", "0"),
    ("upstream_idle_timeout_ms", "x"), ("upstream_first_byte_timeout_ms", "0"), ("https_proxy", "socks5h://p:1080"),
    ("https_proxy", "p:3128"), ("http_proxy", "https://p:3128"), ("http_proxy", "http://p:0"), ("drain_timeout_ms", "-1"), ("drain_timeout_ms", "86400001"), ("shutdown_timeout_ms", """ """), ("interrupt_grace_ms", "0"), ("device_login_timeout_ms", "0"), ("temporary_directory", "/nonexistent"),
    ("log_level", "verbose"), ("log_level", "INFO"),
    ("keep_sessions", "0"), ("keep_days", "0"), ("keep_events", "0"), ("keep_event_days", "36501"),
    ("approval_policy", "on-failure"), ("approval_policy", "onRequest"), ("approval_timeout_ms", "0"),
]  # fmt: skip


def load(**variables: str) -> Config:
    return config.load({"PATH": os.environ["PATH"], **variables})


def variable(field: str) -> str:
    return BY_FIELD[field].variables[0]


def test_exec_asks_nobody() -> None:
    assert load(CODEX_RUNTIME_KIND="exec").approval_policy == "never"
    assert load(CODEX_RUNTIME_KIND="exec", CODEX_APPROVAL_POLICY="on-request").approval_policy == "never"
    with pytest.raises(ConfigError) as caught:
        load(CODEX_RUNTIME_KIND="exec", CODEX_APPROVAL_POLICY="untrusted")
    assert "CODEX_APPROVAL_POLICY=untrusted" in caught.value.message


def test_every_field_has_one_row_and_every_row_a_field() -> None:
    assert [setting.field for setting in SETTINGS] == list(Config.__match_args__)
    names = [name for setting in SETTINGS for name in setting.variables]
    assert len(names) == len(set(names))


def test_every_field_is_tried_here() -> None:
    fields = {setting.field for setting in SETTINGS}
    assert set(DEFAULTS) | ELSEWHERE == fields
    assert {field for field, _, _ in GOOD} | ELSEWHERE == fields
    # What has no row here takes any text, or is judged where it is used.
    any_text = {
        "host",
        "socket",
        "token",
        "allowed_hosts",
        "base_url",
        "api_key",
        "default_model",
        "codex_environment",
        "no_proxy",
        "state_dir",
    }
    assert {field for field, _ in BAD} == fields - any_text


@pytest.mark.parametrize("field", DEFAULTS)
def test_a_default(field: str) -> None:
    assert getattr(load(), field) == DEFAULTS[field]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.field)
def test_an_empty_variable_counts_as_not_set(setting: Setting) -> None:
    assert load(**dict.fromkeys(setting.variables, "")) == load()


@pytest.mark.parametrize(("field", "text", "value"), GOOD)
def test_a_good_value(field: str, text: str, value: Any) -> None:
    assert getattr(load(**{variable(field): text}), field) == value


@pytest.mark.parametrize(("field", "text"), BAD)
def test_a_bad_value_is_told_in_one_line(field: str, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**{variable(field): text})
    message = caught.value.message
    assert message.startswith(f"{variable(field)}={text}: expected ")
    assert BY_FIELD[field].expected in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["a\nb", "1\r\n2", "1\x1b[31m"])
def test_a_value_of_several_lines_is_told_in_one(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(CODEX_BRIDGE_PORT=text)
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "variables",
    [
        {"CODEX_BRIDGE_TOKEN": "secret with spaces"},
        {"CODEX_BRIDGE_TOKEN": "secret-\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9\u00e9"},
        {"CODEX_BRIDGE_TOKEN": "secret-\n-0123456789abcdef"},
        {"CODEX_PROVIDER_API_KEY": "secret with spaces"},
        {"CODEX_PROVIDER_API_KEY": "secret\n"},
        {"CODEX_PROVIDER_API_KEY": "secret-\u2026"},
        {"OPENAI_API_KEY": "secret\tkey"},
        {"HTTPS_PROXY": "socks5://me:secret@p:1080"},
        {"http_proxy": "http://me:secret"},
    ],
)
def test_a_bad_secret_is_named_but_not_shown(variables: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**variables)
    assert next(iter(variables)) in caught.value.message
    assert "expected" in caught.value.message
    assert "secret" not in caught.value.message


def test_the_first_variable_of_a_setting_wins() -> None:
    assert load(OPENAI_API_KEY="second").api_key == "second"
    assert load(CODEX_PROVIDER_API_KEY="first", OPENAI_API_KEY="second").api_key == "first"
    assert load(CODEX_PROVIDER_API_KEY="", OPENAI_API_KEY="second").api_key == "second"


@pytest.mark.parametrize(
    ("variables", "path"),
    [
        ({"CODEX_BRIDGE_STATE_DIR": "/s/./a", "STATE_DIRECTORY": "/b"}, "/s/a"),
        ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "XDG_STATE_HOME": "/x"}, "/var/lib/a"),
        ({"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/codex-bridge"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/codex-bridge"),
        ({"HOME": "/h"}, "/h/.local/state/codex-bridge"),
        ({}, os.path.realpath(os.path.expanduser("~/.local/state/codex-bridge"))),
    ],
)
def test_where_the_state_is(variables: dict[str, str], path: str) -> None:
    assert load(**variables).state_dir == path


def test_a_flag_wins_and_is_named() -> None:
    assert config.load({"CODEX_BRIDGE_PORT": "1"}, {"port": "2"}).port == 2
    with pytest.raises(ConfigError, match=r"^--port=abc: expected a port number"):
        config.load({"CODEX_BRIDGE_PORT": "1"}, {"port": "abc"})


class TestToken:
    TEXT = "0123456789abcdef-token"

    def file(self, directory: Path, text: str = TEXT + "\n", name: str = "token") -> Path:
        path = directory / name
        path.write_text(text)
        return path

    def test_from_a_file(self, tmp_path: Path) -> None:
        assert load(CODEX_BRIDGE_TOKEN_FILE=str(self.file(tmp_path))).token == self.TEXT

    def test_from_systemds_credentials(self, tmp_path: Path) -> None:
        self.file(tmp_path, name="codex_bridge_token")
        assert load(CREDENTIALS_DIRECTORY=str(tmp_path)).token == self.TEXT

    def test_credentials_without_a_token(self, tmp_path: Path) -> None:
        assert load(CREDENTIALS_DIRECTORY=str(tmp_path)).token is None

    def test_a_credential_that_cannot_be_read_is_not_taken_for_none(self, tmp_path: Path) -> None:
        directory = self.file(tmp_path, name="no-directory")
        with pytest.raises(ConfigError) as caught:
            load(CREDENTIALS_DIRECTORY=str(directory))
        assert caught.value.message.startswith(
            f"{directory}/codex_bridge_token: expected a file with the token"
        )

    def test_the_variable_wins_over_the_file_over_the_credential(self, tmp_path: Path) -> None:
        self.file(tmp_path, "credential-0123456789", "codex_bridge_token")
        path = str(self.file(tmp_path, "file-0123456789abcdef"))
        assert (
            load(CODEX_BRIDGE_TOKEN_FILE=path, CREDENTIALS_DIRECTORY=str(tmp_path)).token
            == "file-0123456789abcdef"
        )
        assert load(CODEX_BRIDGE_TOKEN=self.TEXT, CODEX_BRIDGE_TOKEN_FILE=path).token == self.TEXT

    @pytest.mark.parametrize(
        "text", ["", "\n", "secret with spaces", "secret-0123456789\nsecond-line", "secret-\u00e9"]
    )
    def test_a_file_that_holds_no_token(self, tmp_path: Path, text: str) -> None:
        path = self.file(tmp_path, text)
        with pytest.raises(ConfigError) as caught:
            load(CODEX_BRIDGE_TOKEN_FILE=str(path))
        assert caught.value.message.startswith(f"CODEX_BRIDGE_TOKEN_FILE={path}: expected ")
        assert "secret" not in caught.value.message

    def test_a_file_that_is_no_text(self, tmp_path: Path) -> None:
        path = tmp_path / "token"
        path.write_bytes(b"\xff\xfe\x00secret")
        with pytest.raises(ConfigError, match="CODEX_BRIDGE_TOKEN_FILE="):
            load(CODEX_BRIDGE_TOKEN_FILE=str(path))

    @pytest.mark.parametrize("name", ["missing", "."])
    def test_a_file_that_cannot_be_read(self, tmp_path: Path, name: str) -> None:
        path = str(tmp_path / name)
        with pytest.raises(ConfigError) as caught:
            load(CODEX_BRIDGE_TOKEN_FILE=path)
        assert caught.value.message.startswith(f"CODEX_BRIDGE_TOKEN_FILE={path}: expected ")

    def test_the_name_of_its_file_stays_on_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            load(CODEX_BRIDGE_TOKEN_FILE=f"{tmp_path}/a\n\x1b[31mb")
        assert caught.value.message.isprintable()


class TestWorkspace:
    def test_the_default_is_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        loaded = load()
        assert loaded.workspace_root == str(tmp_path)
        assert loaded.workspace_roots == (str(tmp_path),)

    def test_links_are_resolved(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        assert load(CODEX_WORKSPACE_ROOT=str(tmp_path / "link")).workspace_root == str(tmp_path / "real")

    def test_the_home_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        (tmp_path / "work").mkdir()
        assert load(CODEX_WORKSPACE_ROOT="~/work").workspace_root == str(tmp_path / "work")

    def test_several_roots(self, tmp_path: Path) -> None:
        for name in "ab":
            (tmp_path / name).mkdir()
        loaded = load(
            CODEX_WORKSPACE_ROOT=str(tmp_path / "a"), CODEX_WORKSPACE_ROOTS=f"{tmp_path}/a:{tmp_path}/b:"
        )
        assert loaded.workspace_roots == (str(tmp_path / "a"), str(tmp_path / "b"))

    def test_no_session_works_outside_the_roots(self, tmp_path: Path) -> None:
        for name in "ab":
            (tmp_path / name).mkdir()
        try:
            loaded = load(CODEX_WORKSPACE_ROOT=str(tmp_path / "a"), CODEX_WORKSPACE_ROOTS=str(tmp_path / "b"))
            chosen = WorkspaceRoots(loaded.workspace_root, loaded.workspace_roots).choose(None)
        except (ConfigError, InvalidField):
            return  # refused at the start, or when a session is made
        assert any(is_inside(chosen, root) for root in loaded.workspace_roots)


class TestCodexBinary:
    def program(self, path: Path) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
        return str(path)

    def test_as_named(self, tmp_path: Path) -> None:
        path = self.program(tmp_path / "my-codex")
        assert load(CODEX_BIN=path).codex_bin == path

    def test_a_file_that_cannot_be_run(self, tmp_path: Path) -> None:
        path = tmp_path / "codex"
        path.write_text("text")
        with pytest.raises(ConfigError, match=r"^CODEX_BIN="):
            load(CODEX_BIN=str(path))

    def test_bundled_then_packaged_then_on_the_path(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import sys

        monkeypatch.setattr(config, "__file__", str(tmp_path / "codex_bridge" / "config.py"))
        monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
        on_path = self.program(tmp_path / "bin" / "codex")
        environ = {"PATH": str(tmp_path / "bin")}
        assert config.find_codex({"PATH": str(tmp_path)}) is None
        assert config.find_codex(environ) == on_path
        packaged = self.program(tmp_path / "site" / "codex_cli_bin" / "bin" / "codex")
        assert config.find_codex(environ) == packaged
        bundled = tmp_path / "tools" / "codex-runtime" / f"{sys.platform}-{os.uname().machine}" / "codex"
        assert config.find_codex(environ) == packaged
        self.program(bundled)
        assert config.find_codex(environ) == str(bundled)

    def test_a_program_in_the_working_directory_is_not_taken(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import sys

        self.program(tmp_path / "tools" / "codex-runtime" / f"{sys.platform}-{os.uname().machine}" / "codex")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [])
        assert config.find_codex({"PATH": "/nonexistent"}) is None


@pytest.mark.parametrize("field", ["https_proxy", "http_proxy", "no_proxy"])
def test_either_spelling_of_a_proxy_variable_and_lower_case_wins(field: str) -> None:
    name = field.upper()
    url, other = ("http://a", "http://b") if field != "no_proxy" else ("a", "b")
    alone = load(**{name: url})
    assert getattr(alone, field) == getattr(load(**{field: url}), field)
    assert load(**{name: other, field: url}) == alone
    assert load(**{name: url, field: ""}) == alone
    if field != "no_proxy":
        with pytest.raises(ConfigError, match=f"^{name}=ftp://p: expected http://"):
            load(**{name: "ftp://p"})


def test_the_rules_for_proxies() -> None:
    assert config.proxy_rules(load()) is None
    assert config.proxy_rules(load(NO_PROXY="*")) is None
    rules = config.proxy_rules(load(HTTPS_PROXY="http://p:1", NO_PROXY="A.example"))
    assert rules is not None
    assert rules.choose("https", "b.example", 443) == Proxy("p", 1)
    assert rules.choose("https", "a.example", 443) is None
    assert rules.choose("http", "b.example", 80) is None


class TestChildEnvironment:
    """What Codex and the model's commands may see."""

    SECRET = (
        "CODEX_BRIDGE_TOKEN",
        "CODEX_PROVIDER_API_KEY",
        "OPENAI_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "GITHUB_TOKEN",
    )
    MANAGERS = (
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "CREDENTIALS_DIRECTORY",
    )
    PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")

    def environ(self, monkeypatch: pytest.MonkeyPatch, **more: str) -> dict[str, str]:
        for name in (*self.SECRET, *self.MANAGERS, "PYTHONPATH", "LD_PRELOAD_X"):
            monkeypatch.setenv(name, "secret-value")
        for name in ("HOME", "LC_ALL", "CODEX_HOME", "MY_TOOL"):
            monkeypatch.setenv(name, f"value of {name}")
        for name in self.PROXIES:
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)
        for name, value in more.items():
            monkeypatch.setenv(name, value)
        return config.child_environment(load(**more))

    def test_nothing_secret_is_passed_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        environ = self.environ(monkeypatch)
        assert "secret-value" not in environ.values()
        for name in ("HOME", "LC_ALL", "CODEX_HOME"):
            assert environ[name] == f"value of {name}"
        assert "MY_TOOL" not in environ
        assert not [name for name in environ if name.upper().endswith("_PROXY")]

    @pytest.mark.parametrize(
        ("given", "passed"),
        [
            ({"HTTPS_PROXY": "http://a"}, {"HTTPS_PROXY": "http://a", "NO_PROXY": "127.0.0.1,localhost"}),
            (
                {"HTTP_PROXY": "http://a", "http_proxy": "http://b", "no_proxy": "x,y"},
                {"HTTP_PROXY": "http://b", "NO_PROXY": "x,y,127.0.0.1,localhost"},
            ),
            ({"all_proxy": "socks5://a"}, {"ALL_PROXY": "socks5://a", "NO_PROXY": "127.0.0.1,localhost"}),
            ({"https_proxy": "", "HTTP_PROXY": ""}, {}),
        ],
    )
    def test_proxies_in_both_spellings_and_never_for_the_gateway(
        self, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], passed: dict[str, str]
    ) -> None:
        environ = self.environ(monkeypatch, **given)
        found = {name: value for name, value in environ.items() if name.upper().endswith("_PROXY")}
        assert found == passed | {name.lower(): value for name, value in passed.items()}

    def test_what_the_operator_names_is_passed_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        environ = self.environ(monkeypatch, CODEX_BRIDGE_PASS_ENVIRONMENT="MY_TOOL,ABSENT")
        assert environ["MY_TOOL"] == "value of MY_TOOL"
        assert "ABSENT" not in environ

    @pytest.mark.parametrize("name", [*SECRET[:3], *MANAGERS])
    def test_what_is_for_the_bridge_alone_cannot_be_named(
        self, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        try:
            environ = self.environ(monkeypatch, CODEX_BRIDGE_PASS_ENVIRONMENT=name)
        except ConfigError:
            return
        assert "secret-value" not in environ.values()


class TestManager:
    """What a service manager has told this process."""

    US = str(os.getpid())

    def test_without_one(self) -> None:
        assert config.load_manager({}) == config.Manager(None, None, 0)

    def test_all_of_it(self) -> None:
        told = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "30000000", "LISTEN_FDS": "2"}
        ours = {"WATCHDOG_PID": self.US, "LISTEN_PID": self.US}
        assert config.load_manager({**told, **ours}) == config.Manager("/run/notify", 30.0, 2)

    def test_the_watchdog_may_name_nobody_but_sockets_must(self) -> None:
        assert config.load_manager({"WATCHDOG_USEC": "500000", "LISTEN_FDS": "1"}) == config.Manager(
            None, 0.5, 0
        )

    def test_what_another_process_was_told_is_not_even_read(self) -> None:
        told = {"WATCHDOG_USEC": "soon", "WATCHDOG_PID": "1", "LISTEN_FDS": "many", "LISTEN_PID": "1"}
        assert config.load_manager(told) == config.Manager(None, None, 0)

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("NOTIFY_SOCKET", "run/notify"), ("NOTIFY_SOCKET", "@"), ("NOTIFY_SOCKET", "vsock:2:1"),
            ("WATCHDOG_USEC", "-1"), ("WATCHDOG_USEC", "soon"), ("LISTEN_FDS", "65"), ("LISTEN_FDS", "1.0"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_used_is_told_in_one_line(self, name: str, text: str) -> None:
        with pytest.raises(ConfigError) as caught:
            config.load_manager({"LISTEN_PID": self.US, name: text})
        assert caught.value.message.startswith(f"{name}={text}: expected ")


# The variables of the command's contract, by what this version does with them.
CONTRACT = {
    "CODEX_BRIDGE_HOST", "CODEX_BRIDGE_PORT", "CODEX_RUNTIME_KIND", "CODEX_BIN", "CODEX_HOME", "CODEX_WORKSPACE_ROOT",
    "CODEX_WORKSPACE_ROOTS", "CODEX_SANDBOX_MODE", "CODEX_MAX_CONCURRENT_TURNS", "CODEX_MAX_QUEUED_TURNS",
    "CODEX_CHAT_TURN_TIMEOUT_MS", "CODEX_RUNTIME_PROVIDER", "CODEX_AUTH_MODE", "CODEX_PROVIDER_API_BASE_URL",
    "CODEX_PROVIDER_API_KEY", "OPENAI_API_KEY", "CODEX_DEFAULT_MODEL", "CODEX_BRIDGE_TOKEN", "CODEX_BRIDGE_TOKEN_FILE",
    "CODEX_BRIDGE_ALLOWED_ORIGINS", "CODEX_BRIDGE_SOCKET",
}  # fmt: skip


def test_the_page_tells_every_setting() -> None:
    page = config.render_settings()
    for setting in SETTINGS:
        for name in setting.variables:
            assert f"`{name}`" in page
        assert setting.expected in page
        assert setting.help in page
    for name in CONTRACT:
        assert name in page


def test_every_variable_in_the_source_is_on_the_page() -> None:
    page = config.render_settings()
    source = "".join(path.read_text() for path in (REPOSITORY / "codex_bridge").rglob("*.py"))
    names = set(re.findall(r"""["'](CODEX_[A-Z_]+|OPENAI_[A-Z_]+)["']""", source))
    assert len(names) > 20
    assert {name for name in names if name not in page} == set()


def test_the_page_in_the_docs_is_this_page() -> None:
    assert (REPOSITORY / "docs" / "settings.md").read_text() == config.render_settings()


def test_no_default_is_a_secret() -> None:
    assert {setting.field for setting in SETTINGS if setting.is_secret} == {
        "token", "api_key", "https_proxy", "http_proxy",
    }  # fmt: skip
    assert all(setting.default is None for setting in SETTINGS if setting.is_secret)
