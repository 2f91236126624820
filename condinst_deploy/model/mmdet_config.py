"""The selection settings in the configuration text that mmdetection saves with a checkpoint.

mmengine's runner keeps the whole configuration as Python text in `meta["cfg"]` (mmdetection 2: `meta["config"]`). The
text is parsed and never run: only `model = dict(..., test_cfg=dict(...))` with plain numbers is read.
"""

import ast
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from condinst_deploy.contract import Selection
from condinst_deploy.errors import ConfigError

LONGEST_TEXT = 1_000_000
"""Characters of a configuration that is parsed; a resolved one of mmdetection's CondInst has about 12,000."""

LARGEST_LIMIT = 10_000
"""Largest `nms_pre` and `max_per_img` that are taken over: both decide the sizes of tensors."""

LIMITS = {"nms_pre": "candidates_per_level", "max_per_img": "max_detections"}
"""mmdetection's whole numbers -> fields of `Selection`."""

FIXED = {"min_bbox_size": 0, "mask_thr": 0.5}
"""Settings of mmdetection's that the toolkit has no choice of."""

NMS_SETTINGS = {"type", "iou_threshold"}


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
    text = meta.get("cfg", meta.get("config"))
    if text is None:
        return None
    try:
        settings = _test_cfg(text)
    except _Unreadable as e:
        return OwnSelection(published, f"thresholds are the published configuration's: the file's own {e}")
    selection, left = _selection(settings, published)
    remark = (
        f"thresholds are the file's own test_cfg (score {selection.score_threshold:g}, NMS {selection.nms_iou:g},"
        f" {selection.candidates_per_level} candidates a level, {selection.max_detections} detections)"
    )
    if left:
        remark += f", except {', '.join(left)}, which cannot be used"
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
    """Entries of `dict(a=...)` or `{"a": ...}`; none of anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg is not None}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {str(key.value): value for key, value in pairs if isinstance(key, ast.Constant)}
    return {}


def _plain(node: ast.expr) -> Any:
    """A number, a text or a dictionary of them; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _plain(node.operand)
        return -value if isinstance(value, int | float) else None
    entries = _entries(node)
    return {key: _plain(value) for key, value in entries.items()} if entries else None


def _selection(settings: Mapping[str, Any], selection: Selection) -> tuple[Selection, list[str]]:
    """`selection` with the settings that can be taken over, and the others as text."""
    nms = settings.get("nms")
    nms = nms if isinstance(nms, dict) else {}
    wanted: dict[str, tuple[str, Any]] = {}  # field -> mmdetection's name, value
    if "score_thr" in settings:
        wanted["score_threshold"] = ("score_thr", settings["score_thr"])
    if "iou_threshold" in nms:
        wanted["nms_iou"] = ("nms.iou_threshold", nms["iou_threshold"])
    wanted |= {field: (name, settings[name]) for name, field in LIMITS.items() if name in settings}
    left = _without_choice(settings, nms)
    for field, (name, value) in wanted.items():
        changed = _with(selection, field, value)
        if changed is None:
            left.append(f"{name} = {_shown(value)}")
        else:
            selection = changed
    return selection, left


def _with(selection: Selection, field: str, value: Any) -> Selection | None:
    """The selection with another value of one field; None if it cannot be used."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if field in LIMITS.values() and not (isinstance(value, int) and 1 <= value <= LARGEST_LIMIT):
        return None
    try:
        changes: dict[str, Any] = {field: value}
        return replace(selection, **changes)
    except ConfigError:
        return None


def _without_choice(settings: Mapping[str, Any], nms: Mapping[str, Any]) -> list[str]:
    """Settings that the toolkit fixes to another value, as text."""
    left = [f"{name} = {_shown(settings[name])}" for name, fixed in FIXED.items() if settings.get(name, fixed) != fixed]
    if nms.get("type", "nms") != "nms":
        left.append(f"nms.type = {_shown(nms['type'])}")
    return left + [f"nms.{_shown(name)}" for name in nms if name not in NMS_SETTINGS]


def _shown(value: Any) -> str:
    """A value of a file, short and on one line."""
    text = ascii(value) if not isinstance(value, int) or abs(value) < 10**12 else "a number of more than 12 digits"
    return text if len(text) <= 40 else f"{text[:37]}..."
