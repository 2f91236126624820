"""Inputs and outputs of the network on the host, the same for every backend.

`runtime/device_inputs.py` and `runtime/device_outputs.py` have the forms on a device. Both forms have `on_host`.
"""

from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

INPUTS = ("images", "image_sizes")
OUTPUTS = ("num_detections", "boxes", "scores", "labels", "mask_logits")


class NetworkInputs(NamedTuple):
    """Input of the network as arrays; every backend takes it."""

    images: npt.NDArray[np.uint8]  # (B, 3, H, W) RGB, resized, padded at the bottom and right
    image_sizes: npt.NDArray[np.int32]  # (B, 2) height and width before padding

    def on_host(self) -> Self:
        """Return itself."""
        return self


class NetworkOutputs(NamedTuple):
    """Output of the network as arrays. Slots are sorted by score; slots past the count are empty."""

    num_detections: npt.NDArray[np.int32]  # (B,)
    boxes: FloatArray  # (B, K, 4) xyxy, network pixels
    scores: FloatArray  # (B, K); NaN in the last slot: a level is not finite, and its detections are missing
    labels: npt.NDArray[np.int32]  # (B, K)
    mask_logits: npt.NDArray[Any]  # (B, K, H/8, W/8) float32 or float16

    def on_host(self, images: int | None = None) -> Self:
        """Return itself; see `DeviceOutputs.on_host`."""
        return self
