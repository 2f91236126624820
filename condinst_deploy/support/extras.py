"""Optional libraries, and the extra that installs each; the message about a missing one has the pip command."""

EXTRAS = {
    "fsspec": "urls",
    "faster_coco_eval": "eval",
    "jinja2": "eval",
    "matplotlib": "train",
    "onnx": "export",
    "onnx_graphsurgeon": "export",
    "onnx_ir": "export",
    "onnxruntime": "cpu",
    "onnxscript": "export",
    "pyarrow": "ray",
    "pycocotools": "eval",
    "ray": "ray",
    "supervision": "viz",
    "tensorboard": "train",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "rtx",
    "threadpoolctl": "eval",
    "torch": "torch",
    "torchvision": "torch",
    "triton": "torch",
    "tritonclient": "triton-client",
}
"""Name of a module -> extra. `cpu` stands for `gpu`, too, which brings ONNX Runtime's build for GPUs instead."""


def missing_library(error: ImportError) -> str | None:
    """One line on a library that is not installed.

    Args:
        error: what an import raised.

    Returns:
        What is missing and the command that brings it; None if the module is not one of `EXTRAS`.
    """
    module = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(module)
    if extra is None or not isinstance(error, ModuleNotFoundError):
        return None
    other = " (or condinst-deploy[gpu] for NVIDIA GPUs)" if extra == "cpu" else ""
    return f"this needs {module}, which is not installed: pip install 'condinst-deploy[{extra}]'{other}"
