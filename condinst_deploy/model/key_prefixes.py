"""Weights in a file's content, without the prefixes of keys that wrappers of PyTorch models leave."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from condinst_deploy.errors import CheckpointError
from condinst_deploy.shown_text import counted, shown_value

STATE_ENTRIES = ("model", "state_dict")
"""Entries of a file that hold the weights (AdelaiDet's, mmdetection's); a bare dictionary of weights is fine, too."""

WRAPPERS = re.compile(r"(?:(?:module|_orig_mod|model)\.)+")
"""Prefixes that wrappers (several GPUs, `torch.compile`, trainers) put before every key; they can be nested."""

COMPILED = "._orig_mod."
"""Part that `torch.compile` inserts into the keys of a submodule."""


def weights_in(content: Mapping[Any, Any]) -> dict[str, Any]:
    """The weights that a file holds, bare or under an entry."""
    entries = [content[name] for name in STATE_ENTRIES if isinstance(content.get(name), Mapping)]
    # settings may lie under one of the names, too, and are fewer
    chosen = max(entries, key=len, default=content)
    # a file can have keys of any type, and as large as it likes
    return {key if isinstance(key, str) else shown_value(key): value for key, value in chosen.items()}


def unwrapped(path: Path, state: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Weights without the prefix of wrappers, and a remark for the user where all keys had one.

    Args:
        path: of the file, for messages.
        state: weights with their keys.

    Raises:
        CheckpointError: some keys have a prefix and others do not, so that the file is of no one model.
    """
    prefix = ""
    if found := WRAPPERS.match(next(iter(state), "")):
        prefix = found.group()
    while prefix and not all(key.startswith(prefix) for key in state):
        prefix = prefix[: prefix.rfind(".", 0, -1) + 1]  # without its last part
    plain = {key.removeprefix(prefix).replace(COMPILED, "."): value for key, value in state.items()}
    _check_alike(path, plain)
    if len(plain) < len(state):  # two keys would be one
        return dict(state), ""
    remark = f"; the prefix {prefix!r} of all keys, which wrappers of PyTorch models leave, was taken off"
    return plain, remark if prefix else ""


def _check_alike(path: Path, plain: Mapping[str, Any]) -> None:
    """See that no prefix of a wrapper is left: a part of the weights would look like another model's."""
    wrapped = {key: found.group() for key in plain if (found := WRAPPERS.match(key))}
    if wrapped:
        key, prefix = next(iter(wrapped.items()))
        other = next((key for key in plain if key not in wrapped), None)
        rest = "the others do not begin so" if other is None else f"others have none, such as {shown_value(other)}"
        raise CheckpointError(
            f"{path}: {counted(len(wrapped), 'key')} of {len(plain):,} have a prefix that wrappers of PyTorch models"
            f" leave ({prefix!r}, such as {shown_value(key)}), and {rest}; save the state_dict of one model, either"
            " wrapped or unwrapped"
        )
