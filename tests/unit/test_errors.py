"""The tree of errors: each has its status and its code, and becomes one reply."""

import inspect

import pytest

from codex_bridge import errors
from codex_bridge.api import replies
from codex_bridge.errors import BridgeError, InvalidField
from codex_bridge.protocol import json_codec

TABLE = {
    "BridgeError": (500, "internal_error"), "ConfigError": (500, "invalid_configuration"),
    "MalformedRequest": (400, "malformed_request"), "InvalidJson": (400, "invalid_json"),
    "Unauthorized": (401, "unauthorized"), "Forbidden": (403, "forbidden"), "NotFound": (404, "not_found"),
    "MethodNotAllowed": (405, "method_not_allowed"), "RequestTimeout": (408, "request_timeout"),
    "Conflict": (409, "conflict"), "BodyTooLarge": (413, "body_too_large"),
    "UnsupportedMediaType": (415, "unsupported_media_type"), "InvalidField": (422, "invalid_field"),
    "HeadersTooLarge": (431, "headers_too_large"), "Unavailable": (503, "unavailable"),
    "Draining": (503, "draining"), "StoreFailed": (503, "store_unavailable"), "StoreDamaged": (500, "store_damaged"),
    "StartFailed": (500, "start_failed"), "UpstreamFailed": (502, "upstream_error"), "CodexFailed": (502, "codex_failed"),
}  # fmt: skip


def test_each_class_has_its_status_and_code() -> None:
    classes = {
        name: kind
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, BridgeError)
    }
    assert {name: (kind.status, kind.code) for name, kind in classes.items()} == TABLE


@pytest.mark.parametrize(
    ("problem", "status", "body"),
    [
        (BridgeError("Oh."), 500, {"error": "Oh.", "code": "internal_error"}),
        (
            BridgeError("Oh.", code="busy", status=503, bridge_load={"a": 1}), 503,
            {"error": "Oh.", "code": "busy", "bridge_load": {"a": 1}},
        ),
        (InvalidField("mode", "mode: no."), 422, {"error": "mode: no.", "code": "invalid_field", "field": "mode"}),
    ],
)  # fmt: skip
def test_an_error_becomes_a_reply(problem: BridgeError, status: int, body: dict[str, object]) -> None:
    reply = replies.failure(problem)
    assert reply.status == status
    assert json_codec.decode(reply.body) == {"ok": False, **body}


def test_headers_of_an_error_are_sent() -> None:
    problem = BridgeError("Later.", status=503, headers=(("Retry-After", "2"),))
    assert ("Retry-After", "2") in replies.failure(problem).headers
    # What one error was given does not stick to its class.
    assert (BridgeError.status, BridgeError("x").headers) == (500, ())


def test_a_success() -> None:
    reply = replies.ok(201, a=1)
    assert (reply.status, reply.body) == (201, b'{"ok":true,"a":1}\n')
    assert ("Content-Type", "application/json") in reply.headers
    assert ("Cache-Control", "no-store") in reply.headers
