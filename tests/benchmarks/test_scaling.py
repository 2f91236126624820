from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.scaling import (
    Measured,
    Site,
    best_shard_size,
    efficiency,
    limits,
    lost_share,
    measured_from,
    most_servers,
    servers_for,
    simulated_lost_share,
    tables,
)
from condinst_deploy.serving.batch.batch_options import SHARD_SIZE

DOCUMENT = Path(__file__).parents[2] / "docs" / "scaling.md"
ROUND = Measured(decode_ms=6, resize_ms=3, row_ms=1, bytes_in=90_000, bytes_out=10_000, shard_ms=50, driver_ms=2)


def test_limits_are_what_there_is_divided_by_what_an_image_needs() -> None:
    site = Site(gpu_images=200, gpus=2, cores=8, network_gbit=8, storage_gbit=80, shard_size=500)
    assert limits(ROUND, site, 3) == pytest.approx(
        {
            "GPU": 3 * 2 * 200,
            "decoding (CPU)": 3 * 8 * 100,
            "network card": 3 * 8e9 / 800_000,
            "storage": 80e9 / 800_000,
            "driver": 500 / 0.002,
        }
    )


@pytest.mark.parametrize(("seconds", "loss"), [(5.0, 0.05), (60.0, 1.0), (600.0, 5.0)])
def test_the_simulation_agrees_with_the_formula(seconds: float, loss: float) -> None:
    simulated = simulated_lost_share(seconds, loss)
    assert simulated == pytest.approx(lost_share(seconds, loss, 0.0), rel=0.02)
    assert lost_share(seconds, loss, 20.0) > lost_share(seconds, loss, 0.0) > 0


def test_reloading_costs_the_same_for_every_shard_size_while_losses_are_rare() -> None:
    costs = [lost_share(seconds, 0.05, 20.0) - lost_share(seconds, 0.05, 0.0) for seconds in (1.0, 100.0)]
    assert costs[0] == pytest.approx(costs[1], rel=0.01)
    assert costs[0] == pytest.approx(20 * 0.05 / 3600, rel=0.01)


def test_the_best_shard_is_smaller_where_more_workers_die() -> None:
    sizes = [best_shard_size(ROUND, replace(Site(), loss_an_hour=loss)) for loss in (0.001, 0.05, 1.0, 20.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


def test_a_billion_images_a_day_need_servers_storage_and_a_driver() -> None:
    site = Site(storage_gbit=4000)
    servers = servers_for(ROUND, site, 1e9)
    assert servers is not None
    per_server = min(limits(ROUND, site, 1)[name] for name in ("GPU", "decoding (CPU)", "network card"))
    assert (servers - 1) * per_server < 1e9 / 86_400 / efficiency(ROUND, site, site.shard_size) <= servers * per_server
    assert servers_for(ROUND, replace(site, storage_gbit=1), 1e9) is None
    assert servers_for(replace(ROUND, driver_ms=1000), site, 1e9) is None


@pytest.mark.parametrize("shared", ["driver", "storage"])
def test_what_is_shared_binds_beyond_a_number_of_servers(shared: str) -> None:
    site = Site(gpu_images=90, cores=2, storage_gbit=8) if shared == "storage" else Site(shard_size=8)
    most = most_servers(ROUND, site, shared)
    for servers, binds in ((most, False), (most + 1, True)):
        allowed = limits(ROUND, site, servers)
        assert (min(allowed, key=lambda name: allowed[name]) == shared) is binds


def test_the_document_has_what_the_script_computes() -> None:
    """`python -m benchmarks.scaling` makes the tables anew from the committed measurements."""
    assert tables(measured_from(), Site(), [1, 4, 16, 64, 256]) in DOCUMENT.read_text()


def test_the_default_shard_costs_at_most_two_percent_more_than_the_best() -> None:
    measured = measured_from()
    for loss in (0.001, 0.05, 1.0):
        for rate in (1.0, 300.0):  # a CPU, a GPU
            site = Site(gpu_images=rate, loss_an_hour=loss)
            best = efficiency(measured, site, best_shard_size(measured, site))
            assert efficiency(measured, site, SHARD_SIZE) > best - (0.02 if loss < 1 else 0.1)
