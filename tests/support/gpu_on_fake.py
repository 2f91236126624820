"""The engine runtime on NVIDIA's real bindings, and a `libcuda.so.1` without a GPU (`fake_libcuda.c`) below them.

`python -m tests.support.gpu_on_fake` runs every scenario and prints what it found as JSON. It is a separate process,
because the bindings look for the driver once.
"""

import ctypes
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from condinst_deploy.contract import ImageGeometry
from condinst_deploy.errors import BackendError
from condinst_deploy.runtime.cuda.driver import CudaDriver
from condinst_deploy.runtime.cuda.gpu import Gpu, Stream, shared_gpu
from condinst_deploy.runtime.cuda.gpu_batches import PinnedWriter, uploaded
from condinst_deploy.runtime.preprocessing.batch import network_inputs
from tests.support.engines_on_doubles import KERNELS_ON_DOUBLE
from tests.support.mask_batches import check, found_on, random_batch
from tests.support.models import noise_image

KINDS = ("memory", "pinned", "streams", "events", "graphs", "executables", "modules")
LAUNCH = ctypes.CFUNCTYPE(
    None,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_uint),
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_int64),
    ctypes.c_int,
)


class Fake:
    """The library, and the launches that came to it."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")
        self.launches: list[tuple[str, int, int]] = []  # kernel, threads, bytes of shared memory
        self.errors: list[str] = []
        self._function = LAUNCH(self._launched)
        self.library.fake_on_launch(self._function)

    def alive(self) -> dict[str, int]:
        """What was made and not released."""
        return {kind: self.library.fake_alive(i) for i, kind in enumerate(KINDS)}

    def _launched(self, name: bytes, sizes: Any, _: int, values: Any, count: int) -> None:
        try:
            threads = sizes[3] * sizes[4] * sizes[5]
            self.launches.append((name.decode(), threads, sizes[6]))
            kernel = KERNELS_ON_DOUBLE[name.decode()]
            _touched, run = kernel((sizes[0], sizes[1], sizes[2]), [values[i] for i in range(count)])
            assert run is not None
            run()
        except Exception as e:  # it cannot pass through C
            self.errors.append(f"{name.decode()}: {type(e).__name__}: {e}")


def resized(gpu: Gpu) -> dict[str, Any]:
    """Images are uploaded and resized; a batch has blank ones."""
    sizes = [((40, 60), (64, 96)), ((200, 30), (64, 10)), ((64, 96), (64, 96))]
    images = [noise_image(seed, *size) for seed, (size, _) in enumerate(sizes)]
    geometries = [ImageGeometry(size, small, (64, 96)) for size, small in sizes]
    writer = PinnedWriter(gpu)
    with gpu.current(), Stream(gpu) as stream:
        parts = [writer.from_image(*each) for each in zip(images, geometries, strict=True)]
        found = uploaded(gpu, stream, parts, 4).on_host()
    want = network_inputs(images, geometries, 4)
    sizes_equal = np.array_equal(found.image_sizes, want.image_sizes)
    return {"equal": sizes_equal and np.array_equal(found.images, want.images)}


def masks(gpu: Gpu) -> dict[str, Any]:
    """Runs of masks, of both types of logits."""
    images = 0
    for seed in range(2):
        outputs, geometries = random_batch(seed)
        check(found_on(gpu, outputs, geometries), outputs, geometries)
        images += len(geometries)
    return {"images": images}


def graphs(gpu: Gpu) -> dict[str, Any]:
    """A capture that succeeds, one that cannot, and one that raises."""
    with gpu.current(), Stream(gpu) as stream:
        array = gpu.memory.array((4,), "int32", stream)

        def work() -> bool:
            stream.fill(array, 1)
            return True

        graph = stream.captured(work)
        assert graph is not None
        graph.launch(stream)
        graph.close()
        refused = stream.captured(lambda: False)
        try:
            stream.captured(lambda: bool([][0]))
        except IndexError:
            raised = True
    return {"refused": refused is None, "raised": raised}


def events(gpu: Gpu, fake: Fake) -> dict[str, Any]:
    """An event is asked before and after its work is over."""
    with gpu.current(), Stream(gpu) as stream:
        event = stream.record()
        fake.library.fake_not_ready(1)
        early = event.done()
        fake.library.fake_not_ready(0)
        return {"early": early, "late": event.done()}


def message(call: Callable[[], Any]) -> str:
    """The error of a call."""
    try:
        call()
    except BackendError as e:
        return str(e)
    return "no error"


def refusals(gpu: Gpu) -> dict[str, Any]:
    """Errors that the process gets over."""

    with gpu.current():
        memory = message(lambda: gpu.memory.taken(1 << 45))
    context, index = message(lambda: gpu.driver.allocate(16)), message(lambda: CudaDriver(7))
    return {"memory": memory, "context": context, "index": index}


@contextmanager
def refusing(fake: Fake, kind: str) -> Iterator[None]:
    """Nothing of a kind is made in the block."""
    fake.library.fake_refuse(KINDS.index(kind))
    try:
        yield
    finally:
        fake.library.fake_refuse(-1)


def short(gpu: Gpu, fake: Fake) -> dict[str, Any]:
    """Where the driver makes nothing of a kind: what goes on without it, what is an error, and what is left behind."""
    found: dict[str, Any] = {}
    gpu.release_idle()  # memory of earlier scenarios would be used again
    with warnings.catch_warnings(record=True) as told, refusing(fake, "pinned"):
        warnings.simplefilter("always")
        found["pinned"] = resized(gpu) | masks(gpu)
    found["warning"] = sorted({str(each.message) for each in told})
    for kind in ("graphs", "executables"):
        with refusing(fake, kind), gpu.current(), Stream(gpu) as stream:
            found[kind] = stream.captured(lambda: True) is None
    with gpu.current(), Stream(gpu) as stream:
        with refusing(fake, "events"):
            stream.synchronize()
            found["events"] = message(stream.record)
        with refusing(fake, "streams"):
            found["streams"] = message(lambda: Stream(gpu))
    fresh = Gpu(gpu.driver)
    with refusing(fake, "modules"), fresh.current():
        found["modules"] = message(lambda: fresh.kernel("offsets"))
    return found


def broken(gpu: Gpu, fake: Fake) -> dict[str, Any]:
    """An error that stays: the first message, and the one of all later work."""
    fake.library.fake_break()
    found = []
    for _ in range(2):
        try:
            gpu.check()
        except BackendError as e:
            found.append(str(e))
    return {"messages": found, "failure": gpu.driver.failure}


def scenarios() -> dict[str, Any]:
    """Results of all of them, the last of which ends the GPU."""
    fake, gpu = Fake(), shared_gpu(0)
    with gpu.current():
        found: dict[str, Any] = {"name": gpu.driver.name(), "capability": gpu.driver.capability()}
    gpu.check()
    found |= {"resized": resized(gpu), "masks": masks(gpu), "graphs": graphs(gpu), "events": events(gpu, fake)}
    found |= {"refusals": refusals(gpu), "short": short(gpu, fake)}
    gpu.release_idle()
    found |= {"alive": fake.alive(), "launches": sorted(set(fake.launches)), "errors": fake.errors}
    return found | {"broken": broken(gpu, fake)}


if __name__ == "__main__":
    print(json.dumps(scenarios()))
