"""`condinst-triton-repo`: write a model repository for NVIDIA Triton Inference Server."""

from pathlib import Path
from typing import Annotated

import typer

from condinst_deploy.cli.command import CanvasOption, canvases_of, command_app, print_json, print_line, terminal
from condinst_deploy.contract.artifacts import check_there
from condinst_deploy.serving.triton.limits import Limits


def triton_repo(
    model: Annotated[Path, typer.Option(help="Exported file (.onnx) or engine (.engine) to serve.")],
    out: Annotated[Path, typer.Option(help="Folder to write; it must be new or empty.")],
    layout: Annotated[
        str,
        typer.Option(help="single: one model with everything inside. ensemble: the network is a separate model."),
    ] = "single",
    device: Annotated[str, typer.Option(help="Where the network runs: cpu or cuda.")] = "cpu",
    instances: Annotated[int, typer.Option(help="Copies of the model, on every GPU or on the CPU.")] = 1,
    max_batch: Annotated[int, typer.Option(help="Images that one run of the network takes at most.")] = 8,
    delay_ms: Annotated[float, typer.Option(help="How long a request waits for others, milliseconds.")] = 5.0,
    network_backend: Annotated[
        str, typer.Option(help="Layout ensemble: backend of the network: python, onnxruntime or tensorrt.")
    ] = "python",
    cuda_graphs: Annotated[
        bool, typer.Option("--cuda-graphs", help="Backend tensorrt: capture the shapes that the engine is tuned for.")
    ] = False,
    canvas: CanvasOption = None,
    model_version: Annotated[int, typer.Option(help="Number of the version's folder.")] = 1,
    max_image_mb: Annotated[int, typer.Option(help="Largest encoded image, MiB.")] = Limits.image_bytes >> 20,
    max_megapixels: Annotated[int, typer.Option(help="Largest image, millions of pixels.")] = 100,
    max_queue: Annotated[int, typer.Option(help="Requests that may wait.")] = Limits.queued_requests,
    as_json: Annotated[bool, typer.Option("--json", help="Print the path and the options as JSON.")] = False,
) -> None:
    """Write a repository that a stock server loads; its README.md says how to start the server and how to ask it."""
    check_there(model)
    # imported here, so that neither --help nor a mistake waits for a backend's libraries
    from dataclasses import asdict

    from condinst_deploy.serving.triton.repository import write_repository
    from condinst_deploy.serving.triton.repository_settings import RepositoryOptions

    limits = Limits(image_bytes=max_image_mb << 20, image_pixels=max_megapixels * 10**6, queued_requests=max_queue)
    options = RepositoryOptions(
        layout=layout,  # type: ignore[arg-type]  # checked by the dataclass
        device=device,  # type: ignore[arg-type]
        instances=instances,
        max_batch=max_batch,
        delay_ms=delay_ms,
        network_backend=network_backend,  # type: ignore[arg-type]
        cuda_graphs=cuda_graphs,
        canvases=canvases_of(canvas),
        version=model_version,
        limits=limits,
    )
    path = write_repository(model, out, options)
    if as_json:
        print_json({"path": str(path), "options": asdict(options)})
        return
    terminal.print(f"layout {layout}; {path / 'README.md'} says how to start the server")
    print_line(path)


main = command_app(triton_repo)
