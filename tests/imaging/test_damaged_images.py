"""Files that cannot be decoded are refused by their names; odd ones that can are not."""

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, features

from condinst_deploy.errors import ImageError
from condinst_deploy.imaging.decode import rgb_from
from condinst_deploy.imaging.image_files import expand_sources
from tests.support.images import (
    RGB,
)
from tests.support.models import noise_image


def test_file_of_floats_is_refused_by_its_name(tmp_path: Path) -> None:
    Image.new("F", (5, 4)).save(tmp_path / "x.tif")
    with pytest.raises(ImageError, match=r"x\.tif.*floating-point pixels"):
        rgb_from(tmp_path / "x.tif")


def test_an_image_that_does_not_fit_into_memory_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(RGB).save(tmp_path / "x.png")

    def full(*_: object) -> None:
        raise MemoryError("Unable to allocate 232. MiB")

    monkeypatch.setattr(Image.Image, "load", full)
    with pytest.raises(ImageError, match=r"x\.png cannot be decoded: the memory is not enough$"):
        rgb_from(tmp_path / "x.png")


def png(path: Path) -> bytes:
    Image.fromarray(RGB).save(path, format="PNG")
    return path.read_bytes()


def png_with_a_broken_chunk(path: Path) -> bytes:
    """The pixels in two chunks, the second one's name being damaged: Pillow calls that a syntax error."""
    whole = png(path)
    name = whole.index(b"IDAT")
    (length,) = struct.unpack(">I", whole[name - 4 : name])
    data, rest = whole[name + 4 : name + 4 + length], whole[name + 8 + length :]
    return whole[: name - 4] + chunk(b"IDAT", data[:99]) + chunk(b"I\0AT", data[99:]) + rest


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def jpeg(path: Path) -> bytes:
    Image.fromarray(noise_image(2, 80, 90)).save(path, format="JPEG")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.jpg", lambda path: b"no image at all\n"),
        ("zero bytes.png", lambda path: b""),
        ("half.png", lambda path: png(path)[: len(png(path)) // 2]),
        ("half.jpg", lambda path: jpeg(path)[: len(jpeg(path)) // 2]),
        ("signature only.png", lambda path: png(path)[:8]),
        ("header only.png", lambda path: png(path)[:33]),
        ("header only.jpg", lambda path: jpeg(path)[:20]),
        ("flipped.png", lambda path: png(path)[:60] + bytes(40) + png(path)[100:]),
        ("broken chunk.png", png_with_a_broken_chunk),
        ("web page.png", lambda path: b"<!DOCTYPE html><html></html>"),
    ],
)
def test_file_that_cannot_be_decoded_is_refused_by_its_name(
    name: str, content: Callable[[Path], bytes], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content(path))
    with pytest.raises(ImageError) as caught:
        rgb_from(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")
def test_damaged_avif_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "x.avif"
    Image.fromarray(RGB).save(path)
    path.write_bytes(path.read_bytes().replace(b"iloc", b"free"))
    with pytest.raises(ImageError, match=r"x\.avif"):
        rgb_from(path)


def test_pil_image_that_cannot_be_decoded_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "half.jpg"
    path.write_bytes(jpeg(path)[:1000])
    with Image.open(path) as image, pytest.raises(ImageError):
        rgb_from(image)


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no image at .*missing\.png"):
        rgb_from(tmp_path / "missing.png")


def test_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="it is a folder; expected an image file"):
        rgb_from(tmp_path)


@pytest.mark.parametrize("read", [rgb_from, expand_sources])
def test_name_that_no_file_can_have_is_refused(read: Callable[[str], Any]) -> None:
    with pytest.raises(ImageError, match="xxx"):
        rgb_from(read("x" * 5000)[0])


def test_bomb_is_refused_and_a_large_photograph_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", RGB[..., 0].size - 1)
    assert np.array_equal(rgb_from(tmp_path / "x.png"), RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", RGB[..., 0].size // 2 - 1)
    with pytest.raises(ImageError, match=r"x\.png is too large to be decoded safely"):
        rgb_from(tmp_path / "x.png")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_exif_that_cannot_be_read_does_no_harm(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind.lower()}"
    Image.new("RGB", (6, 4), (90, 90, 90)).save(path, format=kind, exif=b"Exif\0\0garbagegarbage")
    assert rgb_from(path).shape == (4, 6, 3)


def test_a_file_that_pillow_gives_to_another_program_starts_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, started = tmp_path / "gs", tmp_path / "started"
    program.write_text(f"#!/bin/sh\ntouch {started}\nsleep 60\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # Pillow looks for it once
    (tmp_path / "x.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 40\n%%EndComments\n{} loop\n%%EOF\n"
    )
    with pytest.raises(ImageError, match=r"x\.png: it is EPS.*convert it to PNG"):
        rgb_from(tmp_path / "x.png")
    assert not started.exists()


def test_what_pillow_warns_of_is_said_with_the_name_of_the_file(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "x.tif")
    content = bytearray((tmp_path / "x.tif").read_bytes())
    (directory,) = struct.unpack_from("<I", content, 4)
    struct.pack_into("<I", content, directory + 2 + 4, 127)  # count of the width's values
    (tmp_path / "x.tif").write_bytes(content)
    code = (
        "import sys\nfrom condinst_deploy.imaging.decode import rgb_from\n"
        "from condinst_deploy.support.launch import show_remarks_of_libraries\n"
        "show_remarks_of_libraries()\nrgb_from(sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.tif")], capture_output=True, text=True, check=False
    )
    assert done.stderr.startswith(f"warning: {tmp_path / 'x.tif'}: "), done.stderr


@pytest.mark.parametrize("text", ["", "file://"])
def test_an_empty_path_is_named_as_what_it_is(text: str) -> None:
    with pytest.raises(ImageError, match=rf"^a path is '{text}'; expected the path or URL of a file"):
        rgb_from(text)
