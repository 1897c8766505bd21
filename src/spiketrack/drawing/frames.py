"""Frames: a time window and its boxes as an RGB picture, and several of them on one sheet.

ON events are orange, OFF events blue: two colours that differ in hue and in lightness, also for colour-blind eyes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import NO_TRACK, Boxes
from spiketrack.errors import SettingsError
from spiketrack.events import Window
from spiketrack.representations import stacked_histogram

if TYPE_CHECKING:
    from PIL import ImageFont

Frame = NDArray[np.uint8]
Colour = tuple[int, int, int]
_Rectangle = tuple[int, int, int, int]

BACKGROUND: Colour = (13, 16, 22)
# colours of 1, 2, 3-4, 5-8 and more events of a pixel
ON_COLOURS: tuple[Colour, ...] = (
    (232, 126, 28),
    (252, 152, 44),
    (255, 180, 82),
    (255, 208, 132),
    (255, 234, 196),
)
OFF_COLOURS: tuple[Colour, ...] = (
    (48, 112, 228),
    (70, 138, 255),
    (104, 164, 255),
    (146, 192, 255),
    (196, 222, 255),
)
BOX_COLOURS: tuple[Colour, ...] = (
    (76, 230, 190),
    (255, 96, 144),
    (255, 230, 84),
    (184, 140, 255),
    (136, 232, 74),
    (255, 138, 240),
    (84, 216, 255),
    (255, 122, 98),
    (240, 240, 240),
    (196, 204, 112),
)
VIEW_SIDE = 640  # pixels; smaller sensors are enlarged until their longer side reaches it
_INK, _PALE, _GAP = (12, 14, 18), (214, 219, 228), (92, 99, 112)
INSTALL = 'pip install "spiketrack[video]"'


def box_colour(track_id: int) -> Colour:
    """The colour of a track, the same in every picture."""
    return BOX_COLOURS[track_id % len(BOX_COLOURS)]


def default_scale(width: int, height: int) -> int:
    """The least enlargement of a sensor by which its longer side reaches VIEW_SIDE."""
    return max(1, -(-VIEW_SIDE // max(width, height)))


def draw_frame(
    window: Window, boxes: Boxes, class_names: Sequence[str], *, scale: int | None = None, note: str = ""
) -> Frame:
    """The events of a window, boxes over them, and the time at which it ends.

    Returns (H * scale, W * scale, 3) uint8, every sensor pixel a block of scale x scale; scale: `default_scale` of
    the sensor where None. A pixel has the colour of the polarity that it fired more often (ON where even). Boxes are
    coloured and captioned by track, without identity by class. note: stands behind the time. Raises SettingsError for
    a scale below 1, or where Pillow is missing.
    """
    scale = default_scale(window.width, window.height) if scale is None else scale
    if scale < 1:
        raise SettingsError(f"draw_frame: scale must be at least 1, got {scale}")
    font = int(np.clip(round(min(window.width, window.height) * scale / 42), 13, 40))
    return _draw(window, boxes, class_names, _Style((window.height, window.width), scale, font, note, True))


def draw_thumbnail(window: Window, boxes: Boxes, class_names: Sequence[str], side: int = 480) -> Frame:
    """As `draw_frame` without scores, about `side` pixels long, with text that can be read when shrunk further.

    A sensor with a longer side is counted at reduced resolution, a smaller one is enlarged by an integer.
    """
    longer = max(window.width, window.height)
    scale, shrink = max(1, round(side / longer)), min(1.0, side / longer)
    size = (max(1, round(window.height * shrink)), max(1, round(window.width * shrink)))
    font = int(np.clip(round(max(size) * scale / 34), 11, 40))
    return _draw(window, boxes, class_names, _Style(size, scale, font, "", False))


def contact_sheet(frames: Sequence[Frame], columns: int = 3, gap: int = 6) -> Frame:
    """Frames tiled row by row into one image, `gap` pixels apart; every tile is as large as the largest frame.

    Raises SettingsError where there is no frame or no column.
    """
    if not frames or columns < 1:
        raise SettingsError(f"contact_sheet: expected frames and columns, got {len(frames)} and {columns}")
    columns = min(columns, len(frames))
    rows = -(-len(frames) // columns)
    height, width = max(len(frame) for frame in frames), max(frame.shape[1] for frame in frames)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), _GAP, np.uint8)
    for i in range(rows * columns):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        tile = sheet[top : top + height, left : left + width]
        tile[:] = BACKGROUND
        if i < len(frames):
            tile[: len(frames[i]), : frames[i].shape[1]] = frames[i]
    return sheet


class _Style(NamedTuple):
    """How to draw: events counted on a grid of size (H, W), enlarged scale times, text of `font` pixels."""

    size: tuple[int, int]
    scale: int
    font: int
    note: str
    scores: bool


def _draw(window: Window, boxes: Boxes, class_names: Sequence[str], style: _Style) -> Frame:
    frame = _events(window, style.size)
    if style.scale > 1:
        frame = frame.repeat(style.scale, axis=0).repeat(style.scale, axis=1)
    height, width = frame.shape[:2]
    factor = np.array([width / window.width, height / window.height] * 2)
    xyxy = np.rint(boxes.xyxy * factor)
    seen = (xyxy[:, 0] < width) & (xyxy[:, 1] < height) & (xyxy[:, 2] > 0) & (xyxy[:, 3] > 0)
    shown = boxes[seen]
    places = np.clip(xyxy[seen], 0, [width, height] * 2).astype(np.int64).tolist()
    colours = [box_colour(int(i)) for i in np.where(shown.track_id == NO_TRACK, shown.class_id, shown.track_id)]
    for place, colour in zip(places, colours, strict=True):
        _draw_outline(frame, place, colour)
    taken = _draw_corners(frame, window, style.font, style.note)
    for caption, place, colour in zip(_captions(shown, class_names, style.scores), places, colours, strict=True):
        tile = _text(caption, style.font, _INK, colour)
        left, top = _free_place(place, tile.shape, frame.shape, taken)
        taken.append(_paste(frame, tile, left, top))
    return frame


def _events(window: Window, size: tuple[int, int]) -> Frame:
    counts = stacked_histogram(window, window.start_us, window.end_us, 1, size=size)[0]  # (2, H, W): OFF, ON
    frame = blank(*size)
    off, on = counts.reshape(2, -1)
    touched = np.flatnonzero(off | on)
    frame.reshape(-1, 3)[touched] = _palette()[off[touched], on[touched]]
    return frame


@lru_cache(maxsize=1)
def _palette() -> NDArray[np.uint8]:
    """(256, 256, 3): the colour of a pixel by its OFF and ON count."""
    count = np.arange(256)
    level = np.minimum(np.ceil(np.log2(np.maximum(count, 1))).astype(int), len(ON_COLOURS) - 1)
    on, off = np.array(ON_COLOURS, np.uint8)[level], np.array(OFF_COLOURS, np.uint8)[level]
    return np.where((count[:, None] > count)[:, :, None], off[:, None], on[None, :])


def _draw_outline(frame: Frame, box: list[int], colour: Colour) -> None:
    left, top, right, bottom = box
    line = max(2, round(min(frame.shape[:2]) / 360))
    frame[top : min(top + line, bottom), left:right] = colour
    frame[max(bottom - line, top) : bottom, left:right] = colour
    frame[top:bottom, left : min(left + line, right)] = colour
    frame[top:bottom, max(right - line, left) : right] = colour


def _captions(boxes: Boxes, class_names: Sequence[str], scores: bool) -> Iterator[str]:
    """`#id class score` of each box, without `#id` where it has no identity, the score where asked for."""
    for track_id, class_id, score in zip(boxes.track_id, boxes.class_id, boxes.score, strict=True):
        name = class_names[class_id] if class_id < len(class_names) else f"class {class_id}"
        words = ["" if track_id == NO_TRACK else f"#{track_id}", name, f"{score:.2f}" if scores else ""]
        yield " ".join(word for word in words if word)


def _free_place(
    box: list[int], caption: tuple[int, ...], frame: tuple[int, ...], taken: list[_Rectangle]
) -> tuple[int, int]:
    """Left and top of a caption: above the box, below it or within it, inside the frame and on no other text."""
    height, width = caption[:2]
    left = max(0, min(box[0], frame[1] - width))
    tops = [box[1] - height, box[3], box[1], box[3] - height]
    tops = [top for top in tops if 0 <= top <= frame[0] - height] or [0]
    free = [top for top in tops if not any(_overlap((left, top, left + width, top + height), t) for t in taken)]
    return left, (free or tops)[0]


def _draw_corners(frame: Frame, window: Window, font: int, note: str) -> list[_Rectangle]:
    """The time and length of the window at the bottom left; at the bottom right, if there is room, the colours."""
    span_us = window.end_us - window.start_us
    length = f"{span_us / 1000:g} ms" if span_us >= 1000 else f"{span_us} us"
    time = f"{window.end_us / 1e6:.{3 if span_us >= 1000 else 6}f} s"
    text = "  |  ".join([time, f"{length} window", *([note] if note else [])])
    tile = _text(text, font, _PALE, BACKGROUND)
    taken = [_paste(frame, tile, 0, len(frame) - len(tile))]
    legend = [
        _text("ON", font, ON_COLOURS[1], BACKGROUND),
        _text("OFF", font, OFF_COLOURS[1], BACKGROUND),
    ]
    left = frame.shape[1] - sum(tile.shape[1] for tile in legend)
    if left >= tile.shape[1]:
        for tile in legend:
            taken.append(_paste(frame, tile, left, len(frame) - len(tile)))
            left += tile.shape[1]
    return taken


def _paste(frame: Frame, tile: Frame, left: int, top: int) -> _Rectangle:
    """Put a tile on the frame, cut at its edges; returns where it lies."""
    top, left = max(0, top), max(0, left)
    place = frame[top : top + len(tile), left : left + tile.shape[1]]
    place[:] = tile[: len(place), : place.shape[1]]
    return left, top, left + place.shape[1], top + len(place)


@lru_cache(maxsize=512)
def _text(text: str, pixels: int, ink: Colour, fill: Colour) -> Frame:
    """One line of text on its own ground, (h, w, 3), read-only."""
    font = _font(pixels)
    size = (round(font.getlength(text)) + 8, sum(font.getmetrics()) + 3)
    image = pillow("Image").new("RGB", size, fill)
    pillow("ImageDraw").Draw(image).text((4, 1), text, fill=ink, font=font)
    return np.asarray(image)


def _overlap(a: _Rectangle, b: _Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@lru_cache(maxsize=8)
def _font(pixels: int) -> ImageFont.FreeTypeFont:
    return pillow("ImageFont").load_default(pixels)


def blank(height: int, width: int) -> Frame:
    """A frame of background, (height, width, 3)."""
    row = np.empty((width, 3), np.uint8)
    row[:] = BACKGROUND
    return np.repeat(row[None], height, axis=0)


def pillow(name: str) -> Any:
    """A module of Pillow; SettingsError where it is not installed."""
    try:
        import PIL
    except ImportError as error:
        raise SettingsError(f"drawing needs Pillow, which is not installed: {INSTALL}") from error
    from importlib import import_module

    return import_module(f"{PIL.__name__}.{name}")


def encode_png(image: NDArray[np.uint8], colours: int | None = None) -> bytes:
    """An image, (H, W, 3) RGB or (H, W, 4) RGBA uint8, as a PNG file; reduced to that many colours if given."""
    picture = pillow("Image").fromarray(image)
    if colours is not None:
        picture = picture.quantize(colours, dither=0)
    file = BytesIO()
    picture.save(file, "PNG", optimize=True)
    return file.getvalue()
