"""The pixel model: from frames of intensity to the events of a camera.

Station: shared by every simulated scene. In come frames of linear intensity at increasing times, out go the events that
an event camera reports in between. Sources:
- pixel with ON and OFF thresholds on the log intensity, their mismatch, reset after each event: Lichtsteiner, Posch,
  Delbruck, "A 128x128 120 dB 15 us latency asynchronous temporal contrast vision sensor", IEEE JSSC 2008; ATIS: Posch,
  Matolin, Wohlgenannt, IEEE JSSC 2011; DAVIS: Brandli et al., IEEE JSSC 2014; IMX636: Finateu et al., ISSCC 2020;
- exact times between frames, linear in log intensity: Rebecq et al., "ESIM", CoRL 2018; survey: Gallego et al., "Event-
  based vision: a survey", TPAMI 2022;
- low pass whose cut-off grows with intensity, leak events, shot noise that falls with brightness: Hu, Liu, Delbruck,
  "v2e: from video frames to realistic DVS events", CVPRW 2021; leak that grows with light (parasitic photocurrent):
  Nozaki, Delbruck, IEEE TED 2017; shot noise: Graca, Delbruck, "Unraveling the paradox of intensity-dependent DVS pixel
  noise", IISW 2021.

Between two frames log(intensity + dark) runs linearly; the output of the low pass follows it exactly. A pixel fires ON
where the output has risen by its ON threshold above the reference, OFF where it has fallen by its OFF threshold below,
at the exact time of the crossing, as often as it crosses. After an event it is held in reset for the refractory period;
its reference is then the output at the end of it. Noise fires by chance (Poisson) and resets the pixel as light does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from spiketrack.events import MAX_SENSOR_SIDE, Events
from spiketrack.simulation.readout import Readout, ReadoutSettings, Requests

TILE = 16
_AREA = TILE * TILE

_LEAST_THRESHOLD = 0.01
_NOISE_STREAM, _HOT_STREAM, _READOUT_STREAM = range(1, 4)
_HOT_SPREAD = (0.5, 1.5)
_TILES_A_PIECE = 100
_FLICKER_STEPS = 5  # a period
# straight lines between so few points of a sine lose amplitude, the more the slower the low pass; this share is left
_FLICKER_SHARE = float(np.sinc(1 / _FLICKER_STEPS) ** 1.5)  # fitted: as many events as at 400 us a step
_STILL = 0.1  # share of the mismatch by which a pixel's log intensity may differ while its tile counts as still


class PixelSettings(BaseModel):
    """The event pixel; thresholds in units of natural log intensity. The default has neither low pass nor noise."""

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
    bandwidth_hz: float | None = Field(
        None, gt=0, le=1e6, description="highest cut-off of the low pass on the log intensity in Hz; null: no low pass"
    )
    least_bandwidth_hz: float = Field(10.0, gt=0, le=1e6, description="cut-off in the dark in Hz")
    bandwidth_intensity: float = Field(
        0.1, gt=0, le=1e6, description="intensity from which the cut-off is the highest; below it is proportional"
    )
    dark_intensity: float = Field(0.0, ge=0, le=1, description="intensity of the dark current, added before the log")
    refractory_us: float = Field(
        300.0, ge=0, le=1e6, description="time in microseconds for which a pixel is held in reset after an event"
    )
    leak_hz: float = Field(0.0, ge=0, le=1000, description="leak events (ON) per pixel and second in the dark")
    leak_light_hz: float = Field(
        0.0, ge=0, le=1000, description="further leak events per pixel and second at intensity 1, proportional below"
    )
    shot_hz: float = Field(
        0.0, ge=0, le=1000, description="shot noise in the dark, events of either polarity per pixel and second"
    )
    shot_intensity: float = Field(
        0.02, gt=0, le=1e6, description="intensity at which shot noise has fallen to half, h: rate = dark / (1 + I / h)"
    )
    hot_pixels: float = Field(0.0, ge=0, le=1, description="share of hot pixels")
    hot_rate_hz: float = Field(
        50.0, ge=0, le=10_000, description="mean events per second of a hot pixel; each has its own, 0.5 to 1.5 times"
    )

    @model_validator(mode="after")
    def _bandwidths_in_order(self) -> Self:
        if self.bandwidth_hz is not None and self.bandwidth_hz < self.least_bandwidth_hz:
            raise ValueError(f"bandwidth_hz {self.bandwidth_hz} is below least_bandwidth_hz {self.least_bandwidth_hz}")
        return self


class SensorSettings(BaseModel):
    """A sensor: its size, pixels and read-out."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(1280, ge=1, le=MAX_SENSOR_SIDE, description="width of the sensor in pixels")
    height: int = Field(720, ge=1, le=MAX_SENSOR_SIDE, description="height of the sensor in pixels")
    pixel: PixelSettings = Field(PixelSettings(), description="the event pixel")
    readout: ReadoutSettings = Field(ReadoutSettings(), description="the way from the pixels to time-stamped events")


_Fired = tuple[NDArray, NDArray, NDArray, bool]  # times, places, kinds, whether all intensities were fit


class Flicker(NamedTuple):
    """Lamps that flicker faster than frames need to come: they add light * depth * sin(2 pi hz t) to a frame.

    light: (H, W) float32, the part of the frame that comes from them. tiles: (ceil(H / 16), ceil(W / 16)) bool, where
    their flicker is to be seen, the same for all frames.
    """

    light: NDArray[np.float32]
    tiles: NDArray[np.bool_]
    hz: float
    depth: float

    @property
    def step_us(self) -> int:
        """Time for which the log intensity is taken as linear; frames best lie whole steps apart."""
        return round(1e6 / self.hz / _FLICKER_STEPS)


class Exposure(NamedTuple):
    """Events in order of time, and which of them the light caused: (N,) bool (not leak, shot noise or hot pixels)."""

    events: Events
    signal: NDArray[np.bool_]


class _Shares:
    """Pieces of the pixels' work of one interval: every thread that has time takes the next."""

    def __init__(self, run: Callable[[slice], _Fired], pieces: Sequence[slice]) -> None:
        self._run, self._pieces = run, pieces
        self._next = iter(range(len(pieces)))  # of C: threads never get the same number
        self._done: list[Future[_Fired]] = [Future() for _ in pieces]

    def work(self) -> None:
        """Run pieces until all are taken."""
        for number in self._next:
            try:
                self._done[number].set_result(self._run(self._pieces[number]))
            except BaseException as error:
                self._done[number].set_exception(error)
                raise

    def results(self) -> list[_Fired]:
        """What the pieces gave, in their order, once all are done."""
        return [piece.result() for piece in self._done]


class Sensor:
    """A sensor with its state between frames."""

    def __init__(self, settings: SensorSettings, seed: Sequence[int], threads: int = 2) -> None:
        """Draw each pixel's thresholds (clipped below 0.01 log units) and the hot pixels.

        Everything random follows from the seed (non-negative integers) and the times of the frames; the number of
        threads changes nothing.
        """
        pixel, shape = settings.pixel, (settings.height, settings.width)
        self._settings = settings
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._across, self._down = -(-settings.width // TILE), -(-settings.height // TILE)
        rng = np.random.default_rng(seed)
        thresholds = [
            np.maximum(rng.normal(mean, pixel.mismatch, shape), _LEAST_THRESHOLD).astype(np.float32)
            for mean in (pixel.on_threshold, pixel.off_threshold)
        ]
        tiles = self._across * self._down
        # by tile: intensity of which the log was taken last, log, output, reference, ON and OFF thresholds, flicker
        self._state = np.zeros((tiles, 7, _AREA), np.float32)
        for row, threshold in zip((4, 5), thresholds, strict=True):
            self._state[:, row] = self._by_tile(threshold)
        self._free_at = np.zeros((tiles, _AREA))
        self._unsettled = np.zeros(tiles, np.bool_)
        self._flickers = np.zeros(tiles, np.bool_)
        self._asleep = np.zeros(tiles, np.bool_)  # tiles that flicker, but not enough to fire
        self._constants = np.array(
            [
                pixel.dark_intensity,
                pixel.refractory_us,
                2e-6 * np.pi * (pixel.bandwidth_hz or 0.0),
                2e-6 * np.pi * pixel.least_bandwidth_hz,
                pixel.bandwidth_intensity,
                _STILL * pixel.mismatch,
            ]
        )
        self._noise_rng = np.random.default_rng([*seed, _NOISE_STREAM])
        hot = np.random.default_rng([*seed, _HOT_STREAM])
        count = round(pixel.hot_pixels * settings.width * settings.height)
        self._hot = hot.choice(settings.width * settings.height, count, replace=False)
        self._hot_rates = pixel.hot_rate_hz * hot.uniform(*_HOT_SPREAD, count)
        self._readout = Readout(settings.readout, settings.height, [*seed, _READOUT_STREAM])
        self._t_us: int | None = None
        self._shares: _Shares | None = None

    @property
    def lost(self) -> int:
        """Events lost in the saturated read-out so far."""
        return self._readout.lost

    @property
    def thresholds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The ON and OFF thresholds of all pixels, (H, W) each, in log intensity."""
        height, width = self._settings.height, self._settings.width

        def by_row(state: NDArray[np.float32]) -> NDArray[np.float32]:
            tiles = state.reshape(self._down, self._across, TILE, TILE).swapaxes(1, 2)
            return np.ascontiguousarray(tiles.reshape(self._down * TILE, self._across * TILE)[:height, :width])

        return by_row(self._state[:, 4]), by_row(self._state[:, 5])

    def expose(
        self,
        frame: NDArray[np.float32],
        t_us: int,
        changed: NDArray[np.bool_] | None = None,
        flicker: Flicker | None = None,
    ) -> Exposure:
        """Run the pixels from the time of the frame before up to t_us.

        frame: (H, W) float32, linear intensity at t_us, 0 .. finite. changed: (ceil(H / 16), ceil(W / 16)) bool, the
        tiles that may differ from the frame before; None is all. flicker: lamps whose light swings about the frame's.
        Returns what the read-out gives until t_us, times in microseconds; the first frame sets the references, at no
        swing, and fires nothing. Raises ValueError for another shape or type, times that do not increase, other tiles
        that flicker than at first, and for intensities of the changed tiles that are negative, not finite or, without
        dark_intensity, zero; the sensor cannot be used after that.
        """
        active, flickers = self._checked(frame, t_us, changed, flicker)
        frame = np.ascontiguousarray(frame)
        from spiketrack.simulation.pixel_kernels import log_of

        if self._t_us is None:
            if not log_of(frame, self._across, self._settings.pixel.dark_intensity, self._state):
                raise ValueError(_UNFIT)
            self._state[:, 2:4] = self._state[:, 1:2]
            if flicker is not None:
                self._flickers = flickers
                self._state[flickers, 6] = self._by_tile(flicker.light)[flickers]
            self._t_us = t_us
            return self._exposure(Requests(*_no_columns()))
        noise = self._noise(frame, self._t_us, t_us)
        run = active | self._unsettled | (flickers & ~self._asleep)
        run[noise[1] // _AREA] = True
        tiles = np.flatnonzero(run)
        requests = self._run(frame, tiles, active[tiles], t_us, noise, flicker)
        self._t_us = t_us
        return self._exposure(self._readout.read(requests, t_us))

    def help(self) -> None:
        """Take over part of an `expose` that another thread is in; returns once nothing of it is left to take."""
        shares = self._shares
        if shares is not None:
            shares.work()

    def flush(self) -> Exposure:
        """What still waits in the read-out, at the end: its times may lie after the last frame's."""
        return self._exposure(self._readout.read(Requests(*_no_columns()), np.inf))

    def _checked(
        self, frame: NDArray[np.float32], t_us: int, changed: NDArray[np.bool_] | None, flicker: Flicker | None
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """The tiles that may have changed and those that flicker, (tiles,) each."""
        shape, grid = (self._settings.height, self._settings.width), (self._down, self._across)
        every = np.ones(grid, np.bool_)
        pictures = [("a frame", frame)] if flicker is None else [("a frame", frame), ("flicker.light", flicker.light)]
        for name, picture in pictures:
            if picture.shape != shape or picture.dtype != np.float32:
                raise ValueError(f"sensor: {name} must be float32 {shape}, got {picture.dtype} {picture.shape}")
        tiles = [("changed", every if changed is None else changed), ("flicker", flicker.tiles if flicker else ~every)]
        for name, mask in tiles:
            if mask.shape != grid or mask.dtype != np.bool_:
                raise ValueError(f"sensor: {name} tiles must be bool {grid}, got {mask.dtype} {mask.shape}")
        if self._t_us is not None and t_us <= self._t_us:
            raise ValueError(f"sensor: frame times must increase, got {t_us} us after {self._t_us} us")
        flickers = tiles[1][1].ravel()
        if self._t_us is not None and (flickers != self._flickers).any():
            raise ValueError("sensor: the tiles that flicker must be those of the first frame")
        return tiles[0][1].ravel().copy(), flickers.copy()

    def _run(
        self,
        frame: NDArray[np.float32],
        tiles: NDArray[np.int64],
        active: NDArray[np.bool_],
        t_us: int,
        noise: tuple[NDArray, NDArray, NDArray],
        flicker: Flicker | None,
    ) -> Requests:
        """The events of the interval in order of their tiles; as many threads as pay."""
        from spiketrack.simulation.pixel_kernels import expose_tiles

        assert self._t_us is not None
        start, end = float(self._t_us), float(t_us)
        flickers = self._flickers[tiles]
        lamps, steps, wave = frame, np.array([end]), np.zeros(2)
        if flicker is not None:
            lamps = np.ascontiguousarray(flicker.light)
            steps = np.append(np.arange(start + flicker.step_us, end, flicker.step_us), end)
            wave = np.array((flicker.depth / _FLICKER_SHARE, 2e-6 * np.pi * flicker.hz))

        def run(part: slice) -> _Fired:
            lit = (flickers[part], lamps, steps, wave, self._asleep)
            state = (self._state, self._free_at, noise, self._unsettled, lit)
            return expose_tiles(frame, tiles[part], active[part], start, end, self._constants, *state)

        # tiles with nothing but noise cost little
        work = np.cumsum(np.where(flickers, len(steps), active | self._unsettled[tiles]))
        count = int(work[-1]) if len(work) else 0
        pieces = 1 + count // _TILES_A_PIECE
        cuts = [0, *(int(np.searchsorted(work, count * k / pieces)) for k in range(1, pieces)), len(tiles)]
        self._shares = shares = _Shares(run, [slice(low, high) for low, high in pairwise(cuts)])
        helpers = min(self._threads, pieces) - 1
        if helpers and self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads - 1)
        others = [self._pool.submit(shares.work) for _ in range(helpers) if self._pool is not None]
        shares.work()
        for other in others:
            other.result()
        results = shares.results()
        if not all(fit for *_, fit in results):
            raise ValueError(_UNFIT)
        t, place, kind = (np.concatenate(column) for column in zip(*(result[:3] for result in results), strict=True))
        tile, inside = place >> 8, place & 255
        x = (tile % self._across << 4) + (inside & 15)
        y = (tile // self._across << 4) + (inside >> 4)
        return Requests(t, x.astype(np.uint16), y.astype(np.uint16), kind)

    def _noise(
        self, frame: NDArray[np.float32], start_us: int, end_us: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.uint8]]:
        """Leak, shot noise and hot pixels of (start_us, end_us]: times, places in tiles, polarities, sorted by both."""
        pixel, rng, seconds = self._settings.pixel, self._noise_rng, (end_us - start_us) * 1e-6
        size = frame.size
        leak_most = pixel.leak_hz + pixel.leak_light_hz
        leaks = rng.poisson(leak_most * size * seconds) if leak_most else 0
        shots = rng.poisson(pixel.shot_hz * size * seconds) if pixel.shot_hz else 0
        hot = np.repeat(self._hot, rng.poisson(self._hot_rates * seconds)) if len(self._hot) else self._hot
        count = leaks + shots + len(hot)
        if not count:
            return np.empty(0), np.empty(0, np.int64), np.empty(0, np.uint8)
        where = np.concatenate([rng.integers(0, size, leaks + shots), hot])
        t = end_us - rng.random(count) * (end_us - start_us)
        p = rng.integers(0, 2, count, dtype=np.uint8)
        p[:leaks] = 1
        chance = rng.random(leaks + shots)
        y, x = np.divmod(where, self._settings.width)
        light = frame[y[: leaks + shots], x[: leaks + shots]].astype(np.float64)
        keep = np.ones(count, np.bool_)
        if leaks:
            rate = pixel.leak_hz + pixel.leak_light_hz * np.minimum(light[:leaks], 1)
            keep[:leaks] = chance[:leaks] * leak_most < rate
        keep[leaks : leaks + shots] = chance[leaks:] * (1 + light[leaks:] / pixel.shot_intensity) < 1
        place = ((y >> 4) * self._across + (x >> 4)) * _AREA + ((y & 15) << 4) + (x & 15)
        t, place, p = t[keep], place[keep], p[keep]
        order = np.lexsort((t, place))
        return t[order], place[order], p[order]

    def _exposure(self, read: Requests) -> Exposure:
        t = np.rint(read.t).astype(np.int64)
        width, height = self._settings.width, self._settings.height
        p = (read.kind & 1).astype(np.uint8)
        return Exposure(Events.trusted(t, read.x, read.y, p, width, height), read.kind < 2)

    def _by_tile(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(H, W) as (tiles, 256); what lies beyond the frame is 1."""
        height, width = values.shape
        whole = np.ones((self._down * TILE, self._across * TILE), np.float32)
        whole[:height, :width] = values
        tiles = whole.reshape(self._down, TILE, self._across, TILE).swapaxes(1, 2)
        return np.ascontiguousarray(tiles.reshape(-1, _AREA))


_UNFIT = (
    "sensor: a frame's intensities must be finite and not negative, and above 0 where there is no dark_intensity to "
    "add before the log"
)


def _no_columns() -> tuple[NDArray, NDArray, NDArray, NDArray]:
    return np.empty(0), np.empty(0, np.uint16), np.empty(0, np.uint16), np.empty(0, np.uint8)
