"""Proof that an engine's convolutions are in 8 bits, from its plan; the parsed network does not show it.

TensorRT for RTX writes its program as text into the plan, and no GPU is needed to read it. For full
TensorRT the engine inspector answers, on the GPU that the engine was built on.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import onnx
import onnx_ir as ir

from condinst_deploy.errors import EngineError
from condinst_engines.precision_policy import WORDS_SHOWN
from condinst_engines.quantization.codes import codes_type

PROGRAM = re.compile(r"header \{\n  version = ")
CONVOLUTION = re.compile(r'\n  corrltn=\{ name="(?P<name>[^"]*)" output=\{[^}]*\} input=\{"(?P<input>[^"]*)"')
TENSOR = re.compile(r'\n  tensor=\{[^\n]* name="(?P<name>[^"]*)"[^\n]* type=(?P<kind>\w+) \}')
KINDS = {"fp8_e4m3": "fp8", "e4m3": "fp8"}
"""Types as the program names them -> as we do; the others have the same name."""

INSPECTED = (("int8", ("int8",)), ("fp8", ("fp8", "e4m3")))
"""Type -> words of the inspector's descriptions."""

FoundConvolutions = Mapping[str, str]
"""Convolution -> type of what it reads."""


def asked_convolutions(graph: onnx.ModelProto) -> dict[str, str]:
    """Convolutions of a graph that read dequantised 8 bits, activation and weight, and the type of the codes.

    Args:
        graph: functions inlined.
    """
    found = {}
    for node in (node for node in ir.from_proto(graph).graph if node.op_type == "Conv"):
        makers = [value.producer() if value is not None else None for value in node.inputs[:2]]
        readers = [maker for maker in makers if maker is not None and maker.op_type == "DequantizeLinear"]
        if len(readers) == 2:
            kind = codes_type(readers[1])
            name = "unknown" if kind is None else kind.name.lower()
            found[node.name or ""] = "fp8" if name.startswith("float8e4m3fn") else name
    return found


def convolutions_of_plan(plan: bytes) -> FoundConvolutions:
    """Convolutions of an RTX plan. One program serves all of its GPUs; parts of a graph have their own programs.

    Raises:
        EngineError: the plan has no program that can be read.
    """
    text = plan.decode("latin-1")
    starts = [match.start() for match in PROGRAM.finditer(text)]
    found: dict[str, str] = {}
    for start, end in pairwise([*starts, len(text)]):
        found |= _of_program(text[start:end])
    if not found:
        raise EngineError(
            "the plan's program cannot be read, so what it has in 8 bits cannot be proved; no engine was written. Is"
            " this version of TensorRT for RTX one that this release was tested with (1.7)?"
        )
    return found


def _of_program(text: str) -> FoundConvolutions:
    types = {match["name"]: KINDS.get(match["kind"], match["kind"]) for match in TENSOR.finditer(text)}
    return {match["name"]: types.get(match["input"], "unknown") for match in CONVOLUTION.finditer(text)}


def convolutions_of_layers(layers: Sequence[Mapping[str, Any]], asked: Mapping[str, str]) -> FoundConvolutions:
    """Return the type that each requested convolution reads; a fused layer has the names of all its nodes."""
    found = {}
    for name in asked:
        own = [layer for layer in layers if name in f"{layer.get('Name', '')} {layer.get('Metadata', '')}"]
        kinds = [kind for layer in own for tensor in layer.get("Inputs") or [] if (kind := _inspected(tensor))]
        found[name] = next(iter(kinds), "half or float" if own else "no layer of that name")
    return found


def _inspected(tensor: Mapping[str, Any]) -> str | None:
    words = str(tensor.get("Format/Datatype", "")).lower()
    return next((kind for kind, signs in INSPECTED if any(sign in words for sign in signs)), None)


def check_quantized(found: FoundConvolutions, asked: Mapping[str, str], source: str) -> None:
    """Refuse an engine that has fewer convolutions in 8 bits than were asked for.

    Args:
        found: of the engine.
        asked: convolution -> type.
        source: where `found` was read.

    Raises:
        EngineError: a convolution has another type, or is missing.
    """
    wrong = {name: found.get(name, "missing") for name, kind in asked.items() if found.get(name) != kind}
    if wrong:
        kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(wrong.values()).items())
        names = ", ".join(list(wrong)[:WORDS_SHOWN])
        raise EngineError(
            f"{len(wrong)} of {len(asked)} convolutions that were asked for in 8 bits are not, by the {source}:"
            f" {kinds}; {names}. No engine was written. Build for other GPUs, or name these under half in"
            " [policy] of a recipe"
        )
