"""Probes of libraries. Each runs in a separate process, because a broken library can crash or hang its process.

`python -m condinst_deploy.doctor.probe_worker NAME [ARGUMENT]` writes one JSON object as the last line on standard
output.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from condinst_deploy.support.json_text import json_text

IDENTITY = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a0808011204"
    "0a020801620f0a0179120a0a08080112040a02080142040a001011"
)
"""An ONNX model of one node, `y = Identity(x)`, float32 `(1,)`, IR 8, opset 17. It is enough to start a provider."""

PROVIDERS = ("CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider")
CAPABILITY = 80
"""Compute capability that the Triton compiler is tried for; compiling needs no GPU."""
TRITON_CACHE = "TRITON_CACHE_DIR"
"""Environment variable that names the folder of compiled kernels."""


def torch(_: str = "") -> dict[str, Any]:
    """PyTorch, and the GPUs that it can use."""
    import torch as library

    found: dict[str, Any] = {"version": library.__version__, "cuda": library.version.cuda, "gpus": []}
    if library.cuda.is_available():
        found["architectures"] = library.cuda.get_arch_list()
        for index in range(library.cuda.device_count()):
            properties = library.cuda.get_device_properties(index)
            library.zeros(1, device=f"cuda:{index}").add_(1).item()  # a GPU that is listed can still fail
            free, total = library.cuda.mem_get_info(index)
            capability = f"{properties.major}{properties.minor}"
            found["gpus"].append(
                {"name": properties.name, "capability": capability, "free_bytes": free, "total_bytes": total}
            )
    return found


def onnxruntime(_: str = "") -> dict[str, Any]:
    """ONNX Runtime, and for every provider of this build whether a session really runs on it."""
    from condinst_deploy.support.onnx_runtime import onnx_runtime

    library = onnx_runtime()
    if hasattr(library, "preload_dlls"):
        library.preload_dlls()
    options = library.SessionOptions()
    options.log_severity_level = 4
    loads = {}
    for provider in PROVIDERS:
        if provider not in library.get_available_providers():
            continue
        try:
            session = library.InferenceSession(IDENTITY, options, providers=[provider])
            loads[provider] = provider in session.get_providers()
        except Exception:  # the module's exceptions have no common base below Exception
            loads[provider] = False
    return {"version": library.__version__, "providers": loads}


def tensorrt(module: str) -> dict[str, Any]:
    """A builder of TensorRT: whether its library is really there, and builds and runs engines."""
    from importlib import import_module

    library = import_module(module)
    found: dict[str, Any] = {"version": library.__version__, "runtime": False, "builder": False}
    logger = library.Logger(library.Logger.INTERNAL_ERROR)
    for name in ("builder", "runtime"):
        try:
            found[name] = getattr(library, name.capitalize())(logger) is not None
        except Exception:  # pybind11 types: full TensorRT raises TypeError without a GPU
            found[name] = False
    return found


def triton(_: str = "") -> dict[str, Any]:
    """Triton's compiler, tried on one of our kernels; no GPU is needed."""
    import triton as library

    from condinst_deploy.kernels.aot import compiled, extents_source, target_of

    cache = os.environ.get(TRITON_CACHE) or str(Path.home() / ".triton" / "cache")  # as Triton chooses it
    with tempfile.TemporaryDirectory() as folder:
        keeps = _can_keep_files(Path(cache))
        if not keeps:
            os.environ[TRITON_CACHE] = folder
        ptx = compiled(extents_source("float16"), CAPABILITY, ptx_version=80).ptx
    return {
        "version": library.__version__,
        "compiles": target_of(ptx) == f"sm_{CAPABILITY}",
        "cache": cache,
        "cache_writable": keeps,
    }


def _can_keep_files(folder: Path) -> bool:
    """Whether files can be made in a folder, which is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def nvjpeg(_: str = "") -> dict[str, Any]:
    """Decoding of JPEGs on a GPU, which `--pixels cuda` uses."""
    import io

    import numpy as np
    import torch as library
    import torchvision
    from PIL import Image
    from torchvision.io import ImageReadMode, decode_jpeg

    content = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), 200, dtype=np.uint8)).save(content, "JPEG")
    data = library.frombuffer(bytearray(content.getvalue()), dtype=library.uint8)
    library.cuda.synchronize()
    pixels = decode_jpeg(data, mode=ImageReadMode.RGB, device="cuda")
    library.cuda.synchronize()
    return {"version": torchvision.__version__, "decodes": tuple(pixels.shape) == (3, 16, 16)}


def model(path: str) -> dict[str, Any]:
    """Load a model file as `Predictor` does, and run it on one grey image of the smallest size."""
    import numpy as np

    from condinst_deploy import CondInstError, Predictor

    try:
        with Predictor(Path(path)) as predictor:
            predictor([np.full((64, 64, 3), 128, dtype=np.uint8)])
            manifest = predictor.manifest
            return {
                "device": predictor.backend.device,
                "backend": predictor.backend.name,
                "family": manifest.family,
                "classes": len(manifest.class_names),
                "precision": manifest.precision,
            }
    except CondInstError as e:
        return {"error": str(e)}


PROBES: dict[str, Callable[[str], dict[str, Any]]] = {
    "torch": torch,
    "onnxruntime": onnxruntime,
    "tensorrt": tensorrt,
    "triton": triton,
    "nvjpeg": nvjpeg,
    "model": model,
}


def main(arguments: list[str]) -> None:
    """Run one probe; what its library raises becomes a value."""
    try:
        found = PROBES[arguments[0]](*arguments[1:] or [""])
    except ImportError as e:
        found = {"missing": str(e)}
    except Exception as e:  # a probe exists to find out how a library fails
        found = {"failed": f"{type(e).__name__}: {e}"[:500]}
    print("\n" + json_text(found, "the findings"))


if __name__ == "__main__":
    main(sys.argv[1:])
