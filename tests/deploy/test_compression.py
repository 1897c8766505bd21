"""Compression: multiples of the first row, and what the commands say before any work is done."""

from dataclasses import replace

import pytest
import torch
from exported import spikeyolo
from networks import events

from spiketrack.compression import FORMS, CompressionSettings, Row, compression_values, energy_mj, forms_of
from spiketrack.deploy import fuse
from spiketrack.deploy.integers import in_integers
from spiketrack.errors import SettingsError
from spiketrack.report.compression import HEAD, compression_row, write_compression

PARTS = {"weights int8": 900_001, "constants": 99_999}


def rows():
    return [
        Row("as trained", "a.pt", 4_000_000, {"weights": 4_000_000}, 1_000_000, 7 * 10**8, 0.5, 50.0, 0.15, 0.4, 0.2),
        Row("int8 <b>", "b.onnx", 1_000_000, PARTS, 2_000_000, 11 * 10**8, 0.25, 20.0, 0.14, 0.39, 0.21),
    ]


def test_multiples_are_of_the_first_row(tmp_path):
    values = compression_values(rows())
    assert [(v["smaller"], v["faster"]) for v in values] == [(1, 1), (4, 2.5)]
    cells = dict(zip(HEAD, compression_row(values[1]), strict=True))
    assert (cells["MB"], cells["smaller"], cells["GMAC"], cells["mAP50"]) == ("1.00", "4.00x", "1.100", "0.390")
    assert (cells["mJ"], cells["CPU ms"], cells["faster"]) == ("0.250", "20.0", "2.50x")
    page = write_compression(tmp_path, values, title="t", facts={"data": "d"}).read_text()
    assert "int8 &lt;b&gt;" in page
    assert "4.00x" in page
    assert "900,001" in page  # where the bytes go


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("export", "none.pt"), "none.pt: no such checkpoint"),
        (("compress", "none.pt", "data", "--out", "o", "--prune", "1"), r"expected --prune in [0, 1)"),
        (("compress", "none.pt", "data", "--out", "o", "--size", "8x8"), "--size 8x8: expected WIDTHxHEIGHT"),
        (("compress", "none.pt", "data", "--out", "o", "--forms", "int4"), "--forms int4: expected some of as trained"),
        (
            ("track", "none.raw", "--weights", "n.onnx", "--runtime", "torch"),
            "n.onnx: torch does not run an .onnx file",
        ),
        (("track", "none.raw", "--weights", "n.onnx"), "n.onnx: no such ONNX file"),
        (("track", "none.raw", "--weights", "n.onnx", "--device", "cuda"), "onnxruntime runs on the CPU here"),
    ],
)
def test_mistakes_are_one_line(run, arguments, said):
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert said in err


def test_a_quantised_network_has_two_forms():
    settings = CompressionSettings((64, 64))
    assert forms_of(spikeyolo(), settings) == FORMS
    network = in_integers(spikeyolo().model, 8, 10, [events(1)])
    assert forms_of(replace(spikeyolo(), model=network), settings) == ("as trained", "int8")


def test_energy_is_that_of_the_steps_looked_at():
    """4.6 pJ for every multiply-accumulate of the first layer; nothing else where no event makes a neuron fire."""
    network = fuse(spikeyolo().model)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.bias.zero_()  # no current without events
    quiet = events(3).mul(0).numpy()
    first = network.stem.conv
    macs = first.weight.numel() * 16 * 16  # 64 x 64, stride 4
    assert energy_mj(network, [quiet]) == pytest.approx(4.6e-9 * macs)
    assert energy_mj(network, [events(3).numpy()]) > 1.1 * 4.6e-9 * macs
    with pytest.raises(SettingsError, match="hold no events"):
        energy_mj(network, [quiet[:0]])
