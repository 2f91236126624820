"""From an exported file to an engine and its manifest on disk."""

import errno
import hashlib
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

from condinst_deploy.contract.engine_manifest import manifest_path, read_engine
from condinst_deploy.errors import ArtifactError, ConfigError, EngineError, OutputError
from condinst_engines.build_files import EngineFiles, only_exported
from condinst_engines.build_recipe import BuildRecipe, RtxSettings, TensorrtSettings, load_recipe
from condinst_engines.builder_library import BuilderLibrary
from condinst_engines.engine_file import default_engine_path, engine_from_onnx, keep_timings
from condinst_engines.onnx_input import load_onnx
from condinst_engines.plan_builder import Surroundings
from tests.support.graphs import set_weight

FP16 = BuildRecipe(precision="float16")


@pytest.fixture
def source(small_graph: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("export/build/small.v2.onnx")
    path.parent.mkdir(parents=True)
    onnx.save(small_graph, str(path))
    return path


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_engine_gets_its_name_and_a_manifest_of_everything(
    source: Path, rtx: BuilderLibrary, tmp_path: Path
) -> None:
    path, manifest = engine_from_onnx(EngineFiles(source), FP16, rtx, Surroundings())
    assert path == tmp_path / "engines/build/small.v2.rtx.fp16.sm86-89-120.engine"
    plan, read = read_engine(path)
    assert read == manifest
    assert hashlib.sha256(plan).hexdigest() == manifest.plan_sha256
    assert manifest.onnx_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert (manifest.onnx, manifest.flavour, manifest.precision) == ("small.v2.onnx", "rtx", "float16")
    assert manifest.targets == ("86", "89", "120")
    assert manifest.library_version == manifest.tools["tensorrt_rtx"] == rtx.version
    assert manifest.model.precision == "float16"
    assert manifest.model.class_names == ("class a", "class b", "class c")
    assert manifest.profiles[0]["images"].max == (8, 3, 224, 224)
    assert [tensor.name for tensor in manifest.tensors] == ["images", "image_sizes", "boxes"]
    assert manifest.build_seconds > 0
    assert files_below(tmp_path) == [
        f"engines/build/{path.name}",
        f"engines/build/{path.name}.json",
        "export/build/small.v2.onnx",
    ]


def test_the_graph_that_the_builder_got_can_be_kept(source: Path, rtx: BuilderLibrary, tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "graph.onnx"
    engine_from_onnx(EngineFiles(source, tmp_path / "x.engine", kept), FP16, rtx, Surroundings())
    onnx.checker.check_model(str(kept), full_check=True)
    kinds = {entry.data_type for entry in onnx.load(str(kept)).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds


def too_large_at_first(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Three convolutions, of which the first has an output beyond float16."""
    for entry in graph.graph.initializer:
        factor = {"first_weight": 1e3, "second_weight": 1e-3}[entry.name]
        entry.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(entry) * np.float32(factor), entry.name))
    third = np.ones((4, 4, 1, 1), dtype=np.float32)
    graph.graph.initializer.append(numpy_helper.from_array(third, "third_weight"))
    node = onnx.helper.make_node("Conv", ["second", "third_weight"], ["third"], name="head.third/Conv_third")
    add = len(graph.graph.node) - 1
    graph.graph.node[add].input[0] = "third"
    graph.graph.node.insert(add, node)
    onnx.checker.check_model(graph, full_check=True)
    return graph


def test_an_engine_whose_nodes_all_leave_its_type_is_refused(source: Path, rtx: BuilderLibrary, tmp_path: Path) -> None:
    graph = onnx.load(str(source))
    for entry in graph.graph.initializer:
        entry.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(entry) * np.float32(300), entry.name))
    onnx.save(graph, str(source))
    with pytest.raises(EngineError, match=r"no node is left in float16.*backbone\.first/Conv_first.*--bf16 or --fp32"):
        engine_from_onnx(EngineFiles(source, tmp_path / "x.engine"), FP16, rtx, Surroundings())


def test_ranges_are_checked_before_a_half_build(source: Path, rtx: BuilderLibrary, tmp_path: Path) -> None:
    onnx.save(too_large_at_first(onnx.load(str(source))), str(source))
    notes: list[str] = []
    phases: list[str] = []
    surroundings = Surroundings(on_note=notes.append, on_progress=lambda _, phase: phases.append(phase))
    policy = tmp_path / "policy.toml"
    files = EngineFiles(source, tmp_path / "x.engine", tmp_path / "kept.onnx", keep_policy=policy)
    path, manifest = engine_from_onnx(files, FP16, rtx, surroundings)
    assert "checking ranges" in phases
    assert manifest.ranges is not None
    assert manifest.is_as_asked
    assert "backbone.first/Conv_first" in manifest.ranges.policy["bf16"]
    assert manifest.found.layers["bfloat16"] > 0
    assert read_engine(path)[1] == manifest
    assert notes[0].startswith("ranges: largest magnitude")
    assert any("backbone.first/Conv_first reaches" in note and "in bfloat16" in note for note in notes)
    given = load_recipe(str(policy))
    assert given.policy.bf16 == manifest.ranges.policy["bf16"]
    _, again = engine_from_onnx(EngineFiles(source, tmp_path / "y.engine"), given, rtx, Surroundings())
    assert again.ranges is not None
    assert again.ranges.handled == ()
    older = replace(given, rtx=RtxSettings(("75",)))
    with pytest.raises(ConfigError, match=r"bf16 under \[policy\] and --sm 75"):
        engine_from_onnx(EngineFiles(source, tmp_path / "z.engine"), older, rtx, Surroundings())
    _, turing = engine_from_onnx(
        EngineFiles(source, tmp_path / "z.engine"), replace(FP16, rtx=RtxSettings(("75",))), rtx, Surroundings()
    )
    assert "bfloat16" not in turing.found.layers
    assert turing.ranges is not None
    assert "backbone.first/Conv_first" in turing.ranges.policy["fp32"]


def test_a_refused_build_leaves_nothing(source: Path, rtx: BuilderLibrary, tmp_path: Path) -> None:
    graph = onnx.load(str(source))
    for entry in graph.graph.initializer:
        entry.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(entry) * np.float32(1e30), entry.name))
    onnx.save(graph, str(source))
    with pytest.raises(EngineError, match=r"head\.second/Conv_second"):
        engine_from_onnx(EngineFiles(source, tmp_path / "x.engine"), FP16, rtx, Surroundings())
    assert files_below(tmp_path) == ["export/build/small.v2.onnx"]


def test_a_float32_build_has_no_ranges(source: Path, rtx: BuilderLibrary, tmp_path: Path) -> None:
    _, manifest = engine_from_onnx(EngineFiles(source, tmp_path / "x.engine"), BuildRecipe(), rtx, Surroundings())
    assert manifest.ranges is None


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        (BuildRecipe(), "m.rtx.fp32.sm86-89-120.engine"),
        (BuildRecipe(precision="bfloat16", rtx=RtxSettings(("120", "80"))), "m.rtx.bf16.sm80-120.engine"),
        (replace(FP16, tensorrt=TensorrtSettings(hardware_compatible=True)), "m.rtx.fp16.sm86-89-120.engine"),
    ],
)
def test_the_default_name_tells_what_the_engine_is(recipe: BuildRecipe, name: str, rtx: BuilderLibrary) -> None:
    assert default_engine_path(Path("m.onnx"), recipe, rtx) == Path("engines/build") / name


def test_a_wider_engine_of_the_other_builder_is_named_so(rtx: BuilderLibrary) -> None:
    recipe = replace(FP16, rtx=RtxSettings(("80",)), tensorrt=TensorrtSettings(hardware_compatible=True))
    path = default_engine_path(Path("m.onnx"), recipe, BuilderLibrary("tensorrt", rtx.trt))
    assert path.name == "m.tensorrt.fp16.ampereplus.engine"


def test_ctrl_c_leaves_nothing(source: Path, rtx: BuilderLibrary, tmp_path: Path) -> None:
    pressed: list[str] = []

    def press(share: float, phase: str) -> None:
        if not pressed:
            pressed.append(phase)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        engine_from_onnx(EngineFiles(source), FP16, rtx, Surroundings(on_progress=press))
    assert files_below(tmp_path) == ["export/build/small.v2.onnx"]


def test_a_full_disk_leaves_nothing(
    source: Path, rtx: BuilderLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, _: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=r"x\.engine cannot be written \(No space left"):
        engine_from_onnx(EngineFiles(source, tmp_path / "x.engine", tmp_path / "kept.onnx"), FP16, rtx, Surroundings())
    assert files_below(tmp_path) == ["export/build/small.v2.onnx"]  # the kept graph comes with the engine


def test_an_older_engine_is_replaced_together_with_its_manifest(
    source: Path, rtx: BuilderLibrary, tmp_path: Path
) -> None:
    path = tmp_path / "x.engine"
    for recipe in (BuildRecipe(), FP16):
        engine_from_onnx(EngineFiles(source, path), recipe, rtx, Surroundings())
    assert read_engine(path)[1].precision == "float16"


def test_a_converted_file_is_not_converted_again(source: Path, rtx: BuilderLibrary, tmp_path: Path) -> None:
    kept = tmp_path / "kept.onnx"
    engine_from_onnx(EngineFiles(source, tmp_path / "x.engine", kept), FP16, rtx, Surroundings())
    with pytest.raises(EngineError, match=r"kept\.onnx is in float16 already"):
        engine_from_onnx(EngineFiles(kept), FP16, rtx, Surroundings())


def test_the_only_exported_file_is_taken(source: Path) -> None:
    assert only_exported() == source


def test_none_and_several_exported_files_are_said(source: Path, small_graph: onnx.ModelProto) -> None:
    onnx.save(small_graph, str(source.with_name("other.onnx")))
    with pytest.raises(ConfigError, match=r"holds other\.onnx, small\.v2\.onnx: name one with --onnx"):
        only_exported()
    for path in source.parent.iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match=r"no ONNX file in [^()]*: run condinst-export --weights model\.pth"):
        only_exported()
    onnx.save(small_graph, str(source.with_name("model.int8.onnx")))
    with pytest.raises(ConfigError, match=r"no ONNX file in .* \(model\.int8\.onnx is for CPUs; .*condinst-export"):
        only_exported()


@pytest.mark.parametrize("content", [b"", b"not ONNX", b"\x08\x0a\x12"])
def test_a_file_that_is_not_onnx_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"broken\.onnx"):
        load_onnx(path)
    with pytest.raises(ArtifactError, match=r"no model at .*none\.onnx"):
        load_onnx(tmp_path / "none.onnx")


def test_a_file_without_a_manifest_is_refused(source: Path, small_graph: onnx.ModelProto, rtx: BuilderLibrary) -> None:
    del small_graph.metadata_props[:]
    onnx.save(small_graph, str(source))
    with pytest.raises(ArtifactError, match="without this toolkit's manifest"):
        engine_from_onnx(EngineFiles(source), FP16, rtx, Surroundings())


def test_names_with_another_ending_are_refused(source: Path) -> None:
    with pytest.raises(ConfigError, match=r"ending in \.engine"):
        EngineFiles(source, Path("x.onnx"))
    with pytest.raises(ConfigError, match=r"ending in \.onnx"):
        EngineFiles(source, None, Path("x.engine"))


def test_the_manifest_lies_beside_the_engine() -> None:
    assert manifest_path(Path("a/b.engine")) == Path("a/b.engine.json")


def test_a_file_in_two_roles_is_refused_and_stays(source: Path) -> None:
    before = source.read_bytes()
    with pytest.raises(ConfigError, match="--onnx and --keep-onnx are the same file"):
        EngineFiles(source, None, source.absolute())
    assert source.read_bytes() == before


def test_a_place_that_cannot_be_written_is_found_before_the_build(
    source: Path, rtx: BuilderLibrary, tmp_path: Path
) -> None:
    seen: list[float] = []
    surroundings = Surroundings(on_progress=lambda share, _: seen.append(share))
    with pytest.raises(OutputError, match=r"x\.engine cannot be written \(.* is a file, not a folder\)"):
        engine_from_onnx(EngineFiles(source, source / "x.engine"), FP16, rtx, surroundings)
    assert seen == []
    assert files_below(tmp_path) == ["export/build/small.v2.onnx"]


def test_a_timing_cache_that_cannot_be_kept_is_a_remark(tmp_path: Path) -> None:
    notes: list[str] = []
    (tmp_path / "file").touch()
    keep_timings(b"timings", Surroundings(tmp_path / "file" / "cache", on_note=notes.append))
    assert len(notes) == 1
    assert "the timing cache was not kept" in notes[0]
    keep_timings(b"timings", Surroundings(tmp_path / "cache", on_note=notes.append))
    assert (tmp_path / "cache").read_bytes() == b"timings"


@pytest.mark.parametrize("name", ["first_weight", "second_weight"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused(
    name: str, value: float, small_graph: onnx.ModelProto, tmp_path: Path
) -> None:
    path = tmp_path / "broken.onnx"
    set_weight(small_graph, name, value)
    onnx.save(small_graph, str(path))
    with pytest.raises(ArtifactError, match=f"broken.onnx: the constant {name} holds NaN or infinity; expected finite"):
        load_onnx(path)


@pytest.mark.parametrize("kind", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_constants_of_every_floating_type_are_checked(kind: type, small_graph: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "typed.onnx"
    values: npt.NDArray[Any] = np.ones(3, dtype=kind)
    for text in ("fine", "broken"):
        node = onnx.helper.make_node("Constant", [], [text], name=text, value=numpy_helper.from_array(values))
        small_graph.graph.node.append(node)
        onnx.save(small_graph, str(path))
        if text == "fine":
            load_onnx(path)
            values[1] = np.inf
    with pytest.raises(ArtifactError, match="the constant value of the node broken holds"):
        load_onnx(path)


@pytest.mark.parametrize(
    ("operator", "bound", "taken"),
    [("Less", np.inf, True), ("Less", -np.inf, False), ("Less", np.nan, False), ("Greater", np.inf, False)],
)
def test_infinity_is_taken_as_a_bound_only(
    operator: str, bound: float, taken: bool, small_graph: onnx.ModelProto, tmp_path: Path
) -> None:
    path = tmp_path / "bound.onnx"
    small_graph.graph.initializer.append(numpy_helper.from_array(np.array(bound, dtype=np.float32), "bound"))
    small_graph.graph.node.append(onnx.helper.make_node(operator, ["boxes", "bound"], ["small"], name="compared"))
    onnx.save(small_graph, str(path))
    if taken:
        load_onnx(path)
    else:
        with pytest.raises(ArtifactError, match="the constant bound holds"):
            load_onnx(path)


def test_numbers_of_sparse_weights_are_checked(small_graph: onnx.ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "sparse.onnx"
    values = numpy_helper.from_array(np.array([1, np.nan], dtype=np.float32), "thin")
    places = numpy_helper.from_array(np.array([0, 2]), "places")
    small_graph.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, places, [3]))
    onnx.save(small_graph, str(path))
    with pytest.raises(ArtifactError, match="the constant thin holds NaN"):
        load_onnx(path)
