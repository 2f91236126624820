"""Images are checked by their headers before the first step: those that are trained on, and those of evaluations."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from condinst_deploy.contract import Preprocessing
from condinst_deploy.data.analysis import analyse
from condinst_deploy.data.coco import CocoDataset, evaluation_set
from condinst_deploy.data.data_report import DataReport
from condinst_deploy.errors import DataError
from condinst_deploy.imaging.image_sizes import header_of, headers_of
from tests.support.models import noise_image

WIDTH, HEIGHT = 200, 160
PREPROCESSING = Preprocessing(short_side=HEIGHT, long_side=1333, pad_divisor=32)


def written(folder: Path, names: list[str]) -> tuple[Path, Path]:
    """Annotations of images of one size, with an object on each; images that are missing are made."""
    folder.mkdir(exist_ok=True)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number, name in enumerate(names, 1):
        if not (folder / name).exists():
            Image.new("RGB", (WIDTH, HEIGHT), (number % 256, len(str(folder)) % 256, 9)).save(folder / name)
        images.append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        corners = [60, 50, 100, 50, 100, 80, 60, 80]
        place = {"bbox": [60, 50, 40, 30], "segmentation": [corners], "area": 1200}
        objects.append({"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, **place})
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "bee"}]}
    (folder / "set.json").write_text(json.dumps(content))
    return folder / "set.json", folder


def report_of(train: tuple[Path, Path], val: tuple[Path, Path] | None = None) -> DataReport:
    data = CocoDataset(*train, training=True)
    return analyse(data, PREPROCESSING, (HEIGHT,), None if val is None else evaluation_set(*val))


def test_sizes_that_differ_from_the_files_are_refused_by_what_is_wrong(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "1.jpg", exif=turned)  # upright: as annotated
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "2.jpg", exif=turned)
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "3.jpg")
    Image.new("RGB", (WIDTH // 2, HEIGHT // 2)).save(tmp_path / "4.jpg")
    (tmp_path / "5.jpg").write_bytes(b"no image")
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "6.tif", exif=turned)
    Image.new("F", (WIDTH, HEIGHT)).save(tmp_path / "7.tif")
    names = [*(f"{number}.jpg" for number in range(1, 6)), "6.tif", "7.tif"]
    report = report_of(written(tmp_path, names))
    assert {error.what.split(",")[0]: error.named for error in report.errors} == {
        "that cannot be read": (
            "image 5: 5.jpg, not an image in a known format",
            "image 7: 7.tif, it has floating-point pixels; convert it to 8 bits first",
        ),
        "that EXIF turns by 90 degrees": (
            "image 2: 2.jpg is 160x200, annotated 200x160",
            "image 6: 6.tif is 160x200, annotated 200x160",
        ),
        "whose height and width are annotated the other way round": ("image 3: 3.jpg is 160x200, annotated 200x160",),
        "of another size than annotated": ("image 4: 4.jpg is 100x80, annotated 200x160",),
    }
    assert "annotate the upright image, or remove the EXIF orientation" in report.text()


def test_images_of_the_validation_set_are_checked_alike(tmp_path: Path) -> None:
    """They would be read at the first evaluation, hours later."""
    val = tmp_path / "val"
    val.mkdir()
    (val / "2.jpg").write_bytes(b"no image")
    Image.new("RGB", (HEIGHT, WIDTH)).save(val / "3.jpg")
    Image.new("RGB", (30, 20)).save(val / "4.jpg")
    report = report_of(written(tmp_path / "train", ["1.jpg"]), written(val, [f"{n}.jpg" for n in range(1, 5)]))
    assert [str(error) for error in report.errors] == [
        "1 validation image that cannot be read (image 2: 2.jpg, not an image in a known format)",
        "1 validation image whose height and width are annotated the other way round"
        " (image 3: 3.jpg is 160x200, annotated 200x160)",
        "1 validation image of another size than annotated (image 4: 4.jpg is 30x20, annotated 200x160);"
        " annotations must be of the files themselves",
    ]
    assert f"error: {val / 'set.json'}: 1 validation image that cannot be read" in report.text()
    with pytest.raises(DataError, match=rf"^{val / 'set.json'} cannot be evaluated on: 1 validation image that cannot"):
        report.check()


def test_findings_in_both_sets_name_the_file_that_they_are_about(tmp_path: Path) -> None:
    folders = tmp_path / "train", tmp_path / "val"
    for folder in folders:
        folder.mkdir()
        (folder / "1.jpg").write_bytes(b"no image" * len(folder.name))
    train, val = (written(folder, ["1.jpg"]) for folder in folders)
    with pytest.raises(DataError) as raised:
        report_of(train, val).check()
    unreadable = "that cannot be read (image 1: 1.jpg, not an image in a known format)"
    assert str(raised.value) == (
        f"{train[0]} cannot be trained on: 1 image {unreadable};"
        f" {val[0]} cannot be evaluated on: 1 validation image {unreadable}"
    )


@pytest.mark.parametrize("ending", ["jpg", "png", "gif"])
def test_files_that_are_cut_off_are_refused_in_both_sets(ending: str, tmp_path: Path) -> None:
    """Others that lack the end of their format, and can be decoded, are not."""
    names = [f"{n}.{ending}" for n in (1, 2, 3)]
    sets = []
    for seed, folder in enumerate((tmp_path / "train", tmp_path / "val")):
        folder.mkdir()
        for number, name in enumerate(names):
            Image.fromarray(noise_image(10 * seed + number, HEIGHT, WIDTH)).save(folder / name)
        whole, cut, longer = (folder / name for name in names)
        whole.write_bytes(whole.read_bytes() + bytes(20))
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
        longer.write_bytes(longer.read_bytes() + b"more of the camera's")
        sets.append(written(folder, names))
    assert [header.ends_whole for header in headers_of([tmp_path / "val" / name for name in names])] == [
        True,
        False,
        False,
    ]
    found = f"that cannot be decoded to the end (image 2: 2.{ending}); they are cut off: copy them again"
    assert [str(error) for error in report_of(*sets).errors] == [f"1 image {found}", f"1 validation image {found}"]


def test_a_validation_set_without_objects_is_a_warning(tmp_path: Path) -> None:
    """A run would go to its end without an average precision."""
    train, val = written(tmp_path / "train", ["1.jpg"]), written(tmp_path / "val", ["1.jpg"])
    content = json.loads(val[0].read_text())
    (crowd,) = (each | {"iscrowd": 1} for each in content["annotations"])
    (small,) = (each | {"area": 0} for each in content["annotations"])  # it counts, as in pycocotools
    found = []
    for annotations in ([], [crowd], [small], content["annotations"]):
        val[0].write_text(json.dumps(content | {"annotations": annotations}))
        found.append([str(warning) for warning in report_of(train, val).warnings])
    warning = (
        "1 validation set without an object (set.json);"
        " no AP can be measured, and no best model is kept: name a set with objects"
    )
    area = (
        "1 object in the validation set whose area is not its mask's (annotation 1: 0 or less);"
        " AP of small, medium and large objects goes by it: write the mask's area, or leave it out"
    )
    assert found == [[warning], [warning], [area], []]


def test_twenty_files_are_named_and_all_are_counted(tmp_path: Path) -> None:
    val = tmp_path / "val"
    val.mkdir()
    for number in range(23):
        (val / f"{number}.jpg").write_bytes(b"no image")
    (error,) = report_of(written(tmp_path / "train", ["1.jpg"]), written(val, [f"{n}.jpg" for n in range(23)])).errors
    assert str(error).startswith("23 validation images that cannot be read (image 1: 0.jpg")
    assert len(error.named) == 20
    assert str(error).endswith("image 20: 19.jpg, not an image in a known format, ...)")


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8, 99])
def test_a_header_gives_the_size_that_decoding_gives(ending: str, orientation: int, tmp_path: Path) -> None:
    from condinst_deploy.imaging.decode import rgb_from

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"image.{ending}"
    Image.new("RGB", (30, 20), "red").save(path, exif=exif)
    assert header_of(path).size == rgb_from(path).shape[:2]


def test_headers_come_in_order_and_no_pixel_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{n}.{'png' if n % 2 else 'jpg'}" for n in range(20)]
    for n, path in enumerate(paths):
        Image.new("RGB", (40 + n, 30)).save(path)

    def fail(*_: object) -> None:
        raise AssertionError("an image was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    assert [header.size for header in headers_of(paths)] == [(30, 40 + n) for n in range(20)]
