"""An evaluation on Ray with unreadable images or ignored classes; the shards run in this process."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from condinst_deploy.errors import ImageError
from condinst_deploy.evaluation.evaluate_models import EvaluationHooks, evaluate
from condinst_deploy.evaluation.sources import EvaluationOptions
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.serving import ray_evaluation
from condinst_deploy.serving.batch.batch_driver import Plan, run_here
from condinst_deploy.serving.batch.reporting import OnEvent
from condinst_deploy.serving.batch.shard_worker import OnImage
from condinst_deploy.serving.ray_evaluation import RayDetector
from condinst_deploy.serving.ray_session import RayOptions
from tests.support.batch_runs import write_images

pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytestmark = pytest.mark.usefixtures("one_thread")


def write_annotations(folder: Path, model: Path, paths: list[Path]) -> Path:
    with Predictor(model, device="cpu") as predictor:
        pairs = zip(predictor.manifest.category_ids, predictor.class_names, strict=True)
        content: dict[str, Any] = {"categories": [{"id": i, "name": n} for i, n in pairs]}
    box = {"bbox": [2, 2, 9, 9], "segmentation": [[2, 2, 11, 2, 11, 11, 2, 11]], "area": 81, "iscrowd": 0}
    category = content["categories"][0]["id"]
    numbers = range(1, len(paths) + 1)
    content["images"] = [
        {"id": i, "file_name": path.name, "height": 32, "width": 32} for i, path in zip(numbers, paths, strict=True)
    ]
    content["annotations"] = [{**box, "id": i, "image_id": i, "category_id": category} for i in numbers]
    (folder / "truth.json").write_text(json.dumps(content))
    return folder / "truth.json"


@pytest.fixture(autouse=True)
def shards_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def run_shards(plan: Plan, options: RayOptions, on_event: OnEvent, on_image: OnImage) -> None:
        run_here(plan, on_event, on_image)

    monkeypatch.setattr(ray_evaluation, "run_on_ray", run_shards)


def test_an_image_that_could_not_be_read_is_read_again_by_the_next_run(small_model: Path, tmp_path: Path) -> None:
    """Not from the part of the run before: a disk that failed leaves size and time of the image as they were."""

    paths = write_images(tmp_path / "images", 3)
    annotations = write_annotations(tmp_path, small_model, paths)
    whole, status = paths[1].read_bytes(), paths[1].stat()
    paths[1].write_bytes(bytes(len(whole)))
    os.utime(paths[1], ns=(status.st_atime_ns, status.st_mtime_ns))

    def evaluated() -> int:
        options, hooks = EvaluationOptions(tmp_path / "out", "cpu"), EvaluationHooks(detector=RayDetector(RayOptions()))
        evaluate(annotations, tmp_path / "images", [small_model], options=options, hooks=hooks)
        return len(json.loads((tmp_path / "out" / "small.pth.results.json").read_text()))

    for _ in range(2):
        with pytest.raises(ImageError, match=r"00001\.jpg"):
            evaluated()
        assert not list((tmp_path / "out").rglob("part-*"))
    paths[1].write_bytes(whole)
    os.utime(paths[1], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert evaluated() > 0


def test_ignored_classes_are_left_out_as_in_one_process(small_model: Path, tmp_path: Path) -> None:
    paths = write_images(tmp_path / "images", 3)
    annotations = write_annotations(tmp_path, small_model, paths)
    content = json.loads(annotations.read_text())
    other = content["annotations"][0] | {"id": 100, "category_id": 1000}
    content["annotations"].append(other)
    content["categories"].append({"id": 1000, "name": "hornet"})  # the model does not have it
    annotations.write_text(json.dumps(content))

    def evaluated(out: str, hooks: EvaluationHooks) -> Any:
        options = EvaluationOptions(tmp_path / out, "cpu", ignored_classes=("hornet",))
        evaluate(annotations, tmp_path / "images", [small_model], options=options, hooks=hooks)
        return json.loads((tmp_path / out / "figures.json").read_text())

    one = evaluated("one", EvaluationHooks())
    ray = evaluated("ray", EvaluationHooks(detector=RayDetector(RayOptions())))
    assert ray["ignored_classes"] == one["ignored_classes"] == ["hornet"]
    assert [(side["box"], side["mask"]) for side in ray["sides"]] == [(s["box"], s["mask"]) for s in one["sides"]]
