"""The comparison with the peers: what does not need their environment."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from benchmarks.peers import __main__ as peers
from benchmarks.peers.child import ENCODE, MASKS, NETWORK, READ, STAGES, Found, Stages, entries
from benchmarks.peers.inputs import LARGE
from benchmarks.peers.metrics import TOTAL, Sample, agreements, summary, targets
from benchmarks.peers.ours import eager, toolkit
from benchmarks.peers.sides import ROOT, started
from benchmarks.targets import Target
from condinst_deploy.benchmarking.benchmark_settings import SETTLE
from condinst_deploy.errors import CondInstError
from condinst_deploy.evaluation.agreement import ONNX_TOLERANCE, agreement_of, instances_from_coco, matched_pairs
from tests.support.models import noise_image


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "noise.png"
    Image.fromarray(noise_image(3, 90, 150)).save(path)
    return path


def test_our_sides_find_the_same(slim_checkpoint: Path, image: Path) -> None:
    """Compact masks beside dense ones; of exported files other tests say the same."""
    sides = toolkit(slim_checkpoint, Stages()), eager(slim_checkpoint, Stages())
    ours, reference = (instances_from_coco(entries(side(str(image)))) for side in sides)
    agreement = agreement_of(reference, ours, matched_pairs(reference, ours))
    assert agreement.matched > 2
    assert agreement.within(ONNX_TOLERANCE), str(agreement)


def test_every_stage_of_our_sides_is_counted(slim_checkpoint: Path, image: Path) -> None:
    stages = Stages()
    side = toolkit(slim_checkpoint, stages)
    side(str(image))
    assert all(milliseconds > 0 for milliseconds in stages.taken().values())
    assert set(stages.taken().values()) == {0.0}


def test_a_stage_inside_another_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 1.0, 3.0, 7.0])  # seconds: the outer stage begins, the inner one begins, ends, the outer ends
    monkeypatch.setattr("benchmarks.peers.child.time.perf_counter", lambda: next(ticks))
    stages = Stages()
    with stages.clock(READ), stages.clock(NETWORK):
        pass
    assert stages.taken() == {READ: 5000.0, NETWORK: 2000.0, MASKS: 0.0, ENCODE: 0.0}


def test_a_side_answers_from_a_process_of_its_own(image: Path, tmp_path: Path) -> None:
    """Also when its library prints; when it fails, the error has its last line."""
    script = tmp_path / "side.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import numpy as np\n"
        "from benchmarks.peers.child import Found, serve\n"
        "def side(path):\n"
        "    print('a library says hello')\n"
        "    open(path).close()\n"
        "    return Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0), [])\n"
        "serve(lambda stages: side)\n"
    )
    with started("eager", [sys.executable, str(script)]) as child:
        answer = child.ask(image)
        assert answer["detections"] == []
        assert set(answer["stages_ms"]) == set(STAGES)
        with pytest.raises(CondInstError, match=r"eager reference.* stopped: FileNotFoundError: .*gone\.png"):
            child.ask(tmp_path / "gone.png")
        child.wait()
        with pytest.raises(CondInstError, match=r"eager reference.* stopped: FileNotFoundError"):
            child.ask(image)


def answer(total: float, masks: int = 1) -> dict[str, Any]:
    """A quarter of the time in each stage; masks of `masks` columns."""
    dense = np.zeros((4, 6, 1), dtype=np.uint8, order="F")
    dense[:, :masks] = 1
    found = Found(np.array([[0.0, 0, 5, 3]]), np.array([0.5]), np.array([7]), coco_mask.encode(dense))
    stages = dict.fromkeys(STAGES, total / 4)
    return {"total_ms": total, "stages_ms": stages, "peak_mib": 100 + masks, "detections": entries(found)}


def test_ratios_are_of_the_same_image_in_the_same_round() -> None:
    times = {"onnx": [90.0, 10, 20, 33], "eager": [1.0, 20, 20, 30]}  # the first round warms up
    samples = [Sample(side, "a", i, answer(t)) for side, row in times.items() for i, t in enumerate(row)]
    metrics = summary(samples, {"onnx": 50, "eager": 60})
    spread = {"median": 1.0, "lowest": 0.5, "highest": 1.1}
    parts = dict.fromkeys((TOTAL, NETWORK, "masks and encode"), spread)
    assert metrics["ratios"] == {"onnx": {"eager": {"800x1344": parts}}}
    assert metrics["milliseconds"]["onnx"]["a"][TOTAL] == 20
    assert metrics["memory_mib"] == {"onnx": {"loaded": 50, "most": 101}, "eager": {"loaded": 60, "most": 101}}
    assert targets(metrics["ratios"]) == [Target("image to RLE, 800x1344, onnx / eager", 1.0, "", "at most 0.7", False)]
    assert metrics["agreement_with"] == "eager"
    assert metrics["agreement"]["onnx"]["a"]["min_mask_iou"] == 1


def test_the_target_is_that_of_images_as_large_as_the_networks_input() -> None:
    times = {"a 600x360": 8.0, "b 512x308": 6.0, f"a {LARGE}": 1.0}
    samples = [Sample("onnx", name, 1, answer(t)) for name, t in times.items()]
    samples += [Sample("eager", name, 1, answer(10)) for name in times]
    found = targets(summary(samples, {"onnx": 50, "eager": 60})["ratios"])
    assert found == [
        Target("image to RLE, 800x1344, onnx / eager", 0.7, "", "at most 0.7", True),
        Target("image to RLE, 1920x1152, onnx / eager", 0.1, ""),
    ]


def test_a_pause_comes_before_every_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Side:
        def __init__(self, name: str) -> None:
            self.name = name

        def ask(self, image: Path) -> dict[str, Any]:
            log.append(f"{self.name} {image}")
            return {}

    monkeypatch.setattr("time.sleep", lambda seconds: log.append(f"{seconds:g}"))
    sides: Any = {name: Side(name) for name in ("onnx", "eager")}
    list(peers.taking_turns(sides, {"a": Path("a.png")}, 1))
    turns = ["onnx a.png", "eager a.png", "eager a.png", "onnx a.png"]
    assert log == [said for turn in turns for said in (f"{SETTLE:g}", turn)]


def test_masks_that_differ_show() -> None:
    row = agreements({"a": answer(1)["detections"]}, {"a": answer(1, masks=2)["detections"]})["a"]
    assert row["matched"] == 1
    assert row["min_mask_iou"] == row["median_mask_iou"] == pytest.approx(0.5)


def test_without_the_peers_environment_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["peers", "--environment", str(tmp_path / "none")])
    assert peers.main() == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("error: no environment of the peers at")
    assert "make peers-env" in said
    assert "--sides onnx int8 pth eager" in said
