"""Folders and patterns become their images."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from condinst_deploy.errors import ConfigError, ImageError
from condinst_deploy.imaging.decode import rgb_from, source_name
from condinst_deploy.imaging.encoded_image import EncodedImage
from condinst_deploy.imaging.image_files import expand_sources
from tests.support.images import GREY, RGB, assert_rgb


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_folder_becomes_its_images_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a.PNG", "10.jpeg", "9.TIFF", "notes.txt", "x.json", "png", "deeper/c.png")
    expected = [tmp_path / name for name in ("10.jpeg", "9.TIFF", "a.PNG", "b.jpg")]
    assert expand_sources(tmp_path) == expected
    assert expand_sources(str(tmp_path)) == expected
    assert expand_sources([str(tmp_path)]) == expected


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "bmp", "gif", "tif", "tiff", "webp", "ppm", "pgm", "jp2"])
def test_folder_is_searched_for_every_kind_that_can_be_read(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / f"x.{suffix}")
    (path,) = expand_sources(tmp_path)
    assert_rgb(rgb_from(path), (24, 36))


def test_folder_without_images_is_refused_by_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "empty/deeper/x.txt", "empty/x.txt")
    with pytest.raises(ImageError, match=r"empty has no images; expected files ending in \.avif, \.bmp"):
        expand_sources(tmp_path / "empty")


def test_folder_whose_images_lie_in_subfolders_is_refused_with_what_takes_them(tmp_path: Path) -> None:
    touch(tmp_path, "some/deeper/x.png", "some/x.txt")
    with pytest.raises(ImageError, match=r"some has no images itself, but .*/deeper/x\.png lies in a subf") as caught:
        expand_sources(tmp_path / "some")
    assert f"'{tmp_path}/some/**/*.png', or give condinst-predict --recursive; expected files" in str(caught.value)
    assert expand_sources(f"{tmp_path}/some/**/*.png") == [tmp_path / "some" / "deeper" / "x.png"]


def test_folder_named_like_an_image_is_not_one(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png/c.txt")
    assert expand_sources(tmp_path) == [tmp_path / "a.png"]


def test_pattern_becomes_its_files_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "b1.png", "b10.png", "b2.png", "a.png", "b3.txt", "b4/x.png")
    assert expand_sources(f"{tmp_path}/b*.png") == [tmp_path / name for name in ("b1.png", "b10.png", "b2.png")]
    assert expand_sources(tmp_path / "b?.*") == [tmp_path / name for name in ("b1.png", "b2.png", "b3.txt")]
    assert expand_sources(f"{tmp_path}/b*") == [tmp_path / f"b{name}" for name in ("1.png", "10.png", "2.png", "3.txt")]


def test_pattern_of_two_stars_goes_into_every_folder(tmp_path: Path) -> None:
    touch(tmp_path, "z.png", "a/y.png", "a/b/x.png", "a/b/x.txt")
    expected = [tmp_path / name for name in ("a/b/x.png", "a/y.png", "z.png")]
    assert expand_sources(f"{tmp_path}/**/*.png") == expected


def test_pattern_that_matches_nothing_is_refused_by_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "folder.gif/x.txt")
    for pattern in ("*.jpg", "*.gif"):
        with pytest.raises(ImageError, match="nothing matches") as caught:
            expand_sources(f"{tmp_path}/{pattern}")
        assert f"{tmp_path}/{pattern}" in str(caught.value)


@pytest.mark.parametrize("name", ["[set]", "a*b", "what?"])
def test_names_with_the_signs_of_a_pattern_stand_for_themselves(name: str, tmp_path: Path) -> None:
    touch(tmp_path, f"{name}/x.png", f"{name}.png", "s/no.png", "aXb/no.png", "whatX/no.png", "s.png", "whatX.png")
    assert expand_sources(tmp_path / name) == [tmp_path / name / "x.png"]
    assert expand_sources(f"{tmp_path}/{name}.png") == [tmp_path / f"{name}.png"]


def test_missing_file_is_left_for_decoding_to_refuse(tmp_path: Path) -> None:
    assert expand_sources(tmp_path / "missing.png") == [tmp_path / "missing.png"]


def test_sources_keep_their_order(tmp_path: Path) -> None:
    touch(tmp_path, "z.png", "folder/b.png", "folder/a.png")
    image = Image.fromarray(RGB)
    expanded = expand_sources((tmp_path / "z.png", RGB, tmp_path / "folder", image, tmp_path / "z.png"))
    assert [expanded[i] for i in (0, 2, 3, 5)] == [
        tmp_path / name for name in ("z.png", "folder/a.png", "folder/b.png", "z.png")
    ]
    assert expanded[1] is RGB
    assert expanded[4] is image
    assert len(expanded) == 6


@pytest.mark.parametrize(
    "source", [RGB, torch.zeros(3, 4, 5), Image.new("RGB", (5, 4))], ids=["array", "tensor", "PIL"]
)
def test_one_image_is_a_list_of_one(source: Any) -> None:
    (only,) = expand_sources(source)
    assert only is source


@pytest.mark.parametrize("sources", [[], ()])
def test_no_sources_are_no_images(sources: Any) -> None:
    assert expand_sources(sources) == []


def test_images_are_called_by_their_path_or_their_place() -> None:
    assert source_name(Path("a") / "b.png", 3) == "a/b.png"
    assert source_name("b.png", 3) == "b.png"
    assert source_name(RGB, 3) == "image 3"


def test_content_of_a_wrong_type_is_not_called_a_damaged_image(tmp_path: Path) -> None:
    wrong: Any
    for wrong, kind in (("x.png", "str"), (tmp_path, "Path"), (None, "NoneType"), (BytesIO(b""), "BytesIO")):
        with pytest.raises(
            ConfigError, match=rf"^EncodedImage's content is a \w*{kind}; expected the bytes of an image"
        ):
            EncodedImage("upload", wrong)
    with pytest.raises(ConfigError, match=r"^EncodedImage's name is a bytes; expected text"):
        EncodedImage(b"content", b"content")  # type: ignore[arg-type]
    Image.fromarray(RGB).save(tmp_path / "x.png")
    content = (tmp_path / "x.png").read_bytes()
    for held in (bytearray(content), memoryview(content)):
        assert (rgb_from(EncodedImage("upload", held)) == RGB).all()  # type: ignore[arg-type]


def test_an_open_file_is_refused_with_the_form_to_use(tmp_path: Path) -> None:
    (tmp_path / "x.png").touch()
    with (tmp_path / "x.png").open("rb") as stream:
        for source in (stream, BytesIO(b"content")):
            with pytest.raises(ImageError, match=r"is a Buffered|is a BytesIO") as caught:
                rgb_from(source)
            assert "expected EncodedImage(name, file.read()) for an open file" in str(caught.value)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_the_content_of_a_file_is_the_image_of_the_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(RGB).save(path, exif=exif)
    encoded = EncodedImage("upload 7", path.read_bytes())
    assert (rgb_from(encoded) == rgb_from(path)).all()
    assert source_name(encoded, 3) == "upload 7"
    for damaged, reason in ((b"", "is not an image in a known format"), (encoded.content[:150], "")):
        with pytest.raises(ImageError, match=f"^upload 7.*{reason}"):
            rgb_from(EncodedImage("upload 7", damaged))
