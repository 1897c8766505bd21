"""Layers: what a frame is drawn on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Layers(NamedTuple):
    """picture: linear intensity, (H, W) float32. mask: names of what is seen, (H, W) int32, 0 for nothing. depth: of
    standing things that hide what is behind them, (H, W) float32 metres. touched: tiles that were drawn on, bool.
    flickers: tiles of which the light flickers, bool. lamps: the light there that does, within the picture, (H, W)
    float32, less where something hides it. Both are (0, 0) where nothing flickers.
    """

    picture: NDArray[np.float32]
    mask: NDArray[np.int32]
    depth: NDArray[np.float32]
    touched: NDArray[np.bool_]
    lamps: NDArray[np.float32] = np.zeros((0, 0), np.float32)
    flickers: NDArray[np.bool_] = np.zeros((0, 0), np.bool_)
