"""Estimator: a network that finds the joints of pedestrians, with everything that its use needs.

Station: in come batches of crops, out come joints in input pixels, or, of the boxes of a window of events, in sensor
pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from spiketrack.detector.checkpoint import load_checkpoint, load_weights
from spiketrack.errors import CheckpointError
from spiketrack.events import Window
from spiketrack.keypoints.crops import CROP_DTYPE, Crops, CropSettings, cut, region_of
from spiketrack.keypoints.joints import JOINTS
from spiketrack.keypoints.loss import KeypointLossSettings, decode_keypoints
from spiketrack.keypoints.network import KeypointMaps, KeypointModelSettings, KeypointNetwork
from spiketrack.keypoints.samples import CropBatches, CropInput, to_sensor
from spiketrack.pipeline import usable_device

TASK = "keypoints"


@dataclass(frozen=True, eq=False)
class KeypointEstimator:
    """A network, the input and the crops it was made for, and what its maps mean.

    mean_pose: (15, 2) float32, the mean place of each joint in the training boxes, 0 .. 1 from their corner: what to
    say without looking at the events, for comparison.
    """

    model: KeypointNetwork
    settings: KeypointModelSettings
    input: CropInput
    crops: CropSettings
    loss: KeypointLossSettings
    mean_pose: NDArray[np.float32]

    @classmethod
    def build(
        cls,
        settings: KeypointModelSettings,
        input: CropInput,
        crops: CropSettings,
        loss: KeypointLossSettings,
        mean_pose: NDArray[np.float32],
    ) -> KeypointEstimator:
        """A fresh one, its weights drawn from torch's generator."""
        model = KeypointNetwork(settings, input.channels, len(JOINTS))
        return cls(model, settings, input, crops, loss, mean_pose)

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> KeypointEstimator:
        """Read a checkpoint. Raises CheckpointError where it is not one of a keypoint network."""
        content = load_checkpoint(path)
        if content.get("task") != TASK:
            raise CheckpointError(f"{path}: not the checkpoint of keypoints; `spiketrack keypoints train` makes one")
        try:
            if tuple(content["joints"]) != JOINTS:
                raise CheckpointError(f"{path}: of other joints ({', '.join(content['joints'])})")
            estimator = cls.build(
                KeypointModelSettings.model_validate(content["model"]),
                CropInput.model_validate(content["input"]),
                CropSettings.model_validate(content["crops"]),
                KeypointLossSettings.model_validate(content["loss"]),
                content["mean_pose"].numpy(),
            )
        except (KeyError, TypeError, AttributeError, ValidationError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{path}: its settings are not those of this version ({reason})") from error
        load_weights(estimator.model, content["weights"], path)
        estimator.model.to(usable_device(device)).eval()
        return estimator

    def content(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "task": TASK,
            "joints": list(JOINTS),
            "model": self.settings.model_dump(),
            "input": self.input.model_dump(),
            "crops": self.crops.model_dump(),
            "loss": self.loss.model_dump(),
            "mean_pose": torch.from_numpy(self.mean_pose),
            "weights": self.model.state_dict(),
        }

    def maps(self, events: Tensor) -> KeypointMaps:
        """events: (T, B, C, H, W) of any dtype, on any device. Membranes start at rest."""
        device = next(self.model.parameters()).device
        return self.model(events.to(device).float())[0]

    def joints(self, crops: Crops, batch_size: int = 64) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Joints (N, 15, 2) in sensor pixels and their scores (N, 15), of the model in evaluation mode."""
        places = [np.empty((0, len(JOINTS), 2), np.float32)]
        scores = [np.empty((0, len(JOINTS)), np.float32)]
        training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode():
                for batch in CropBatches(crops, self.input, None, batch_size=batch_size, seed=0).epoch(0):
                    found, score = decode_keypoints(self.maps(batch.events), self.loss.locref_std)
                    places.append(found.cpu().numpy())
                    scores.append(score.cpu().numpy())
        finally:
            self.model.train(training)
        size = (self.input.width, self.input.height)
        return to_sensor(np.concatenate(places), region_of(crops.rows), size), np.concatenate(scores)

    def find(self, window: Window, xyxy: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Joints (N, 15, 2) in sensor pixels and scores (N, 15) of people in boxes (N, 4) at the end of a window.

        The window must reach back `input.duration_us`; only that is looked at.
        """
        rows, parts, count = np.zeros(len(xyxy), CROP_DTYPE), [cut(window, (0, 0, 0, 0))], 0
        for row, box in zip(rows, xyxy, strict=True):
            region = self.crops.region(box, self.input.aspect)
            part = cut(Window.of(window, window.end_us - self.input.duration_us, window.end_us), region)
            row["left"], row["top"], row["width"], row["height"] = region
            row["t"], row["box"], row["first"], row["count"] = window.end_us, box, count, len(part)
            count += len(part)
            parts.append(part)
        return self.joints(Crops(rows, np.concatenate(parts), ("window",)))
