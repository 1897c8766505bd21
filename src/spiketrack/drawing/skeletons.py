"""Skeletons: joints and the bones between them, drawn on a frame.

Colours tell the sides of a person: left is yellow, right is magenta, the trunk is white.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spiketrack.drawing.frames import Colour, Frame, pillow

TRUNK_COLOUR: Colour = (244, 246, 250)
LEFT_COLOUR: Colour = (255, 230, 84)
RIGHT_COLOUR: Colour = (255, 96, 200)
_SMOOTH = 3  # drawn larger by so much, then shrunk


def side_colour(name: str) -> Colour:
    """The colour of a joint by its name, such as "left knee"."""
    return {"left": LEFT_COLOUR, "right": RIGHT_COLOUR}.get(name.split()[0], TRUNK_COLOUR)


def draw_skeletons(
    frame: Frame,
    joints: NDArray[np.floating],
    shown: NDArray[np.bool_],
    bones: Sequence[tuple[int, int]],
    colours: Sequence[Colour],
    line: float | None = None,
) -> Frame:
    """A copy of a frame (H, W, 3) with people on it.

    joints: (N, K, 2) x and y in pixels of the frame. shown: (N, K) which of them to draw; a bone needs both its ends.
    bones: pairs of joints, in the colour of the second. colours: one for each joint. line: width of a bone in pixels;
    default by the size of the person. Joints that are not finite are left out.
    """
    shown = shown & np.isfinite(joints).all(2)
    if not shown.any():
        return frame.copy()
    places = np.where(shown[..., None], joints, 0.0)
    left, top, right, bottom = _bounds(places[shown], frame.shape)
    if left >= right or top >= bottom:
        return frame.copy()
    # only the part with people is drawn larger and shrunk again
    image, draw_on = pillow("Image"), pillow("ImageDraw")
    part = image.fromarray(frame[top:bottom, left:right])
    large = part.resize(((right - left) * _SMOOTH, (bottom - top) * _SMOOTH), resample=image.Resampling.NEAREST)
    draw = draw_on.Draw(large)
    for person, visible in zip((places - (left, top)) * _SMOOTH, shown, strict=True):
        if visible.any():
            width = _SMOOTH * line if line else _width(person[visible])
            _draw_person(draw, person, visible, bones, colours, width)
    out = frame.copy()
    out[top:bottom, left:right] = np.asarray(large.resize(part.size, resample=image.Resampling.BOX))
    return out


def _bounds(points: NDArray[np.floating], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of a frame that points (N, 2) and their lines reach."""
    margin = 12
    low, high = np.floor(points.min(0)) - margin, np.ceil(points.max(0)) + margin
    (left, top), (right, bottom) = (
        np.clip(corner, 0, [shape[1], shape[0]]).astype(int).tolist() for corner in (low, high)
    )
    return left, top, right, bottom


def _width(points: NDArray[np.floating]) -> float:
    """Of a bone, for a person with these joints, in the same pixels."""
    return float(np.clip(np.ptp(points[:, 1]) / 40, 1.2 * _SMOOTH, 4 * _SMOOTH))


def _draw_person(
    draw: Any,
    joints: NDArray[np.floating],
    visible: NDArray[np.bool_],
    bones: Sequence[tuple[int, int]],
    colours: Sequence[Colour],
    width: float,
) -> None:
    for start, end in bones:
        if visible[start] and visible[end]:
            ends = [tuple(joints[start].tolist()), tuple(joints[end].tolist())]
            draw.line(ends, fill=colours[end], width=max(1, round(width)))
    for (x, y), colour in zip(joints[visible].tolist(), np.array(colours)[visible].tolist(), strict=True):
        corners = (x - width, y - width, x + width, y + width)
        draw.ellipse(corners, fill=tuple(colour))
