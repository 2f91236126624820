"""`condinst-eval` on results files, and the names that sides and their files get."""

import json
from pathlib import Path

import pytest

from condinst_deploy.evaluation.sources import results_path, unique_names
from condinst_deploy.support.atomic_write import atomic_path
from tests.support import small_coco
from tests.support.evaluations import evaluate, metrics

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_fast_gives_the_same_metrics(tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    annotations, _ = small_coco.written(tmp_path)
    Path("r.json").write_text(json.dumps(small_coco.results()))
    reported = []
    for extra in ((), ("--fast",)):
        assert evaluate("--annotations", annotations, "--results", "r.json", *extra).exit_code == 0
        reported.append(metrics())
    assert reported[1]["versions"]["faster-coco-eval"] is not None
    for kind in ("box", "mask"):
        assert reported[1]["sides"][0][kind] == pytest.approx(reported[0]["sides"][0][kind], abs=1e-10)


@pytest.mark.parametrize("ids", [(2**64 - 1, 2**63, -5), (2**63 - 1, -(2**31), 0)])
def test_ids_of_64_bits_change_no_metric_threshold_or_agreement(ids: tuple[int, ...], tmp_path: Path) -> None:
    content, results = small_coco.content(), small_coco.results()
    others = [entry | {"score": entry["score"] / 2} for entry in results]
    new = dict(zip(sorted(small_coco.CATEGORIES), sorted(ids), strict=True))
    reported = []
    for large in (False, True):
        if large:
            for entry in (*content["annotations"], *results, *others):
                entry["category_id"] = new[entry["category_id"]]
            for entry in content["categories"]:
                entry["id"] = new[entry["id"]]
        annotations, _ = small_coco.written(tmp_path, content)
        Path("a.json").write_text(json.dumps(results))
        Path("b.json").write_text(json.dumps(others))
        done = evaluate("--annotations", annotations, "--results", "a.json", "--results", "b.json", "--out", str(large))
        assert done.exit_code == 0, done.stderr
        figures = json.loads(Path(str(large), "figures.json").read_text())
        for side in figures["sides"]:
            for point in side["thresholds"]["per_class"]:
                del point["category_id"]
        sides = [(side["box"], side["mask"], side["thresholds"]) for side in figures["sides"]]
        reported.append((sides, figures["comparisons"][0]["agreement"]))
    assert reported[0] == reported[1]


def test_the_gate_fails_where_masks_cannot_be_compared(tmp_path: Path) -> None:
    annotations, _ = small_coco.written(tmp_path)
    boxes = [{k: v for k, v in entry.items() if k != "segmentation"} for entry in small_coco.results()]
    Path("masks.json").write_text(json.dumps(small_coco.results()))
    Path("boxes.json").write_text(json.dumps(boxes))
    command = ("--annotations", annotations, "--gate", "0.1", "--results")
    done = evaluate(*command, "masks.json", "--results", "boxes.json")
    assert done.exit_code == 1
    reported = "boxes.json: no mask AP could be compared, for its results have none; the reference has"
    assert metrics()["gate"]["failures"] == [reported]
    assert f"gate failed: {reported}" in done.stderr
    assert reported in Path("evaluation/report.html").read_text()
    done = evaluate(*command, "boxes.json", "--results", "masks.json")
    assert done.exit_code == 0
    assert "gate passed: no box AP differs by more than 0.1 points" in done.stderr


@pytest.mark.parametrize("absent", [None, []], ids=["missing", "empty"])
def test_a_data_set_without_masks_is_evaluated_by_its_boxes(absent: object, tmp_path: Path) -> None:
    annotations, _ = small_coco.written(tmp_path)
    content = json.loads(Path(annotations).read_text())
    for annotation in content["annotations"]:
        annotation["segmentation"] = absent
        if absent is None:
            del annotation["segmentation"]
    Path("boxes.json").write_text(json.dumps(content))
    Path("found.json").write_text(json.dumps(small_coco.results()))
    sides = []
    for file in (annotations, "boxes.json"):
        done = evaluate("--annotations", file, "--results", "found.json", "--fresh")
        assert done.exit_code == 0, done.output
        sides.append(metrics()["sides"][0])
    assert "it has no masks: boxes alone are evaluated" in done.stderr
    assert sides[1]["box"] == sides[0]["box"]
    assert "mask" in sides[0]
    assert "mask" not in sides[1]
    assert sides[1]["thresholds"]["of"] == "box"


def test_results_files_from_anywhere_with_a_gate(tmp_path: Path) -> None:
    annotations, _ = small_coco.written(tmp_path)
    good, bad = small_coco.results(), small_coco.results()
    bad[4]["bbox"][0] += 30  # the toothbrush's box
    for name, content in (("good", good), ("bad", bad)):
        Path(f"{name}.json").write_text(json.dumps(content))
    command = ("--annotations", annotations, "--results", "good.json", "--results", "bad.json")
    done = evaluate(*command, "--gate", "0.1")
    assert done.exit_code == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("gate failed:")] == [
        "gate failed: bad.json: box AP is 28.45, -33.33 from the reference's 61.78",
        "gate failed: bad.json: box AP50 is 33.50, -33.33 from the reference's 66.83",
        "gate failed: bad.json: box AP75 is 33.50, -33.33 from the reference's 66.83",
        "gate failed: bad.json: box AP medium is 35.00, -50.00 from the reference's 85.00",
    ]
    assert metrics()["gate"]["passed"] is False
    assert evaluate(*command, "--gate", "50").exit_code == 0
    assert evaluate(*command).exit_code == 0
    same = evaluate("--annotations", annotations, "--results", "good.json", "--results", "good.json", "--gate", "0")
    assert same.exit_code == 0


def test_the_score_threshold_holds_for_results_files_too(tmp_path: Path) -> None:
    annotations, _ = small_coco.written(tmp_path)
    Path("r.json").write_text(json.dumps(small_coco.results()))
    evaluate("--annotations", annotations, "--results", "r.json", "--score-threshold", "0.65")
    assert metrics()["sides"][0]["detections"] == 4


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.pth"], ["a.pth"]),
        (["runs/a.pth", "b/a.onnx"], ["a.pth", "a.onnx"]),
        (["x/a.pth", "y/a.pth"], ["x/a.pth", "y/a.pth"]),
        (["x/z/a.pth", "y/z/a.pth", "b.pth"], ["x/z/a.pth", "y/z/a.pth", "b.pth"]),
        (["a.pth", "a.pth"], ["a.pth", "a.pth (2)"]),
        (["x/a.pth", "y/a.pth", "x_a.pth"], ["x/a.pth", "y/a.pth", "x_a.pth (3)"]),
        (["a.pth (2)", "a.pth", "a.pth"], ["a.pth (2)", "a.pth", "a.pth (3)"]),
        (["a.pth (3)", "a.pth", "a.pth"], ["a.pth (3)", "a.pth", "a.pth (4)"]),
    ],
)
def test_every_side_has_a_name_of_its_own(paths: list[str], names: list[str]) -> None:
    assert unique_names([Path(path) for path in paths]) == names
    assert len({results_path(Path(), name) for name in names}) == len(names)


def test_results_of_models_with_the_longest_names_can_be_written(tmp_path: Path) -> None:
    long = ["n" * 245 + f"{number}.onnx" for number in range(3)] + ["ü" * 124 + ".onnx"]
    names = unique_names([*map(Path, long), Path("a") / long[0]])
    written = {results_path(tmp_path, name) for name in names}
    assert len(written) == 5
    for path in written:
        with atomic_path(path) as temporary:
            temporary.write_text("[]")
        assert path.name.endswith(".results.json")
    assert results_path(tmp_path, "m.onnx").name == "m.onnx.results.json"


def test_results_whose_name_is_not_utf8_are_evaluated(tmp_path: Path) -> None:
    annotations, _ = small_coco.written(tmp_path)
    path = tmp_path / b"r\xff\xfe.json".decode("utf-8", "surrogateescape")
    path.write_text(json.dumps(small_coco.results()))
    done = evaluate("--annotations", annotations, "--results", path)
    assert done.exit_code == 0, done.stderr
    assert r"r\udcff\udcfe.json" in Path("evaluation/report.html").read_text(encoding="utf-8")
    assert r"r\udcff\udcfe.json" in done.stdout
