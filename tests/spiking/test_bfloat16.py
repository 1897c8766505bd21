"""Kernels that read and write bfloat16, against torch's own rounding and against float32."""

import numpy as np
import pytest
import torch
from numba import njit

from spiketrack.spiking.bfloat16 import read, writable, written
from spiketrack.spiking.depthwise import depthwise_conv
from spiketrack.spiking.neurons import COCO_NEURON, GEN1_NEURON, ilif


@njit
def _widen(bits, out):
    for i in range(len(bits)):
        out[i] = read(bits[i])


@njit
def _narrow(values, out):
    room = writable(out, np.empty(len(out), np.float32))
    room[:] = values
    written(room, out)


def test_all_numbers_come_back():
    bits = np.arange(2**16, dtype=np.uint16)
    wide, back = np.empty(len(bits), np.float32), np.empty_like(bits)
    _widen(bits, wide)
    expected = torch.from_numpy(bits).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(wide, expected)
    _narrow(wide, back)
    number = ~np.isnan(wide)
    np.testing.assert_array_equal(back[number], bits[number])
    assert torch.from_numpy(back[~number]).view(torch.bfloat16).isnan().all()


def test_rounding_is_that_of_torch():
    """Random bits, numbers half way between two of bfloat16, and the ends of the range."""
    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint64).astype(np.uint32)
    half_way = np.arange(0, 2**32, 2**20, dtype=np.uint64).astype(np.uint32) + np.uint32(0x8000)
    odd_half_way = half_way + np.uint32(0x10000)
    ends = np.array([np.inf, -np.inf, 3.4e38, -3.4e38, 0.0, -0.0, 1e-45], np.float32)
    values = np.concatenate([bits.view(np.float32), half_way.view(np.float32), odd_half_way.view(np.float32), ends])
    values = values[~np.isnan(values)]
    out = np.empty(len(values), np.uint16)
    _narrow(values, out)
    expected = torch.from_numpy(values).bfloat16().view(torch.uint16).numpy()
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("settings", [COCO_NEURON, GEN1_NEURON])
def test_neurons_compute_in_float32(settings):
    """Of currents that bfloat16 holds: float32's spikes and state, and its gradients rounded once."""
    generator = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(4, 2, 3, 7, 11, generator=generator)).bfloat16()
    before = torch.randn(2, 3, 7, 11, generator=generator)
    grad_spikes, grad_rest = torch.randn(x.shape, generator=generator).bfloat16(), torch.randn(before.shape)

    def run(dtype):
        inputs = [x.to(dtype).requires_grad_(), before.clone().requires_grad_()]
        spikes, rest = ilif(*inputs, settings)
        return spikes, rest, *torch.autograd.grad([spikes, rest], inputs, [grad_spikes.to(dtype), grad_rest])

    spikes, rest, grad_x, grad_before = run(torch.bfloat16)
    expected = run(torch.float32)
    assert [t.dtype for t in (spikes, rest, grad_x, grad_before)] == [
        torch.bfloat16, torch.float32, torch.bfloat16, torch.float32
    ]  # fmt: skip
    assert 0 < (spikes > 0).float().mean() < 1
    for one, other in zip((spikes, rest, grad_x, grad_before), expected, strict=True):
        assert torch.equal(one, other.to(one.dtype))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("size", [(1, 5), (9, 4)])
def test_depthwise_weight_gradient(layout, size):
    """That of float32, of the same numbers; maps lower than half of the kernel too."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *size, generator=generator).bfloat16().contiguous(memory_format=layout)
    weight = torch.randn(3, 1, 7, 7, generator=generator).bfloat16().requires_grad_()
    grad = torch.randn(x.shape, generator=generator).bfloat16()
    (ours,) = torch.autograd.grad(depthwise_conv(x, weight), weight, grad)
    wide = weight.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad(depthwise_conv(x.float(), wide), wide, grad.float())
    assert torch.equal(ours, expected.bfloat16())
