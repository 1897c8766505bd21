"""Keypoint heatmap targets beside a direct transcription of their definition, and where the time goes.

    python benchmarks/heatmaps.py [ROUNDS] [--threads 1]      default 7 rounds, of which the median counts

37 keypoints, batch 2, one animal, all visible, uniform over the picture (seed 0); Gaussian with locref.
Everything runs in this one process on one thread, as NumPy does; a result is let go before the next call, and a line
says "reused" where `out=` takes the memory of an earlier one. The transcription is `targets_by_definition` below, which
the tests take as the reference too; docs/targets.md says what the published code took on the same kind of machine.

The parts below each table: writing the result's bytes once to fresh and to kept memory, and reading it once.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from spiketrack.detector.heatmaps import HeatmapSettings, heatmap_targets, locref_cells

SIZES = {(64, 64): 4, (225, 225): 2, (513, 641): 2}  # (h, w) of the maps: stride
BAR = 13


def targets_by_definition(
    keypoints: np.ndarray,
    size: tuple[int, int],
    stride: float,
    settings: HeatmapSettings,
    individual_ids: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The definition in NumPy: every image, every map, every point of the map, each over the whole map.

    keypoints: (B, A, K, 3) or (B, K, 3). Returns heatmap, its weights, locref, its weights, as HeatmapTargets has them.
    """
    if keypoints.ndim == 3:
        keypoints = keypoints[:, None]
    images, animals, joints, numbers = keypoints.shape
    if settings.mode == "keypoint":
        groups = keypoints.swapaxes(1, 2)
    else:
        groups = np.full((images, settings.max_individuals, joints, numbers), -1, keypoints.dtype)
        for b in range(images):
            for animal in range(animals):
                if individual_ids[b, animal] >= 0:
                    groups[b, individual_ids[b, animal]] = keypoints[b, animal]
    maps, (height, width) = groups.shape[1], size
    heatmap = np.zeros((images, maps, height, width), np.float32)
    weights = np.ones((images, maps, height, width), np.float32)
    locref = locref_weights = None
    if settings.generate_locref:
        locref = np.zeros((images, 2 * maps, height, width), np.float32)
        locref_weights = np.zeros((images, 2 * maps, height, width), np.int64)
    centres = np.zeros((height, width, 2), np.int64)  # y, x of every cell, cut to integers
    centres[:, :, 0] = (np.arange(height) * stride + stride / 2)[:, None]
    centres[:, :, 1] = np.arange(width) * stride + stride / 2
    for b in range(images):
        for k in range(maps):
            for point in groups[b, k]:
                visibility = point[-1]
                if settings.gradient_masking and visibility == 0:
                    weights[b, k] = settings.background_weight
                elif visibility == -1:
                    weights[b, k] = 0
                elif visibility > 0:
                    offset = point[1::-1] - centres  # (h, w, 2) float64: y, x
                    if settings.shape == "gaussian":
                        squares = np.linalg.norm(offset, axis=2) ** 2
                        heatmap[b, k] = np.maximum(heatmap[b, k], np.exp(-squares / (2 * settings.std**2)))
                    else:
                        squares = (offset**2).sum(axis=2)
                    disc = squares <= settings.pos_dist_thresh**2
                    drawn = slice(None) if settings.shape == "gaussian" else disc
                    if settings.shape == "plateau":
                        heatmap[b, k, disc] = 1
                    if locref is not None:
                        locref[b, 2 * k, drawn] = offset[drawn][..., 1] / settings.locref_std
                        locref[b, 2 * k + 1, drawn] = offset[drawn][..., 0] / settings.locref_std
                        locref_weights[b, 2 * k : 2 * k + 2, disc] = 1
    return heatmap, weights, locref, locref_weights


def milliseconds(call: Callable[[], object], rounds: int) -> float:
    seconds = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - begin)
        del result
    return 1e3 * statistics.median(seconds[1:])


def measure(size: tuple[int, int], stride: int, rounds: int) -> None:
    (height, width), rng = size, np.random.default_rng(0)
    keypoints = rng.uniform(0, 1, (2, 1, 37, 3)) * [width * stride, height * stride, 1]
    keypoints[..., 2] = 1
    array = keypoints.astype(np.float32)
    tensor, double, single = torch.from_numpy(array), HeatmapSettings(), HeatmapSettings(arithmetic="float32")
    kept = heatmap_targets(tensor, size, stride, single)
    contenders: dict[str, Callable[[], object]] = {
        "transcription": lambda: targets_by_definition(array, size, stride, double),
        "float64, fresh": lambda: heatmap_targets(tensor, size, stride, double),
        "float64, reused": lambda: heatmap_targets(tensor, size, stride, double, out=kept),
        "float32, fresh": lambda: heatmap_targets(tensor, size, stride, single),
        "float32, reused": lambda: heatmap_targets(tensor, size, stride, single, out=kept),
    }
    took = {name: milliseconds(call, rounds) for name, call in contenders.items()}
    print(f"{height} x {width}, stride {stride}")
    for name, duration in took.items():
        print(f"  {name:<34}{duration:>9.2f} ms{took['transcription'] / duration:>8.1f} x   (bar {BAR} x)")
    dense = [kept.heatmap, kept.locref]
    parts: dict[str, Callable[[], object]] = {
        "heatmap and locref, fresh pages": lambda: [torch.empty_like(part).fill_(1) for part in dense],
        "heatmap and locref, kept pages": lambda: [part.fill_(1) for part in dense],
        "locref weights, fresh pages": lambda: torch.empty_like(kept.locref_weights).zero_(),
        "locref weights, kept pages": lambda: kept.locref_weights.zero_(),
        "read locref weights once": lambda: kept.locref_weights.sum(),
        "sparse locref (locref_cells)": lambda: locref_cells(tensor, size, stride, double),
    }
    for name, call in parts.items():
        print(f"    {name:<32}{milliseconds(call, rounds):>9.2f} ms")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", type=int, nargs="?", default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for size, stride in SIZES.items():
        measure(size, stride, arguments.rounds)


if __name__ == "__main__":
    main()
