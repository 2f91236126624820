"""The selection settings of a checkpoint's own configuration: taken over, said, and never run."""

from pathlib import Path
from typing import Any

import pytest

from condinst_deploy.contract import Selection
from condinst_deploy.model.checkpoints import load_model
from condinst_deploy.model.mmdet_config import LONGEST_TEXT, own_selection
from tests.support.checkpoints import saved
from tests.support.mmdet_names import mmdet_state_of
from tests.support.models import TINY, seeded_model

PUBLISHED = Selection()
TEST_CFG = "dict(max_per_img=50, min_bbox_size=0, nms=dict(iou_threshold=0.5, type='nms'), nms_pre=400, score_thr=0.1)"
OWN = Selection(score_threshold=0.1, nms_iou=0.5, candidates_per_level=400, max_detections=50)


def text_of(test_cfg: str = TEST_CFG) -> str:
    """A configuration as mmengine's `pretty_text` gives it, with entries around it."""
    return (
        "_backend_args = None\nbase_lr = 0.01\nmodel = dict(\n    backbone=dict(depth=50, type='ResNet'),\n"
        f"    test_cfg={test_cfg},\n    type='CondInst')\ntest_pipeline = [\n    dict(type='LoadImageFromFile'),\n]\n"
    )


def selection_of(text: Any, entry: str = "cfg") -> tuple[Selection, str]:
    found = own_selection({entry: text}, PUBLISHED)
    assert found is not None
    return found


@pytest.mark.parametrize("entry", ["cfg", "config"])
def test_the_files_own_settings_are_taken_over_and_said(entry: str) -> None:
    selection, remark = selection_of(text_of(), entry)
    assert selection == OWN
    assert remark == (
        "thresholds are the file's own test_cfg (score 0.1, NMS 0.5, 400 candidates a level, 50 detections)"
    )


def test_the_text_that_mmengine_writes_is_read() -> None:
    config = pytest.importorskip("mmengine.config", reason="writes a configuration with mmengine: pip install '.[dev]'")
    test_cfg = {
        "nms_pre": 400,
        "min_bbox_size": 0,
        "score_thr": 0.1,
        "nms": {"type": "nms", "iou_threshold": 0.5},
        "max_per_img": 50,
        "mask_thr": 0.5,
    }
    written = config.Config({"model": {"type": "CondInst", "test_cfg": test_cfg}, "lr": -1e-3})
    assert selection_of(written.pretty_text)[0] == OWN


def test_dictionaries_in_braces_and_parts_that_are_missing_are_fine() -> None:
    selection, _ = selection_of("model = {'test_cfg': {'score_thr': 0.2}}")
    assert selection == Selection(score_threshold=0.2)
    assert own_selection({"epoch": 12}, PUBLISHED) is None


@pytest.mark.parametrize(
    ("test_cfg", "kept", "said"),
    [
        ("dict(score_thr=1.5, nms_pre=400)", "score_threshold", "score_thr = 1.5"),
        ("dict(score_thr='0.1', nms_pre=400)", "score_threshold", "score_thr = '0.1'"),
        ("dict(score_thr=0.1, nms_pre=-1)", "candidates_per_level", "nms_pre = -1"),
        ("dict(score_thr=0.1, nms_pre=10**9)", "candidates_per_level", "nms_pre = (an expression)"),
        ("dict(score_thr=0.1, nms_pre=1000000000)", "candidates_per_level", "nms_pre = 1000000000"),
        ("dict(score_thr=0.1, nms_pre=True)", "candidates_per_level", "nms_pre = True"),
        ("dict(score_thr=0.1, max_per_img=-1)", "max_detections", "max_per_img = -1"),
        ("dict(score_thr=0.1, max_per_img=100.5)", "max_detections", "max_per_img = 100.5"),
        ("dict(score_thr=0.1, max_per_img=" + "9" * 4000 + ")", "max_detections", "more than 12 digits"),
        ("dict(score_thr=0.1, mask_thr=0.4)", "max_detections", "mask_thr = 0.4"),
        ("dict(score_thr=0.1, min_bbox_size=8)", "max_detections", "min_bbox_size = 8"),
        ("dict(score_thr=0.1, nms=dict(type='soft_nms'))", "nms_iou", "nms.type = 'soft_nms'"),
        ("dict(score_thr=0.1, nms=dict(class_agnostic=True))", "nms_iou", "nms.class_agnostic = True"),
        ("dict(score_thr=0.1, nms=None)", "nms_iou", "nms = None"),
        ("dict(score_thr=0.1, nms='nms')", "nms_iou", "nms = 'nms'"),
        ("dict(score_thr=0.1, nms=dict(type='nms', iou_thr=0.5))", "nms_iou", "nms.iou_thr = 0.5"),
        ("dict(score_thr=0.1, with_nms=False)", "nms_iou", "with_nms = False"),
        ("dict(score_thr=0.1, mask_thr_binary=0.3)", "nms_iou", "mask_thr_binary = 0.3"),
        ("dict(score_thr=0.1, min_bbox_size=False)", "nms_iou", "min_bbox_size = False"),
        ("dict(score_thr=0.1, nms=dict(iou_threshold=1e999))", "nms_iou", "nms.iou_threshold = inf"),
        ("dict(score_thr=0.1, rpn=dict(a=0x" + "f" * 9000 + "))", "nms_iou", "rpn = {'a': a number of more than 12"),
        ("dict(score_thr=0.1, rpn=[dict(a=-0x" + "f" * 9000 + ")])", "nms_iou", "rpn = (an expression)"),
        ("dict(**base, score_thr=0.1)", "nms_iou", "** = (an expression)"),
        ("{**base, 'score_thr': 0.1}", "nms_iou", "** = (an expression)"),
        ("{'nms' + '_pre': 100, 'score_thr': 0.1}", "candidates_per_level", "** = 100"),
    ],
)
def test_what_cannot_be_used_is_said_and_the_rest_is_taken(test_cfg: str, kept: str, said: str) -> None:
    selection, remark = selection_of(text_of(test_cfg))
    assert getattr(selection, kept) == getattr(PUBLISHED, kept)
    assert selection != PUBLISHED
    assert said in remark
    assert "which cannot be used" in remark
    assert "\n" not in remark


def test_settings_of_another_kind_of_model_are_named_and_none_is_called_the_files_own() -> None:
    two_stages = "dict(rpn=dict(nms_pre=2000), rcnn=dict(score_thr=0.2, max_per_img=50))"
    selection, remark = selection_of(text_of(two_stages))
    assert selection == PUBLISHED
    assert remark == (
        "thresholds are the published configuration's (score 0.05, NMS 0.6, 1000 candidates a level, 100 detections);"
        " the file's own rpn = {'nms_pre': 2000}, rcnn = {'score_thr': 0.2, 'max_per_img': 50} cannot be used"
    )


def test_settings_that_change_nothing_here_are_not_named() -> None:
    nms = "dict(type='nms', iou_threshold=0.5, class_agnostic=False, split_thr=10000)"
    _, remark = selection_of(text_of(f"dict(min_bbox_size=0.0, mask_thr=0.5, nms={nms})"))
    assert remark == (
        "thresholds are the file's own test_cfg (score 0.05, NMS 0.5, 1000 candidates a level, 100 detections)"
    )


def test_of_many_settings_that_cannot_be_used_twenty_are_named() -> None:
    names = ", ".join(f"own_{i}={i}" for i in range(1_000))
    _, remark = selection_of(text_of(f"dict(score_thr=0.1, {names})"))
    assert remark.endswith("own_19 = 19 and 980 more, which cannot be used")


MARK = "condinst_mark"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"model = dict()", "is not text"),
        ({"model": {}}, "is not text"),
        ("", "has no model.test_cfg"),
        ("model = dict(type='CondInst')", "has no model.test_cfg"),
        ("model = build(test_cfg=dict(score_thr=0.1))", "has no model.test_cfg"),
        ("model = dict(", "cannot be parsed"),
        ("model = dict(test_cfg=" + "(" * 5_000 + ")" * 5_000 + ")", "cannot be parsed"),
        ("model = dict(test_cfg=dict(a=" + "-" * 50_000 + "1))", "cannot be parsed"),
        ("x = " + "+".join(["1"] * 100_000) + "\nmodel = 1", "cannot be parsed"),
        ("model = " + "9" * 10_000, "cannot be parsed"),
        ("model = '\x00'", "cannot be parsed"),
        ("#" * (LONGEST_TEXT + 1), "is longer than"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_configuration_that_cannot_be_read_is_said(text: Any, why: str) -> None:
    selection, remark = selection_of(text)
    assert selection == PUBLISHED
    assert why in remark
    assert remark.startswith("thresholds are the published configuration's: the file's own configuration ")


def test_a_configuration_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = f"open({MARK!r}, 'w')\nmodel = dict(test_cfg=dict(score_thr=open({MARK!r}, 'w'), nms_pre=400))"
    selection, remark = selection_of(text)
    assert selection == Selection(candidates_per_level=400)
    assert "score_thr = (an expression)" in remark
    assert not Path(MARK).exists()


def test_a_loaded_model_has_its_files_settings(tmp_path: Path) -> None:
    content = {"state_dict": mmdet_state_of(seeded_model(TINY)), "meta": {"cfg": text_of()}}
    loaded = load_model(saved(tmp_path / "model.pth", content))
    assert loaded.model.config.selection == loaded.manifest.selection == OWN
    assert "the file's own test_cfg (score 0.1, NMS 0.5, 400 candidates a level, 50 detections)" in loaded.note
    del content["meta"]
    loaded = load_model(saved(tmp_path / "model.pth", content))
    assert loaded.model.config.selection == PUBLISHED
    assert "sizes and thresholds are the published configuration's" in loaded.note
