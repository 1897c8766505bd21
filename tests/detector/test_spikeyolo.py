import pytest
import torch

from spiketrack.detector.catalogue import catalogue, dense_macs
from spiketrack.detector.spikeyolo import ModelSettings, SpikeYOLO, count_parameters, locations


@pytest.fixture(scope="module")
def pico():
    torch.manual_seed(0)
    model = SpikeYOLO(ModelSettings(scale="p"), in_channels=2, num_classes=3)
    x = torch.rand(3, 4, 2, 64, 96, generator=torch.Generator().manual_seed(1)) * 3
    for _ in range(20):  # running statistics that spike
        model(x)
    return model.eval()


@pytest.mark.parametrize(
    ("scale", "coco", "two_classes"),
    [
        ("n", 13_271_632, 13_248_934),
        ("s", 23_153_024, 23_122_838),
        ("m", 47_841_856, 47_804_182),
        ("l", 68_478_400, 68_433_238),
    ],
)
def test_published_parameter_counts(scale, coco, two_classes):
    with torch.device("meta"):
        assert count_parameters(SpikeYOLO(ModelSettings(scale=scale), 3, 80)) == coco
        assert count_parameters(SpikeYOLO(ModelSettings(scale=scale), 3, 2)) == two_classes


def test_published_parameters_of_every_layer_of_scale_s():
    with torch.device("meta"):
        model = SpikeYOLO(ModelSettings(scale="s"), 3, 80)
    counts = [sum(p.numel() for p in child.parameters()) for child in model.children()]
    assert counts == [
        *(9_600, 319_680, 74_112, 2_523_904, 295_680, 4_071_168, 1_181_184, 3_492_864, 656_896),
        *(131_584, 1_357_056, 65_792, 1_261_952, 33_024, 1_261_952, 147_712, 1_357_056, 590_336, 2_174_464),
        2_147_008 - 16,  # the DFL's constants are no parameters here
    ]


def test_pico_has_about_a_million_parameters():
    entry = next(entry for entry in catalogue() if entry.name == "SpikeYOLO-p")
    assert 900_000 < entry.parameters < 1_000_000


def test_dense_operations_of_the_stem_by_hand(pico):
    # k7 s4 p2, 2 -> 16 channels on 64 x 96 gives 16 x 24
    whole = dense_macs(pico, 2, 64, 96)
    stem = pico.stem
    pico.stem = torch.nn.Identity()
    try:
        pico.stem.forward = lambda x, flow: torch.zeros(1, 16, 16, 24)
        assert whole - dense_macs(pico, 2, 64, 96) == 16 * 24 * 16 * 2 * 49
    finally:
        pico.stem = stem


def test_a_sequence_equals_its_pieces(pico):
    x = torch.rand(5, 2, 2, 64, 96, generator=torch.Generator().manual_seed(2)) * 3
    with torch.no_grad():
        whole, end = pico(x)
        first, state = pico(x[:2])
        second, state = pico(x[2:], state)
    torch.testing.assert_close(torch.cat([first.features, second.features]), whole.features, rtol=1e-4, atol=1e-4)
    for ours, expected in zip(state, end, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_time_flows_forward_and_state_matters(pico):
    x = torch.rand(3, 1, 2, 64, 96, generator=torch.Generator().manual_seed(3)) * 3
    changed = x.clone()
    changed[1] = 0
    with torch.no_grad():
        before, _ = pico(x)
        after, _ = pico(changed)
    difference = (before.features - after.features).abs().amax(dim=(1, 2, 3))
    assert difference[0] == 0
    assert difference[1] > 1e-3
    assert difference[2] > 1e-3


def test_every_location_belongs_to_a_cell(pico):
    with torch.no_grad():
        predictions, _ = pico(torch.zeros(1, 1, 2, 72, 104))
    # 72 x 104: stem k7 s4 p2 gives 18 x 26, then 9 x 13, 5 x 7, 3 x 4
    assert predictions.features.shape == (1, 1, 9 * 13 + 5 * 7 + 3 * 4, 4 * 16 + 3)
    points, strides = locations([(1, 2), (1, 1), (1, 1)], torch.device("cpu"))
    assert points.tolist() == [[4, 4], [12, 4], [8, 8], [16, 16]]
    assert strides.tolist() == [8, 8, 16, 32]


@pytest.mark.parametrize("shape", [(1, 2, 64, 64), (1, 1, 3, 64, 64), (1, 1, 2, 16, 64)])
def test_unfitting_input_is_refused(pico, shape):
    with pytest.raises(ValueError, match=r"expected input \(T, B, 2, H, W\)"):
        pico(torch.zeros(shape))


def test_a_state_of_another_size_or_network_is_refused(pico):
    x = torch.zeros(1, 1, 2, 64, 96)
    with torch.no_grad():
        _, state = pico(x)
        with pytest.raises(ValueError, match="state has shape"):
            pico(torch.zeros(1, 2, 2, 64, 96), state)
        with pytest.raises(ValueError, match="neuron layers given"):
            pico(x, state[:-1])
