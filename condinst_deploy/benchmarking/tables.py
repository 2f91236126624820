"""Rows of the tables that a benchmark prints, and remarks about its validity."""

from collections.abc import Iterator

from condinst_deploy.benchmarking.measure import END_TO_END, Benchmark, ModelMetrics
from condinst_deploy.shown_text import counted

STAGE_NAMES = {
    "decode": "decode",
    "pre": "resize and pad",
    "network": "network",
    "post": "masks and RLE",
    END_TO_END: END_TO_END,
}

FEW_CALLS = 100
"""With fewer calls the 99th percentile is the slowest call."""

SAME_WORK = 0.05
"""Share by which two models' detections may differ in number without a remark."""

Row = tuple[str, ...]


def stage_rows(metrics: ModelMetrics) -> Iterator[Row]:
    """Batch, stage, median, p95, p99 in ms, share of the end to end."""
    for at in metrics.stages:
        whole = at.stages[END_TO_END].median_ms
        for stage, times in at.stages.items():
            share = f"{times.median_ms / whole:.0%}"
            row = (STAGE_NAMES[stage], *map(milliseconds, (times.median_ms, times.p95_ms, times.p99_ms)), share)
            yield (str(at.batch), *row)


def serving_rows(metrics: ModelMetrics) -> Iterator[Row]:
    """Batch, concurrency, images a second, median, p95, p99 of a call in ms."""
    for at in metrics.serving:
        times = map(milliseconds, (at.latency.median_ms, at.latency.p95_ms, at.latency.p99_ms))
        yield (str(at.batch), str(at.concurrency), f"{at.images_per_second:.4g}", *times)


def ratio_rows(benchmark: Benchmark) -> Iterator[Row]:
    """Batch, stage, median ratio, its interval."""
    for at in benchmark.ratios:
        for stage, ratio in at.stages.items():
            yield (str(at.batch), STAGE_NAMES[stage], f"{ratio.median:.3f}", f"{ratio.low:.3f} to {ratio.high:.3f}")


def memory_line(metrics: ModelMetrics) -> str:
    """Host and device memory in words."""
    memory = metrics.memory
    before, loaded, peak = (memory[name] for name in ("before_loading_mb", "loaded_mb", "peak_mb"))
    if before is None or loaded is None or peak is None:
        return "host memory: this system does not tell"
    line = (
        f"host memory: peak {peak:.0f} MB, of which {before:.0f} MB were Python, PyTorch and the images before"
        f" loading, and {max(loaded - before, 0):.0f} MB came with the model"
    )
    ours, device = memory["device_peak_of_torch_mb"], memory["device_in_use_mb"]
    if ours is None or device is None:
        return line
    return (
        f"{line}; GPU memory: {device:.0f} MB came into use while it loaded and ran, of which PyTorch had {ours:.0f} MB"
    )


def remarks(benchmark: Benchmark) -> list[str]:
    """Return remarks that keep a reader from misreading the metrics."""
    said = [f"left out: {reason}" for reason in benchmark.models[0].loaded["skipped"]]
    said += _about_detections(benchmark)
    calls = benchmark.settings.repeat
    if calls < FEW_CALLS:
        said.append(f"p99 of {counted(calls, 'call')} is about the slowest one; --repeat takes more")
    machine = benchmark.models[0].loaded["machine"]
    cores = machine["cores_of_machine"]  # not the model's alone: the load is that of all
    if machine["load_average"] > cores:
        load = f"load {machine['load_average']:g} on {counted(cores, 'core')}"
        busy = f"the machine was busy before it began ({load})"
        said.append(f"{busy}: take no times from this run, and ratios only roughly")
    return said


def _about_detections(benchmark: Benchmark) -> Iterator[str]:
    found = [metrics.stages[0].detections for metrics in benchmark.models]
    for metrics, count in zip(benchmark.models, found, strict=True):
        if count == 0:
            yield (
                f"{metrics.model} found nothing in these images, so masks and RLE cost nothing here;"
                " give images that it finds something in"
            )
    if max(found) > 0 and max(found) - min(found) > SAME_WORK * max(found):
        counts = " and ".join(f"{count:g}" for count in found)
        yield f"the models find {counts} instances an image: what comes after the network is not the same work"


def milliseconds(value: float) -> str:
    """Four digits at least, no more decimals than they need."""
    return f"{value:.0f}" if value >= 1000 else f"{value:.4g}"
