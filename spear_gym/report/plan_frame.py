"""A plan in the making as an RGB frame: what `env.render()` returns for videos.

Drawn by Pillow, for a frame must cost less than a step; :func:`plan_view.plan_figure` is the same
in print quality.
"""

from __future__ import annotations

from functools import cache, lru_cache
from math import ceil

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from spear_gym.report.plan_view import (
    KEPT,
    OPEN,
    RATE,
    REMOVED,
    SPENT,
    TARGET,
    UNDECIDED,
    LayerView,
    PlanView,
)

WIDTH = 800
TOP, ROW, BUDGET = 62, 34, 104
"""Heights in pixels: headline and titles, one group, the SynOps below; all even, for videos."""

NAMES, CHANNELS, RATES, RIGHT = 12, 170, 580, 788
"""Left edges of the three columns, and the right edge."""

COUNT = 96
"""Pixels kept free behind a bar for its number."""

BLACK, GREY = "#202020", "#707070"


def draw_plan(view: PlanView) -> NDArray[np.uint8]:
    """The plan as an RGB picture, uint8 ``(TOP + ROW * groups + BUDGET, WIDTH, 3)``."""
    height = TOP + ROW * len(view.layers) + BUDGET
    image = Image.new("RGB", (WIDTH, height), "white")
    draw = ImageDraw.Draw(image)
    _text(draw, NAMES, 18, view.headline, RIGHT - NAMES, size=15)
    _text(draw, CHANNELS, 46, "channels kept (dark) and removed (grey)", 400, color=GREY)
    _text(draw, RATES, 46, "measured rate of the input", RIGHT - RATES, color=GREY)
    widest = max(layer.channels for layer in view.layers)
    for row, layer in enumerate(view.layers):
        _draw_group(draw, TOP + ROW * row, layer, widest)
    _draw_budget(draw, TOP + ROW * len(view.layers), view)
    return np.asarray(image).copy()


def _draw_group(draw: ImageDraw.ImageDraw, top: int, layer: LayerView, widest: int) -> None:
    middle = top + ROW // 2
    scale = (RATES - CHANNELS - COUNT) / widest
    kept = layer.channels if layer.kept is None else layer.kept
    end = CHANNELS + layer.channels * scale
    _text(draw, NAMES, middle, layer.name, CHANNELS - NAMES - 10)
    _bar(draw, CHANNELS, end, top, REMOVED)
    _bar(draw, CHANNELS, CHANNELS + kept * scale, top, UNDECIDED if layer.kept is None else KEPT)
    words = "undecided" if layer.kept is None else f"{layer.kept} of {layer.channels}"
    _text(draw, end + 8, middle, words, COUNT)
    if layer.input_rate is not None:
        end = RATES + layer.input_rate * (RIGHT - RATES - 40)
        _bar(draw, RATES, end, top, RATE)
        _text(draw, end + 6, middle, f"{layer.input_rate:.2f}", 40)


def _draw_budget(draw: ImageDraw.ImageDraw, top: int, view: PlanView) -> None:
    scale = (RIGHT - NAMES) / max(1.05, view.committed + view.still_open)
    settled = NAMES + view.committed * scale
    at_target = NAMES + view.target * scale
    _text(draw, NAMES, top + 14, "SynOps, fraction of the unpruned network", 400, color=GREY)
    _bar(draw, NAMES, settled, top + 24, SPENT)
    _bar(draw, settled, settled + view.still_open * scale, top + 24, OPEN)
    draw.line([at_target, top + 22, at_target, top + 56], fill=TARGET, width=3)
    if view.predicted is not None:
        x, y = NAMES + view.predicted * scale, top + 39
        draw.polygon([(x - 6, y), (x, y - 6), (x + 6, y), (x, y + 6)], fill=BLACK)
    legend = (
        (SPENT, f"settled {view.committed:.3f}"),
        (OPEN, f"open, unpruned {view.still_open:.3f}"),
        (TARGET, f"target {view.target:.3f}"),
        (BLACK, "" if view.predicted is None else f"predicted {view.predicted:.3f}"),
    )
    for index, (color, words) in enumerate(legend):
        if words:
            left = NAMES + 190 * index
            draw.rectangle([left, top + 74, left + 10, top + 84], fill=color)
            _text(draw, left + 16, top + 79, words, 170)


def _bar(draw: ImageDraw.ImageDraw, left: float, right: float, top: int, color: str) -> None:
    if right - left >= 1:
        draw.rectangle([left, top + 6, right, top + ROW - 6], fill=color)


def _text(
    draw: ImageDraw.ImageDraw,
    left: float,
    middle: float,
    words: str,
    room: float,
    *,
    size: int = 12,
    color: str = BLACK,
) -> None:
    """One line, cut where its room ends."""
    stamp, above = _stamp(words, size, room)
    draw.bitmap((round(left), round(middle) + above), stamp, fill=color)


@lru_cache(maxsize=1024)
def _stamp(words: str, size: int, room: float) -> tuple[Image.Image, int]:
    """A line as a mask, and where its top is over its middle: most of them show again and again."""
    font = _font(size)
    if font.getlength(words) > room:
        while words and font.getlength(words + "...") > room:
            words = words[:-1]
        words += "..."
    _, top, right, bottom = font.getbbox(words, anchor="lm")
    mask = Image.new("L", (max(1, ceil(right)), max(1, ceil(bottom - top))))
    ImageDraw.Draw(mask).text((0, -top), words, fill=255, font=font, anchor="lm")
    return mask, round(top)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
