"""The two special operations as the network calls them, so that another form of both can take their places."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from condinst_deploy.model.mask_head import dynamic_mask_head
from condinst_deploy.model.select import select_instances


class Operations(NamedTuple):
    """One form of both operations; arguments and results are those of the PyTorch references."""

    select: Callable[[Tensor, Tensor, Tensor, float, int], tuple[Tensor, Tensor]]
    mask_head: Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


REFERENCE = Operations(select_instances, dynamic_mask_head)
