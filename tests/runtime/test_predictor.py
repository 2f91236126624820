import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from condinst_deploy.contract import MANIFEST_KEY, InstanceDetections, Selection
from condinst_deploy.errors import ArtifactError, BackendError, CheckpointError, ConfigError, ImageError
from condinst_deploy.evaluation.agreement import ONNX_TOLERANCE, agreement
from condinst_deploy.model.checkpoints import load_model, save_model
from condinst_deploy.runtime import onnxruntime_backend
from condinst_deploy.runtime.predictor import Predictor, load_backend
from condinst_export.graph import SCORE_THRESHOLD
from condinst_export.onnx_file import ExportOptions, onnx_from_model, with_options
from tests.models import SLIM, SLIM_ADELAIDET, manifest_of, noise_picture, seeded_model

BACKENDS = ["torch", "onnxruntime"]
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

PICTURE = noise_picture(0, 128, 200)
SAME_PADDED = [noise_picture(seed, height, 200) for seed, height in enumerate((128, 126, 120, 127, 125))]
MIXED = [
    noise_picture(seed, *size) for seed, size in enumerate(((128, 200), (90, 60), (128, 200), (100, 300), (90, 60)))
]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def models(slim_checkpoint: Path, slim_onnx: Path) -> dict[str, Path]:
    return {"torch": slim_checkpoint, "onnxruntime": slim_onnx}


@pytest.fixture(scope="module")
def predictors(models: dict[str, Path]) -> Iterator[dict[str, Predictor]]:
    loaded = {name: Predictor(path, device="cpu") for name, path in models.items()}
    yield loaded
    for predictor in loaded.values():
        predictor.close()


def assert_equal(detections: InstanceDetections, expected: InstanceDetections) -> None:
    np.testing.assert_array_equal(detections.boxes, expected.boxes)
    np.testing.assert_array_equal(detections.scores, expected.scores)
    np.testing.assert_array_equal(detections.labels, expected.labels)
    np.testing.assert_array_equal(np.asarray(detections.masks), np.asarray(expected.masks))


def assert_well_formed(detections: InstanceDetections, picture: np.ndarray[Any, Any]) -> None:
    n, (height, width) = len(detections), picture.shape[:2]
    boxes, scores, masks = detections.boxes, detections.scores, np.asarray(detections.masks)
    assert (boxes.shape, masks.shape) == ((n, 4), (n, height, width))
    types = [boxes.dtype.name, scores.dtype.name, detections.labels.dtype.name, masks.dtype.name]
    assert types == ["float32", "float32", "int64", "bool"]
    border = np.array([width, height, width, height]) * (1 + 1e-6)
    assert ((boxes >= 0) & (boxes <= border)).all()
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert (np.diff(scores) <= 0).all()
    assert len(detections.names) == len(detections.to_coco(1)) == len(detections.masks.polygons()) == n
    assert detections.draw(picture).size == (width, height)


# ---- the backends agree


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_the_backends_agree(size: tuple[int, int], predictors: dict[str, Predictor]) -> None:
    picture = noise_picture(3, *size)
    (reference,), (other,) = (predictors[name]([picture]) for name in BACKENDS)
    assert len(reference) > 0
    assert agreement(reference, other).within(ONNX_TOLERANCE), str(agreement(reference, other))
    assert_well_formed(reference, picture)
    assert_well_formed(other, picture)


def test_a_predictor_says_what_it_runs(models: dict[str, Path], predictors: dict[str, Predictor]) -> None:
    assert [predictors[name].backend.name for name in BACKENDS] == BACKENDS
    for predictor in predictors.values():
        assert predictor.backend.device == "cpu"
        assert predictor.class_names == predictor.manifest.class_names == ("class a", "class b", "class c")


@pytest.mark.parametrize("suffix", [".pt", ".PTH"])
def test_the_kind_of_file_is_told_by_its_suffix_in_any_case(suffix: str, slim_checkpoint: Path, tmp_path: Path) -> None:
    path = (tmp_path / "model").with_suffix(suffix)
    path.symlink_to(slim_checkpoint)
    assert load_backend(path, "cpu").name == "torch"


# ---- pictures of every form


def test_one_picture_in_any_form_gives_the_same_detections(predictors: dict[str, Predictor], tmp_path: Path) -> None:
    predictor = predictors["onnxruntime"]
    path = tmp_path / "picture.png"
    Image.fromarray(PICTURE).save(path)
    (expected,) = predictor([PICTURE])
    assert len(expected) > 0
    forms: list[Any] = [
        PICTURE,
        np.asfortranarray(PICTURE),
        Image.fromarray(PICTURE),
        torch.from_numpy(PICTURE).permute(2, 0, 1),
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
    for i, picture in enumerate(MIXED[:3]):
        Image.fromarray(picture).save(folder / f"{2 - i}.png")
    (folder / "notes.txt").write_text("not a picture")
    sources = [MIXED[3], folder, Image.fromarray(MIXED[4]), str(folder / "[01].png"), folder / "2.png"]
    order = [3, 2, 1, 0, 4, 2, 1, 0]
    results = predictor(sources)
    assert len(results) == len(order)
    for detections, i in zip(results, order, strict=True):
        assert_equal(detections, predictor([MIXED[i]])[0])


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("empty", [[], ()])
def test_no_pictures_give_no_results(empty: Any, name: str, predictors: dict[str, Predictor]) -> None:
    assert predictors[name](empty) == []
    assert list(predictors[name].stream(empty)) == []


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("nothing.jpg", "no picture at nothing.jpg"),
        ("nothing*.jpg", r"nothing matches nothing\*"),
        (None, "a picture is a NoneType"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "shape"),
        (torch.zeros(3, 8, 8), "float32"),
        (np.zeros((0, 8, 3), dtype=np.uint8), "not empty"),
    ],
)
def test_what_is_no_picture_is_an_error(source: Any, reason: str, predictors: dict[str, Predictor]) -> None:
    with pytest.raises(ImageError, match=reason):
        predictors["onnxruntime"](source)


def test_an_empty_folder_is_an_error(predictors: dict[str, Predictor], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=f"{tmp_path} has no pictures"):
        predictors["onnxruntime"](tmp_path)


# ---- batches


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("pictures", [SAME_PADDED, MIXED], ids=["one padded shape", "mixed shapes"])
def test_batches_change_nothing(
    pictures: list[np.ndarray[Any, Any]], name: str, models: dict[str, Path], predictors: dict[str, Predictor]
) -> None:
    single = predictors[name](pictures)
    with Predictor(models[name], device="cpu", batch_size=4) as predictor:
        batched = predictor(pictures)
    assert len(single) == len(batched) == len(pictures)
    for reference, other in zip(single, batched, strict=True):
        assert len(reference) > 0
        assert reference.masks.size == other.masks.size
        assert agreement(reference, other).within(ONNX_TOLERANCE), str(agreement(reference, other))


def test_only_pictures_of_one_padded_shape_share_a_batch(slim_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Predictor(slim_onnx, device="cpu", batch_size=2) as predictor:
        shapes = []
        forward = predictor.backend.forward

        def watched(inputs: Any) -> Any:
            shapes.append(inputs.images.shape)
            return forward(inputs)

        monkeypatch.setattr(predictor.backend, "forward", watched)
        assert len(predictor([*MIXED, MIXED[0]])) == 6
    assert sorted(shapes) == [(1, 3, 96, 224), (1, 3, 128, 224), (2, 3, 128, 224), (2, 3, 192, 128)]


def test_a_stream_takes_no_more_pictures_than_it_needs(predictors: dict[str, Predictor]) -> None:
    taken = []

    def endless() -> Iterator[Any]:
        while True:
            taken.append(1)
            yield PICTURE

    stream = predictors["onnxruntime"].stream(endless())
    assert taken == []
    for i in range(1, 4):
        assert next(stream).detections is not None
        assert len(taken) == i


# ---- what is kept


def test_a_raised_threshold_filters_strictly(models: dict[str, Path], predictors: dict[str, Predictor]) -> None:
    (every,) = predictors["onnxruntime"]([PICTURE])
    threshold = float(every.scores[2])
    with Predictor(models["onnxruntime"], device="cpu", score_threshold=threshold) as predictor:
        assert_equal(predictor([PICTURE])[0], every[:2])


@pytest.mark.parametrize("threshold", [0.049, 0.0, -1.0, 1.01, float("nan")])
def test_a_threshold_cannot_be_lowered_nor_pass_one(threshold: float, slim_onnx: Path) -> None:
    with pytest.raises(ConfigError, match=r"the model was made with 0.05 and can only be raised"):
        Predictor(slim_onnx, device="cpu", score_threshold=threshold)


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        (["class b"], {1}),
        ([1], {1}),
        (["class c", "class a"], {0, 2}),
        ([0, "class c"], {0, 2}),
        ((0, 1, 2), {0, 1, 2}),
        ([], set()),
    ],
)
def test_classes_are_chosen_by_name_or_label(
    classes: list[Any], labels: set[int], slim_onnx: Path, predictors: dict[str, Predictor]
) -> None:
    (every,) = predictors["onnxruntime"]([PICTURE])
    assert set(every.labels.tolist()) == {0, 1, 2}
    with Predictor(slim_onnx, device="cpu", classes=classes) as predictor:
        assert_equal(predictor([PICTURE])[0], every[np.isin(every.labels, sorted(labels))])


@pytest.mark.parametrize("unknown", ["class d", "", "Class a", 3, -1, 1.5])
def test_an_unknown_class_is_an_error_that_lists_the_classes(unknown: Any, slim_onnx: Path) -> None:
    with pytest.raises(ConfigError, match=f"no class {unknown!r}; its classes are class a, class b, class c"):
        Predictor(slim_onnx, device="cpu", classes=["class a", unknown])


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_the_best_detections_are_kept(limit: int, slim_onnx: Path, predictors: dict[str, Predictor]) -> None:
    (every,) = predictors["onnxruntime"]([PICTURE])
    with Predictor(slim_onnx, device="cpu", max_detections=limit) as predictor:
        (kept,) = predictor([PICTURE])
    assert len(kept) == min(limit, len(every))
    assert_equal(kept, every[:limit])


def test_the_limit_counts_what_the_other_filters_keep(slim_onnx: Path, predictors: dict[str, Predictor]) -> None:
    (every,) = predictors["onnxruntime"]([PICTURE])
    with Predictor(slim_onnx, device="cpu", classes=["class b"], max_detections=2) as predictor:
        assert_equal(predictor([PICTURE])[0], every[every.labels == 1][:2])


@pytest.mark.parametrize("limit", [0, -1, 101])
def test_a_limit_outside_the_models_slots_is_an_error(limit: int, slim_onnx: Path) -> None:
    with pytest.raises(ConfigError, match=f"max_detections is {limit}; expected 1 to 100"):
        Predictor(slim_onnx, device="cpu", max_detections=limit)


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_nothing_is_an_error(size: int, slim_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=f"batch_size is {size}; expected at least 1"):
        Predictor(slim_checkpoint, device="cpu", batch_size=size)


def test_adelaidets_lowest_threshold_is_on_the_scale_of_its_scores(tmp_path: Path) -> None:
    save_model(tmp_path / "model.pth", seeded_model(SLIM_ADELAIDET), manifest_of(SLIM_ADELAIDET))
    with pytest.raises(ConfigError, match=r"score_threshold is 0.2; the model was made with") as refused:
        Predictor(tmp_path / "model.pth", device="cpu", score_threshold=0.2)
    named = re.search(r"made with (\S+)", str(refused.value))
    assert named is not None
    assert named[1] == "0.2237"  # the square root of 0.05, rounded up: what is named is accepted
    Predictor(tmp_path / "model.pth", device="cpu", score_threshold=float(named[1])).close()
    pictures = [noise_picture(seed, 128, 224) for seed in (0, 1)]
    with Predictor(tmp_path / "model.pth", device="cpu") as everything:
        found = everything(pictures)
    assert min(detections.scores.min() for detections in found) > 0.2236
    with Predictor(tmp_path / "model.pth", device="cpu", score_threshold=0.5) as sure:
        for all_of_them, few in zip(found, sure(pictures), strict=True):
            assert few.scores.tolist() == [score for score in all_of_them.scores.tolist() if score > 0.5]


# ---- zero detections, and exactly the maximum


def assert_empty(detections: InstanceDetections, picture: np.ndarray[Any, Any]) -> None:
    assert_well_formed(detections, picture)
    assert len(detections) == 0
    assert (detections.names, detections.to_coco(1), detections.masks.rle()) == ([], [], [])
    np.testing.assert_array_equal(np.asarray(detections.draw(picture)), picture)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_threshold_of_one_leaves_well_formed_empty_results(name: str, models: dict[str, Path]) -> None:
    with Predictor(models[name], device="cpu", score_threshold=1.0, batch_size=2) as predictor:
        for detections, picture in zip(predictor(MIXED), MIXED, strict=True):
            assert_empty(detections, picture)


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
        for detections, picture in zip(predictor(MIXED), MIXED, strict=True):
            assert_empty(detections, picture)


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
    pictures = [noise_picture(seed, 128, 224) for seed in (0, 1, 2)]
    results = {name: Predictor(path, device="cpu")(pictures) for name, path in few_slots.items()}
    every = Predictor(tmp_path / "many.pth", device="cpu")(pictures)
    for i, picture in enumerate(pictures):
        assert len(every[i]) > SLOTS
        assert_equal(results["torch"][i], every[i][:SLOTS])
        assert len(results["onnxruntime"][i]) == SLOTS
        assert agreement(results["torch"][i], results["onnxruntime"][i]).within(ONNX_TOLERANCE)
        assert_well_formed(results["onnxruntime"][i], picture)


def test_a_fixed_batch_is_filled_up_and_every_picture_made_to_fit(few_slots: dict[str, Path]) -> None:
    pictures = [noise_picture(seed, *size) for seed, size in enumerate([(128, 224), (300, 40), (1, 1)])]
    with Predictor(few_slots["onnxruntime"], device="cpu") as predictor:
        assert predictor.batch_size == 2
        together = predictor(pictures)
        assert len(together) == 3
        for picture, detections in zip(pictures, together, strict=True):
            assert_well_formed(detections, picture)
            assert len(detections) > 0
            assert agreement(detections, predictor([picture])[0]).within(ONNX_TOLERANCE)


@pytest.mark.parametrize("size", [1, 2])
def test_a_batch_may_be_smaller_than_a_fixed_one(size: int, few_slots: dict[str, Path]) -> None:
    with Predictor(few_slots["onnxruntime"], device="cpu", batch_size=size) as predictor:
        assert [len(d) for d in predictor([noise_picture(seed, 128, 224) for seed in range(3)])] == [SLOTS] * 3


def test_a_batch_larger_than_a_fixed_one_is_an_error(few_slots: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="batch_size is 3; the model was exported for 2 at a time"):
        Predictor(few_slots["onnxruntime"], device="cpu", batch_size=3)


# ---- pictures that cannot be read


@pytest.fixture
def one_of_three_is_corrupt(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.jpg" for i in range(3)]
    for path in paths:
        Image.fromarray(PICTURE).save(path)
    paths[1].write_bytes(paths[1].read_bytes()[:500])
    return paths


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_stream_reports_a_corrupt_picture_and_goes_on(
    batch_size: int, one_of_three_is_corrupt: list[Path], slim_onnx: Path
) -> None:
    first, corrupt, last = one_of_three_is_corrupt
    with Predictor(slim_onnx, device="cpu", batch_size=batch_size) as predictor:
        predictions = list(predictor.stream([first, corrupt, last, None]))
        expected = predictor([first])[0]
    assert [p.name for p in predictions] == [str(first), str(corrupt), str(last), "picture 3"]
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


def test_a_call_raises_on_a_corrupt_picture_and_names_it(
    one_of_three_is_corrupt: list[Path], predictors: dict[str, Predictor]
) -> None:
    with pytest.raises(ImageError, match=str(one_of_three_is_corrupt[1])):
        predictors["onnxruntime"](one_of_three_is_corrupt)


# ---- files that cannot be used


@pytest.mark.parametrize("name", ["model.txt", "model", "model.engine.bak", "."])
def test_a_file_of_an_unknown_kind_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError,
        match=r"unknown kind; expected a model, a file ending in .* \.engine, \.plan, \.onnx, \.pth, \.pt",
    ):
        Predictor(tmp_path / name)


@pytest.mark.parametrize(("name", "error"), [("no.onnx", ArtifactError), ("no.pth", CheckpointError)])
def test_a_missing_file_is_refused_by_name(name: str, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error, match=str(tmp_path / name)):
        Predictor(tmp_path / name)


@pytest.mark.parametrize(("suffix", "error"), [(".onnx", ArtifactError), (".pth", CheckpointError)])
def test_a_name_that_no_file_can_have_is_refused(suffix: str, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error, match="xxx"):
        Predictor(tmp_path / ("x" * 300 + suffix))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_onnx_file_is_refused(share: float, slim_onnx: Path, tmp_path: Path) -> None:
    whole = slim_onnx.read_bytes()
    path = tmp_path / "model.onnx"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ArtifactError, match="may be truncated or not an ONNX file") as caught:
        Predictor(path, device="cpu")
    assert str(path) in str(caught.value)


def tiny_onnx(path: Path, manifest: str | None) -> Path:
    """An identity, with or without a manifest."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "tiny", [x], [y])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if manifest is not None:
        proto.metadata_props.append(onnx.StringStringEntryProto(key=MANIFEST_KEY, value=manifest))
    onnx.save(proto, path)
    return path


def test_an_onnx_file_without_a_manifest_is_refused(tmp_path: Path) -> None:
    path = tiny_onnx(tmp_path / "model.onnx", None)
    with pytest.raises(ArtifactError, match=f"{path} is an ONNX file without this toolkit's manifest"):
        Predictor(path, device="cpu")


def test_an_onnx_file_of_other_inputs_and_outputs_is_refused(tmp_path: Path) -> None:
    path = tiny_onnx(tmp_path / "model.onnx", manifest_of(SLIM).to_json())
    with pytest.raises(ArtifactError, match=r"inputs and outputs \(\('x',\), \('y',\)\); expected"):
        Predictor(path, device="cpu")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"version":1', '"version":2', "has version 2; this release reads 1"),
        ('"version":1', '"version":"1"', "has version '1'"),
        (',"version":1', "", "has version None"),
        ('{"class_names"', '"class_names"', "not JSON"),
        ('"source":', '"sauce":', "sauce"),
        ('"class a",', "", "2 class names and 3 category ids"),
        ('"nms_iou":0.6', '"nms_iou":6', "nms_iou is 6"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(
    old: str, new: str, reason: str, slim_onnx: Path, tmp_path: Path
) -> None:
    proto = onnx.load(slim_onnx)
    (entry,) = [entry for entry in proto.metadata_props if entry.key == MANIFEST_KEY]
    assert entry.value.count(old) == 1
    entry.value = entry.value.replace(old, new)
    onnx.save(proto, tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match=reason) as caught:
        Predictor(tmp_path / "model.onnx", device="cpu")
    assert str(tmp_path / "model.onnx") in str(caught.value)


# ---- devices


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("device", ["gpu", "cuda:x", "mps", "", "meta"])
def test_an_unknown_device_is_an_error(device: str, name: str, models: dict[str, Path]) -> None:
    with pytest.raises(BackendError, match=f"device '{device}' is .* expected auto, cpu, cuda or cuda:N"):
        Predictor(models[name], device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU that PyTorch can use")
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_an_error(device: str, name: str, models: dict[str, Path]) -> None:
    with pytest.raises(BackendError, match=f"'{device}' was asked for; PyTorch sees 0 CUDA devices.*device='cpu'"):
        Predictor(models[name], device=device)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_gpu_beyond_the_last_is_an_error(name: str, models: dict[str, Path]) -> None:
    with pytest.raises(BackendError, match="'cuda:99' was asked for"):
        Predictor(models[name], device="cuda:99")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU that PyTorch can use")
def test_a_provider_that_falls_back_to_the_cpu_is_an_error(slim_onnx: Path) -> None:
    with pytest.raises(BackendError, match=r"CUDAExecutionProvider was asked for, but .* CPUExecutionProvider"):
        onnxruntime_backend._session(slim_onnx.read_bytes(), "model.onnx", "cuda", 0)


def test_the_provider_that_runs_must_be_the_one_asked_for(slim_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda self: ["OtherExecutionProvider"])
    with pytest.raises(BackendError, match=r"CPUExecutionProvider was asked for, but .* OtherExecutionProvider"):
        Predictor(slim_onnx, device="cpu")


def test_two_runtimes_in_one_folder_are_an_error(slim_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime_backend, "version", lambda name: "1.0")
    with pytest.raises(BackendError, match=r"both onnxruntime 1\.0 and onnxruntime-gpu 1\.0 are installed"):
        Predictor(slim_onnx, device="cpu")


# ---- closing


EITHER = ["torch", "onnxruntime"]


def closed_by_call(path: Path) -> Predictor:
    predictor = Predictor(path, device="cpu")
    predictor.close()
    predictor.close()
    return predictor


def closed_by_with(path: Path) -> Predictor:
    with Predictor(path, device="cpu") as predictor:
        assert len(predictor([PICTURE])) == 1
    return predictor


def closed_by_an_error(path: Path) -> Predictor:
    with pytest.raises(ImageError), Predictor(path, device="cpu") as predictor:
        predictor("nothing.jpg")
    return predictor


@pytest.mark.parametrize("name", EITHER)
@pytest.mark.parametrize("closed", [closed_by_call, closed_by_with, closed_by_an_error])
def test_a_closed_predictor_does_not_run(
    closed: Callable[[Path], Predictor], name: str, models: dict[str, Path]
) -> None:
    predictor = closed(models[name])
    with pytest.raises(BackendError, match="closed; load it again"):
        predictor([PICTURE])


@pytest.mark.parametrize("name", EITHER)
def test_a_wrong_option_closes_the_model(name: str, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    backend = load_backend(models[name], "cpu")
    monkeypatch.setattr("condinst_deploy.runtime.predictor.load_backend", lambda path, device: backend)
    with pytest.raises(ConfigError):
        Predictor(models[name], max_detections=0)
    inputs, _ = backend.preprocess([PICTURE])
    with pytest.raises(BackendError, match="closed"):
        backend.forward(inputs)


def test_a_stream_takes_a_folder_and_refuses_a_single_array(slim_checkpoint: Path, tmp_path: Path) -> None:
    for name in "ab":
        Image.fromarray(noise_picture(0, 64, 64)).save(tmp_path / f"{name}.png")
    with Predictor(slim_checkpoint, device="cpu") as predictor:
        assert [Path(one.name).name for one in predictor.stream(tmp_path)] == ["a.png", "b.png"]
        with pytest.raises(ConfigError, match="expected a list"):
            next(iter(predictor.stream(noise_picture(0, 64, 64))))
