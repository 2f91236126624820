"""Remarks at export on parts that full TensorRT cannot build."""

from dataclasses import replace

import pytest

from condinst_deploy.contract import Selection
from condinst_export.onnx_file import ExportOptions, onnx_from_model, tensorrt_remarks, with_options
from tests.support.models import TINY, manifest_of, seeded_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("candidates", [3840, 3841])
def test_a_topk_beyond_tensorrts_limit_is_said(candidates: int) -> None:
    config = replace(TINY, selection=Selection(candidates_per_level=1_000))
    model = seeded_model(config)
    options = ExportOptions(candidates_per_level=candidates, static_shape=(1, 64, 64))
    proto = onnx_from_model(model, with_options(model, manifest_of(config), options))
    remarks = tensorrt_remarks(proto)
    assert len(remarks) == (candidates > 3840)
    assert not remarks or "at most 3840 values, and this file asks for 3841" in remarks[0]
