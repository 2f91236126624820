"""JPEGs of several threads decoded together on a GPU: one call for many, order of the work, and what the CPU decodes.

The decoder is torchvision's own on the CPU, behind a double that does what the one of a GPU does: it takes a list, and
it writes the pixels only when the stream is waited for that its memory came from.
"""

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from condinst_deploy.contract import ImageGeometry, Preprocessing
from condinst_deploy.errors import ImageError
from condinst_deploy.imaging.decode import Jpeg, jpeg_from, rgb_from
from condinst_deploy.imaging.encoded_image import EncodedImage
from condinst_deploy.runtime.pipeline import Stages, predictions
from condinst_deploy.runtime.preprocessing import jpeg_batches
from condinst_deploy.runtime.preprocessing.batch import HostWriter, stacked
from condinst_deploy.runtime.preprocessing.jpeg_batches import JpegBatches
from condinst_deploy.runtime.preprocessing.tensor import TensorPreparation
from tests.support.images import png
from tests.support.models import noise_image

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")

CPU = torch.device("cpu")
SMALL = Preprocessing(short_side=64, long_side=112)
SECONDS = 60
NOT_WRITTEN = 165


class GpuDouble:
    """A stream for decoded images, and a decoder that writes into its memory late."""

    def __init__(self, refused: Sequence[bytes] = ()) -> None:
        self.calls: list[int] = []
        self.lent: list[tuple[int, int]] = []  # thread, address
        self.before: Callable[[], None] = lambda: None
        self._refused = set(refused)
        self._current: int | None = None
        self._late: list[tuple[Tensor, Tensor]] = []
        self._idle = True

    @contextmanager
    def current(self) -> Iterator[None]:
        assert self._current is None, "two threads use the decoder's stream"
        self._current, self._idle = threading.get_ident(), False
        try:
            yield
        finally:
            self._current = None
        assert not self._late, "the stream is left while the decoder still writes"

    def wait(self) -> None:
        for target, pixels in self._late:
            target.copy_(pixels)
        self._late.clear()
        self._idle = True

    def lend(self, pixels: Tensor) -> None:
        self.lent.append((threading.get_ident(), pixels.data_ptr()))

    def decode(self, decoder: Callable[..., list[Tensor]], contents: Any, **options: Any) -> list[Tensor]:
        assert isinstance(contents, list)
        assert self._current == threading.get_ident(), "the images' memory is that of another stream"
        assert self._idle, "the images' memory may still be in use"
        self.calls.append(len(contents))
        self.before()
        if any(content.numpy().tobytes() in self._refused for content in contents):
            raise RuntimeError("the decoder does not know this kind of JPEG")
        decoded = decoder(contents, **options)
        found = [torch.full_like(pixels, NOT_WRITTEN) for pixels in decoded]
        self._late = list(zip(found, decoded, strict=True))
        return found


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[JpegBatches, GpuDouble]]:
    """A decoder on a double."""
    from torchvision import io as torchvision_io

    plain = torchvision_io.decode_jpeg

    def make(refused: Sequence[bytes] = (), **limits: int) -> tuple[JpegBatches, GpuDouble]:
        double = GpuDouble(refused)
        monkeypatch.setattr(torchvision_io, "decode_jpeg", lambda given, **rest: double.decode(plain, given, **rest))
        return JpegBatches(CPU, double, **limits), double

    return make


def jpeg_bytes(seed: int, size: tuple[int, int] = (40, 60), mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise_image(seed, *size)).convert(mode).save(file, "JPEG", quality=92, **options)
    return file.getvalue()


def jpeg(seed: int, size: tuple[int, int] = (40, 60)) -> Jpeg:
    found = jpeg_from(EncodedImage("image", jpeg_bytes(seed, size)))
    assert found is not None
    return found


def check_pixels(pixels: Tensor | None, content: bytes) -> None:
    assert pixels is not None
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), rgb_from(EncodedImage("image", content)))


def until(done: Callable[[], bool]) -> None:
    """Wait for other threads."""
    deadline = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def decoded_by_threads(batches: JpegBatches, double: GpuDouble, jpegs: Sequence[Jpeg]) -> list[Tensor | None]:
    """The first call goes on when the JPEGs of all other threads wait."""
    double.before = lambda: until(lambda: len(double.calls) > 1 or batches.waiting == len(jpegs) - 1)
    with ThreadPoolExecutor(len(jpegs)) as threads:
        return list(threads.map(batches.decoded, jpegs))


def test_jpegs_that_wait_while_others_are_decoded_are_one_call(decoding: Any) -> None:
    batches, double = decoding()
    jpegs = [jpeg(seed, (40 + seed, 60)) for seed in range(9)]
    found = decoded_by_threads(batches, double, jpegs)
    assert double.calls == [1, 8]
    for pixels, each in zip(found, jpegs, strict=True):
        check_pixels(pixels, each.content)
    # each thread that reads an image keeps its memory, also of those that another thread decoded
    assert sorted(address for _, address in double.lent) == sorted(p.data_ptr() for p in found if p is not None)
    assert len({thread for thread, _ in double.lent}) == 9


def test_one_thread_alone_decodes_its_own(decoding: Any) -> None:
    batches, double = decoding()
    for seed in range(3):
        each = jpeg(seed)
        check_pixels(batches.decoded(each), each.content)
    assert double.calls == [1, 1, 1]


def test_a_jpeg_that_the_decoder_refuses_costs_no_other_its_decoder(decoding: Any) -> None:
    jpegs = [jpeg(seed) for seed in range(9)]
    batches, double = decoding(refused=[jpegs[3].content, jpegs[7].content])
    found = decoded_by_threads(batches, double, jpegs)
    assert [i for i, pixels in enumerate(found) if pixels is None] == [3, 7]
    for pixels, each in zip(found, jpegs, strict=True):
        if pixels is not None:
            check_pixels(pixels, each.content)
    assert double.calls[:2] in ([1, 8], [1, 7])  # the first one may be refused itself, and the thread goes on


def test_a_call_holds_so_many_pixels_at_once(decoding: Any) -> None:
    batches, double = decoding(most_pixels=3 * 40 * 60)
    jpegs = [jpeg(seed) for seed in range(8)] + [jpeg(9, (100, 100))]
    found = decoded_by_threads(batches, double, jpegs)
    assert all(pixels is not None for pixels in found)
    assert sum(double.calls) == 9
    assert max(double.calls) == 3


def test_an_error_of_another_kind_reaches_its_thread_and_leaves_the_others_to_the_cpu(decoding: Any) -> None:
    batches, double = decoding()

    def fail() -> None:
        raise MemoryError

    double.before = fail
    with pytest.raises(MemoryError):
        batches.decoded(jpeg(0))
    double.before = lambda: None
    each = jpeg(1)
    check_pixels(batches.decoded(each), each.content)  # and the decoder is free again


@pytest.mark.parametrize("lacks", ["before", "behind"])
def test_the_double_notices_a_wait_that_is_missing(decoding: Any, lacks: str) -> None:
    batches, double = decoding()
    waits, wait = 0, double.wait

    def some_waits() -> None:
        nonlocal waits
        waits += 1
        if (waits == 1) is (lacks == "behind"):
            wait()

    double.wait = some_waits
    with pytest.raises(AssertionError, match="may still be in use" if lacks == "before" else "still writes"):
        batches.decoded(jpeg(0))


def test_the_double_notices_memory_of_another_stream(decoding: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    decoding()
    with pytest.raises(AssertionError, match="memory is that of another stream"):
        jpeg_batches.jpegs_on(CPU, [jpeg_bytes(0)])


# ---- a stream of images


def geometry_of(image: Any) -> ImageGeometry:
    return ImageGeometry.of(image.shape[:2], SMALL)


def turned(seed: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return jpeg_bytes(seed, exif=exif)


def without_a_scan(seed: int) -> bytes:
    """A header that says more components than there are; no decoder takes it."""
    content = bytearray(jpeg_bytes(seed))
    content[content.index(b"\xff\xda") + 4] = 9
    return bytes(content)


def test_a_stream_decodes_plain_jpegs_together_and_the_others_on_the_cpu(decoding: Any, tmp_path: Path) -> None:
    batches, double = decoding()
    kinds: list[Callable[[int], bytes]] = [jpeg_bytes, png, turned, lambda seed: jpeg_bytes(seed, mode="CMYK")]
    kinds += [jpeg_bytes, without_a_scan, lambda seed: jpeg_bytes(seed)[:700], jpeg_bytes]
    contents = [kind(seed) for seed, kind in enumerate(kinds * 4)]
    sources: list[Any] = [EncodedImage(f"image {i}", content) for i, content in enumerate(contents)]
    (tmp_path / "first.jpg").write_bytes(contents[0])
    sources[0] = tmp_path / "first.jpg"
    plain = sum(jpeg_from(source) is not None for source in sources)
    assert plain == 4 * 4  # and four of them cannot be decoded
    double.before = lambda: until(lambda: len(double.calls) > 1 or batches.waiting > 2)
    made: dict[str, Any] = {"prepare": TensorPreparation(geometry_of, "cpu", HostWriter(), jpegs=batches)}
    made |= {"collate": stacked, "forward": lambda inputs: inputs.images.copy()}
    made |= {"postprocess": lambda outputs, geometries: list(outputs), "batch_size": 4, "window": 16, "workers": 16}
    results = list(predictions(Stages(**made), sources))
    for i, (result, content) in enumerate(zip(results, contents, strict=True)):
        assert result.name == str(sources[i]) if i == 0 else f"image {i}"
        if kinds[i % len(kinds)] is without_a_scan or len(content) == 700:
            with pytest.raises(ImageError):
                rgb_from(sources[i])
            assert isinstance(result.error, ImageError)
            continue
        np.testing.assert_array_equal(result.image, rgb_from(EncodedImage("image", content)))
        alone = TensorPreparation(geometry_of, "cpu", HostWriter())(sources[i], "image")
        np.testing.assert_array_equal(result.detections, alone.inputs.on_host().images[0])
    assert max(double.calls) > 2
    assert len(double.lent) == plain - 4  # all but those that cannot be decoded
