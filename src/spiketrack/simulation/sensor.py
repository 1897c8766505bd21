"""The pixel model: from log intensity over time to events.

Station: shared by every simulated scene. In come frames of log intensity at increasing times, out go the events that
an event camera's pixels fire between them. Model: Lichtsteiner, Posch, Delbruck, "A 128x128 120 dB 15 us latency
asynchronous temporal contrast vision sensor", IEEE JSSC 2008; interpolation between frames as in Rebecq et al., "ESIM",
CoRL 2018.

Between two frames a pixel's log intensity runs linearly. It fires ON where it has risen by its ON threshold above
the reference, OFF where it has fallen by its OFF threshold below, at the exact time of the crossing, as often as it
crosses. After an event it is held in reset for the refractory period; its reference is then the log intensity at the
end of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from spiketrack.events import Events
from spiketrack.simulation.motion import Canvas

Region = tuple[int, int, int, int]

_LEAST_THRESHOLD = 0.01


class PixelSettings(BaseModel):
    """The event pixel; thresholds in units of natural log intensity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    on_threshold: float = Field(
        0.2, ge=_LEAST_THRESHOLD, le=2, description="mean rise of log intensity for an ON event"
    )
    off_threshold: float = Field(
        0.2, ge=_LEAST_THRESHOLD, le=2, description="mean fall of log intensity for an OFF event"
    )
    mismatch: float = Field(
        0.03, ge=0, le=0.5, description="standard deviation of the thresholds from pixel to pixel, in log intensity"
    )
    refractory_us: float = Field(
        300.0, ge=0, le=1e6, description="time in microseconds for which a pixel is held in reset after an event"
    )


class PixelArray:
    """A sensor's pixels with their state between frames."""

    def __init__(self, settings: PixelSettings, canvas: Canvas, seed: Sequence[int]) -> None:
        """Draw each pixel's thresholds; below 0.01 log units they are clipped to it."""
        shape = (canvas.height, canvas.width)
        rng = np.random.default_rng(seed)
        self.on = np.maximum(rng.normal(settings.on_threshold, settings.mismatch, shape), _LEAST_THRESHOLD)
        self.off = np.maximum(rng.normal(settings.off_threshold, settings.mismatch, shape), _LEAST_THRESHOLD)
        self._settings = settings
        self._canvas = canvas
        self._t_us: int | None = None
        self._log_before = np.empty(shape)
        self._reference = np.empty(shape)
        self._free_at = np.full(shape, -np.inf)

    def expose(self, log_frame: NDArray[np.float64], t_us: int, regions: Iterable[Region] | None = None) -> Events:
        """Run the pixels from the time of the frame before up to t_us.

        log_frame: (H, W) float64, natural log of intensity at t_us. regions: (left, top, right, bottom) on the canvas
        that hold everything that changed since the frame before, overlaps allowed; None is the whole canvas. Returns
        the events with times rounded to microseconds, before < t <= now but for rounding; the first frame sets the
        references and fires none. Raises ValueError for another shape, non-finite values or a time that does not
        increase.
        """
        canvas = self._canvas
        if log_frame.shape != self.on.shape or log_frame.dtype != np.float64:
            raise ValueError(
                f"sensor: a frame must be float64 {self.on.shape}, got {log_frame.dtype} {log_frame.shape}"
            )
        if self._t_us is None:
            if not np.isfinite(log_frame).all():
                raise ValueError(
                    "sensor: the first frame is not finite everywhere; add the dark intensity before the log"
                )
            self._log_before[:] = log_frame
            self._reference[:] = log_frame
            self._t_us = t_us
            return Events.empty(*canvas)
        if t_us <= self._t_us:
            raise ValueError(f"sensor: frame times must increase, got {t_us} us after {self._t_us} us")
        if regions is None:
            regions = [(0, 0, canvas.width, canvas.height)]
        parts = [self._expose_region(log_frame, self._t_us, t_us, region) for region in regions]
        self._t_us = t_us
        if not parts:
            return Events.empty(*canvas)
        t, x, y, p = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(t, kind="stable")
        return Events(np.rint(t[order]).astype(np.int64), x[order], y[order], p[order], *canvas)

    def _expose_region(
        self, log_frame: NDArray[np.float64], t0_us: int, t1_us: int, region: Region
    ) -> tuple[NDArray, ...]:
        from spiketrack.simulation.kernels import expose_region

        left, top, right, bottom = region
        if not (0 <= left <= right <= self._canvas.width and 0 <= top <= bottom <= self._canvas.height):
            raise ValueError(f"sensor: region {region} leaves the canvas of {self._canvas.width}x{self._canvas.height}")
        return expose_region(
            log_frame,
            float(t0_us),
            float(t1_us),
            region,
            self._log_before,
            self._reference,
            self._free_at,
            self.on,
            self.off,
            float(self._settings.refractory_us),
        )
