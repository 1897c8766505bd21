import copy

import pytest
import torch
import torch.nn.functional as F

from spiketrack.spiking.norm_first import NormConv, both

# channels, outputs, kernel, stride, padding
CASES = [(16, 16, 3, 1, 1), (64, 128, 3, 2, 1), (32, 24, 3, 1, 1), (2, 32, 4, 4, 0), (80, 8, 1, 1, 0)]


def layer_of(*case, dtype=torch.float64):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = NormConv(*case).to(dtype)
        for parameter in (layer.norm.weight, layer.norm.bias):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return layer


def image(kind, *shape, seed=0):
    x = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    share = {"few": 0.2, "many": 0.8}.get(kind)
    return (x if share is None else (x < share).double()).contiguous(memory_format=torch.channels_last)


def transcribed(layer, x):
    return layer.conv(layer.norm(F.pad(x, (layer.pad_before,) * 4)))


def everything(layer, run, x, grad):
    """Output, all gradients and the running statistics after one step."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = run(x)
    y.backward(grad)
    norm = layer.norm
    return (
        *(y.detach(), x.grad, layer.conv.weight.grad, norm.weight.grad, norm.bias.grad),
        *(norm.running_mean, norm.running_var, norm.num_batches_tracked),
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["few", "many", "real"])
def test_results_gradients_and_statistics_are_those_of_plain_modules(case, kind):
    layer = layer_of(*case)
    other, x = copy.deepcopy(layer), image(kind, 2, case[0], 9, 13)
    grad = torch.randn_like(transcribed(copy.deepcopy(layer), x))
    ours = everything(layer, layer, x, grad)
    for found, expected in zip(ours, everything(other, lambda x: transcribed(other, x), x, grad), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("kind", ["few", "many", "real"])
def test_two_layers_of_a_map_are_each_of_them(kind, watched):
    layers, x = (layer_of(32, 24, 3, 1, 1), layer_of(32, 8, 3, 1, 1)), image(kind, 2, 32, 9, 13)
    torch.nn.init.normal_(layers[1].norm.weight, generator=torch.Generator().manual_seed(1))
    others, calls = copy.deepcopy(layers), []
    if watched:
        layers[0].register_forward_hook(lambda *_: calls.append(1))
    inputs = x.clone().requires_grad_(), x.clone().requires_grad_()
    grads = [torch.randn(2, outputs, 9, 13, dtype=x.dtype) for outputs in (24, 8)]
    found, expected = both(*layers, inputs[0]), [transcribed(other, inputs[1]) for other in others]
    torch.autograd.backward(found, grads)
    torch.autograd.backward(expected, grads)
    pairs = [*zip(found, expected, strict=True), (inputs[0].grad, inputs[1].grad)]
    for layer, other in zip(layers, others, strict=True):
        pairs += [(a.grad, b.grad) for a, b in zip(layer.parameters(), other.parameters(), strict=True)]
        pairs += zip(layer.buffers(), other.buffers(), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    assert len(calls) == watched


def test_gradients_are_those_of_differences():
    layer = layer_of(2, 3, 3, 2, 1)
    names = ("norm.weight", "norm.bias", "conv.weight")
    given = tuple(layer.get_parameter(name).detach().requires_grad_() for name in names)
    x = image("real", 2, 2, 4, 5).requires_grad_()

    def run(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *given))


def test_single_precision_is_nearer_to_the_truth_than_plain_modules():
    layer, x = layer_of(64, 64, 3, 1, 1, dtype=torch.float32), image("few", 2, 64, 30, 38)
    plain, exact = copy.deepcopy(layer), copy.deepcopy(layer).double()
    grad = torch.randn(2, 64, 30, 38, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    truth = everything(exact, lambda x: transcribed(exact, x), x, grad)[:5]
    ours = everything(layer, layer, x.float(), grad.float())
    theirs = everything(plain, lambda x: transcribed(plain, x), x.float(), grad.float())
    for found, other, expected in zip(ours, theirs, truth, strict=False):
        assert (found - expected).abs().max() < max(2e-6 * expected.abs().max(), (other - expected).abs().max())


def test_of_spikes_only_bits_are_kept_for_the_backward_pass():
    x = image("few", 1, 64, 16, 16).float().requires_grad_()
    layer, kept = layer_of(64, 64, 3, 1, 1, dtype=torch.float32), []
    weights = {p.data_ptr() for p in layer.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(x)
    others = sum(t.numel() * t.element_size() for t in kept if t.data_ptr() not in weights)
    assert others < x.numel() * 4 / 8


@pytest.mark.parametrize("why", ["evaluation", "autocast", "padded after", "one value"])
def test_where_it_does_not_stand_in_the_modules_run(why):
    layer = NormConv(16, 8, 3, 1, 1, "after_norm" if why == "padded after" else "before_norm")
    called = []
    layer.norm.register_forward_hook(lambda *_: called.append(1))
    layer.train(why != "evaluation")
    x = image("few", 1, 16, 4, 4).float()
    if why == "one value":
        layer.pad_before, x = 0, x[..., :1, :1]
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            layer(x)
        return
    with torch.autocast("cpu", torch.bfloat16, enabled=why == "autocast"):
        layer(x)
    assert called
