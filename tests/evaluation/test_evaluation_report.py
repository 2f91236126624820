"""The report: one file that needs nothing else, with every metric and the images that differ."""

import base64
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from condinst_deploy.errors import DataError
from condinst_deploy.evaluation.coco_metrics import points
from condinst_deploy.evaluation.evaluation_report import Verdict, figures_json, metrics_table, write_html
from condinst_deploy.evaluation.evaluator import Evaluation, evaluate
from condinst_deploy.evaluation.gate import Failure, failures
from condinst_deploy.evaluation.ground_truth import load_ground_truth
from condinst_deploy.evaluation.panels import ONLY_OTHER, ONLY_REFERENCE, SIDE, panel_from
from condinst_deploy.evaluation.sources import EvaluationOptions, Source
from condinst_deploy.evaluation.svg_plots import bars, error_rows, iou_rows
from condinst_deploy.evaluation.wording import change_text
from tests.support import small_coco


def evaluated(
    folder: Path,
    *sides: list[dict[str, Any]],
    with_images: bool = True,
    names: tuple[str, ...] = ("a.json", "b.json"),
    ignored: tuple[str, ...] = (),
) -> Evaluation:
    annotations, images = small_coco.written(folder)
    sources = []
    for name, content in zip(names, sides, strict=False):
        (folder / name).write_text(json.dumps(content))
        sources.append(Source(folder / name, is_model=False))
    ground_truth = load_ground_truth(annotations, images if with_images else None, ignored=ignored)
    return evaluate(sources, ground_truth, EvaluationOptions(folder / "out"), lambda *_: None)


def moved() -> list[dict[str, Any]]:
    """The stop sign's mask is ten pixels narrower, and the toothbrush is missing."""
    results = small_coco.results()[:4]
    results[3]["segmentation"] = small_coco.rle_of((40, 40, 40, 31))
    return results


class Checker(HTMLParser):
    """Collects addresses and open tags."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.classes: list[str] = []  # of the open tags
        self.tables: list[bool] = []  # whether each scrolls in a box of its own

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attributes if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "img", "br", "wbr"):
            self.open.append(tag)
            self.classes.append(dict(attributes).get("class") or "")
        if tag == "table":
            self.tables.append(any("scroll" in classes.split() for classes in self.classes))

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.classes.pop()


def page(folder: Path, evaluation: Evaluation, verdict: Verdict | None = None, per_class: bool = True) -> str:
    write_html(folder / "report.html", evaluation, verdict or Verdict(), per_class)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_is_whole_and_loads_nothing(tmp_path: Path) -> None:
    text = page(tmp_path, evaluated(tmp_path, small_coco.results(), moved()))
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert len(checker.addresses) == 6  # two images, three times each
    assert all(address.startswith("data:image/jpeg;base64,") for address in checker.addresses)
    assert "<script" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert set(re.findall(r"https?://[^\"' <]+", text)) == {"http://www.w3.org/2000/svg"}
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text


def test_on_a_phone_wide_tables_scroll_and_the_page_does_not(tmp_path: Path) -> None:
    text = page(tmp_path, evaluated(tmp_path, small_coco.results(), moved()))
    checker = Checker()
    checker.feed(text)
    assert len(checker.tables) >= 4
    assert all(checker.tables)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    assert ".scroll { overflow-x: auto;" in text


@pytest.mark.skipif(shutil.which("chromium") is None, reason="measures the page in chromium, which is not installed")
def test_long_names_do_not_make_the_page_wider_than_a_phone(tmp_path: Path) -> None:
    names = tuple("x" * 90 + str(side) for side in range(3))
    page(tmp_path, evaluated(tmp_path, small_coco.results(), moved(), moved(), names=names))
    # a frame, because a window of chromium is not as narrow as a phone
    (tmp_path / "frame.html").write_text(
        '<iframe id="f" src="report.html" style="width: 380px; height: 800px; border: 0"></iframe>'
        "<output></output><script>"
        'f.onload = () => document.querySelector("output").textContent = f.contentDocument.documentElement.scrollWidth'
        "</script>"
    )
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom")
    budget = "--virtual-time-budget=5000"  # of the page's own clock
    done = subprocess.run(
        ["chromium", *options, budget, f"--user-data-dir={tmp_path}/user", f"file://{tmp_path}/frame.html"],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    (width,) = re.findall(r"<output>(\d+)</output>", done.stdout)
    assert 300 < int(width) <= 380


def test_every_figure_is_on_the_page(tmp_path: Path) -> None:
    evaluation = evaluated(tmp_path, small_coco.results(), moved())
    text = page(tmp_path, evaluation)
    shown = iter(re.findall(r"<td>([^<]*)(?:<span class=\"change[^>]*>([^<]*)</span>)?</td>", text))
    for name, row in metrics_table(evaluation):
        for value, change in row:
            expected = ("\u2013" if value is None else f"{value:.2f}", "" if change is None else change_text(change))
            assert next(shown) == expected, name
    assert "toothbrush" in text
    assert "mask IoU" in text
    assert "AP of 3 classes" in text
    assert "AP of 3 classes" not in page(tmp_path, evaluation, per_class=False)


def test_the_page_says_what_was_left_out(tmp_path: Path) -> None:
    """The metrics are not those of the whole file."""
    text = page(tmp_path, evaluated(tmp_path, small_coco.results(), ignored=("stop sign", "toothbrush")))
    assert "3 images of instances.json, 1 classes" not in text
    assert "3 images of instances.json, 1 class." in text
    assert "left out: 3 objects of the ignored classes &#39;stop sign&#39;, &#39;toothbrush&#39;." in text
    assert "left out" not in page(tmp_path, evaluated(tmp_path, small_coco.results()))


def test_the_gate_is_reported(tmp_path: Path) -> None:
    evaluation = evaluated(tmp_path, small_coco.results(), moved())
    found = failures(evaluation, 1.0)
    assert [(f.metric, round(f.other - f.reference, 2)) for f in found if isinstance(f, Failure)] == [
        ("box AP", -33.33),
        ("box AP50", -33.33),
        ("box AP75", -33.33),
        ("box AP medium", -50.0),
        ("mask AP", -11.72),  # toothbrush 0.2 / 3; stop sign 0.3 * 51/101 / 3, for its IoU is 40*31 / 2500
        ("mask AP50", -50.17),
        ("mask AP medium", -25.0),
    ]
    text = page(tmp_path, evaluation, Verdict(1.0, tuple(found)))
    assert "Gate of 1.0 points failed:" in text
    assert text.count("<li>") == 7
    # only what the gate looks at is marked: of the recalls, which moved as far, none
    assert len(re.findall('class="change moved"', text)) == 7
    assert "b.json: mask AP medium is 0.00, -25.00 from the reference&#39;s 25.00" in text
    assert "points passed" in page(tmp_path, evaluation, Verdict(60.0))
    assert [str(f).split(" is ")[0] for f in failures(evaluation, 25.0)][-1] == "b.json: mask AP50"  # up to and with


def test_names_are_text_and_not_markup(tmp_path: Path) -> None:
    names = ("<b>&.json", '"><script>alert(1).json')
    evaluation = evaluated(tmp_path, small_coco.results(), moved(), names=names)
    text = page(tmp_path, evaluation)
    assert "<script" not in text
    assert "&lt;b&gt;&amp;.json" in text


def test_one_side_alone_has_its_metrics_and_no_comparison(tmp_path: Path) -> None:
    text = page(tmp_path, evaluated(tmp_path, small_coco.results()))
    assert "Average precision" in text
    assert "Agreement" not in text
    assert "<img" not in text


def test_equal_sides_show_no_image(tmp_path: Path) -> None:
    text = page(tmp_path, evaluated(tmp_path, small_coco.results(), small_coco.results()))
    assert "No image differs" in text
    assert "<img" not in text


def test_what_could_not_be_compared_is_not_called_equal(tmp_path: Path) -> None:
    boxes = [{k: v for k, v in entry.items() if k != "segmentation"} for entry in small_coco.results()]
    text = page(tmp_path, evaluated(tmp_path, small_coco.results(), boxes))
    assert "same box and score; masks could not be compared" in text
    assert "and the same mask" not in text
    assert "and the same mask" in page(tmp_path, evaluated(tmp_path, boxes[:0], []))


def test_every_side_has_a_colour_of_its_own(tmp_path: Path) -> None:
    names = tuple(f"{letter}.json" for letter in "abcdefgh")
    text = page(tmp_path, evaluated(tmp_path, *[small_coco.results()] * 8, names=names))
    light, dark = (re.findall(r"--s\d+: ([^;]+);", part) for part in text.split("prefers-color-scheme: dark"))
    assert len(set(light)) == len(set(dark)) == 8
    for number in range(8):
        assert f".line.s{number} {{ stroke: var(--s{number}); }}" in text


def test_without_the_images_they_are_named(tmp_path: Path) -> None:
    text = page(tmp_path, evaluated(tmp_path, small_coco.results(), moved(), with_images=False))
    assert "image 285: difference 0.6" in text
    assert "<img" not in text


def test_boxes_alone_and_nothing_at_all_have_a_report(tmp_path: Path) -> None:
    boxes = [{k: v for k, v in entry.items() if k != "segmentation"} for entry in small_coco.results()]
    assert "data:image" in page(tmp_path, evaluated(tmp_path, boxes, boxes[:3]))
    assert "mask AP" in page(tmp_path, evaluated(tmp_path, small_coco.results(), []))
    assert "mask AP" in page(tmp_path, evaluated(tmp_path, [], []))


def test_the_json_file_is_plain_and_in_points(tmp_path: Path) -> None:
    evaluation = evaluated(tmp_path, small_coco.results(), moved())
    reported = json.loads(json.dumps(figures_json(evaluation, Verdict(1.0), per_class=True), allow_nan=False))
    assert reported["sides"][0]["box"]["ap"] == pytest.approx(61.7822, abs=1e-4)
    assert reported["sides"][0]["per_class"]["1"] == {
        "name": "person",
        "box": pytest.approx(50),
        "mask": pytest.approx(50),
    }
    comparison = reported["comparisons"][0]
    assert [image["image_id"] for image in comparison["worst_images"]] == [285, 139]
    assert comparison["worst_images"][0]["difference"] == 0.6
    assert comparison["worst_images"][1]["difference"] == pytest.approx(0.7 * (1 - 40 / 50))
    assert comparison["by_size"]["medium"]["matched"] == 1
    nothing = evaluated(tmp_path / "nothing", [], [])
    json.dumps(figures_json(nothing, Verdict(), per_class=True), allow_nan=False)


def image_of(uri: str) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))).convert("RGB"))


def share_of(colour: tuple[int, int, int], pixels: np.ndarray[Any, Any]) -> float:
    return float((np.abs(pixels.astype(int) - colour).max(axis=2) < 40).mean())


def test_panels_show_what_only_one_side_has(tmp_path: Path) -> None:
    evaluation = evaluated(tmp_path, small_coco.results(), moved())
    first, second = (panel_from(difference, evaluation.ground_truth) for difference in evaluation.differences[0])
    assert first.title == "000000000285.png (id 285)"
    assert first.caption.startswith("0 matched, 1 only in the reference, 0 only in the other; 920 and 0 pixels")
    assert second.caption.endswith("310 and 0 pixels on one side alone")  # ten columns of 31
    pixels = image_of(first.difference)
    assert pixels.shape == (2 * small_coco.SIDE, 2 * small_coco.SIDE, 3)  # a small image is enlarged
    assert share_of(ONLY_REFERENCE, pixels) == pytest.approx(920 / small_coco.SIDE**2, rel=0.1)
    assert share_of(ONLY_OTHER, pixels) == 0
    assert not np.array_equal(image_of(first.reference), image_of(first.other))


def test_large_images_are_shrunk_and_others_than_annotated_are_refused(tmp_path: Path) -> None:
    evaluation = evaluated(tmp_path, small_coco.results(), moved())
    large = Image.new("RGB", (1600, 1200), "grey")
    ground_truth = replace(evaluation.ground_truth, paths=(tmp_path / "large.png",) * 3)
    large.save(tmp_path / "large.png")
    nothing = replace(evaluation.differences[0][0], reference=(), other=())
    with pytest.raises(DataError, match=r"large\.png is 1600x1200, but image 285 of .* is annotated as 200x200"):
        panel_from(nothing, ground_truth)
    ground_truth.coco.imgs[285] |= {"width": 1600, "height": 1200}
    panel = panel_from(nothing, ground_truth)
    assert image_of(panel.difference).shape == (360, SIDE, 3)
    assert sum(len(uri) for uri in (panel.reference, panel.other, panel.difference)) < 3 * 60_000


@pytest.mark.parametrize(
    ("size", "drawn"),
    [((96, 96), 480), ((256, 160), 512), ((160, 319), 638), ((330, 200), 330), ((480, 3), 480), ((481, 3), 480)],
)
def test_small_images_are_enlarged_by_the_closest_whole_factor(
    tmp_path: Path, size: tuple[int, int], drawn: int
) -> None:
    evaluation = evaluated(tmp_path, small_coco.results(), moved())
    Image.new("RGB", size, "grey").save(tmp_path / "small.png")
    ground_truth = replace(evaluation.ground_truth, paths=(tmp_path / "small.png",) * 3)
    ground_truth.coco.imgs[285] |= {"width": size[0], "height": size[1]}
    panel = panel_from(replace(evaluation.differences[0][0], reference=(), other=()), ground_truth)
    shapes = {image_of(uri).shape for uri in (panel.reference, panel.other, panel.difference)}
    assert len(shapes) == 1
    assert max(shapes.pop()) == drawn


def test_counts_of_plots() -> None:
    assert error_rows(np.array([0, 0, 0.01, 0.02, 5]), (0.01, 1)) == [
        ("0", 2),
        ("up to 0.01", 1),
        ("up to 1", 1),
        ("above 1", 1),
    ]
    assert iou_rows([1, 2, 3], (0.5, 1)) == [("1 (identical)", 3), ("from 0.5", 2), ("below 0.5", 1)]
    empty = bars("x", [("a", 0), ("b", 0)], 1)
    assert empty.count('width="0.0"') == 2


def test_metrics_that_are_not_there_have_no_points() -> None:
    assert (points(-1), points(0), points(0.5)) == (None, 0, 50)
