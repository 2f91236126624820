"""Options of a predictor, for a file and for a backend that is loaded already."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from condinst_deploy import CpuThreads, InputOptions, Predictor, PredictorOptions
from condinst_deploy.errors import BackendError, ConfigError
from condinst_deploy.runtime.backend import Backend
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from condinst_deploy.runtime.predictor import load_backend
from condinst_deploy.runtime.predictor_options import PredictorKeywords
from tests.support.predictions import IMAGE, assert_equal

pytestmark = pytest.mark.usefixtures("one_thread")

FILTERS: dict[str, Any] = {"score_threshold": 0.06, "classes": ["class b", 2], "max_detections": 3}


def test_every_option_is_a_keyword() -> None:
    assert list(PredictorKeywords.__annotations__) == [field.name for field in fields(PredictorOptions)]


def test_a_file_and_a_loaded_backend_take_the_same_options(slim_onnx: Path) -> None:
    options = PredictorOptions(batch_size=2, inputs=InputOptions(workers=3), window_batches=5, **FILTERS)
    with Predictor(slim_onnx, options, device="cpu") as from_file:
        (expected,) = from_file(IMAGE)
    with Predictor(load_backend(slim_onnx, "cpu"), options) as from_backend:
        (found,) = from_backend(IMAGE)
    assert 0 < len(expected) <= 3
    assert set(expected.labels.tolist()) <= {1, 2}
    assert_equal(found, expected)
    for predictor in (from_file, from_backend):
        assert (predictor.batch_size, predictor.window, predictor.stages.workers) == (2, 10, 3)


def test_keywords_replace_options(slim_onnx: Path) -> None:
    options = PredictorOptions(device="cpu", batch_size=2, max_detections=1)
    with Predictor(slim_onnx, options, max_detections=2) as predictor:
        assert predictor.batch_size == 2
        assert len(predictor(IMAGE)[0]) == 2


def test_threads_can_be_set_beside_a_filter(slim_onnx: Path) -> None:
    with Predictor(slim_onnx, device="cpu", threads=CpuThreads(1, spin=False), classes="class b") as predictor:
        assert set(predictor(IMAGE)[0].labels.tolist()) == {1}


def test_threads_for_a_checkpoint_are_refused(slim_checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=r"slim\.pth; only \.onnx models take it"):
        Predictor(slim_checkpoint, device="cpu", threads=CpuThreads(1))


@pytest.mark.parametrize("options", [{"device": "cuda"}, {"threads": CpuThreads(1)}])
def test_options_of_loading_are_refused_for_a_loaded_backend(options: Any, slim_onnx: Path) -> None:
    with load_backend(slim_onnx, "cpu") as backend:
        with pytest.raises(ConfigError, match="a backend that is loaded on cpu; give these options where it is loaded"):
            Predictor(backend, **options)
        Predictor(backend, device="cpu")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"batch_size": 10**9}, "batch_size is 1000000000; expected at most 1024"),
        ({"window_batches": 0}, "window_batches is 0; expected at least 1"),
        ({"window_batches": 1025}, "window_batches is 1025; expected at most 1024"),
    ],
)
def test_options_outside_their_range_are_refused(options: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        PredictorOptions(**options)


def test_a_device_in_the_place_of_options_is_refused(slim_onnx: Path) -> None:
    with pytest.raises(ConfigError, match="options is 'cpu'; expected PredictorOptions or keywords, as device='cpu'"):
        Predictor(slim_onnx, "cpu")  # type: ignore[arg-type]


def fail_inside(whole: Any) -> None:
    with whole as inside:
        assert inside is whole
        raise KeyError


@pytest.mark.parametrize("wrap", [lambda backend: backend, Predictor], ids=["backend", "predictor"])
@pytest.mark.parametrize("name", ["torch", "onnxruntime"])
def test_a_with_block_closes_the_model_and_lets_an_error_through(
    name: str, wrap: Callable[[Backend], Any], models: dict[str, Path]
) -> None:
    backend = load_backend(models[name], "cpu")
    whole = wrap(backend)
    with pytest.raises(KeyError):
        fail_inside(whole)
    with pytest.raises(BackendError, match="was closed"):
        Predictor(backend)(IMAGE)
    whole.close()  # a second time


def test_an_option_that_does_not_fit_closes_what_the_predictor_loaded_and_nothing_else(
    slim_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []
    close = OnnxRuntimeBackend.close

    def counted(backend: OnnxRuntimeBackend) -> None:
        closed.append(backend)
        close(backend)

    monkeypatch.setattr(OnnxRuntimeBackend, "close", counted)
    with pytest.raises(ConfigError):
        Predictor(slim_onnx, device="cpu", classes="class d")
    assert len(closed) == 1
    with load_backend(slim_onnx, "cpu") as backend:
        with pytest.raises(ConfigError):
            Predictor(backend, classes="class d")
        assert len(closed) == 1
        assert len(Predictor(backend)(IMAGE)[0]) > 0


def test_a_misspelt_option_is_an_error_of_ours_with_the_name_that_is_close() -> None:
    with pytest.raises(ConfigError, match=r"no option 'score_treshold'; .* Did you mean 'score_threshold'\?"):
        Predictor("model.onnx", score_treshold=0.3)  # type: ignore[call-arg]
