"""Images of a message: what is shown to a model, and what is not."""

import base64
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from codex_bridge.errors import InvalidField
from codex_bridge.workspace import images
from codex_bridge.workspace.images import read_images
from tests.support.images import png


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (png(), "png"), (b"\xff\xd8\xff\xe0", "jpeg"), (b"GIF89a", "gif"), (b"RIFF\0\0\0\0WEBPVP8 ", "webp"),
    ],
)  # fmt: skip
def test_an_image_is_a_data_url(tmp_path: Path, data: bytes, kind: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(data)
    assert read_images([str(path)]) == [f"data:image/{kind};base64,{base64.b64encode(data).decode()}"]


def link(path: Path) -> None:
    path.with_name("other").write_bytes(png())
    path.symlink_to(path.with_name("other"))


def linked_directory(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.symlink_to(path.parent.with_name("elsewhere"))
    path.write_bytes(png())


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_text("secret"), "no PNG"),
        (lambda path: path.write_bytes(b"RIFF\0\0\0\0WAVEfmt "), "no PNG"),
        (link, "become a link"),
        (linked_directory, "become a link"),
        (lambda path: os.mkfifo(path), "no file"),
        (lambda path: path.mkdir(), "no file|directory"),
        (lambda path: path.write_bytes(png() + b"x" * 1000), "at most 1000 bytes"),
    ],
)
def test_what_is_none_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], why: str
) -> None:
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 1000)
    path = tmp_path / "directory" / "image"
    path.parent.mkdir()
    make(path)
    with pytest.raises(InvalidField, match=why) as refused:
        read_images([str(path)])
    assert str(tmp_path) not in refused.value.message


def test_all_together_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image"
    path.write_bytes(png())
    monkeypatch.setattr(images, "MAX_IMAGES_BYTES", 2 * len(png()))
    assert len(read_images([str(path)] * 2)) == 2
    with pytest.raises(InvalidField):
        read_images([str(path)] * 3)
