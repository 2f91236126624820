"""The code inside the server, without the server: each answer is what `Predictor` gives for that request."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from condinst_deploy import ConfigError, ImageError, Predictor
from condinst_deploy.serving.protocol import RequestOptions
from condinst_deploy.serving.triton.limits import Limits
from condinst_deploy.serving.triton.service import Answer, ImageRequest, ImageService
from tests.support.images import png
from tests.support.models import noise_image
from tests.support.predictions import same


@pytest.fixture(scope="module")
def predictor(slim_onnx: Path) -> Iterator[Predictor]:
    with Predictor(slim_onnx, device="cpu", batch_size=4) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def service(predictor: Predictor) -> ImageService:
    return ImageService(predictor, Limits(image_bytes=200_000, image_pixels=300 * 300, dense_bytes=8 * 96 * 128))


def test_answers_are_those_of_the_predictor(predictor: Predictor, service: ImageService) -> None:
    images = [noise_image(seed, *size) for seed, size in enumerate([(96, 128), (64, 64), (96, 128), (128, 96)])]
    requests = [ImageRequest(png(seed, *image.shape[:2])) for seed, image in enumerate(images)]
    answers = service.answers(requests)
    for answer, wanted in zip(answers, predictor(images), strict=True):
        assert isinstance(answer, Answer)
        assert len(wanted) > 0
        assert same(answer.detections, wanted)
        assert answer.counts == [rle["counts"] for rle in wanted.masks.rle()]


def test_options_of_a_request_are_those_of_a_predictor(predictor: Predictor, service: ImageService) -> None:
    image, own = noise_image(0, 96, 128), predictor(noise_image(0, 96, 128))[0]
    threshold, name = float(own.scores[5]), own.names[2]
    for options in (
        RequestOptions(score_threshold=threshold),
        RequestOptions(classes=(name,)),
        RequestOptions(max_detections=3),
        RequestOptions(score_threshold=1.0),
        RequestOptions(threshold, (name,), 2),
    ):
        (answer,) = service.answers([ImageRequest(png(0), options)])
        chosen = Predictor(
            predictor.backend,
            score_threshold=options.score_threshold,
            classes=options.classes,
            max_detections=options.max_detections,
        )
        assert isinstance(answer, Answer)
        assert same(answer.detections, chosen(image)[0])
        assert len(answer.detections) <= (options.max_detections or len(own))


def test_one_bad_request_does_not_touch_the_others(predictor: Predictor, service: ImageService) -> None:
    bomb = io.BytesIO()
    Image.new("L", (1000, 1000)).save(bomb, "PNG")
    bad = {
        "the image has 0 bytes": ImageRequest(b""),
        "not an image in a known format": ImageRequest(b"some text"),
        "it may be truncated": ImageRequest(png(1)[:2000]),
        "at most 200000": ImageRequest(bytes(200_001)),
        "1000x1000 pixels; at most 90000": ImageRequest(bomb.getvalue()),
        "the model has no class 'unicorn'": ImageRequest(png(1), RequestOptions(classes=("unicorn",))),
        "a request can only raise it": ImageRequest(png(1), RequestOptions(score_threshold=0.0)),
        "the model's own is": ImageRequest(png(1), RequestOptions(max_detections=10_000)),
        "ask for masks=rle": ImageRequest(png(1), RequestOptions(masks="dense")),
    }
    requests = [ImageRequest(png(0)), *bad.values(), ImageRequest(png(2))]
    first, *errors, last = service.answers(requests)
    for reason, error in zip(bad, errors, strict=True):
        assert isinstance(error, ImageError | ConfigError), reason
        assert reason in str(error)
    for answer, seed in ((first, 0), (last, 2)):
        assert isinstance(answer, Answer)
        assert same(answer.detections, predictor(noise_image(seed, 96, 128))[0])


def test_dense_masks_come_only_on_request(service: ImageService) -> None:
    (dense,) = service.answers([ImageRequest(png(0), RequestOptions(max_detections=2, masks="dense"))])
    (none,) = service.answers([ImageRequest(png(0), RequestOptions(masks="none"))])
    assert isinstance(dense, Answer)
    assert isinstance(none, Answer)
    assert dense.dense is not None
    assert np.array_equal(dense.dense, np.asarray(dense.detections.masks, dtype=np.uint8))
    assert (none.counts, none.dense) == ([], None)


def test_no_requests_and_no_detections_are_fine(service: ImageService) -> None:
    assert service.answers([]) == []
    (answer,) = service.answers([ImageRequest(png(0), RequestOptions(score_threshold=1.0))])
    assert isinstance(answer, Answer)
    assert (len(answer.detections), answer.counts) == (0, [])


def test_an_image_without_detections_beside_others_is_an_answer(predictor: Predictor, slim_onnx: Path) -> None:
    images = [noise_image(seed, 96, 128) for seed in range(4)]
    best = [float(found.scores[0]) for found in predictor(images)]
    with Predictor(slim_onnx, device="cpu", batch_size=4, score_threshold=min(best)) as strict:
        wanted = strict(images)
        answers = ImageService(strict).answers([ImageRequest(png(seed)) for seed in range(4)])
    assert [len(found) == 0 for found in wanted] == [score == min(best) for score in best]
    for answer, found in zip(answers, wanted, strict=True):
        assert isinstance(answer, Answer)
        assert same(answer.detections, found)


def test_limits_are_whole_numbers_above_zero() -> None:
    for wrong in (0, -1, 2.5, True, 2**60):
        with pytest.raises(ConfigError, match="image_bytes is"):
            Limits(image_bytes=wrong)  # type: ignore[arg-type]
