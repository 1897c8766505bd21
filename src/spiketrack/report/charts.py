"""Charts: numbers become inline SVG that follows the page's light or dark colours and needs no script or font file.

In come arrays in data units, out goes an `<svg>` element as text; colours are CSS values such as `var(--c1)`.
"""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

CATEGORIES = 8  # colours --c1 .. --c8 of the page
_NEAR = 0.01  # of a step, by which a tick may miss the axis: time starts at 0.000004 s
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 40  # pixels around the plotting area


def category(index: int) -> str:
    """The colour of a class or a series, by its place in the list."""
    return f"var(--c{index % CATEGORIES + 1})"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart), about `count` of them, within low .. high."""
    if not high > low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    step = min((power * factor for factor in (1, 2, 5, 10)), key=lambda step: abs((high - low) / step - count))
    first, last = math.ceil(low / step - _NEAR), math.floor(high / step + _NEAR)
    return [i * step for i in range(first, last + 1)]


def short(value: float) -> str:
    """A number with an SI letter: 1250000 -> 1.25M; sign dropped, three digits kept."""
    value = abs(value)
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit * 0.9995:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


class Plot:
    """Linear axes over the ranges x and y, to which lines, areas and bars are added.

    x, y: (value at the left, at the right) and (at the bottom, at the top). size: (width, height) in pixels.
    """

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        size: tuple[int, int] = (1040, 240),
        labels: tuple[str, str] = ("", ""),
        left: int = _LEFT,
    ) -> None:
        self.width, self.height = size
        self._x, self._y = _widened(x), _widened(y)
        self._left, self._labels = left, labels
        self._marks: list[str] = []
        self._axes: list[str] = []

    def at_x(self, value: ArrayLike) -> np.ndarray:
        """Pixels of data values."""
        low, high = self._x
        share = (np.asarray(value, np.float64) - low) / (high - low)
        return self._left + share * (self.width - self._left - _RIGHT)

    def at_y(self, value: ArrayLike) -> np.ndarray:
        low, high = self._y
        share = (np.asarray(value, np.float64) - low) / (high - low)
        return self.height - _BOTTOM - share * (self.height - _BOTTOM - _TOP)

    def x_axis(self, count: int = 8, form: Callable[[float], str] | None = None) -> None:
        """Ticks, their numbers and the label below; `form` writes a number."""
        values = ticks(*self._x, count)
        form = form or _decimals(values)
        bottom = self.height - _BOTTOM
        for value in values:
            x = f"{self.at_x(value):.1f}"
            self._axes.append(f'<line class="tick" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}"/>')
            self._axes.append(f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{escape(form(value))}</text>')
        middle = (self._left + self.width - _RIGHT) / 2
        self._axes.append(
            f'<text class="label" x="{middle:.0f}" y="{self.height - 5}" text-anchor="middle">'
            f"{escape(self._labels[0])}</text>"
        )

    def y_axis(self, count: int = 4, form: Callable[[float], str] | None = None) -> None:
        """Horizontal grid lines, their numbers and the label at the left."""
        values = ticks(*self._y, count)
        form = form or _decimals(values)
        for value in values:
            y = float(self.at_y(value))
            kind = "base" if value == 0 else "grid"
            self._axes.append(
                f'<line class="{kind}" x1="{self._left}" x2="{self.width - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            self._axes.append(
                f'<text x="{self._left - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(form(value))}</text>'
            )
        middle = (_TOP + self.height - _BOTTOM) / 2
        self._axes.append(
            f'<text class="label" transform="translate(13 {middle:.0f}) rotate(-90)" text-anchor="middle">'
            f"{escape(self._labels[1])}</text>"
        )

    def line(self, x: ArrayLike, y: ArrayLike, colour: str, title: str = "", dashed: bool = False) -> None:
        """A line through the points; points that are not finite are left out. A single point becomes a dot."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        finite = np.isfinite(x) & np.isfinite(y)
        points = _points(self.at_x(x[finite]), self.at_y(y[finite]))
        if finite.sum() == 1:
            self.dot(float(x[finite][0]), float(y[finite][0]), colour, title)
        elif points:
            dash = ' stroke-dasharray="5 4"' if dashed else ""
            self._marks.append(
                f'<polyline class="line" points="{points}" style="stroke:{colour}"{dash}>{_title(title)}</polyline>'
            )

    def dot(self, x: float, y: float, colour: str, title: str = "") -> None:
        self._marks.append(
            f'<circle class="dot" cx="{self.at_x(x):.1f}" cy="{self.at_y(y):.1f}" r="4.5" style="fill:{colour}">'
            f"{_title(title)}</circle>"
        )

    def area(self, edges: ArrayLike, y: ArrayLike, colour: str, opacity: float = 1) -> None:
        """A filled staircase from zero: y[i] over edges[i] .. edges[i + 1]."""
        x, y = np.repeat(self.at_x(edges), 2)[1:-1], np.repeat(self.at_y(y), 2)
        if len(x):
            zero = float(self.at_y(0))
            points = f"{x[0]:.1f},{zero:.1f} {_points(x, y)} {x[-1]:.1f},{zero:.1f}"
            self._marks.append(f'<polygon points="{points}" style="fill:{colour};fill-opacity:{opacity}"/>')

    def staircase(self, edges: ArrayLike, y: ArrayLike, colour: str) -> None:
        """The outline of such an area."""
        x, y = np.repeat(self.at_x(edges), 2)[1:-1], np.repeat(self.at_y(y), 2)
        self._marks.append(f'<polyline class="line" points="{_points(x, y)}" style="stroke:{colour}"/>')

    def block(self, x: tuple[float, float], y: tuple[float, float], colour: str, title: str = "") -> None:
        """A filled rectangle in data units."""
        (left, right), (low, high) = self.at_x(x), self.at_y(y)
        top, height = min(low, high), abs(high - low)
        self._marks.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(right - left, 1.5):.1f}" height="{height:.1f}" '
            f'rx="{min(2, height / 3):.1f}" style="fill:{colour}">{_title(title)}</rect>'
        )

    def text(self, x: float, y: float, text: str, anchor: str = "start") -> None:
        """Words at pixel coordinates."""
        self._marks.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')

    def svg(self, what: str) -> str:
        """The element; `what` tells a reader who cannot see it what it shows."""
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(what)}">'
            f"{''.join(self._axes)}{''.join(self._marks)}</svg>"
        )


def bars(
    rows: Sequence[tuple[str, Sequence[float | None]]], series: Sequence[str], *, width: int = 500, limit: float = 1.0
) -> str:
    """Horizontal bars, one group a row and one bar a series, with their values; None is written as a dash."""
    thick, gap = (18 if len(series) == 1 else 15), 14
    row_height = thick * len(series) + gap
    left = min(width // 3, 24 + max((7 * len(name) for name, _ in rows), default=0))
    parts = []
    for i, (name, values) in enumerate(rows):
        top = i * row_height + gap / 2
        middle = top + thick * len(series) / 2 + 4
        shown = name if 7 * len(name) + 16 <= left else f"{name[: max(1, (left - 24) // 7)]}…"
        parts.append(f'<text x="{left - 8}" y="{middle:.1f}" text-anchor="end">{escape(shown)}{_title(name)}</text>')
        for k, value in enumerate(values):
            colour = category(i if len(series) == 1 else k)
            y = top + k * thick
            length = 0 if value is None else max(0.0, value) / limit * (width - left - 60)
            tip = _title(f"{name}: {series[k]} {'undefined' if value is None else f'{value:.3f}'}")
            parts.append(f'<rect class="track" x="{left}" y="{y}" width="{width - left - 60}" height="{thick - 2}"/>')
            parts.append(
                f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{thick - 2}" style="fill:{colour}">{tip}</rect>'
            )
            number = "-" if value is None else f"{value:.3f}"
            parts.append(f'<text x="{width - 52}" y="{y + thick - 3.5:.1f}">{number}</text>')
    height = max(1, len(rows)) * row_height
    what = escape(f"{', '.join(series)} of {len(rows)} rows")
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{what}">{"".join(parts)}</svg>'


def picture(png: bytes, alt: str, css_class: str = "") -> str:
    """An image inside the page."""
    return f'<img class="{css_class}" alt="{escape(alt)}" src="data:image/png;base64,{b64encode(png).decode("ascii")}">'


def paths_over(
    png: bytes, sensor: tuple[int, int], paths: Sequence[tuple[Sequence[tuple[float, float]], str, str]]
) -> str:
    """Polylines over an image of the sensor; sensor: (width, height), a path: points in pixels, colour and title."""
    width, height = sensor
    unit = max(width, height) / 640
    parts = [
        f'<image href="data:image/png;base64,{b64encode(png).decode("ascii")}" width="{width}" height="{height}" '
        'preserveAspectRatio="none" style="image-rendering:pixelated"/>'
    ]
    for points, colour, title in paths:
        (x, y), tip = points[-1], _title(title)
        line = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="{2 * unit:.2f}" '
            f'stroke-linejoin="round" stroke-linecap="round">{tip}</polyline>'
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{4 * unit:.2f}" fill="{colour}">{tip}</circle>'
        )
    return (
        f'<svg class="scene" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{len(paths)} trajectories over an image of all events">{"".join(parts)}</svg>'
    )


def _widened(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    return (low, high) if high != low else (low - 0.5, low + 0.5)


def _decimals(values: Sequence[float]) -> Callable[[float], str]:
    """As many decimals as tell neighbouring ticks apart."""
    step = min((b - a for a, b in pairwise(values)), default=1.0)
    places = max(0, math.ceil(-math.log10(step) - 1e-9))
    return lambda value: f"{value:.{places}f}"


def _points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""
