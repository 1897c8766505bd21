"""Pipeline: recording -> events -> representation -> detections -> tracks, on one screen.

Station: everything that infers runs through here, one time step after the other, with the network's state handed
from chunk to chunk, in memory that does not depend on the length of the recording.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError

from spiketrack.boxes import Boxes
from spiketrack.deploy import fuse
from spiketrack.deploy.exact import exact, largest_count
from spiketrack.deploy.integers import bare_integers, bits_of
from spiketrack.deploy.onnx_runtime import OnnxNetwork
from spiketrack.deploy.prune import fit_widths, is_pruned
from spiketrack.detector.checkpoint import load_checkpoint, load_weights
from spiketrack.detector.families import DEFAULT_FAMILY, Family, Network, family_named
from spiketrack.detector.shipped import shipped_weights
from spiketrack.detector.spikeyolo import SpikeYOLO
from spiketrack.errors import CheckpointError, SettingsError
from spiketrack.events import Window
from spiketrack.recordings import Recording, open_recording, windows
from spiketrack.representations import InputSettings
from spiketrack.tracking import ByteTrackSettings, Tracker

# The shipped network's scores are low: with ByteTrack's own thresholds (0.5, 0.6) nothing would be tracked.
SHIPPED_TRACKING = ByteTrackSettings(low_score=0.1, high_score=0.25, new_score=0.25, match_limit=0.9)


class Step(NamedTuple):
    """One time step: its events, and what was found in them; the boxes' time is the end of the slice.

    embeddings: (N, D) float32, one a detection, of networks that make some.
    """

    window: Window
    detections: Boxes
    embeddings: NDArray[np.float32] | None = None


class TrackedStep(NamedTuple):
    """One time step with identities."""

    window: Window
    detections: Boxes
    tracks: Boxes


@dataclass(frozen=True, eq=False)
class Detector:
    """A network with everything that its use needs: how events are counted, how predictions are read, class names."""

    model: Network
    input: InputSettings
    decoding: BaseModel
    class_names: tuple[str, ...]

    @property
    def name(self) -> str:
        """The network in words: its family, and its scale or backbone."""
        return self.family.title(self.model.settings)

    @property
    def family(self) -> Family:
        """The kind of network that `model` is."""
        return family_named(self.model.settings.family)

    @classmethod
    def build(
        cls, model: BaseModel, input: InputSettings, decoding: BaseModel, class_names: tuple[str, ...]
    ) -> Detector:
        """A fresh network of the family that `model` names, randomly initialised from torch's generator."""
        family = family_named(model.model_dump()["family"])
        return cls(family.network(model, input.channels, len(class_names)), input, decoding, class_names)

    @classmethod
    def shipped(cls, device: str = "cpu") -> Detector:
        """The network that comes with the package, trained on simulated traffic (docs/model_card.md), ready to infer.

        Raises CheckpointError where the installation lacks it, SettingsError for a device that is not there.
        """
        return cls.load(shipped_weights(), device)

    @classmethod
    def load(cls, path: Path | str, device: str = "cpu") -> Detector:
        """Rebuild the detector of a checkpoint, ready to infer; float16 weights become the same numbers in float32.

        An exported network, a file that ends in .onnx, runs on onnxruntime. Raises CheckpointError for anything else,
        SettingsError for a device that is not there, or is not the CPU for an exported network.
        """
        if Path(path).suffix == ".onnx":
            if device != "cpu":
                raise SettingsError(f"{path}: onnxruntime runs on the CPU here; leave the device cpu, got {device}")
            return cls._of_onnx(OnnxNetwork.load(path), Path(path))
        content = load_checkpoint(Path(path))
        try:
            family = family_named(content["model"].get("family", DEFAULT_FAMILY))
            detector = cls.build(
                family.model.model_validate(content["model"]),
                InputSettings.model_validate(content["input"]),
                family.decoding.model_validate(content["decoding"]),
                tuple(content["class_names"]),
            )
            weights = content["weights"]
            bits, pruned = content.get("quantized"), content.get("pruned")
            if bits is not None:
                counts = largest_count(detector.input)
                bare = bare_integers(detector.model, int(bits), counts, weights if pruned else None)
                detector = replace(detector, model=bare)
            elif pruned and isinstance(detector.model, SpikeYOLO):
                fit_widths(detector.model, weights)
        except (KeyError, TypeError, AttributeError, SettingsError, ValidationError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise CheckpointError(f"{path}: the checkpoint does not describe a detector ({reason})") from error
        load_weights(detector.model, weights, Path(path))
        broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
        if broken:
            raise CheckpointError(
                f"{path}: {len(broken)} of {len(weights)} tensors are not finite, first {broken[0]}; train again, or "
                "take an earlier checkpoint"
            )
        detector.model.to(usable_device(device)).eval()
        return detector

    @classmethod
    def _of_onnx(cls, network: OnnxNetwork, path: Path) -> Detector:
        """The detector of an exported network, whose file says what the checkpoint said."""
        try:
            shown = InputSettings.model_validate(network.details["input"])
            family = family_named(network.details["model"].get("family", DEFAULT_FAMILY))
            decoding = family.decoding.model_validate(network.details["decoding"])
        except (KeyError, ValidationError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise CheckpointError(f"{path}: the file does not describe a detector ({reason})") from error
        # called like a network, which is all that inference asks of it
        return cls(cast(Network, network), shown, decoding, tuple(network.details["class_names"]))

    def exact(self) -> Detector:
        """The same detector, fused, as an exported file holds it: on torch it gives the very numbers of onnxruntime.

        Of a SpikeYOLO that reads counts weights are rounded so finely that sums have no rounding error (deploy.exact);
        any other is only fused.
        """
        if isinstance(self.model, OnnxNetwork):
            return self
        return replace(self, model=exact(self.model, largest_count(self.input)))

    def on_onnx(self) -> Detector:
        """The same detector on onnxruntime, on as many threads as torch may use now. Raises SettingsError as
        `deploy.export.export_onnx` does."""
        from spiketrack.deploy.export import described_model

        if isinstance(self.model, OnnxNetwork):
            return self
        model = described_model(self.model, self.content())
        return replace(self, model=cast(Network, OnnxNetwork(model.SerializeToString(), self.name)))

    def resized(self, width: int, height: int) -> Detector:
        """The same network on an input of another size, in pixels. Raises SettingsError for a size below 1."""
        if min(width, height) < 1:
            raise SettingsError(f"an input of {width} x {height} pixels cannot be; give at least 1 x 1")
        return replace(self, input=self.input.resized(width, height))

    def fused(self) -> Detector:
        """The same detector with every batch norm folded into its convolution, for inference: outputs agree to 1e-5.

        The commands infer with it. It holds copies of the weights, and a checkpoint of it cannot be loaded. An
        exported network is fused already.
        """
        if isinstance(self.model, OnnxNetwork):
            return self
        return replace(self, model=fuse(self.model))

    def content(self) -> dict[str, Any]:
        """What a checkpoint must hold for `load`. pruned: where layers are narrower than the settings say. quantized:
        bits of the weights of a network in integers (`deploy.integers`), which is fused."""
        bits = bits_of(self.model)
        return {
            "model": self.model.settings.model_dump(),
            "input": self.input.model_dump(),
            "decoding": self.decoding.model_dump(),
            "class_names": list(self.class_names),
            "weights": self.model.state_dict(),
            **({"pruned": True} if is_pruned(self.model) else {}),
            **({} if bits is None else {"quantized": bits}),
        }

    def detect(
        self,
        source: Recording | Path | str,
        *,
        start_us: int | None = None,
        end_us: int | None = None,
        chunk_steps: int = 8,
        reset_every: int | None = None,
    ) -> Iterator[Step]:
        """Detections of every time step [start + k * slice, + slice) of a recording, in order.

        start_us: default the first event. end_us: default through the last event, else only steps that end by then.
        chunk_steps: most steps that the network sees at once; the result does not depend on it. reset_every: steps
        after which the state is forgotten; default never.
        """
        recording = source if isinstance(source, Recording) else open_recording(source)
        height, width = self.input.size(recording.height, recording.width)
        family = self.family
        if min(height, width) < family.least_side:
            raise SettingsError(
                f"{recording.path}: an input of {width} x {height} pixels is smaller than a cell of the network "
                f"({family.least_side} pixels)"
            )
        device = next(self.model.parameters()).device
        x0, y0, *seen = self.input.seen_area(recording.height, recording.width)  # (x0, y0, width, height)
        scale = (seen[0] / width, seen[1] / height)
        state, done = None, 0
        for group in _grouped(self._windows(recording, start_us, end_us), chunk_steps, reset_every):
            planes = np.concatenate([self.input.encode(window, window.end_us) for window in group])  # (T, C, H, W)
            with torch.inference_mode():
                x = torch.from_numpy(planes).to(device).float()[:, None]  # (T, 1, C, H, W)
                fresh = reset_every is not None and done % reset_every == 0
                predictions, state = self.model(x, None if fresh else state)
            done += len(group)
            times = np.array([[window.end_us] for window in group], np.int64)
            decoded = family.decode(predictions, times, self.decoding, scale=scale, sensor=(seen[0], seen[1]))
            for window, ((boxes, embeddings),) in zip(group, decoded, strict=True):
                detections = replace(boxes, xyxy=boxes.xyxy + np.array([x0, y0, x0, y0], np.float32))
                own = Window.of(window, window.end_us - self.input.slice_us, window.end_us)
                yield Step(own, detections, embeddings)

    def _windows(self, recording: Recording, start_us: int | None, end_us: int | None) -> Iterator[Window]:
        """What each time step sees; the first step begins at start_us, or at the first event."""
        if start_us is None:
            first = next(windows(recording, self.input.slice_us), None)
            if first is None:
                return iter(())
            start_us = first.start_us
        earlier = self.input.seen_us - self.input.slice_us
        return windows(
            recording, self.input.seen_us, stride_us=self.input.slice_us, start_us=start_us - earlier, end_us=end_us
        )


def usable_device(name: str) -> torch.device:
    """The device of that name. Raises SettingsError where torch does not know it or has none."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise SettingsError(f"device {name!r} cannot be used ({reason}); expected cpu, cuda or cuda:N") from error


def track(steps: Iterable[Step], tracker: Tracker) -> Iterator[TrackedStep]:
    """Give the detections of consecutive steps identities."""
    for step in steps:
        tracks = tracker.update(step.detections, step.window.end_us, embeddings=step.embeddings, events=step.window)
        yield TrackedStep(step.window, step.detections, tracks)


def _grouped(items: Iterable[Window], size: int, cut: int | None) -> Iterator[list[Window]]:
    """Groups of at most `size`; after every `cut` items a new one begins."""
    group: list[Window] = []
    for number, item in enumerate(items, start=1):
        group.append(item)
        if len(group) == size or (cut is not None and number % cut == 0):
            yield group
            group = []
    if group:
        yield group
