"""The result of one check, and what all checks share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["ok", "warning", "absent", "failed"]
"""ok: usable. warning: usable with a limit. absent: an optional part that is not there. failed: there and broken."""


@dataclass(frozen=True)
class Check:
    """One finding about this machine or a file."""

    name: str
    status: Status
    found: str  # one line for people
    advice: str = ""  # what to do; empty if nothing is to be done
    details: Mapping[str, Any] = field(default_factory=dict)  # the same finding for scripts
