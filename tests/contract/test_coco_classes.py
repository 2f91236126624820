"""COCO's classes and their ids."""

import pytest

from condinst_deploy.contract.coco_classes import COCO_CLASSES


def test_coco_has_80_classes_with_the_official_ids() -> None:
    ids = list(COCO_CLASSES)
    assert len(ids) == len(set(COCO_CLASSES.values())) == 80
    assert ids == sorted(ids)
    assert set(range(1, 91)) - set(ids) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert max(ids) == 90


@pytest.mark.parametrize(
    ("label", "category_id", "name"),
    [
        (0, 1, "person"),
        (2, 3, "car"),
        (10, 11, "fire hydrant"),
        (11, 13, "stop sign"),
        (15, 17, "cat"),
        (24, 27, "backpack"),
        (39, 44, "bottle"),
        (60, 67, "dining table"),
        (61, 70, "toilet"),
        (62, 72, "tv"),
        (72, 82, "refrigerator"),
        (73, 84, "book"),
        (79, 90, "toothbrush"),
    ],
)
def test_known_coco_classes(label: int, category_id: int, name: str) -> None:
    assert list(COCO_CLASSES.items())[label] == (category_id, name)
