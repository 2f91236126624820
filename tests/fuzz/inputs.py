"""The kinds of files that the fuzzer makes: valid ones of a small model, and strategies of damaged ones."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from hypothesis import strategies as st
from onnx import TensorProto
from PIL import Image

from condinst_deploy.contract import MANIFEST_KEY, Preprocessing
from condinst_deploy.contract.engine_manifest import manifest_path, write_engine
from condinst_deploy.model.checkpoints import save_model
from condinst_deploy.support.digests import sha256_of
from tests.fuzz.mutations import BIG, DEEP, MANY, VALUES, Strategy, changed, damaged, json_files
from tests.support import small_coco
from tests.support.engines import MANIFEST, PLAN
from tests.support.exports import exported
from tests.support.models import TINY, manifest_of, seeded_model

CONFIG = replace(TINY, preprocessing=Preprocessing(short_side=64, long_side=96))

Files = dict[str, bytes]
"""Names and contents of the files of one input."""


@dataclass(frozen=True)
class Base:
    """Valid files, in one folder."""

    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "model.pth"

    @property
    def onnx(self) -> Path:
        return self.folder / "model.onnx"

    @property
    def engine(self) -> Path:
        return self.folder / "model.engine"

    @property
    def annotations(self) -> Path:
        return self.folder / "instances.json"

    @property
    def images(self) -> Path:
        return self.folder / "pictures"

    @property
    def image(self) -> Path:
        return self.folder / "image.png"


def base_files(folder: Path) -> Base:
    """Write the valid files; `folder` exists."""
    base = Base(folder)
    save_model(base.checkpoint, seeded_model(CONFIG), manifest_of(CONFIG))
    exported(base.checkpoint, base.onnx)
    write_engine(base.engine, PLAN, MANIFEST)
    small_coco.written(folder)
    (folder / "results.json").write_text(json.dumps(small_coco.results()))
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(base.image)
    return base


def images(_base: Base) -> Strategy[Files]:
    """An image of some format and mode, its bytes damaged."""
    made = st.sampled_from(sorted(_valid_images().items()))
    return made.flatmap(lambda item: damaged(item[1]).map(lambda content: {item[0]: content}))


def _valid_images() -> Files:
    rgb = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
    grey = np.arange(480, dtype=np.uint16).reshape(24, 20) * 100
    found = {}
    for name, image, options in (
        ("a.jpg", Image.fromarray(rgb), {"exif": _turned()}),
        ("b.png", Image.fromarray(rgb), {}),
        ("c.png", Image.fromarray(grey), {}),
        ("d.png", Image.fromarray(rgb).quantize(8), {"transparency": 0}),
        ("e.png", Image.fromarray(np.dstack([rgb, rgb[:, :, :1]])), {}),
        ("f.gif", Image.fromarray(rgb).quantize(8), {}),
        ("g.bmp", Image.fromarray(rgb), {}),
        ("h.tif", Image.fromarray(rgb), {"compression": "tiff_lzw"}),
        ("i.tif", Image.fromarray(grey), {}),
        ("j.tif", Image.fromarray(grey.astype(np.int32)), {}),
        ("k.webp", Image.fromarray(rgb), {"lossless": True}),
        ("l.ppm", Image.fromarray(rgb), {}),
        ("m.jpg", Image.fromarray(rgb).convert("CMYK"), {}),
    ):
        out = io.BytesIO()
        image.save(out, {"jpg": "JPEG", "tif": "TIFF"}.get(name[2:], name[2:]), **options)
        found[name] = out.getvalue()
    return found


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def checkpoints(base: Base) -> Strategy[Files]:
    """A checkpoint whose configuration, manifest or weights are changed; one in eight is damaged as bytes."""
    content = torch.load(base.checkpoint, weights_only=True)
    plain = {key: content[key] for key in ("format", "version", "config", "manifest") if key in content}
    values = [value for value in VALUES if value not in (DEEP, BIG, MANY)] + [10**5000, _nested(2000), _shared()]
    weights = st.lists(
        st.tuples(st.sampled_from(sorted(WEIGHT_CHANGES)), st.integers(0, 10_000)), min_size=0, max_size=3
    )

    def written(parts: tuple[Any, list[tuple[str, int]]]) -> bytes:
        state = dict(content["state_dict"])
        for name, number in parts[1]:
            keys = sorted(key for key, value in state.items() if _is_plain(value))
            if keys:  # what an earlier change made cannot be changed again
                WEIGHT_CHANGES[name](state, keys[number % len(keys)], number)
        whole = {**parts[0], "state_dict": state} if isinstance(parts[0], dict) else parts[0]
        out = io.BytesIO()
        torch.save(whole, out)
        return out.getvalue()

    structural = st.tuples(st.one_of(st.just(plain), changed(plain, values)), weights).map(written)
    original = base.checkpoint.read_bytes()
    made = st.integers(0, 7).flatmap(lambda n: structural if n else damaged(original))
    return made.map(lambda content: {"m.pth": content})


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(min(depth, 400)):  # pickle's own limit is near 1,000 frames
        value = [value]
    return value


def _shared() -> Any:
    value: Any = [1]
    for _ in range(9):
        value = [value] * 10
    return value


State = dict[str, Any]
WEIGHT_CHANGES: dict[str, Callable[[State, str, int], object]] = {
    "delete": lambda state, key, _: state.pop(key) if len(state) > 1 else None,
    "rename": lambda state, key, _: state.update({f"module.{key}": state.pop(key)}),
    "rename all": lambda state, _, n: _renamed(state, ("module.", "model.", "_orig_mod.", "bbox_head.")[n % 4]),
    "odd key": lambda state, key, n: state.update({("\x1b]0;t\x07", "a\nb", "[/x]", "\ud800"[:0])[n % 4]: state[key]}),
    "double": lambda state, key, _: state.update({key: state[key].double() * 1e300}),
    "half": lambda state, key, _: state.update({key: state[key].half()}),
    "integers": lambda state, key, _: state.update({key: state[key].int()}),
    "complex": lambda state, key, _: state.update({key: state[key].to(torch.complex64)}),
    "nan": lambda state, key, _: state.update({key: torch.full(state[key].shape, float("nan"))}),
    "large": lambda state, key, _: state.update({key: torch.full(state[key].shape, 1e30)}),
    "flat": lambda state, key, _: state.update({key: state[key].reshape(-1)}),
    "scalar": lambda state, key, _: state.update({key: torch.tensor(1.0)}),
    "empty": lambda state, key, _: state.update({key: torch.zeros(0)}),
    "huge and shared": lambda state, key, _: state.update({key: torch.zeros(1).expand(10**12)}),
    "huge of its rank": lambda state, key, _: state.update({key: torch.zeros(()).expand([4000] * state[key].ndim)}),
    "sparse": lambda state, key, _: state.update({key: torch.eye(4).to_sparse()}),
    "no tensor": lambda state, key, n: state.update({key: VALUES[n % 20]}),
}


def _is_plain(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout == torch.strided and value.numel() < 10**6


def _renamed(state: State, prefix: str) -> None:
    for key in list(state):
        state[prefix + key] = state.pop(key)


def onnx_files(base: Base) -> Strategy[Files]:
    """An exported file whose manifest or graph is changed; one in four is damaged as bytes, too."""
    original = onnx.load(str(base.onnx))
    (entry,) = [entry for entry in original.metadata_props if entry.key == MANIFEST_KEY]
    manifests = st.one_of(st.just(entry.value.encode()), json_files(json.loads(entry.value)))
    changes = st.lists(
        st.tuples(st.sampled_from(sorted(GRAPH_CHANGES)), st.integers(0, 10_000)), min_size=0, max_size=3
    )

    def written(parts: tuple[bytes, list[tuple[str, int]]]) -> bytes:
        model = onnx.ModelProto()
        model.CopyFrom(original)
        (kept,) = [kept for kept in model.metadata_props if kept.key == MANIFEST_KEY]
        kept.value = parts[0].decode("utf-8", "replace")
        for name, number in parts[1]:
            GRAPH_CHANGES[name](model, number)
        content: bytes = model.SerializeToString()
        return content

    structural = st.tuples(manifests, changes).map(written)
    made = st.integers(0, 3).flatmap(lambda n: structural if n else structural.flatmap(damaged))
    return made.map(lambda content: {"m.onnx": content})


Graph = Callable[[onnx.ModelProto, int], object]


def _of(items: Any, number: int) -> Any:
    return items[number % len(items)]


def _retyped(model: onnx.ModelProto, number: int) -> None:
    value = _of([*model.graph.input, *model.graph.output], number)
    value.type.tensor_type.elem_type = _of([1, 2, 6, 7, 8, 9, 10, 11, 16], number // 7)


def _reshaped(model: onnx.ModelProto, number: int) -> None:
    value = _of([*model.graph.input, *model.graph.output], number)
    dimensions = value.type.tensor_type.shape.dim
    if len(dimensions):
        _of(dimensions, number // 5).dim_value = _of([0, 1, 3, 64, 10**9, -1], number // 11)


def _another_attribute(model: onnx.ModelProto, number: int) -> None:
    attributes = [attribute for node in model.graph.node for attribute in node.attribute if attribute.ints]
    if attributes:
        _of(attributes, number).ints[0] = _of([-1, 0, 2**31, 2**62, 7], number // 3)


def _external(model: onnx.ModelProto, number: int) -> None:
    tensor = _of(model.graph.initializer, number)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=_of(["weights.bin", "../../x", "/etc/passwd", ""], number))


def _rewired(model: onnx.ModelProto, number: int) -> None:
    names = [name for node in model.graph.node for name in node.output]
    node = _of(model.graph.node, number)
    if node.input:
        node.input[number % len(node.input)] = _of(names, number * 31)


def _cut_weight(model: onnx.ModelProto, number: int) -> None:
    tensor = _of(model.graph.initializer, number)
    tensor.raw_data = tensor.raw_data[: len(tensor.raw_data) // 2]


def _huge_weight(model: onnx.ModelProto, number: int) -> None:
    tensor = _of(model.graph.initializer, number)
    if tensor.dims:
        tensor.dims[0] = _of([10**9, 2**62, 0, -1], number)


GRAPH_CHANGES: dict[str, Graph] = {
    "delete a node": lambda model, n: model.graph.node.pop(n % len(model.graph.node)),
    "another operator": lambda model, n: setattr(
        _of(model.graph.node, n), "op_type", _of(["Relu", "Nope", "Loop", "Exp", "NonZero", "TopK"], n // 3)
    ),
    "rewire": _rewired,
    "an attribute": _another_attribute,
    "type of an input or output": _retyped,
    "shape of an input or output": _reshaped,
    "external data": _external,
    "half a weight": _cut_weight,
    "dimensions of a weight": _huge_weight,
    "NaN weight": lambda model, n: setattr(
        (tensor := _of(model.graph.initializer, n)), "raw_data", b"\xff" * len(tensor.raw_data)
    ),
    "delete a weight": lambda model, n: model.graph.initializer.pop(n % len(model.graph.initializer)),
    "delete an output": lambda model, n: model.graph.output.pop(n % len(model.graph.output)),
    "name of an output": lambda model, n: setattr(
        _of(model.graph.output, n), "name", _of(["[/nope]", "\x1b]0;t\x07", "x"], n)
    ),
    "opset": lambda model, n: setattr(_of(model.opset_import, n), "version", _of([1, 9, 99, 10**9], n)),
    "no function": lambda model, n: model.functions.pop(n % len(model.functions)) if model.functions else None,
    "no manifest": lambda model, _: model.ClearField("metadata_props"),
}


def engines(base: Base) -> Strategy[Files]:
    """The JSON beside an engine, changed."""
    document = json.loads(manifest_path(base.engine).read_text())
    return json_files(document).map(lambda content: {"m.engine": PLAN, "m.engine.json": content})


def recipes(_base: Base) -> Strategy[Files]:
    """A training recipe and an engine's, changed as structures or as text."""
    packages = Path(__file__).parents[2]
    training = (packages / "condinst_deploy/training/recipes/shapes_slim.toml").read_text()
    engine = (packages / "engines/condinst_engines/recipes/data_centre.toml").read_text()
    return st.tuples(_lines(training), _lines(engine)).map(lambda pair: {"r.toml": pair[0], "e.toml": pair[1]})


LITERALS = [
    "nan",
    "-inf",
    "1e308",
    "true",
    '"a"',
    "[]",
    '["a"]',
    "[1, [2]]",
    "{}",
    "{a = 1}",
    "-1",
    "0",
    "1.5",
    "9" * 30,
    "9" * 5000,
    "[" * 3000 + "]" * 3000,
    '"\\u001b]0;t\\u0007"',
    "1979-05-27",
    "'''\na\n'''",
    "10000000000",
]


def _lines(text: str) -> Strategy[bytes]:
    """The text with other values, or lines that are missing, doubled or new."""
    lines = text.splitlines()
    change = st.tuples(
        st.sampled_from(["value", "value", "value", "delete", "double", "new"]),
        st.integers(0, len(lines) - 1),
        st.sampled_from(LITERALS),
    )

    def made(changes: list[tuple[str, int, str]]) -> bytes:
        kept = list(lines)
        for name, at, literal in changes:
            place = at % len(kept)
            if name == "value" and "=" in kept[place]:
                kept[place] = f"{kept[place].partition('=')[0]}= {literal}"
            elif name == "delete" and len(kept) > 1:
                del kept[place]
            elif name == "double":
                kept.insert(place, kept[place])
            else:
                kept.insert(place, f"unknown_{at} = {literal}")
        return "\n".join(kept).encode()

    structural = st.lists(change, min_size=1, max_size=3).map(made)
    return st.integers(0, 7).flatmap(lambda n: structural if n else damaged(text.encode()))


def annotation_files(_base: Base) -> Strategy[Files]:
    """A COCO annotation file, changed."""
    return json_files(small_coco.content()).map(lambda content: {"a.json": content})


def results_files(_base: Base) -> Strategy[Files]:
    """A COCO results file, changed."""
    return json_files(small_coco.results()).map(lambda content: {"r.json": content})


def threshold_files(base: Base) -> Strategy[Files]:
    """The metrics file of an evaluation, which has thresholds, changed."""
    point = {"threshold": 0.5, "f1": 0.8, "precision": 0.8, "recall": 0.8}
    classes = [{"name": name, **point} for name in manifest_of(CONFIG).class_names]
    side = {
        "name": "model.onnx",
        "settings": {"model": {"sha256": sha256_of(base.onnx)}},
        "thresholds": {"overall": point, "per_class": classes},
    }
    return json_files({"sides": [side]}).map(lambda content: {"figures.json": content})


KINDS: dict[str, Callable[[Base], Strategy[Files]]] = {
    "image": images,
    "checkpoint": checkpoints,
    "onnx": onnx_files,
    "engine": engines,
    "recipe": recipes,
    "coco": annotation_files,
    "results": results_files,
    "thresholds": threshold_files,
}

SHARES = {"image": 5, "checkpoint": 3, "onnx": 3, "engine": 7, "recipe": 7, "coco": 5, "results": 5, "thresholds": 5}
"""Of a run: fewer inputs of the kinds that a network runs on."""
