"""The icon of the page: drawn, so that every size is sharp and no picture has to be kept beside the code."""

from __future__ import annotations

import io
from functools import lru_cache

from PIL import Image, ImageDraw

GREEN, WHITE = (15, 123, 92), (255, 255, 255)
OVERSAMPLING = 4
BARS = (0.26, 0.46, 0.7, 0.46, 0.26)
"""Heights of the bars of a level meter, in shares of the icon's width."""


@lru_cache(maxsize=8)
def icon_png(size: int) -> bytes:
    """The icon as PNG, `size` × `size` pixels: five white bars on green, which fills the square to its edges.

    A phone cuts its own shape out of it, so nothing that matters lies in the outer tenth.
    """
    width = size * OVERSAMPLING
    image = Image.new("RGB", (width, width), GREEN)
    draw = ImageDraw.Draw(image)
    thickness, gap = 0.085 * width, 0.055 * width
    left = (width - len(BARS) * thickness - (len(BARS) - 1) * gap) / 2
    for number, height in enumerate(BARS):
        x, half = left + number * (thickness + gap), height * width / 2
        box = (round(x), round(width / 2 - half), round(x + thickness), round(width / 2 + half))
        draw.rounded_rectangle(box, radius=round(thickness / 2), fill=WHITE)
    output = io.BytesIO()
    image.resize((size, size), Image.Resampling.LANCZOS).save(output, "PNG", optimize=True)
    return output.getvalue()
