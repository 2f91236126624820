"""Result files as readers of JSON find them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.errors import OutputError
from condinst_deploy.masks import Masks
from condinst_deploy.runtime.coco_results import coco_results, image_ids, write_json


def detections(count: int, seed: int = 0) -> InstanceDetections:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 9, (count, 2))
    return InstanceDetections(
        boxes=np.concatenate([corners, corners + rng.uniform(1, 6, (count, 2))], axis=1).astype(np.float32),
        scores=np.sort(rng.uniform(0, 1, count).astype(np.float32))[::-1],
        labels=rng.integers(0, 2, count),
        masks=Masks.from_dense(rng.random((count, 15, 16)) < 0.3),
        class_names=("cat", "dog"),
        category_ids=(17, 18),
    )


@pytest.mark.parametrize("counts", [[], [0], [1], [0, 0, 3], [2, 0, 100, 1]], ids=str)
def test_file_is_the_list_of_all_detections(counts: list[int], tmp_path: Path) -> None:
    path = tmp_path / "detections.json"
    with coco_results(path) as writer:
        for i, count in enumerate(counts):
            writer.add(i + 1, detections(count, seed=i))
    expected = [entry for i, count in enumerate(counts) for entry in detections(count, seed=i).to_coco(i + 1)]
    assert json.loads(path.read_text(encoding="utf-8")) == expected
    assert writer.count == len(expected) == sum(counts)


def test_file_is_plain_text_with_a_line_for_each_detection(tmp_path: Path) -> None:
    with coco_results(tmp_path / "x.json") as writer:
        writer.add(1, detections(3))
    content = (tmp_path / "x.json").read_bytes()
    assert content.isascii()
    assert content.endswith(b"]\n")
    assert len(content.splitlines()) == 3


def test_folders_are_made(tmp_path: Path) -> None:
    with coco_results(tmp_path / "a" / "b" / "x.json"):
        pass
    assert json.loads((tmp_path / "a" / "b" / "x.json").read_text()) == []


def write_and_raise(path: Path, error: BaseException) -> None:
    with coco_results(path) as writer:
        writer.add(1, detections(2))
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_when_the_block_raises(error: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(error):
        write_and_raise(tmp_path / "x.json", error())
    assert list(tmp_path.iterdir()) == []


def test_older_file_stays_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("old")
    with coco_results(path) as writer:
        writer.add(1, detections(2))
        assert path.read_text() == "old"
    assert len(json.loads(path.read_text())) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_results_cannot_take_a_folders_name(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"), coco_results(tmp_path):
        pass


def test_json_file_holds_the_value(tmp_path: Path) -> None:
    value = {"names": ["Käfer", "甲虫"], "counts": [], "nothing": None, "share": 0.1}
    write_json(tmp_path / "deeper" / "x.json", value)
    assert json.loads((tmp_path / "deeper" / "x.json").read_text(encoding="utf-8")) == value


def test_value_that_is_not_json_leaves_the_older_file(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", [1])
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", [1, object()])
    assert json.loads((tmp_path / "x.json").read_text()) == [1]
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        ([], []),
        (["000000000139.jpg"], [139]),
        (["000000000785.jpg", "000000000139.jpg"], [785, 139]),
        (["7.jpg", "a/8.png"], [7, 8]),
        (["0.jpg", "1.jpg"], [0, 1]),
        (["street.jpg"], [1]),
        (["139.jpg", "street.jpg", "7.jpg"], [1, 2, 3]),
        (["7.jpg", "007.png"], [1, 2]),
        (["a/7.jpg", "b/7.jpg"], [1, 2]),
        (["7.jpg", "7.jpg"], [1, 2]),
        (["1.5.jpg", "2.jpg"], [1, 2]),
        (["-5.jpg"], [1]),
        (["².jpg"], [1]),
        ([" 5.jpg"], [1]),
        ([f"{2**63 - 1}.jpg"], [2**63 - 1]),
        ([f"{2**63}.jpg", "5.jpg"], [1, 2]),
        (["COCO_val2014_000000000042.jpg"], [1]),
    ],
    ids=str,
)
def test_image_ids(names: list[str], ids: list[int]) -> None:
    result = image_ids([Path(name) for name in names])
    assert result == ids
    assert len(set(result)) == len(names)


def test_scores_keep_their_float32_value(tmp_path: Path) -> None:
    found = detections(20)
    with coco_results(tmp_path / "x.json") as writer:
        writer.add(1, found)
    read = [entry["score"] for entry in json.loads((tmp_path / "x.json").read_text())]
    assert np.array_equal(np.array(read, dtype=np.float32), found.scores)
    assert all(math.isfinite(score) for score in read)
