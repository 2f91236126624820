"""Files of other programs carry keys of their own: they are left alone, however many there are."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from condinst_deploy.contract import ModelManifest
from condinst_deploy.data.coco import CocoDataset
from condinst_deploy.errors import ArtifactError
from condinst_deploy.evaluation.ground_truth import load_ground_truth
from condinst_deploy.evaluation.results_reader import read_results
from condinst_deploy.evaluation.threshold_file import load_thresholds
from tests.support import small_coco
from tests.support.models import SLIM, manifest_of

MANY: dict[str, Any] = {f"key {i}": None for i in range(200_000)}
FEW: dict[str, Any] = {"attributes": {"occluded": True}, "captions": ["x"], "\x1b]0;title\a": "\ud800"}


def test_annotation_files_carry_keys_of_annotation_tools(tmp_path: Path) -> None:
    plain = small_coco.content()
    extended = {key: [entry | FEW for entry in entries] for key, entries in plain.items()} | MANY
    expected, found = (
        CocoDataset(*small_coco.written(tmp_path / name, content), training=True)
        for name, content in (("plain", plain), ("extended", extended))
    )
    assert len(found) == len(expected) == 2
    for i in range(2):
        ours, theirs = found[i], expected[i]
        np.testing.assert_array_equal(ours.boxes, theirs.boxes)
        np.testing.assert_array_equal(ours.labels, theirs.labels)


def test_results_carry_keys_of_the_program_that_wrote_them(tmp_path: Path) -> None:
    ground_truth = load_ground_truth(*small_coco.written(tmp_path))
    entry = {"image_id": 139, "category_id": 1, "bbox": [10, 10, 20, 20], "score": 0.5}
    path = tmp_path / "r.json"
    path.write_text(json.dumps([entry | FEW | MANY, entry]))
    first, second = read_results(path, ground_truth)
    assert all(first[key] == second[key] for key in entry)


def test_metrics_of_a_later_version_carry_keys_that_this_one_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"model")
    points = {"overall": {"threshold": 0.25} | FEW, "per_class": [{"name": "a", "threshold": 0.5} | FEW]}
    side = {"name": "m", "settings": {}, "thresholds": points} | FEW
    (tmp_path / "figures.json").write_text(json.dumps({"sides": [side]} | MANY))
    found = load_thresholds(tmp_path / "figures.json", tmp_path / "m.onnx")
    assert (found.overall, found.classes) == (0.25, (("a", 0.5),))


def test_of_a_manifest_the_first_twenty_unknown_keys_are_named() -> None:
    values = json.loads(manifest_of(SLIM).to_json()) | MANY
    with pytest.raises(ArtifactError, match=r"'key 0', 'key 1', .*'key 19' and 199980 more; expected") as refused:
        ModelManifest.from_json(json.dumps(values))
    assert len(str(refused.value)) < 2_000
