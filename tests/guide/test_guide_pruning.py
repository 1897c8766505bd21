"""Pruning by hand, and what a GPU would say."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from spiketrack.classification import Classifier, ClassifierSettings
from spiketrack.cli.object_detection_door import _load_backbone
from spiketrack.datasets.classified import SampleInput
from spiketrack.deploy.masks import prunable, smallest_channels, smallest_weights, sparsity
from spiketrack.detector.checkpoint import save_checkpoint
from spiketrack.detector.ssd import SSD, SSDSettings
from spiketrack.errors import CheckpointError
from spiketrack.guide.logs import gpu_use
from spiketrack.guide.pruning import Pruner, share_after
from spiketrack.guide.settings import PruningSection


def test_the_share_grows_by_the_schedule():
    shares = {
        name: [share_after(time, 4, PruningSection(schedule=name, amount=0.1, max_sparsity=0.5)) for time in range(5)]
        for name in ("linear", "cosine", "step")
    }
    assert shares["linear"] == pytest.approx([0, 0.125, 0.25, 0.375, 0.5])
    assert shares["cosine"] == pytest.approx([0, 0.25 - 0.25 * math.sqrt(0.5), 0.25, 0.25 + 0.25 * math.sqrt(0.5), 0.5])
    assert shares["step"] == pytest.approx([0, 0.1, 0.19, 0.271, 0.3439])  # a tenth of what is left


def test_the_smallest_go():
    weights = {"a": torch.tensor([[1.0, -2.0], [0.5, 4.0]])[..., None, None], "b": torch.tensor([[-0.1], [3.0]])}
    masks = smallest_weights(weights, 0.5)  # of 6 weights 3: 0.1, 0.5, 1
    assert masks["a"].flatten().tolist() == [False, True, False, True]
    assert masks["b"].flatten().tolist() == [False, True]
    masks = smallest_channels(weights, 0.5)  # norms sqrt 5 and sqrt 16.25; 0.1 and 3
    assert masks["a"].flatten().tolist() == [False, False, True, True]
    assert masks["b"].flatten().tolist() == [False, True]


def trainer_of(tmp_path, epoch=0):
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Conv2d(2, 5, 2, bias=False), nn.Conv2d(5, 1, 1)) for _ in range(2)]
    settings, saves = SimpleNamespace(epochs=3), []
    return SimpleNamespace(
        model=models[0], average=models[1], settings=settings, run_dir=tmp_path, device="cpu", epoch=epoch,
        save=lambda: saves.append(1),
    )  # fmt: skip


def test_zeros_stay_and_come_back(tmp_path):
    trainer = trainer_of(tmp_path)
    pruner = Pruner(PruningSection(enabled=True, amount=0.4, max_sparsity=0.5), trainer)
    pruner.on_epoch(1)
    weights = prunable(trainer.model)
    assert list(weights) == ["0.weight"]  # not the one with a bias, which predicts
    assert sparsity(weights) == pytest.approx(0.25)  # half of the way to 0.5
    zeros = weights["0.weight"] == 0
    with torch.no_grad():
        trainer.model[0].weight += 1
    pruner.on_step()
    for model in (trainer.model, trainer.average):
        assert torch.equal(model[0].weight == 0, zeros)
    pruner.on_epoch(3)  # after the last epoch nothing is pruned any more
    assert sparsity(prunable(trainer.model)) == pytest.approx(0.25)

    again = trainer_of(tmp_path, epoch=1)
    Pruner(pruner.settings, again).resume()
    assert torch.equal(again.model[0].weight == 0, zeros)
    earlier = trainer_of(tmp_path, epoch=0)  # its checkpoint is older than the file: its own zeros count
    Pruner(pruner.settings, earlier).resume()
    assert sparsity(prunable(earlier.model)) == 0


def test_what_a_gpu_does_is_told(monkeypatch):
    mib = 2**20
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3 * mib)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5 * mib)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=100 * mib))
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 42)
    assert gpu_use(torch.device("cuda")) == "GPU memory: 3 MiB, at most 5 of 100 MiB, GPU utilization: 42 %"

    def missing(device):
        raise ModuleNotFoundError("pynvml")

    monkeypatch.setattr(torch.cuda, "utilization", missing)
    assert gpu_use(torch.device("cuda")).endswith("GPU utilization: unknown (pip install nvidia-ml-py)")


def test_a_detector_begins_with_the_backbone_of_a_classifier(tmp_path):
    cfg = "4,8,8,8s2,8,16s2,16,16s2"
    seen = SampleInput(bins=1, height=32, width=32)
    classifier = Classifier.build(ClassifierSettings(backbone=cfg), seen, ("a", "b"), False)
    save_checkpoint(tmp_path / "c.pt", classifier.content())
    models = [SSD(SSDSettings(backbone=cfg, extras=(8, 8, 8)), 2, 2) for _ in range(2)]
    _load_backbone(SimpleNamespace(model=models[0], average=models[1]), tmp_path / "c.pt")
    expected = classifier.model.state_dict()
    for model in models:
        assert all(torch.equal(tensor, expected[name]) for name, tensor in model.backbone.state_dict().items())
    other = SSD(SSDSettings(extras=(8, 8, 8)), 2, 2)
    with pytest.raises(CheckpointError):
        _load_backbone(SimpleNamespace(model=other, average=other), tmp_path / "c.pt")
