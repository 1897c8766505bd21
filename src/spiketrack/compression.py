"""Compression: the forms of one detector side by side, in size, speed and accuracy.

Station: of `spiketrack compress`. In come a detector, labelled sequences and recordings to calibrate on, out comes a
row for every form: as trained, fused, on onnxruntime in float32 and with 8-bit convolutions, and the same again
without a share of its channels.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from spiketrack.datasets.etram import LabelledSequence
from spiketrack.deploy import fuse
from spiketrack.deploy.export import onnx_model, save_onnx, set_details
from spiketrack.deploy.onnx_runtime import OnnxNetwork
from spiketrack.deploy.prune import prune, settle_norms
from spiketrack.deploy.quantize import quantize
from spiketrack.detector.catalogue import dense_macs
from spiketrack.detector.checkpoint import save_checkpoint
from spiketrack.detector.spikeyolo import SpikeYOLO
from spiketrack.errors import SettingsError
from spiketrack.evaluation import EvaluationSettings, evaluate
from spiketrack.pipeline import Detector
from spiketrack.recordings import Recording, windows
from spiketrack.tracking import TrackerSettings

REPEATS = 20
SETTLE_STEPS = 4


@dataclass(frozen=True)
class CompressionSettings:
    """size: (width, height) of the input whose latency and operations are measured. prune: share of inner channels to
    take out, 0: no pruned forms. steps: how many time steps of each recording to calibrate on."""

    size: tuple[int, int]
    prune: float = 0.0
    steps: int = 40


class Form(NamedTuple):
    """One form of the network: its name, something with the network's call, where it lies and how large that is."""

    name: str
    network: Any
    file: str
    bytes: int
    parameters: int
    macs: int


@dataclass(frozen=True)
class Row:
    """What is known of a form. latency_ms: least CPU time of one step of one image on one thread. Scores in [0, 1]."""

    name: str
    file: str
    bytes: int
    parameters: int
    macs: int
    latency_ms: float
    map: float
    ap50: float
    hota: float


def compress(
    detector: Detector,
    sequences: Sequence[LabelledSequence],
    calibration: Sequence[Recording],
    settings: CompressionSettings,
    rules: tuple[EvaluationSettings, TrackerSettings],
    out: Path,
    on_form: Callable[[int, int | None, str], None] = lambda done, total, name: None,
) -> list[Row]:
    """A row for every form, whose files are written into `out`; the first row is the network as trained.

    calibration: recordings that quantisation and, for pruned forms, norms are fitted to; none of `sequences`, unless
    the scores may flatter them. on_form(done, total, name) is called after each. Runs on one thread of the CPU. Raises
    SettingsError for another family than SpikeYOLO and SSD, or pruning of other than SpikeYOLO.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        planes = [_planes(detector, recording, settings.steps) for recording in calibration]
        total = 8 if settings.prune else 4
        rows = []
        for form in _forms(detector, planes, settings, out):
            rows.append(_row(form, detector, sequences, settings, rules))
            on_form(len(rows), total, form.name)
        return rows
    finally:
        torch.set_num_threads(threads)


def _forms(
    detector: Detector, planes: list[NDArray[np.float32]], settings: CompressionSettings, out: Path
) -> Iterator[Form]:
    yield from _forms_of(detector, "", planes, settings, out)
    if settings.prune:
        if not isinstance(detector.model, SpikeYOLO):
            raise SettingsError(f"{detector.name}: only SpikeYOLO can be pruned; leave out --prune")
        pruned = prune(detector.model, settings.prune)
        settle_norms(pruned, _pieces(planes, next(pruned.parameters()).device))
        yield from _forms_of(replace(detector, model=pruned), "pruned ", planes, settings, out)


def _forms_of(
    detector: Detector, prefix: str, planes: list[NDArray[np.float32]], settings: CompressionSettings, out: Path
) -> Iterator[Form]:
    width, height = settings.size
    network, details, stem = detector.model, detector.content(), prefix.strip() or "network"
    fused = fuse(network)

    def form(name: str, network: Any, counted: torch.nn.Module, file: str, size: int) -> Form:
        parameters = sum(p.numel() for p in counted.parameters())
        return Form(prefix + name, network, file, size, parameters, dense_macs(counted, channels, height, width))

    channels = network.in_channels
    save_checkpoint(out / f"{stem}.pt", details)
    yield form("as trained", network, network, f"{stem}.pt", (out / f"{stem}.pt").stat().st_size)
    yield form("fused", fused, fused, "-", _weights_bytes(fused))
    model = onnx_model(network)
    set_details(model, {key: value for key, value in details.items() if key != "weights"})
    size = save_onnx(model, out / f"{stem}.onnx")
    yield form("onnxruntime", OnnxNetwork.load(out / f"{stem}.onnx"), fused, f"{stem}.onnx", size)
    size = save_onnx(quantize(model, planes), out / f"{stem}_int8.onnx")
    yield form("int8", OnnxNetwork.load(out / f"{stem}_int8.onnx"), fused, f"{stem}_int8.onnx", size)


def _row(
    form: Form,
    detector: Detector,
    sequences: Sequence[LabelledSequence],
    settings: CompressionSettings,
    rules: tuple[EvaluationSettings, TrackerSettings],
) -> Row:
    result = evaluate(replace(detector, model=form.network), sequences, *rules)
    latency = step_ms(form.network, settings.size)
    scores = result.detection.map, result.detection.ap50, result.tracking.class_average.hota
    return Row(form.name, form.file, form.bytes, form.parameters, form.macs, latency, *map(float, scores))


@torch.inference_mode()
def step_ms(network: Any, size: tuple[int, int], repeats: int = REPEATS) -> float:
    """Least CPU milliseconds of one time step of one image, with the state carried on, on this thread alone.

    size: (width, height). The input are counts of which a tenth are not 0. Torch must be set to one thread.
    """
    width, height = size
    generator = torch.Generator().manual_seed(0)
    x = torch.poisson(torch.full((1, 1, network.in_channels, height, width), 0.1), generator)
    _, state = network(x)
    least = float("inf")
    for _ in range(repeats):
        began = time.thread_time()
        _, state = network(x, state)
        least = min(least, time.thread_time() - began)
    return least * 1000


def _planes(detector: Detector, recording: Recording, steps: int) -> NDArray[np.float32]:
    """(T, 1, C, H, W) of the first steps of a recording."""
    shown = detector.input
    seen = islice(windows(recording, shown.seen_us, stride_us=shown.slice_us), steps)
    encoded = [shown.encode(window, window.end_us) for window in seen]
    height, width = shown.size(recording.height, recording.width)
    empty = np.zeros((0, 1, shown.channels, height, width), np.float32)
    return np.concatenate([empty, *(planes[:, None] for planes in encoded)]).astype(np.float32)


def _pieces(planes: Iterable[NDArray[np.float32]], device: torch.device) -> Iterator[torch.Tensor]:
    """A few steps at a time, for the norms."""
    for sequence in planes:
        for start in range(0, len(sequence), SETTLE_STEPS):
            yield torch.from_numpy(sequence[start : start + SETTLE_STEPS]).to(device)


def _weights_bytes(network: torch.nn.Module) -> int:
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    return buffer.getbuffer().nbytes


def compression_values(rows: list[Row]) -> list[dict[str, Any]]:
    """The rows for JSON, each with its size and speed as multiples of the first's."""
    first = rows[0]
    return [
        {**asdict(row), "smaller": first.bytes / row.bytes, "faster": first.latency_ms / row.latency_ms} for row in rows
    ]
