"""The one tree of errors. Each class knows its HTTP status and its code; `api.replies` makes the reply.

A message is a sentence for a person: what was expected and what came. It never holds a secret.
"""

from __future__ import annotations

from typing import Any

from .limits import DRAIN_RETRY_AFTER_S, MAX_FIELD_CHARACTERS, STORE_RETRY_AFTER_S


class BridgeError(Exception):
    """The root. `details` are further fields of the error reply, `headers` further reply headers."""

    status = 500
    code = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        **details: Any,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.headers = headers
        self.details = details
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status


class ConfigError(BridgeError):
    """A setting that cannot be used; stops the start."""

    code = "invalid_configuration"


class StartFailed(BridgeError):
    """The bridge cannot start here and now, though its settings are fine."""

    code = "start_failed"


class MalformedRequest(BridgeError):
    """Bytes that are not the HTTP this server speaks. The connection ends after the reply."""

    status = 400
    code = "malformed_request"


class InvalidJson(BridgeError):
    status = 400
    code = "invalid_json"


class Unauthorized(BridgeError):
    status = 401
    code = "unauthorized"


class Forbidden(BridgeError):
    status = 403
    code = "forbidden"


class NotFound(BridgeError):
    status = 404
    code = "not_found"


class MethodNotAllowed(BridgeError):
    status = 405
    code = "method_not_allowed"


class RequestTimeout(BridgeError):
    status = 408
    code = "request_timeout"


class Conflict(BridgeError):
    status = 409
    code = "conflict"


class BodyTooLarge(BridgeError):
    status = 413
    code = "body_too_large"


class UnsupportedMediaType(BridgeError):
    status = 415
    code = "unsupported_media_type"


class InvalidField(BridgeError):
    """A well-formed value that is not acceptable. The reply names the field."""

    status = 422
    code = "invalid_field"

    def __init__(self, field: str, message: str, **details: Any) -> None:
        super().__init__(message, field=field[:MAX_FIELD_CHARACTERS], **details)


class HeadersTooLarge(BridgeError):
    status = 431
    code = "headers_too_large"


class Unavailable(BridgeError):
    """The bridge cannot take this now; asking again later may work."""

    status = 503
    code = "unavailable"


class Draining(Unavailable):
    """The bridge ends; asking the next one works."""

    code = "draining"

    def __init__(self) -> None:
        super().__init__("The bridge is stopping.", headers=(("Retry-After", str(DRAIN_RETRY_AFTER_S)),))


class StoreFailed(Unavailable):
    """The database could not be written or read now. The bridge goes on; asking again later may work."""

    code = "store_unavailable"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers=(("Retry-After", str(STORE_RETRY_AFTER_S)),))


class StoreDamaged(StoreFailed):
    """What was asked for lies in a damaged place of the database. Asking again does not help; all else goes on."""

    status = 500
    code = "store_damaged"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers = ()


class UpstreamFailed(BridgeError):
    """The upstream did not do its part; `code` says how.

    `passes`: another try may mend it, after `retry_after_s` seconds where the upstream has asked for that.
    """

    status = 502
    code = "upstream_error"

    def __init__(
        self,
        message: str,
        *,
        passes: bool = True,
        retry_after_s: int = 0,
        code: str | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message, code=code, status=status)
        # Silence would be followed by as much silence again.
        self.passes = passes and self.code != "upstream_timeout"
        self.retry_after_s = retry_after_s


class CodexFailed(BridgeError):
    """Codex could not be started, died, or refused a call."""

    status = 502
    code = "codex_failed"
