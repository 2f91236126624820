"""Health check of a served model: one inference on a grey image, and loading it again if that fails.

Readiness is not enough: if the process of a Python model is killed, the server goes on saying that the model is ready
(triton-inference-server/server issue 8604), and the process does not come back by itself.
"""

import io
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from condinst_deploy.errors import CondInstError
from condinst_deploy.serving.client.transport import Transport
from condinst_deploy.serving.protocol import BOXES, MODEL, NETWORK

SIDE = 64


@dataclass(frozen=True)
class Health:
    """Findings and actions of a check."""

    ready: bool  # what the server says of itself
    answers: bool  # whether the canary was answered in the end
    reloaded: tuple[str, ...] = ()  # models that were loaded again
    reason: str = ""  # why the first canary was not answered

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def canary() -> bytes:
    """A small grey image, PNG."""
    content = io.BytesIO()
    Image.fromarray(np.full((SIDE, SIDE, 3), 128, dtype=np.uint8)).save(content, "PNG")
    return content.getvalue()


def check_health(transport: Transport, model: str = MODEL, repair: bool = True) -> Health:
    """Run the canary; if it fails, load the models again and run it once more.

    Args:
        transport: the server.
        model: the model that clients ask.
        repair: False: only look.
    """
    ready = transport.ready()
    reason = _failure(transport, model)
    if not reason or not repair:
        return Health(ready, not reason, reason=reason)
    # the model may have died, or the network behind it
    names = [name for name in (NETWORK, model) if name == model or _has(transport, name)]
    reloaded: list[str] = []
    for name in names:
        try:
            transport.reload(name)
        except CondInstError as e:
            return Health(ready, False, tuple(reloaded), f"{reason}; {e}")
        reloaded.append(name)
    again = _failure(transport, model)
    return Health(ready, not again, tuple(reloaded), reason if not again else f"{reason}; after loading again: {again}")


def _failure(transport: Transport, model: str) -> str:
    """Return why the canary request fails; empty if it succeeds."""
    try:
        transport.infer(model, canary(), {"masks": "none"}, [BOXES])
    except CondInstError as e:
        return str(e)
    return ""


def _has(transport: Transport, model: str) -> bool:
    try:
        transport.config(model)
    except CondInstError:
        return False
    return True
