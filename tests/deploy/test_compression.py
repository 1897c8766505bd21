"""Compression: multiples of the first row, and what the commands say before any work is done."""

import pytest

from spiketrack.compression import Row, compression_values
from spiketrack.report.compression import HEAD, compression_row, write_compression


def rows():
    return [
        Row("as trained", "a.pt", 4_000_000, 1_000_000, 7 * 10**8, 50.0, 0.15, 0.4, 0.2),
        Row("int8 <b>", "b.onnx", 1_000_000, 2_000_000, 11 * 10**8, 20.0, 0.14, 0.39, 0.21),
    ]


def test_multiples_are_of_the_first_row(tmp_path):
    values = compression_values(rows())
    assert [(v["smaller"], v["faster"]) for v in values] == [(1, 1), (4, 2.5)]
    cells = dict(zip(HEAD, compression_row(values[1]), strict=True))
    assert (cells["MB"], cells["smaller"], cells["GMAC"], cells["mAP50"]) == ("1.00", "4.00x", "1.100", "0.390")
    page = write_compression(tmp_path, values, title="t", facts={"data": "d"}).read_text()
    assert "int8 &lt;b&gt;" in page
    assert "4.00x" in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("export", "none.pt"), "none.pt: no such checkpoint"),
        (("compress", "none.pt", "data", "--out", "o", "--prune", "1"), r"expected --prune in [0, 1)"),
        (("compress", "none.pt", "data", "--out", "o", "--size", "8x8"), "--size 8x8: expected WIDTHxHEIGHT"),
    ],
)
def test_mistakes_are_one_line(run, arguments, said):
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert said in err
