"""Messages for images that are not where the annotations say."""

from pathlib import Path

import pytest

from condinst_deploy.data.coco import evaluation_set
from condinst_deploy.errors import DataError
from tests.support import small_coco


def test_a_folder_with_the_name_of_an_image_is_no_other_spelling_of_it(tmp_path: Path) -> None:
    annotations, images = small_coco.written(tmp_path)
    name = small_coco.content()["images"][0]["file_name"]
    (images / name).unlink()
    (images / name).mkdir()
    with pytest.raises(DataError, match=rf"; {name} in it is not a file$"):
        evaluation_set(annotations, images)


def test_an_empty_folder_of_images_is_said(tmp_path: Path) -> None:
    annotations, _ = small_coco.written(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"this folder is empty: file_name is relative"):
        evaluation_set(annotations, tmp_path / "empty")
