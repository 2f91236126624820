"""INT8 files for CPUs: ranges, the pass, the comparison with float32, and CPUs that lack VNNI."""

import platform
import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper
from PIL import Image

from condinst_deploy.contract import INPUTS, MANIFEST_KEY, ModelManifest, NetworkInputs
from condinst_deploy.contract.quantization import HeldOutAgreement
from condinst_deploy.errors import ArtifactError, CondInstError, ConfigError, ExportError, VerificationError
from condinst_deploy.runtime import cpu_features, onnxruntime_backend
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from condinst_deploy.support.validation import typed
from condinst_engines.onnx_input import manifest_of as manifest_in
from condinst_export.quantization import int8_file, u8s8
from condinst_export.quantization.calibration_folder import divided, few_images
from condinst_export.quantization.calibration_images import CalibrationImages
from condinst_export.quantization.calibration_options import METHODS, CalibrationOptions, Method, calibration_from
from condinst_export.quantization.histograms import BINS, Histogram, collected
from condinst_export.quantization.int8_file import Int8Reports, int8_from_float32
from condinst_export.quantization.quantized_agreement import INT8_TOLERANCE, QuantizedTolerance
from condinst_export.quantization.thresholds import (
    FORMATS,
    Format,
    Range,
    affine,
    range_of,
    rounded,
    symmetric_scale,
)
from tests.support.graphs import small_network
from tests.support.models import IMAGES

pytestmark = pytest.mark.usefixtures("one_thread")


def histogram_of(values: npt.NDArray[np.float64], method: Method) -> Histogram:
    reach = float(np.abs(values).max())
    counts, edges = np.histogram(values, BINS[method], range=(-reach, reach))
    return Histogram(counts, edges, float(values.min()), float(values.max()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs in five cuts each."""
    path = tmp_path_factory.mktemp("images")
    for i, source in enumerate(sorted(IMAGES.iterdir())):
        image = Image.open(source).convert("RGB").resize((240, 180))
        for k in range(5):
            image.crop((8 * k, 6 * k, 160 + 8 * k, 120 + 6 * k)).save(path / f"{i}_{k}.png")
    return path


@pytest.fixture(scope="module")
def float32(slim_onnx: Path) -> tuple[onnx.ModelProto, ModelManifest]:
    proto = onnx.load(str(slim_onnx))
    return proto, manifest_in(proto, slim_onnx)


@pytest.fixture(scope="module")
def int8(float32: tuple[onnx.ModelProto, ModelManifest], folder: Path) -> tuple[onnx.ModelProto, ModelManifest]:
    return int8_from_float32(*float32, CalibrationOptions(folder, 6))


def test_every_stage_says_how_far_it_is(float32: tuple[onnx.ModelProto, ModelManifest], folder: Path) -> None:
    """Ten images: two are held out, and both graphs run on each of them."""
    stages: list[str] = []
    progress: dict[str, list[tuple[int, int]]] = {}
    reports = Int8Reports(stages.append, lambda what, done, of: progress.setdefault(what, []).append((done, of)))
    int8_from_float32(*float32, CalibrationOptions(folder, 3), reports=reports)
    tensors = len(u8s8.activations(ir.from_proto(float32[0])))
    counts = {
        "calibrating on 3 images": 3,
        f"choosing ranges of {tensors} tensors": tensors,
        "comparing with float32 on 2 other images": 4,
    }
    assert stages == list(progress) == list(counts)
    for stage, count in counts.items():
        assert progress[stage] == [(done, count) for done in range(count + 1)], stage


def test_a_result_of_few_images_is_said_to_be_one(tmp_path: Path) -> None:
    note = few_images(2)
    assert note is not None
    assert note.startswith("judged on 2 images only")
    assert "--calibration" in note
    (tmp_path / "images").mkdir()
    for i in range(100):  # the number that the message asks for is enough
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / f"{i}.png")
    assert "at least 100 images" in note
    assert few_images(len(divided(tmp_path / "images", 100).held_out)) is None
    assert few_images(19) is not None


def test_a_uniform_tensor_keeps_its_whole_range() -> None:
    values = np.linspace(-1, 3, 20_001)
    for method in METHODS:
        found = range_of(histogram_of(values, method), method, "uint8")
        assert (found.low, found.high) == pytest.approx((-1, 3), rel=0.03)
    assert range_of(histogram_of(values, "max"), "max", "int8").magnitude == 3


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_methods_that_clip_lose_less_where_one_value_stands_far_out(kind: Format) -> None:
    values = np.abs(np.random.default_rng(0).normal(size=1_000_000))
    values[0] = 60
    found = {method: range_of(histogram_of(values, method), method, kind) for method in METHODS}
    assert found["mse"].high < 0.9 * found["max"].high
    assert found["entropy"].high < 0.95 * found["max"].high
    errors = {m: float(((values - rounded(values, r, kind)) ** 2).sum()) for m, r in found.items()}
    assert errors["mse"] < errors["max"]


@pytest.mark.parametrize("kind", FORMATS)
def test_zeros_of_a_relu_do_not_narrow_the_range_of_the_entropy_method(kind: Format) -> None:
    """ONNX Runtime's own entropy method takes half of this range: it spreads the zeros over their code's bins."""
    values = np.maximum(np.random.default_rng(0).normal(size=400_000), 0)
    found = range_of(histogram_of(values, "entropy"), "entropy", kind)
    assert found.high > 0.8 * values.max()
    best = range_of(histogram_of(values, "mse"), "mse", kind)
    errors = [float(((values - rounded(values, each, kind)) ** 2).sum()) for each in (found, best)]
    assert errors[0] < 1.25 * errors[1]


def test_a_tensor_of_zeros_has_a_scale() -> None:
    zeros = Histogram(np.array([5]), np.array([0.0, 0.0]), 0.0, 0.0)
    for kind in FORMATS:
        for method in METHODS:
            found = range_of(zeros, method, kind)
            assert rounded(np.zeros(3), found, kind).tolist() == [0, 0, 0]


def test_zero_and_the_ends_of_a_range_are_kept() -> None:
    scale, zero = affine(Range(-1.0, 3.0))
    assert 0 <= zero <= 255
    assert rounded(np.array([0.0, -1.0, 3.0, 9.0]), Range(-1.0, 3.0), "uint8") == pytest.approx(
        [0, -1, 3, 3], abs=scale
    )
    assert symmetric_scale(Range(-1.0, 3.0), "int8") == pytest.approx(3 / 127)
    assert rounded(np.array([0.0, 3.0, 9.0]), Range(-1.0, 3.0), "fp8") == pytest.approx([0, 3, 3])


def test_histograms_count_every_image_and_know_the_extremes() -> None:
    proto = small_network()
    name = next(node.output[0] for node in proto.graph.node if node.op_type == "Conv")
    rng = np.random.default_rng(0)
    size = np.array([[32, 64]], dtype=np.int32)
    batches = [NetworkInputs(rng.integers(0, 256, (1, 3, 32, 64), dtype=np.uint8), size) for _ in range(3)]
    own = onnx.ModelProto()
    own.CopyFrom(proto)
    own.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(own.SerializeToString(), providers=["CPUExecutionProvider"])
    values = [session.run([name], dict(zip(INPUTS, batch, strict=True)))[0] for batch in batches]
    done: list[int] = []
    found = collected(proto, [name], batches, "max", done.append)
    assert done == [1, 2, 3]
    assert found.images == 3
    histogram = found.tensors[name]
    assert histogram.counts.sum() == sum(value.size for value in values)
    assert histogram.lowest == min(value.min() for value in values)
    assert histogram.highest == max(value.max() for value in values)


def test_a_folder_is_divided_and_no_image_is_in_both_parts(folder: Path, float32: tuple[object, ModelManifest]) -> None:
    images = CalibrationImages(folder, float32[1], 6)
    judged, calibrated = images.held_out.paths, images.calibration.paths
    assert len(judged) == 2
    assert len(calibrated) == 6
    assert not set(judged) & set(calibrated)
    assert {path.name[0] for path in calibrated} == {"0", "1"}


def test_a_folder_of_one_image_is_refused(tmp_path: Path, float32: tuple[object, ModelManifest]) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png")
    with pytest.raises(ConfigError, match="holds 1 image; expected at least 2"):
        CalibrationImages(tmp_path, float32[1])


def test_predictors_stay_in_float32_and_levels_get_weights_of_their_own(
    int8: tuple[onnx.ModelProto, ModelManifest], float32: tuple[onnx.ModelProto, ModelManifest]
) -> None:
    proto, manifest = int8
    convolutions = {node.name: node for node in proto.graph.node if node.op_type == "Conv"}
    makers = {name: node for node in proto.graph.node for name in node.output}
    types = {entry.name: entry.data_type for entry in proto.graph.initializer}
    quantized, weights = [], []
    for name, node in convolutions.items():
        sources = [makers[value].op_type if value in makers else "" for value in node.input]
        if name.startswith(("head.cls_logits", "head.box_pred", "head.centerness", "mask_branch.features")):
            assert sources[1:] == ["", ""]
            continue
        assert sources == ["DequantizeLinear"] * 3, name
        codes = [makers[value].input[0] for value in node.input]
        assert types[codes[1]] == onnx.TensorProto.INT8
        assert types[codes[2]] == onnx.TensorProto.INT32
        quantized.append(name)
        weights.append(codes[1])
    assert len(set(weights)) == len(weights)
    assert manifest.quantization is not None
    assert manifest.quantization.convolutions == len(quantized) == 108
    onnx.checker.check_model(proto, full_check=True)
    assert [o.name for o in proto.graph.output] == [o.name for o in float32[0].graph.output]


@pytest.mark.parametrize("reach", [255.0, 0.0])
def test_a_channel_of_zeros_keeps_its_bias(reach: float) -> None:
    """int32 codes of a bias count in units of input scale times weight scale; pruned channels have tiny ones."""
    proto = small_network()
    weight = next(entry for entry in proto.graph.initializer if entry.name == "second_weight")
    values = numpy_helper.to_array(weight).copy()
    values[0], values[1] = 0.0, values[1] * 1e-12
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    second = next(node for node in proto.graph.node if node.output[0] == "second")
    second.input.append("second_bias")
    bias = np.array([100.0, -50.0, 25.0, 0.0], dtype=np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(bias, "second_bias"))
    # an input that was 0 on all calibration images has the smallest scale there is
    ranges = {"pixels": Range(0, reach), "active": Range(0, reach), "second": Range(-600, 600)}
    quantized = u8s8.quantized(proto, ranges, ())
    batch = (np.full((1, 3, 32, 64), int(reach > 0), dtype=np.uint8), np.zeros((1, 2), np.int32))
    want, have = (
        onnxruntime.InferenceSession(g.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            ["boxes"], dict(zip(INPUTS, batch, strict=True))
        )[0]
        for g in (proto, quantized)
    )
    assert want[0, :, 4, 4] == pytest.approx(bias, abs=5)
    assert have == pytest.approx(want, abs=1.5 * 1200 / 255)


def test_onnx_runtime_computes_the_convolutions_in_integers(
    int8: tuple[onnx.ModelProto, ModelManifest], tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(int8[0].SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    assert operators.count("QLinearConv") == 108


def test_the_entropy_method_keeps_about_as_many_detections_as_the_default(
    int8: tuple[onnx.ModelProto, ModelManifest],
    float32: tuple[onnx.ModelProto, ModelManifest],
    folder: Path,
) -> None:
    _, manifest = int8_from_float32(*float32, CalibrationOptions(folder, 6, "entropy"))
    default, found = int8[1].quantization, manifest.quantization
    assert default is not None
    assert found is not None
    assert found.method == "entropy"
    assert default.agreement is not None
    assert found.agreement is not None
    assert found.agreement.reference == default.agreement.reference > 10
    assert found.agreement.matched_share > default.agreement.matched_share - 0.2  # of 16 detections


def test_the_manifest_tells_how_the_file_was_made(
    int8: tuple[onnx.ModelProto, ModelManifest], folder: Path, float32: tuple[onnx.ModelProto, ModelManifest]
) -> None:
    proto, manifest = int8
    (entry,) = [entry.value for entry in proto.metadata_props if entry.key == MANIFEST_KEY]
    assert ModelManifest.from_json(entry) == manifest
    record = manifest.quantization
    assert manifest.precision == "int8"
    assert record is not None
    assert (record.method, record.images, record.source) == ("mse", 6, folder.name)
    assert record.agreement is not None
    assert record.agreement.images == 2
    assert INT8_TOLERANCE.holds(record.agreement)
    again = collected(
        float32[0],
        u8s8.activations(ir.from_proto(proto))[:0] or ["relu"],
        CalibrationImages(folder, manifest, 6).calibration,
        "mse",
    )
    assert record.images_sha256 == again.images_sha256


def test_a_scheme_that_is_not_known_is_refused(int8: tuple[onnx.ModelProto, ModelManifest]) -> None:
    record = int8[1].quantization
    assert record is not None
    values = {**record.__dict__, "scheme": "int4", "agreement": None}
    with pytest.raises((ArtifactError, ConfigError), match="int4"):
        typed(values, type(record))


@pytest.mark.parametrize("overflows", [False, True])
def test_results_are_the_same_where_onnx_runtime_takes_uint8_weights(
    overflows: bool,
    int8: tuple[onnx.ModelProto, ModelManifest],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = CalibrationImages(folder, int8[1]).held_out
    inputs, geometry = images.batch(images.paths[0])
    content = int8[0].SerializeToString()
    with OnnxRuntimeBackend.from_bytes(content, "x", "cpu") as backend:
        want = backend.postprocess(backend.forward(inputs).on_host(), [geometry])[0]
    flags = frozenset(("avx2",)) if overflows else frozenset(("avx2", "avx_vnni"))
    monkeypatch.setattr(cpu_features, "cpu_flags", lambda: flags)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    set_to: list[str] = []
    create = onnxruntime.SessionOptions

    class Options(create):  # type: ignore[misc, valid-type]
        def add_session_config_entry(self, key: str, value: str) -> None:
            if key == onnxruntime_backend.AVOID_OVERFLOW:
                set_to.append(value)
            super().add_session_config_entry(key, value)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with OnnxRuntimeBackend.from_bytes(content, "x", "cpu") as backend:
            have = backend.postprocess(backend.forward(inputs).on_host(), [geometry])[0]
    assert set_to == [str(int(overflows))]
    assert any("no VNNI" in str(warning.message) for warning in caught) == overflows
    assert len(want) > 0
    assert have.labels.tolist() == want.labels.tolist()
    assert have.boxes == pytest.approx(want.boxes, abs=0.02)
    assert have.scores == pytest.approx(want.scores, abs=1e-4)


def test_a_graph_that_is_too_far_off_is_not_written(
    float32: tuple[onnx.ModelProto, ModelManifest], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> Range:
        return Range(0.0, 1e-3)

    monkeypatch.setattr(int8_file, "range_of", wrong)
    with pytest.raises(VerificationError, match="the INT8 graph is too far from the float32 graph"):
        int8_from_float32(*float32, CalibrationOptions(folder, 2))


def test_tolerance_is_about_shares_and_masks() -> None:
    tolerance = QuantizedTolerance(0.8, 0.9)
    assert tolerance.holds(HeldOutAgreement(2, 10, 10, 0.8, 0.9, 0.9))
    assert not tolerance.holds(HeldOutAgreement(2, 10, 10, 0.79, 0.9, 0.95))
    assert not tolerance.holds(HeldOutAgreement(2, 10, 10, 0.9, 0.9, 0.89))
    assert not tolerance.holds(HeldOutAgreement(2, 10, 0, 0.0, 0.9, None))


def test_a_pattern_that_matches_no_convolution_is_refused(
    float32: tuple[onnx.ModelProto, ModelManifest], folder: Path
) -> None:
    with pytest.raises(ConfigError, match="'backbone/none' matches no convolution; names look like 'backbone"):
        int8_from_float32(*float32, CalibrationOptions(folder), ("backbone/none",))
    with pytest.raises(ConfigError, match="leaves no convolution"):
        int8_from_float32(*float32, CalibrationOptions(folder), ("*",))


def test_weights_that_are_not_finite_are_found_before_anything_is_counted(
    float32: tuple[onnx.ModelProto, ModelManifest], folder: Path
) -> None:
    broken = onnx.ModelProto()
    broken.CopyFrom(float32[0])
    entry = next(e for e in broken.graph.initializer if e.name.endswith("fpn.output.0.bias"))
    values = onnx.numpy_helper.to_array(entry).copy()
    values[0] = np.inf
    entry.CopyFrom(onnx.numpy_helper.from_array(values, entry.name))
    with pytest.raises(ExportError, match="is not finite on a calibration image"):
        int8_from_float32(broken, float32[1], CalibrationOptions(folder, 1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, None, None, ["--int8"]), "--int8 needs --calibration DIR"),
        ((None, 5, None, []), "--calibration-images is for quantised files; give --int8, too"),
        ((Path("none"), None, None, ["--int8"]), "no folder at none; expected a folder of images in --calibration"),
        ((Path(), 0, None, ["--int8"]), "--calibration-images is 0; expected at least 1"),
        ((Path(), None, "best", ["--int8"]), "--calibration-method is 'best'; expected one of entropy, mse, max"),
    ],
)
def test_options_that_cannot_be_used_are_refused(given: tuple[object, ...], message: str) -> None:
    with pytest.raises(CondInstError, match=message):
        calibration_from(*given)  # type: ignore[arg-type]


def test_options_of_a_command_line() -> None:
    assert calibration_from(None, None, None, []) is None
    assert calibration_from(Path(), 7, "max", ["--int8"]) == CalibrationOptions(Path(), 7, "max")
    assert calibration_from(Path(), None, None, ["--int8"]) == CalibrationOptions(Path(), 100, "mse")
