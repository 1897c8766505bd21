import pytest
import torch
import torch.nn.functional as F

from spiketrack.spiking import sparse_conv as module
from spiketrack.spiking.sparse_conv import (
    BinaryConv2d,
    Folded,
    Scales,
    add_either,
    fold,
    kernel_gradient,
    kernel_rows,
    pack,
    sparse_conv,
    unfold,
)

# channels, outputs, kernel, stride, padding: one word and two, whole registers of outputs and not, all the strides
CASES = [
    (16, 16, 3, 1, 1),
    (64, 128, 3, 2, 1),
    (80, 24, 3, 2, 1),
    (128, 40, 1, 1, 0),
    (32, 8, 4, 4, 0),
    (48, 96, 5, 3, 2),
]


def spikes(*shape, share=0.2, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = (torch.rand(*shape, generator=generator) < share).to(dtype)
    return x.contiguous(memory_format=torch.channels_last)


def normal(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain(weight, bias):
    """The kernel as it is, with that bias."""
    rows = kernel_rows(weight)
    return Folded(rows, F.pad(bias.detach(), (0, rows.shape[0] * rows.shape[4] - len(bias))), len(weight))


def test_one_spike_in_the_corner_by_hand():
    x = torch.zeros(1, 16, 2, 3)
    x[0, 5, 0, 0] = 1
    weight = torch.zeros(1, 16, 3, 3)
    weight[0, 5] = torch.arange(1.0, 10).reshape(3, 3)
    packed = pack(x)
    assert packed.ones == 1
    assert packed.bits.flatten().tolist() == [1 << 5, 0, 0, 0, 0, 0]
    assert packed.counts.tolist() == [0] * 5 + [1] + [0] * 10
    y = sparse_conv(packed.bits, plain(weight, torch.tensor([10.0])), 1, 1)
    # output (y, x) sees the corner by the tap (1 - y, 1 - x); column 2 does not reach it
    assert y.tolist() == [[[[15.0, 14.0, 10.0], [12.0, 11.0, 10.0]]]]


def test_what_is_not_binary_is_not_packed():
    x = spikes(2, 16, 3, 3)
    for other in (2.0, 0.5, -1.0, float("nan")):
        y = x.clone()
        y[1, 15, 2, 2] = other
        assert pack(y) is None
    assert pack(x[:, :10]) is None
    assert pack(x.half()) is None


@pytest.mark.parametrize(("channels", "outputs", "kernel", "stride", "padding"), CASES)
@pytest.mark.parametrize("size", [(7, 9), (6, 131)])
def test_it_is_the_convolution_and_its_gradient(channels, outputs, kernel, stride, padding, size):
    x = spikes(2, channels, *size)
    weight = normal(outputs, channels, kernel, kernel).requires_grad_()
    bias = normal(outputs, seed=2).requires_grad_()
    expected = F.conv2d(x, weight, bias, stride, padding)
    bits = pack(x).bits
    y = sparse_conv(bits, plain(weight, bias), stride, padding)
    torch.testing.assert_close(y, expected.detach(), rtol=0, atol=1e-12)
    grad = normal(*expected.shape, seed=3)
    found = kernel_gradient(bits, grad, weight, stride, padding)
    by_weight, by_bias = torch.autograd.grad(expected, (weight, bias), grad)
    torch.testing.assert_close(found.rows, kernel_rows(by_weight), rtol=0, atol=1e-11)
    torch.testing.assert_close(found.bias[:outputs], by_bias, rtol=0, atol=1e-11)


def test_folding_and_its_way_back():
    """Outputs 0 .. 9 read the first norm, the others the second."""
    weight, scale, offset = normal(24, 16, 3, 3).requires_grad_(), normal(2, 16, seed=2), normal(2, 16, seed=3)
    scale.requires_grad_(), offset.requires_grad_()
    norms = (torch.arange(24) >= 10).long()
    kernel = weight * scale[norms][:, :, None, None]
    bias = (weight.sum((2, 3)) * offset[norms]).sum(1)
    scales = Scales(norms, scale.detach(), offset.detach())
    folded = fold(weight, scales)
    torch.testing.assert_close(folded.rows, kernel_rows(kernel.detach()), rtol=0, atol=1e-14)
    torch.testing.assert_close(folded.bias[:24], bias.detach(), rtol=0, atol=1e-12)
    assert folded.bias[24:].tolist() == [0] * 8
    by_kernel, by_bias = normal(24, 16, 3, 3, seed=4), normal(24, seed=5)
    expected = torch.autograd.grad((kernel * by_kernel).sum() + bias @ by_bias, (weight, scale, offset))
    found = unfold(Folded(kernel_rows(by_kernel), by_bias, 24), weight, scales)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def test_add_either():
    x, y = spikes(2, 80, 3, 5), normal(2, 80, 3, 5).contiguous(memory_format=torch.channels_last)
    on, off = normal(2, 80, seed=2)
    expected = y + torch.where(x == 1, on[:, None, None], off[:, None, None])
    add_either(pack(x).bits, on, off, y)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-14)


def test_two_threads_give_the_same_bits_as_one(monkeypatch):
    x, weight, threads = (
        spikes(2, 64, 9, 11, dtype=torch.float32),
        normal(32, 64, 3, 3).float(),
        torch.get_num_threads(),
    )
    grad = normal(2, 32, 9, 11).float()

    def run():
        packed = pack(x)
        y = sparse_conv(packed.bits, plain(weight, torch.zeros(32)), 1, 1)
        return packed.bits, y, *kernel_gradient(packed.bits, grad, weight, 1, 1)[:2]

    one = run()
    for name in ("LEAST_ROWS", "LEAST_NUMBERS", "LEAST_WEIGHTS"):
        monkeypatch.setattr(module, name, 1)
    torch.set_num_threads(2)
    try:
        two = run()
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.fixture
def conv():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BinaryConv2d(16, 24, 3, 2, 1).double()


def test_a_binary_convolution_follows_its_weights(conv):
    x = spikes(1, 16, 8, 8)
    for _ in range(2):
        with torch.inference_mode():
            torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, conv.bias, 2, 1), rtol=0, atol=1e-12)
        with torch.no_grad():
            conv.weight.mul_(2)
            conv.bias.add_(1)
    conv.float()
    with torch.inference_mode():
        x = x.float()
        torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, conv.bias, 2, 1), rtol=0, atol=1e-5)


def test_rows_are_added_only_where_few_fire_and_no_gradient_is_wanted(conv, monkeypatch):
    calls = []
    monkeypatch.setattr(module, "sparse_conv", lambda *given: calls.append(given) or sparse_conv(*given))
    few, many, real = spikes(1, 16, 8, 8), spikes(1, 16, 8, 8, share=0.9), normal(1, 16, 8, 8)
    for x, added in ((few, 1), (many, 1), (real, 1)):
        with torch.no_grad():
            torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, conv.bias, 2, 1), rtol=0, atol=1e-12)
        assert len(calls) == added
    assert conv(few).requires_grad
    assert len(calls) == 1
