"""Scene view: simulated scenes to look at, a contact sheet of many and a film of one.

Station: sees the chunks of scenes while `datasets.simulated` makes them, perhaps in several processes. Out go
    FOLDER/<scene>.png         the rendered picture, and beside it the events of 33 ms with the labels
    FOLDER/<scene>.mp4         the same as a film in real time, of the scene named `filmed`
    FOLDER/contact_sheet.png   all the pictures
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spiketrack.boxes import Boxes
from spiketrack.drawing.frames import BACKGROUND, Frame, box_colour, contact_sheet, draw_thumbnail, encode_png, pillow
from spiketrack.drawing.video import VideoWriter, playback_rate
from spiketrack.errors import RecordingError
from spiketrack.events import Events, Window
from spiketrack.replacing import make_folder, write_whole

if TYPE_CHECKING:
    from PIL.Image import Image

    from spiketrack.traffic.scene import TrafficChunk

MOST_TILES = 24
FRAME_US = 33_333
LONGEST_FILM_US = 60_000_000
_TILE_WIDTH, _FILM_WIDTH = 480, 960  # pixels of a panel
_INK = (232, 236, 242)


@dataclass(frozen=True, slots=True)
class SceneView:
    """The audience of a data set's scenes (`datasets.simulated.Audience`). tiles: scenes on the contact sheet."""

    folder: Path
    class_names: tuple[str, ...]
    tiles: tuple[str, ...]
    filmed: str

    def wants(self, name: str) -> bool:
        return self._wants_tile(name) or self._wants_film(name)

    def chunk_us(self, name: str) -> int | None:
        return FRAME_US if self._wants_film(name) else None

    @contextmanager
    def watch(self, name: str, facts: str, duration_us: int) -> Generator[_Watcher]:
        """Watch one scene; facts: stand in its title."""
        make_folder(self.folder)
        for leftover in self.folder.glob(f".{name}.*.tmp"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
        tile = self._tile(name) if self._wants_tile(name) else None
        film: AbstractContextManager[VideoWriter | None] = nullcontext()
        if self._wants_film(name):
            film = VideoWriter(self._film(name), playback_rate(FRAME_US).fps)
        with film as video:
            watcher = _Watcher(f"{name}   {facts}", self.class_names, duration_us, tile, video)
            yield watcher
            watcher.end()

    def write_sheet(self) -> Path:
        """Put the pictures of all tiles on the contact sheet; raises RecordingError where one cannot be read."""
        frames = [_read_png(self._tile(name)) for name in self.tiles]
        path = self.folder / "contact_sheet.png"
        write_whole(path, encode_png(contact_sheet(frames, 2 if len(frames) <= 8 else 3)), RecordingError)
        return path

    def _tile(self, name: str) -> Path:
        return self.folder / f"{name}.png"

    def _film(self, name: str) -> Path:
        return self.folder / f"{name}.mp4"

    def _wants_tile(self, name: str) -> bool:
        return name in self.tiles and not self._tile(name).is_file()

    def _wants_film(self, name: str) -> bool:
        return name == self.filmed and not self._film(name).is_file()


def view_of(folder: Path, class_names: Sequence[str], names: Sequence[str]) -> SceneView:
    """A view of up to MOST_TILES scenes, spread evenly over all names; the first is filmed."""
    places = np.unique(np.linspace(0, len(names) - 1, min(MOST_TILES, len(names))).round().astype(int))
    return SceneView(folder, tuple(class_names), tuple(names[i] for i in places), names[0])


class _Watcher:
    """Draws a moment when the chunk after it has come, as the labels of its end stand there."""

    def __init__(
        self, title: str, class_names: tuple[str, ...], duration_us: int, tile: Path | None, video: VideoWriter | None
    ) -> None:
        self._title, self._class_names = title, class_names
        self._tile, self._video = tile, video
        self._tile_us, self._film_us = duration_us // 2, min(duration_us, LONGEST_FILM_US)
        self._count = 0
        self._recent: Events | None = None
        self._labels: Boxes = Boxes.empty()
        self._last: TrafficChunk | None = None

    def see(self, chunk: TrafficChunk) -> bool:
        self._keep_labels(chunk)
        self._draw()
        recent = chunk.events if self._recent is None else Events.concatenate([self._recent, chunk.events])
        self._recent = recent[int(np.searchsorted(recent.t, chunk.end_us - FRAME_US)) :]
        self._count += len(chunk.events)
        self._last = chunk
        return self._tile is not None or self._video is not None

    def end(self) -> None:
        self._draw()

    def _keep_labels(self, chunk: TrafficChunk) -> None:
        """Labels since the last drawn moment, up to those of the moment to draw next and one chunk beyond."""
        self._labels = Boxes.concatenate([self._labels, chunk.labels])
        begin_us = chunk.start_us - 2 * FRAME_US
        self._labels = self._labels[int(np.searchsorted(self._labels.t, begin_us)) :]

    def _draw(self) -> None:
        """Draw the end of the last chunk where it is wanted."""
        chunk, events = self._last, self._recent
        if chunk is None or events is None:
            return
        self._last = None
        tile = self._tile if chunk.end_us >= self._tile_us else None
        if tile is None and self._video is None:
            return
        window = Window.of(events, max(0, chunk.end_us - FRAME_US), chunk.end_us)
        shown = self._labels[: int(np.searchsorted(self._labels.t, chunk.end_us, side="right"))]
        boxes = shown[shown.t == shown.t[-1]] if len(shown) else shown
        title = f"{self._title}   {_rate(self._count / (chunk.end_us * 1e-6))}"
        if tile is not None:
            picture = _side_by_side(chunk.image, window, boxes, self._class_names, title, _TILE_WIDTH)
            write_whole(tile, encode_png(picture), RecordingError)
            self._tile = None
        if self._video is not None and (chunk.end_us - chunk.start_us == FRAME_US or not self._video.frames):
            self._video.append(_side_by_side(chunk.image, window, boxes, self._class_names, title, _FILM_WIDTH))
            if chunk.end_us >= self._film_us:
                self._video = None


def _rate(events_per_s: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if events_per_s >= size:
            return f"{events_per_s / size:.3g} {unit} events/s"
    return f"{events_per_s:.0f} events/s"


def _side_by_side(
    image: NDArray[np.uint8], window: Window, boxes: Boxes, class_names: Sequence[str], title: str, width: int
) -> Frame:
    """Title over the picture (left) and the events with boxes (right), each `width` wide: (h, 2 width + gap, 3)."""
    image_of, box = pillow("Image").fromarray, pillow("Image").Resampling.BOX
    height = max(1, round(window.height * width / window.width))
    # a large sensor is counted at reduced resolution, the pixels of a small one grow by a whole factor and shrink again
    side = width if window.width >= width else window.width * -(-width // window.width)
    events = draw_thumbnail(window, Boxes.empty(), class_names, side)
    right = image_of(events).resize((width, height), resample=box)
    _draw_boxes(right, boxes, class_names, (width / window.width, height / window.height))
    left = image_of(image).resize((width, height), resample=box)
    pixels = max(11, width // 48)
    font = pillow("ImageFont").load_default(pixels)
    gap, top = max(2, width // 240), round(1.6 * pixels)
    sheet = pillow("Image").new("RGB", (2 * width + gap, height + top), BACKGROUND)
    sheet.paste(left.convert("RGB"), (0, top))
    sheet.paste(right, (width + gap, top))
    pillow("ImageDraw").Draw(sheet).text((6, top // 2), title, fill=_INK, font=font, anchor="lm")
    return np.asarray(sheet)


def _draw_boxes(picture: Image, boxes: Boxes, class_names: Sequence[str], factor: tuple[float, float]) -> None:
    """Outlines in the colour of their class with its name; the name gives way at the upper edge."""
    draw = pillow("ImageDraw").Draw(picture)
    font = pillow("ImageFont").load_default(max(9, picture.width // 64))
    line = max(1, picture.width // 480)
    for (x0, y0, x1, y1), class_id in zip((boxes.xyxy * (factor * 2)).tolist(), boxes.class_id.tolist(), strict=True):
        colour = box_colour(class_id)
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=line)
        above = y0 > font.size + 2
        draw.text(
            (x0, y0 - 1 if above else y1 + 1),
            class_names[class_id],
            fill=colour,
            font=font,
            anchor="lb" if above else "lt",
        )


def _read_png(path: Path) -> Frame:
    try:
        with pillow("Image").open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise RecordingError(f"{path}: cannot be read as a picture ({error}); delete it and run again") from error
