"""A single fact has a single home: modules that know it themselves are found by their text."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [
    path for folder in ("condinst_deploy", "export", "engines") for path in sorted((ROOT / folder).rglob("*.py"))
]

HOMES = {
    "versions of libraries": (
        r"importlib\.metadata|importlib import metadata",
        {"condinst_deploy/support/versions.py"},
    ),
    "libraries that results depend on": (r'"pillow"', {"condinst_deploy/support/versions.py"}),
    "commands that install something": (
        r"pip install",
        {
            "condinst_deploy/support/extras.py",
            "condinst_deploy/support/remote_files.py",  # extras of fsspec
        },
    ),
    "the version of the package": (r"^__version__ = ", {"condinst_deploy/support/versions.py"}),
    "ONNX Runtime, whose telemetry is off": (r"import onnxruntime\b", {"condinst_deploy/support/onnx_runtime.py"}),
    "SHA-256": (
        r"\bhashlib\b",
        {"condinst_deploy/support/digests.py"},
    ),
    "the ONNX domain": (r'(DOMAIN|NAMESPACE)\w* = "', {"condinst_deploy/contract/onnx_names.py"}),
    "names of the operations": (
        r'= f?"(\S*::)?(SelectInstances|DynamicMaskHead)"',
        {"condinst_deploy/contract/onnx_names.py"},
    ),
    "endings of model files": (
        r'"\.(pth|pt|onnx|engine|plan)"',
        {"condinst_deploy/contract/artifacts.py"},
    ),
    "decoding images": (
        r'Image\.open\(|decode_jpeg\(|\.convert\("RGB"\)|exif_transpose\(',
        {
            "condinst_deploy/imaging/decode.py",
            "condinst_deploy/imaging/image_sizes.py",  # headers alone
            "condinst_deploy/runtime/preprocessing/jpeg_batches.py",  # `pixels="cuda"`
            "condinst_deploy/doctor/probe_worker.py",  # tries the GPU's decoder
        },
    ),
    "resizing images for the network": (
        r"Resampling\.BILINEAR|antialias=True",
        {
            "condinst_deploy/imaging/resize.py",
            "condinst_deploy/runtime/preprocessing/tensor.py",  # `pixels="fast"` and "cuda"
        },
    ),
    "convolutions that are never quantised": (r'"head\.cls_logits/', {"condinst_deploy/contract/onnx_names.py"}),
    "precisions of a network": (
        r'Literal\["float32", "(float16", "bfloat16|bfloat16", "float16)"\]',
        {"condinst_deploy/contract/precision.py"},
    ),
    "a class that a model does not have": (r'f"the model has no class', {"condinst_deploy/contract/manifest.py"}),
    "a closed model": (r'"this model was closed', {"condinst_deploy/runtime/backend.py"}),
    "a model file that is not there": (r'f"no model at \{', {"condinst_deploy/contract/artifacts.py"}),
    "control groups": (r'"sys/fs/cgroup', {"condinst_deploy/runtime/cores.py"}),
    "the driver's version file": (r'"proc/driver/nvidia', {"condinst_deploy/runtime/devices.py"}),
    "the option --device": (r'help="auto, cpu, cuda or cuda:N', {"condinst_deploy/cli/command.py"}),
    "deserialising an engine": (r"deserialize_cuda_engine", {"condinst_deploy/runtime/tensorrt/plan.py"}),
    "deferring Ctrl-C": (
        r"signal\.signal\(",
        {"condinst_deploy/support/signals.py", "condinst_deploy/benchmarking/worker.py"},  # a worker ignores it
    ),
    "the builders": (r'Literal\["tensorrt", "rtx"\]', {"condinst_deploy/contract/engine_manifest.py"}),
    "packages of TensorRT": (
        r'"rtx": "tensorrt[-_]rtx"',
        {"condinst_deploy/contract/engine_manifest.py"},
    ),
}


@pytest.mark.parametrize("fact", HOMES)
def test_a_fact_stands_in_its_home_alone(fact: str) -> None:
    pattern, homes = HOMES[fact]
    found = {path.relative_to(ROOT).as_posix() for path in SOURCES if re.search(pattern, path.read_text(), re.M)}
    assert found == homes


SHARED_NAMES = {
    "agreement",  # of detections; the forms of a graph that are compared have longer names
    "backend",  # the interface, and TensorRT's
    "batch",  # the command, and the batch that a network reads
    "client",  # the command, and its class
    "commands",
    "mask_head",  # one operation as reference, kernel, plugin and rewrite
    "operations",
    "resize",
    "select",
}
"""Modules of one name that are about one thing, or whose package says which is meant (decision 51)."""


def test_modules_of_different_things_have_different_names() -> None:
    names = Counter(path.stem for path in SOURCES if path.stem != "__init__")
    assert {name for name, count in names.items() if count > 1} <= SHARED_NAMES
