"""Image to COCO RLEs on a CPU: this toolkit beside mmdetection, mmdeploy and an eager reference.

    make peers-env                                        # once: see README.md beside this file
    python -m benchmarks.peers --out benchmarks/results/peers.json
    python -m benchmarks.peers --sides onnx pth eager     # without the peers' environment

Every side is a separate process, and they take turns: side after side gets the same image while the others
wait for input, each after a pause in which the threads of the side before stop spinning.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.peers.child import STAGES
from benchmarks.peers.inputs import SEED, made_inputs
from benchmarks.peers.metrics import PARTS, TOTAL, Sample, summary, targets
from benchmarks.peers.sides import (
    ENVIRONMENT,
    PEERS,
    SIDES,
    Child,
    check_environment,
    command_of,
    export_with_mmdeploy,
    peers_versions,
    started,
)
from benchmarks.targets import parser_of, write_results
from condinst_deploy.benchmarking.benchmark_settings import SETTLE
from condinst_deploy.errors import CondInstError, ConfigError

AGREEMENT = {
    "reference": "its",
    "other": "here",
    "matched": "both",
    "max_box_error_px": "box px",
    "max_score_error": "score",
    "min_mask_iou": "least IoU",
    "median_mask_iou": "median",
}
"""Metrics of an agreement -> headings that leave a line on a terminal short."""

terminal = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Settings:
    """Options of a measurement, and the peers' environment."""

    sides: tuple[str, ...] = tuple(SIDES)
    rounds: int = 3
    images: int = 3
    environment: Path = ENVIRONMENT

    @property
    def with_peers(self) -> bool:
        """Return whether the peers' environment is needed."""
        return not PEERS.keys().isdisjoint(self.sides)


def measured(settings: Settings) -> dict[str, Any]:
    """Everything that the results file holds."""
    if settings.with_peers:
        check_environment(settings.environment)
    with terminal.status("making the model and the images") as status, made_inputs() as inputs, ExitStack() as stack:
        if "mmdeploy" in settings.sides:
            status.update("exporting with mmdeploy")
            export_with_mmdeploy(inputs, settings.environment)
        children = {}
        for side in settings.sides:
            status.update(f"loading {SIDES[side]}")
            command = command_of(side, inputs, settings.environment)
            children[side] = stack.enter_context(started(side, command))
        images = dict(list(inputs.images.items())[: settings.images])
        samples = []
        for sample in taking_turns(children, images, settings.rounds):
            samples.append(sample)
            status.update(f"round {sample.round} of {settings.rounds}, {sample.image}: {SIDES[sample.side]}")
        loaded = {side: child.loaded_mib for side, child in children.items()}
    versions = peers_versions(settings.environment) if settings.with_peers else None
    about = {"seed": SEED, "rounds": settings.rounds, "peers": versions}
    return about | summary(samples, loaded)


def taking_turns(children: Mapping[str, Child], images: Mapping[str, Path], rounds: int) -> Iterator[Sample]:
    """Every side gets every image in every round, after a pause; each round begins with another side."""
    sides = list(children)
    for turn in range(rounds + 1):
        first = turn % len(sides)
        for image, path in images.items():
            for side in sides[first:] + sides[:first]:
                time.sleep(SETTLE)
                yield Sample(side, image, turn, children[side].ask(path))


def show(metrics: Mapping[str, Any]) -> None:
    """Tables for a person."""
    times = Table("side", "image", *STAGES, TOTAL, title="median milliseconds")
    for side, images in metrics["milliseconds"].items():
        for image, row in images.items():
            times.add_row(side, image, *(f"{row[name]:.0f}" for name in (*STAGES, TOTAL)))
    title = "ours / theirs: median of paired ratios (lowest to highest)"
    ratios = Table("ours", "theirs", "images", *PARTS, title=title)
    for ours, others in metrics["ratios"].items():
        for theirs, sizes in others.items():
            for size, parts in sizes.items():
                texts = ("{median:.3f} ({lowest:.3f} to {highest:.3f})".format(**parts[part]) for part in PARTS)
                ratios.add_row(ours, theirs, size, *texts)
    title = f"detections beside those of {SIDES[metrics['agreement_with']]}"
    agreed = Table("side", "image", *AGREEMENT.values(), title=title)
    for side, images in metrics["agreement"].items():
        for image, row in images.items():
            agreed.add_row(side, image, *("-" if row[n] is None else f"{row[n]:.3g}" for n in AGREEMENT))
    memory = Table("side", "model loaded", "most", title="resident memory, MiB")
    for side, row in metrics["memory_mib"].items():
        memory.add_row(side, str(row["loaded"]), str(row["most"]))
    for table in (times, ratios, agreed, memory):
        terminal.print(table)


def main() -> int:
    """Measure, show, and write what was asked for."""
    usual = Settings()
    parser = parser_of(__doc__)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=usual.sides, help="default: all")
    parser.add_argument("--rounds", type=int, default=usual.rounds, help=f"after the first; default: {usual.rounds}")
    parser.add_argument("--images", type=int, choices=(1, 2, 3), default=usual.images, help="how many; default: all 3")
    parser.add_argument("--environment", type=Path, default=usual.environment, help="of the peers; default: .peers")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds is {arguments.rounds}; expected at least 1")
    settings = Settings(
        tuple(dict.fromkeys(arguments.sides)), arguments.rounds, arguments.images, arguments.environment
    )
    try:
        metrics = measured(settings)
        write_results(arguments.out, targets(metrics["ratios"]), metrics)
    except CondInstError as e:
        terminal.print(f"error: {e}", markup=False, soft_wrap=True)
        return 2 if isinstance(e, ConfigError) else 1
    show(metrics)
    return 0


if __name__ == "__main__":
    sys.exit(main())
