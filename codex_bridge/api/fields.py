"""Reading request bodies and queries: each problem is an error that names the field and what was expected."""

from __future__ import annotations

import re
from typing import Any

from ..adapters.http_server import Request
from ..errors import InvalidField, InvalidJson
from ..limits import MAX_BODY_BYTES, MAX_CONTEXT_BYTES, MAX_JSON_DEPTH
from ..protocol import json_codec

_WHOLE_NUMBER = re.compile(r"[0-9]{1,9}")


async def read_object(request: Request, allowed: frozenset[str]) -> dict[str, Any]:
    """Return the body's JSON object, {} for no body; refuse fields that are not `allowed`."""
    data = await request.read_body(MAX_BODY_BYTES)
    value = json_codec.decode(data) if data.strip() else {}
    if not isinstance(value, dict):
        raise InvalidJson("The body must be a JSON object.")
    if json_codec.is_deeper_than(value, MAX_JSON_DEPTH):
        raise InvalidJson(f"The body is nested more than {MAX_JSON_DEPTH} levels deep.")
    for name in value:
        if name not in allowed:
            known = ", ".join(sorted(allowed)) or "none"
            raise InvalidField(name, f"{name[:80]}: there is no such field here; expected: {known}.")
    return value


def text_field(value: dict[str, Any], name: str, max_characters: int) -> str:
    """Return a required, non-blank text."""
    text = value.get(name)
    if not isinstance(text, str) or not text.strip():
        raise InvalidField(name, f"{name}: expected a text that is not empty.")
    if len(text) > max_characters:
        raise InvalidField(name, f"{name}: expected at most {max_characters} characters; {len(text)} came.")
    return text


def object_field(value: dict[str, Any], name: str) -> dict[str, Any]:
    """Return an optional object, {} when it is missing or null."""
    found = value.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidField(name, f"{name}: expected a JSON object.")
    return found


def choice_field(value: dict[str, Any], name: str, allowed: tuple[str, ...]) -> str:
    """Return an optional word out of `allowed`, whose last is the default."""
    found = value.get(name, allowed[-1])
    if found not in allowed:
        raise InvalidField(name, f"{name}: expected {' or '.join(allowed)}.")
    return str(found)


def context_field(value: dict[str, Any]) -> dict[str, Any]:
    """Return the optional object `context`, of a bounded size."""
    context = object_field(value, "context")
    size = len(json_codec.encode(context))
    if size > MAX_CONTEXT_BYTES:
        raise InvalidField(
            "context", f"context: expected at most {MAX_CONTEXT_BYTES} bytes of JSON; {size} came."
        )
    return context


def query_fields(request: Request, allowed: frozenset[str]) -> dict[str, str]:
    """Return the query's fields; refuse those that are not `allowed`."""
    if not request.query:
        return {}
    from urllib.parse import parse_qsl  # late: a start does not need it

    fields = dict(parse_qsl(request.query, keep_blank_values=True))
    for name in fields:
        if name not in allowed:
            known = ", ".join(sorted(allowed))
            raise InvalidField(name, f"{name[:80]}: there is no such query field here; expected: {known}.")
    return fields


def whole_number_field(fields: dict[str, str], name: str, default: int, most: int) -> int:
    """Return an optional number from 1 to `most` of a query."""
    text = fields.get(name)
    if text is None:
        return default
    if not _WHOLE_NUMBER.fullmatch(text) or not 1 <= int(text) <= most:
        raise InvalidField(name, f"{name}: expected a whole number from 1 to {most}.")
    return int(text)
