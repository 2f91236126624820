"""The selection settings in the configuration text that mmdetection saves with a checkpoint.

mmengine's runner keeps the whole configuration as Python text in `meta["cfg"]` (mmdetection 2: `meta["config"]`). The
text is parsed and never run: only `model = dict(..., test_cfg=dict(...))` with plain numbers is read. A setting is
taken over, equal to what the toolkit does, or named as one that cannot be used.
"""

import ast
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from condinst_deploy.contract import Selection
from condinst_deploy.errors import ConfigError

LONGEST_TEXT = 1_000_000
"""Characters of a configuration that is parsed; a resolved one of mmdetection's CondInst has about 12,000."""

LARGEST_LIMIT = 10_000
"""Largest `nms_pre` and `max_per_img` that are taken over: both decide the sizes of tensors."""

FIELDS = {
    "score_thr": "score_threshold",
    "nms.iou_threshold": "nms_iou",
    "nms_pre": "candidates_per_level",
    "max_per_img": "max_detections",
}
"""mmdetection's settings -> fields of `Selection`."""

WHOLE = ("candidates_per_level", "max_detections")

FIXED = {"min_bbox_size": 0, "mask_thr": 0.5, "nms.type": "nms", "nms.class_agnostic": False}
"""Settings of mmdetection's that the toolkit has no choice of."""

OF_SPEED = "nms.split_thr"
"""Number of boxes from which mmcv's NMS goes class by class; what it keeps does not depend on it."""

MOST_NAMED = 20
"""Settings that cannot be used, which a remark lists; it counts the others."""


class Described:
    """A value that is not used, in words: one that would have to be computed, or is too long to be shown."""

    def __init__(self, words: str) -> None:
        self.words = words

    def __repr__(self) -> str:
        return self.words


EXPRESSION = Described("(an expression)")
LONG_NUMBER = Described("a number of more than 12 digits")


class OwnSelection(NamedTuple):
    """The selection that a checkpoint's own configuration asks for."""

    selection: Selection
    remark: str  # for the user; what was taken over, and what could not be


class _Unreadable(Exception):
    """The configuration has no test settings that can be read; the message says why."""


def own_selection(meta: Mapping[Any, Any], published: Selection) -> OwnSelection | None:
    """Selection settings of a checkpoint's own `test_cfg`.

    Args:
        meta: the checkpoint's entry `meta`.
        published: the settings that stay where the checkpoint names no others.

    Returns:
        None if the checkpoint has no configuration.
    """
    text = meta.get("config") if meta.get("cfg") is None else meta["cfg"]
    if text is None:
        return None
    try:
        settings = _test_cfg(text)
    except _Unreadable as e:
        return OwnSelection(published, f"thresholds are the published configuration's: the file's own {e}")
    selection, left, taken = _selection(settings, published)
    whose = "the file's own test_cfg" if taken else "the published configuration's"
    remark = (
        f"thresholds are {whose} (score {selection.score_threshold:g}, NMS {selection.nms_iou:g},"
        f" {selection.candidates_per_level} candidates a level, {selection.max_detections} detections)"
    )
    if left:
        more = f" and {len(left) - MOST_NAMED} more" if len(left) > MOST_NAMED else ""
        names = ", ".join(left[:MOST_NAMED]) + more
        remark += f", except {names}, which cannot be used" if taken else f"; the file's own {names} cannot be used"
    return OwnSelection(selection, remark)


def _test_cfg(text: Any) -> dict[str, Any]:
    """`model.test_cfg` of a configuration text."""
    if not isinstance(text, str):
        raise _Unreadable("configuration is not text")
    if len(text) > LONGEST_TEXT:
        raise _Unreadable(f"configuration is longer than {LONGEST_TEXT} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on somebody else's text
            statements = ast.parse(text).body
        models = [s.value for s in statements if isinstance(s, ast.Assign) and _names(s) == ["model"]]
        settings = _entries(models[-1]).get("test_cfg") if models else None
        values = None if settings is None else {key: _plain(node) for key, node in _entries(settings).items()}
    # a file can hold any text: too deep, numbers of thousands of digits, no Python at all
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        raise _Unreadable("configuration cannot be parsed") from e
    if not values:
        raise _Unreadable("configuration has no model.test_cfg")
    return values


def _names(statement: ast.Assign) -> list[str]:
    return [target.id for target in statement.targets if isinstance(target, ast.Name)]


def _entries(node: ast.expr) -> dict[str, ast.expr]:
    """Entries of `dict(a=...)` or `{"a": ...}`; none of anything else. Unpacked ones (`**base`) have one name."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {keyword.arg or "**": keyword.value for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {str(key.value) if isinstance(key, ast.Constant) else "**": value for key, value in pairs}
    return {}


def _plain(node: ast.expr) -> Any:
    """A number, a text or a dictionary of them; anything else is `Described`."""
    if isinstance(node, ast.Constant):
        is_long = isinstance(node.value, int) and abs(node.value) >= 10**12
        return LONG_NUMBER if is_long else node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _plain(node.operand)
        return -value if isinstance(value, int | float) else LONG_NUMBER if value is LONG_NUMBER else EXPRESSION
    entries = _entries(node)
    return {key: _plain(value) for key, value in entries.items()} if entries else EXPRESSION


def _selection(settings: Mapping[str, Any], selection: Selection) -> tuple[Selection, list[str], bool]:
    """`selection` with the settings that can be taken over, the others as text, and whether any was taken over."""
    left, taken = [], False
    for name, value in _named(settings):
        field = FIELDS.get(name)
        changed = None if field is None else _with(selection, field, value)
        if changed is not None:
            selection, taken = changed, True
        elif field is not None or (name != OF_SPEED and not _is_fixed(name, value)):
            left.append(f"{_short(ascii(name)[1:-1])} = {_short(ascii(value))}")
    return selection, left, taken


def _named(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every setting with its name; those of NMS are called `nms.NAME`."""
    for name, value in settings.items():
        if name == "nms" and isinstance(value, dict):
            yield from ((f"nms.{own}", each) for own, each in value.items())
        else:
            yield name, value


def _is_fixed(name: str, value: Any) -> bool:
    """Return whether the toolkit does what a setting asks for."""
    fixed = FIXED.get(name)
    return fixed is not None and isinstance(value, bool) == isinstance(fixed, bool) and bool(value == fixed)


def _with(selection: Selection, field: str, value: Any) -> Selection | None:
    """The selection with another value of one field; None if it cannot be used."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if field in WHOLE and not (isinstance(value, int) and 1 <= value <= LARGEST_LIMIT):
        return None
    try:
        changes: dict[str, Any] = {field: value}
        return replace(selection, **changes)
    except ConfigError:
        return None


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
