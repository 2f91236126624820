"""Checkpoints in half precision through `Predictor`."""

from pathlib import Path

import pytest
import torch

from condinst_deploy.data.shapes_dataset import ShapesConfig, image_of, scene_of
from condinst_deploy.errors import BackendError, ConfigError
from condinst_deploy.evaluation.agreement import agreement, merged
from condinst_deploy.model.checkpoints import load_model
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.runtime.torch_backend import TorchBackend, check_precision
from tests.support.models import SHIPPED, noise_image

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_shipped_model_finds_the_same_in_bfloat16() -> None:
    config = ShapesConfig()
    images = [image_of(scene_of(config, "val", i), config, "val", i) for i in range(3)]
    with (
        Predictor(SHIPPED, device="cpu", score_threshold=0.3) as reference,
        Predictor(SHIPPED, device="cpu", score_threshold=0.3, precision="bfloat16") as half,
    ):
        found = merged(agreement(*pair, 0.9) for pair in zip(reference(images), half(images), strict=True))
        assert half.manifest.precision == "bfloat16"
    assert found.reference_count > 15
    assert found.matched_share > 0.9
    assert float(found.box_errors.max()) < 1
    assert float(found.mask_ious.min()) > 0.95


def test_a_batch_finds_what_single_images_find(slim_checkpoint: Path) -> None:
    images = [noise_image(seed, 96, 120) for seed in range(3)]
    with Predictor(slim_checkpoint, device="cpu", precision="bfloat16", batch_size=2) as predictor:
        together = predictor(images)
    with Predictor(slim_checkpoint, device="cpu", precision="bfloat16") as predictor:
        alone = predictor(images)
    found = merged(agreement(*pair, 0.9) for pair in zip(alone, together, strict=True))
    assert found.reference_count > 0
    assert found.matched_share > 0.9


def test_precision_is_a_checkpoints(slim_checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precision is 'half'; expected one of float32, float16, bfloat16"):
        Predictor(slim_checkpoint, precision="half")  # type: ignore[arg-type]
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"precision is given for .*model.onnx; only checkpoints take it"):
        Predictor(tmp_path / "model.onnx", precision="float16")
    with (
        TorchBackend.load(slim_checkpoint, "cpu", "bfloat16") as backend,
        pytest.raises(ConfigError, match="precision is bfloat16 for a backend that is loaded"),
    ):
        Predictor(backend, precision="bfloat16")


def test_float32_on_a_gpu_is_float32_from_loading_on(slim_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 is switched off once, for convolutions too; a guard around each run is not safe with threads."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_: self)  # there is no GPU here
    loaded = load_model(slim_checkpoint)
    TorchBackend(loaded, torch.device("cpu"))
    assert torch.backends.cudnn.allow_tf32
    TorchBackend(loaded, torch.device("cuda", 0))
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_a_gpu_without_bfloat16_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(
        BackendError, match=r"compute capability 7\.5, and bfloat16 needs 8\.0; use precision='float16'"
    ):
        check_precision("bfloat16", torch.device("cuda:0"))
    check_precision("float16", torch.device("cuda:0"))
    check_precision("bfloat16", torch.device("cpu"))


def test_a_closed_model_in_half_precision_says_so(slim_checkpoint: Path) -> None:
    predictor = Predictor(slim_checkpoint, device="cpu", precision="bfloat16")
    predictor.close()
    with pytest.raises(BackendError, match="this model was closed"):
        predictor([noise_image(0, 64, 64)])


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_gpu_finds_the_same_with_and_without_graphs(precision: str) -> None:
    config = ShapesConfig()
    images = [image_of(scene_of(config, "val", i), config, "val", i) for i in range(16)]
    with Predictor(SHIPPED, device="cpu", score_threshold=0.3) as reference:
        want = reference(images)
    options = {"device": "cuda", "score_threshold": 0.3, "batch_size": 2, "precision": precision}
    with Predictor(SHIPPED, **options) as half:  # type: ignore[arg-type]
        found = half(images)  # eight batches of one shape: from the second on a graph
        again = half(images)
    assert merged(agreement(*pair, 0.9) for pair in zip(want, found, strict=True)).matched_share > 0.9
    assert merged(agreement(*pair, 0.9) for pair in zip(found, again, strict=True)).matched_share > 0.99
