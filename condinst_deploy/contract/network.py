"""Inputs and outputs of the network, the same for every backend."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

INPUTS = ("images", "image_sizes")
OUTPUTS = ("num_detections", "boxes", "scores", "labels", "mask_logits")


class NetworkInputs(NamedTuple):
    """What every backend's network takes."""

    images: npt.NDArray[np.uint8]  # (B, 3, H, W) RGB, resized, padded at the bottom and right
    image_sizes: npt.NDArray[np.int32]  # (B, 2) height and width before padding


class NetworkOutputs(NamedTuple):
    """What every backend's network gives; slots are sorted by score, those past the count are empty."""

    num_detections: npt.NDArray[np.int32]  # (B,)
    boxes: FloatArray  # (B, K, 4) xyxy, network pixels
    scores: FloatArray  # (B, K); NaN in the last slot: a level is not finite, and its detections are missing
    labels: npt.NDArray[np.int32]  # (B, K)
    mask_logits: npt.NDArray[Any]  # (B, K, H/8, W/8) float32 or float16
