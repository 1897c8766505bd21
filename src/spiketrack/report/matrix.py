"""Matrix: a table of counts as a chart, each cell as dark as its share."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from spiketrack.report.charts import short

_CELL, _HEAD, _LETTER = 46, 40, 7  # pixels: height of a cell, of the column names, width of a letter
_DARKEST = 0.55  # opacity at which numbers can still be read in both themes


def matrix(
    counts: np.ndarray, shares: np.ndarray, rows: Sequence[str], columns: Sequence[str], width: int = 500
) -> str:
    """An SVG element of counts (R, C) with shares (R, C) in 0 .. 1 as shades, under the names of rows and columns."""
    left = min(width // 3, 16 + _LETTER * max(map(len, rows)))
    cell = (width - left - 4) / len(columns)
    parts = [
        f'<text x="{left + (k + 0.5) * cell:.1f}" y="{_HEAD - 12}" text-anchor="middle">{_fitted(name, cell)}</text>'
        for k, name in enumerate(columns)
    ]
    for i, name in enumerate(rows):
        top = _HEAD + i * _CELL
        parts.append(f'<text x="{left - 8}" y="{top + _CELL / 2 + 4}" text-anchor="end">{_fitted(name, left)}</text>')
        for k, column in enumerate(columns):
            x, n, share = left + k * cell, int(counts[i, k]), float(shares[i, k])
            tip = f"<title>{escape(f'{name}, {column}: {n:,} ({share:.1%} of the row)')}</title>"
            box = f'x="{x + 1:.1f}" y="{top + 1}" width="{cell - 2:.1f}" height="{_CELL - 2}" rx="3"'
            parts.append(f'<rect class="track" {box}>{tip}</rect>')
            if n:
                shade = f"fill:var(--c1);fill-opacity:{_DARKEST * share:.3f}"
                parts.append(f'<rect {box} style="{shade}">{tip}</rect>')
            words = f"{n:,}" if n < 100_000 else short(n)
            ink = ' style="fill:var(--ink)"' if n else ""
            middle = f'x="{x + cell / 2:.1f}" y="{top + _CELL / 2 + 4}" text-anchor="middle"'
            parts.append(f"<text {middle}{ink}>{words}{tip}</text>")
    height = _HEAD + _CELL * len(rows)
    what = escape(f"matrix of {len(rows)} by {len(columns)} counts")
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{what}">{"".join(parts)}</svg>'


def _fitted(name: str, width: float) -> str:
    """The name, shortened to the pixels that there are."""
    letters = max(1, int(width - 8) // _LETTER)
    return escape(name if len(name) <= letters else f"{name[: max(1, letters - 1)]}…")
