"""A predictor on images of every form and size, in both backends that run everywhere."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from condinst_deploy.contract import InstanceDetections, Selection
from condinst_deploy.errors import ConfigError, ImageError
from condinst_deploy.evaluation.agreement import ONNX_TOLERANCE, agreement
from condinst_deploy.model.checkpoints import load_model, save_model
from condinst_deploy.model.fixed_slots import SCORE_THRESHOLD
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from condinst_deploy.runtime.predictor import Predictor, load_backend
from condinst_export.onnx_file import ExportOptions, onnx_from_model, with_options
from tests.support.models import SLIM, manifest_of, noise_image, seeded_model
from tests.support.predictions import BACKENDS, IMAGE, MIXED, SAME_PADDED, assert_equal, assert_well_formed

pytestmark = pytest.mark.usefixtures("one_thread")


SIZES = {
    "landscape": (128, 200),
    "wide": (100, 300),
    "portrait": (90, 60),
    "larger than the network": (300, 400),
    "odd": (97, 131),
    "one pixel": (1, 1),
    "1:50": (10, 500),
    "50:1": (500, 10),
}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_the_backends_agree(size: tuple[int, int], predictors: dict[str, Predictor]) -> None:
    image = noise_image(3, *size)
    (reference,), (other,) = (predictors[name]([image]) for name in BACKENDS)
    assert len(reference) > 0
    assert agreement(reference, other).within(ONNX_TOLERANCE), str(agreement(reference, other))
    assert_well_formed(reference, image)
    assert_well_formed(other, image)


def test_a_predictor_says_what_it_runs(models: dict[str, Path], predictors: dict[str, Predictor]) -> None:
    assert [predictors[name].backend.name for name in BACKENDS] == BACKENDS
    for predictor in predictors.values():
        assert predictor.backend.device == "cpu"
        assert predictor.class_names == predictor.manifest.class_names == ("class a", "class b", "class c")


@pytest.mark.parametrize("suffix", [".pt", ".PTH"])
def test_the_kind_of_file_is_known_by_its_suffix_in_any_case(
    suffix: str, slim_checkpoint: Path, tmp_path: Path
) -> None:
    path = (tmp_path / "model").with_suffix(suffix)
    path.symlink_to(slim_checkpoint)
    assert load_backend(path, "cpu").name == "torch"


def test_one_image_in_any_form_gives_the_same_detections(predictors: dict[str, Predictor], tmp_path: Path) -> None:
    predictor = predictors["onnxruntime"]
    path = tmp_path / "image.png"
    Image.fromarray(IMAGE).save(path)
    (expected,) = predictor([IMAGE])
    assert len(expected) > 0
    forms: list[Any] = [
        IMAGE,
        np.asfortranarray(IMAGE),
        Image.fromarray(IMAGE),
        torch.from_numpy(IMAGE).permute(2, 0, 1),
        path,
        str(path),
        tmp_path,
        str(tmp_path / "*.png"),
        (path,),
    ]
    for form in forms:
        (detections,) = predictor(form)
        assert_equal(detections, expected)


def test_a_mixed_list_keeps_its_order(predictors: dict[str, Predictor], tmp_path: Path) -> None:
    predictor = predictors["onnxruntime"]
    folder = tmp_path / "folder"
    folder.mkdir()
    for i, image in enumerate(MIXED[:3]):
        Image.fromarray(image).save(folder / f"{2 - i}.png")
    (folder / "notes.txt").write_text("not an image")
    sources = [MIXED[3], folder, Image.fromarray(MIXED[4]), str(folder / "[01].png"), folder / "2.png"]
    order = [3, 2, 1, 0, 4, 2, 1, 0]
    results = predictor(sources)
    assert len(results) == len(order)
    for detections, i in zip(results, order, strict=True):
        assert_equal(detections, predictor([MIXED[i]])[0])


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("empty", [[], ()])
def test_no_images_give_no_results(empty: Any, name: str, predictors: dict[str, Predictor]) -> None:
    assert predictors[name](empty) == []
    assert list(predictors[name].stream(empty)) == []


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("nothing.jpg", "no image at nothing.jpg"),
        ("nothing*.jpg", r"nothing matches nothing\*"),
        (None, "an image is a NoneType"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "shape"),
        (torch.zeros(3, 8, 8), "float32"),
        (np.zeros((0, 8, 3), dtype=np.uint8), "not empty"),
    ],
)
def test_what_is_no_image_is_an_error(source: Any, reason: str, predictors: dict[str, Predictor]) -> None:
    with pytest.raises(ImageError, match=reason):
        predictors["onnxruntime"](source)


def test_an_empty_folder_is_an_error(predictors: dict[str, Predictor], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=f"{tmp_path} has no images"):
        predictors["onnxruntime"](tmp_path)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("images", [SAME_PADDED, MIXED], ids=["one padded shape", "mixed shapes"])
def test_batches_change_nothing(
    images: list[np.ndarray[Any, Any]], name: str, models: dict[str, Path], predictors: dict[str, Predictor]
) -> None:
    single = predictors[name](images)
    with Predictor(models[name], device="cpu", batch_size=4) as predictor:
        batched = predictor(images)
    assert len(single) == len(batched) == len(images)
    for reference, other in zip(single, batched, strict=True):
        assert len(reference) > 0
        assert reference.masks.size == other.masks.size
        assert agreement(reference, other).within(ONNX_TOLERANCE), str(agreement(reference, other))


def test_only_images_of_one_padded_shape_share_a_batch(slim_onnx: Path) -> None:
    shapes = []

    class Watched(OnnxRuntimeBackend):
        def forward(self, inputs: Any) -> Any:
            shapes.append(inputs.images.shape)
            return super().forward(inputs)

    with Predictor(Watched.load(slim_onnx, "cpu"), batch_size=2) as predictor:
        assert len(predictor([*MIXED, MIXED[0]])) == 6
    assert sorted(shapes) == [(1, 3, 96, 224), (1, 3, 128, 224), (2, 3, 128, 224), (2, 3, 192, 128)]


def assert_empty(detections: InstanceDetections, image: np.ndarray[Any, Any]) -> None:
    assert_well_formed(detections, image)
    assert len(detections) == 0
    assert (detections.names, detections.to_coco(1), detections.masks.rle()) == ([], [], [])
    np.testing.assert_array_equal(np.asarray(detections.draw(image)), image)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_threshold_of_one_leaves_well_formed_empty_results(name: str, models: dict[str, Path]) -> None:
    with Predictor(models[name], device="cpu", score_threshold=1.0, batch_size=2) as predictor:
        for detections, image in zip(predictor(MIXED), MIXED, strict=True):
            assert_empty(detections, image)


def that_finds_nothing(name: str, models: dict[str, Path], folder: Path) -> Path:
    """A copy of the model whose own threshold is out of reach."""
    if name == "torch":
        config = replace(SLIM, selection=Selection(score_threshold=1.0))
        save_model(folder / "model.pth", seeded_model(config), manifest_of(config))
        return folder / "model.pth"
    proto = onnx.load(models[name])
    (threshold,) = [entry for entry in proto.graph.initializer if entry.name == SCORE_THRESHOLD]
    threshold.CopyFrom(numpy_helper.from_array(np.array(1, dtype=np.float32), SCORE_THRESHOLD))
    onnx.save(proto, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.mark.parametrize("name", BACKENDS)
def test_a_network_that_finds_nothing_gives_well_formed_empty_results(
    name: str, models: dict[str, Path], tmp_path: Path
) -> None:
    with Predictor(that_finds_nothing(name, models, tmp_path), device="cpu", batch_size=2) as predictor:
        for detections, image in zip(predictor(MIXED), MIXED, strict=True):
            assert_empty(detections, image)


SLOTS = 5


FEW = replace(
    SLIM,
    depth=18,
    base_width=8,
    tower_convs=1,
    mask_branch_channels=16,
    mask_branch_convs=1,
    selection=Selection(score_threshold=0.01, max_detections=SLOTS),
)


@pytest.fixture(scope="module")
def few_slots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of five slots, and its export of the fixed shape 2x128x224."""
    folder = tmp_path_factory.mktemp("few_slots")
    save_model(folder / "few.pth", seeded_model(FEW), manifest_of(FEW))
    loaded = load_model(folder / "few.pth")
    manifest = with_options(loaded.model, loaded.manifest, ExportOptions(static_shape=(2, 128, 224)))
    onnx.save(onnx_from_model(loaded.model, manifest), folder / "few.onnx")
    return {"torch": folder / "few.pth", "onnxruntime": folder / "few.onnx"}


def test_a_model_of_k_slots_gives_its_k_best(few_slots: dict[str, Path], tmp_path: Path) -> None:
    many = replace(FEW, selection=replace(FEW.selection, max_detections=100))
    save_model(tmp_path / "many.pth", seeded_model(many), manifest_of(many))
    # all of them fill the fixed shape, so that both models see the same padding
    images = [noise_image(seed, 128, 224) for seed in (0, 1, 2)]
    results = {name: Predictor(path, device="cpu")(images) for name, path in few_slots.items()}
    every = Predictor(tmp_path / "many.pth", device="cpu")(images)
    for i, image in enumerate(images):
        assert len(every[i]) > SLOTS
        assert_equal(results["torch"][i], every[i][:SLOTS])
        assert len(results["onnxruntime"][i]) == SLOTS
        assert agreement(results["torch"][i], results["onnxruntime"][i]).within(ONNX_TOLERANCE)
        assert_well_formed(results["onnxruntime"][i], image)


def test_a_fixed_batch_is_filled_up_and_every_image_made_to_fit(few_slots: dict[str, Path]) -> None:
    images = [noise_image(seed, *size) for seed, size in enumerate([(128, 224), (300, 40), (1, 1)])]
    with Predictor(few_slots["onnxruntime"], device="cpu") as predictor:
        assert predictor.batch_size == 2
        together = predictor(images)
        assert len(together) == 3
        for image, detections in zip(images, together, strict=True):
            assert_well_formed(detections, image)
            assert len(detections) > 0
            assert agreement(detections, predictor([image])[0]).within(ONNX_TOLERANCE)


@pytest.mark.parametrize("size", [1, 2])
def test_a_batch_may_be_smaller_than_a_fixed_one(size: int, few_slots: dict[str, Path]) -> None:
    with Predictor(few_slots["onnxruntime"], device="cpu", batch_size=size) as predictor:
        assert [len(d) for d in predictor([noise_image(seed, 128, 224) for seed in range(3)])] == [SLOTS] * 3


def test_a_batch_larger_than_a_fixed_one_is_an_error(few_slots: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="batch_size is 3; the model was exported for 2 at a time"):
        Predictor(few_slots["onnxruntime"], device="cpu", batch_size=3)
