import torch
import torch.nn.functional as F

from spiketrack.spiking.layers import CentredNorm, RepConv, SepRepConv


def randomise(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return module.double()


def padded_with_norm_of_zero(centred: CentredNorm, x):
    """The published formulation: normalise, then pad one pixel with the value that the norm gives a zero."""
    y = centred.norm(x)
    padded = centred.offset()[None, :, None, None].expand(len(x), -1, x.shape[2] + 2, x.shape[3] + 2).clone()
    padded[:, :, 1:-1, 1:-1] = y
    return padded


def test_rep_conv_equals_the_padded_formulation_and_one_dense_convolution():
    block = randomise(RepConv(3, 5))
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for training in (True, False):
        block.train(training)
        y = block(x)
        # running statistics have just been updated; the published layer pads with the updated ones too
        padded = padded_with_norm_of_zero(block.centred.train(training), block.first(x)) if not training else None
        if padded is not None:
            expected = block.norm(block.second(F.conv2d(padded, block.depthwise.weight, groups=3)))
            torch.testing.assert_close(y, expected)
    # K[o, i] = sum over m of P2[o, m] DW[m] s[m] P1[m, i], then the outer norm
    scale = block.centred.norm.weight / torch.sqrt(block.centred.norm.running_var + block.centred.norm.eps)
    kernel = torch.einsum(
        "om,mhw,m,mi->oihw",
        block.second.weight[:, :, 0, 0],
        block.depthwise.weight[:, 0],
        scale,
        block.first.weight[:, :, 0, 0],
    )
    constant = block.second.weight[:, :, 0, 0] @ (block.centred.offset() * block.depthwise.weight.sum((1, 2, 3)))
    torch.testing.assert_close(block(x), block.norm(F.conv2d(x, kernel, constant, padding=1)))


def test_rep_conv_in_training_pads_with_the_updated_statistics():
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ours, published = randomise(RepConv(3, 2)).train(), randomise(RepConv(3, 2)).train()
    y = ours(x)
    normalised = published.centred.norm(published.first(x))
    offset = published.centred.offset()
    padded = offset[None, :, None, None].expand(4, -1, 7, 7).clone()
    padded[:, :, 1:-1, 1:-1] = normalised
    expected = published.norm(published.second(F.conv2d(padded, published.depthwise.weight, groups=3)))
    torch.testing.assert_close(y, expected)


def test_sep_rep_conv_equals_the_padded_formulation():
    block = randomise(SepRepConv(6, 4)).eval()
    x = torch.randn(2, 6, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    padded = padded_with_norm_of_zero(block.centred, x)
    expected = F.conv2d(block.pointwise(padded), block.depthwise.weight, groups=4)
    torch.testing.assert_close(block(x), expected)
