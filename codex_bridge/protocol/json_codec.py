"""JSON as bytes. orjson when it is installed, the standard library otherwise, with the same answers."""

from __future__ import annotations

import json
import math
import re
from typing import Any

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

from ..errors import InvalidJson
from ..limits import MAX_READ_JSON_DEPTH

# An escaped surrogate may be unpaired; such text has no UTF-8 form and must not travel on.
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


def encode(value: Any) -> bytes:
    """Return `value` as compact JSON on one line. A float that is no number is null with orjson, else a `ValueError`."""
    if orjson is not None:
        try:
            return orjson.dumps(value)
        except TypeError:
            pass  # unpaired surrogates, integers over 64 bits, deep nesting: the standard library can
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    if "\\ud" in text:
        # Perhaps an unpaired surrogate, which strict readers refuse with all that is around it.
        text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.encode(errors="replace")


def decode(data: bytes) -> Any:
    """Return the value of a JSON text; raise `InvalidJson` that says where it is wrong.

    With orjson an integer over 64 bits becomes a float.
    """
    value = _read(data)
    # Most texts have not so many brackets in all.
    brackets = data.count(b"{") + data.count(b"[")
    if brackets > MAX_READ_JSON_DEPTH and is_deeper_than(value, MAX_READ_JSON_DEPTH):
        raise _too_deep()
    return value


def _read(data: bytes) -> Any:
    try:
        if orjson is not None:
            return orjson.loads(data)
        value = json.loads(data.decode(), parse_constant=_refuse_constant, parse_float=_finite)
        if _SURROGATE_ESCAPE.search(data):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeError:
        raise InvalidJson("The JSON text is not valid UTF-8 text.") from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError as problem:
        raise InvalidJson(f"The JSON text cannot be read: {problem}.") from None


def _too_deep() -> InvalidJson:
    return InvalidJson("The JSON text is nested too deeply.")


def is_deeper_than(value: Any, limit: int) -> bool:
    """Say whether lists and objects are nested more than `limit` levels deep."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(limit):
        if not level:
            break
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
    return bool(level)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:20]} is too large for a number")
    return number


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
