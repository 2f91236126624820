"""What is found in a validation set before the first step; each finding names its file."""

from collections.abc import Sequence
from dataclasses import replace

from condinst_deploy.data.annotated_areas import area_finding
from condinst_deploy.data.box_form import corners_in
from condinst_deploy.data.coco import CocoDataset
from condinst_deploy.data.data_report import Finding
from condinst_deploy.data.header_checks import header_findings
from condinst_deploy.imaging.image_sizes import Header
from condinst_deploy.shown_text import quoted_if_odd

PLACE = "in the validation set"

NOT_NAMED = "AP is the mean over the classes that it names; condinst-eval needs all of them in its categories"


def validation_findings(
    data: CocoDataset, headers: Sequence[Header], trained: CocoDataset
) -> tuple[list[Finding], list[Finding]]:
    """What cannot be right, and what is odd, in a set to evaluate on.

    Args:
        data: the set.
        headers: of its images, in the same order.
        trained: the set that is trained on.
    """
    corners, most = corners_in(data, PLACE)
    wrong = [*header_findings(data.records, headers, "validation image"), *([corners] if most else [])]
    odd = [
        *([] if most else [corners]),
        _nothing_to_evaluate(data),
        _classes_not_named(data, trained),
        area_finding(data, PLACE),
    ]
    file = str(data.annotations)
    return [replace(each, annotations=file) for each in wrong], [replace(each, annotations=file) for each in odd]


def _classes_not_named(data: CocoDataset, trained: CocoDataset) -> Finding:
    """Classes of the training set that the file leaves out; small sets are often exported so."""
    classes = zip(trained.category_ids, trained.class_names, strict=True)
    names = [quoted_if_odd(name) for number, name in classes if number not in data.category_ids]
    return Finding.of("class", "of the training set that it does not name", NOT_NAMED, names)


def _nothing_to_evaluate(data: CocoDataset) -> Finding:
    """A set of crowds, or of nothing: average precision needs objects."""
    count = len(data.records.objects.ids) + sum(each.reason != "crowd" for each in data.left_out)
    advice = "no AP can be measured, and no best model is kept: name a set with objects"
    return Finding.of("validation set", "without an object", advice, [] if count else [data.annotations.name])
