import pytest
import torch
import torch.nn.functional as F

from spiketrack.spiking.depthwise import depthwise_conv


@pytest.mark.parametrize(
    ("shape", "kernel", "bias"), [((2, 3, 5, 6), 3, True), ((1, 2, 4, 3), 7, False), ((2, 4, 7, 9), 7, True)]
)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_equals_the_grouped_convolution_and_its_gradients(shape, kernel, bias, layout):
    generator = torch.Generator().manual_seed(0)
    channels = shape[1]
    inputs = [
        torch.randn(shape, generator=generator, dtype=torch.float64).contiguous(memory_format=layout),
        torch.randn(channels, 1, kernel, kernel, generator=generator, dtype=torch.float64),
    ]
    if bias:
        inputs.append(torch.randn(channels, generator=generator, dtype=torch.float64))
    inputs = [tensor.requires_grad_() for tensor in inputs]
    grad = torch.randn(shape, generator=generator, dtype=torch.float64)
    ours = depthwise_conv(*inputs)
    expected = F.conv2d(*inputs, padding=kernel // 2, groups=channels)
    torch.testing.assert_close(ours, expected)
    for one, other in zip(
        torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_float32_gradient_keeps_five_digits():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8, 16, 30, 38, generator=generator)
    weight = torch.randn(16, 1, 7, 7, generator=generator)
    grad = torch.randn(8, 16, 30, 38, generator=generator)

    def weight_gradient(function, dtype):
        w = weight.to(dtype).requires_grad_()
        return torch.autograd.grad(function(x.to(dtype), w), w, grad.to(dtype))[0].double()

    exact = weight_gradient(lambda x, w: F.conv2d(x, w, padding=3, groups=16), torch.float64)
    ours = weight_gradient(depthwise_conv, torch.float32)
    assert (ours - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_autocast_keeps_the_types():
    x = torch.randn(1, 2, 5, 5).requires_grad_()
    weight = torch.randn(2, 1, 3, 3).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = depthwise_conv(x, weight)
    y.float().sum().backward()
    assert (y.dtype, x.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    # every tap sums what it sees of x
    expected = F.conv2d(x.transpose(0, 1), torch.ones(1, 1, 5, 5), padding=1)
    torch.testing.assert_close(weight.grad[:, 0], expected[:, 0], rtol=2e-2, atol=2e-2)
