"""The Triton kernels against the plain loops, run by test_lif_triton.py: on a GPU, else under Triton's interpreter.

TRITON_INTERPRET=1 pytest tests/spiking/triton_checks.py
"""

import pytest
import torch
from test_lif import VARIANTS

from spiketrack.spiking import ILIFSettings, LIFSettings, lif_triton
from spiketrack.spiking.lif import PLIF_NEURON, lif, lif_loop
from spiketrack.spiking.neurons import COCO_NEURON, GEN1_NEURON, _StepwiseILIF, ilif
from spiketrack.spiking.slabs import as_slabs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = DEVICE == "cpu"
HALVES = (torch.float16, torch.bfloat16)
# a program has 512 neurons, of 9 and more steps 256; more than 16 steps are cut; rows of odd length are not aligned
SHORT = [(1, (6, 7, 29)), (2, (1,)), (3, (127,)), (4, (513,)), (5, (0, 4)), (6, (2, 16, 16)), (7, (1025,)), (8, (5, 7))]
LONG = [(9, (257,)), (16, (255,)), (33, (2, 5))]


def random(*shape, dtype, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale + 0.4).to(DEVICE, dtype)


def results(neuron, x, state, rate=None, *, of="both"):
    """Spikes, the state left, and the gradients of x, state and rate of a loss of spikes, of the state, or of both."""
    leaves = [None if v is None else v.detach().requires_grad_() for v in (x, state, rate)]
    spikes, rest = neuron(*(leaves if rate is not None else leaves[:2]))
    loss = torch.zeros((), dtype=torch.float64, device=DEVICE)
    if of != "state":
        loss = loss + (spikes.double() * random(*x.shape, dtype=torch.float64, seed=9)).sum()
    if of != "spikes":
        loss = loss + (rest.double() ** 2).sum()
    return spikes, rest, *torch.autograd.grad(loss, [leaf for leaf in leaves if leaf is not None])


def assert_same(ours, wanted, **tolerance):
    for a, b in zip(ours, wanted, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, **tolerance)


def fused(settings):
    return lambda x, state, rate: lif_triton.lif(x, state, rate, settings)


def looped(settings):
    """The plain loop; of half precision in float32."""

    def run(x, state, rate):
        spikes, rest = lif_loop(x.to(torch.promote_types(x.dtype, torch.float32)), state, rate, settings)
        return spikes.to(x.dtype), rest

    return run


def fused_integer(settings):
    return lambda x, state: lif_triton.ilif(x, state, settings)


def stepwise(settings):
    return lambda x, state: _StepwiseILIF.apply(x, state, settings.levels, settings.decay, settings.gain)


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_every_setting_of_lif_in_float64(settings):
    x, rate = random(5, 2, 3, 7, 13, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64, device=DEVICE)
    states = random(2, 3, 7, 13, dtype=torch.float64, scale=1, seed=1), None
    for state in states if settings in VARIANTS[::5] else states[:1]:
        ours, wanted = results(fused(settings), x, state, rate), results(looped(settings), x, state, rate)
        assert 0.1 < float(wanted[0].detach().mean()) < 0.9
        assert_same(ours, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("steps", "shape"), SHORT + LONG, ids=str)
def test_every_size_in_float64(steps, shape):
    x, state = (random(*s, dtype=torch.float64, seed=steps) for s in ((steps, *shape), shape))
    rate = torch.tensor(0.4, dtype=torch.float64, device=DEVICE)
    assert_same(results(fused(PLIF_NEURON), x, state, rate), results(looped(PLIF_NEURON), x, state, rate),
                rtol=1e-11, atol=1e-12)  # fmt: skip
    both = (results(neuron(GEN1_NEURON), x, state) for neuron in (fused_integer, stepwise))
    assert_same(*both, rtol=0, atol=0)


@pytest.mark.parametrize("settings", VARIANTS[::3], ids=str)
def test_lif_in_float32_fires_as_the_loop_does(settings):
    x, state = random(4, 3000, dtype=torch.float32), random(3000, dtype=torch.float32, seed=1)
    rate = torch.tensor(0.3, device=DEVICE)
    ours, loop = results(fused(settings), x, state, rate), looped(settings)
    assert_same(ours[:2], results(loop, x, state, rate)[:2], rtol=0, atol=0)
    exact = results(loop, x.double(), state.double(), rate.double())
    assert_same(ours[2:4], [grad.float() for grad in exact[2:4]], rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(ours[4], exact[4].float(), rtol=2e-5, atol=1e-4)  # a sum of thousands of both signs


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_lif_in_half_precision_computes_in_float32(dtype):
    x, state = random(4, 700, dtype=dtype), random(700, dtype=torch.float32, seed=1)
    rate = torch.tensor(0.3, device=DEVICE)
    ours, wanted = results(fused(PLIF_NEURON), x, state, rate), results(looped(PLIF_NEURON), x, state, rate)
    assert (ours[0].dtype, ours[1].dtype, ours[2].dtype) == (dtype, torch.float32, dtype)
    assert_same(ours[:2], wanted[:2], rtol=0, atol=0)
    assert_same(ours[2:3], wanted[2:3], rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
    assert_same(ours[3:], wanted[3:], rtol=2e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("settings", "with_state"),
    [(COCO_NEURON, True), (GEN1_NEURON, False), (ILIFSettings(levels=1, decay=0.0, gain=2.0), True)],
    ids=str,
)
def test_ilif_to_the_bit_in_every_precision(dtype, settings, with_state):
    x = random(5, 900, dtype=dtype, scale=3)
    x[:, :7] = torch.tensor([0.0, -0.0, 0.5, 1.5, 2.5, settings.levels, float("nan")], dtype=dtype)
    x[:, 7] = torch.tensor([8200.0, 2.5, 2.5, 2.5, 2.5], dtype=dtype)  # float16 rounds what 4 spikes leave of it
    state = random(900, dtype=dtype, seed=1) if with_state else None
    truncates = INTERPRETED and dtype == torch.bfloat16  # the interpreter, where it should round
    if truncates:
        # two steps of currents and states in halves below 6: membranes of 8 bits at most
        x, state = ((v * 2).round().clamp(-11, 11) / 2 if v is not None else None for v in (x[:2], state))
        x = x / settings.gain
    ours, wanted = (results(neuron(settings), x, state) for neuron in (fused_integer, stepwise))
    assert ours[1].dtype == dtype
    assert_same(ours[:2], wanted[:2], rtol=0, atol=0)
    tolerance = 2 * torch.finfo(dtype).eps if truncates else 0
    assert_same(ours[2:], wanted[2:], rtol=tolerance, atol=tolerance)
    assert set(ours[0][:, 8:].unique().tolist()) == set(range(settings.levels + 1))


def test_ilif_of_a_decay_that_is_no_power_of_two():
    settings = ILIFSettings(levels=255, decay=0.3, gain=1.7)
    x, state = random(6, 600, dtype=torch.float64, scale=40), random(600, dtype=torch.float64, seed=1)
    both = (results(neuron(settings), x, state) for neuron in (fused_integer, stepwise))
    assert_same(*both, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("of", ["spikes", "state"])
def test_a_gradient_that_is_missing_is_zero(of):
    x, state = random(3, 200, dtype=torch.float64), random(200, dtype=torch.float64, seed=1)
    rate = torch.tensor(0.3, dtype=torch.float64, device=DEVICE)
    both = (results(neuron(PLIF_NEURON), x, state, rate, of=of) for neuron in (fused, looped))
    assert_same(*both, rtol=1e-12, atol=1e-13)
    both = (results(neuron(COCO_NEURON), x, state, of=of) for neuron in (fused_integer, stepwise))
    assert_same(*both, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_fixed_rate_is_the_number_that_was_given(dtype):
    # 0.3 has no float32: had it been rounded on the way, float64 would not agree to 1e-12
    x, state = random(3, 200, dtype=dtype), random(200, dtype=dtype, seed=1)
    both = (results(lambda x, state, f=f: f(LIFSettings())(x, state, 0.3), x, state) for f in (fused, looped))
    assert_same(*both, rtol=1e-12 if dtype == torch.float64 else 2e-5, atol=1e-13 if dtype == torch.float64 else 2e-6)


@pytest.mark.parametrize("layout", ["channels last", "a slice", "expanded", "transposed"])
def test_the_order_of_memory_does_not_matter(layout):
    x, state = random(4, 2, 3, 5, 4, dtype=torch.float64), random(2, 3, 5, 4, dtype=torch.float64, seed=1)
    rate = torch.tensor(0.3, dtype=torch.float64, device=DEVICE)
    if layout == "channels last":
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (4, 2))
    elif layout == "a slice":
        x, state = torch.cat([x, x])[2:6, :, :, 1:4], state[:, :, 1:4]
    elif layout == "expanded":
        x, state = x[:1].expand(4, -1, -1, -1, -1), state[:, :1].expand(-1, 3, -1, -1)
    else:
        x, state = x.transpose(0, 1).contiguous().transpose(0, 1), state.transpose(1, 3).contiguous().transpose(1, 3)
    before = x.clone(), state.clone()
    ours = results(fused(PLIF_NEURON), x, state, rate)
    assert_same(ours, results(looped(PLIF_NEURON), x, state, rate), rtol=1e-12, atol=1e-13)
    both = (results(neuron(COCO_NEURON), x, state) for neuron in (fused_integer, stepwise))
    assert_same(*both, rtol=0, atol=0)
    if as_slabs(x) is x:
        assert ours[0].stride() == x.stride()
    assert torch.equal(x, before[0])
    assert torch.equal(state, before[1])


@pytest.mark.parametrize("name", ["LIF", "I-LIF"])
def test_a_sequence_equals_its_pieces(name):
    def run(x, state, cuts):
        pieces = []
        for part in x.split(cuts):
            spikes, state = (
                lif_triton.lif(part, state, 0.3, LIFSettings())
                if name == "LIF"
                else lif_triton.ilif(part, state, COCO_NEURON)
            )
            pieces.append(spikes)
        return torch.cat(pieces), state

    x, state = random(7, 300, dtype=torch.float32), random(300, dtype=torch.float32, seed=1)
    whole, pieces = (results(lambda x, state, c=c: run(x, state, c), x, state) for c in ([7], [1, 3, 2, 1]))
    assert_same(pieces, whole, rtol=0, atol=0)


def test_no_steps_hand_the_state_on():
    spikes, rest = lif_triton.ilif(torch.zeros(0, 4, device=DEVICE), torch.arange(4.0, device=DEVICE), COCO_NEURON)
    assert (spikes.shape, rest.tolist()) == ((0, 4), [0, 1, 2, 3])


def test_a_network_takes_the_kernels_and_gives_the_same(monkeypatch):
    calls = []
    for name in ("lif", "neurons"):
        monkeypatch.setattr(f"spiketrack.spiking.{name}.way_of", lambda x: calls.append(x.shape) or "triton")
    x, state = random(3, 50, dtype=torch.float64), random(50, dtype=torch.float64, seed=1)
    rate = torch.tensor(0.3, dtype=torch.float64, device=DEVICE)
    assert_same(
        results(lambda *inputs: lif(*inputs, PLIF_NEURON), x, state, rate),
        results(looped(PLIF_NEURON), x, state, rate),
        rtol=1e-12,
        atol=1e-13,
    )
    both = (results(neuron, x, state) for neuron in (lambda *i: ilif(*i, COCO_NEURON), stepwise(COCO_NEURON)))
    assert_same(*both, rtol=0, atol=0)
    assert calls == [x.shape] * 2
