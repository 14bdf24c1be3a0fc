"""Scenes to images: the landscape, the body and the face, as layers from back to front."""

from __future__ import annotations

import torch
from torch import Tensor

from dragwidget.demo.domain import anatomy
from dragwidget.demo.domain.anatomy import Head, Spot, head_of
from dragwidget.demo.domain.animals import rgb
from dragwidget.demo.domain.drawing import (
    EDGE,
    Layer,
    Shape,
    constant,
    ellipse,
    frame,
    lift,
    outline_hardness,
    paint,
    quadratic,
    upright,
)
from dragwidget.demo.domain.landscape import landscape, light_of
from dragwidget.demo.domain.parameters import Scenes

BLUSH, MOUTH, TONGUE = rgb("#ff7f7a"), rgb("#7d2f3c"), rgb("#f2818a")
INK, WHITE, SHADE = rgb("#33283a"), rgb("#fffdf8"), rgb("#4a2f4f")
SCARF = (rgb("#dd4b4b"), rgb("#f3b63f"), rgb("#2f9d97"))


def render(scenes: Scenes, size: int = 128) -> Tensor:
    """Draw scenes: (B, 3, size, size), float32 in [0, 1].

    Differentiable in every continuous parameter; the same scene at every size.
    """
    head = head_of(scenes)
    painter = Painter(head, size)
    sky, layers = landscape(scenes, size)
    layers = [*layers, *painter.body(), *painter.ears(front=False), *painter.face()]
    layers += [*painter.ears(front=True), *painter.eyes(), *painter.mouth()]
    return paint(sky, layers, size)


class Painter:
    """The layers of the animals of a batch, lit by the time of day."""

    def __init__(self, head: Head, size: int) -> None:
        self.head, self.size, self.kind = head, size, head.looks
        self.scenes = head.scenes
        self.light = light_of(self.scenes)  # (B, 3)
        tint = self.scenes.fur[:, None]
        self.fur = self.kind["fur"] * (1 - tint) + self.kind["fur_to"] * tint

    def lit(self, colour: Tensor | tuple[float, float, float], share: float = 1.0) -> Tensor:
        """(B, 3): a colour in the light of the scene; eyes take only a `share` of the dark."""
        colour = colour if isinstance(colour, Tensor) else self.light.new_tensor(colour)
        return colour * (1 - share + share * self.light)

    def oval(
        self, rows: list[tuple[float | Tensor, ...]], lean: float = 0.0, soft: float = 0.0
    ) -> tuple[Tensor, ...]:
        """Ellipses beside the head's middle, (x, y, rx, ry) in head units: one shape a row."""
        s = self.scenes.size
        columns = [
            torch.stack([(v * s) if isinstance(v, Tensor) else s * v for v in c], 1)
            for c in zip(*rows, strict=True)
        ]
        x, y, rx, ry = columns
        centre, u, v = upright(x + self.scenes.x[:, None], y + self.scenes.y[:, None], rx, ry)
        if lean:
            turn = u.new_tensor([[1.0, lean], [-lean, 1.0]]) / (1 + lean * lean) ** 0.5
            u, v = u @ turn, v @ turn
        return ellipse(centre, u, v, self.size, soft).unbind(1)

    def body(self) -> list[Layer]:
        kind, fur = self.kind, self.lit(self.fur)
        dark, light = self.lit(kind["dark"]), self.lit(kind["light"])
        limb = fur + (dark - fur) * kind["paws"][:, None]
        edge = limb * 0.90  # arms stand out a little from the body
        tail_w, tail_h = kind["tail_width"], kind["tail_height"]
        (ground,) = self.oval([(0.0, 2.30, 1.25, 0.22)], soft=0.9)
        (tail,) = self.oval([(0.55 + 0.5 * tail_h, 1.95 - 0.55 * tail_h, tail_w, tail_h)], 0.55)
        (tip,) = self.oval(
            [(0.70 + 0.85 * tail_h, 1.80 - 0.95 * tail_h, tail_w, tail_h * 0.4)], 0.55
        )
        torso, belly, arm_l, arm_r, foot_l, foot_r = self.oval(
            [
                (0.0, 1.50, 0.74, 0.86),
                (0.0, 1.62, 0.46, 0.58),
                (-0.36, 1.72, 0.19, 0.52),
                (0.36, 1.72, 0.19, 0.52),
                (-0.46, 2.22, 0.34, 0.17),
                (0.46, 2.22, 0.34, 0.17),
            ]
        )
        side, under = self.oval([(0.75, 1.9, 0.8, 1.0), (0.05, 0.95, 0.9, 0.5)], soft=0.9)
        scarf, knot, end = self.oval(
            [(0.0, 0.90, 0.66, 0.24), (0.30, 1.05, 0.15, 0.14), (0.38, 1.30, 0.13, 0.27)]
        )
        (below,) = self.oval([(0.0, 0.80, 0.72, 0.30)], soft=0.9)
        colour = self.lit(self._scarf())
        shade = self.lit(SHADE)
        return [
            Layer(shade, (ground,), 0.40),
            Layer(fur * 0.94, (tail,)),
            Layer(light, (tail, tip), kind["tail_tip"]),
            Layer(limb, (foot_l,)),
            Layer(limb, (foot_r,)),
            Layer(fur, (torso,)),
            Layer(light, (belly,), 0.9 * kind["belly"]),
            Layer(shade, (torso, side), 0.22),
            Layer(edge, (arm_l,)),
            Layer(edge, (arm_r,)),
            Layer(shade, (torso, under), 0.30),
            Layer(colour * 0.88, (end,)),
            Layer(colour, (scarf,)),
            Layer(shade, (scarf, below), 0.28),
            Layer(colour * 0.94, (knot,)),
        ]

    def _scarf(self) -> Tensor:
        red, yellow, teal = self.light.new_tensor(SCARF)
        first = (self.scenes.scarf * 2).clamp(0, 1)[:, None]
        second = (self.scenes.scarf * 2 - 1).clamp(0, 1)[:, None]
        warm = red + (yellow - red) * first
        colour: Tensor = warm + (teal - warm) * second
        return colour

    def ears(self, front: bool) -> list[Layer]:
        kind = self.kind
        base, tip, across = self.head.ears()
        e, f = frame(base, tip - base, across)  # along and across, (B, 2, 3)
        widest, point = kind["ear_widest"][:, None], 0.8 * kind["ear_point"][:, None]
        width = across.norm(dim=-1)  # (B, 2)

        def leaf(start: float, end: float, narrow: float) -> list[tuple[Shape, ...]]:
            """Two discs that meet in the tip: an ellipse where `point` is 0."""
            e_in = (e - e.new_tensor([0, 0, start])) / (end - start)
            f_in = f / narrow
            long = (1 - widest) / (1 - point * point).sqrt()
            wide, shift = 1 / (1 - point), point / (1 - point)
            hard = outline_hardness(wide * width * narrow, self.size)[..., None]
            e_in = (e_in - _last(widest)) / long[..., None]
            sides = [
                hard * (constant(torch.ones_like(width)) - quadratic(e_in, e_in) - quadratic(g, g))
                for g in (
                    (f_in - _last(shift)) / wide[..., None],
                    (f_in + _last(shift)) / wide[..., None],
                )
            ]
            left, right = (side.unbind(1) for side in sides)
            return list(zip(left, right, strict=True))

        tips = (lift(e) - constant(torch.full_like(width, 0.66))) * 6.0
        fur, dark = self.lit(self.fur), self.lit(kind["dark"])
        outer = fur + (dark - fur) * kind["ear_dark"][:, None]
        if front:
            # The far ear of a turned head hangs behind it.
            side = torch.sin(self.scenes.yaw)[:, None] * width.new_tensor([-1.0, 1.0])
            before = kind["ear_front"][:, None] * torch.sigmoid(24 * (0.36 - side))
            pair = zip(leaf(0, 1, 1), before.unbind(1), strict=True)
            return [Layer(outer, shape, opacity) for shape, opacity in pair]
        inner = self.lit(kind["inner_ear"])
        layers = []
        for out, inside, end in zip(
            leaf(0, 1, 1), leaf(0.10, 0.80, 0.58), tips.unbind(1), strict=True
        ):
            layers += [Layer(outer * 0.96, out), Layer(dark, (*out, end), kind["ear_tip"])]
            layers.append(Layer(inner, inside))
        return layers

    def face(self) -> list[Layer]:
        kind, head = self.kind, self.head
        fur, light, dark = self.lit(self.fur), self.lit(kind["light"]), self.lit(kind["dark"])
        wide, high = kind["muzzle_width"], kind["muzzle_height"]
        out = 1 + 0.6 * (kind["muzzle_out"] - 1)
        spots = head.spots(
            [
                (-0.50, 0.42, 1.0, 0.52, 0.46),
                (0.50, 0.42, 1.0, 0.52, 0.46),
                (-0.47, -0.02, 1.0, 0.34, 0.42),
                (0.47, -0.02, 1.0, 0.34, 0.42),
                (0.0, -0.50, 1.0, 0.14, 0.60),
                (0.0, -0.85, 1.0, 0.085, 0.34),
                (-0.36, -0.80, 1.0, 0.075, 0.26),
                (0.36, -0.80, 1.0, 0.075, 0.26),
                (0.0, 0.34, out, wide, high),
            ]
        )
        cheek_l, cheek_r, patch_l, patch_r, blaze, stripe, stripe_l, stripe_r, muzzle = self.spots(
            spots
        )
        tall = kind["head_height"]
        top, jowl = self.oval(
            [(0.0, 0.0, torch.ones_like(tall), tall), (0.0, 0.28, kind["cheek_width"], tall * 0.66)]
        )
        (glow,) = self.oval([(-0.30, -0.50, 0.70, 0.55)], soft=0.9)
        (dusk,) = self.oval([(0.55, 0.75, 0.85, 0.70)], soft=0.9)
        blush = head.spots([(-0.78, 0.34, 1.0, 0.26, 0.18), (0.78, 0.34, 1.0, 0.26, 0.18)])
        blush_l, blush_r = self.spots(blush, soft=0.85)
        fade = 0.75 * (blush.facing * 2.5).clamp(0, 1)
        shade = self.lit(SHADE)
        return [
            Layer(fur, (jowl,)),
            Layer(fur, (top,)),
            Layer(light, (cheek_l, jowl), kind["cheeks"]),
            Layer(light, (cheek_r, jowl), kind["cheeks"]),
            Layer(light, (blaze, top), kind["blaze"]),
            Layer(dark, (stripe, top), kind["stripes"]),
            Layer(dark, (stripe_l, top), kind["stripes"]),
            Layer(dark, (stripe_r, top), kind["stripes"]),
            Layer(dark, (patch_l, top), kind["patch_left"]),
            Layer(dark, (patch_r, top), kind["patch_right"]),
            Layer(self.lit(WHITE), (glow, top), 0.22),
            Layer(shade, (dusk, jowl), 0.20),
            *self.jaw(),
            Layer(light, (muzzle,)),
            Layer(self.lit(BLUSH), (blush_l, jowl), fade[:, 0]),
            Layer(self.lit(BLUSH), (blush_r, jowl), fade[:, 1]),
        ]

    def spots(self, spots: Spot, soft: float = 0.0) -> tuple[Tensor, ...]:
        """Return the ellipses of spots on the head, one shape each."""
        return ellipse(spots.centre, spots.axis_u, spots.axis_v, self.size, soft).unbind(1)

    def eyes(self) -> list[Layer]:
        eyes = self.head.eyes()
        u, v = frame(eyes.centre, eyes.axis_u, eyes.axis_v)  # (B, 2, 3)
        pixels = eyes.axis_v.norm(dim=-1) * self.size  # of the unit of v
        across = eyes.axis_u.norm(dim=-1) * self.size
        one = torch.ones_like(pixels)

        def disc(x: float, y: float, rx: float, ry: float) -> Tensor:
            a, b = (u - u.new_tensor([0, 0, x])) / rx, (v - v.new_tensor([0, 0, y])) / ry
            hard = (pixels * across * rx * ry).sqrt() / (2 * EDGE)
            inside: Tensor = hard[..., None] * (constant(one) - quadratic(a, a) - quadratic(b, b))
            return inside

        # The lid is a parabola: it follows the upper outline when open, the lower when closed.
        lid = self.head.lid()[:, None] * one
        shut = 1 - self.scenes.eyes[:, None] * one
        # A sleepy lid is still arched and droops outwards: a flat one looks cross.
        bow, droop = 0.5 - shut**3, shut * (1 - shut) * one.new_tensor([-1.0, 1.0])
        below = lift(v - droop[..., None] * u) - constant(lid)
        below = below - bow[..., None] * quadratic(u, u)
        hard = (pixels / EDGE)[..., None]
        shapes = [
            hard * (below + constant(one * 0.17)),
            hard * below,
            disc(0, 0, 1.15, 1.12),
            disc(0, 0, 1, 1),
            disc(0, 0.06, 0.86, 0.86),
            disc(0, 0.06, 0.58, 0.60),
            disc(-0.30, -0.34, 0.30, 0.27),
            disc(0.30, 0.42, 0.17, 0.15),
        ]
        iris = self.lit(self.kind["iris"], 0.5)
        ink, white = self.lit(INK, 0.5), self.lit(WHITE, 0.5)
        layers = []
        for side in range(2):
            rim, open_, outer, ball, ring, pupil, gleam, glint = (s[:, side] for s in shapes)
            layers += [
                Layer(ink, (outer, rim)),
                Layer(white, (ball, open_)),
                Layer(iris, (ring, open_, ball)),
                Layer(ink, (pupil, open_)),
                Layer(self.lit(WHITE, 0.2), (gleam, open_)),
                Layer(self.lit(WHITE, 0.2), (glint, open_), 0.7),
            ]
        return layers

    def jaw(self) -> list[Layer]:
        """Return the chin, which goes down with the lower lip."""
        u, v = self._mouth_frame()
        opening = self.scenes.mouth
        middle, high, wide = 0.12 + 0.62 * opening, 0.80 + 0.66 * opening, 1.05
        a, b = u / wide, (v - _last(middle)) / high[:, None]
        hard = outline_hardness(0.9 * anatomy.MOUTH_WIDTH * self.scenes.size, self.size)
        chin = hard[:, None] * (
            constant(torch.ones_like(opening)) - quadratic(a, a) - quadratic(b, b)
        )
        return [Layer(self.lit(self.kind["light"]) * 0.95, (chin,))]

    def mouth(self) -> list[Layer]:
        u, v = self._mouth_frame()
        opening, one = self.scenes.mouth, torch.ones_like(self.scenes.mouth)
        pixels = (anatomy.MOUTH_HEIGHT * self.size / EDGE) * self.scenes.size[:, None]
        square = quadratic(u, u)
        above = lift(v) + 0.40 * square  # depth below the smile of the closed mouth
        gape = anatomy.MOUTH_OPENING * opening
        upper = pixels * (above + constant(one * anatomy.LIP))
        lower = pixels * (constant(one * anatomy.LIP + gape) - gape[:, None] * square - above)
        corners = 0.5 * pixels * (constant(one) - square)
        a, b = u / 0.62, (v - _last(gape * 1.02)) / 0.52
        tongue = 0.25 * pixels * (constant(one) - quadratic(a, a) - quadratic(b, b))
        (nose,) = self.spots(self.head.nose())
        spot = self.head.nose()
        shine = Spot(spot.at(-0.25, -0.30), spot.axis_u * 0.36, spot.axis_v * 0.34, spot.facing)
        (gleam,) = self.spots(shine)
        ink = self.lit(INK)
        return [
            Layer(self.lit(MOUTH), (upper, lower, corners)),
            Layer(self.lit(TONGUE), (tongue, upper, lower, corners)),
            Layer(ink, (nose,)),
            Layer(self.lit(WHITE), (gleam,), 0.55),
        ]

    def _mouth_frame(self) -> tuple[Tensor, Tensor]:
        mouth = self.head.mouth()
        u, v = frame(mouth.centre, mouth.axis_u, mouth.axis_v)
        return u[:, 0], v[:, 0]


def _last(value: Tensor) -> Tensor:
    """Return a number (...) as the constant of a linear form (..., 3)."""
    padded: Tensor = torch.nn.functional.pad(value[..., None], (2, 0))
    return padded
