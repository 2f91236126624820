"""Graphs and builders that several test files of this stage share."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from condinst_engines.builder_library import BuilderLibrary, load_builder_library
from tests.support.graphs import small_network
from tests.support.models import SLIM, manifest_of, seeded_model
from tests.support.shared_files import made_once

TINY = replace(SLIM, depth=18, base_width=8, tower_convs=1, mask_branch_channels=16, mask_branch_convs=1)
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
        model = seeded_model(TINY)
        manifest = with_options(model, manifest_of(TINY), ExportOptions(max_detections=5, static_shape=STATIC))
        onnx.save(onnx_from_model(model, manifest), str(folder / "tiny.onnx"))

    return made_once(tmp_path_factory, "static", export) / "tiny.onnx"


@pytest.fixture
def small_graph() -> onnx.ModelProto:
    return small_network()
