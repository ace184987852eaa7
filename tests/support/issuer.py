"""OpenAI's sign-in as Codex sees it: the issuer of tokens, and the service that tells what an account is.

One real HTTP server on loopback plays both. `codex_config` and `environment` lead a real Codex to it:

    issuer = Issuer()
    one = bridge(**issuer.environment())     # and issuer.codex_config(...) as CODEX_HOME/config.toml
    issuer.approve()                         # the person enters the code and agrees

Model requests do not come here: `codex_config` sends them to a scripted upstream, with the token that was issued.
"""

import base64
import itertools
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.upstream import Gate
from tests.support.waiting import wait_until

EMAIL = "ann@example.com"
PLAN = "plus"
ACCOUNT_ID = "account-of-ann"

_PENDING = 403
_HOUR_S = 3600
# Never called: Codex takes no origin but one with https for what it sends to an account's own place.
_WORKSPACE_ORIGIN = "https://127.0.0.1:9"

Json = dict[str, Any]


def _encode(value: Json) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


class Issuer:
    """The server, what it answers, and what it was asked. `secrets` is every token and id it has given out."""

    def __init__(self) -> None:
        self.secrets: list[str] = []
        self.asked: Counter[str] = Counter()
        # Statuses of the answers that a test may change; `gate` holds the next request for a code.
        self.code_status = 200
        self.approval_status = _PENDING
        self.refresh_status = 200
        self.account_status = 200
        self.gate: Gate | None = None
        self._numbers = itertools.count(1)
        self._is_gone = False
        handler = type("Handler", (_Handler,), {"issuer": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="issuer")
        self._thread.start()

    def environment(self) -> dict[str, str | None]:
        """Return the settings of a bridge whose Codex signs in here."""
        overrides = {
            "CODEX_REFRESH_TOKEN_URL_OVERRIDE": f"{self.url}/oauth/token",
            "CODEX_REVOKE_TOKEN_URL_OVERRIDE": f"{self.url}/oauth/revoke",
        }
        return {
            "CODEX_APP_SERVER_LOGIN_ISSUER": self.url,
            "CODEX_BRIDGE_PASS_ENVIRONMENT": ",".join(overrides),
            "CODEX_RUNTIME_PROVIDER": "openai",
            "CODEX_PROVIDER_API_BASE_URL": None,
            "CODEX_PROVIDER_API_KEY": None,
            "CODEX_DEFAULT_MODEL": None,
            **overrides,
        }

    def codex_config(self, model_base_url: str) -> str:
        """Return a config.toml with which Codex asks this server about the account and another for the model."""
        # To its own service Codex sends zstd, which the standard library does not read.
        return (
            f'chatgpt_base_url = "{self.url}/backend-api"\nopenai_base_url = "{model_base_url}"\n'
            "[features]\nenable_request_compression = false\n"
        )

    def approve(self) -> None:
        """Let the person agree."""
        self.approval_status = 200

    def deny(self, status: int = 401) -> None:
        """Let the person refuse, or the code be too old: both come as a status that is not "pending"."""
        self.approval_status = status

    def wait_asked(self, path: str, times: int = 1) -> None:
        """Return when a path was asked for so often, by the last word of it."""
        wait_until(lambda: self.asked[path] >= times, f"request {times} for {path}, of {dict(self.asked)}")

    def stop(self) -> None:
        """Be gone: every connection is refused from now on."""
        if self._is_gone:
            return
        self._is_gone = True
        if self.gate is not None:
            self.gate.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        if self.gate is not None:
            self.gate.close()

    def secret(self, name: str) -> str:
        """Make something that nobody but Codex may see."""
        self.secrets.append(f"{name}-{next(self._numbers)}-of-the-issuer")
        return self.secrets[-1]

    def token(self) -> str:
        """Make an unsigned token that says who is signed in."""
        claims = {
            "email": EMAIL,
            "exp": int(time.time()) + _HOUR_S,
            "jti": self.secret("token"),
            "https://api.openai.com/auth": {
                "chatgpt_plan_type": PLAN, "chatgpt_user_id": "user-ann", "chatgpt_account_id": ACCOUNT_ID,
            },
        }  # fmt: skip
        self.secrets.append(f"{_encode({'alg': 'none'})}.{_encode(claims)}.{self.secret('signature')}")
        return self.secrets[-1]


class _Handler(BaseHTTPRequestHandler):
    """Answers one request and closes, so that a server that is gone is gone."""

    issuer: Issuer

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Issue a code, a yes or no to it, or tokens."""
        name = self.take()
        issuer = self.issuer
        if name == "usercode":
            if issuer.gate is not None and not issuer.gate.hold(self.connection):
                return
            number = issuer.asked[name]
            self.answer(
                issuer.code_status,
                {
                    "device_auth_id": issuer.secret("device"),
                    "user_code": f"CODE-{number:04}",
                    "interval": "1",
                    "expires_at": "2100-01-01T00:00:00Z",
                },
            )
        elif self.path == "/api/accounts/deviceauth/token":
            issuer.asked["approval"] += 1
            codes = ("authorization_code", "code_challenge", "code_verifier")
            self.answer(issuer.approval_status, {code: issuer.secret(code) for code in codes})
        elif self.path == "/oauth/token":
            tokens = {
                "id_token": issuer.token(), "access_token": issuer.token(), "refresh_token": issuer.secret("refresh"),
            }  # fmt: skip
            status = issuer.refresh_status if b"refresh_token" in self.body else 200
            refused = {"error": {"code": "refresh_token_invalidated", "message": "it was taken back"}}
            self.answer(status, tokens if status == 200 else refused)
        else:
            self.answer(200 if name == "revoke" else 404, {})

    def do_GET(self) -> None:
        """Tell what the account is."""
        if self.take() != "check":
            return self.answer(404, {})
        account = {
            "id": ACCOUNT_ID,
            "plan_type": PLAN,
            "structure": "personal",
            "workspace_backend_origin": _WORKSPACE_ORIGIN,
            "account_routing_override": "NO_CONSTRAINT",
        }
        told = {"accounts": [account], "account_ordering": [ACCOUNT_ID], "default_account_id": ACCOUNT_ID}
        self.answer(self.issuer.account_status, told)

    def take(self) -> str:
        """Read the request; return the last word of its path."""
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        name = self.path.partition("?")[0].rpartition("/")[2]
        self.issuer.asked[name] += 1
        return name

    def answer(self, status: int, value: Json) -> None:
        """Send a JSON object."""
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
