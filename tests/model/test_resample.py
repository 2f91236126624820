"""Aligned bilinear upsampling against its definition."""

import numpy as np
import pytest
import torch

from condinst_deploy.model.resample import aligned_bilinear


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 1), (5, 7)])
def test_output_i_samples_the_input_at_i_less_half_the_factor(factor: int, size: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=size)

    def matrix(n: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        at = np.maximum((np.arange(factor * n) - factor // 2) / factor, 0) if factor > 1 else np.arange(n)
        return np.stack([np.interp(at, np.arange(n), row) for row in np.eye(n)], axis=1)

    got = aligned_bilinear(torch.from_numpy(x)[None, None], factor)[0, 0].numpy()
    np.testing.assert_allclose(got, matrix(size[0]) @ x @ matrix(size[1]).T, atol=1e-12)
