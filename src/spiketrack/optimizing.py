"""Optimizing: how weights follow their gradients, at which rate, and what their average is.

Station: of training, of detectors and classifiers alike; plain functions of settings, step and tensors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn


class OptimizerSettings(BaseModel):
    """The update rule, and the learning rate over a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(10, ge=1, description="passes over the training sequences")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="update rule")
    learning_rate: float = Field(2e-3, gt=0, description="largest learning rate; of cyclic the one it rises from")
    schedule: Literal["cosine", "step", "cyclic"] = Field(
        "cosine",
        description="cosine: half a cosine down; step: times decay every decay_every epochs; cyclic: up, then down",
    )
    final_rate: float = Field(
        0.02, gt=0, le=1, description="last learning rate of cosine and cyclic, as a share of learning_rate"
    )
    warm_up: float = Field(
        0.05, ge=0, lt=1, description="share of the run in which the rate rises linearly; cyclic ignores it"
    )
    decay_every: int = Field(2, ge=1, description="of step: epochs between decays")
    decay: float = Field(0.5, gt=0, le=1, description="of step: factor of the learning rate")
    max_rate: float | None = Field(
        None, gt=0, description="of cyclic: rate reached after 30 % of the run; null: twice learning_rate"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd, first beta of adamw")
    weight_decay: float = Field(0.01, ge=0, description="decay of convolution weights; biases and norms have none")


CYCLIC_RISE = 0.3  # share of the run


def make_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """AdamW or SGD (Nesterov); tensors of one dimension (biases, norms) are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=True)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(settings.momentum, 0.999))


def learning_rate(settings: OptimizerSettings, step: int, total_steps: int) -> float:
    """Rate of optimizer step `step` (from 0) by the schedule."""
    floor = settings.final_rate
    if settings.schedule == "cyclic":
        top = (settings.max_rate or 2 * settings.learning_rate) / settings.learning_rate
        rise = CYCLIC_RISE * total_steps
        if step < rise:
            return settings.learning_rate * _half_cosine(1, top, step / rise)
        return settings.learning_rate * _half_cosine(top, floor, (step - rise) / max(total_steps - rise, 1))
    warm_up = round(settings.warm_up * total_steps)
    if step < warm_up:
        return settings.learning_rate * (step + 1) / warm_up
    if settings.schedule == "step":
        epoch = step * settings.epochs // max(total_steps, 1)
        return settings.learning_rate * settings.decay ** (epoch // settings.decay_every)
    share = (step - warm_up) / max(total_steps - warm_up, 1)  # 0 .. 1
    return settings.learning_rate * (floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2)


def _half_cosine(start: float, end: float, share: float) -> float:
    """From start (share 0) to end (share 1) along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the average towards the model; early on it follows faster: decay_t = min(decay, (1 + t) / (10 + t))."""
    decay = min(decay, (1 + step) / (10 + step))
    for mean, value in zip(_floats(average), _floats(model), strict=True):
        mean.lerp_(value, 1 - decay)


def _floats(module: nn.Module) -> Iterator[Tensor]:
    return (tensor for tensor in module.state_dict().values() if tensor.is_floating_point())


def precision_of(name: str, device: torch.device) -> torch.dtype:
    """The number format of a setting; auto depends on the device."""
    if name == "auto":
        name = "bfloat16" if native_bfloat16(device) else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def native_bfloat16(device: torch.device) -> bool:
    """Whether the processor of a device multiplies bfloat16 itself; emulation is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return False  # not Linux: nothing tells
    return bool(words & {"avx512_bf16", "amx_bf16", "bf16"})
