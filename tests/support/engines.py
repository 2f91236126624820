"""A plan that no library reads, and the manifest of an engine for it."""

import hashlib

from condinst_deploy.contract.engine_manifest import EngineManifest, EngineTensor, FoundPrecision, ShapeRange
from tests.support.models import manifest_of

PLAN = b"a plan of several bytes"
MANIFEST = EngineManifest(
    flavour="rtx",
    library_version="1.7.1.116",
    precision="float16",
    found=FoundPrecision("typed network", {"float16": 10, "float32": 3}),
    targets=("86", "120"),
    tensors=(
        EngineTensor("images", "input", "uint8", (-1, 3, -1, -1)),
        EngineTensor("mask_logits", "output", "float16", (-1, 100, -1, -1)),
    ),
    profiles=(
        {"images": ShapeRange((1, 3, 32, 32), (1, 3, 64, 64), (1, 3, 96, 96))},
        {"images": ShapeRange((1, 3, 32, 32), (4, 3, 64, 64), (8, 3, 96, 96))},
    ),
    model=manifest_of(),
    onnx="model.onnx",
    onnx_sha256="0" * 64,
    plan_sha256=hashlib.sha256(PLAN).hexdigest(),
    plan_bytes=len(PLAN),
    build_seconds=1.5,
    tools={"onnx": "1"},
)
