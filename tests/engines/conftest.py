"""Graphs and builders that several test files of this stage share."""

from pathlib import Path

import onnx
import pytest

from condinst_engines.builder_library import BuilderLibrary, load_builder_library
from tests.support.graphs import small_network
from tests.support.models import SLIMMER, manifest_of, seeded_model
from tests.support.shared_files import made_once

STATIC = (1, 128, 224)


@pytest.fixture(scope="session")
def rtx() -> BuilderLibrary:
    return load_builder_library("rtx")


@pytest.fixture(scope="session")
def slim_proto(slim_onnx: Path) -> onnx.ModelProto:
    return onnx.load(str(slim_onnx))


@pytest.fixture(scope="session")
def static_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model exported with fixed shapes."""
    from condinst_export.onnx_file import ExportOptions, onnx_from_model, with_options

    def export(folder: Path) -> None:
        model = seeded_model(SLIMMER)
        manifest = with_options(model, manifest_of(SLIMMER), ExportOptions(max_detections=5, static_shape=STATIC))
        onnx.save(onnx_from_model(model, manifest), str(folder / "tiny.onnx"))

    return made_once(tmp_path_factory, "static", export) / "tiny.onnx"


@pytest.fixture
def small_graph() -> onnx.ModelProto:
    return small_network()
