"""Types that a network's convolutions can have."""

from typing import Literal, get_args

Precision = Literal["float32", "float16", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
