"""ONNX Runtime: an exported network under the call of the trained one, `predictions, state = network(x, state)`.

Station: in the place of the network of a `pipeline.Detector`. The file holds one time step (see `export`); a call
with T steps runs it T times, so that the result does not depend on how a recording is cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

from spiketrack.detector.families import DEFAULT_FAMILY, family_named
from spiketrack.detector.spikeyolo import Predictions, by_location, locations
from spiketrack.detector.ssd import SSDPredictions, SSDSettings
from spiketrack.detector.ssd_match import AspectRatios, prior_boxes, priors_per_cell
from spiketrack.errors import CheckpointError, SettingsError
from spiketrack.spiking.neurons import State

INPUT, MAP, STATE, NEXT = "events", "map_{}", "state_{}", "next_{}"
"""Names of an exported graph's inputs and outputs; the numbers begin at 0."""

DETAILS = "spiketrack"
"""Key of the metadata under which the rest of the checkpoint lies, as JSON."""

CPU = torch.device("cpu")


class OnnxNetwork:
    """A network on onnxruntime; `settings` as of the trained one, `details` what the checkpoint said beside weights.

    Runs on the CPU, on as many threads as torch may use when it is made. State and predictions are torch tensors and
    mean what they mean in the trained network, to which a state may be handed and back.
    """

    def __init__(self, model: bytes, name: str = "model.onnx") -> None:
        """model: an ONNX file's content. name: of it, for messages. Raises CheckpointError for any other file."""
        self.session = start_session(model, name)
        found = self.session.get_modelmeta().custom_metadata_map.get(DETAILS)
        if found is None:
            raise CheckpointError(f"{name}: an ONNX file, but not one that spiketrack exported")
        self.details: dict[str, Any] = json.loads(found)
        settings = self.details["model"]
        self.settings: BaseModel = family_named(settings.get("family", DEFAULT_FAMILY)).model.model_validate(settings)
        self.num_classes = len(self.details["class_names"])
        self._rest = resting_inputs(self.session)
        self.layers = len(self._rest)
        self.in_channels: int = self.session.get_inputs()[0].shape[1]
        self._outputs = [MAP.format(i) for i in range(len(self.session.get_outputs()) - self.layers)]

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """The network of a file. Raises CheckpointError where there is none or another, SettingsError without
        onnxruntime."""
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"{path}: no such ONNX file")
        return cls(path.read_bytes(), str(path))

    def __call__(self, x: Tensor, state: State | None = None) -> tuple[Predictions | SSDPredictions, State]:
        """x: (T, B, C, H, W). Raises ValueError for another number of dimensions or channels, or a foreign state."""
        if x.ndim != 5 or x.shape[2] != self.in_channels or min(x.shape[3:]) < 32 or not len(x):
            raise ValueError(
                f"OnnxNetwork: expected input (T, B, {self.in_channels}, H, W) with H, W >= 32, got {tuple(x.shape)}"
            )
        if state is not None and len(state) != self.layers:
            raise ValueError(f"state of {len(state)} neuron layers given, the network has {self.layers}")
        membranes = self._rest if state is None else [np.ascontiguousarray(rest.numpy()) for rest in state]
        maps: list[list[NDArray[np.float32]]] = []
        for counts in x.numpy():  # (B, C, H, W)
            made, membranes = run_step(self.session, self._outputs, counts, membranes)
            maps.append(made)
        levels = [torch.from_numpy(np.stack(steps)) for steps in zip(*maps, strict=True)]  # (T, B, values, h, w)
        return self._predictions(levels, (x.shape[3], x.shape[4])), tuple(torch.from_numpy(rest) for rest in membranes)

    def eval(self) -> Self:
        """Itself: there is nothing to train."""
        return self

    def parameters(self) -> Iterator[Tensor]:
        """One empty tensor on the device that inputs must be on; the weights are onnxruntime's."""
        yield torch.empty(0, device=CPU)

    def _predictions(self, levels: list[Tensor], image: tuple[int, int]) -> Predictions | SSDPredictions:
        """What the trained network makes of its heads' maps (T, B, values, h, w)."""
        leading = levels[0].shape[:2]
        shapes = tuple((level.shape[3], level.shape[4]) for level in levels)
        flat = [level.flatten(0, 1) for level in levels]
        settings = self.settings
        if not isinstance(settings, SSDSettings):
            return Predictions(by_location(flat).unflatten(0, leading), *locations(shapes, CPU))
        offsets, logits = [], []
        for level, priors in zip(flat, priors_per_cell(settings.aspect_ratios), strict=True):
            rows = level.permute(0, 2, 3, 1)  # (N, h, w, priors * (4 + K))
            offsets.append(rows[..., : 4 * priors].reshape(len(level), -1, 4))
            logits.append(rows[..., 4 * priors :].reshape(len(level), -1, self.num_classes))
        boxes = _priors(shapes, image, settings.aspect_ratios, (settings.least_scale, settings.most_scale))
        return SSDPredictions(
            torch.cat(offsets, dim=1).unflatten(0, leading), torch.cat(logits, dim=1).unflatten(0, leading), boxes
        )


@lru_cache(maxsize=8)
def _priors(
    shapes: tuple[tuple[int, int], ...],
    image: tuple[int, int],
    aspect_ratios: AspectRatios,
    scale_range: tuple[float, float],
) -> Tensor:
    return prior_boxes(shapes, image, aspect_ratios, scale_range, CPU)


def start_session(model: bytes, name: str) -> Any:
    """An onnxruntime session on the CPU, on as many threads as torch may use now. name: of the file, for messages.

    Raises CheckpointError for what is no ONNX model, SettingsError where onnxruntime is not installed.
    """
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as failures  # ty: ignore[missing-module-member]
    except ImportError as error:
        raise SettingsError('running an ONNX file needs onnxruntime: pip install "spiketrack[export]"') from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except (failures.Fail, failures.InvalidProtobuf, failures.InvalidGraph, failures.InvalidArgument) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise CheckpointError(f"{name}: onnxruntime cannot read it ({reason})") from error


def resting_inputs(session: Any) -> list[NDArray[np.float32]]:
    """The state of rest, one value a channel of every neuron layer: the graph spreads it over maps of any size."""
    states = session.get_inputs()[1:]
    return [np.zeros([1 if isinstance(side, str) else side for side in value.shape], np.float32) for value in states]


def run_step(
    session: Any, outputs: list[str], counts: NDArray[np.float32], membranes: list[NDArray[np.float32]]
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """The named outputs of one time step, and the next membranes. counts: (B, C, H, W)."""
    given = {STATE.format(i): membrane for i, membrane in enumerate(membranes)}
    following = [NEXT.format(i) for i in range(len(membranes))]
    made = session.run([*outputs, *following], {INPUT: np.ascontiguousarray(counts), **given})
    return made[: len(outputs)], made[len(outputs) :]
