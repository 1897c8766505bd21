import copy

import pytest
import torch

from spiketrack.detector.catalogue import _classifier_entries, _ssd_entries, count_operations
from spiketrack.detector.rescat import RESCAT_CFGS, ResCatSNN
from spiketrack.detector.ssd import SSD, SSDSettings, build_backbone
from spiketrack.detector.st_vgg import STVGG, parse_cfg
from spiketrack.errors import SettingsError
from spiketrack.spiking import PLIF
from spiketrack.spiking.lif import PLIF_NEURON

# facts/models.md, A.8: name, cfg, parameters, without classifier, MACs with 2 and with 4 input channels, neurons
CLASSIFICATION = [
    ("16-ST-VGG", "16,32,32,32s2,32,64s2,64,64s2", 125_740, 125_484, 5_882_368, 6_013_440, 26_880),
    ("32-ST-VGG", "32,64,64,64s2,64,128s2,128,128s2", 500_300, 499_788, 23_266_304, 23_528_448, 53_760),
    ("64-ST-VGG", "64,128,128,128s2,128,256s2,256,256s2", 1_995_916, 1_994_892, 92_538_880, 93_063_168, 107_520),
    ("16-ResCat-SNN", "16,32,32,64,64", 216_783, 216_399, 7_648_000, 7_779_072, 30_080),
    ("32-ResCat-SNN", "32,64,64,128,128", 863_119, 862_351, 30_328_320, 30_590_464, 60_160),
    ("64-ResCat-SNN", "64,128,128,256,256", 3_444_495, 3_442_959, 120_785_920, 121_310_208, 120_320),
]
# name, parameters, without classifier, conv MACs, MACs + neurons, parameters of extras and of heads
DETECTION = [
    ("16-ST-VGG", 642_351, 642_095, 124_246_272, 124_729_216, 369_283, 147_328),
    ("32-ST-VGG", 1_139_791, 1_139_279, 451_779_072, 452_741_376, 443_139, 196_352),
    ("64-ST-VGG", 2_881_167, 2_880_143, 1_723_395_072, 1_725_316_096, 590_851, 294_400),
    ("16-ResCat-SNN", 794_834, 794_450, 164_341_632, 164_881_856, 406_211, 171_840),
    ("32-ResCat-SNN", 1_625_490, 1_624_722, 595_237_632, 596_314_496, 516_995, 245_376),
    ("64-ResCat-SNN", 4_575_506, 4_573_970, 2_263_383_552, 2_265_533_696, 738_563, 392_448),
]


def settle(model, x):
    """Running statistics with which the neurons fire."""
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.momentum = 0.5
    for _ in range(12):
        model(x)
    return model.eval()


def size(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("row", CLASSIFICATION, ids=lambda row: row[0])
def test_classification_table(row):
    name, cfg, parameters, without, macs_2, macs_4, neurons = row
    with torch.device("meta"):
        for design in (name, cfg):
            model = build_backbone(design, 2, 2, PLIF_NEURON)
            assert (size(model), size(model) - size(model.classifier)) == (parameters, without)
            assert count_operations(model, 2, 64, 64) == (macs_2, neurons)
        assert count_operations(build_backbone(name, 4, 2, PLIF_NEURON), 4, 64, 64) == (macs_4, neurons)


@pytest.mark.parametrize("row", DETECTION, ids=lambda row: row[0])
def test_detection_table(row):
    name, parameters, without, macs, with_neurons, extras, heads = row
    with torch.device("meta"):
        model = SSD(SSDSettings(backbone=name), 2, 2)
        operations = count_operations(model, 2, 240, 304)
    assert (size(model), size(model) - size(model.backbone.classifier)) == (parameters, without)
    assert (operations.macs, operations.macs + operations.neurons) == (macs, with_neurons)
    assert (size(model.extras), size(model.head)) == (extras, heads)


def test_the_catalogue_names_its_counting_rules():
    with torch.device("meta"):  # the part of the catalogue that is quickly built
        entries = {entry.name: entry for entry in [*_classifier_entries(), *_ssd_entries()]}
    for name, _, *_ in CLASSIFICATION:
        entry, detector = entries[name], entries[f"{name}+SSD"]
        assert entry.published_parameters_rule == "parameters_without_classifier"
        assert detector.published_operations_rule == "macs_and_neurons"
        for rule in (detector.published_parameters_rule, detector.published_operations_rule):
            assert getattr(detector, rule) > 0
    entry, detector = entries["32-ST-VGG"], entries["32-ST-VGG+SSD"]
    assert (entry.published_operations_rule, entries["16-ST-VGG"].published_operations_rule) == (
        "macs",
        "macs at 4 channels",
    )
    assert (entry.parameters, entry.parameters_without_classifier, entry.macs) == (500_300, 499_788, 23_266_304)
    assert entry.macs_and_neurons == 23_266_304 + 53_760
    assert (detector.parameters, detector.macs_and_neurons) == (1_139_791, 452_741_376)


@pytest.mark.parametrize(
    ("build", "plifs", "channels"), [(STVGG, 8, (32, 64, 64)), (ResCatSNN, 11, (48, 96, 96))], ids=["vgg", "rescat"]
)
def test_maps_of_three_strides_and_summed_logits(build, plifs, channels):
    torch.manual_seed(0)
    model = build("16-ST-VGG" if build is STVGG else "16-ResCat-SNN", num_classes=3)
    x = (torch.rand(2, 3, 2, 64, 96) < 0.3).float()
    settle(model, x)
    assert sum(isinstance(module, PLIF) for module in model.modules()) == plifs
    with torch.no_grad():
        maps, state = model.maps(x)
        logits, same = model(x)
    assert [tuple(m.shape) for m in maps] == [
        (6, c, 64 // s, 96 // s) for c, s in zip(channels, (8, 16, 32), strict=True)
    ]
    assert model.map_channels == channels
    assert len(state) == len(same) == plifs
    for spikes in maps:
        assert set(spikes.unique().tolist()) == {0, 1}
    # no neuron after the classifier, and a sum over places, not a mean
    places = model.classifier(maps[-1])
    torch.testing.assert_close(logits, torch.stack([places[:3].sum((2, 3)), places[3:].sum((2, 3))]))


@pytest.mark.parametrize("design", ["16-ST-VGG", RESCAT_CFGS["16-ResCat-SNN"]])
def test_a_sequence_equals_its_pieces_and_everything_learns(design):
    torch.manual_seed(1)
    model = build_backbone(design, 2, 2, PLIF_NEURON).double()
    x = (torch.rand(5, 2, 2, 64, 64) < 0.4).double()
    logits, _ = model(x)
    logits.square().sum().backward()
    lazy = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert lazy == []
    assert all(module.w.grad.item() != 0 for module in model.modules() if isinstance(module, PLIF))
    settle(model, x)
    with torch.no_grad():
        assert model.maps(x)[0][-1].any()
        whole, end = model(x)
        first, state = model(x[:2])
        second, state = model(x[2:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    for ours, expected in zip(state, end, strict=True):
        torch.testing.assert_close(ours, expected)
    with pytest.raises(ValueError, match="neuron layers given"):
        model(x, state[:-1])


@pytest.mark.parametrize("backbone", ["16-ST-VGG", "16-ResCat-SNN"])
def test_recomputed_activations_give_the_same_gradients_norms_and_state(backbone):
    torch.manual_seed(0)
    plain = SSD(SSDSettings(backbone=backbone, extras=(8, 8, 8)), 2, 2).train()
    again = copy.deepcopy(plain)
    again.recompute = True
    windows = (torch.rand(2, 2, 2, 2, 64, 64) < 0.4).float()
    results = []
    for model in (plain, again):
        state = None
        for x in windows:  # gradients reach back over both windows
            predictions, state = model(x, state)
        (predictions.logits.square().mean() + predictions.offsets.square().mean()).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        results.append((state, gradients, list(model.buffers())))
    assert len(results[0][1]) > 40
    for one, other in zip(*results, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_weights_of_the_classifier_fit_the_detector():
    torch.manual_seed(2)
    classifier = STVGG("16-ST-VGG")
    detector = SSD(SSDSettings(backbone="16-ST-VGG"), 2, 2)
    detector.backbone.load_state_dict(classifier.state_dict(), strict=True)
    x = (torch.rand(1, 1, 2, 64, 64) < 0.3).float()
    with torch.no_grad():
        ours, wanted = detector.eval().maps(x)[0], classifier.eval().maps(x)[0]
    for a, b in zip(ours, wanted, strict=False):
        torch.testing.assert_close(a.flatten(0, 1), b, rtol=0, atol=0)


def test_initial_weights_are_kaiming_normal():
    torch.manual_seed(3)
    layer = STVGG("64-ST-VGG").layers[5]
    weight = layer.norm_conv.conv.weight
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    "cfg", ["16,32s2,32s2", "16s2,32s2,32s2,32", "16,32x,32s2", "48-ST-VGG", "", "16,0,8s2,8s2,8s2"]
)
def test_a_cfg_that_is_none_is_refused(cfg):
    with pytest.raises(SettingsError, match=r"cfg .*s2"):
        parse_cfg(cfg)


@pytest.mark.parametrize("cfg", ["16,32,32,64", "16,32,32,64,65", "48-ResCat-SNN", "16,32,a,64,64"])
def test_a_residual_cfg_that_is_none_is_refused(cfg):
    with pytest.raises(SettingsError, match="five numbers of channels"):
        ResCatSNN(cfg)


@pytest.mark.parametrize("shape", [(1, 2, 64, 64), (1, 1, 3, 64, 64), (1, 1, 2, 16, 64)])
def test_unfitting_input_is_refused(shape):
    with torch.device("meta"), pytest.raises(ValueError, match=r"STVGG: expected input \(T, B, 2, H, W\)"):
        STVGG("16-ST-VGG")(torch.zeros(shape))
