"""Colours of classes that people with every kind of colour vision can distinguish.

The first seven are those of Okabe and Ito ("Color Universal Design", 2008) without black. Each of the others is the
sRGB colour whose smallest distance in OKLab (Ottosson, 2020) to all colours before it is largest, where the distance
is the smallest of four: seen with normal vision, and as Machado, Oliveira and Fernandes ("A Physiologically-based Model
for Simulation of Color Vision Deficiency", 2009) simulate protanopia, deuteranopia and tritanopia. The test of this
module computes them again.
"""

Colour = tuple[int, int, int]

OKABE_ITO: tuple[Colour, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip

PALETTE: tuple[Colour, ...] = OKABE_ITO + (
    (90, 255, 255), (150, 45, 0), (165, 105, 255), (105, 75, 105), (90, 0, 225), (165, 210, 165), (195, 240, 180),
    (150, 90, 75), (150, 180, 135), (195, 0, 150), (105, 210, 255), (225, 195, 90), (150, 75, 225),
)  # fmt: skip
"""RGB of each class in turn; the 21st class has the first colour again."""

DARK: Colour = (16, 16, 16)
LIGHT: Colour = (255, 255, 255)


def colour_of(label: int) -> Colour:
    """Return the colour of a class."""
    return PALETTE[label % len(PALETTE)]


def lightened(colour: Colour) -> Colour:
    """Return the colour mixed with the same amount of white: visible on dark ground, and still the class's."""
    red, green, blue = ((value + 256) // 2 for value in colour)
    return red, green, blue


def text_colour(background: Colour) -> Colour:
    """Return black or white, the one with the higher contrast (WCAG 2.1, relative luminance) on the background."""
    channels = (value / 255 for value in background)
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else (255, 255, 255)
