"""The estimate of a run's time."""

import pytest

from condinst_deploy.runtime.cores import usable_cores
from condinst_deploy.training.preview import seconds_of_iteration


@pytest.mark.parametrize(
    ("loading", "step", "workers", "seconds"),
    [
        (3.0, 1.0, 0, 4.0),  # one after the other
        (3.0, 1.0, 1, 3.0),  # the step waits for its images
        (0.5, 1.0, 1, 1.0),  # loaded in time
        (3000.0, 1.0, 100_000, 3000.0 / usable_cores()),  # more processes than cores do not help
    ],
)
def test_images_are_loaded_before_a_step_or_during_it(
    loading: float, step: float, workers: int, seconds: float
) -> None:
    assert seconds_of_iteration(loading, step, workers) == seconds
