"""The order of calls and the metrics made of them, with processes that answer made-up times."""

from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from condinst_deploy.benchmarking import measure as measuring
from condinst_deploy.benchmarking.benchmark_settings import Settings as BenchmarkSettings
from condinst_deploy.benchmarking.measure import calls_of, measure
from condinst_deploy.benchmarking.plots import draw_benchmark
from condinst_deploy.benchmarking.statistics import Distribution, Ratio
from condinst_deploy.benchmarking.tables import memory_line, ratio_rows, remarks, serving_rows, stage_rows

Settings = partial(BenchmarkSettings, settle=0)

Asked = tuple[str, str, dict[str, Any]]

NETWORK_SECONDS = {"fast": 1.0, "slow": 4.0}
MEMORY = {
    "before_loading_mb": 500.0,
    "loaded_mb": 700.0,
    "peak_mb": 1500.0,
    "device_peak_of_torch_mb": None,
    "device_in_use_mb": None,
}


class MadeUpProcess:
    """Answers as a model's process does; every other call takes twice as long, for every model alike."""

    log: ClassVar[list[Asked]] = []
    first_of_shapes: ClassVar[list[int]] = [0]

    def __init__(self, model: Path, cores: tuple[int, ...]) -> None:
        self.model = model

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        self.log.append((self.model.name, verb, arguments))
        return getattr(self, f"_{verb}")(**arguments)  # type: ignore[no-any-return]

    def _load(self, **_: Any) -> dict[str, Any]:
        machine = {"load_average": 1.5, "cores": 1, "cores_of_machine": 2}
        return {"device": "cpu", "skipped": [], "first_of_shapes": self.first_of_shapes, "machine": machine}

    def _call(self, batch: int, number: int, untimed: int) -> dict[str, float]:
        network = NETWORK_SECONDS[self.model.name] * batch * (1 + number % 2)
        return {"pre": 0.5, "network": network, "post": 0.5, "detections": 7.0 * batch}

    def _serve(self, batch: int, threads: int, numbers: list[int]) -> dict[str, Any]:
        return {"seconds": len(numbers) / threads, "latencies": [1.0] * len(numbers)}

    def _memory(self) -> dict[str, float | None]:
        return MEMORY


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """Requests to the processes, in order."""
    log: list[Asked] = []
    monkeypatch.setattr(measuring, "ModelProcess", MadeUpProcess)
    monkeypatch.setattr(MadeUpProcess, "log", log)
    return log


def test_two_models_get_every_image_in_turn_in_changing_order(log: list[Asked]) -> None:
    settings = Settings(batches=(1,), repeat=3, warmup=1)
    result = measure([Path("fast"), Path("slow")], [], settings, lambda *_: None)
    calls = [(model, arguments["number"]) for model, verb, arguments in log if verb == "call"]
    assert calls == [
        *[("slow", 0), ("fast", 0)],  # untimed
        *[("fast", 0), ("slow", 0)],
        *[("slow", 1), ("fast", 1)],
        *[("fast", 2), ("slow", 2)],
    ]
    (ratios,) = result.ratios
    assert ratios.pairs == 3
    assert ratios.stages["network"] == Ratio(0.25, 0.25, 0.25)
    # (1 + 1) / (4 + 1), (2 + 1) / (8 + 1), (1 + 1) / (4 + 1)
    assert ratios.stages["end to end"] == Ratio(0.4, 0.3333, 0.4)


def test_a_precision_is_for_checkpoints_alone(log: list[Asked], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORK_SECONDS, "fast.pth", 1.0)
    measure([Path("fast.pth"), Path("slow")], [], Settings(precision="float16", repeat=1, settle=0.0), lambda *_: None)
    loaded = {name: arguments["precision"] for name, verb, arguments in log if verb == "load"}
    assert loaded == {"fast.pth": "float16", "slow": None}


@pytest.mark.parametrize(
    ("warmup", "numbers"), [(0, []), (1, [0, 2]), (2, [0, 2, 0, 2]), (5, [0, 2, 0, 2, 0]), (3, [0, 2, 0, 2])]
)
def test_every_padded_shape_that_is_timed_is_warmed_up(
    warmup: int, numbers: list[int], log: list[Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MadeUpProcess, "first_of_shapes", [0, 2, 9])
    reported: list[int] = []
    settings = Settings(repeat=4, warmup=warmup, concurrency=(2,))
    measure([Path("fast")], [], settings, lambda _, count: reported.append(count))
    asked = [arguments["number"] for _, verb, arguments in log if verb == "call"]
    assert asked == [*numbers, 0, 1, 2, 3]
    served = [arguments["numbers"] for _, verb, arguments in log if verb == "serve"]
    each = min(warmup, 2) * 2  # of two threads
    warmed = [[0] * each + [2] * each] if warmup else []
    assert served == [*warmed, [0, 1, 2, 3]]
    assert sum(reported) == calls_of(1, settings) == 8


def test_only_short_calls_beside_another_model_have_an_untimed_one_before_them(log: list[Asked]) -> None:
    settings = Settings(repeat=1, warmup=1)
    measure([Path("fast"), Path("slow")], [], settings, lambda *_: None)
    untimed = [arguments["untimed"] for _, verb, arguments in log if verb == "call"]
    assert untimed == [1, 1, 0, 0]  # nothing is known of the first calls
    log.clear()
    measure([Path("fast")], [], settings, lambda *_: None)
    assert [arguments["untimed"] for _, verb, arguments in log if verb == "call"] == [0, 0]


def test_metrics_of_one_model_by_batch_and_concurrency(log: list[Asked]) -> None:
    settings = Settings(batches=(1, 2), concurrency=(1, 3), repeat=4, warmup=2)
    reported: list[int] = []
    result = measure([Path("fast")], [], settings, lambda _, count: reported.append(count))
    assert sum(reported) == calls_of(1, settings)
    (metrics,) = result.models
    first, second = metrics.stages
    # networks of 1, 2, 1, 2 seconds beside 1 second of the rest
    assert (first.calls, first.detections, first.images_per_second) == (4, 7, 0.4)
    assert first.stages["network"] == Distribution(1500, 2000, 2000)
    assert first.stages["end to end"] == Distribution(2500, 3000, 3000)
    assert list(first.stages) == ["pre", "network", "post", "end to end"]
    assert (second.batch, second.images_per_second) == (2, 0.5)
    # as many calls for each of three threads: six instead of four
    assert [(at.batch, at.concurrency, at.calls, at.images_per_second) for at in metrics.serving] == [
        (1, 1, 4, 1),
        (1, 3, 6, 3),
        (2, 1, 4, 2),
        (2, 3, 6, 6),
    ]
    assert result.ratios == ()
    assert list(stage_rows(metrics))[1] == ("1", "network", "1500", "2000", "2000", "60%")
    assert list(serving_rows(metrics))[1] == ("1", "3", "3", "1000", "1000", "1000")
    assert memory_line(metrics) == (
        "host memory: peak 1500 MB, of which 500 MB were Python, PyTorch and the images before loading,"
        " and 200 MB came with the model"
    )


def test_remarks_say_what_would_mislead(log: list[Asked], monkeypatch: pytest.MonkeyPatch) -> None:
    def found(self: MadeUpProcess, **_: Any) -> dict[str, float]:
        count = {"fast": 0.0, "slow": 9.0}[self.model.name]
        return {"pre": 0.1, "network": 1.0, "post": 0.1, "detections": count}

    monkeypatch.setattr(MadeUpProcess, "_call", found)
    machine = {"load_average": 5.5, "cores": 1, "cores_of_machine": 4}
    busy = {"device": "cpu", "skipped": ["b.png cannot be read"], "first_of_shapes": [0], "machine": machine}
    monkeypatch.setattr(MadeUpProcess, "_load", lambda self, **_: busy)
    result = measure([Path("fast"), Path("slow")], [], Settings(repeat=1), lambda *_: None)
    left_out, nothing, different, few, load = remarks(result)
    assert left_out == "left out: b.png cannot be read"
    assert nothing.startswith("fast found nothing in these images")
    assert different.startswith("the models find 0 and 9 instances an image")
    assert few == "p99 of 1 call is about the slowest one; --repeat takes more"
    assert "load 5.5 on 4 cores)" in load
    assert next(ratio_rows(result)) == ("1", "resize and pad", "1.000", "1.000 to 1.000")


def test_a_quiet_run_of_many_calls_needs_no_remark(log: list[Asked]) -> None:
    assert remarks(measure([Path("fast")], [], Settings(repeat=100), lambda *_: None)) == []


@pytest.mark.parametrize("other", ["b/fast", "a/fast"])
def test_two_files_of_one_name_have_bars_and_lines_of_their_own(
    other: str, log: list[Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig

    def noted(figure: Figure, *arguments: Any, **options: Any) -> None:
        drawn.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", noted)
    settings = Settings(batches=(1, 2), concurrency=(1, 2), repeat=1)
    draw_benchmark(measure([Path("a/fast"), Path(other)], [], settings, lambda *_: None), tmp_path / "a.png")
    stages, throughput = drawn[0].axes
    names = [label.get_text() for label in stages.get_yticklabels()]
    assert names == [f"{path}\nbatch {batch}" for path in ("a/fast", other) for batch in (1, 2)]
    assert len(stages.patches) == 4 * 3  # bars of three stages
    assert len(throughput.lines) == 4
    # 0.5 + 1 + 0.5 seconds; for a batch of two 0.5 + 2 + 0.5, halved
    ends = [patch.get_x() + patch.get_width() for patch in stages.patches[-4:]]  # type: ignore[attr-defined]
    assert ends == [2000, 1500, 2000, 1500]
