"""How the demo's clothes, shoes, bags and accessories are drawn, each in either of its two builds."""

from gcl.data.sources.demo_drawing import Pen, both, box, oval


def t_shirt(pen: Pen, variant: int) -> None:
    sleeve = [(0.8, -0.5), (1.0, 0.55), (0.74, 0.62)] if variant else [(0.98, -0.32), (0.74, -0.02)]
    pen.body(both((0.2, -0.85), (0.46, -0.78), *sleeve, (0.54, -0.26), (0.56, 0.88)))
    pen.part(oval(0, -0.85, 0.2, 0.16, 0, 180), "trim")
    pen.badge(0.24, -0.38)


def dress(pen: Pen, variant: int) -> None:
    hem = [(0.8, 0.98)] if variant else [(0.66, 0.42)]
    pen.body(both((0.2, -0.66), (0.24, -0.98), (0.34, -0.98), (0.4, -0.55), (0.27, -0.18), *hem))
    pen.part(box(-0.28, -0.24, 0.28, -0.13), "trim")
    pen.badge(0.0, -0.42)


def pants(pen: Pen, variant: int) -> None:
    bottom = 0.1 if variant else 0.98
    pen.body(both((0.44, -0.9), (0.6, bottom), (0.14, bottom), (0.02, -0.3)))
    pen.part(box(-0.45, -0.96, 0.45, -0.82), "trim")
    pen.badge(0.28, -0.55)


def sock(pen: Pen, variant: int) -> None:
    top = -0.25 if variant else -0.95
    foot = oval(0.45, 0.62, 0.4, 0.3, -90, 90)
    pen.body([(-0.6, top), (0.02, top), (0.02, 0.25), *foot, (-0.3, 0.92), (-0.6, 0.6)])
    pen.part(box(-0.64, top - 0.03, 0.06, top + 0.13), "trim")
    pen.badge(-0.28, 0.3)


def mitten(pen: Pen, variant: int) -> None:
    cuff = 0.98 if variant else 0.75
    thumb = [(0.38, -0.1), *oval(0.64, -0.1, 0.16, 0.18, 200, 400), (0.38, 0.4)]
    pen.body([*oval(-0.08, -0.4, 0.46, 0.55, 180, 360), *thumb, (-0.5, 0.4)])
    pen.part(box(-0.58, 0.4, 0.46, cuff, 0.06), "trim")
    pen.badge(-0.06, -0.15)


def beanie(pen: Pen, variant: int) -> None:
    pen.body([*oval(0, 0.1, 0.72, 0.78, 180, 360), (0.72, 0.5), (-0.72, 0.5)])
    pen.part(box(-0.78, 0.42, 0.78, 0.78, 0.1), "trim")
    if variant:
        pen.part(oval(0, -0.74, 0.24, 0.22), "cream")
    pen.badge(0.0, 0.08)


def sun_hat(pen: Pen, variant: int) -> None:
    brim = 0.66 if variant else 1.0
    pen.body(oval(0, 0.42, brim, 0.22))
    pen.body([*oval(0, -0.1, 0.52, 0.56, 180, 360), (0.54, 0.42), (-0.54, 0.42)])
    pen.part([(-0.53, 0.18), (0.53, 0.18), (0.54, 0.38), (-0.54, 0.38)], "trim")
    pen.badge(0.26, -0.18)


def boot(pen: Pen, variant: int) -> None:
    top = -0.98 if variant else -0.35
    pen.body([(-0.55, top), (0.08, top), (0.1, 0.25), *oval(0.5, 0.58, 0.4, 0.3, -90, 0), (0.9, 0.75), (-0.6, 0.75)])
    pen.part([(-0.62, 0.72), (0.94, 0.72), (0.94, 0.86), (-0.1, 0.86), (-0.14, 0.98), (-0.62, 0.98)], "dark")
    pen.badge(-0.24, 0.2)


def sneaker(pen: Pen, variant: int) -> None:
    top = -0.55 if variant else -0.15
    pen.body([(-0.9, top), (-0.2, top), (0.1, 0.05), (0.6, 0.2), *oval(0.66, 0.45, 0.3, 0.24, -80, 40), (-0.92, 0.6)])
    pen.part(box(-0.98, 0.52, 1.0, 0.74, 0.1), "cream")
    for i in range(3):
        pen.line([(-0.22 + 0.17 * i, 0.06 + 0.05 * i), (0.0 + 0.17 * i, -0.1 + 0.11 * i)], "cream", 0.07)
    pen.badge(-0.55, 0.25)


def backpack(pen: Pen, variant: int) -> None:
    pen.line(oval(0, -0.78, 0.18, 0.18, 180, 360), "dark", 0.08)
    pen.line(oval(-0.6, 0.2, 0.2, 0.55, 90, 270), "dark", 0.1)
    pen.line(oval(0.6, 0.2, 0.2, 0.55, -90, 90), "dark", 0.1)
    pen.body([*oval(0, -0.25, 0.62, 0.58, 180, 360), *box(-0.66, 0.2, 0.66, 0.95, 0.15)[:20]])
    for left, right in ((-0.5, -0.05), (0.05, 0.5)) if variant else ((-0.5, 0.5),):
        pen.part(box(left, 0.3, right, 0.82, 0.08), "trim")
    pen.badge(0.0, -0.2)


def tote(pen: Pen, variant: int) -> None:
    reach = 0.72 if variant else 0.4
    pen.line(oval(0, -0.22, 0.34, reach, 180, 360), "wood", 0.09)
    pen.body([(-0.62, -0.25), (0.62, -0.25), (0.76, 0.9), (-0.76, 0.9)])
    pen.badge(0.0, 0.25)


def suitcase(pen: Pen, variant: int) -> None:
    half_width, top = (0.88, -0.3) if variant else (0.52, -0.6)
    pen.line([(-0.22, top), (-0.22, top - 0.32), (0.22, top - 0.32), (0.22, top)], "dark", 0.08)
    for x in (-half_width + 0.16, half_width - 0.16):
        pen.part(oval(x, 0.9, 0.1, 0.1), "dark")
    pen.body(box(-half_width, top, half_width, 0.84, 0.14))
    for x in (-0.55 * half_width, 0.55 * half_width):
        pen.line([(x, top + 0.05), (x, 0.79)], "trim", 0.05)
    pen.badge(0.0, (top + 0.84) / 2)


def watch(pen: Pen, variant: int) -> None:
    pen.body(both((0.26, -1.0), (0.34, -0.2), (0.34, 0.2), (0.26, 1.0)))
    pen.part(box(0.4, -0.07, 0.56, 0.07), "metal")
    pen.part(box(-0.46, -0.46, 0.46, 0.46, 0.08) if variant else oval(0, 0, 0.5, 0.5), "metal")
    pen.part(box(-0.36, -0.36, 0.36, 0.36, 0.05) if variant else oval(0, 0, 0.4, 0.4), "dark")
    pen.line([(0, -0.3), (0, 0), (0.2, -0.1)], "cream", 0.06)
    pen.badge(0.0, 0.72)


def umbrella(pen: Pen, variant: int) -> None:
    hook = [] if variant else oval(-0.16, 0.82, 0.16, 0.15, 0, 180)
    pen.line([(0, -0.9), (0, 0.96 if variant else 0.82), *hook], "wood", 0.08)
    scallops = [point for x in (0.72, 0.24, -0.24, -0.72) for point in oval(x, 0.06, 0.24, 0.12, 180, 360)[::-1]]
    pen.body([*oval(0, 0.06, 0.96, 0.86, 180, 360), *scallops])
    pen.badge(0.0, -0.4)


def headphones(pen: Pen, variant: int) -> None:
    pen.line(oval(0, 0.05, 0.66, 0.92, 180, 360), "trim" if variant else "dark", 0.14)
    for x in (-0.6, 0.6):
        pen.part(oval(0.66 * x, 0.32, 0.24, 0.46), "dark")
        pen.body(oval(x, 0.32, 0.38, 0.58))
    pen.badge(0.6, 0.32)


def phone_case(pen: Pen, variant: int) -> None:
    pen.body(box(-0.5, -0.98, 0.5, 0.98, 0.14))
    lens = box(-0.42, -0.88, 0.02, -0.44, 0.1) if variant else box(-0.4, -0.88, -0.16, -0.3, 0.1)
    pen.part(lens, "dark")
    for x, y in ((-0.29, -0.74), (-0.11, -0.58)) if variant else ((-0.28, -0.74), (-0.28, -0.45)):
        pen.part(oval(x, y, 0.075, 0.075), "metal")
    pen.badge(0.0, 0.35)
