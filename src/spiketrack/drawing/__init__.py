"""Drawing: a time window and its boxes become a picture, and pictures become a video or a contact sheet.

Station: in come a `Window` and the `Boxes` of its end, out go RGB frames (H, W, 3) uint8 and H.264 files. Text needs
Pillow and video PyAV; both are imported when they are used.
"""

from spiketrack.drawing.frames import (
    BACKGROUND,
    BOX_COLOURS,
    OFF_COLOURS,
    ON_COLOURS,
    Frame,
    box_colour,
    contact_sheet,
    default_scale,
    draw_frame,
    draw_thumbnail,
    encode_png,
    pillow,
)
from spiketrack.drawing.video import Playback, VideoWriter, playback_rate, pyav

__all__ = [
    "BACKGROUND",
    "BOX_COLOURS",
    "OFF_COLOURS",
    "ON_COLOURS",
    "Frame",
    "Playback",
    "VideoWriter",
    "box_colour",
    "contact_sheet",
    "default_scale",
    "draw_frame",
    "draw_thumbnail",
    "encode_png",
    "playback_rate",
    "require_drawing",
]


def require_drawing(video: bool = False) -> None:
    """Raise SettingsError where Pillow (or, for a video, PyAV) is not installed; long jobs ask before they begin."""
    pillow("Image")
    if video:
        pyav()
