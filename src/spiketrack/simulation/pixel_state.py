"""Pixel state: how the kernels of the event pixel keep pixels, by tile, and what they are told of all of them."""

from __future__ import annotations

TILE = 16
AREA = TILE * TILE

# The rows of a tile's state: intensity of which the log was taken last, log, output of the low pass, ..., and that part
# of the intensity that flickers
LIGHT, LOG, OUTPUT, REFERENCE, ON, OFF, LAMPS = range(7)
# The columns of `pixel`, a vector of float64.
DARK, REFRACTORY, FASTEST, SLOWEST, FULL_AT, STILL = range(6)
