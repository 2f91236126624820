"""The palette is what its rule gives, and its colours differ enough."""

import numpy as np
import numpy.typing as npt

from condinst_deploy.imaging.palette import OKABE_ITO, PALETTE, colour_of, text_colour

Floats = npt.NDArray[np.float64]

# Machado, Oliveira, Fernandes 2009, severity 1.0, on linear RGB
VISIONS = {
    "normal": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900],
    ],
}  # fmt: skip
# Ottosson 2020, "A perceptual color space for image processing"
TO_CONES = np.array([
    [0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
])  # fmt: skip
TO_LAB = np.array([
    [0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
])  # fmt: skip


def linear(colours: object) -> Floats:
    values = np.asarray(colours, dtype=np.float64) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def seen(colours: object) -> Floats:
    """OKLab of every colour as each vision sees it, (n, 4, 3)."""
    rgb = [(linear(colours) @ np.array(vision).T).clip(0, 1) for vision in VISIONS.values()]
    return np.stack([np.cbrt(one @ TO_CONES.T) @ TO_LAB.T for one in rgb], axis=1)


def distances(a: Floats, b: Floats) -> Floats:
    return np.asarray(np.linalg.norm(a[:, None] - b[None], axis=-1))


def test_the_palette_is_what_its_rule_gives() -> None:
    steps = np.arange(0, 256, 15)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    looks = seen(grid)
    lightness, chroma = looks[:, 0, 0], np.hypot(looks[:, 0, 1], looks[:, 0, 2])
    usable = (lightness > 0.45) & (lightness < 0.92) & (chroma > 0.05)
    grid, looks = grid[usable], looks[usable]
    found = list(OKABE_ITO)
    while len(found) < len(PALETTE):
        nearest = distances(looks, seen(found)).min(axis=(1, 2))
        red, green, blue = grid[nearest.argmax()].tolist()
        found.append((red, green, blue))
    assert tuple(found) == PALETTE


def test_colours_differ_in_every_vision_as_much_as_the_published_ones() -> None:
    def closest(colours: object) -> float:
        apart = distances(seen(colours), seen(colours))
        return float(apart[~np.eye(len(apart), dtype=bool)].min())

    published = closest(OKABE_ITO)
    assert closest(PALETTE[:14]) == published
    assert closest(PALETTE) > 0.9 * published
    # two colours that are famous for being confused are closer
    assert closest([(200, 60, 60), (110, 120, 50)]) < 0.9 * published


def test_texts_contrast_with_their_background() -> None:
    def luminance(colour: object) -> float:
        return float(linear(colour) @ np.array([0.2126, 0.7152, 0.0722]))

    for colour in PALETTE:
        light, dark = sorted((luminance(colour), luminance(text_colour(colour))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2.1, level AA


def test_further_classes_begin_again() -> None:
    assert colour_of(len(PALETTE) + 2) == PALETTE[2]
