"""Draws the studio photo of one synthetic product: a patterned shape with a brand's badge, on a backdrop."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Points = list[tuple[float, float]]  # x to the right, y down; a product fills about -1..1

SUPERSAMPLING = 2
BODY_SHARE = 0.42  # half the product's height, as a share of the photo's
COLOURS: dict[str, Colour] = {
    "red": (204, 30, 38),
    "orange": (242, 128, 24),
    "yellow": (250, 212, 40),
    "green": (34, 134, 58),
    "teal": (12, 150, 154),
    "sky blue": (112, 190, 240),
    "navy blue": (24, 38, 104),
    "purple": (118, 46, 160),
    "pink": (246, 142, 182),
    "brown": (112, 66, 34),
    "beige": (222, 198, 158),
    "grey": (134, 138, 144),
    "black": (30, 30, 34),
    "white": (246, 246, 244),
}
MATERIALS: dict[str, Colour] = {
    "dark": (54, 54, 60),
    "metal": (176, 180, 188),
    "wood": (164, 114, 66),
    "cream": (240, 234, 220),
    "flame": (255, 176, 40),
    "leaf": (96, 160, 84),
    "glass": (206, 232, 244),
}
BADGES: list[tuple[str, Colour]] = [
    ("disc", (220, 20, 30)),
    ("square", (20, 70, 200)),
    ("triangle", (10, 140, 50)),
    ("diamond", (250, 170, 0)),
    ("cross", (20, 20, 24)),
    ("ring", (190, 30, 160)),
]
# The colours of the top and of the bottom of a backdrop.
BACKDROPS: list[tuple[Colour, Colour]] = [
    ((252, 252, 252), (252, 252, 252)),
    ((252, 252, 252), (252, 252, 252)),
    ((252, 252, 252), (214, 216, 220)),
    ((226, 226, 228), (226, 226, 228)),
    ((200, 204, 210), (240, 240, 242)),
    ((232, 240, 250), (206, 222, 242)),
    ((250, 238, 226), (244, 222, 200)),
    ((232, 246, 232), (208, 230, 212)),
    ((248, 232, 240), (234, 212, 226)),
]


@dataclass(frozen=True)
class Look:
    """What the photo shows of a product."""

    draw: "Shape"  # from demo_wear or demo_goods
    variant: int  # 0 or 1: which of the shape's two builds
    colour: str
    pattern: str  # a name in PATTERNS
    second_colour: str  # equal to `colour` where the pattern has none
    badge: int  # number in BADGES


def oval(x: float, y: float, rx: float, ry: float, start: int = 0, end: int = 360) -> Points:
    """An arc of an ellipse, in degrees clockwise from the right."""
    turns = [math.radians(degrees) for degrees in range(start, end + 1, 10)]
    return [(x + rx * math.cos(turn), y + ry * math.sin(turn)) for turn in turns]


def box(left: float, top: float, right: float, bottom: float, radius: float = 0.0) -> Points:
    if not radius:
        return [(left, top), (right, top), (right, bottom), (left, bottom)]
    centres = [
        (right - radius, bottom - radius),
        (left + radius, bottom - radius),
        (left + radius, top + radius),
        (right - radius, top + radius),
    ]
    return [point for i, (x, y) in enumerate(centres) for point in oval(x, y, radius, radius, 90 * i, 90 * i + 90)]


def both(*right: tuple[float, float]) -> Points:
    """The outline whose right half, from top to bottom, is given."""
    return [*right, *((-x, y) for x, y in reversed(right))]


class Pen:
    """Draws in the product's own coordinates, in its fabric or in a plain material."""

    def __init__(self, look: Look, pixels: int, rng: Random) -> None:
        self.look = look
        self.scale = pixels * BODY_SHARE * rng.uniform(0.82, 1.04)
        self.turn = math.radians(rng.uniform(-7, 7))
        self.flip = rng.choice((-1, 1))
        self.x, self.y = (pixels * rng.uniform(0.46, 0.54) for _ in range(2))
        self.outline = darker(COLOURS[look.colour], 0.6)
        self.image = Image.new("RGB", (pixels, pixels), self.outline)
        self.silhouette = Image.new("L", (pixels, pixels))
        self._image, self._silhouette = ImageDraw.Draw(self.image), ImageDraw.Draw(self.silhouette)
        self._fabric: Image.Image | None = None

    def body(self, points: Points) -> None:
        """Fill with the product's fabric; the first body sets where the pattern lies."""
        if self._fabric is None:
            self._fabric = self._fabric_around(points)
        outline = self.placed(points)
        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).polygon(outline, fill=255)
        self.image.paste(self._fabric, mask=mask)
        self._image.line([*outline, outline[0]], self.outline, width=self._width(0.04))
        self._silhouette.polygon(outline, fill=255)

    def part(self, points: Points, material: str) -> None:
        outline = self.placed(points)
        self._image.polygon(outline, fill=self._colour(material))
        self._silhouette.polygon(outline, fill=255)

    def line(self, points: Points, material: str, width: float = 0.05) -> None:
        path = self.placed(points)
        self._image.line(path, self._colour(material), self._width(width), joint="curve")
        self._silhouette.line(path, 255, self._width(width), joint="curve")

    def badge(self, x: float, y: float) -> None:
        """The brand's mark on a white plate."""
        kind, colour = BADGES[self.look.badge]
        self.part(oval(x, y, 0.2, 0.2), "dark")
        for points, fill in [(oval(x, y, 0.18, 0.18), (255, 255, 255)), *badge_marks(kind, x, y, colour)]:
            self._image.polygon(self.placed(points), fill=fill)

    def placed(self, points: Points) -> Points:
        """Photo coordinates of the product's own."""
        sine, cosine = math.sin(self.turn) * self.scale, math.cos(self.turn) * self.scale
        turned = [(self.flip * x, y) for x, y in points]
        return [(self.x + x * cosine - y * sine, self.y + x * sine + y * cosine) for x, y in turned]

    def _colour(self, material: str) -> Colour:
        return self.outline if material == "trim" else MATERIALS[material]

    def _width(self, width: float) -> int:
        return max(1, round(width * self.scale))

    def _fabric_around(self, points: Points) -> Image.Image:
        xs, ys = zip(*points, strict=True)
        x, y, half_height = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, (max(ys) - min(ys)) / 2
        first, second = COLOURS[self.look.colour], COLOURS[self.look.second_colour]
        fabric = Image.new("RGB", self.image.size, first)
        draw = ImageDraw.Draw(fabric)
        for cell, share in PATTERNS[self.look.pattern](half_height):
            colour = tuple(round(a + share * (b - a)) for a, b in zip(first, second, strict=True))
            draw.polygon(self.placed([(x + dx, y + dy) for dx, dy in cell]), fill=colour)
        fabric.paste((0, 0, 0), mask=side_shade(self.image.width))
        return fabric


Shape = Callable[[Pen, int], None]  # draws a product in one of two builds


def darker(colour: Colour, share: float) -> Colour:
    red, green, blue = (round(channel * share) for channel in colour)
    return red, green, blue


def badge_marks(kind: str, x: float, y: float, colour: Colour) -> list[tuple[Points, Colour]]:
    """What is printed on the plate, one on top of the other."""
    marks: dict[str, list[tuple[Points, Colour]]] = {
        "disc": [(oval(x, y, 0.13, 0.13), colour)],
        "square": [(box(x - 0.12, y - 0.12, x + 0.12, y + 0.12), colour)],
        "triangle": [([(x, y - 0.16), (x + 0.14, y + 0.1), (x - 0.14, y + 0.1)], colour)],
        "diamond": [(oval(x, y, 0.16, 0.16)[::9], colour)],
        "cross": [
            (box(x - 0.05, y - 0.15, x + 0.05, y + 0.15), colour),
            (box(x - 0.15, y - 0.05, x + 0.15, y + 0.05), colour),
        ],
        "ring": [(oval(x, y, 0.15, 0.15), colour), (oval(x, y, 0.07, 0.07), (255, 255, 255))],
    }
    return marks[kind]


def chevron(y: float) -> Points:
    path = [(-1.5 + 0.25 * i, y + 0.22 * (i % 2)) for i in range(13)]
    return path + [(px, py + 0.2) for px, py in reversed(path)]


# Each pattern: cells and how far each goes from the first colour to the second, around the middle of a body so high.
Cells = list[tuple[Points, float]]
GRID = [0.32 * i for i in range(-5, 6)]
PATTERNS: dict[str, Callable[[float], Cells]] = {
    "solid": lambda half_height: [],
    "striped": lambda half_height: [(box(-2, y, 2, y + 0.19), 1.0) for y in (0.38 * i - 0.095 for i in range(-5, 6))],
    "diagonal striped": lambda half_height: [
        ([(x - 2, -2), (x - 1.72, -2), (x + 2.28, 2), (x + 2, 2)], 1.0) for x in (0.56 * i - 0.14 for i in range(-6, 7))
    ],
    "polka dot": lambda half_height: [
        (oval(x + 0.16 * (row % 2), y, 0.1, 0.1)[::3], 1.0) for row, y in enumerate(GRID) for x in GRID
    ],
    "checkered": lambda half_height: [
        (box(x, y, x + 0.32, y + 0.32), 1.0) for row, y in enumerate(GRID) for x in GRID[row % 2 :: 2]
    ],
    "chevron": lambda half_height: [(chevron(0.42 * i - 0.2), 1.0) for i in range(-5, 6)],
    "two-tone": lambda half_height: [(box(-2, 0, 2, 2), 1.0)],
    "ombre": lambda half_height: [(box(-2, half_height * (i / 6 - 1), 2, 2), i / 11) for i in range(12)],
}


@cache
def side_shade(pixels: int) -> Image.Image:
    """How much light a round body loses towards its right edge: an 8-bit mask."""
    across = np.clip(np.linspace(-20, 90, pixels), 0, 255).astype(np.uint8)
    return Image.fromarray(np.tile(across, (pixels, 1)))


def draw_photo(look: Look, size: int, rng: Random) -> bytes:
    """A JPEG of `size` x `size` pixels; the same look, size and state of `rng` give the same bytes."""
    pen = Pen(look, size * SUPERSAMPLING, rng)
    look.draw(pen, look.variant)
    product, silhouette = pen.image.reduce(SUPERSAMPLING), pen.silhouette.reduce(SUPERSAMPLING)
    photo = draw_backdrop(size, rng)
    drop = round(size * rng.uniform(0.01, 0.04))
    shadow = Image.new("L", (size, size))
    shadow.paste(110, (drop * rng.choice((-1, 1)), drop), silhouette)
    photo.paste((20, 20, 30), mask=shadow.filter(ImageFilter.BoxBlur(size * 0.03)))
    photo.paste(product, mask=silhouette)
    file = io.BytesIO()
    develop(photo, rng).save(file, "JPEG", quality=88)
    return file.getvalue()


def draw_backdrop(size: int, rng: Random) -> Image.Image:
    """White, grey, a pale colour or a gradient; one in four stands on a table."""
    top, bottom = rng.choice(BACKDROPS)
    column = np.linspace(top, bottom, size).round().astype(np.uint8)[:, None, :]
    photo = Image.fromarray(np.repeat(column, size, axis=1))
    if rng.random() < 0.25:
        surface = rng.choice(((196, 160, 120), (172, 168, 164), (222, 210, 196)))
        photo.paste(surface, (0, round(size * rng.uniform(0.62, 0.75)), size, size))
    return photo


def develop(photo: Image.Image, rng: Random) -> Image.Image:
    """Exposure and sensor noise."""
    noise = np.random.default_rng(rng.getrandbits(64)).integers(-4, 5, (photo.height, photo.width, 1), dtype=np.int16)
    exposure = round(256 * rng.uniform(0.93, 1.05))
    lit = (np.asarray(photo, dtype=np.int32) * exposure >> 8) + noise
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
