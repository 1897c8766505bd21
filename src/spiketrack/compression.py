"""Compression: the forms of one detector side by side, in size, speed, energy and accuracy.

Station: of `spiketrack compress`. In come detectors, the first as the measure of the others (those fine-tuned while
they were pruned, say), labelled sequences and recordings to calibrate on. Out comes a row for every form of each: as
trained, fused, on onnxruntime in float32 and with 8-bit weights and convolutions; of a quantised one as trained and as
its 8-bit file. And the same of the first without a share of its channels.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from spiketrack.datasets.etram import LabelledSequence
from spiketrack.deploy import fuse
from spiketrack.deploy.export import described_model, save_onnx
from spiketrack.deploy.integers import bits_of
from spiketrack.deploy.onnx_runtime import OnnxNetwork
from spiketrack.deploy.prune import prune, settle_norms
from spiketrack.deploy.quantize import quantize, sizes
from spiketrack.detector.catalogue import dense_macs
from spiketrack.detector.checkpoint import save_checkpoint
from spiketrack.detector.spikeyolo import SpikeYOLO
from spiketrack.errors import SettingsError
from spiketrack.evaluation import EvaluationSettings, evaluate
from spiketrack.metrics.efficiency import efficiency
from spiketrack.pipeline import Detector
from spiketrack.recordings import Recording, windows
from spiketrack.spiking.activity import recorded
from spiketrack.tracking import TrackerSettings

REPEATS = 20
SETTLE_STEPS = 4
ENERGY_STEPS = 8  # of each recording, the last of those to calibrate on

FORMS = ("as trained", "fused", "onnxruntime", "int8")


@dataclass(frozen=True)
class CompressionSettings:
    """size: (width, height) of the input whose latency and operations are measured. prune: share of inner channels to
    take out without training, 0: no such forms. steps: how many time steps of each recording to calibrate on. forms:
    which of FORMS to compare; the others cost no time."""

    size: tuple[int, int]
    prune: float = 0.0
    steps: int = 40
    forms: tuple[str, ...] = FORMS


class Form(NamedTuple):
    """One form of the network: its name, something with the network's call, where it lies and how large that is.

    parts: bytes of the file by what they hold. energy_mj: of one step, by SpikeYOLO's rule, from the activity of the
    fused network in 32 bit.
    """

    name: str
    network: Any
    file: str
    bytes: int
    parts: dict[str, int]
    parameters: int
    macs: int
    energy_mj: float


@dataclass(frozen=True)
class Row:
    """What is known of a form. latency_ms: least CPU time of one step of one image on one thread. energy_mj and parts:
    as of `Form`. Scores in [0, 1]."""

    name: str
    file: str
    bytes: int
    parts: dict[str, int]
    parameters: int
    macs: int
    energy_mj: float
    latency_ms: float
    map: float
    ap50: float
    hota: float


def compress(
    detectors: Mapping[str, Detector],
    sequences: Sequence[LabelledSequence],
    calibration: Sequence[Recording],
    settings: CompressionSettings,
    rules: tuple[EvaluationSettings, TrackerSettings],
    out: Path,
    on_form: Callable[[int, int | None, str], None] = lambda done, total, name: None,
) -> list[Row]:
    """A row for every form of every detector, whose files are written into `out`; the first row is the measure.

    detectors: by the word that stands before the names of their forms, none for the first. calibration: recordings
    that quantisation and, for untrained pruning, norms are fitted to; none of `sequences`, unless the scores may
    flatter them. on_form(done, total, name) is called after each. Runs on one thread of the CPU. Raises SettingsError
    for another family than SpikeYOLO and SSD, or pruning of other than SpikeYOLO.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        first = next(iter(detectors.values()))
        planes = [first_planes(first, recording, settings.steps) for recording in calibration]
        candidates = dict(detectors)
        if settings.prune:
            candidates["pruned, untrained"] = _pruned(first, settings.prune, planes)
        rows = []
        total = sum(len(forms_of(detector, settings)) for detector in candidates.values())
        for name, detector in candidates.items():
            for form in _made_forms(detector, name, planes, settings, out):
                rows.append(_row(form, detector, sequences, settings, rules))
                on_form(len(rows), total, form.name)
        return rows
    finally:
        torch.set_num_threads(threads)


def _pruned(detector: Detector, share: float, planes: list[NDArray[np.float32]]) -> Detector:
    """The detector without that share of its inner channels, nothing trained but its norms measured anew."""
    if not isinstance(detector.model, SpikeYOLO):
        raise SettingsError(f"{detector.name}: only SpikeYOLO can be pruned; leave out --prune")
    pruned = prune(detector.model, share)
    settle_norms(pruned, _pieces(planes, next(pruned.parameters()).device))
    return replace(detector, model=pruned)


def forms_of(detector: Detector, settings: CompressionSettings) -> tuple[str, ...]:
    """Which forms there are of a detector; of a quantised one what was trained, and its 8-bit file."""
    exact = bits_of(detector.model) is not None
    return tuple(form for form in settings.forms if not exact or form in ("as trained", "int8"))


def _made_forms(
    detector: Detector, name: str, planes: list[NDArray[np.float32]], settings: CompressionSettings, out: Path
) -> Iterator[Form]:
    width, height = settings.size
    network, details, fused = detector.model, detector.content(), fuse(detector.model)
    channels = network.in_channels
    stem = name.replace(", ", "_").replace(" ", "_") or "network"
    energy, forms = energy_mj(fused, planes), forms_of(detector, settings)

    def form(kind: str, network: Any, counted: torch.nn.Module, file: str, parts: dict[str, int]) -> Form:
        parameters = sum(p.numel() for p in counted.parameters())
        macs = dense_macs(counted, channels, height, width)
        title = f"{name}, {kind}" if name else kind
        return Form(title, network, file, sum(parts.values()), parts, parameters, macs, energy)

    if "as trained" in forms:
        save_checkpoint(out / f"{stem}.pt", details)
        weights = sum(tensor.nbytes for tensor in details["weights"].values())
        parts = {"weights": weights, "rest": (out / f"{stem}.pt").stat().st_size - weights}
        yield form("as trained", network, network, f"{stem}.pt", parts)
    if "fused" in forms:
        yield form("fused", fused, fused, "-", {"weights": _weights_bytes(fused)})
    if not {"onnxruntime", "int8"} & set(forms):
        return
    model = described_model(network, details)
    for kind, file in (("onnxruntime", f"{stem}.onnx"), ("int8", f"{stem}_int8.onnx")):
        if kind in forms:
            made = model if kind == "onnxruntime" or bits_of(network) is not None else quantize(model, planes)
            save_onnx(made, out / file)
            yield form(kind, OnnxNetwork.load(out / file), fused, file, sizes(made))


def energy_mj(fused: torch.nn.Module, planes: list[NDArray[np.float32]]) -> float:
    """Millijoules of one time step by SpikeYOLO's rule (metrics.efficiency), over some steps of each recording.

    planes: (T, 1, C, H, W) of each. Raises SettingsError where there is no step.
    """
    with recorded(fused) as activity, torch.inference_mode():
        for sequence in planes:
            state = None
            for x in torch.from_numpy(sequence[-ENERGY_STEPS:]):
                _, state = fused(x[None], state)
    if not activity.steps:
        raise SettingsError("compress: the recordings to calibrate on hold no events")
    return efficiency(activity, fused).energy_mj


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
    facts = form.name, form.file, form.bytes, form.parts, form.parameters, form.macs, form.energy_mj
    return Row(*facts, latency, *map(float, scores))


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


def first_planes(detector: Detector, recording: Recording, steps: int) -> NDArray[np.float32]:
    """(T, 1, C, H, W), what the network sees of the first steps of a recording."""
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
