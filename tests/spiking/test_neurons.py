import pytest
import torch

from spiketrack.spiking import ILIFSettings, StateFlow, ilif
from spiketrack.spiking.neurons import COCO_NEURON, GEN1_NEURON, _StepwiseILIF


def plain_ilif(x, state, settings):
    """The three equations, differentiated by autograd."""
    rest = torch.zeros_like(x[0]) if state is None else state
    spikes = []
    for current in x:
        membrane = settings.decay * rest + settings.gain * current
        clipped = membrane.clamp(0, settings.levels)
        spike = clipped + (clipped.round() - clipped).detach()
        rest = membrane - spike.detach()
        spikes.append(spike)
    return torch.stack(spikes), rest


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_gen1_constants_by_hand():
    # v = .5 -> 0; .25 + 1.5 = 1.75 -> 2; -.125 + .2 = .075 -> 0; .0375 + 4.5 -> 4
    spikes, rest = ilif(column(1.0, 3.0, 0.4, 9.0), None, GEN1_NEURON)
    assert spikes[:, 0].tolist() == [0, 2, 0, 4]
    assert rest.item() == pytest.approx(0.5375)


def test_coco_constants_by_hand():
    # m = 1.2 -> 1, r .2; .05 + 9 -> 4, r 5.05; 1.2625 - 3 -> 0, r -1.7375; -.434375 + 2 = 1.565625 -> 2
    spikes, rest = ilif(column(1.2, 9.0, -3.0, 2.0), None, COCO_NEURON)
    assert spikes[:, 0].tolist() == [1, 4, 0, 2]
    assert rest.item() == pytest.approx(-0.434375)


def test_rounds_half_to_even():
    x = torch.tensor([[0.5, 1.5, 2.5, 3.5, -0.5, 4.5]])
    assert ilif(x, None, COCO_NEURON)[0][0].tolist() == [0, 2, 2, 4, 0, 4]


def test_gradient_through_the_leak_and_the_closed_window():
    x = column(1.0, 1.0, 1.0).requires_grad_()
    spikes, _ = ilif(x, None, COCO_NEURON)
    spikes[2].backward()
    assert x.grad[:, 0].tolist() == [1 / 16, 1 / 4, 1]
    edges = torch.tensor([[0.0, 4.0, -1e-6, 4.0 + 1e-6]], dtype=torch.float64, requires_grad=True)
    ilif(edges, None, COCO_NEURON)[0].sum().backward()
    assert edges.grad[0].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize("settings", [COCO_NEURON, GEN1_NEURON, ILIFSettings(levels=1, decay=0.0, gain=2.0)])
@pytest.mark.parametrize("with_state", [False, True])
def test_equals_autograd_of_the_equations(settings, with_state):
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(5, 2, 3, generator=generator, dtype=torch.float64) * 3).requires_grad_()
    state = torch.randn(2, 3, generator=generator, dtype=torch.float64).requires_grad_() if with_state else None
    weight = torch.randn(5, 2, 3, generator=generator, dtype=torch.float64)
    results = []
    for function in (ilif, plain_ilif):
        spikes, rest = function(x, state, settings)
        inputs = [x] if state is None else [x, state]
        grads = torch.autograd.grad((spikes * weight).sum() + (rest * rest).sum(), inputs)
        results.append((spikes, rest, *grads))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", [COCO_NEURON, GEN1_NEURON])
def test_the_kernel_is_the_plain_path_on_three_threads(monkeypatch, dtype, settings):
    monkeypatch.setattr("spiketrack.spiking.slabs.LEAST_PER_THREAD", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    generator = torch.Generator().manual_seed(2)
    x = (torch.randn(5, 2, 7, 11, 13, generator=generator, dtype=dtype) * 3).requires_grad_()
    state = torch.randn(2, 7, 11, 13, generator=generator, dtype=dtype).requires_grad_()
    results = []
    for function in (
        lambda: ilif(x, state, settings),
        lambda: _StepwiseILIF.apply(x, state, settings.levels, settings.decay, settings.gain),
    ):
        spikes, rest = function()
        grads = torch.autograd.grad((spikes * x.detach()).sum() + (rest * rest).sum(), (x, state))
        results.append((spikes, rest, *grads))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=0, atol=0)  # the same roundings: products and sums fused in both


@pytest.mark.parametrize("layout", ["channels last", "a slice", "transposed"])
def test_the_order_of_memory_does_not_matter(layout):
    x = torch.randn(4, 2, 3, 5, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2
    state = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    plain = [t.clone().requires_grad_() for t in (x, state)]
    if layout == "channels last":
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (4, 2))
    elif layout == "a slice":
        x, state = torch.cat([x, x], 3)[:, :, :, :5], state.transpose(1, 3).contiguous().transpose(1, 3)
    else:
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    own = [x.requires_grad_(), state.requires_grad_()]
    results, weight = [], plain[0].detach()
    for inputs in (own, plain):
        spikes, rest = ilif(*inputs, COCO_NEURON)
        results.append((spikes, rest, *torch.autograd.grad((spikes * weight).sum() + (rest * rest).sum(), inputs)))
    for ours, wanted in zip(*results, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=0)
    if layout == "channels last":
        assert results[0][0].stride() == x.stride()


def test_no_steps_hand_the_state_on():
    spikes, rest = ilif(torch.zeros(0, 4), torch.arange(4.0), COCO_NEURON)
    assert (spikes.shape, rest.tolist()) == ((0, 4), [0, 1, 2, 3])


def test_a_sequence_equals_its_pieces():
    x = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(1)) * 2
    before = x.clone()
    whole, end = ilif(x, None, COCO_NEURON)
    pieces, state = [], None
    for part in (x[:1], x[1:4], x[4:]):
        spikes, state = ilif(part, state, COCO_NEURON)
        pieces.append(spikes)
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=0, atol=0)
    torch.testing.assert_close(state, end, rtol=0, atol=0)
    torch.testing.assert_close(x, before, rtol=0, atol=0)


def test_a_state_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"state has shape \(2,\), the input needs \(3,\)"):
        ilif(torch.zeros(4, 3), torch.zeros(2), COCO_NEURON)
    flow = StateFlow(1, (torch.zeros(1, 2, 2, 2),) * 2)
    flow.fire(torch.zeros(1, 2, 2, 2), COCO_NEURON)
    with pytest.raises(ValueError, match="state of 2 neuron layers given, the network has 1"):
        flow.finish()
    flow = StateFlow(1, ())
    with pytest.raises(ValueError, match="has more"):
        flow.fire(torch.zeros(1, 2, 2, 2), COCO_NEURON)
