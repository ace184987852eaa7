"""Images of a message, as data URLs. A path was resolved when the message came, and may lead elsewhere by now."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence

from ..errors import InvalidField
from ..limits import MAX_IMAGE_BYTES, MAX_IMAGES_BYTES
from .paths import read_regular

_KINDS = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"RIFF": "image/webp",
}


def read_images(paths: Sequence[str]) -> list[str]:
    """Return images as data URLs; raise `InvalidField` that names the first that is none, is gone, or too large."""
    urls = []
    left = MAX_IMAGES_BYTES
    for path in paths:
        data = _read(path, min(MAX_IMAGE_BYTES, left))
        left -= len(data)
        kind = next((kind for magic, kind in _KINDS.items() if data.startswith(magic)), None)
        if kind is None or (kind == "image/webp" and data[8:12] != b"WEBP"):
            raise _problem(path, "it is no PNG, JPEG, GIF or WebP image")
        urls.append(f"data:{kind};base64,{base64.b64encode(data).decode()}")
    return urls


def _read(path: str, most: int) -> bytes:
    if os.path.realpath(path) != path:
        raise _problem(path, "it is gone, or has become a link")
    try:
        data = read_regular(path, most + 1)
    except OSError as problem:
        raise _problem(path, problem.strerror or "it cannot be read") from None
    if len(data) > most:
        raise _problem(
            path, f"expected at most {MAX_IMAGE_BYTES} bytes, and {MAX_IMAGES_BYTES} of all together"
        )
    return data


def _problem(path: str, why: str) -> InvalidField:
    return InvalidField("attachments", f"attachments: {os.path.basename(path)}: {why}.")
