"""Streams of images through a real model."""

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.errors import ConfigError, ImageError
from condinst_deploy.evaluation.agreement import ONNX_TOLERANCE, agreement, merged
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.runtime.preprocessing.types import InputOptions
from tests.support.batches import host_batch
from tests.support.models import noise_image
from tests.support.predictions import IMAGE, MIXED, assert_equal

pytestmark = pytest.mark.usefixtures("one_thread")


def unpipelined(predictor: Predictor, images: list[Any]) -> list[InstanceDetections]:
    """Return the results of the backend's verbs, called one after the other, for the batches of each window."""
    backend, results = predictor.backend, dict[int, InstanceDetections]()
    for start in range(0, len(images), predictor.window):
        window = range(start, min(start + predictor.window, len(images)))
        shapes = {i: backend.geometry(images[i]).padded for i in window}
        for shape in set(shapes.values()):
            same = [i for i in window if shapes[i] == shape]
            for k in range(0, len(same), predictor.batch_size):
                batch = same[k : k + predictor.batch_size]
                inputs, geometries = host_batch(backend, [images[i] for i in batch])
                found = backend.postprocess(backend.forward(inputs), geometries)
                results |= dict(zip(batch, found, strict=True))
    return [results[i] for i in range(len(images))]


@pytest.mark.parametrize(("name", "batch_size"), [("torch", 1), ("onnxruntime", 1), ("onnxruntime", 2)])
def test_a_stream_gives_exactly_what_the_verbs_give(name: str, batch_size: int, models: dict[str, Path]) -> None:
    with Predictor(models[name], device="cpu", batch_size=batch_size) as predictor:
        expected = unpipelined(predictor, MIXED)
        predictions = list(predictor.stream(iter(MIXED)))
    for prediction, detections, image in zip(predictions, expected, MIXED, strict=True):
        assert prediction.detections is not None
        assert len(detections) > 0
        assert_equal(prediction.detections, detections)
        np.testing.assert_array_equal(prediction.image, image)


def test_one_image_alone_gives_exactly_what_it_gives_in_a_stream(predictors: dict[str, Predictor]) -> None:
    predictor = predictors["onnxruntime"]
    before = threading.active_count()
    (alone,) = predictor([IMAGE])
    assert threading.active_count() == before
    for detections in predictor([IMAGE, IMAGE]):
        assert_equal(detections, alone)


def test_fast_pixels_give_nearly_the_same_detections(predictors: dict[str, Predictor], slim_onnx: Path) -> None:
    images = [noise_image(seed, 300, 400) for seed in range(2)]
    with Predictor(slim_onnx, device="cpu", inputs=InputOptions("fast")) as predictor:
        pairs = zip(predictors["onnxruntime"](images), predictor(images), strict=True)
        total = merged(agreement(exact, fast) for exact, fast in pairs)
    assert total.matched > 0
    assert total.matched_share > 0.95
    assert np.median(total.mask_ious) > 0.99


def test_a_stream_takes_no_more_images_than_it_says(predictors: dict[str, Predictor]) -> None:
    taken = []

    def endless() -> Iterator[Any]:
        while True:
            taken.append(1)
            yield IMAGE

    predictor = predictors["onnxruntime"]
    with closing(predictor.stream(endless())) as stream:
        assert taken == []
        for i in range(3):
            assert next(stream).detections is not None
            assert len(taken) <= i + predictor.max_in_flight
    assert [thread for thread in threading.enumerate() if thread.name.startswith("condinst-")] == []


@pytest.fixture
def one_of_three_is_corrupt(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.jpg" for i in range(3)]
    for path in paths:
        Image.fromarray(IMAGE).save(path)
    paths[1].write_bytes(paths[1].read_bytes()[:500])
    return paths


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_stream_reports_a_corrupt_image_and_goes_on(
    batch_size: int, one_of_three_is_corrupt: list[Path], slim_onnx: Path
) -> None:
    first, corrupt, last = one_of_three_is_corrupt
    with Predictor(slim_onnx, device="cpu", batch_size=batch_size) as predictor:
        predictions = list(predictor.stream([first, corrupt, last, None]))
        expected = predictor([first])[0]
    assert [p.name for p in predictions] == [str(first), str(corrupt), str(last), "image 3"]
    for i in (0, 2):
        assert predictions[i].error is None
        assert predictions[i].image is not None
        detections = predictions[i].detections
        assert detections is not None
        assert agreement(expected, detections).within(ONNX_TOLERANCE)
    for i, named in ((1, str(corrupt)), (3, "NoneType")):
        assert (predictions[i].image, predictions[i].detections) == (None, None)
        assert isinstance(predictions[i].error, ImageError)
        assert named in str(predictions[i].error)


def test_a_call_raises_on_a_corrupt_image_and_names_it(
    one_of_three_is_corrupt: list[Path], predictors: dict[str, Predictor]
) -> None:
    with pytest.raises(ImageError, match=str(one_of_three_is_corrupt[1])):
        predictors["onnxruntime"](one_of_three_is_corrupt)


def test_a_stream_takes_a_folder_and_refuses_a_single_array(slim_checkpoint: Path, tmp_path: Path) -> None:
    for name in "ab":
        Image.fromarray(noise_image(0, 64, 64)).save(tmp_path / f"{name}.png")
    with Predictor(slim_checkpoint, device="cpu") as predictor:
        assert [Path(one.name).name for one in predictor.stream(tmp_path)] == ["a.png", "b.png"]
        with pytest.raises(ConfigError, match="expected a list"):
            next(iter(predictor.stream(noise_image(0, 64, 64))))
        with pytest.raises(ConfigError, match="stream was given 5; expected images to iterate over"):
            next(iter(predictor.stream(5)))  # type: ignore[arg-type]
