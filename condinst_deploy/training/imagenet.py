"""torchvision's ResNets that were trained on ImageNet, fetched once into PyTorch's own cache."""

from pathlib import Path

import torch
from torchvision.models import get_model_weights

from condinst_deploy.errors import ConfigError

TORCHVISION = "torchvision"
"""Value of `start.backbone` for ImageNet weights, instead of a file."""


def torchvision_resnet(depth: int) -> Path:
    """File with the weights `IMAGENET1K_V1` of a ResNet, fetched if it is not there yet.

    Raises:
        ConfigError: it cannot be fetched.
    """
    url = get_model_weights(f"resnet{depth}")["IMAGENET1K_V1"].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # the file's name ends with the start of its SHA-256
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.split("-")[-1], progress=False)
    except (OSError, RuntimeError) as e:
        raise ConfigError(
            f"{url} cannot be fetched ({getattr(e, 'reason', e)}); fetch it where there is a network, and name the file"
            " with --backbone"
        ) from e
    return path
