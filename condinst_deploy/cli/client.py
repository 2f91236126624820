"""`condinst-client`: ask a served model about images, or whether it is healthy."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from condinst_deploy.cli.command import (
    FAILED,
    ClassesOption,
    MaxDetectionsOption,
    class_names,
    command_app,
    labelled,
    print_json,
    print_line,
    progress_bar,
    terminal,
)
from condinst_deploy.cli.progress import ProgressLines
from condinst_deploy.errors import BackendError, ConfigError
from condinst_deploy.serving.protocol import MODEL, RequestOptions
from condinst_deploy.shown_text import counted
from condinst_deploy.support.json_text import json_text

if TYPE_CHECKING:
    from condinst_deploy.contract import InstanceDetections
    from condinst_deploy.imaging.drawing import Overlay
    from condinst_deploy.imaging.image_files import ImageFile
    from condinst_deploy.serving.client.client import Client


def client(
    url: Annotated[str, typer.Argument(help="Address of the server: http://host:port or grpc://host:port.")],
    images: Annotated[
        list[str] | None, typer.Argument(help="Images, folders, patterns, or URLs of them.", metavar="IMAGE...")
    ] = None,
    model: Annotated[str, typer.Option(help="The model's name on the server.")] = MODEL,
    score_threshold: Annotated[float | None, typer.Option(help="Keep detections that score above it.")] = None,
    classes: ClassesOption = None,
    max_detections: MaxDetectionsOption = None,
    timeout: Annotated[float, typer.Option(help="Seconds that one request may take.")] = 60.0,
    retries: Annotated[int, typer.Option(help="Repetitions of a request that was not answered.")] = 3,
    in_flight: Annotated[int, typer.Option(help="Requests in flight.")] = 4,
    overlays: Annotated[Path | None, typer.Option(help="Folder for images with the detections drawn on them.")] = None,
    health: Annotated[
        bool, typer.Option("--health", help="Run one inference; load the models again if it fails. Needs no images.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object a line for each image, detections as COCO results.")
    ] = False,
) -> None:
    """Detect instances with a served model; results are the same as `condinst-predict` gives.

    Exit status: 0 all images were answered, 1 one was not, or the server is not healthy.
    """
    from condinst_deploy.serving.client.client import Client

    options = RequestOptions(score_threshold, class_names(classes), max_detections)
    with Client(url, model, timeout=timeout, retries=retries, in_flight=in_flight, options=options) as served:
        done = _healthy(served, as_json) if health else _detect(served, images or [], overlays, as_json)
    if not done:
        raise typer.Exit(FAILED)


def _healthy(served: "Client", as_json: bool) -> bool:
    from condinst_deploy.serving.client.health import check_health

    found = check_health(served.transport, served.model)
    if as_json:
        print_json(found.to_dict())
    else:
        said = "answers" if found.answers else "does not answer"
        print_line(f"{served.model} {said}" + (f": {found.reason}" if found.reason else ""))
        if found.reloaded:
            print_line(f"loaded again: {', '.join(found.reloaded)}")
    return found.answers


def _detect(served: "Client", images: list[str], overlays: Path | None, as_json: bool) -> bool:
    from condinst_deploy.contract.artifacts import check_images
    from condinst_deploy.imaging.image_files import existing_sources
    from condinst_deploy.runtime.earlier_results import check_apart
    from condinst_deploy.support.atomic_write import check_writable

    if not images:
        raise ConfigError("no images were named; give images, folders or patterns, or --health")
    check_images(images, "an image: the server has its model")
    paths, failed, drawn, unlabelled = existing_sources(images), 0, 0, 0
    if overlays is not None:
        check_apart(paths, overlays)
        check_writable(overlays / "overlay.jpg")
    lines = ProgressLines()
    lines.update("images", 0, len(paths))
    with progress_bar() as progress:
        for number, (path, found) in enumerate(
            progress.track(zip(paths, served.stream(paths), strict=True), total=len(paths), description="images"), 1
        ):
            lines.update("images", number, len(paths))
            if found.detections is None:
                failed += 1
                terminal.print(labelled("failed:", "yellow", found.error))
                entry: dict[str, Any] = {"file_name": str(path), "error": str(found.error)}
            else:
                entry = {"file_name": str(path), "detections": found.detections.to_coco(number)}
                if overlays is not None:
                    made = _draw(found.detections, path, overlays, f"{number:06d}_{path.stem[:100]}")
                    drawn, unlabelled = drawn + made.drawn, unlabelled + made.unlabelled
            if as_json:
                print(json_text(entry, "a result"), flush=True)
            elif found.detections is not None:
                print_line(f"{path}: {counted(len(found.detections), 'instance')}")
    if unlabelled:
        from condinst_deploy.imaging.drawing import unlabelled_text

        terminal.print(unlabelled_text(unlabelled, drawn))
    return failed == 0


def _draw(detections: "InstanceDetections", path: "ImageFile", folder: Path, stem: str) -> "Overlay":
    """Write an overlay; returns it."""
    from condinst_deploy.imaging.decode import rgb_from
    from condinst_deploy.imaging.drawing import OVERLAY_SIDE
    from condinst_deploy.imaging.encode import write_overlay

    image = rgb_from(path)
    if image.shape[:2] != detections.masks.size:
        height, width = detections.masks.size
        raise BackendError(f"the server says that {path} has {width}x{height} pixels; expected those of the file")
    made = detections.overlay(image, min_longest_side=OVERLAY_SIDE)
    write_overlay(folder, stem, made.image)
    return made


main = command_app(client)
