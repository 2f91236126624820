"""The README beside a repository: what it holds, and how to start a server on it."""

from pathlib import Path

from condinst_deploy.contract import ModelManifest
from condinst_deploy.contract.engine_manifest import EngineManifest
from condinst_deploy.serving.protocol import MODEL, NETWORK
from condinst_deploy.serving.triton.repository_settings import RepositoryOptions
from condinst_deploy.shown_text import shown
from condinst_deploy.support.extras import install_command

CONTAINER = "nvcr.io/nvidia/tritonserver:26.10-py3"

TEMPLATE = """# Model repository of {model}

Layout `{layout}`: clients ask the model `{served}`.{network} Batches of up to {max_batch} images of equal padded shape
are formed inside, within {delay_ms:g} ms.{padding}
Input, outputs and parameters: `condinst_deploy/serving/protocol.py`.

{family}, {classes} classes, {precision}, at most {slots} instances an image.{engine}

## Start

The Python models import `condinst_deploy`, so the server's Python needs it:

    {install}

In the container `{container}`{gpus}:

    tritonserver --model-repository=/models --model-control-mode=explicit --load-model='*' --exit-timeout-secs=60

`--model-control-mode=explicit` lets `condinst-client --health` load a model again whose process has died.

## Ask

    condinst-client http://localhost:8000 image.jpg --json
    condinst-client http://localhost:8000 --health

## Limits of one request

| limit | value |
| --- | --- |
| bytes of the encoded image | {image_bytes:,} |
| pixels that its header declares | {image_pixels:,} |
| bytes of dense masks | {dense_bytes:,} |
| requests that wait | {queued_requests:,} |

## Stop

Stop sending requests, wait for the answers, then send SIGTERM.{drain}
"""


def repository_guide(
    model: Path, manifest: ModelManifest, engine: EngineManifest | None, options: RepositoryOptions
) -> str:
    """Markdown for `README.md` of a repository."""
    ensemble = options.layout == "ensemble"
    network = f" The network is the model `{NETWORK}`, backend `{options.network_backend}`." if ensemble else ""
    drain = " A server does not wait for requests inside the two models: what is under way at SIGTERM is lost."
    canvases = ", ".join(f"{height}x{width}" for height, width in options.canvases or ())
    padding = f" Images are padded to {canvases} (`--canvas`), which changes results a little." if canvases else ""
    built = ""
    if engine is not None:
        built = (
            f" TensorRT flavour {engine.flavour} {engine.library_version}, for GPUs of compute capability"
            f" {', '.join(engine.targets)}: the server needs this version and one of these GPUs."
        )
    return TEMPLATE.format(
        model=shown(model.name).replace("`", ""),
        layout=options.layout,
        served=MODEL,
        network=network,
        max_batch=options.max_batch,
        delay_ms=options.delay_ms,
        padding=padding,
        family=manifest.family,
        classes=len(manifest.class_names),
        precision=manifest.precision,
        slots=manifest.selection.max_detections,
        engine=built,
        install=install_command("gpu" if options.device == "cuda" else "cpu"),
        container=CONTAINER,
        gpus=" with `--gpus all`" if options.device == "cuda" else "",
        drain=drain if ensemble else " It answers what is under way before it ends.",
        **options.limits.to_dict(),
    )
