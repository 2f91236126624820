"""Decoding and resizing of a JPEG: ours beside the libraries that do it, in one interleaved run.

    python -m benchmarks.input --out benchmarks/results/input.json

A candidate takes a file of 1920x1080 (and one of 12 MP) to the network's input, with one thread; ours also gives the
whole image. Every candidate is compared with plain Pillow, which the references use, before it is timed. Libraries
that are not installed are named and left out; all are found after

    pip install --no-deps --target build/peers opencv-python-headless imagecodecs kornia-rs cykooz-resizer
    PYTHONPATH=build/peers python -m benchmarks.input

What `pixels="fast"` (and "cuda", where there is a GPU) costs in agreement is measured on detections of R-50 with seeded
weights in two photographs.
"""

import json
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch
from PIL import Image, features

from benchmarks.accuracy import accuracy_of
from benchmarks.targets import Target, parser_of, write_results
from benchmarks.timing import Turns, ratio
from condinst_deploy.contract import ImageGeometry, Preprocessing
from condinst_deploy.evaluation.agreement import agreement, merged
from condinst_deploy.runtime.host_inputs import blank_inputs
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.runtime.preprocessing.batch import HostWriter
from condinst_deploy.runtime.preprocessing.factory import preparation
from condinst_deploy.runtime.preprocessing.types import InputOptions, Pixels
from tests.support.exports import save_r50_checkpoint
from tests.support.photographs import photograph

UInt8 = npt.NDArray[np.uint8]
Candidate = Callable[[], UInt8]
"""File -> `(3, h, w)` uint8 at the network's size, which may be the corner of a padded input."""

Resized = Callable[[], UInt8]
"""File -> `(h, w, 3)` uint8 at the network's size."""

TARGET = 0.9
"""Speed of ours, as a share of the fastest candidate's whose pixels are the same."""

ORIGINALS = {"1080p": ((1920, 1080), 15), "12 MP": ((4000, 3000), 5)}
"""Width and height, and how many rounds."""

SEED = 0
OURS = "ours, exact"


class Scene(NamedTuple):
    """Input of all candidates."""

    path: Path
    data: bytes
    size: tuple[int, int]  # width and height at the network's size


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = parser_of(__doc__)
    parser.add_argument("--no-agreement", action="store_true", help="leave out what the options cost in agreement")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"seed": SEED}
    with tempfile.TemporaryDirectory() as folder:
        for name, (size, rounds) in ORIGINALS.items():
            scene = scene_of(Path(folder), size)
            results[name] = measured(scene, candidates(scene), rounds)
            show(name, results[name])
        if not arguments.no_agreement:
            results["agreement"] = agreements(Path(folder))
            print(json.dumps(results["agreement"], indent=1))
    results["libjpeg_turbo_of_pillow"] = features.version("libjpeg_turbo")
    write_results(arguments.out, targets_of(results), results)


def targets_of(results: dict[str, Any]) -> list[Target]:
    """Ours beside the fastest library with the same pixels; asked of the smaller image."""
    targets = []
    for name in ORIGINALS:
        fastest = results[name]["fastest_equal"]
        speeds = results[name]["candidates"][fastest]
        for form, key in (("", "speed_of_ours"), (", processor time", "speed_of_ours_by_cpu")):
            label = f"{name}{form}: speed of ours / {fastest}"
            asked = name == "1080p" and not form
            targets.append(
                Target.at_least(label, speeds[key], TARGET, "") if asked else Target.without(label, speeds[key], "")
            )
    return targets


def scene_of(folder: Path, size: tuple[int, int]) -> Scene:
    """A photograph enlarged, with a sensor's noise, as a camera's JPEG."""
    path = photograph(folder / f"{size[0]}x{size[1]}.jpg", "coffee", size)
    height, width = ImageGeometry.of((size[1], size[0]), Preprocessing()).resized
    return Scene(path, path.read_bytes(), (width, height))


# ---- candidates


def candidates(scene: Scene) -> dict[str, Candidate]:
    """All that can be run here; the others are compared with "Pillow"."""
    made = {f"ours, {pixels}": ours(pixels, scene) for pixels in ways()}
    return made | {name: laid_out(resized, scene) for name, resized in libraries(scene).items()}


def ways() -> tuple[Pixels, ...]:
    """The options that can be run here."""
    return ("exact", "fast", "cuda") if torch.cuda.is_available() else ("exact", "fast")


def libraries(scene: Scene) -> dict[str, Resized]:
    made: dict[str, Resized] = {
        "Pillow": lambda: by_pillow(Image.open(scene.path), scene.size),
        "Pillow, draft": lambda: by_pillow(drafted(scene), scene.size),
        "Pillow, reducing_gap=2": lambda: np.asarray(
            Image.open(scene.path).resize(scene.size, Image.Resampling.BILINEAR, reducing_gap=2)
        ),
        "simplejpeg + Pillow": lambda: by_pillow(Image.fromarray(simplejpeg.decode_jpeg(scene.data)), scene.size),
    }
    for library, further in FURTHER.items():
        try:
            made |= further(import_module(library), scene)
        except (ImportError, OSError) as e:
            print(f"left out: {library} ({e})")
    return made


def ours(pixels: Pixels, scene: Scene) -> Candidate:
    prepare = preparation(pixels, geometry_of, HostWriter(), "cpu")
    width, height = scene.size
    return lambda: prepare(scene.path, scene.path.name).inputs.on_host().images[0, :, :height, :width]


def laid_out(resized: Resized, scene: Scene) -> Candidate:
    """Pad an image and put channels first, after a library has decoded and resized it."""
    width, height = scene.size
    padded = ImageGeometry.of((height, width), Preprocessing()).padded

    def run() -> UInt8:
        corner = blank_inputs(1, *padded).images[0, :, :height, :width]
        corner[...] = resized().transpose(2, 0, 1)
        return corner

    return run


def geometry_of(image: UInt8) -> ImageGeometry:
    return ImageGeometry.of((image.shape[0], image.shape[1]), Preprocessing())


def by_pillow(image: Image.Image, size: tuple[int, int]) -> UInt8:
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def drafted(scene: Scene) -> Image.Image:
    image = Image.open(scene.path)
    image.draft("RGB", scene.size)
    return image


def with_torchvision(io: Any, scene: Scene) -> dict[str, Resized]:
    from torchvision.transforms.v2.functional import resize

    content = torch.frombuffer(bytearray(scene.data), dtype=torch.uint8)
    width, height = scene.size

    def decoded() -> torch.Tensor:
        pixels: torch.Tensor = io.decode_jpeg(content, mode=io.ImageReadMode.RGB)
        return pixels

    def resized() -> UInt8:
        pixels: UInt8 = resize(decoded(), [height, width], antialias=True).permute(1, 2, 0).numpy()
        return pixels

    return {
        "torchvision": resized,
        "torchvision + Pillow": lambda: by_pillow(
            Image.fromarray(decoded().permute(1, 2, 0).contiguous().numpy()), scene.size
        ),
    }


def with_opencv(cv2: Any, scene: Scene) -> dict[str, Resized]:
    cv2.setNumThreads(1)
    content = np.frombuffer(scene.data, dtype=np.uint8)

    def decoded() -> UInt8:
        pixels: UInt8 = cv2.imdecode(content, cv2.IMREAD_COLOR_RGB)
        return pixels

    def resized(way: int) -> UInt8:
        pixels: UInt8 = cv2.resize(decoded(), scene.size, interpolation=way)
        return pixels

    return {
        "OpenCV + Pillow": lambda: by_pillow(Image.fromarray(decoded()), scene.size),
        "OpenCV, linear": lambda: resized(cv2.INTER_LINEAR),
        "OpenCV, area": lambda: resized(cv2.INTER_AREA),
    }


def with_imagecodecs(imagecodecs: Any, scene: Scene) -> dict[str, Resized]:
    def run() -> UInt8:
        return by_pillow(Image.fromarray(imagecodecs.jpeg_decode(scene.data)), scene.size)

    return {"imagecodecs + Pillow": run}


def with_cykooz(cykooz: Any, scene: Scene) -> dict[str, Resized]:
    way = cykooz.ResizeAlg.convolution(cykooz.FilterType.bilinear)
    options, resizer, kind = cykooz.ResizeOptions(resize_alg=way), cykooz.Resizer(), cykooz.PixelType.U8x3

    def run() -> UInt8:
        pixels = simplejpeg.decode_jpeg(scene.data)
        source = cykooz.ImageData(pixels.shape[1], pixels.shape[0], kind, pixels.tobytes())
        target = cykooz.ImageData(*scene.size, kind)
        resizer.resize(source, target, options)
        return np.frombuffer(target.get_buffer(), dtype=np.uint8).reshape(scene.size[1], scene.size[0], 3)

    return {"simplejpeg + cykooz-resizer": run}


def with_kornia(kornia: Any, scene: Scene) -> dict[str, Resized]:
    def run() -> UInt8:
        resized = kornia.imgproc.resize(simplejpeg.decode_jpeg(scene.data), scene.size[::-1], "bilinear")
        return np.asarray(resized)

    return {"simplejpeg + kornia-rs": run}


FURTHER: dict[str, Callable[[Any, Scene], dict[str, Resized]]] = {
    "torchvision.io": with_torchvision,
    "cv2": with_opencv,
    "imagecodecs": with_imagecodecs,
    "cykooz_resizer": with_cykooz,
    "kornia_rs": with_kornia,
}


# ---- measurements


def measured(scene: Scene, made: dict[str, Candidate], rounds: int) -> dict[str, Any]:
    """Equality with plain Pillow, then times; the candidates take turns, so that all meet the same machine."""
    ground_truth = made["Pillow"]()
    equality = {name: compared(run(), ground_truth) for name, run in made.items()}  # this warms up, too
    turns = Turns(made)
    for _ in turns.rounds(rounds):
        pass
    wall, cpu = turns.wall, turns.cpu
    table = {
        name: equality[name]
        | {
            "ms": milliseconds(wall[name]),
            "cpu_ms": milliseconds(cpu[name]),
            "speed_of_ours": round(ratio(wall[name], wall[OURS]), 3),
            "speed_of_ours_by_cpu": round(ratio(cpu[name], cpu[OURS]), 3),
        }
        for name in made
    }
    same = [name for name in made if table[name]["largest_difference"] == 0 and not name.startswith("ours")]
    fastest = min(same, key=lambda name: median(cpu[name]))
    return {"original": scene.path.stem, "network": scene.size, "fastest_equal": fastest, "candidates": table}


def compared(pixels: UInt8, ground_truth: UInt8) -> dict[str, Any]:
    if pixels.shape != ground_truth.shape:
        raise RuntimeError(f"a candidate gives {pixels.shape}; expected {ground_truth.shape}")
    difference = np.abs(pixels.astype(np.int16) - ground_truth)
    return {
        "largest_difference": int(difference.max()),
        "mean_difference": round(float(difference.mean()), 5),
        "equal_share": round(float((difference == 0).mean()), 5),
    }


def milliseconds(seconds: list[float]) -> float:
    return round(1000 * median(seconds), 2)


def show(name: str, result: dict[str, Any]) -> None:
    print(f"\n{name} -> {result['network'][0]}x{result['network'][1]}")
    print(f"{'':28}{'ms':>8}{'CPU ms':>8}{'ours':>7}{'by CPU':>8}{'max diff':>10}{'equal':>9}")
    for candidate, row in result["candidates"].items():
        print(
            f"{candidate:28}{row['ms']:8.1f}{row['cpu_ms']:8.1f}{row['speed_of_ours']:7.2f}"
            f"{row['speed_of_ours_by_cpu']:8.2f}{row['largest_difference']:10}{row['equal_share']:9.2%}"
        )
    fastest = result["fastest_equal"]
    print(f"fastest with the same pixels: {fastest}; ours at {result['candidates'][fastest]['speed_of_ours']} of it")


def agreements(folder: Path) -> dict[str, Any]:
    """Detections with each option beside those with exact pixels."""
    checkpoint = save_r50_checkpoint(folder / "r50.pth", SEED)
    images = [photograph(folder / f"{name}.jpg", name, (1920, 1080)) for name in ("coffee", "astronaut")]
    options = ways()
    found: dict[str, Any] = {}
    for pixels in options:
        with Predictor(checkpoint, device="cpu", inputs=InputOptions(pixels)) as predictor:
            found[pixels] = predictor(images)
    return {
        pixels: accuracy_of(merged(agreement(*pair) for pair in zip(found["exact"], found[pixels], strict=True)))
        for pixels in options[1:]
    }


if __name__ == "__main__":
    main()
