"""The peers' sides; runs in the peers' environment (README.md), through their own interfaces.

python -m benchmarks.peers.measure versions
python -m benchmarks.peers.measure export MODEL.pth --image FILE --out GRAPH.onnx
python -m benchmarks.peers.measure mmdetection MODEL.pth
python -m benchmarks.peers.measure mmdeploy GRAPH.onnx
"""

import argparse
import functools
import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mmdet
import onnxruntime
import torch
from mmcv.transforms import Compose
from mmdet.apis import inference_detector, init_detector
from mmdet.structures.mask import encode_mask_results
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config

from benchmarks.peers.child import ENCODE, MASKS, NETWORK, READ, Found, Side, Stages, serve

MODEL = "condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py"
"""Config in mmdetection's package."""

PACKAGES = ("mmcv", "mmdeploy", "mmdet", "mmengine", "numpy", "onnxruntime-gpu", "opencv-python-headless", "torch")

OUTPUTS = {"dets": ("num_dets",), "labels": ("num_dets",), "masks": ("num_dets", "height", "width")}
"""Of mmdeploy's graph, with the axes after the batch that vary."""


def mmdetection(checkpoint: Path, stages: Stages) -> Side:
    """`inference_detector`, then the encoding of `CocoMetric`."""
    model = init_detector(str(_model_config()), str(checkpoint), device="cpu")
    pipeline = Compose(get_test_pipeline_cfg(model.cfg))  # as by default, but built once
    stages.watch(model, "test_step", NETWORK)
    stages.watch(model.mask_head, "predict_by_feat", MASKS)

    def detect(path: str) -> Found:
        with stages.clock(READ):
            result = inference_detector(model, path, test_pipeline=pipeline)
        return _encoded(result.pred_instances, stages)

    return detect


def mmdeploy(graph: Path, stages: Stages) -> Side:
    """The steps of mmdeploy's `inference_model` with the model loaded once, then the same encoding."""
    from mmdeploy.apis.utils import build_task_processor
    from mmdeploy.utils import get_input_shape, load_config

    _give_threads()
    deployment, model_config = load_config(_deployment(), str(_model_config()))
    task = build_task_processor(model_config, deployment, "cpu")
    model = task.build_backend_model([str(graph)], task.update_data_preprocessor)
    shape = get_input_shape(deployment)
    stages.watch(model, "test_step", NETWORK)
    stages.watch(model, "postprocessing_results", MASKS)

    def detect(path: str) -> Found:
        with stages.clock(READ):
            inputs, _ = task.create_input(path, shape)
        with torch.no_grad():
            (result,) = model.test_step(inputs)
        return _encoded(result.pred_instances, stages)

    return detect


def export(checkpoint: Path, image: Path, out: Path) -> None:
    """mmdeploy's own conversion; its call of `torch.onnx.export` means the exporter that was the default then."""
    from mmdeploy.apis import torch2onnx

    torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)
    folder, name = str(out.parent), out.name
    torch2onnx(str(image), folder, name, _deployment(), str(_model_config()), str(checkpoint), "cpu")


def _encoded(found: Any, stages: Stages) -> Found:
    with stages.clock(ENCODE):
        rles = encode_mask_results(found.masks.detach().cpu().numpy())
    return Found(found.bboxes, found.scores, found.labels, rles)


def _model_config() -> Path:
    return Path(mmdet.__file__).parent / ".mim" / "configs" / MODEL


def _deployment() -> Any:
    """mmdeploy's settings for instance segmentation on ONNX Runtime with dynamic shapes; its wheel has no configs."""
    axes = {"input": {0: "batch", 2: "height", 3: "width"}}
    axes |= {name: dict(enumerate(("batch", *varying))) for name, varying in OUTPUTS.items()}
    post_processing = {
        "score_threshold": 0.05,
        "confidence_threshold": 0.005,
        "iou_threshold": 0.5,
        "max_output_boxes_per_class": 200,
        "pre_top_k": 5000,
        "keep_top_k": 100,
        "background_label_id": -1,
    }
    codebase = {"type": "mmdet", "task": "ObjectDetection", "model_type": "end2end", "post_processing": post_processing}
    onnx_config = {
        "type": "onnx",
        "export_params": True,
        "keep_initializers_as_inputs": False,
        "opset_version": 11,
        "save_file": "end2end.onnx",
        "input_names": ["input"],
        "output_names": list(OUTPUTS),
        "input_shape": None,
        "optimize": True,
        "dynamic_axes": axes,
    }
    return Config({"codebase_config": codebase, "backend_config": {"type": "onnxruntime"}, "onnx_config": onnx_config})


def _give_threads() -> None:
    """mmdeploy leaves the number of threads to ONNX Runtime, which counts cores that taskset took away, too."""
    make: Callable[[], Any] = onnxruntime.SessionOptions

    def options() -> Any:
        made = make()
        made.intra_op_num_threads = len(os.sched_getaffinity(0))
        return made

    onnxruntime.SessionOptions = options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    what.add_parser("versions")
    conversion = what.add_parser("export")
    for command in (conversion, what.add_parser("mmdetection"), what.add_parser("mmdeploy")):
        command.add_argument("model", type=Path)
    conversion.add_argument("--image", type=Path, required=True)
    conversion.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.what == "versions":
        print(json.dumps({name: version(name) for name in PACKAGES}))
    elif arguments.what == "export":
        export(arguments.model, arguments.image, arguments.out)
    else:
        load = mmdetection if arguments.what == "mmdetection" else mmdeploy
        serve(lambda stages: load(arguments.model, stages))


if __name__ == "__main__":
    main()
