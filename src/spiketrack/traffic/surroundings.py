"""Surroundings: the picture of everything in a street that neither drives nor walks.

Station: a layout, a light, a first camera and a seed come in; out come pictures (H, W) for any camera: the linear
intensity, the albedo and the depth, and apart from these the light of street lamps. Everything is planned once, fixed
to the world, so that cameras at all places see the same street; leaves move in the wind as a function of time alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from spiketrack.traffic.camera import NEAREST_M, Camera
from spiketrack.traffic.ground import draw_sky, draw_tones, paint_roads
from spiketrack.traffic.layout import Layout
from spiketrack.traffic.light import Light
from spiketrack.traffic.street import Street

STREAM = 4201
Region = tuple[int, int, int, int]

TILE = 16  # pixels
_MAP_CELLS = 1_500_000  # bound of the memory of the map of sun and lamps
_BAND = 32  # rows of the ground that a thread paints at once
_STILL_PX = 0.08  # a tree whose leaves move less is not drawn again
_STEP_PX = 0.1  # trees are drawn again when the leaves of one have moved this far


class Surroundings:
    """A street that can be looked at. seed: all that is random follows from it."""

    def __init__(self, layout: Layout, light: Light, camera: Camera, seed: Sequence[int]) -> None:
        rng = np.random.default_rng([*seed, STREAM])
        self._light = light
        self._table = rng.uniform(-1, 1, (256, 256)).astype(np.float32)
        self._tones = draw_tones(rng)
        self.marking, self.asphalt = float(self._tones[1]), float(self._tones[0])  # albedos
        self._sky = draw_sky(light, rng)
        self._roads, self._strips, self._lines, self._bars = paint_roads(layout, self._tones, rng)
        street = Street(layout, light, camera, rng)
        street.build()
        self._panels = np.array(street.panels, np.float64).reshape(-1, 32)
        self._rods = np.array(street.rods, np.float64).reshape(-1, 10)
        self._trees = np.array(street.trees, np.float64).reshape(-1, 6)
        self._winds = np.array(street.winds, np.float64).reshape(-1, 8)
        self._leaves = np.concatenate([np.zeros((0, 8)), *street.leaves])
        self._bulbs = np.array(street.bulbs, np.float64).reshape(-1, 5)
        self._maps, self._frame = self._shade(layout, street)
        self._camera: Camera | None = None
        self._lamp = np.zeros((0, 0), np.float32)
        self._bare = self._lamp  # intensity and depth without leaves, of the last camera
        self._bare_depth = self._lamp
        self._stirred: list[Region] = []
        self._stirred_tiles = np.zeros((0, 0), np.bool_)
        self._pool = ThreadPoolExecutor(2)
        self._drawn_moves = np.zeros((0, 4))
        self._px_per_m = np.zeros(0)  # of the trees that are seen to move, 0 for the others

    def _shade(self, layout: Layout, street: Street) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """The map (N, M, 2) of the share of the sun and the light of lamps on the ground, and where it lies."""
        from spiketrack.traffic import light_map_kernels

        ends = np.concatenate([road.place([0.0, road.length], [0.0, 0.0]) for road in layout.roads])
        low, high = ends.min(0) - 45.0, ends.max(0) + 45.0
        step = max(0.2, float(np.sqrt(np.prod(high - low) / _MAP_CELLS)))
        columns, rows = (np.ceil((high - low) / step)).astype(int) + 1
        maps = np.zeros((rows, columns, 2), np.float32)
        maps[..., 0] = 1
        frame = np.array([low[0], low[1], step])
        if self._light.sun > 0:
            way = -np.array(self._light.sun_direction[:2]) / max(self._light.sun_direction[2], 0.1)
            blocks = [(*wall[:4], *(wall[4] * way)) for wall in street.walls]
            light_map_kernels.cast_blocks(maps, frame, np.array(blocks, np.float64).reshape(-1, 6))
            leaves, rods = self._leaves, self._rods
            middles = leaves[:, :2] + leaves[:, 2:3] * way
            discs = np.column_stack([middles, middles, 1.15 * leaves[:, 3], np.full(len(leaves), 0.75)])
            a, b = rods[:, :2] + rods[:, 2:3] * way, rods[:, 3:5] + rods[:, 5:6] * way
            thick = 0.5 * (rods[:, 6:7] + rods[:, 7:8])
            bars = np.concatenate([a, b, thick, np.full((len(rods), 1), 0.9)], axis=1)
            light_map_kernels.cast_shadows(maps, frame, np.concatenate([discs, bars]))
        if len(self._bulbs):
            light_map_kernels.shine_lamps(maps, frame, self._bulbs, np.array(street.at_foot))
        return maps, frame

    def draw(
        self,
        camera: Camera,
        intensity: NDArray[np.float32],
        albedo: NDArray[np.float32],
        depth: NDArray[np.float32],
        quick: bool = False,
    ) -> None:
        """Fill the pictures (H, W) in place, at the time 0 of the wind.

        intensity: linear, without the light of street lamps. albedo: of ground and walls, 0 in the sky. depth: camera z
        in metres of what stands and can hide actors, inf on the ground and in the sky. quick: one sample a pixel
        instead of 2 x 2.
        """
        from spiketrack.traffic import street_kernels, viewing_kernels

        if intensity.shape != (camera.height, camera.width):
            raise ValueError(f"pictures must have the camera's {(camera.height, camera.width)}, got {intensity.shape}")
        lamp = np.empty_like(intensity)
        if quick:
            self._draw_bare(_numbers(camera, 1), intensity, albedo, lamp, depth)
        else:
            shape = (2 * camera.height, 2 * camera.width)
            fine = [np.empty(shape, np.float32) for _ in range(4)]
            self._draw_bare(_numbers(camera, 2), *fine)
            for one, coarse in zip(fine, (intensity, albedo, lamp), strict=False):
                viewing_kernels.halve(one, coarse)
            viewing_kernels.halve_depth(fine[3], depth)
        behind = depth.copy()
        nothing = np.zeros((0, 0), np.float32)  # a moving camera is not stirred: it needs no copy
        self._bare, self._bare_depth = (nothing, nothing) if quick else (intensity.copy(), behind)
        tiles = np.ones((-(-camera.height // TILE), -(-camera.width // TILE)), np.bool_)
        self._draw_leaves(camera, 0, tiles, behind, intensity, albedo, lamp, depth, True)
        if len(self._bulbs):
            street_kernels.paint_bulbs(_numbers(camera, 1), self._bulbs, lamp, depth)
        self._camera, self._lamp = camera, lamp
        if not quick:
            self._plan_stirring(camera)

    def _draw_bare(
        self,
        numbers: NDArray[np.float64],
        intensity: NDArray[np.float32],
        albedo: NDArray[np.float32],
        lamp: NDArray[np.float32],
        depth: NDArray[np.float32],
    ) -> None:
        """All but leaves and bulbs."""
        from spiketrack.traffic import ground_kernels, panel_kernels, street_kernels

        pictures = (intensity, albedo, lamp)
        for picture in pictures:
            picture.fill(0)
        depth.fill(np.inf)
        free, front = np.ones_like(depth), np.full_like(depth, np.inf)
        ground = (self._roads, self._strips, self._lines, self._bars)
        shade = (self._table, self._maps, self._frame)
        panels, rods, light = self._panels, self._rods, (self._tones, self._sky)
        middles = panels[:, :3] + 0.5 * (panels[:, 3:6] * panels[:, 9:10] + panels[:, 6:9] * panels[:, 10:11])
        order = _far_to_near(numbers, middles)[::-1].copy()
        panel_kernels.paint_panels(numbers, panels, order, *light, *shade, *pictures, depth, free, front)

        def paint_band(top: int) -> None:
            band = numbers.copy()
            band[14] -= top
            rows = slice(top, top + _BAND)
            ground_kernels.paint_ground(
                band, *light, *ground, *shade, *(picture[rows] for picture in pictures), free[rows]
            )

        list(self._pool.map(paint_band, range(0, len(depth), _BAND)))
        order = _far_to_near(numbers, 0.5 * (rods[:, :3] + rods[:, 3:6]))
        street_kernels.paint_rods(numbers, rods, order, self._maps, self._frame, *pictures, depth)

    def _draw_leaves(
        self,
        camera: Camera,
        t_us: int,
        tiles: NDArray[np.bool_],
        behind: NDArray[np.float32],
        intensity: NDArray[np.float32],
        albedo: NDArray[np.float32],
        lamp: NDArray[np.float32],
        depth: NDArray[np.float32],
        is_full: bool,
    ) -> None:
        """Leaves on the tiles, where the wind has them at t_us."""
        from spiketrack.traffic import street_kernels

        numbers = _numbers(camera, 1)
        trees = self._trees
        order = _far_to_near(numbers, trees[:, :3])
        moves = _moves(self._winds, t_us)
        pictures = (behind, intensity, albedo, lamp, depth)
        street_kernels.paint_leaves(numbers, trees, order, moves, self._leaves, self._table, tiles, *pictures, is_full)

    def _plan_stirring(self, camera: Camera) -> None:
        """Find the tiles on which trees are seen to move."""
        trees, winds = self._trees, self._winds
        tiles = np.zeros((-(-camera.height // TILE), -(-camera.width // TILE)), np.bool_)
        self._drawn_moves, self._px_per_m = _moves(winds, 0), np.zeros(len(trees))
        for number, (tree, amplitude) in enumerate(zip(trees, winds[:, 0], strict=True)):
            leaves = self._leaves[int(tree[4]) : int(tree[5])]
            seen = camera.to_camera(leaves[:, :3])
            reach = 3.2 * amplitude
            # the ball in which a leaf moves, against the sides of the view
            ball = reach + leaves[:, 3] + 2 * np.maximum(seen[:, 2], 0) / camera.focal_px
            in_front = seen[:, 2] + reach > 2 * NEAREST_M
            for axis, size in ((0, camera.width / 2), (1, camera.height / 2)):
                beyond = np.abs(seen[:, axis]) * camera.focal_px - seen[:, 2] * size
                in_front &= beyond < ball * np.hypot(camera.focal_px, size)
            if not in_front.any():
                continue
            x, y, z = seen[in_front].T
            near = np.maximum(z - reach, 2 * NEAREST_M)
            if amplitude * camera.focal_px / near.min() < _STILL_PX:
                continue
            self._px_per_m[number] = camera.focal_px / max(float(np.linalg.norm(tree[:3] - camera.position)), 1.0)
            cx, cy = camera.width / 2 + camera.focal_px * x / z, camera.height / 2 + camera.focal_px * y / z
            slant = np.hypot(x, y) / near
            ring = camera.focal_px * (reach * (1 + slant) + leaves[in_front, 3]) / near + 2
            # a leaf nearer than its way may be anywhere
            ring = np.where(z > 2 * reach + 2 * NEAREST_M, ring, 1e6)
            for left, top, right, bottom in zip(cx - ring, cy - ring, cx + ring, cy + ring, strict=True):
                if right > 0 and bottom > 0 and left < camera.width and top < camera.height:
                    rows = slice(int(max(top, 0)) // TILE, int(min(bottom, camera.height)) // TILE + 1)
                    tiles[rows, int(max(left, 0)) // TILE : int(min(right, camera.width)) // TILE + 1] = True
        self._stirred, self._stirred_tiles = _rectangles(tiles, camera.width, camera.height), tiles

    def is_stirred(self, t_us: int) -> bool:
        """Whether the wind has moved the leaves of a tree by a tenth of a pixel since `draw` or the last `stir`."""
        way = _moved(self._drawn_moves, _moves(self._winds, t_us)) * self._px_per_m
        return bool((way > _STEP_PX).any())

    def stir(self, t_us: int, camera: Camera, intensity: NDArray[np.float32]) -> list[Region]:
        """Re-draw in place what the wind moves, for a camera that stands still.

        intensity: the picture (H, W) that `draw` filled. Returns the regions (left, top, right, bottom), right and
        bottom exclusive, that may have changed.
        """
        if self._camera != camera or self._bare.shape != intensity.shape:
            self.draw(camera, intensity, np.empty_like(intensity), np.empty_like(intensity))
        self._drawn_moves = _moves(self._winds, t_us)
        for left, top, right, bottom in self._stirred:
            part = np.s_[top:bottom, left:right]
            intensity[part] = self._bare[part]
        if self._stirred:
            pictures = (intensity, self._lamp, self._lamp, self._bare_depth)
            self._draw_leaves(camera, t_us, self._stirred_tiles, self._bare_depth, *pictures, False)
        return list(self._stirred)

    def lamp_light(self, camera: Camera) -> NDArray[np.float32]:
        """The light of street lamps (H, W): the bulbs, and what they shine on; it flickers as a whole."""
        if not self._light.lamps:
            return np.zeros((camera.height, camera.width), np.float32)
        if self._camera != camera:
            pictures = [np.empty((camera.height, camera.width), np.float32) for _ in range(3)]
            self.draw(camera, *pictures, quick=True)
        return self._lamp.copy()


def _numbers(camera: Camera, samples: int) -> NDArray[np.float64]:
    """(16,) as the kernels want it; samples: per pixel and side."""
    numbers = np.zeros(16)
    numbers[:3], numbers[3:12] = camera.position, camera.rotation().ravel()
    numbers[12:15] = np.array([camera.focal_px, camera.width / 2, camera.height / 2]) * samples
    return numbers


def _far_to_near(numbers: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.argsort(-((points - numbers[:3]) @ numbers[9:12]), kind="stable")


def _rectangles(tiles: NDArray[np.bool_], width: int, height: int) -> list[Region]:
    """The set tiles as rectangles in pixels, none of which overlap."""
    done: list[Region] = []
    running: dict[tuple[int, int], int] = {}  # columns of a rectangle that is still growing: its first row
    for row in range(len(tiles) + 1):
        steps = np.flatnonzero(np.diff(tiles[row].astype(np.int8), prepend=0, append=0)) if row < len(tiles) else []
        runs = {(int(a), int(b)) for a, b in zip(steps[::2], steps[1::2], strict=True)}
        for run in [run for run in running if run not in runs]:
            right, bottom = min(run[1] * TILE, width), min(row * TILE, height)
            done.append((run[0] * TILE, running.pop(run) * TILE, right, bottom))
        for run in sorted(runs):
            running.setdefault(run, row)
    return done


def _moves(winds: NDArray[np.float64], t_us: int) -> NDArray[np.float64]:
    """(N, 4): push of each tree in x, y, z (metres) and the angle of its leaves' flutter, at a time.

    winds (N, 8): amplitude m, swing Hz, swing phase, gust Hz, gust phase, wind x, wind y, flutter Hz.
    """
    t = t_us * 1e-6
    a, hertz, phase, gust_hertz, gust_phase, wx, wy, flutter = winds.T
    gust = 0.15 + 0.85 * (0.5 + 0.5 * np.sin(2 * np.pi * gust_hertz * t + gust_phase)) ** 2
    swing = np.sin(2 * np.pi * hertz * t + phase) + 0.35 * np.sin(2 * np.pi * 2.3 * hertz * t + 1.7 * phase)
    push = a * gust * (0.5 + 0.6 * swing)
    lift = 0.3 * a * gust * np.sin(2 * np.pi * 1.4 * hertz * t + 2.1 * phase)
    return np.column_stack([push * wx, push * wy, lift, 2 * np.pi * flutter * t + 1e-9])


def _moved(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,): how far, in metres, a leaf in the middle of each tree moves between two states of `_moves`."""
    push = np.linalg.norm(after[:, :3] - before[:, :3], axis=1)
    flutter = 0.6 * np.linalg.norm(after[:, :3], axis=1) * np.minimum(np.abs(after[:, 3] - before[:, 3]), 2.0)
    return push + flutter
