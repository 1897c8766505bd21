"""Video: frames as an MP4 file that appears only when it is complete."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from spiketrack.drawing.frames import INSTALL, Frame, blank
from spiketrack.errors import RecordingError, SettingsError
from spiketrack.replacing import Replacement

LARGEST_SIDE = 16_384  # pixels, of H.264 in common encoders


class Playback(NamedTuple):
    """Frames per second of a video, and how much faster than reality it runs (1 is real time)."""

    fps: float
    speed: float

    def __str__(self) -> str:
        if self.speed == 1:
            return "real time"
        return f"{self.speed:.3g}x real time" if self.speed > 1 else f"slowed down {1 / self.speed:.3g}x"


def playback_rate(slice_us: int) -> Playback:
    """One frame per time step: real time where that gives 10 to 60 frames/s, else 30 frames/s, faster or slower."""
    fps = 1e6 / slice_us
    return Playback(fps, 1.0) if 10 <= fps <= 60 else Playback(30.0, 30 * slice_us / 1e6)


class VideoWriter:
    """Write frames of one size into an MP4 file.

        with VideoWriter("tracks.mp4", playback_rate(slice_us).fps) as video:
            video.append(draw_frame(window, boxes, class_names))

    codec: "libx264" (H.264, plays everywhere) where PyAV has it, else "mpeg4" (needs a player such as VLC), known from
    the start. frames: how many were appended. Odd sides get a line of background, since H.264 stores colour for 2 x 2
    pixels. The file appears under its name when the block is left without an exception and at least one frame was
    appended; else an older one stays. Raises RecordingError naming the file where it cannot be written, SettingsError
    for frames that do not fit and where PyAV is missing.
    """

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path = Path(path)
        if not 0.01 <= fps <= 1000:
            raise SettingsError(f"{path}: a video plays at 0.01 to 1000 frames per second, got {fps}")
        self.codec = "libx264" if "libx264" in pyav().codecs_available else "mpeg4"
        self.frames = 0
        self._rate = Fraction(fps).limit_denominator(1000)  # mpeg4 counts time in 16 bits
        self._container: Any = None
        self._shape: tuple[int, ...] | None = None

    def __enter__(self) -> Self:
        self._replacement = Replacement(self.path)
        try:
            open(self._replacement.temporary, "xb").close()  # PyAV opens it with the first frame, too late to complain
            self._container = pyav().open(
                str(self._replacement.temporary), "w", format="mp4", options={"movflags": "faststart"}
            )
        except (OSError, pyav().FFmpegError) as error:
            self._abandon()
            raise self._failed(error) from error
        return self

    def append(self, frame: Frame) -> None:
        """Add one frame, (H, W, 3) uint8 RGB, of the size of the first."""
        if self._container is None:
            raise SettingsError(f"{self.path}: append outside of `with VideoWriter(...)`")
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8 or frame.size == 0:
            raise SettingsError(f"{self.path}: expected (H, W, 3) uint8, got {frame.dtype} of {frame.shape}")
        if self._shape not in (None, frame.shape):
            raise SettingsError(f"{self.path}: a frame of {frame.shape} in a video of {self._shape}")
        try:
            if self._shape is None:
                self._begin(frame.shape)
            picture = pyav().VideoFrame.from_ndarray(_even(frame), format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            picture.pts = self.frames
            self._container.mux(self._stream.encode(picture))
        except (OSError, pyav().FFmpegError) as error:
            raise self._failed(error) from error
        self.frames += 1

    def _begin(self, shape: tuple[int, ...]) -> None:
        height, width, _ = shape
        if max(height, width) > LARGEST_SIDE:
            raise SettingsError(f"{self.path}: a video of {width} x {height} pixels exceeds {LARGEST_SIDE} a side")
        quality = {"crf": "20", "preset": "veryfast"} if self.codec == "libx264" else {"b": "8000000"}
        self._stream = self._container.add_stream(self.codec, rate=self._rate, options=quality)
        context = self._stream.codec_context
        context.width, context.height, context.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # 16 .. 235
        self._shape = shape

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._container is not None and self.frames:
                self._container.mux(self._stream.encode(None))
                container, self._container = self._container, None
                container.close()
                self._replacement.commit()
        except (OSError, pyav().FFmpegError) as failure:
            raise self._failed(failure) from failure
        finally:
            self._abandon()

    def _abandon(self) -> None:
        """Close and remove the temporary file where it still is; after a commit there is nothing to remove."""
        container, self._container = self._container, None
        with suppress(OSError, pyav().FFmpegError):
            if container is not None:
                container.close()
        with suppress(OSError):
            self._replacement.discard()

    def _failed(self, error: Exception) -> RecordingError:
        reason = getattr(error, "strerror", None) or error
        return RecordingError(f"{self.path}: the video cannot be written, is the disk full? ({reason})")


def _even(frame: Frame) -> Frame:
    """A frame with even sides; a line of background is added where needed."""
    height, width = frame.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return np.ascontiguousarray(frame)
    padded = blank(height + height % 2, width + width % 2)
    padded[:height, :width] = frame
    return padded


def pyav() -> ModuleType:
    """PyAV; SettingsError where it is not installed."""
    try:
        import av
    except ImportError as error:
        raise SettingsError(f"a video needs PyAV, which is not installed: {INSTALL}") from error
    return av
