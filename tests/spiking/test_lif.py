import itertools
import math

import pytest
import torch

from spiketrack.spiking import LIF, PLIF, LIFSettings, StateFlow
from spiketrack.spiking.lif import PLIF_NEURON, lif, lif_loop
from spiketrack.spiking.surrogate import spike

VARIANTS = [
    LIFSettings(threshold=threshold, reset=reset, decay_input=decay, detach_reset=detach, surrogate=kind, slope=slope)
    for (reset, decay, detach), (kind, slope, threshold) in itertools.product(
        itertools.product(["hard", "soft"], [True, False], [True, False]), [("sigmoid", 4.0, 1.0), ("atan", 2.0, 0.8)]
    )
]


def plain_lif(x, state, rate, settings):
    """The three equations and a smooth step whose derivative autograd takes, shifted to the hard one."""
    rest = torch.zeros_like(x[0]) if state is None else state
    spikes = []
    for current in x:
        membrane = rest * (1 - rate) + current * (rate if settings.decay_input else 1)
        above = membrane - settings.threshold
        if settings.surrogate == "sigmoid":
            smooth = torch.sigmoid(settings.slope * above)
        else:
            smooth = torch.atan(math.pi / 2 * settings.slope * above) / math.pi
        fired = smooth + ((above >= 0).to(x.dtype) - smooth).detach()
        reset = fired.detach() if settings.detach_reset else fired
        rest = membrane * (1 - reset) if settings.reset == "hard" else membrane - settings.threshold * reset
        spikes.append(fired)
    return torch.stack(spikes), rest


def random_case(steps=5, shape=(2, 3, 4, 5), dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(steps, *shape, generator=generator, dtype=dtype) * 2 + 0.5
    state = torch.randn(*shape, generator=generator, dtype=dtype)
    return x.requires_grad_(), state.requires_grad_(), torch.tensor(0.3, dtype=dtype, requires_grad=True)


def gradients(function, x, state, w, settings, dtype=None):
    dtype = dtype or x.dtype
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(dtype)
    spikes, rest = function(x, state, torch.sigmoid(w), settings)
    inputs = [x, w] if state is None else [x, w, state]
    return spikes, rest, *torch.autograd.grad((spikes * weight).sum() + (rest * rest).sum(), inputs)


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_plif_by_hand():
    # v: .75; .375 + .5 * 1.25 = 1 fires -> 0; .2; .1 - 1 = -.9
    spikes, rest = lif(column(1.5, 1.25, 0.4, -2.0), None, 0.5, PLIF_NEURON)
    assert spikes[:, 0].tolist() == [0, 1, 0, 0]
    assert rest.item() == pytest.approx(-0.9)


def test_soft_reset_without_input_decay_by_hand():
    # tau 4: v = 1.5 -> fires, .5; .375 + .25 = .625; .46875 + 2 = 2.46875 -> fires, 1.46875
    settings = LIFSettings(tau=4, reset="soft", decay_input=False)
    spikes, rest = lif(column(1.5, 0.25, 2.0), None, 1 / settings.tau, settings)
    assert spikes[:, 0].tolist() == [1, 0, 1]
    assert rest.item() == pytest.approx(1.46875)


def test_surrogates_by_hand():
    # facts/models.md, A.1: x = 1.5 from rest, v = .75
    x = column(1.5).requires_grad_()
    lif(x, None, 0.5, PLIF_NEURON)[0].sum().backward()
    p = 1 / (1 + math.e)
    assert x.grad.item() == pytest.approx(0.5 * 4 * p * (1 - p), abs=1e-12)
    assert x.grad.item() == pytest.approx(0.393224, abs=1e-6)
    x.grad = None
    lif(x, None, 0.5, LIFSettings(surrogate="atan", slope=2.0))[0].sum().backward()
    assert x.grad.item() == pytest.approx(0.5 * 1 / (1 + (math.pi / 4) ** 2))


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_equals_autograd_of_the_equations(settings):
    for case in (random_case(), (random_case()[0], None, random_case()[2])):
        expected = gradients(plain_lif, *case, settings)
        for ours, wanted in zip(gradients(lif, *case, settings), expected, strict=True):
            torch.testing.assert_close(ours, wanted, rtol=1e-11, atol=1e-12)


def test_the_plain_path_is_the_kernel():
    case = random_case()
    for settings in VARIANTS[::3]:
        both = zip(gradients(lif, *case, settings), gradients(lif_loop, *case, settings), strict=True)
        for ours, wanted in both:
            torch.testing.assert_close(ours, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("decay_input", [True, False])
def test_the_state_passes_gradcheck(reset, decay_input):
    # between the thresholds the last membrane is a smooth function of everything; its true derivative is ours
    settings = LIFSettings(reset=reset, decay_input=decay_input)
    x, state, w = random_case(4, (3, 2))
    assert torch.autograd.gradcheck(lambda x, state, w: lif(x, state, torch.sigmoid(w), settings)[1], (x, state, w))


def test_the_smooth_step_passes_gradcheck():
    # the surrogate is the true derivative of the smooth step that plain_lif differentiates
    u = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    steps = {
        "sigmoid": lambda u: torch.sigmoid(4 * u),
        "atan": lambda u: torch.atan(math.pi * u) / math.pi,
    }
    for (kind, smooth), slope in zip(steps.items(), (4.0, 2.0), strict=True):
        assert torch.autograd.gradcheck(smooth, u)
        (ours,) = torch.autograd.grad(spike(u, kind, slope).sum(), u)
        (wanted,) = torch.autograd.grad(smooth(u).sum(), u)
        torch.testing.assert_close(ours, wanted)


def test_many_blocks_in_float32_on_three_threads(monkeypatch):
    monkeypatch.setattr("spiketrack.spiking.slabs.LEAST_PER_THREAD", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    x, state, w = random_case(3, (2, 5, 17, 29), torch.float32)
    for settings in (VARIANTS[0], VARIANTS[1]):
        single = gradients(lif, x, state, w, settings)
        double = gradients(lif_loop, *(v.detach().double().requires_grad_() for v in (x, state, w)), settings)
        torch.testing.assert_close(single[0].double(), double[0], rtol=0, atol=0)
        for ours, wanted in zip(single[1:], double[1:], strict=True):
            torch.testing.assert_close(ours.double(), wanted, rtol=2e-5, atol=2e-6)


def test_without_gradients_the_spikes_are_the_same():
    x, state, w = random_case(3, (2, 5, 7, 3), torch.float32)
    with torch.no_grad():
        alone = lif(x, state, torch.sigmoid(w), PLIF_NEURON)
    for ours, wanted in zip(alone, lif(x, state, torch.sigmoid(w), PLIF_NEURON), strict=True):
        assert not ours.requires_grad
        assert torch.equal(ours, wanted)


def test_a_fixed_rate_changes_no_other_gradient():
    x, state, w = random_case(3, (2, 5, 7, 3))
    rate = torch.sigmoid(w)
    results = []
    for own_rate in (rate, float(rate.detach())):
        spikes, rest = lif(x, state, own_rate, PLIF_NEURON)
        results.append(torch.autograd.grad((spikes * x.detach()).sum() + rest.sum(), (x, state)))
    for learnt, fixed in zip(*results, strict=True):
        torch.testing.assert_close(learnt, fixed, rtol=0, atol=0)


def test_the_surrogate_of_far_membranes_in_float32():
    x = torch.tensor([[-60.0, -10.0, -3.0, 1.0, 5.0, 12.0, 60.0]], requires_grad=True)
    lif(x, None, 0.5, PLIF_NEURON)[0].sum().backward()
    z = (x.detach().double()[0] / 2 - 1) * 4
    torch.testing.assert_close(x.grad[0].double(), 2 * torch.sigmoid(z) * torch.sigmoid(-z), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("layout", ["channels last", "a slice", "expanded", "transposed"])
def test_the_order_of_memory_does_not_matter(layout):
    x, state, w = (v.detach() for v in random_case(4, (2, 3, 5, 4)))
    if layout == "channels last":
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (4, 2))
    elif layout == "a slice":
        x = torch.cat([x, x])[2:6, :, :, 1:4]
        state = state[:, :, 1:4]
    elif layout == "expanded":
        x = x[:1].expand(4, -1, -1, -1, -1)
    else:
        x, state = x.transpose(0, 1).contiguous().transpose(0, 1), state.transpose(1, 3).contiguous().transpose(1, 3)
    before = x.clone(), state.clone()
    x, state, w = x.requires_grad_(), state.requires_grad_(), w.requires_grad_()
    ours, wanted = gradients(lif, x, state, w, PLIF_NEURON), gradients(lif_loop, x, state, w, PLIF_NEURON)
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    if layout == "channels last":
        assert ours[0].stride() == x.stride()
    assert torch.equal(x, before[0])
    assert torch.equal(state, before[1])


def test_a_sequence_equals_its_pieces():
    x, start, w = random_case(7)
    whole, end = lif(x, start, torch.sigmoid(w), PLIF_NEURON)
    loss = (whole * x.detach()).sum() + end.sum()
    expected = torch.autograd.grad(loss, (x, start, w))
    pieces, state = [], start
    for part in (x[:1], x[1:4], x[4:]):
        spikes, state = lif(part, state, torch.sigmoid(w), PLIF_NEURON)
        pieces.append(spikes)
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=0, atol=0)
    torch.testing.assert_close(state, end, rtol=0, atol=0)
    ours = torch.autograd.grad((torch.cat(pieces) * x.detach()).sum() + state.sum(), (x, start, w))
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_empty_and_half_precision_inputs():
    spikes, rest = lif(torch.zeros(3, 0, 4), None, 0.5, PLIF_NEURON)
    assert (spikes.shape, rest.shape) == ((3, 0, 4), (0, 4))
    spikes, rest = lif(torch.zeros(0, 4), torch.ones(4), 0.5, PLIF_NEURON)
    assert (spikes.shape, rest.tolist()) == ((0, 4), [1, 1, 1, 1])
    spikes, rest = lif(torch.tensor([[3.0, 0.5]], dtype=torch.bfloat16), None, 0.5, PLIF_NEURON)
    assert (spikes.dtype, spikes.tolist()) == (torch.bfloat16, [[1, 0]])
    assert (rest.dtype, rest.tolist()) == (torch.float32, [0, 0.25])


def test_a_state_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"LIF: the state has shape \(2,\), the input needs \(3,\)"):
        lif(torch.zeros(4, 3), torch.zeros(2), 0.5, PLIF_NEURON)


def test_tau_learns_through_detached_states():
    # a target that fires half as often needs another tau; the state is cut after every window, as in training
    layer = PLIF(LIFSettings(tau=2.0, learn_tau=True))
    assert layer.w.item() == 0
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.05)
    x = torch.full((6, 1, 1, 1), 1.2)
    state, before = None, []
    for _ in range(12):
        flow = StateFlow(6, state)
        loss = (layer(x, flow).mean() - 0.1) ** 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state = tuple(s.detach() for s in flow.finish())
        before.append(layer.tau)
    assert layer.w.requires_grad
    assert before == sorted(before)
    assert layer.tau > 2.3
    assert sum(p.numel() for p in LIF(LIFSettings()).parameters()) == 0


def test_initial_w():
    assert PLIF(LIFSettings(tau=5.0, learn_tau=True)).w.item() == pytest.approx(-math.log(4))
    assert PLIF(LIFSettings(tau=5.0, learn_tau=True)).rate().item() == pytest.approx(0.2)
