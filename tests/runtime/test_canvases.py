"""Padding to a few canvases, so that more images share a batch."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from condinst_deploy import Predictor
from condinst_deploy.contract import NetworkInputs
from condinst_deploy.errors import ConfigError
from condinst_deploy.runtime.backend import Backend
from condinst_deploy.runtime.canvases import canvas_from, smallest
from condinst_deploy.runtime.observer import NETWORK, StageTimer
from tests.support.models import noise_image

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_smallest_canvas_that_holds_an_image_is_chosen() -> None:
    canvases = [(256, 256), (128, 224), (224, 128)]
    assert smallest(canvases, (128, 160)) == (128, 224)
    assert smallest(canvases, (160, 96)) == (224, 128)
    assert smallest(canvases, (160, 160)) == (256, 256)
    assert smallest(canvases, (288, 32)) == (288, 32)
    assert smallest([], (32, 64)) == (32, 64)


def test_images_of_several_padded_sizes_share_a_batch(slim_onnx: Path) -> None:
    images = [noise_image(seed, 128, width) for seed, width in enumerate((128, 160, 192, 224))]
    timer = StageTimer()
    with Predictor(slim_onnx, device="cpu", batch_size=4, canvases=[(128, 224)], observer=timer) as predictor:
        found = predictor(images)
    assert [len(each.images) for each in timer.take() if each.stage == NETWORK] == [4]
    for image, detections in zip(images, found, strict=True):
        assert detections.masks.size == image.shape[:2]
        assert (detections.boxes[:, 2] <= image.shape[1]).all()


def test_an_image_of_exactly_the_canvas_gives_what_it_gave(slim_onnx: Path) -> None:
    image = noise_image(0, 128, 224)
    with Predictor(slim_onnx, device="cpu") as own:
        (want,) = own(image)
        (found,) = Predictor(own.backend, canvases=[(128, 224), (256, 256)])(image)
    np.testing.assert_array_equal(found.boxes, want.boxes)
    np.testing.assert_array_equal(found.scores, want.scores)
    assert found.masks.rle() == want.masks.rle()


@pytest.mark.parametrize(
    "canvases",
    [[], "128x224", [(128,)], [(100, 224)], [(128, 0)], [(128.0, 224)], [128, 224], 3, [(32, 32000)]],
    ids=str,
)
def test_canvases_that_are_none_are_refused(canvases: Any, slim_onnx: Path) -> None:
    with pytest.raises(ConfigError, match=r"canvas(es)? is .*; expected"):
        Predictor(slim_onnx, device="cpu", canvases=canvases)


def test_a_canvas_as_it_is_typed() -> None:
    assert canvas_from("800X1344", "--canvas") == (800, 1344)
    for text in ("800", "800x", "x", "-1x32", "800x1344x3"):
        with pytest.raises(ConfigError, match="expected HEIGHTxWIDTH"):
            canvas_from(text, "--canvas")


def test_a_model_of_a_fixed_size_takes_none(slim_onnx: Path) -> None:
    with Predictor(slim_onnx, device="cpu") as predictor:
        backend: Backend = predictor.backend
        backend.manifest = replace(backend.manifest, static_shape=(1, 128, 224))
        with pytest.raises(ConfigError, match="a model of the fixed size 128x224"):
            Predictor(backend, canvases=[(128, 224)])


def test_detections_are_those_of_the_padded_network(slim_onnx: Path) -> None:
    """What the option computes is the network on the larger canvas, zeros around the image."""
    image = noise_image(3, 128, 160)
    with Predictor(slim_onnx, device="cpu") as own:
        backend = own.backend
        padded = Predictor(backend, canvases=[(192, 224)]).stages.prepare(image, "image")
        images, sizes = padded.inputs.on_host()
        (small,) = (own.stages.prepare(image, "image").inputs.on_host().images,)
        assert images.shape == (1, 3, 192, 224)
        np.testing.assert_array_equal(images[..., :128, :160], small[..., :128, :160])
        assert not images[..., 128:, :].any()
        assert not images[..., 160:].any()
        (want,) = backend.postprocess(backend.forward(NetworkInputs(images, sizes)), [padded.geometry])
        (found,) = Predictor(backend, canvases=[(192, 224)])(image)
    np.testing.assert_array_equal(found.boxes, want.boxes)
    assert found.masks.rle() == want.masks.rle()
