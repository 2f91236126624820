"""The data set that models are evaluated on: its images, classes and annotated objects."""

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from condinst_deploy.contract import ModelManifest, default_class_names
from condinst_deploy.data.annotated_areas import area_note
from condinst_deploy.data.annotation_checks import check_annotated_size
from condinst_deploy.data.box_form import box_note
from condinst_deploy.data.coco import evaluation_set
from condinst_deploy.data.coco_file import coco_content
from condinst_deploy.errors import ConfigError, DataError
from condinst_deploy.evaluation.coco_metrics import load_coco
from condinst_deploy.shown_text import counted, quoted_if_odd, shown, shown_value
from condinst_deploy.support.digests import sha256_of
from condinst_deploy.support.suggestions import did_you_mean

CROWDED, LONG_WAIT = 1_000, 5_000
"""Objects of a class on an image that take pycocotools about a second, and of all such images a user waits for."""


MOST_NAMED = 5
"""Classes that a message lists."""


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """A COCO-format data set, or the first images of one.

    Attributes:
        annotations: the JSON file.
        sha256: of that file.
        coco: what pycocotools read, all images.
        image_ids: the images to evaluate, in the file's order.
        paths: file of each of them.
        has_masks: whether the objects have masks; else boxes alone are evaluated.
        has_images: whether the files are there; not where results files alone are evaluated.
        class_names: in the order of the ids.
        category_ids: the data set's id of each class, rising; 1..90 with gaps for COCO.
        notes: what a user should know before the evaluation.
        ignored: names of classes whose objects are left out.
        ignored_ids: their category ids.
    """

    annotations: Path
    sha256: str
    coco: COCO
    image_ids: tuple[int, ...]
    paths: tuple[Path, ...]
    has_masks: bool
    has_images: bool
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    notes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    ignored_ids: frozenset[int] = frozenset()

    def __len__(self) -> int:
        return len(self.image_ids)

    def size(self, image_id: int) -> tuple[int, int]:
        """Height and width of an image as annotated."""
        image = self.coco.imgs[image_id]
        return image["height"], image["width"]

    def check_size(self, name: str, size: tuple[int, int], image_id: int) -> None:
        """Check that an image, called `name` in messages, has the annotated height and width.

        Raises:
            DataError: it has not.
        """
        check_annotated_size(name, size, self.size(image_id), image_id, self.annotations)

    def name_of(self, category_id: int) -> str:
        """Class name of a category."""
        return self.class_names[self.category_ids.index(category_id)]

    def category_ids_of(self, manifest: ModelManifest, model: str) -> tuple[int, ...]:
        """Return this data set's category id of each of a model's labels, found by class names.

        A model without class names (class_0, class_1, ...) is taken to number the classes as the data set does.

        Raises:
            ConfigError: the classes are not the same, or one that is ignored is the model's; `model` is what the
                message calls the model.
        """
        names = manifest.class_names
        if names in (self.class_names, default_class_names(len(self.class_names))):
            return self.category_ids
        if len(set(names)) < len(names) or sorted(names) != sorted(self.class_names):
            lacking, surplus = (
                sorted(set(a) - set(b)) for a, b in ((self.class_names, names), (names, self.class_names))
            )
            if needed := [name for name in surplus if name in self.ignored]:
                raise ConfigError(
                    f"{_named('--ignore-class leaves out', needed)}{model} has"
                    f" {'it' if len(needed) == 1 else 'them'}; expected classes that only the data has"
                )
            raise ConfigError(
                f"{model} has {counted(len(names), 'class')} and {self.annotations} {len(self.class_names)}, and they"
                f" are not the same: {_named('only the model has', surplus)}{_named('only the data has', lacking)}"
                f"expected the classes that the model was trained on{_remedy(lacking, surplus)}"
            )
        ids = dict(zip(self.class_names, self.category_ids, strict=True))
        return tuple(ids[name] for name in names)


def load_ground_truth(
    annotations: Path, images: Path | None, limit: int | None = None, ignored: Sequence[str] = ()
) -> GroundTruth:
    """Read a data set to evaluate on. If no object has a mask, boxes alone can be evaluated.

    Args:
        annotations: COCO-format JSON.
        images: folder of the images; None: only results files will be evaluated, the images are not needed.
        limit: number of images, from the first on.
        ignored: names of classes whose objects are left out.

    Raises:
        ConfigError: the limit is below 1, or the data has no class of an ignored name.
        DataError: the file is not in COCO's format, an image is missing, nothing is annotated, or most boxes are
            written as two corners.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"the limit is {limit}; expected at least 1 image")
    content, ignored_ids, left_out = coco_content(annotations), frozenset[int](), 0
    notes = []
    if ignored:
        content, ignored_ids, left_out = _without(content, ignored, annotations)
        named = ", ".join(repr(shown(name, 60)) for name in ignored)
        notes.append(f"left out: {counted(left_out, 'object')} of the ignored {_classes(len(ignored))} {named}")
    data = evaluation_set(annotations, images, content, limit)
    coco = load_coco(annotations, content, data.boxes_only)
    objects = coco.loadAnns(coco.getAnnIds(imgIds=list(data.image_ids), iscrowd=False)) if coco.anns else []
    if not objects:
        expected = "expected a validation set (files of test sets name images alone)"
        if left_out:
            expected = f"{notes[0]}; expected objects of other classes, too"
        raise DataError(
            f"{annotations} has no ground truth: nothing is annotated in its {counted(len(data), 'image')} to evaluate;"
            f" {expected}"
        )
    notes += [note for note in (box_note(data), area_note(data)) if note]
    return GroundTruth(
        annotations=annotations,
        sha256=sha256_of(annotations),
        coco=coco,
        image_ids=data.image_ids,
        paths=tuple(data.paths),
        has_masks=not data.boxes_only,
        has_images=images is not None,
        class_names=data.class_names,
        category_ids=data.category_ids,
        notes=tuple(notes),
        ignored=tuple(ignored),
        ignored_ids=ignored_ids,
    )


def _without(
    content: dict[str, Any], ignored: Sequence[str], annotations: Path
) -> tuple[dict[str, Any], frozenset[int], int]:
    """The content without some classes and their objects; the ids of these classes, and the number of objects.

    Raises:
        ConfigError: no class has one of the names.
    """
    categories = content["categories"]
    known = [entry["name"] for entry in categories if isinstance(entry.get("name"), str)]
    for name in ignored:
        if name not in known:
            listed = _named("its classes are", known) or "it has no classes; "
            raise ConfigError(
                f"--ignore-class is {shown_value(name)}, which {annotations} does not have: {listed}expected one of"
                f" them{did_you_mean(name, known)}"
            )
    ids = frozenset(e["id"] for e in categories if e.get("name") in ignored and type(e.get("id")) is int)
    objects = [e for e in content["annotations"] if type(i := e.get("category_id")) is not int or i not in ids]
    kept = [entry for entry in categories if entry.get("name") not in ignored]
    left_out = len(content["annotations"]) - len(objects)
    return content | {"categories": kept, "annotations": objects}, ids, left_out


def _classes(number: int) -> str:
    return "class" if number == 1 else "classes"


def _remedy(lacking: Sequence[str], surplus: Sequence[str]) -> str:
    """How to leave out the classes that a model lacks, or to name those that the data lacks; "" where both differ."""
    if surplus and not lacking:
        return ": add them to the data's categories, with their ids; a class needs no objects"
    if surplus or not lacking:
        return ""
    few = " ".join(f"--ignore-class {shlex.quote(shown(name, 60))}" for name in lacking[:MOST_NAMED])
    more = " ..." if len(lacking) > MOST_NAMED else ""
    return f", or {few}{more} to leave the objects of {'this class' if len(lacking) == 1 else 'these classes'} out"


def crowding_note(ground_truth: GroundTruth) -> str:
    """Return what pycocotools' loops over crowded images cost; "" where no image is crowded.

    They take about a second for 1,000 objects of a class on an image, with 100 detections of the class.
    """
    wanted = set(ground_truth.image_ids)
    counts = Counter((entry["image_id"], entry["category_id"]) for entry in ground_truth.coco.dataset["annotations"])
    crowded = {place: count for place, count in counts.items() if count >= CROWDED and place[0] in wanted}
    if sum(crowded.values()) < LONG_WAIT:
        return ""
    (image_id, _), most = max(crowded.items(), key=lambda item: item[1])
    seconds = sum(crowded.values()) / 1000
    return (
        f"image {image_id} has {most:,} objects of one class: average precision takes some {seconds:,.0f} s for boxes,"
        " and again for masks, of each model; --fast takes a small part of it"
    )


def _named(what: str, names: Iterable[str]) -> str:
    listed = list(names)
    more = ", ..." if len(listed) > MOST_NAMED else ""
    return f"{what} {', '.join(quoted_if_odd(name) for name in listed[:MOST_NAMED])}{more}; " if listed else ""
