"""How the demo's things for home, office and play are drawn, each in either of its two builds."""

import math

from gcl.data.sources.demo_drawing import Pen, both, box, oval


def mug(pen: Pen, variant: int) -> None:
    handle = box(0.4, -0.35, 0.92, 0.4) if variant else oval(0.5, 0.02, 0.38, 0.42)
    pen.line([*handle, handle[0]], "trim", 0.14)
    pen.body([(-0.62, -0.65), (0.55, -0.65), (0.55, 0.7), *oval(-0.04, 0.7, 0.58, 0.14, 0, 180), (-0.62, 0.7)])
    pen.part(oval(-0.035, -0.65, 0.585, 0.13), "dark")
    pen.badge(-0.04, 0.05)


def teapot(pen: Pen, variant: int) -> None:
    handle = oval(0, -0.4, 0.5, 0.52, 180, 360) if variant else oval(-0.6, 0.15, 0.32, 0.36, 60, 300)
    pen.line(handle, "trim", 0.1)
    pen.part([(0.45, 0.2), (0.85, -0.45), (1.0, -0.4), (0.6, 0.55)], "trim")
    pen.body(oval(0, 0.2, 0.66, 0.58))
    pen.part(oval(0, -0.36, 0.32, 0.1), "dark")
    pen.part(oval(0, -0.5, 0.1, 0.1), "dark")
    pen.badge(0.0, 0.22)


def bowl(pen: Pen, variant: int) -> None:
    depth = 0.95 if variant else 0.62
    pen.part(box(-0.36, depth - 0.4, 0.36, depth - 0.12), "trim")
    pen.body(oval(0, -0.3, 0.94, depth, 0, 180))
    pen.part(oval(0, -0.3, 0.94, 0.2), "cream")
    pen.badge(0.0, 0.08)


def vase(pen: Pen, variant: int) -> None:
    if variant:
        pen.body(both((0.5, -0.75), (0.34, 0.0), (0.3, 0.95)))
    else:
        pen.body(both((0.26, -0.75), (0.16, -0.35), *oval(0, 0.3, 0.62, 0.6, -60, 60), (0.3, 0.95)))
    for x, y in ((-0.16, -0.92), (0.18, -0.96)):
        pen.part(oval(x, y, 0.13, 0.1), "leaf")
    pen.badge(0.0, 0.3)


def bottle(pen: Pen, variant: int) -> None:
    if variant:
        pen.line([(0.2, -0.6), (0.2, -0.82), (0.45, -0.98)], "metal", 0.1)
    pen.part(box(-0.22, -0.9 + 0.2 * variant, 0.22, -0.55), "dark")
    pen.body([*oval(0, -0.3, 0.4, 0.28, 180, 360), *box(-0.4, 0.0, 0.4, 0.97, 0.1)[:20]])
    pen.badge(0.0, 0.2)


def candle(pen: Pen, variant: int) -> None:
    top = -0.1 if variant else -0.5
    half_width = 0.62 if variant else 0.4
    pen.part(oval(0, top - 0.32, 0.09, 0.2), "flame")
    pen.line([(0, top), (0, top - 0.16)], "dark", 0.04)
    pen.body([(-half_width, top), (half_width, top), *oval(0, 0.84, half_width, 0.12, 0, 180)])
    pen.part(oval(0, top, half_width, 0.12), "cream")
    pen.badge(0.0, top / 2 + 0.5)


def chair(pen: Pen, variant: int) -> None:
    for x in (-0.52, -0.36, 0.36, 0.52):
        pen.line([(x * 0.9, 0.2), (x, 0.98)], "wood", 0.09)
    pen.body(box(-0.52, -0.98, 0.52, 0.1, 0.16))
    pen.body(box(-0.62, 0.1, 0.62, 0.4, 0.1))
    if variant:
        for x in (-0.66, 0.66):
            pen.line([(x, 0.3), (x, -0.2), (0.8 * x, -0.25)], "wood", 0.12)
    pen.badge(0.0, -0.45)


def sofa(pen: Pen, variant: int) -> None:
    for x in (-0.75, 0.75):
        pen.part(box(x - 0.06, 0.5, x + 0.06, 0.74), "wood")
    pen.body(box(-0.86, -0.5, 0.86, 0.2, 0.14))
    edges = [-0.72, -0.24, 0.24, 0.72] if variant else [-0.72, 0.0, 0.72]
    for left, right in zip(edges, edges[1:], strict=False):
        pen.body(box(left, 0.08, right, 0.36, 0.08))
    pen.body(box(-0.8, 0.34, 0.8, 0.58))
    for x in (-0.86, 0.86):
        pen.body(box(x - 0.14, -0.1, x + 0.14, 0.6, 0.12))
    pen.badge(0.0, -0.22)


def table(pen: Pen, variant: int) -> None:
    for x in (-0.72, -0.4, 0.4, 0.72):
        pen.line([(0.85 * x, -0.1), (x, 0.85 if abs(x) > 0.5 else 0.6)], "wood", 0.1)
    top = [(-0.7, -0.6), (0.7, -0.6), (1.0, 0.2), (-1.0, 0.2)] if variant else oval(0, -0.2, 0.98, 0.42)
    pen.part([(x, y + 0.1) for x, y in top], "wood")
    pen.body(top)
    pen.badge(0.0, -0.2)


def lamp(pen: Pen, variant: int) -> None:
    pen.line([(0, 0.0), (0, 0.85)], "metal", 0.1)
    pen.part([*oval(0, 0.95, 0.42, 0.16, 180, 360)], "dark")
    if variant:
        pen.body(oval(0, 0.12, 0.74, 0.98, 180, 360))
    else:
        pen.body([(-0.34, -0.95), (0.34, -0.95), (0.76, 0.15), (-0.76, 0.15)])
    pen.badge(0.0, -0.3)


def pillow(pen: Pen, variant: int) -> None:
    half = 0.52 if variant else 0.84
    pen.body(
        [
            (-0.96, -half - 0.08),
            (0, -half + 0.06),
            (0.96, -half - 0.08),
            (0.86, 0),
            (0.96, half + 0.08),
            (0, half - 0.06),
            (-0.96, half + 0.08),
            (-0.86, 0),
        ]
    )
    pen.badge(0.0, 0.0)


def rug(pen: Pen, variant: int) -> None:
    if variant:
        pen.part(oval(0, 0.1, 1.0, 0.62), "cream")
        pen.body(oval(0, 0.1, 0.92, 0.55))
    else:
        for i in range(12):
            for side in (-1, 1):
                pen.line([(side * 0.8, -0.52 + 0.1 * i), (side * 0.98, -0.52 + 0.1 * i)], "cream", 0.05)
        pen.body(box(-0.84, -0.56, 0.84, 0.62))
    pen.badge(0.0, 0.08)


def wall_clock(pen: Pen, variant: int) -> None:
    pen.part(box(-0.92, -0.92, 0.92, 0.92, 0.1) if variant else oval(0, 0, 0.95, 0.95), "dark")
    pen.body(box(-0.8, -0.8, 0.8, 0.8) if variant else oval(0, 0, 0.82, 0.82))
    pen.part(oval(0, 0, 0.5, 0.5), "cream")
    pen.line([(0, -0.4), (0, 0), (0.28, 0.16)], "dark", 0.08)
    pen.badge(-0.16, 0.18)


def book(pen: Pen, variant: int) -> None:
    pen.part([(-0.6, -0.85), (0.74, -0.85), (0.74, 0.98), (-0.6, 0.98)], "cream")
    if variant:
        pen.line([(0.45, 0.7), (0.45, 1.08)], "flame", 0.12)
    pen.body(box(-0.72, -0.95, 0.66, 0.88, 0.04))
    pen.part(box(-0.74, -0.95, -0.54, 0.88), "trim")
    pen.part(box(-0.36, -0.72, 0.5, -0.4), "cream")
    pen.line([(-0.24, -0.56), (0.38, -0.56)], "dark", 0.06)
    pen.badge(0.06, 0.2)


def guitar(pen: Pen, variant: int) -> None:
    pen.line([(0, -0.9), (0, 0.3)], "wood", 0.14)
    pen.part(box(-0.14, -1.05, 0.14, -0.78), "dark")
    if variant:
        horns = [(0.44, 0.35), (0.5, 0.0), (0.36, -0.12), (0.12, 0.1), (-0.12, 0.1), (-0.42, -0.3), (-0.56, -0.1)]
        pen.body([*horns, (-0.44, 0.35), *reversed(oval(0, 0.66, 0.6, 0.36, -10, 190))])
    else:
        pen.body(both(*oval(0, 0.1, 0.42, 0.32, -80, 40), *oval(0, 0.62, 0.6, 0.42, -40, 80)))
        pen.part(oval(0, 0.22, 0.17, 0.17), "dark")
    pen.line([(0, -0.8), (0, 0.7)], "metal", 0.05)
    pen.line([(-0.2, 0.72), (0.2, 0.72)], "dark", 0.1)
    pen.badge(0.34, 0.62)


def drum(pen: Pen, variant: int) -> None:
    top, half_width = (-0.75, 0.5) if variant else (-0.3, 0.84)
    pen.body([(-half_width, top), (half_width, top), *oval(0, 0.75, half_width, 0.18, 0, 180)])
    pen.part(oval(0, top, half_width, 0.2), "cream")
    for y in (top, 0.72):
        pen.line(oval(0, y, half_width, 0.19, 0, 180), "metal", 0.08)
    if not variant:
        pen.line([(-0.5, -0.35), (0.4, -0.9)], "wood", 0.08)
        pen.line([(0.5, -0.35), (-0.4, -0.9)], "wood", 0.08)
    pen.badge(0.0, 0.3)


def ball(pen: Pen, variant: int) -> None:
    if variant:
        pen.body([*oval(0, 0.72, 1.2, 1.35, 216, 324), *oval(0, -0.72, 1.2, 1.35, 36, 144)])
        pen.line([(-0.4, -0.38), (0.4, -0.38)], "cream", 0.06)
        for x in (-0.24, 0.0, 0.24):
            pen.line([(x, -0.48), (x, -0.28)], "cream", 0.06)
    else:
        pen.body(oval(0, 0, 0.86, 0.86))
        for start in (10, 130, 250):
            x, y = math.cos(math.radians(start)), math.sin(math.radians(start))
            pen.line(oval(0.95 * x, 0.95 * y, 0.55, 0.55, start + 120, start + 240), "cream", 0.07)
    pen.badge(0.0, 0.1)


def kite(pen: Pen, variant: int) -> None:
    pen.line([(0, 0.15), (0, 0.5), (0.14, 0.66), (-0.1, 0.8), (0.12, 1.0)], "dark", 0.05)
    top, right, bottom = ((0, -0.7), (1.0, 0.4), (0, 0.15)) if variant else ((0, -1.0), (0.68, -0.3), (0, 0.6))
    pen.body([top, right, bottom, (-right[0], right[1])])
    pen.line([top, bottom], "trim", 0.04)
    pen.badge(0.0, -0.2)


def tent(pen: Pen, variant: int) -> None:
    pen.body(oval(0, 0.7, 0.98, 1.2, 180, 360) if variant else [(0, -0.8), (1.0, 0.7), (-1.0, 0.7)])
    pen.part([(0.1, -0.15), (0.46, 0.7), (-0.26, 0.7)], "dark")
    pen.line([(-1.0, 0.72), (1.0, 0.72)], "trim", 0.08)
    pen.badge(-0.42, 0.32)


def skateboard(pen: Pen, variant: int) -> None:
    for y in (-0.62, 0.62):
        pen.line([(-0.46, y), (0.46, y)], "metal", 0.1)
        for x in (-0.46, 0.46):
            pen.part(box(x - 0.09, y - 0.14, x + 0.09, y + 0.14, 0.06), "dark")
    pen.body(
        [(0, -1.0), (0.3, -0.5), (0.36, 0.4), (0, 1.0), (-0.36, 0.4), (-0.3, -0.5)]
        if variant
        else [*oval(0, -0.66, 0.36, 0.32, 180, 360), *oval(0, 0.66, 0.36, 0.32, 0, 180)]
    )
    pen.badge(0.0, 0.0)


def toy_car(pen: Pen, variant: int) -> None:
    coupe = [(-0.5, -0.02), (-0.32, -0.45), (0.26, -0.45), (0.5, -0.02)]
    cabin = [(-0.9, -0.5), (0.4, -0.5), (0.62, 0.0)] if variant else coupe
    pen.body([(-0.95, 0.4), (-0.92, 0.0), *cabin, (0.9, 0.06), (0.96, 0.4)])
    pen.part([(0.02, -0.36), (0.22, -0.36), (0.4, -0.03), (0.02, -0.03)], "glass")
    for x in (-0.54, 0.54):
        pen.part(oval(x, 0.42, 0.24, 0.24), "dark")
        pen.part(oval(x, 0.42, 0.1, 0.1), "metal")
    pen.badge(-0.2, 0.14)


def gift_box(pen: Pen, variant: int) -> None:
    top = 0.1 if variant else -0.35
    for x in (-0.26, 0.26):
        pen.line(oval(x, top - 0.26, 0.24, 0.16), "trim", 0.1)
    pen.body(box(-0.74, top, 0.74, 0.85))
    pen.body(box(-0.84, top - 0.12, 0.84, top + 0.14))
    pen.line([(0, top - 0.12), (0, 0.85)], "trim", 0.16)
    pen.badge(0.42, top + 0.44)
