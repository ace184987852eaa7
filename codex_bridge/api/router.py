"""The route table and the way of a request through it: match, check access, call the handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from ..adapters.http_server import Request, Response, StreamResponse
from ..errors import BridgeError, MethodNotAllowed, NotFound
from ..protocol.http_messages import Headers
from ..values import value
from . import replies
from .access import Access, preflight_headers

Handler = Callable[[Request], Awaitable[Response | StreamResponse]]


@value
class Route:
    """`path` has `:name` for a segment that is a value, and may end in `*` for whatever follows.

    The method `*` takes every other one. `is_open` routes answer without a token; `takes_any_body` ones judge
    the content type themselves; `starts_work` ones are refused while the bridge drains.
    """

    method: str
    path: str
    handler: Handler
    is_open: bool = False
    takes_any_body: bool = False
    starts_work: bool = False


class Router:
    """Finds the route of a request and guards it."""

    def __init__(self, routes: list[Route], guard: Access, check_open: Callable[[], None]) -> None:
        self._guard = guard
        self._check_open = check_open
        # All methods of a path; fixed paths are found by one look-up, others among those of as many segments.
        self._fixed: dict[str, dict[str, Route]] = {}
        self._patterns: dict[int, list[tuple[list[str], dict[str, Route]]]] = {}
        self._prefixes: dict[str, dict[str, Route]] = {}
        for route in routes:
            self._methods_of(route.path)[route.method] = route

    def _methods_of(self, path: str) -> dict[str, Route]:
        if path.endswith("*"):
            return self._prefixes.setdefault(path[:-1], {})
        if ":" not in path:
            return self._fixed.setdefault(path, {})
        segments = path.split("/")
        patterns = self._patterns.setdefault(len(segments), [])
        for known, methods in patterns:
            if known == segments:
                return methods
        patterns.append((segments, {}))
        return patterns[-1][1]

    async def handle(self, request: Request) -> Response | StreamResponse:
        """Answer a request."""
        guard = self._guard
        guard.check_host(request)
        cors = guard.check_origin(request)
        try:
            response = await self._dispatch(request, cors)
        except BridgeError as problem:
            response = replies.failure(problem, request)
        if cors:
            response.headers = (*response.headers, *cors)
        return response

    async def _dispatch(self, request: Request, cors: Headers) -> Response | StreamResponse:
        methods, request.path_values = self._match(request.path)
        method = (
            "GET"
            if request.method == "HEAD" and "GET" in methods and "HEAD" not in methods
            else request.method
        )
        route = methods.get(method) or methods.get("*")
        is_preflight = method == "OPTIONS" and request.header("access-control-request-method") is not None
        if methods and (is_preflight or (route is None and method == "OPTIONS")):
            # A preflight brings no token by its nature, and tells nothing but the table's methods.
            return Response(
                204, b"", (("Allow", _allow(methods)), *(preflight_headers(request) if cors else ()))
            )
        if route is None or not route.is_open:
            self._guard.check_token(request)
        if not methods:
            raise NotFound(f"There is nothing at {request.path[:200]!r}.")
        if route is None:
            allow = _allow(methods)
            raise MethodNotAllowed(f"{request.path} takes {allow}.", headers=(("Allow", allow),))
        if not route.takes_any_body:
            self._guard.check_content_type(request)
        if route.starts_work:
            self._check_open()
        return await route.handler(request)

    def _match(self, path: str) -> tuple[dict[str, Route], tuple[str, ...]]:
        """Return the routes of a path by method, and the values in it; no routes for an unknown path."""
        methods = self._fixed.get(path)
        if methods is not None:
            return methods, ()
        segments = path.split("/")
        for pattern, methods in self._patterns.get(len(segments), ()):
            values = []
            for part, segment in zip(pattern, segments, strict=True):
                if part.startswith(":") and segment:
                    values.append(segment)
                elif part != segment:
                    break
            else:
                return methods, tuple(values)
        for prefix, methods in self._prefixes.items():
            if path.startswith(prefix):
                return methods, ()
        return {}, ()


def _allow(methods: dict[str, Route]) -> str:
    names = (set(methods) - {"*"}) | {"OPTIONS"}
    if "GET" in names:
        names.add("HEAD")
    return ", ".join(sorted(names))
