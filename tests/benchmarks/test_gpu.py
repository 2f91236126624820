"""The GPU benchmark starts anywhere; what of it needs no GPU is right."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import gpu_timing
from benchmarks.targets import Target
from condinst_deploy.contract import ImageGeometry
from condinst_deploy.model.fixed_slots import FixedSlots
from condinst_deploy.model.folding import fold_batch_norms
from condinst_deploy.model.mask_head import dynamic_mask_head
from condinst_deploy.model.operations import REFERENCE
from condinst_deploy.runtime.postprocess import ResultFilter, detections_from_outputs
from tests.support.interpreter import interpreted
from tests.support.mask_cases import outputs_with
from tests.support.models import SLIM, noise_image, seeded_model
from tests.support.operations import MaskHeadCase, mask_head_cases


@pytest.fixture
def benchmark() -> ModuleType:
    return importlib.import_module("benchmarks.gpu")


@pytest.fixture
def kernels() -> ModuleType:
    return importlib.import_module("benchmarks.gpu_kernels")


@pytest.fixture
def network() -> ModuleType:
    return importlib.import_module("benchmarks.gpu_network")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_in_one_line(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu"])
    assert benchmark.main() == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: PyTorch sees no NVIDIA GPU")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize("case", mask_head_cases(), ids=str)
def test_its_batched_products_are_the_mask_head(kernels: ModuleType, case: MaskHeadCase) -> None:
    """A rival that computed something else would make the comparison worthless."""
    arguments = case.mask_feats, case.params, case.points, case.soi
    want = dynamic_mask_head(*arguments)
    torch.testing.assert_close(
        kernels.batched_products(*arguments), want, atol=1e-5 * max(1.0, float(want.abs().max())), rtol=0
    )


def test_the_fixed_slots_that_it_times_find_what_the_model_finds() -> None:
    model = seeded_model(SLIM)
    images = torch.stack([torch.from_numpy(noise_image(seed, 96, 128)).permute(2, 0, 1) for seed in (3, 4)])
    sizes = torch.tensor([[96, 128], [80, 120]], dtype=torch.int32)
    want = model(images, sizes)
    with torch.no_grad():
        got = FixedSlots(model, REFERENCE)(images, sizes)
    assert got.num_detections.tolist() == want.num_detections.tolist()
    assert int(want.num_detections.min()) > 2
    assert got.labels.tolist() == want.labels.tolist()
    torch.testing.assert_close(got.boxes, want.boxes, atol=1e-3, rtol=0)
    filled = torch.arange(want.scores.shape[1]) < want.num_detections[:, None]
    torch.testing.assert_close(got.mask_logits[filled], want.mask_logits[filled], atol=1e-3, rtol=1e-4)


def test_it_goes_from_images_and_from_logits_to_masks_on_both_sides() -> None:
    """On a CPU with interpreted kernels, called once where a GPU is timed; it checks equality itself."""
    (found,) = interpreted([("tests.benchmarks.gpu_on_cpu:measured_once", ())])
    assert found["logits"] == "torch.float16"
    assert found["finite"]
    assert min(found["detections"]) > 0
    masks = found["masks"]
    assert 0.01 < masks["median_area"] < masks["largest_area"] < 0.6
    assert masks["runs_bytes"] > 0
    assert set(found["ends"]) == {"with_masks_on_the_gpu", "with_masks_on_the_host"}
    # runs and extents, either side of the postprocessing, then the ends
    assert found["called"] == ["NoneType", "Tensor", "list", "list", "list", "list"]


def test_it_takes_masks_that_differ_for_a_failure(network: ModuleType) -> None:
    geometry = ImageGeometry((64, 96), (64, 96), (64, 96))
    outputs = outputs_with([[0.0, 0.0, 8.0, 8.0], [8.0, 8.0, 40.0, 40.0]])
    (found,) = detections_from_outputs(outputs, [geometry], network.coco_manifest(), ResultFilter())
    network.same_masks([found], [found])
    with pytest.raises(RuntimeError, match="no mask has a pixel"):
        network.same_masks([found[[]]], [found[[]]])
    with pytest.raises(RuntimeError, match="differ in"):
        network.same_masks([found], [found[[1, 0]]])
    logits = torch.from_numpy(outputs.mask_logits[0])
    network.require_dense_masks(logits, geometry, found)
    with pytest.raises(RuntimeError, match="differ from the dense ones"):
        network.require_dense_masks(logits.flip(0), geometry, found)


def test_its_references_do_not_run_with_tf32(benchmark: ModuleType) -> None:
    switches: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn]
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = True
        benchmark.exact_float32()
        assert [switch.allow_tf32 for switch in switches] == [False, False]
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


@pytest.mark.parametrize("value", [0.03, float("nan"), float("inf")])
def test_a_mask_head_that_is_off_is_not_timed(kernels: ModuleType, value: float) -> None:
    want = torch.tensor([1.0, -2.0, 0.5])
    assert kernels.relative_error("a", want + torch.tensor([0.0, 0.0, 0.002]), want, 2e-3) == pytest.approx(
        1e-3, rel=1e-4
    )
    with pytest.raises(RuntimeError, match=r"the mask head 'a' is .* off"):
        kernels.relative_error("a", want + torch.tensor([0.0, value, 0.0]), want, 2e-3)


def test_the_99th_percentile_is_within_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        def __init__(self, **_: Any) -> None: ...

        def record(self) -> None: ...

        def elapsed_time(self, _: "Event") -> float:
            return next(times)

    times = iter([1.0, 2.0, 3.0, 4.0, 5.0])
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert gpu_timing.milliseconds(lambda: None, [()], 5) == {"median_ms": 3, "p99_ms": 4.96}


def test_the_inputs_of_a_graph_are_larger_than_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(L2_cache_size=50 << 20))
    assert gpu_timing.copies_for(1 << 20) == 150
    assert gpu_timing.copies_for(1 << 30) == 8
    assert gpu_timing.copies_for(1) == gpu_timing.MOST_COPIES


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))


def part(benchmark: ModuleType, name: str, measure: Any, seconds: float = 0) -> Any:
    return benchmark.Part(name, measure, lambda found: [Target.at_most(name, found["ms"], 2, "ms")], seconds)


@pytest.mark.usefixtures("gpu")
def test_a_part_that_fails_loses_no_other(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The file has machine, versions and commit."""
    out = tmp_path / "gpu.json"
    written: list[list[str]] = []

    def broken() -> dict[str, Any]:
        written.append(list(json.loads(out.read_text())["parts"]))
        raise RuntimeError("masks differ")

    made = [
        part(benchmark, "first", lambda: {"ms": 1.0}),
        part(benchmark, "broken", broken),
        part(benchmark, "long", lambda: {"ms": 1.0}, seconds=1e6),
        part(benchmark, "last", lambda: {"ms": 3.0}),
    ]
    monkeypatch.setattr(benchmark, "parts", lambda: made)
    monkeypatch.setattr(sys, "argv", ["gpu", "--here", "--out", str(out)])
    monkeypatch.setattr(benchmark, "gpu_works", lambda: True)
    assert benchmark.main() == 0
    assert written == [["first"]]
    printed = json.loads(out.read_text())
    assert list(printed["parts"]) == ["first", "last"]
    assert printed["not_measured"]["broken"] == "RuntimeError: masks differ"
    assert "s were left of 9 minutes; it takes 1000000 s" in printed["not_measured"]["long"]
    assert [(target["name"], target["met"]) for target in printed["targets"]] == [("first", True), ("last", False)]
    assert printed["machine"]["gpu"] == "a GPU"
    assert {"torch", "torchvision", "triton"} <= printed["machine"]["versions"].keys()
    assert printed["machine"]["commit"]


@pytest.mark.usefixtures("gpu")
def test_parts_can_be_chosen_and_a_wrong_name_is_an_error(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a second process measures is added to the file."""
    out = tmp_path / "gpu.json"
    monkeypatch.setattr(benchmark, "parts", lambda: [part(benchmark, name, lambda: {"ms": 1.0}) for name in "ab"])
    for name, there in (("b", ["b"]), ("a", ["a", "b"])):
        monkeypatch.setattr(sys, "argv", ["gpu", "--here", "--out", str(out), "--only", name])
        assert benchmark.main() == 0
        state = json.loads(out.read_text())
        assert sorted(state["parts"]) == sorted(target["name"] for target in state["targets"]) == there
        assert state["running"] is None
    monkeypatch.setattr(sys, "argv", ["gpu", "--only", "c"])
    assert benchmark.main() == 2
    assert "no such part; there are a, b" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU that works")
@pytest.mark.usefixtures("gpu")
def test_a_process_with_a_broken_gpu_ends_behind_the_part_that_broke_it(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "gpu.json"

    def broken() -> dict[str, Any]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    made = [part(benchmark, "a", broken), part(benchmark, "b", lambda: {"ms": 1.0})]
    monkeypatch.setattr(benchmark, "parts", lambda: made)
    monkeypatch.setattr(sys, "argv", ["gpu", "--here", "--out", str(out)])
    assert benchmark.main() == benchmark.BROKEN
    state = json.loads(out.read_text())
    assert list(state["not_measured"]) == ["a"]
    assert state["parts"] == {}


@pytest.mark.usefixtures("gpu")
def test_what_is_printed_is_what_is_written(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where only the output comes back, it is all there is."""
    out = tmp_path / "gpu.json"
    out.write_text('{"parts": {"of a run before": {}}}')
    monkeypatch.setattr(benchmark, "parts", lambda: [part(benchmark, name, lambda: {}) for name in "ab"])

    def measured(command: list[str], out: Path, parts: dict[str, float], seconds: float) -> None:
        assert command[1:] == ["-m", "benchmarks.gpu", "--here", "--out", str(out)]
        assert (list(parts), seconds) == (["a", "b"], 120)
        assert not out.exists()
        out.write_text(json.dumps({"parts": {"a": {"ms": 1}}, "not_measured": {"b": "why"}}))

    monkeypatch.setattr(benchmark, "measured_in_processes", measured)
    monkeypatch.setattr(sys, "argv", ["gpu", "--out", str(out), "--minutes", "2"])
    assert benchmark.main() == 3
    printed = json.loads(capsys.readouterr().out)
    assert (printed["parts"], printed["not_measured"]) == ({"a": {"ms": 1}}, {"b": "why"})


@pytest.mark.parametrize(("graph_ms", "replays"), [(0.0, 100), (1.0, 100), (40.0, 50), (160.0, 12), (5000.0, 5)])
def test_large_graphs_are_replayed_less_often(graph_ms: float, replays: int) -> None:
    assert gpu_timing.replays_for(graph_ms) == replays


def test_all_parts_fit_the_time_and_have_names_of_their_own(benchmark: ModuleType) -> None:
    parts = benchmark.parts()
    assert len({each.name for each in parts}) == len(parts)
    assert sum(each.seconds for each in parts) <= 60 * benchmark.MINUTES


def test_times_become_the_targets_that_were_asked_for(benchmark: ModuleType) -> None:
    def times(ms: float) -> dict[str, Any]:
        return {"graph": {"median_ms": ms}}

    ends = {name: {"median_ms": 4.5} for name in ("with_masks_on_the_gpu", "with_masks_on_the_host")}
    found = {
        "mask head, K = 100": {"fused": times(0.0119), "speedup_over_grouped_convolution": 4.9},
        "selection": {
            "batch 1": {"fused": times(0.2), "fused, 40 objects": times(0.31)},
            "batch 8": {"fused": times(0.31)},
        },
        "network, batch 1": {"median_ms": 2.5} | ends,
        "network, batch 8": {"share_of_measured_peak": 0.45},
        "masks, 1333x800": {"runs_kernels": times(0.059), "postprocessing_on_the_gpu": {"median_ms": 1}},
        "stream, PyTorch": {"images_per_s": 499.0},
        "stream, engine": {"images_per_s": 501.0, "network_share_of_measured_peak": 0.44},
        "eight threads": {"other": 0},
        "growth": {"gpu_grown_mb": 2, "host_grown_mb": 65},
    }
    chosen = [each for each in benchmark.parts() if each.name in found]
    targets = [target for each in chosen for target in each.targets(found[each.name])]
    heads, selections = [True, False], [True, False, False]
    networks, masks = [None, False, None, True], [True, None]
    assert [target.met for target in targets] == heads + selections + networks + masks + [
        False,
        True,
        False,
        True,
        True,
        False,
    ]
    assert targets[0].measured == pytest.approx(11.9)


def test_half_precision_with_folded_norms_is_the_network(benchmark: ModuleType) -> None:
    model = seeded_model(SLIM).eval()
    images = torch.from_numpy(noise_image(3, 96, 128)).permute(2, 0, 1)[None]
    sizes = torch.tensor([[96, 128]], dtype=torch.int32)
    with torch.no_grad():
        want = model.features_before_controller(model.normalize(images, sizes))
        assert fold_batch_norms(model) > 10
        got = model.features_before_controller(model.normalize(images, sizes))
    torch.testing.assert_close(got.mask_feats, want.mask_feats, atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(got.levels, want.levels, strict=True):
        torch.testing.assert_close(ours.cls_logits, theirs.cls_logits, atol=1e-4, rtol=1e-4)


def test_a_norm_without_a_convolution_is_not_folded_in_silence() -> None:
    with pytest.raises(ValueError, match="no convolution stands before 1"):
        fold_batch_norms(torch.nn.Sequential(torch.nn.ReLU(), torch.nn.BatchNorm2d(3)).eval())
